//! The fleet, as this machine sees it. Without a fleet nothing of it is exported.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Registry};

use super::Metrics;
use super::families::{counters, gauges, int_gauges};

pub(super) struct FleetFamilies {
    may_publish: IntGaugeVec,
    nodes: IntGaugeVec,
    streams: IntGaugeVec,
    unwatched: IntGaugeVec,
    leases: IntGaugeVec,
    taken: IntCounterVec,
    unpublished: IntCounterVec,
    lost: IntCounterVec,
    rollout: IntGaugeVec,
    agreement: GaugeVec,
    rolled: IntGaugeVec,
    pack: IntGaugeVec,
}

impl FleetFamilies {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            may_publish: int_gauges(
                r,
                "touchline_fleet_may_publish",
                "1 while the fleet's store acknowledges the renewals of this machine, 0 while it must not publish.",
                &[],
            ),
            nodes: int_gauges(r, "touchline_fleet_nodes", "Machines of the fleet, by state.", &["state"]),
            streams: int_gauges(r, "touchline_fleet_streams", "Streams of the fleet.", &[]),
            unwatched: int_gauges(
                r,
                "touchline_fleet_unwatched_streams",
                "Streams of the fleet that no machine watches.",
                &[],
            ),
            leases: int_gauges(r, "touchline_fleet_leases", "Streams of the fleet that this machine watches.", &[]),
            taken: counters(
                r,
                "touchline_fleet_takeovers_total",
                "Streams that this machine took: nobody had watched them (first), another handed them over (planned), or the machine that \
                 watched them was lost (lost).",
                &["kind"],
            ),
            unpublished: counters(
                r,
                "touchline_fleet_unpublished_seconds_total",
                "Seconds that were decided and not published, because the store had not acknowledged this machine for too long.",
                &[],
            ),
            lost: counters(
                r,
                "touchline_fleet_lost_seconds_total",
                "Seconds for which no machine published a stream that this one took over.",
                &[],
            ),
            rollout: int_gauges(
                r,
                "touchline_fleet_rollout_stage",
                "1 for the stage of the last rollout of a pack, 0 for the others.",
                &["stage"],
            ),
            agreement: gauges(
                r,
                "touchline_fleet_rollout_agreement",
                "Share of the seconds on which both packs of the canary agree, while it compares.",
                &[],
            ),
            rolled: int_gauges(r, "touchline_fleet_rollout_nodes", "Machines that have the pack of the rollout.", &[]),
            pack: int_gauges(
                r,
                "touchline_fleet_pack_info",
                "1: the pack of the fleet that this machine runs, by its digest; the digest is empty for a pack of its own.",
                &["digest"],
            ),
        }
    }
}

/// How a machine came to watch a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// Nobody had watched it.
    First,
    /// Another machine handed it over.
    Planned,
    /// The machine that watched it was lost.
    Lost,
}

impl Takeover {
    const ALL: [Takeover; 3] = [Takeover::First, Takeover::Planned, Takeover::Lost];

    /// Value of the label `kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Takeover::First => "first",
            Takeover::Planned => "planned",
            Takeover::Lost => "lost",
        }
    }
}

/// The numbers of machines and streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleetCounts {
    /// Machines that take streams.
    pub active: usize,
    /// Machines that hand their streams over.
    pub draining: usize,
    /// Machines that were lost or have left.
    pub gone: usize,
    /// Streams of the fleet.
    pub streams: usize,
    /// Streams that no machine watches.
    pub unwatched: usize,
    /// Streams that this machine watches.
    pub leases: usize,
}

/// The last rollout of a pack.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutCounts {
    /// Its stage, of all stages.
    pub stage: Option<&'static str>,
    /// Share of the compared seconds with the same label.
    pub agreement: Option<f64>,
    /// Machines that have the pack.
    pub nodes: usize,
    /// Digest of the pack of the fleet that this machine runs; empty for a pack of its own.
    pub digest: String,
}

/// The metrics of the fleet.
pub struct FleetMetrics<'a>(&'a FleetFamilies);

impl Metrics {
    /// The metrics of the fleet. They are exported from the first use on.
    pub fn fleet(&self) -> FleetMetrics<'_> {
        FleetMetrics(&self.families.fleet)
    }
}

/// The labels of a family without labels.
const NONE: [&str; 0] = [];

impl FleetMetrics<'_> {
    /// Exports all counters, starting at 0.
    pub fn start(&self) {
        self.0.unpublished.with_label_values(&NONE);
        self.0.lost.with_label_values(&NONE);
        Takeover::ALL.iter().for_each(|kind| drop(self.0.taken.with_label_values(&[kind.as_str()])));
    }

    /// Sets whether this machine may publish.
    pub fn may_publish(&self, may: bool) {
        self.0.may_publish.with_label_values(&NONE).set(may.into());
    }

    /// Sets the numbers of machines and streams.
    pub fn counts(&self, counts: &FleetCounts) {
        let set = |family: &IntGaugeVec, labels: &[&str], count: usize| {
            family.with_label_values(labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set(&self.0.nodes, &["active"], counts.active);
        set(&self.0.nodes, &["draining"], counts.draining);
        set(&self.0.nodes, &["gone"], counts.gone);
        set(&self.0.streams, &NONE, counts.streams);
        set(&self.0.unwatched, &NONE, counts.unwatched);
        set(&self.0.leases, &NONE, counts.leases);
    }

    /// Sets the rollout; `stages` are the names of all stages.
    pub fn rollout(&self, stages: &[&'static str], counts: &RolloutCounts) {
        for stage in stages.iter().filter(|_| counts.stage.is_some()) {
            self.0.rollout.with_label_values(&[*stage]).set((counts.stage == Some(*stage)).into());
        }
        if counts.stage.is_none() {
            self.0.rollout.reset();
        }
        match counts.agreement {
            Some(agreement) => self.0.agreement.with_label_values(&NONE).set(agreement),
            None => self.0.agreement.reset(),
        }
        self.0.rolled.with_label_values(&NONE).set(i64::try_from(counts.nodes).unwrap_or(i64::MAX));
        self.0.pack.reset();
        self.0.pack.with_label_values(&[&counts.digest]).set(1);
    }

    /// Counts a stream that this machine took.
    pub fn took(&self, kind: Takeover) {
        self.0.taken.with_label_values(&[kind.as_str()]).inc();
    }

    /// Counts seconds that were decided and not published.
    pub fn unpublished(&self, seconds: u64) {
        self.0.unpublished.with_label_values(&NONE).inc_by(seconds);
    }

    /// Counts seconds for which no machine published a stream.
    pub fn lost(&self, seconds: u64) {
        self.0.lost.with_label_values(&NONE).inc_by(seconds);
    }
}
