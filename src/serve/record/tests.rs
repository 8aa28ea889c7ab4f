use serde_json::Value;

use super::*;
use crate::testing::{EPOCH_NS, classes, gap, predicted};
use touchline_core::cause::Cause;
use touchline_core::clip::GapReason;
use touchline_core::decision::{DecisionReason, EventKind, EventReason, PerModality};
use touchline_core::expectation::{ExpectationEnd, Expected, OnAir};
use touchline_core::item::{Discontinuity, Track};
use touchline_core::signal::Signal;
use touchline_core::tier::DecodeTier;
use touchline_core::timecode::{FrameRate, TimecodeMark};

fn recorder(pace: Pace) -> Recorder {
    Recorder::new("court-1", Arc::new(classes()), pace)
}

/// A segment of 30 seconds.
fn closed(kind: SegmentKind) -> ClosedSegment {
    let is_class = matches!(kind, SegmentKind::Class(_));
    let segment = Segment {
        kind,
        run: RunId(2),
        first: 60,
        last: 89,
        began_ns: Some(EPOCH_NS),
        ended_ns: Some(EPOCH_NS + 30_000_000_000),
        timecodes: None,
        mean: is_class.then_some(812_345),
        peak: is_class.then_some(970_000),
        peak_index: is_class.then_some(71),
        decided: 28,
        unknown: 3,
        decided_by: PerModality { rgb: 20, flow: 0, audio: 8 },
        gaps: [0, 1, 0, 0, 0, 0],
        missing: 1,
    };
    ClosedSegment { segment, is_revision: kind == SegmentKind::Unknown }
}

