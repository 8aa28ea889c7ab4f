//! Recordings that this machine scores for a fleet. Without a fleet nothing of it is exported.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::Metrics;
use super::families::{counters, int_gauges};

pub(super) struct ArchiveFamilies {
    waiting: IntGaugeVec,
    working: IntGaugeVec,
    ended: IntCounterVec,
    set_aside: IntCounterVec,
    seconds: IntCounterVec,
}

impl ArchiveFamilies {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            waiting: int_gauges(
                r,
                "touchline_archive_waiting_parts",
                "Parts of recordings in the queue of this machine's pack that no machine has taken.",
                &[],
            ),
            working: int_gauges(
                r,
                "touchline_archive_parts",
                "Parts of recordings that this machine has: those that run, and those that are paused in favour of live streams.",
                &["state"],
            ),
            ended: counters(
                r,
                "touchline_archive_parts_total",
                "Parts of recordings that ended on this machine: done, failed, given back at its end, or taken over from a machine that was \
                 lost.",
                &["end"],
            ),
            set_aside: counters(
                r,
                "touchline_archive_set_aside_total",
                "Recordings that this machine set aside after the last try.",
                &[],
            ),
            seconds: counters(
                r,
                "touchline_archive_scored_seconds_total",
                "Seconds of recordings that this machine decided.",
                &[],
            ),
        }
    }
}

/// How the work on a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveEnd {
    /// Its result is durable.
    Done,
    /// It failed.
    Failed,
    /// The program ended.
    GivenBack,
    /// The machine that had it before was lost.
    Lost,
}

impl ArchiveEnd {
    const ALL: [ArchiveEnd; 4] = [ArchiveEnd::Done, ArchiveEnd::Failed, ArchiveEnd::GivenBack, ArchiveEnd::Lost];

    /// Value of the label `end`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ArchiveEnd::Done => "done",
            ArchiveEnd::Failed => "failed",
            ArchiveEnd::GivenBack => "given-back",
            ArchiveEnd::Lost => "lost",
        }
    }
}

/// The metrics of archives.
pub struct ArchiveMetrics<'a>(&'a ArchiveFamilies);

impl Metrics {
    /// The metrics of archives. They are exported from the first use on.
    pub fn archive(&self) -> ArchiveMetrics<'_> {
        ArchiveMetrics(&self.families.archive)
    }
}

/// The labels of a family without labels.
const NONE: [&str; 0] = [];

impl ArchiveMetrics<'_> {
    /// Exports all counters, starting at 0.
    pub fn start(&self) {
        self.0.set_aside.with_label_values(&NONE);
        self.0.seconds.with_label_values(&NONE);
        ArchiveEnd::ALL.iter().for_each(|end| drop(self.0.ended.with_label_values(&[end.as_str()])));
    }

    /// Sets the number of parts in the queue.
    pub fn waiting(&self, count: u64) {
        self.0.waiting.with_label_values(&NONE).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the numbers of parts that run and that are paused.
    pub fn working(&self, running: usize, paused: usize) {
        for (state, count) in [("running", running), ("paused", paused)] {
            self.0.working.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts the end of the work on a part.
    pub fn ended(&self, end: ArchiveEnd) {
        self.0.ended.with_label_values(&[end.as_str()]).inc();
    }

    /// Counts a recording that was set aside.
    pub fn set_aside(&self) {
        self.0.set_aside.with_label_values(&NONE).inc();
    }

    /// Counts seconds that were decided.
    pub fn decided(&self, seconds: u64) {
        self.0.seconds.with_label_values(&NONE).inc_by(seconds);
    }
}
