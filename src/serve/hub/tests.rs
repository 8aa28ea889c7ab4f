use std::collections::BTreeMap;

use serde_json::Value;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::oneshot;

use super::stream::LIVE_RECORDS;
use super::*;
use crate::testing::{EPOCH_NS, classes, gap, predicted, stamp};
use touchline_core::cause::Cause;
use touchline_core::clip::GapReason;
use touchline_core::clock::ManualClock;
use touchline_core::decision::{Event, EventKind, SecondOutcome};
use touchline_core::expectation::{ExpectationEnd, ExpectationEvent, Expected, OnAir, UNKNOWN, WatchedSecond};
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, Pace, Track, Tracks};
use touchline_core::labels::ClassId;
use touchline_core::segment::{RecordedSecond, SegmentCloser};
use touchline_core::signal::{Signal, Signals};
use touchline_core::time::{NANOS_PER_SECOND, Pts, RunId};

fn hub() -> (Hub, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let info = HubInfo {
        classes: classes(),
        modalities: vec![Modality::Rgb, Modality::Flow],
        pack: stamp(),
        vote_window_s: 10,
        instance: None,
    };
    (Hub::new(info, Metrics::new(), clock.clone()), clock)
}

fn add(hub: &Hub, id: &str) -> StreamHandle {
    let uri = "rtsp://ann:s3cret@cam.example/live?token=abcd".into();
    hub.add_stream(StreamInfo { id: id.into(), uri, pace: Pace::Live }).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("the hub outputs JSON")
}

fn detail(hub: &Hub, id: &str) -> Value {
    json(&hub.stream_json(id).unwrap())
}