#[test]
fn a_segment_has_the_expected_text() {
    let line = recorder(Pace::Live).segment(&closed(SegmentKind::Class(ClassId(1))));
    assert_eq!(
        line,
        concat!(
            r#"{"type":"segment","stream":"court-1","content":"class","class":"tennis","run":2,"first":60,"last":89,"#,
            r#""pts_ns":60000000000,"end_pts_ns":90000000000,"#,
            r#""began":"2023-11-14T22:13:20.000Z","ended":"2023-11-14T22:13:50.000Z","seconds":30,"#,
            r#""mean":0.812345,"peak":0.97,"peak_index":71,"decided":28,"unknown":3,"#,
            r#""decided_by":{"rgb":20,"flow":0,"audio":8},"gaps":{"no-media":1},"missing":1,"revision":0,"schema":1}"#
        )
    );
    let unknown = recorder(Pace::Live).segment(&closed(SegmentKind::Unknown));
    assert!(
        unknown.contains(r#""content":"unknown","class":null"#) && unknown.contains(r#""revision":1"#),
        "{unknown}"
    );
}

/// Something unexpected at second 9.
fn expectation(end: Option<ExpectationEnd>, names: &[&str], on_air: Option<OnAir>) -> ExpectationEvent {
    let mut expected = Expected::default();
    assert!(names.iter().all(|name| expected.add(name, &classes())));
    ExpectationEvent { end, expected, on_air, run: RunId(3), index: 9, seconds: 61 }
}

#[test]
fn something_unexpected_has_the_expected_text() {
    let event = expectation(Some(ExpectationEnd::OnAir), &["tennis", "no-programme"], Some(OnAir::Class(ClassId(1))));
    assert_eq!(
        recorder(Pace::Live).expectation(&event, predicted(9, "tennis", 0.9).wall()),
        concat!(
            r#"{"type":"expectation","stream":"court-1","run":3,"index":9,"pts_ns":9000000000,"#,
            r#""wall":{"time":"2023-11-14T22:13:29.000Z","source":"arrival","uncertainty_ms":1200.0},"#,
            r#""kind":"unexpected-ended","expected":["tennis","no-programme"],"on_air":"tennis","seconds":61,"#,
            r#""reason":"on-air","schema":1}"#
        )
    );
}

/// Every kind of record with every alternative of its keys.
fn all_records() -> Vec<String> {
    let live = recorder(Pace::Live).with_instance(Some("studio-1".into()));
    let mut with_events = predicted(7, "tennis", 0.9);
    with_events.events = [EventKind::Onset, EventKind::Offset]
        .map(|kind| Event { kind, class: ClassId(1), run: RunId(0), index: 7, probability: 0.81, reason: None })
        .to_vec();
    let mut lines = live.published(&with_events);
    let mut bare = predicted(8, "soccer", 0.4);
    bare.latency_ns = None;
    if let SecondOutcome::Predicted(second) = &mut bare.outcome {
        second.scores.rgb = None;
        second.scores.flow = None;
        second.scores.audio = None;
        second.absent.rgb = Some(Absent::NoData);
        second.absent.flow = Some(Absent::NoPairs);
        second.absent.audio = Some(Absent::NoTrack);
        second.decision.why = DecisionReason::Fallback;
    }
    lines.extend(recorder(Pace::File).published(&bare));
    let mut other = predicted(8, "soccer", 0.4);
    let SecondOutcome::Predicted(second) = &mut other.outcome else { unreachable!() };
    second.frame_share = FrameShare::STEPS[1];
    second.tier = DecodeTier::Sparse;
    second.known_from = 0.5;
    other.estimate.known_from = 0.5;
    let SecondOutcome::Predicted(second) = &mut other.outcome else { unreachable!() };
    let previous = second.pack.clone();
    second.pack = Arc::new(PackStamp { manifest_sha256: "77aa".into(), ..(*previous).clone() });
    let changed = second.clone();
    lines.extend(live.published(&other));
    if let SecondOutcome::Predicted(second) = &mut other.outcome {
        second.tier = DecodeTier::Key;
    }
    lines.extend(live.published(&other));
    let second = &changed;
    lines.push(live.pack(second, &previous, 1_700_000_000_000_000_000));
    lines.push(recorder(Pace::File).pack(second, &previous, 0));
    let tenure = FleetTenure::new("node-a".into(), PublishingRight::default());
    tenure.take(7);
    let of_fleet = live.clone().with_tenure(Some(Arc::new(tenure)));
    lines.push(of_fleet.lost(RunId(3), 1_700_000_000_000_000_000, 1_700_000_003_400_000_000));
    for reason in GapReason::ALL {
        lines.extend(live.published(&gap(9, reason)));
    }
    let mut bars = gap(9, GapReason::NoProgramme);
    if let SecondOutcome::Gap(gap) = &mut bars.outcome {
        gap.signals = Signal::ALL.into_iter().collect();
    }
    bars.events = with_events.events[1..].to_vec();
    bars.events[0].reason = Some(EventReason::NoProgramme);
    lines.extend(live.published(&bars));
    let mut silent = predicted(9, "soccer", 0.4);
    if let SecondOutcome::Predicted(second) = &mut silent.outcome {
        second.absent.audio = Some(Absent::Silent);
    }
    lines.extend(live.published(&silent));
    for (index, name) in (10..).zip(FrameRate::NAMES) {
        let rate = FrameRate::parse(name).unwrap();
        let mut coded = predicted(index, "soccer", 0.4);
        if let SecondOutcome::Predicted(second) = &mut coded.outcome {
            second.timecode = Some(TimecodeMark { pts: Pts::from_second(index), frame: 107_892, rate });
        }
        lines.extend(recorder(Pace::File).published(&coded));
    }
    let tennis = SegmentKind::Class(ClassId(1));
    for kind in [tennis, SegmentKind::Unknown, SegmentKind::NoProgramme, SegmentKind::Undecided] {
        lines.push(live.segment(&closed(kind)));
    }
    let mut timeless = closed(tennis);
    (timeless.segment.began_ns, timeless.segment.ended_ns) = (None, None);
    lines.push(recorder(Pace::File).segment(&timeless));
    let mut empty = gap(10, GapReason::NoMedia);
    empty.estimate.seconds = 0;
    lines.extend(live.published(&empty));
    for state in [
        StreamState::Connecting,
        StreamState::Playing,
        StreamState::Waiting {
            kind: Cause::HostUnreachable,
            cause: "host unreachable".into(),
            attempt: 3,
            retry_in_ns: 2_500_000_000,
        },
        StreamState::Paused,
        StreamState::Ended,
        StreamState::Removed,
        StreamState::Failed { kind: Cause::NotFound, cause: "404".into(), advice: "check the URL".into() },
    ] {
        lines.push(live.state(&state, Some(Tracks { video: true, audio: false }), 1_700_000_000_000_000_000));
        lines.push(recorder(Pace::File).state(&state, None, 0));
    }
    for kind in Cause::ALL {
        let state = StreamState::Failed { kind, cause: "c".into(), advice: "a".into() };
        lines.push(live.state(&state, None, 1_700_000_000_000_000_000));
    }
    let incidents = [
        Incident::TrackStalled { track: Track::Audio, silent_ns: 5_250_000_000 },
        Incident::TrackRecovered { track: Track::Video, silent_ns: 61_000_000_000 },
        Incident::TrackLost { track: Track::Audio },
        Incident::TrackAdded { track: Track::Video },
        Incident::TcpFallback,
        Incident::DecoderFallback,
        Incident::ClockWrapped,
        Incident::SegmentLost(Cause::NotFound),
        Incident::AdBreakBegan,
        Incident::AdBreakEnded,
        Incident::ClockImplausible,
        Incident::ClockPlausible,
        Incident::FormatChanged { track: Track::Video },
        Incident::SignalBegan { signal: Signal::Black, began: Pts(1_500_000_000), lasted_ns: 2_000_000_000 },
        Incident::SignalEnded { signal: Signal::Silence, began: Pts(0), lasted_ns: 12_000_000_000 },
    ];
    for (end, names, on_air) in [
        (None, &["tennis", "unknown", "no-programme"][..], Some(OnAir::Class(ClassId(2)))),
        (Some(ExpectationEnd::OnAir), &["tennis"], Some(OnAir::Class(ClassId(1)))),
        (Some(ExpectationEnd::Changed), &["soccer"], Some(OnAir::NoProgramme)),
        (Some(ExpectationEnd::Ended), &["other"], None),
    ] {
        let event = expectation(end, names, on_air);
        lines.push(live.expectation(&event, predicted(9, "tennis", 0.9).wall()));
        lines.push(recorder(Pace::File).expectation(&event, None));
    }
    for incident in incidents.into_iter().chain(Discontinuity::ALL.map(Incident::RunStarted)) {
        lines.push(live.incident(&incident, RunId(3), 1_700_000_000_000_000_000));
        lines.push(recorder(Pace::File).incident(&incident, RunId(3), 0));
    }
    lines
}

fn schema() -> Value {
    serde_json::from_str(&SCHEMA).expect("the schema is JSON")
}

/// The schema without unknown keys.
fn strict_schema() -> Value {
    let mut schema = schema();
    drop(schema.as_object_mut().unwrap().remove("additionalProperties"));
    for kind in schema["oneOf"].as_array_mut().unwrap() {
        drop(kind.as_object_mut().unwrap().remove("additionalProperties"));
    }
    schema["unevaluatedProperties"] = false.into();
    for definition in schema["$defs"].as_object_mut().unwrap().values_mut() {
        if definition.get("properties").is_some() {
            definition["additionalProperties"] = false.into();
        }
    }
    schema
}

#[test]
fn records_follow_the_schema_and_changed_records_do_not() {
    let validator = jsonschema::validator_for(&strict_schema()).expect("the schema is valid");
    for line in all_records() {
        let record: Value = serde_json::from_str(&line).expect("a record is JSON");
        validator.validate(&record).unwrap_or_else(|e| panic!("{e}\n{line}"));
        for (key, value) in record.as_object().unwrap() {
            let changed = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
                let mut record = record.clone();
                change(record.as_object_mut().unwrap());
                assert!(!validator.is_valid(&record), "{key}: {record}");
            };
            let optional =
                ["timecode", "frame_share", "tier", "unknown", "signal", "began_pts_ns", "lasted_ms", "instance"];
            let of_fleet = ["node", "epoch", "lost"];
            let may_be_absent = optional.iter().chain(&of_fleet).any(|optional| key == optional)
                || (key == "reason" && ["event", "expectation"].iter().any(|kind| record["type"] == *kind));
            if !may_be_absent {
                changed(&|record| drop(record.remove(key)));
            }
            changed(&|record| drop(record.insert(key.clone(), serde_json::json!([value]))));
            changed(&|record| drop(record.insert(format!("{key}s"), value.clone())));
            // These have the keys of the pack, or reasons.
            if value.is_object() && !["probabilities", "gaps"].contains(&key.as_str()) {
                changed(&|record| drop(record[key].as_object_mut().unwrap().insert("more".into(), 1.into())));
            }
        }
    }
}

