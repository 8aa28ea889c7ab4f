//! The metric families: their names, labels, help and buckets.

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::archive::ArchiveFamilies;
use super::clips::ClipFamilies;
use super::delivery::Deliveries;
use super::fleet::FleetFamilies;
use super::frame_share::FrameShares;
use super::health::HealthCounters;
use super::http;
use super::labels::{StageThread, Viewer};
use super::output::OutputFamilies;
use super::probes::probes;
use super::reloads::Reloads;
use super::teach::TeachFamilies;
use touchline_core::observer::{DeviceFault, Stage};

/// Upper bounds of the stage durations, seconds: from a table look-up (tens of microseconds) to more than a second,
/// where one stage alone is too slow for one stream.
const STAGE_BUCKETS_S: [f64; 14] =
    [0.000_05, 0.000_25, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 5.0];

/// Upper bounds of the decision latency, seconds. Fine below the target of 1.5 s for one stream on two cores, coarse
/// above.
const LATENCY_BUCKETS_S: [f64; 14] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];

/// Upper bounds of the shadow's mean absolute difference of probabilities. Two confident packs that disagree in a pack
/// of 24 classes differ by 2/24.
const DIFFERENCE_BUCKETS: [f64; 9] = [0.000_1, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5];

/// Labels of a pack.
const PACK_LABELS: [&str; 3] = ["pack", "weights_sha256", "manifest_sha256"];

/// The metric families, as registered.
pub(in crate::metrics) struct Families {
    pub(super) registry: Registry,
    pub(super) build: IntGaugeVec,
    pub(super) pack: IntGaugeVec,
    /// Applied, refused.
    pub(super) pack_updates: [IntCounter; 2],
    pub(super) shadow: IntGaugeVec,
    pub(super) shadow_seconds: IntCounterVec,
    pub(super) shadow_dropped: IntCounterVec,
    pub(super) shadow_difference: HistogramVec,
    pub(super) stages: Vec<Histogram>,
    pub(super) viewers: Vec<IntGauge>,
    pub(super) http_refused: Vec<IntCounter>,
    pub(super) http_connections: IntGauge,
    pub(super) thumbnails: IntCounter,
    pub(super) probes: Vec<IntCounter>,
    pub(super) reloads: Reloads,
    pub(super) archive: ArchiveFamilies,
    pub(super) fleet: FleetFamilies,
    pub(super) store_lost: IntCounter,
    pub(super) posters_dropped: IntCounter,
    pub(super) device_faults: Vec<IntCounter>,
    pub(super) frame_share: FrameShares,
    pub(super) records_lost: IntCounter,
    pub(super) sink_dropped: IntCounterVec,
    pub(super) deliveries: Deliveries,
    pub(super) panics: Vec<IntCounter>,
    pub(super) health: HealthCounters,
    pub(super) records_skipped: IntCounter,
    pub(super) up: IntGaugeVec,
    pub(super) classified: IntCounterVec,
    pub(super) unknown_seconds: IntCounterVec,
    pub(super) unknown: IntGaugeVec,
    pub(super) gapped: IntCounterVec,
    pub(super) lost: IntCounterVec,
    pub(super) faults: IntCounterVec,
    pub(super) abandoned: IntCounterVec,
    pub(super) frames: IntCounterVec,
    pub(super) converted: IntCounterVec,
    pub(super) left_out: IntCounterVec,
    pub(super) decoder_fallbacks: IntCounterVec,
    pub(super) clips: ClipFamilies,
    pub(super) teach: TeachFamilies,
    pub(super) outputs: OutputFamilies,
    pub(super) samples: IntCounterVec,
    pub(super) discarded: IntCounterVec,
    pub(super) dropped: IntCounterVec,
    pub(super) latency: HistogramVec,
    pub(super) probability: GaugeVec,
    pub(super) signal_seconds: IntCounterVec,
    pub(super) signal: IntGaugeVec,
    pub(super) unexpected: IntGaugeVec,
    pub(super) unexpected_times: IntCounterVec,
    pub(super) last_decision: GaugeVec,
    pub(super) reconnects: IntCounterVec,
    pub(super) backlog: IntGaugeVec,
    pub(super) runs: IntCounterVec,
    pub(super) incidents: IntCounterVec,
    pub(super) failures: IntCounterVec,
    pub(super) states: IntGaugeVec,
    pub(super) state_since: GaugeVec,
    pub(super) next_try: GaugeVec,
    pub(super) tracks: IntGaugeVec,
    pub(super) events: IntCounterVec,
    pub(super) decided: IntCounterVec,
}

