//! Prometheus metrics: all names, labels and buckets of the program.
//!
//! Names are `touchline_<noun>_<unit>[_total]` in base units. Every label has a bounded set of values: the stream's id
//! (never its URI, which may hold secrets), a class of the pack, a modality, a track, a stage, a reason. What belongs
//! to one stream is reached through [`StreamMetrics`], which resolves the labels once.
//!
//! Nothing is measured here: callers measure and report.

mod archive;
mod clips;
mod delivery;
mod families;
mod fleet;
mod frame_share;
mod health;
mod http;
mod labels;
mod output;
mod probes;
mod reloads;
mod shadow;
mod stream;
mod teach;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use prometheus::{IntGaugeVec, TextEncoder};

use families::Families;
use touchline_core::decision::PackStamp;
use touchline_core::labels::ClassSet;
use touchline_core::observer::{DeviceFault, Observer, Stage};

pub use archive::{ArchiveEnd, ArchiveMetrics};
pub use clips::ClipResult;
pub use delivery::{DeliveryMetrics, Loss};
pub use fleet::{FleetCounts, FleetMetrics, RolloutCounts, Takeover};
pub use health::PackHealth;
pub use http::HttpRefusal;
pub use labels::{StageThread, Viewer};
pub use output::OutputMetrics;
pub use probes::ProbeResult;
pub use shadow::{ShadowDrop, ShadowMetrics};
pub use stream::{STATES, StreamMetrics};
pub use teach::CorrectionResult;

/// Content type of [`Metrics::encode`]: Prometheus' text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of one process around a registry of their own. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    families: Arc<Families>,
}

impl Observer for Metrics {
    fn observe_stage(&self, stage: Stage, ns: u64) {
        self.families.stages[stage as usize].observe(nanos_to_seconds(ns));
    }

    fn device_fault(&self, fault: DeviceFault) {
        self.families.device_faults[fault as usize].inc();
        self.families.health.failed();
    }
}

impl Metrics {
    /// Registers every family. Families with labels appear in the text once a label value is known.
    pub fn new() -> Self {
        let families = Families::register();
        families.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self { families: Arc::new(families) }
    }

    /// Sets the running pack. Only the last one is exported.
    pub fn set_pack(&self, pack: &PackStamp) {
        only(&self.families.pack, pack);
    }

    /// Counts a pack update.
    pub fn pack_update(&self, applied: bool) {
        self.families.pack_updates[usize::from(!applied)].inc();
    }

    /// Sets the pack of the shadow.
    pub fn set_shadow(&self, pack: &PackStamp) {
        only(&self.families.shadow, pack);
    }

    /// There is no shadow any more.
    pub fn clear_shadow(&self) {
        self.families.shadow.reset();
    }

    /// Metrics of the shadow of one stream. All its counters are exported from now on, starting at 0.
    pub fn shadow_stream(&self, id: &str) -> ShadowMetrics {
        ShadowMetrics::new(&self.families, id)
    }

    /// The metrics of one stream, with their labels resolved. All counters of the stream are exported from now on,
    /// starting at 0, so that rates are right from the first increment.
    pub fn stream(&self, id: &str, classes: &ClassSet) -> StreamMetrics {
        StreamMetrics::new(&self.families, id, classes)
    }

    /// Removes the series of a stream.
    pub fn remove_stream(&self, stream: &StreamMetrics) {
        stream.remove(&self.families);
    }

    /// What tells whether the running pack does well.
    pub fn pack_health(&self) -> PackHealth {
        self.families.health.read()
    }

    /// Counts records that were not stored.
    pub fn store_lost(&self, count: u64) {
        self.families.store_lost.inc_by(count);
    }

    /// Counts a picture for a segment that was not made.
    pub fn poster_dropped(&self) {
        self.families.posters_dropped.inc();
    }

    /// Adds `by` viewers, or removes them if it is negative.
    pub fn viewers(&self, viewer: Viewer, by: i64) {
        self.families.viewers[viewer as usize].add(by);
    }

    /// Counts records that an output lost; `sink` is its name.
    pub fn sink_dropped(&self, sink: &str, count: u64) {
        self.families.sink_dropped.with_label_values(&[sink]).inc_by(count);
        if sink == "jsonl" {
            self.families.records_lost.inc_by(count);
        }
    }

    /// Runs `body`. A panic of it is counted and gives [`None`]; the panic hook prints its message.
    pub fn contain<T>(&self, stage: StageThread, body: impl FnOnce() -> T) -> Option<T> {
        // The callers use the state of `body` again only where any of its steps may fail anyway.
        catch_unwind(AssertUnwindSafe(body)).inspect_err(|_| self.panicked(stage)).ok()
    }

    /// Counts a contained panic.
    pub fn panicked(&self, stage: StageThread) {
        self.families.panics[stage as usize].inc();
        if matches!(stage, StageThread::Infer | StageThread::Shadow) {
            self.families.health.failed();
        }
    }

    /// Counts records that a subscriber was too slow for.
    pub fn records_skipped(&self, count: u64) {
        self.families.records_skipped.inc_by(count);
    }

    /// Everything in Prometheus' text format; see [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.families.registry.gather())
            .expect("families that registered have valid names and encode to UTF-8")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

pub(crate) fn nanos_to_seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Replaces the exported pack.
fn only(family: &IntGaugeVec, pack: &PackStamp) {
    family.reset();
    family.with_label_values(&[&pack.name, &pack.weights_sha256, &pack.manifest_sha256]).set(1);
}

#[cfg(test)]
mod tests;