/// A file with the records or the schema of this version, as the first program with the version wrote them.
fn stored(name: &str) -> std::path::PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference/records");
    std::path::Path::new(folder).join(format!("v{SCHEMA_VERSION}.{name}"))
}

/// Whether readers that know `old` can read what follows `new`: it may have more keys, values and alternatives, but none less, and
/// required keys stay required.
fn extends(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => old.iter().all(|(key, old)| match (key.as_str(), new.get(key)) {
            // For people, or limits of values, which readers need not know.
            ("description" | "title" | "minimum" | "maximum" | "format", _) => true,
            (_, Some(new)) => extends(new, old),
            (_, None) => false,
        }),
        // `required`, `enum`, `oneOf`: sets. A type that may be null now was not null before.
        (Value::Array(new), Value::Array(old)) => old.iter().all(|old| new.iter().any(|new| extends(new, old))),
        (new, old) => new == old,
    }
}

#[test]
fn records_of_this_version_only_gain_keys_and_values() {
    let old: Value = serde_json::from_str(&std::fs::read_to_string(stored("schema.json")).unwrap()).unwrap();
    assert!(extends(&schema(), &old), "a key or a value was changed or removed: raise SCHEMA_VERSION, or keep it");
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for line in std::fs::read_to_string(stored("jsonl")).unwrap().lines() {
        validator.validate(&serde_json::from_str(line).unwrap()).unwrap_or_else(|e| panic!("{e}\n{line}"));
    }
}