#[test]
fn ids_are_safe_in_urls_and_unique() {
    let (hub, _) = hub();
    add(&hub, "court-1");
    for (id, expected) in [("court-1", "twice"), ("", "ill-formed"), ("a/b", "ill-formed"), ("..", "ill-formed")] {
        let info = StreamInfo { id: id.into(), uri: "testsrc://".into(), pace: Pace::Live };
        let error = hub.add_stream(info).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_removed_stream_ends_its_subscriptions_and_frees_its_id() {
    let (hub, _) = hub();
    let cam = add(&hub, "cam");
    let mut subscription = hub.subscribe("cam").unwrap();
    cam.set_state(StreamState::Removed).unwrap();
    assert!(hub.remove_stream("cam") && !hub.remove_stream("cam") && !hub.has_stream("cam"));
    assert_eq!(subscription.records.try_recv().unwrap().kind, RecordKind::State);
    assert!(matches!(subscription.records.try_recv(), Err(TryRecvError::Closed)), "after its last record");
    assert!(hub.stream_json("cam").is_none() && hub.subscribe("cam").is_none());
    assert!(!hub.metrics().encode().contains("\"cam\""));
    // A late update of a removed stream affects neither the hub nor a new stream of that name.
    let again = add(&hub, "cam");
    cam.publish(&predicted(0, "tennis", 0.9));
    assert_eq!((cam.counters().classified, again.counters().classified), (1, 0));
    assert!(hub.metrics().encode().contains("touchline_seconds_classified_total{stream=\"cam\"} 0"));
}

#[test]
fn stored_data_are_restored_and_runs_continue() {
    #[derive(Default)]
    struct MemoryArchive(Mutex<Vec<String>>);
    impl Archive for MemoryArchive {
        fn keep(&self, stream: &str, kind: RecordKind, _: &Arc<str>, _: i64) {
            self.0.lock().push(format!("{stream} {}", kind.as_str()));
        }
        fn keep_segment(&self, stream: &str, segment: KeptSegment) {
            self.0.lock().push(format!("{stream} segment {:?} {}", segment.class, segment.is_open));
        }
        fn keep_second(&self, stream: &str, at_ms: i64, line: String) {
            assert_eq!(at_ms, EPOCH_NS / 1_000_000);
            assert!(line.contains("\"probabilities\""), "{line}");
            self.0.lock().push(format!("{stream} second kept"));
        }
        fn seconds(&self, _: &str, _: KeptTime) -> Result<Vec<u8>> {
            Ok(Vec::new())
        }
        fn segments(&self, _: &HistoryFilter) -> Result<Vec<StoredSegment>> {
            Ok(Vec::new())
        }
        fn poster(&self, _: &str, _: RunId, _: u64) -> Result<Option<Vec<u8>>> {
            Ok(None)
        }
        fn records(&self, _: &HistoryFilter) -> Result<Vec<StoredRecord>> {
            Ok(Vec::new())
        }
        fn times(&self, _: &[KeptTime]) -> Result<Vec<Vec<TimeOfContent>>> {
            Ok(Vec::new())
        }
        fn first_times(&self) -> Result<BTreeMap<String, i64>> {
            Ok(BTreeMap::new())
        }
        fn run_began(&self, stream: &str, run: RunId) {
            self.0.lock().push(format!("{stream} run {}", run.0));
        }
        fn run_ahead(&self, stream: &str, run: RunId) {
            self.0.lock().push(format!("{stream} ahead {}", run.0));
        }
        fn fleet_position(&self, _: &FleetSource) -> Result<u64> {
            Ok(0)
        }
        fn keep_fleet(&self, _: &FleetSource, _: Vec<FleetRecord>) -> oneshot::Receiver<()> {
            oneshot::channel().1
        }
    }
    let (hub, _) = hub();
    let archive = Arc::new(MemoryArchive::default());
    hub.set_archive(archive.clone());
    let cam = add(&hub, "cam");
    assert_eq!(cam.next_run(), RunId(0));
    let events = (0..HISTORY_EVENTS + 5).map(|n| format!("{{\"event\":{n}}}").into()).collect();
    let state = Some("{\"type\":\"state\"}".into());
    cam.restore(Restored { events, incidents: vec!["{}".into()], state, run: Some(RunId(7)) });
    assert_eq!(cam.next_run(), RunId(8));
    let restored = detail(&hub, "cam");
    assert_eq!(
        (restored["events"].as_array().unwrap().len(), &restored["events"][0]["event"]),
        (HISTORY_EVENTS, &5.into())
    );
    assert_eq!(restored["before"]["type"], "state");
    cam.run_started(RunId(8), Some(Discontinuity::Tracks));
    cam.set_state(StreamState::Playing);
    cam.publish(&predicted(0, "tennis", 0.9));
    let events =
        [Event { kind: EventKind::Onset, class: ClassId(0), run: RunId(8), index: 1, probability: 0.7, reason: None }];
    let mut closer = SegmentCloser::default();
    let second = || RecordedSecond { wall_ns: Some(EPOCH_NS), ..predicted(0, "tennis", 0.9).recorded() };
    closer.push(second(), 1);
    cam.publish_end(&events, &closer.finish());
    closer.push(second(), 1);
    closer.push(RecordedSecond { index: 1, ..second() }, 1);
    closer.push(RecordedSecond { index: 2, ..second() }, 1);
    cam.keep_open_segment(61, || closer.open());
    cam.keep_open_segment(120, || closer.open());
    cam.set_state(StreamState::Removed);
    assert_eq!(
        *archive.0.lock(),
        [
            "cam run 8",
            "cam incident",
            "cam state",
            "cam second kept",
            "cam event",
            "cam segment None false",
            "cam segment None true"
        ]
    );
    assert_eq!((cam.next_run(), cam.reserve_run(), cam.last_run()), (RunId(9), RunId(9), Some(RunId(8))));
    assert_eq!(archive.0.lock().last().unwrap(), "cam ahead 9");
}

#[test]
fn a_stream_begins_connecting_without_secrets_and_without_data() {
    let (hub, _) = hub();
    add(&hub, "cam");
    let text = hub.stream_json("cam").unwrap() + &hub.streams_json() + &hub.metrics().encode();
    assert!(!text.contains("s3cret") && !text.contains("abcd"), "{text}");
    let detail = detail(&hub, "cam");
    assert_eq!(detail["uri"], "rtsp://***@cam.example/live?***");
    assert_eq!(detail["state"], "connecting");
    let metrics = hub.metrics().encode();
    assert!(metrics.contains(r#"touchline_stream_state{state="connecting",stream="cam"} 1"#), "{metrics}");
    assert!(detail["last"].is_null() && detail["top"].is_null() && detail["tracks"].is_null());
    assert_eq!(detail["history"], json("[]"));
    assert!(hub.stream_json("other").is_none() && hub.subscribe("other").is_none());
}

#[test]
fn a_condition_of_the_signal_lasts_until_its_end_or_that_of_the_stream() {
    let (hub, clock) = hub();
    let cam = add(&hub, "cam");
    clock.advance(5_000_000_000);
    let (began, lasted_ns) = (Pts(0), 2_000_000_000);
    let record = json(&cam.incident(Incident::SignalBegan { signal: Signal::Bars, began, lasted_ns }).json);
    assert_eq!((&record["signal"], &record["lasted_ms"]), (&"bars".into(), &2000.0.into()));
    cam.incident(Incident::SignalBegan { signal: Signal::Silence, began, lasted_ns });
    let shown = detail(&hub, "cam");
    assert_eq!(shown["signal"][0], serde_json::json!({ "signal": "bars", "since": record["since"] }));
    let mut bars = gap(1, GapReason::NoProgramme);
    let SecondOutcome::Gap(without) = &mut bars.outcome else { unreachable!() };
    without.signals = Signals::NONE.with(Signal::Bars);
    cam.publish(&bars);
    let metrics = hub.metrics().encode();
    for line in [
        "touchline_seconds_gapped_total{reason=\"no-programme\",stream=\"cam\"} 1",
        "touchline_signal_seconds_total{signal=\"bars\",stream=\"cam\"} 1",
        "touchline_signal{signal=\"bars\",stream=\"cam\"} 1",
        "touchline_signal{signal=\"black\",stream=\"cam\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    cam.incident(Incident::SignalEnded { signal: Signal::Bars, began, lasted_ns });
    assert_eq!(detail(&hub, "cam")["signal"].as_array().unwrap().len(), 1);
    cam.set_state(StreamState::Ended);
    assert_eq!(detail(&hub, "cam")["signal"], serde_json::json!([]));
    assert!(hub.metrics().encode().contains("touchline_signal{signal=\"bars\",stream=\"cam\"} 0"));
}

#[test]
fn publishing_reaches_snapshot_subscribers_metrics_and_the_caller() {
    let (hub, clock) = hub();
    let cam = add(&hub, "cam");
    clock.advance(5_000_000_000);
    cam.publish(&predicted(0, "soccer", 0.8));
    let mut subscription = hub.subscribe("cam").unwrap();
    assert_eq!(json(&subscription.snapshot)["last"]["label"], "soccer");
    let mut second = predicted(1, "tennis", 0.9);
    second.events = vec![Event {
        kind: EventKind::Onset,
        class: ClassId(1),
        run: RunId(0),
        index: 1,
        probability: 0.9,
        reason: None,
    }];
    let lines = cam.publish(&second);
    assert_eq!(lines.len(), 2);
    for (line, kind) in lines.iter().zip([RecordKind::Second, RecordKind::Event]) {
        let record = subscription.records.try_recv().unwrap();
        assert_eq!((&record.json, record.kind), (&line.json, kind));
        assert_eq!(line.kind, kind);
        subscription.sequence += 1;
        assert_eq!(record.sequence, subscription.sequence, "nothing is missed between snapshot and records");
    }
    assert_eq!(subscription.records.try_recv().unwrap_err(), TryRecvError::Empty);

    cam.publish(&gap(2, GapReason::Overload));
    let detail = detail(&hub, "cam");
    assert_eq!(detail["last"]["type"], "gap");
    assert_eq!(detail["latency_ms"], 640.25, "the last decision's latency stays");
    assert_eq!(detail["backlog"], 1);
    assert_eq!(detail["events"][0]["class"], "tennis");
    assert_eq!(detail["counters"]["classified"], 2);
    assert_eq!(detail["counters"]["gapped"]["overload"], 1);
    let history = detail["history"].as_array().unwrap();
    assert_eq!(history.len(), 3);
    assert_eq!(history[1]["label"], "tennis");
    assert_eq!(history[1]["decided_by"], "rgb");
    assert_eq!(history[1]["at_ms"], 5000);
    assert_eq!((&history[2]["reason"], &history[2]["label"]), (&json("\"overload\""), &Value::Null));
    assert_eq!(history[2]["window_label"], "tennis");

    let text = hub.metrics().encode();
    for line in [
        "touchline_seconds_classified_total{stream=\"cam\"} 2",
        "touchline_seconds_gapped_total{reason=\"overload\",stream=\"cam\"} 1",
        "touchline_decision_latency_seconds_count{stream=\"cam\"} 2",
        "touchline_last_decision_timestamp_seconds{stream=\"cam\"} 5",
        "touchline_events_total{class=\"tennis\",kind=\"onset\",stream=\"cam\"} 1",
        "touchline_stage_duration_seconds_count{stage=\"publish\"} 3",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[test]
fn the_rings_keep_the_last_ten_minutes() {
    let (hub, _) = hub();
    let cam = add(&hub, "cam");
    for index in 0..HISTORY_SECONDS as u64 + 50 {
        let mut second = predicted(index, "tennis", 0.9);
        second.events = vec![Event {
            kind: EventKind::Onset,
            class: ClassId(1),
            run: RunId(0),
            index,
            probability: 0.9,
            reason: None,
        }];
        cam.publish(&second);
    }
    let detail = detail(&hub, "cam");
    let (history, events) = (detail["history"].as_array().unwrap(), detail["events"].as_array().unwrap());
    assert_eq!((history.len(), events.len()), (HISTORY_SECONDS, HISTORY_EVENTS));
    assert_eq!(history[0]["index"], 50);
    assert_eq!(events[HISTORY_EVENTS - 1]["index"], 649);
    assert_eq!(detail["counters"]["events"], 650, "counters include records that the rings dropped");
}

#[test]
fn a_slow_subscriber_loses_the_oldest_records_and_blocks_nothing() {
    let (hub, _) = hub();
    let cam = add(&hub, "cam");
    let mut slow = hub.subscribe("cam").unwrap();
    for index in 0..LIVE_RECORDS as u64 + 10 {
        cam.publish(&predicted(index, "tennis", 0.9));
    }
    assert_eq!(slow.records.try_recv().unwrap_err(), TryRecvError::Lagged(10));
    assert_eq!(slow.records.try_recv().unwrap().sequence, 11);
}

#[test]
fn a_state_is_published_once_and_clears_the_estimate() {
    let (hub, clock) = hub();
    let cam = add(&hub, "cam");
    let mut records = hub.subscribe("cam").unwrap().records;
    clock.advance(1_000_000_000);
    assert!(cam.set_state(StreamState::Playing).is_some());
    assert!(cam.set_state(StreamState::Playing).is_none(), "without a change there is no record");
    cam.set_tracks(Tracks { video: true, audio: false });
    assert_eq!(json(&records.try_recv().unwrap().json)["state"], "playing");
    assert_eq!(json(&records.try_recv().unwrap().json)["tracks"]["audio"], false);
    assert!(hub.metrics().encode().contains("touchline_stream_up{stream=\"cam\"} 1"));
    cam.publish(&predicted(0, "tennis", 0.9));
    cam.set_state(StreamState::Waiting {
        kind: Cause::HostUnreachable,
        cause: "no route".into(),
        attempt: 1,
        retry_in_ns: 4_000_000_000,
    });
    let waiting = detail(&hub, "cam");
    assert_eq!((&waiting["cause"], &waiting["retry_in_ms"]), (&json("\"no route\""), &json("4000.0")));
    assert_eq!(waiting["since"], "1970-01-01T00:00:01.000Z");
    cam.set_state(StreamState::Failed {
        kind: Cause::Other,
        cause: "rtsp://ann:s3cret@cam/ is gone".into(),
        advice: "check".into(),
    });
    let text = hub.metrics().encode();
    assert!(text.contains("touchline_stream_up{stream=\"cam\"} 0"), "{text}");
    assert!(text.contains("touchline_class_probability{class=\"tennis\",stream=\"cam\"} 0\n"), "{text}");
    let failed = hub.streams_json();
    assert!(failed.contains("\"advice\":\"check\"") && !failed.contains("s3cret"), "{failed}");
}

#[test]
fn runs_and_reconnects_are_counted_separately() {
    let (hub, _) = hub();
    let cam = add(&hub, "cam");
    cam.run_started(RunId(0), None);
    cam.run_started(RunId(1), Some(Discontinuity::JumpBack));
    cam.run_started(RunId(2), Some(Discontinuity::Reconnect));
    cam.reconnected(1);
    cam.discarded(Track::Video, 4);
    let counters = cam.counters();
    assert_eq!((counters.runs, counters.reconnects), (3, 1));
    let text = hub.metrics().encode();
    assert!(text.contains("touchline_reconnects_total{stream=\"cam\"} 1"), "{text}");
    assert!(text.contains("touchline_items_discarded_total{stream=\"cam\",track=\"video\"} 4"), "{text}");
}

#[test]
fn readiness_has_a_reason() {
    let (hub, _) = hub();
    assert_eq!(hub.not_ready().as_deref(), Some("starting"));
    hub.set_starting("warming up the models");
    assert_eq!(hub.not_ready().as_deref(), Some("warming up the models"));
    hub.set_ready(true);
    assert_eq!(hub.not_ready(), None);
}

#[test]
fn info_names_the_pack_and_titles_the_classes() {
    let (hub, _) = hub();
    let info = json(&hub.info_json());
    assert_eq!(info["pack"]["name"], "compact");
    assert_eq!(info["classes"][1], json(r#"{"id":"tennis","title":"Tennis"}"#));
    assert_eq!(info["modalities"], json(r#"["rgb","flow"]"#));
    let line = r#"touchline_pack_info{manifest_sha256="9d01",pack="compact",weights_sha256="3f7a"} 1"#;
    assert!(hub.metrics().encode().contains(line), "{}", hub.metrics().encode());
}

#[test]
fn a_new_pack_is_published_before_its_first_second() {
    let (hub, _) = hub();
    let cam = add(&hub, "cam");
    assert_eq!(cam.publish(&predicted(0, "tennis", 0.9)).len(), 1, "the first pack is not a change");
    let mut records = hub.subscribe("cam").unwrap().records;
    let other = Arc::new(PackStamp { name: "court".into(), manifest_sha256: "77aa".into(), ..stamp() });
    hub.set_pack(other.clone(), vec![Modality::Audio]);
    assert_eq!(cam.publish(&gap(1, GapReason::Overload)).len(), 1, "a gap has no pack");
    let mut second = predicted(2, "tennis", 0.9);
    let SecondOutcome::Predicted(inner) = &mut second.outcome else { unreachable!() };
    inner.pack = other;
    let lines: Vec<Value> = cam.publish(&second).iter().map(|line| json(&line.json)).collect();
    assert_eq!((&lines[0]["type"], &lines[1]["type"]), (&json("\"pack\""), &json("\"second\"")));
    assert_eq!((&lines[0]["index"], &lines[0]["previous"]["name"]), (&json("2"), &json("\"compact\"")));
    assert_eq!(lines[0]["pack"], lines[1]["pack"]);
    assert_eq!(cam.publish(&second).len(), 1, "it is published once");
    let kinds: Vec<RecordKind> = std::iter::from_fn(|| records.try_recv().ok()).map(|r| r.kind).collect();
    assert_eq!(kinds, [RecordKind::Gap, RecordKind::Pack, RecordKind::Second, RecordKind::Second]);
    assert_eq!(json(&hub.info_json())["pack"]["name"], "court");
    assert_eq!(json(&hub.info_json())["modalities"], json(r#"["audio"]"#));
    let detail = detail(&hub, "cam");
    assert_eq!((&detail["pack"]["name"], &detail["last"]["type"]), (&json("\"court\""), &json("\"second\"")));
    let text = hub.metrics().encode();
    assert!(text.contains("pack=\"court\"") && !text.contains("pack=\"compact\""), "{text}");
}

#[test]
fn something_unexpected_is_a_record_a_metric_and_shown_until_it_ends() {
    let (hub, clock) = hub();
    let cam = add(&hub, "cam");
    let mut expected = Expected::default();
    assert!(expected.add("tennis", &classes()) && expected.add(UNKNOWN, &classes()));
    clock.advance(100 * NANOS_PER_SECOND);
    let mut index = 0;
    let mut second = |on_air: Option<OnAir>, end: Option<Option<ExpectationEnd>>| {
        index += 1;
        let mut published = predicted(index, "soccer", 0.9);
        let event =
            |end| ExpectationEvent { end, expected: expected.clone(), on_air, run: RunId(0), index, seconds: 60 };
        let events = end.into_iter().map(event).collect();
        published.watched = WatchedSecond { expected: expected.clone(), unexpected_s: None, on_air, events };
        cam.publish(&published)
    };
    let shown = || json(&hub.overview_json(&FeedFilter::default()))["streams"][0]["expectation"].clone();
    let gauge = |value: u32, times: u32| {
        let text = hub.metrics().encode();
        let has = |line: String| assert!(text.contains(&line), "{line}");
        has(format!("touchline_stream_unexpected{{stream=\"cam\"}} {value}\n"));
        has(format!("touchline_stream_unexpected_total{{stream=\"cam\"}} {times}\n"));
    };
    assert_eq!(shown(), Value::Null, "nothing is expected yet");
    assert_eq!(second(Some(OnAir::Class(ClassId(0))), None).len(), 1);
    assert_eq!(shown(), serde_json::json!({ "expected": ["tennis", "unknown"], "unexpected": null }));
    gauge(0, 0);
    let records = second(Some(OnAir::Class(ClassId(0))), Some(None));
    assert_eq!(
        records.iter().map(|record| record.kind).collect::<Vec<_>>(),
        [RecordKind::Second, RecordKind::Expectation]
    );
    assert_eq!(json(&records[1].json)["kind"], "unexpected-began");
    let unexpected = |on_air: &str| serde_json::json!({ "since": "1970-01-01T00:00:40.000Z", "on_air": on_air });
    assert_eq!(shown()["unexpected"], unexpected("soccer"));
    gauge(1, 1);
    second(Some(OnAir::NoProgramme), None);
    second(None, None);
    assert_eq!(shown()["unexpected"], unexpected("no-programme"), "the last that is known");
    second(Some(OnAir::Class(ClassId(1))), Some(Some(ExpectationEnd::OnAir)));
    assert_eq!(shown()["unexpected"], Value::Null);
    gauge(0, 1);
    second(Some(OnAir::Class(ClassId(0))), Some(None));
    cam.set_state(StreamState::Ended);
    assert_eq!(shown()["unexpected"], Value::Null, "an ended stream shows nothing");
    gauge(0, 2);
    let event = ExpectationEvent {
        end: Some(ExpectationEnd::Ended),
        expected,
        on_air: None,
        run: RunId(0),
        index: 6,
        seconds: 60,
    };
    let record = json(&cam.expectation(&event).json);
    assert_eq!((&record["reason"], &record["wall"]["time"]), (&"ended".into(), &"2023-11-14T22:13:26.000Z".into()));
}
