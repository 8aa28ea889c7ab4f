//! How the simulated network behaves, what breaks, and what is published.

use std::collections::{BTreeMap, HashMap};

use crate::fleet::StreamId;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

/// How the network and the clocks behave.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Share of messages to and from the store that are lost.
    pub lost: f64,
    /// Share of messages that take up to three seconds.
    pub late: f64,
    /// Greatest difference of a clock's rate from 1.
    pub drift: f64,
}

#[derive(Clone, Debug)]
pub enum Fault {
    Kill(usize),
    /// Starts a killed node again, as another process.
    Restart(usize),
    /// Stops the process for this time, as SIGSTOP does.
    Pause(usize, u64),
    /// Cuts the node off from the store for this time.
    Partition(usize, u64),
    /// The store answers nobody for this time.
    StoreDown(u64),
    /// Requests the node to hand its streams over.
    Drain(usize),
    /// The process ends its session, and itself, without handing anything over.
    Resign(usize),
}

/// What was published.
#[derive(Default)]
pub struct Published {
    /// Seconds of each stream, with the highest epoch that published each.
    pub seconds: BTreeMap<StreamId, BTreeMap<u64, u64>>,
    /// The process of each epoch.
    pub publishers: HashMap<(StreamId, u64), (usize, u64)>,
    /// Records, with those that were published twice.
    pub records: u64,
}

/// A duration in milliseconds at `share` of a sorted list.
pub fn percentile(sorted: &[u64], share: f64) -> u64 {
    sorted.get(((sorted.len() as f64 - 1.0) * share).round() as usize).map_or(0, |ns| ns / MS)
}
