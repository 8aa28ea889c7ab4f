use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use super::*;
use crate::skip::{Lacks, skip};
use touchline_core::cause::Cause;
use touchline_core::clip::{FrameShare, GapReason};
use touchline_core::decision::{Event, EventKind, PackStamp, WindowEstimate};
use touchline_core::incident::Incident;
use touchline_core::item::{Track, Tracks};
use touchline_core::labels::{ClassId, Modality};
use touchline_core::time::RunId;
use touchline_media::outlet::{CounterValues, Counters};

fn classes() -> ClassSet {
    ClassSet::new(["tennis", "soccer", "other"].map(String::from).to_vec()).unwrap()
}

/// The export without the metrics of the process, which change at any time.
fn without_process(metrics: &Metrics) -> String {
    let text = metrics.encode();
    let (process, own): (Vec<&str>, Vec<&str>) = text
        .lines()
        .partition(|line| line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ").starts_with("process_"));
    assert!(!process.is_empty(), "the metrics of the process are exported");
    own.join("\n")
}

#[test]
fn a_removed_stream_leaves_no_metrics_and_late_updates_do_not_restore_it() {
    let metrics = Metrics::new();
    let before = without_process(&metrics);
    let event =
        Event { kind: EventKind::Onset, class: ClassId(0), run: RunId(0), index: 3, probability: 0.7, reason: None };
    let fill = |id: &str| {
        let stream = metrics.stream(id, &classes());
        metrics.shadow_stream(id).compared(true, 0.1);
        stream.state("failed", Some(Cause::ServerError), 1, None);
        stream.event(&event);
        stream.latency(700_000_000);
        stream
    };
    let (goes, stays) = (fill("goes"), fill("stays"));
    metrics.remove_stream(&goes);
    // Late updates of its threads.
    goes.event(&event);
    goes.state("waiting", Some(Cause::ServerError), 2, Some(3));
    goes.source(&CounterValues::default(), &counter_values());
    let text = metrics.encode();
    assert!(!text.contains("goes") && text.contains("stream=\"stays\""), "{text}");
    metrics.remove_stream(&stays);
    assert_eq!(without_process(&metrics), before, "the export is the same as before the streams");
    fill("goes");
    assert!(metrics.encode().contains("touchline_events_total{class=\"tennis\",kind=\"onset\",stream=\"goes\"} 1"));
}

/// The counters of a source, each with a different value.
fn counter_values() -> CounterValues {
    let counters = Counters::default();
    let Counters {
        frames,
        samples,
        untimed,
        undeclared,
        dropped,
        left_out,
        decoder_fallbacks,
        faults,
        unrecorded,
        reconnects,
        abandoned,
        on_demand: _,
    } = &counters;
    let all = [frames, samples, untimed, undeclared, faults, reconnects, abandoned].into_iter().chain(dropped).chain([
        left_out,
        unrecorded,
        decoder_fallbacks,
    ]);
    all.zip(101..).for_each(|(counter, n)| counter.store(n, Ordering::Relaxed));
    counters.values()
}

#[test]
fn every_counter_of_a_source_is_exported() {
    let metrics = Metrics::new();
    let stream = metrics.stream("a", &classes());
    let counted = counter_values();
    stream.source(&CounterValues::default(), &counted);
    stream.source(&counted, &counted);
    stream.reconnected(counted.reconnects);
    let text = metrics.encode();
    let values: Vec<&str> = text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(_, value)| value).collect();
    for n in 101..=111 {
        assert!(values.contains(&n.to_string().as_str()), "the counter with {n} is not in\n{text}");
    }
}

