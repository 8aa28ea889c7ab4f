//! The tasks that wait for the store, so that the node does not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::config::FleetSettings;
use crate::fleet::rollout::{RolloutAction, TaskFailure};
use crate::fleet::{FleetAction, FleetChange, FleetStore, FleetStoreError, FleetStoreResult, NodeName, OpId, StreamId};
use crate::fleet::{FleetKey, FleetValue};
use crate::record::FleetTenure;

/// When an operation is given up. Several fit into a lease, so that one without an answer does not end it.
const OPERATION_LIMIT: Duration = Duration::from_millis(400);

/// The limit of the question for the last second of a stream, after which the stream is watched in any case.
const LAST_SECOND_LIMIT: Duration = Duration::from_secs(1);

/// The pause after a connection or a watch that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Number of such pauses without a connection, after which the login is read again.
const LOST_AFTER: u32 = 2;

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
    /// The records of a stream whose preparation began end with this number.
    Prepared {
        stream: StreamId,
        sequence: u64,
    },
    /// The dead owner before of a stream that was taken over published it until then, nanoseconds since 1970-01-01 UTC.
    OwnerEnded {
        tenure: Arc<FleetTenure>,
        unix_ns: i64,
    },
    /// A task of a rollout has ended.
    PackTask(Box<RolloutAction>, Result<(), TaskFailure>),
    /// A write of a rollout has ended, with what the key has now, if that is known.
    PackWritten(FleetKey, Option<(FleetValue, u64)>),
    /// Since when no node has published a stream, nanoseconds since 1970-01-01 UTC.
    LastSecond {
        stream: StreamId,
        tenure: Arc<FleetTenure>,
        unix_ns: i64,
    },
}

type Events = mpsc::UnboundedSender<HostEvent>;

/// Connects to the store, and follows its changes. Does not return while the host exists.
pub(super) async fn follow(settings: FleetSettings, node: NodeName, login: Arc<Notify>, events: Events) {
    let mut store = loop {
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
    loop {
        if events.send(HostEvent::Connected(Box::new(store.clone()))).is_err() {
            return;
        }
        store = tokio::select! {
            () = watch(&store, &events) => return,
            new = reconnected(&store, &settings, &node, &login) => new,
        };
    }
}

/// Follows the changes of the store while the host exists.
async fn watch(store: &FleetStore, events: &Events) {
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

/// A new connection in place of `store`, with the login read again: on request, and when the connection was lost for a while, because a
/// password may have been replaced. Until there is one, the client of `store` continues to try with the login that it has.
async fn reconnected(store: &FleetStore, settings: &FleetSettings, node: &NodeName, login: &Notify) -> FleetStore {
    loop {
        let is_requested = tokio::select! {
            () = login.notified() => true,
            () = lost(store) => false,
        };
        match FleetStore::connect(settings, node).await {
            Ok(new) if is_requested || !store.is_connected() => {
                tracing::info!("fleet: connected to NATS with the login read again");
                return new;
            }
            Ok(_) => {}
            Err(e) if is_requested => {
                let text = touchline_core::redact::text(&e.to_string());
                tracing::error!("fleet: {text}; the former connection stays in use");
            }
            Err(e) => tracing::debug!("fleet: {e}"),
        }
    }
}

/// Returns when the connection was lost for a while.
async fn lost(store: &FleetStore) {
    let mut pauses = 0;
    while pauses < LOST_AFTER {
        sleep(RETRY).await;
        pauses = if store.is_connected() { 0 } else { pauses + 1 };
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
        let last = answer.ok().and_then(Result::ok).flatten();
        let unix_ns = last.map_or(otherwise, |last| last.until_ns);
        let _ = events.send(HostEvent::LastSecond { stream, tenure, unix_ns });
    });
}