impl Families {
    /// Registers every family.
    pub(super) fn register() -> Self {
        let registry = Registry::new();
        // Processor time, memory, open files and threads, under the standard names.
        registry.register(Box::new(ProcessCollector::for_self())).expect("a new registry has none of them");
        let r = &registry;
        let stage_family = histograms(
            r,
            "touchline_stage_duration_seconds",
            "Time one second of a stream spent in a stage, in seconds.",
            &["stage"],
            &STAGE_BUCKETS_S,
        );
        let viewer_family =
            int_gauges(r, "touchline_viewers", "Clients connected to the live records or the preview.", &["kind"]);
        let fault_family = counters(
            r,
            "touchline_device_faults_total",
            "Faults of a GPU: a batch that was split because it did not fit, a context that was recreated, a device that was abandoned.",
            &["kind"],
        );
        let update_family = counters(
            r,
            "touchline_pack_updates_total",
            "Updates of the pack of the running program; after a refused one the previous pack stays in use.",
            &["outcome"],
        );
        let panic_family = counters(
            r,
            "touchline_stage_panics_total",
            "Contained panics of a clip thread, inference, an output, a source, the shadow or a pack update. Each is a bug to report.",
            &["stage"],
        );
        Self {
            build: int_gauges(
                r,
                "touchline_build_info",
                "Always 1; the labels identify the running build.",
                &["version"],
            ),
            pack: int_gauges(
                r,
                "touchline_pack_info",
                "Always 1; the labels identify the running model pack.",
                &PACK_LABELS,
            ),
            pack_updates: ["applied", "refused"].map(|outcome| update_family.with_label_values(&[outcome])),
            shadow: int_gauges(
                r,
                "touchline_shadow_info",
                "Always 1; the labels identify the model pack of the shadow.",
                &PACK_LABELS,
            ),
            shadow_seconds: counters(
                r,
                "touchline_shadow_seconds_total",
                "Seconds that the shadow decided as well, by whether the labels agree.",
                &["stream", "agreement"],
            ),
            shadow_dropped: counters(
                r,
                "touchline_shadow_seconds_dropped_total",
                "Seconds that the shadow did not decide, by reason; \"overload\": the shadow was too slow.",
                &["stream", "reason"],
            ),
            shadow_difference: histograms(
                r,
                "touchline_shadow_probability_difference",
                "Mean over the classes of the absolute difference of the two packs' probabilities for one second.",
                &["stream"],
                &DIFFERENCE_BUCKETS,
            ),
            stages: Stage::ALL.iter().map(|s| stage_family.with_label_values(&[s.as_str()])).collect(),
            viewers: Viewer::ALL.iter().map(|v| viewer_family.with_label_values(&[v.as_str()])).collect(),
            http_refused: http::refusals(r),
            http_connections: http::connections(r),
            thumbnails: http::thumbnails(r),
            probes: probes(r),
            device_faults: DeviceFault::ALL.iter().map(|f| fault_family.with_label_values(&[f.as_str()])).collect(),
            frame_share: FrameShares::new(r),
            reloads: Reloads::new(r),
            archive: ArchiveFamilies::new(r),
            fleet: FleetFamilies::new(r),
            posters_dropped: counters(
                r,
                "touchline_posters_dropped_total",
                "Pictures for segments that were not made, because encoding others took too long or it failed.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            store_lost: counters(
                r,
                "touchline_store_records_lost_total",
                "Events, incidents and states that were not stored because the disk was too slow or failed.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            records_lost: counters(
                r,
                "touchline_output_records_lost_total",
                "Records that were not written to the JSONL output.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            sink_dropped: counters(
                r,
                "touchline_sink_dropped_records_total",
                "Records that an output dropped because it was too slow or could not write.",
                &["sink"],
            ),
            deliveries: Deliveries::new(r),
            panics: StageThread::ALL.iter().map(|s| panic_family.with_label_values(&[s.as_str()])).collect(),
            records_skipped: counters(
                r,
                "touchline_live_records_skipped_total",
                "Live records skipped because a subscriber was too slow.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            up: int_gauges(r, "touchline_stream_up", "1 while the stream plays, else 0.", &["stream"]),
            classified: counters(
                r,
                "touchline_seconds_classified_total",
                "Seconds of the stream with a decision.",
                &["stream"],
            ),
            unknown_seconds: counters(
                r,
                "touchline_seconds_unknown_total",
                "Seconds of the stream with a decision that is not sure enough to be an answer. They count as classified.",
                &["stream"],
            ),
            unknown: int_gauges(
                r,
                "touchline_estimate_unknown",
                "1 while the estimate over the vote window is not sure enough to be an answer, else 0.",
                &["stream"],
            ),
            health: HealthCounters::default(),
            gapped: counters(
                r,
                "touchline_seconds_gapped_total",
                "Seconds of the stream without a decision, by reason; reason \"overload\" counts dropped seconds.",
                &["stream", "reason"],
            ),
            lost: counters(
                r,
                "touchline_buffers_lost_total",
                "Unusable buffers of the source: without a time stamp (untimed), or of a track that appeared late (undeclared).",
                &["stream", "reason"],
            ),
            faults: counters(
                r,
                "touchline_source_faults_total",
                "Places where the source's data were damaged or incomplete.",
                &["stream"],
            ),
            abandoned: counters(
                r,
                "touchline_pipelines_abandoned_total",
                "Pipelines of the source that did not stop in time and were abandoned with their threads and memory.",
                &["stream"],
            ),
            frames: counters(r, "touchline_frames_received_total", "Decoded pictures received.", &["stream"]),
            converted: counters(
                r,
                "touchline_frames_converted_total",
                "Decoded pictures that were scaled and converted, for the models or for viewers.",
                &["stream"],
            ),
            clips: ClipFamilies::new(r),
            teach: TeachFamilies::new(r),
            outputs: OutputFamilies::new(r),
            decoder_fallbacks: counters(
                r,
                "touchline_decoder_fallbacks_total",
                "Changes from the decoder of a device to software, because the device failed or does not exist.",
                &["stream"],
            ),
            left_out: counters(
                r,
                "touchline_frames_left_out_total",
                "Coded pictures that were not decoded, because the models do not see them.",
                &["stream"],
            ),
            samples: counters(
                r,
                "touchline_samples_received_total",
                "Audio samples per channel received, at the stream's own rate.",
                &["stream"],
            ),
            discarded: counters(
                r,
                "touchline_items_discarded_total",
                "Pictures or audio chunks that arrived too late or belonged to an abandoned timeline.",
                &["stream", "track"],
            ),
            dropped: counters(
                r,
                "touchline_frames_dropped_total",
                "Received pictures that were not decoded because their references are missing, by reason.",
                &["stream", "reason"],
            ),
            latency: histograms(
                r,
                "touchline_decision_latency_seconds",
                "Time from the arrival of a second's last sample to its published estimate, in seconds.",
                &["stream"],
                &LATENCY_BUCKETS_S,
            ),
            probability: gauges(
                r,
                "touchline_class_probability",
                "Mean probability of the class over the vote window.",
                &["stream", "class"],
            ),
            signal_seconds: counters(
                r,
                "touchline_signal_seconds_total",
                "Seconds of the stream with test bars, a black or a frozen picture, or silence, after their hold time.",
                &["stream", "signal"],
            ),
            signal: int_gauges(
                r,
                "touchline_signal",
                "1 while the stream shows test bars, a black or a frozen picture, or is silent, else 0.",
                &["stream", "signal"],
            ),
            unexpected: int_gauges(
                r,
                "touchline_stream_unexpected",
                "1 while something other than what is expected of the stream has been on air for too long, else 0.",
                &["stream"],
            ),
            unexpected_times: counters(
                r,
                "touchline_stream_unexpected_total",
                "Times that something unexpected was on air for too long.",
                &["stream"],
            ),
            last_decision: gauges(
                r,
                "touchline_last_decision_timestamp_seconds",
                "When the last decision of the stream was published, in seconds since 1970-01-01 UTC.",
                &["stream"],
            ),
            reconnects: counters(r, "touchline_reconnects_total", "Times the stream was opened again.", &["stream"]),
            backlog: int_gauges(
                r,
                "touchline_backlog_seconds",
                "Seconds of the stream that wait for inference.",
                &["stream"],
            ),
            runs: counters(
                r,
                "touchline_runs_started_total",
                "Runs (data between two discontinuities) that began.",
                &["stream"],
            ),
            incidents: counters(
                r,
                "touchline_source_incidents_total",
                "Incidents of the stream's source while it played, by kind.",
                &["stream", "incident"],
            ),
            failures: counters(
                r,
                "touchline_source_failures_total",
                "Times the stream's source failed, ended or stalled, by cause.",
                &["stream", "cause"],
            ),
            states: int_gauges(
                r,
                "touchline_stream_state",
                "1 for the state of the stream, 0 for all others.",
                &["stream", "state"],
            ),
            state_since: gauges(
                r,
                "touchline_stream_state_since_timestamp_seconds",
                "When the stream entered its state, in seconds since 1970-01-01 UTC.",
                &["stream"],
            ),
            next_try: gauges(
                r,
                "touchline_next_try_timestamp_seconds",
                "When the stream is opened again, in seconds since 1970-01-01 UTC; 0 if it is not waiting.",
                &["stream"],
            ),
            tracks: int_gauges(
                r,
                "touchline_track_up",
                "1 while the track delivers data, 0 while it is stalled or absent.",
                &["stream", "track"],
            ),
            events: counters(
                r,
                "touchline_events_total",
                "Onsets and offsets of classes on air.",
                &["stream", "class", "kind"],
            ),
            decided: counters(
                r,
                "touchline_decisions_total",
                "Decisions by the modality that supplied the label and probability.",
                &["stream", "modality"],
            ),
            registry,
        }
    }
}

/// Why registering cannot fail: the names are literals of this module, each used once, and the registry is new.
const WELL_FORMED: &str = "metric names are well-formed and used once";

pub(super) fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> C {
    let collector = made.expect(WELL_FORMED);
    registry.register(Box::new(collector.clone())).expect(WELL_FORMED);
    collector
}

pub(super) fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

pub(super) fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, GaugeVec::new(Opts::new(name, help), labels))
}

pub(super) fn int_gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

pub(super) fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> HistogramVec {
    register(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
}