/// Metrics in which every family has at least one value.
fn filled() -> Metrics {
    let metrics = Metrics::new();
    let stamp =
        |name: &str| PackStamp { name: name.into(), weights_sha256: "3f7a".into(), manifest_sha256: "9d01".into() };
    metrics.set_pack(&stamp("old"));
    metrics.set_pack(&stamp("compact"));
    metrics.pack_update(true);
    metrics.pack_update(false);
    metrics.pack_update(false);
    metrics.set_shadow(&stamp("candidate"));
    let shadow = metrics.shadow_stream("court \"1\"");
    shadow.compared(true, 0.0005);
    shadow.compared(false, 0.08);
    shadow.dropped(ShadowDrop::Overload);
    for stage in Stage::ALL {
        metrics.observe_stage(stage, 12_000_000);
    }
    metrics.device_fault(DeviceFault::OutOfMemory);
    metrics.viewers(Viewer::Live, 2);
    metrics.viewers(Viewer::Live, -1);
    metrics.sink_dropped("jsonl", 1);
    metrics.records_skipped(5);
    let stream = metrics.stream("court \"1\"", &classes());
    stream.state("playing", None, 1_699_999_000_000_000_000, None);
    stream.state("waiting", Some(Cause::ServerError), 1_700_000_000_500_000_000, Some(1_700_000_004_500_000_000));
    stream.tracks(Tracks { video: true, audio: true });
    stream.incident(&Incident::TrackStalled { track: Track::Audio, silent_ns: 5_000_000_000 });
    stream.classified(Modality::Audio, true, 1_700_000_000_500_000_000);
    stream.gapped(GapReason::Overload);
    stream.gapped(GapReason::Overload);
    stream.source(&CounterValues::default(), &counter_values());
    stream.converted();
    stream.discarded(Track::Audio, 3);
    stream.latency(700_000_000);
    stream.estimate(&WindowEstimate {
        share: vec![1.0, 0.0, 0.0],
        mean: vec![0.75, 0.2, 0.05],
        label: ClassId(0),
        seconds: 8,
        gaps: 2,
        known_from: 0.8,
    });
    stream.reconnected(1);
    stream.backlog(4);
    stream.run_started();
    stream.event(&Event {
        kind: EventKind::Onset,
        class: ClassId(0),
        run: RunId(0),
        index: 3,
        probability: 0.75,
        reason: None,
    });
    metrics.relief(FrameShare::ALL, FrameShare::ALL, [0, 3, 2, 0]);
    metrics
}

/// Sample lines as name-with-labels → value.
fn samples(text: &str) -> HashMap<&str, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (key, value) = line.rsplit_once(' ').expect("a sample line has a value");
            (key, value.parse().expect("the value is a number"))
        })
        .collect()
}

