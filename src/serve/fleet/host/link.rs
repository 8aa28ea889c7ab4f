//! The tasks that wait for the store, so that the node does not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::config::FleetSettings;
use crate::fleet::{FleetAction, FleetChange, FleetStore, FleetStoreError, FleetStoreResult, NodeName, OpId, StreamId};
use crate::record::FleetTenure;

/// When an operation is given up. Several fit into a lease, so that one without an answer does not end it.
const OPERATION_LIMIT: Duration = Duration::from_millis(400);

/// The limit of the question for the last second of a stream, after which the stream is watched in any case.
const LAST_SECOND_LIMIT: Duration = Duration::from_secs(1);

/// The pause after a connection or a watch that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Changes that wait for the node.
const CHANGES: usize = 1024;

/// News of the store.
pub(super) enum HostEvent {
    /// The store is there.
    Connected(Box<FleetStore>),
    /// The store cannot be used now: cause and advice.
    Trouble(String),
    Changed(FleetChange),
    Done(OpId, FleetStoreResult),
    /// Since when no node has published a stream, nanoseconds since 1970-01-01 UTC.
    LastSecond {
        stream: StreamId,
        tenure: Arc<FleetTenure>,
        unix_ns: i64,
    },
}

type Events = mpsc::UnboundedSender<HostEvent>;

/// Connects to the store, and follows its changes. Does not return while the host exists.
pub(super) async fn follow(settings: FleetSettings, node: NodeName, events: Events) {
    let store = loop {
        match FleetStore::connect(&settings, &node).await {
            Ok(store) => break store,
            Err(e) => {
                if events.send(HostEvent::Trouble(e.to_string())).is_err() {
                    return;
                }
                sleep(RETRY).await;
            }
        }
    };
    if events.send(HostEvent::Connected(Box::new(store.clone()))).is_err() {
        return;
    }
    loop {
        let (to, mut changes) = mpsc::channel(CHANGES);
        let forward = async {
            while let Some(change) = changes.recv().await {
                if events.send(HostEvent::Changed(change)).is_err() {
                    return;
                }
            }
        };
        let failure = tokio::select! {
            failure = store.watch(&to) => failure,
            () = forward => return,
        };
        if events.send(HostEvent::Trouble(failure.to_string())).is_err() {
            return;
        }
        sleep(RETRY).await;
    }
}

/// Performs an operation of the node. Its answer is an event.
pub(super) fn perform(store: Option<&FleetStore>, action: FleetAction, events: &Events) {
    let (store, events) = (store.cloned(), events.clone());
    tokio::spawn(async move {
        let (FleetAction::Read { op, .. } | FleetAction::Put { op, .. }) = action else { return };
        let answer = async {
            match (&store, action) {
                (Some(store), FleetAction::Read { key, .. }) => store.read(&key).await,
                (Some(store), FleetAction::Put { key, value, revision, .. }) => store.put(&key, &value, revision).await,
                _ => Err(FleetStoreError::Unavailable),
            }
        };
        let result = timeout(OPERATION_LIMIT, answer).await.unwrap_or(Err(FleetStoreError::Unavailable));
        // The host is gone only at the end.
        let _ = events.send(HostEvent::Done(op, result));
    });
}

/// Finds out since when a stream was not published. `otherwise` is the answer if its records do not tell.
pub(super) fn last_second(
    store: &FleetStore,
    stream: StreamId,
    tenure: Arc<FleetTenure>,
    otherwise: i64,
    events: &Events,
) {
    let (store, events) = (store.clone(), events.clone());
    tokio::spawn(async move {
        let answer = timeout(LAST_SECOND_LIMIT, store.last_second(&stream)).await;
        let unix_ns = answer.ok().and_then(Result::ok).flatten().unwrap_or(otherwise);
        let _ = events.send(HostEvent::LastSecond { stream, tenure, unix_ns });
    });
}