#[test]
fn changed_and_removed_keys_and_values_do_not_extend_a_schema() {
    let old = schema();
    assert!(extends(&old, &old));
    let changed = |pointer: &str, change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(new.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}: {old:#}")));
        extends(&new, &old)
    };
    let second = "/oneOf/0";
    assert!(changed(&format!("{second}/properties"), &|keys| keys["more"] = serde_json::json!({ "type": "string" })));
    assert!(!changed(&format!("{second}/properties"), &|keys| drop(keys.as_object_mut().unwrap().remove("label"))));
    assert!(!changed(&format!("{second}/properties/label"), &|key| key["type"] = "integer".into()));
    assert!(!changed(&format!("{second}/required"), &|keys| drop(keys.as_array_mut().unwrap().pop())));
    assert!(!changed("/oneOf", &|kinds| drop(kinds.as_array_mut().unwrap().pop())));
}

/// Stores the records and the schema of a new version.
#[test]
#[ignore = "run once when SCHEMA_VERSION rises"]
fn store() {
    std::fs::create_dir_all(stored("").parent().unwrap()).unwrap();
    std::fs::write(stored("schema.json"), SCHEMA.as_bytes()).unwrap();
    std::fs::write(stored("jsonl"), all_records().join("\n") + "\n").unwrap();
}

#[test]
fn every_key_and_value_of_the_schema_occurs_in_a_record() {
    let records = all_records().join("\n");
    fn walk(schema: &Value, records: &str) {
        for property in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            assert!(records.contains(&format!("\"{}\":", property.0)), "no record has {}", property.0);
        }
        let names = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
        for name in names.chain(schema.get("const")).filter_map(Value::as_str) {
            let unused_here = ["rtcp-sender-report", "hls-program-date-time", "audio", "flow", "default", "no-model"];
            assert!(records.contains(&format!("\"{name}\"")) || unused_here.contains(&name), "no record has {name}");
        }
        match schema {
            Value::Object(object) => object.values().for_each(|v| walk(v, records)),
            Value::Array(array) => array.iter().for_each(|v| walk(v, records)),
            _ => {}
        }
    }
    walk(&schema(), &records);
}