#[test]
fn every_recorded_value_is_exported() {
    let text = filled().encode();
    let samples = samples(&text);
    for (key, value) in [
        (r#"touchline_seconds_classified_total{stream="court \"1\""}"#, 1.0),
        (r#"touchline_seconds_unknown_total{stream="court \"1\""}"#, 1.0),
        (r#"touchline_estimate_unknown{stream="court \"1\""}"#, 1.0),
        (r#"touchline_seconds_gapped_total{reason="overload",stream="court \"1\""}"#, 2.0),
        (r#"touchline_seconds_gapped_total{reason="compute",stream="court \"1\""}"#, 0.0),
        (r#"touchline_class_probability{class="tennis",stream="court \"1\""}"#, 0.75),
        (r#"touchline_last_decision_timestamp_seconds{stream="court \"1\""}"#, 1_700_000_000.5),
        (r#"touchline_decisions_total{modality="audio",stream="court \"1\""}"#, 1.0),
        (r#"touchline_decisions_total{modality="rgb",stream="court \"1\""}"#, 0.0),
        (r#"touchline_events_total{class="tennis",kind="onset",stream="court \"1\""}"#, 1.0),
        (r#"touchline_frames_dropped_total{reason="after-loss",stream="court \"1\""}"#, 109.0),
        (r#"touchline_frames_left_out_total{stream="court \"1\""}"#, 111.0),
        (r#"touchline_decoder_fallbacks_total{stream="court \"1\""}"#, 113.0),
        (r#"touchline_auto_tier_streams{tier="sparse"}"#, 2.0),
        (r#"touchline_frames_received_total{stream="court \"1\""}"#, 101.0),
        (r#"touchline_buffers_lost_total{reason="undeclared",stream="court \"1\""}"#, 104.0),
        (r#"touchline_source_faults_total{stream="court \"1\""}"#, 105.0),
        (r#"touchline_pipelines_abandoned_total{stream="court \"1\""}"#, 107.0),
        (r#"touchline_items_discarded_total{stream="court \"1\"",track="audio"}"#, 3.0),
        (r#"touchline_decision_latency_seconds_bucket{stream="court \"1\"",le="0.5"}"#, 0.0),
        (r#"touchline_decision_latency_seconds_bucket{stream="court \"1\"",le="0.75"}"#, 1.0),
        (r#"touchline_stage_duration_seconds_sum{stage="infer_flow"}"#, 0.012),
        (r#"touchline_pack_info{manifest_sha256="9d01",pack="compact",weights_sha256="3f7a"}"#, 1.0),
        (r#"touchline_shadow_info{manifest_sha256="9d01",pack="candidate",weights_sha256="3f7a"}"#, 1.0),
        (r#"touchline_pack_updates_total{outcome="applied"}"#, 1.0),
        (r#"touchline_pack_updates_total{outcome="refused"}"#, 2.0),
        (r#"touchline_device_faults_total{kind="out_of_memory"}"#, 1.0),
        (r#"touchline_device_faults_total{kind="lost"}"#, 0.0),
        (r#"touchline_shadow_seconds_total{agreement="same",stream="court \"1\""}"#, 1.0),
        (r#"touchline_shadow_seconds_total{agreement="different",stream="court \"1\""}"#, 1.0),
        (r#"touchline_shadow_seconds_dropped_total{reason="overload",stream="court \"1\""}"#, 1.0),
        (r#"touchline_shadow_seconds_dropped_total{reason="compute",stream="court \"1\""}"#, 0.0),
        (r#"touchline_shadow_probability_difference_bucket{stream="court \"1\"",le="0.001"}"#, 1.0),
        (r#"touchline_stream_up{stream="court \"1\""}"#, 0.0),
        (r#"touchline_stream_state{state="playing",stream="court \"1\""}"#, 0.0),
        (r#"touchline_stream_state{state="waiting",stream="court \"1\""}"#, 1.0),
        (r#"touchline_stream_state_since_timestamp_seconds{stream="court \"1\""}"#, 1_700_000_000.5),
        (r#"touchline_next_try_timestamp_seconds{stream="court \"1\""}"#, 1_700_000_004.5),
        (r#"touchline_source_failures_total{cause="server-error",stream="court \"1\""}"#, 1.0),
        (r#"touchline_source_incidents_total{incident="track-stalled",stream="court \"1\""}"#, 1.0),
        (r#"touchline_source_incidents_total{incident="tcp-fallback",stream="court \"1\""}"#, 0.0),
        (r#"touchline_track_up{stream="court \"1\"",track="video"}"#, 1.0),
        (r#"touchline_track_up{stream="court \"1\"",track="audio"}"#, 0.0),
        (r#"touchline_frames_converted_total{stream="court \"1\""}"#, 1.0),
        (r#"touchline_viewers{kind="live"}"#, 1.0),
        (r#"touchline_backlog_seconds{stream="court \"1\""}"#, 4.0),
        ("touchline_live_records_skipped_total", 5.0),
        ("touchline_output_records_lost_total", 1.0),
        (r#"touchline_sink_dropped_records_total{sink="jsonl"}"#, 1.0),
        (r#"touchline_stage_panics_total{stage="clip"}"#, 0.0),
    ] {
        let found = samples.get(key).unwrap_or_else(|| panic!("{key} is missing in\n{text}"));
        assert!((found - value).abs() < 1e-6, "{key} is {found}, not {value}");
    }
    assert!(!text.contains(r#"pack="old""#), "only the pack that runs is exported");
}

/// The number of families of the process collector.
const PROCESS_FAMILIES: usize = 7;

#[test]
fn every_family_has_a_type_a_help_text_and_a_valid_name() {
    let text = filled().encode();
    let types: HashMap<&str, &str> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).filter_map(|l| l.split_once(' ')).collect();
    assert_eq!(types.len(), 69 + PROCESS_FAMILIES, "{types:?}");
    for (name, kind) in &types {
        assert!(name.starts_with("touchline_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
}

#[test]
fn an_empty_window_and_an_ended_stream_export_zeros() {
    let metrics = filled();
    let stream = metrics.stream("court \"1\"", &classes());
    let key = r#"touchline_class_probability{class="tennis",stream="court \"1\""}"#;
    stream.estimate_over();
    assert_eq!(samples(&metrics.encode())[key], 0.0);
    let mut nothing = WindowEstimate {
        share: vec![0.0; 3],
        mean: vec![0.9, 0.1, 0.0],
        label: ClassId(0),
        seconds: 1,
        gaps: 9,
        known_from: 0.0,
    };
    stream.estimate(&nothing);
    assert!(samples(&metrics.encode())[key] > 0.8);
    nothing.seconds = 0;
    stream.estimate(&nothing);
    assert_eq!(samples(&metrics.encode())[key], 0.0);
}

#[test]
fn promtool_finds_no_problems() {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            skip(Lacks::Tool, &format!("promtool (Debian package prometheus) does not run: {e}"));
            return;
        }
    };
    child.stdin.take().unwrap().write_all(filled().encode().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && report.trim().is_empty(), "promtool: {report}");
}
