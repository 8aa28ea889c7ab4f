//! Streams that this machine took over while it prepared them, and what no machine published of them.
//!
//! A planned move loses no second: the owner before publishes until its successor does. If it dies meanwhile, the seconds between its last
//! one and the first one of the successor are lost. Whether it has died is known a few seconds later, when its session is fenced, and what
//! it published is in the records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::link::HostEvent;
use crate::fleet::{FleetNode, FleetStore, Holder, StreamId};
use crate::record::FleetTenure;

/// When the records are read: those that the owner before had published have arrived by then.
const AFTER_NS: u64 = 3_000_000_000;

/// How long an owner is observed. Its session is fenced sooner if it is dead.
const UNTIL_NS: u64 = 10_000_000_000;

/// The limit of a question.
const LIMIT: Duration = Duration::from_secs(5);

type Events = mpsc::UnboundedSender<HostEvent>;

/// A stream after its take-over.
struct TakenStream {
    tenure: Arc<FleetTenure>,
    before: Holder,
    since_ns: u64,
}

/// Take-overs of prepared streams.
#[derive(Default)]
pub(super) struct HandOvers {
    /// Number of the last record of each stream when its preparation began.
    prepared: BTreeMap<StreamId, u64>,
    taken: BTreeMap<StreamId, TakenStream>,
}

impl HandOvers {
    /// The preparation of a stream begins: notes where its records end.
    pub(super) fn prepare(&mut self, store: Option<&FleetStore>, stream: StreamId, events: &Events) {
        self.forget(&stream);
        let (Some(store), events) = (store.cloned(), events.clone()) else { return };
        tokio::spawn(async move {
            // Without an answer what may be lost is not known.
            if let Ok(Ok(last)) = timeout(LIMIT, store.last_second(&stream)).await {
                let sequence = last.map_or(1, |last| last.sequence);
                let _ = events.send(HostEvent::Prepared { stream, sequence });
            }
        });
    }

    /// The records of a stream ended there when its preparation began.
    pub(super) fn prepared(&mut self, stream: StreamId, sequence: u64) {
        self.prepared.insert(stream, sequence);
    }

    /// A prepared stream was taken over from `before`.
    pub(super) fn take(&mut self, stream: StreamId, tenure: Arc<FleetTenure>, before: Option<Holder>, now_ns: u64) {
        if let Some(before) = before {
            self.taken.insert(stream, TakenStream { tenure, before, since_ns: now_ns });
        }
    }

    /// The stream is not watched any more, or not prepared.
    pub(super) fn forget(&mut self, stream: &StreamId) {
        self.prepared.remove(stream);
        self.taken.remove(stream);
    }

    /// Reads the records of the owners before that are dead.
    pub(super) fn tick(&mut self, now_ns: u64, node: &FleetNode, store: Option<&FleetStore>, events: &Events) {
        let Some(store) = store else { return };
        let prepared = &mut self.prepared;
        self.taken.retain(|stream, TakenStream { tenure, before, since_ns }| {
            let age_ns = now_ns.saturating_sub(*since_ns);
            if age_ns < AFTER_NS || node.is_live(before) && age_ns < UNTIL_NS {
                return true;
            }
            let sequence = prepared.remove(stream);
            let (Some(sequence), Some(epoch), false) = (sequence, tenure.epoch(), node.is_live(before)) else {
                return false;
            };
            let (store, stream, tenure, events) = (store.clone(), stream.clone(), tenure.clone(), events.clone());
            tokio::spawn(async move {
                let last = timeout(LIMIT, store.last_second_before(&stream, sequence, epoch)).await;
                if let Ok(Ok(Some(unix_ns))) = last {
                    let _ = events.send(HostEvent::OwnerEnded { tenure, unix_ns });
                }
            });
            false
        });
    }
}