#[test]
fn a_second_has_the_expected_text() {
    let line = &recorder(Pace::Live).published(&predicted(7, "tennis", 0.9))[0];
    assert_eq!(
        line,
        concat!(
            r#"{"type":"second","stream":"court-1","run":0,"index":7,"pts_ns":7000000000,"#,
            r#""wall":{"time":"2023-11-14T22:13:27.000Z","source":"arrival","uncertainty_ms":1200.0},"#,
            r#""modalities":{"rgb":{"label":"tennis","score":0.9,"votes":4,"voters":5},"#,
            r#""flow":{"label":"tennis","score":0.9,"votes":4,"voters":5},"audio":{"absent":"no-track"}},"#,
            r#""decided_by":"rgb","why":"table","label":"tennis","probability":0.9,"#,
            r#""probabilities":{"soccer":0.05,"tennis":0.9,"other":0.05},"#,
            r#""window":{"label":"tennis","share":{"soccer":0.0,"tennis":1.0,"other":0.0},"#,
            r#""mean":{"soccer":0.05,"tennis":0.9,"other":0.05},"seconds":8,"gaps":0},"#,
            r#""latency_ms":640.25,"backlog":1,"#,
            r#""pack":{"name":"compact","weights_sha256":"3f7a","manifest_sha256":"9d01"},"schema":1}"#
        )
    );
}

#[test]
fn records_of_a_file_do_not_depend_on_the_time_of_reading() {
    let (mut early, mut late) = (predicted(7, "tennis", 0.9), predicted(7, "tennis", 0.9));
    for (published, unix_ns) in [(&mut early, 5), (&mut late, 1_800_000_000_000_000_000)] {
        if let SecondOutcome::Predicted(second) = &mut published.outcome {
            second.wall.unix_ns = unix_ns;
        }
    }
    let file = recorder(Pace::File);
    assert_eq!(file.published(&early), file.published(&late));
    assert!(file.published(&early)[0].contains(r#""wall":null"#));
    if let SecondOutcome::Predicted(second) = &mut early.outcome {
        second.wall.source = WallSource::HlsProgramDateTime;
    }
    assert!(
        file.published(&early)[0].contains(r#""source":"hls-program-date-time""#),
        "the time of the stream itself is kept"
    );
}

#[test]
fn an_event_has_only_the_wall_time_of_its_own_second() {
    let mut published = predicted(7, "tennis", 0.9);
    let event = |index| Event {
        kind: EventKind::Offset,
        class: ClassId(0),
        run: RunId(0),
        index,
        probability: 0.1,
        reason: None,
    };
    published.events = vec![event(7), event(6)];
    let lines = recorder(Pace::Live).published(&published);
    assert!(lines[1].contains(r#""wall":{"time":"2023-11-14T22:13:27.000Z""#), "{}", lines[1]);
    assert!(lines[2].contains(r#""wall":null"#), "{}", lines[2]);
}

#[test]
fn an_incident_has_the_expected_text() {
    let incident = Incident::TrackStalled { track: Track::Audio, silent_ns: 5_250_000_000 };
    let line = recorder(Pace::Live).incident(&incident, RunId(3), 1_700_000_010_000_000_000);
    assert_eq!(
        line,
        concat!(
            r#"{"type":"incident","stream":"court-1","incident":"track-stalled","track":"audio","cause":null,"run":3,"#,
            r#""since":"2023-11-14T22:13:24.750Z","at":"2023-11-14T22:13:30.000Z","schema":1}"#
        )
    );
}

#[test]
fn a_waiting_stream_states_the_time_of_the_next_attempt() {
    let (kind, cause) = (Cause::ServerError, "the server failed (503)".to_owned());
    let state = StreamState::Waiting { kind, cause, attempt: 4, retry_in_ns: 6_500_000_000 };
    let line = recorder(Pace::Live).state(&state, None, 1_700_000_010_000_000_000);
    assert_eq!(
        line,
        concat!(
            r#"{"type":"state","stream":"court-1","state":"waiting","kind":"server-error","#,
            r#""cause":"the server failed (503)","advice":null,"attempt":4,"retry_in_ms":6500.0,"#,
            r#""next_try":"2023-11-14T22:13:36.500Z","tracks":null,"at":"2023-11-14T22:13:30.000Z","schema":1}"#
        )
    );
}

#[test]
fn states_contain_no_secrets() {
    let state = StreamState::Failed {
        kind: Cause::Other,
        cause: "cannot open rtsp://ann:pw12@cam/live".into(),
        advice: "try https://x.example/?token=zzz".into(),
    };
    let line = recorder(Pace::Live).state(&state.redacted(), None, 0);
    assert!(!line.contains("pw12") && !line.contains("zzz") && line.contains("***"), "{line}");
}
