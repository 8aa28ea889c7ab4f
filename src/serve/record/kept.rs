//! Seconds as the store keeps them for exports: records with the keys that [`super::reader`] reads, and without the classes that
//! are hardly probable.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::format::{rfc3339, round6};
use super::types::{Missing, TimecodeRecord};
use super::{Published, Recorder, to_json};
use touchline_core::clip::{Absent, GapReason};
use touchline_core::decision::SecondOutcome;
use touchline_core::labels::Modality;
use touchline_core::time::RunId;

/// Probabilities below this are left out. They are smaller than what is printed of the mean of a segment.
const PROBABILITY_MIN: f32 = 0.001;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum KeptRecord<'a> {
    Second {
        stream: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        run: RunId,
        index: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        wall: Option<KeptWall>,
        #[serde(skip_serializing_if = "Option::is_none")]
        timecode: Option<TimecodeRecord>,
        decided_by: Modality,
        /// Only if there is no sound track.
        #[serde(skip_serializing_if = "Option::is_none")]
        modalities: Option<KeptModalities>,
        unknown: bool,
        probabilities: BTreeMap<&'a str, f64>,
        window: KeptWindow,
    },
    Gap {
        stream: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
        run: RunId,
        index: u64,
        reason: GapReason,
        window: KeptWindow,
    },
}

#[derive(Serialize)]
struct KeptModalities {
    audio: KeptAudio,
}

#[derive(Serialize)]
struct KeptAudio {
    absent: Missing,
}

#[derive(Serialize)]
struct KeptWall {
    time: String,
}

#[derive(Serialize)]
struct KeptWindow {
    seconds: u32,
    gaps: u32,
}

/// One line without a line break.
pub(crate) fn line(recorder: &Recorder, published: &Published) -> String {
    let (stream, run, index) = (recorder.stream(), published.outcome.run(), published.outcome.index());
    let window = KeptWindow { seconds: published.estimate.seconds, gaps: published.estimate.gaps };
    let epoch = recorder.epoch();
    to_json(&match &published.outcome {
        SecondOutcome::Predicted(second) => KeptRecord::Second {
            stream,
            epoch,
            run,
            index,
            wall: recorder.shown_wall(second.wall).map(|wall| KeptWall { time: rfc3339(wall.unix_ns) }),
            timecode: second.timecode.map(Into::into),
            decided_by: second.decision.modality,
            modalities: (second.absent.audio == Some(Absent::NoTrack))
                .then_some(KeptModalities { audio: KeptAudio { absent: Missing::NoTrack } }),
            unknown: second.is_unknown(),
            probabilities: recorder
                .classes()
                .names()
                .iter()
                .zip(&second.decision.probabilities)
                .filter(|(_, probability)| **probability >= PROBABILITY_MIN)
                .map(|(name, probability)| (name.as_str(), round6(*probability)))
                .collect(),
            window,
        },
        SecondOutcome::Gap(gap) => KeptRecord::Gap { stream, epoch, run, index, reason: gap.reason, window },
    })
}

/// The keys of a record that are kept as they are. `node` says that another machine decided the second.
const KEYS: [&str; 10] =
    ["type", "stream", "node", "epoch", "run", "index", "timecode", "decided_by", "unknown", "reason"];

/// As [`line()`], of the record of a second or a gap that another machine of the fleet wrote.
pub(crate) fn line_of(record: &Value) -> String {
    let part = |of: &Value, keys: &[&str]| -> Map<String, Value> {
        keys.iter().filter_map(|key| Some(((*key).to_owned(), of.get(*key)?.clone()))).collect()
    };
    let mut kept = part(record, &KEYS);
    if record["wall"].is_object() {
        kept.insert("wall".into(), part(&record["wall"], &["time"]).into());
    }
    let audio = &record["modalities"]["audio"];
    if audio["absent"] == "no-track" {
        kept.insert("modalities".into(), json!({ "audio": { "absent": "no-track" } }));
    }
    if let Some(all) = record["probabilities"].as_object() {
        let is_kept = |value: &Value| value.as_f64().is_some_and(|value| value >= f64::from(PROBABILITY_MIN));
        let all = all.iter().filter(|(_, value)| is_kept(value)).map(|(name, value)| (name.clone(), value.clone()));
        kept.insert("probabilities".into(), all.collect::<Map<_, _>>().into());
    }
    kept.insert("window".into(), part(&record["window"], &["seconds", "gaps"]).into());
    Value::from(kept).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::reader::read;
    use crate::record::{FleetTenure, PublishingRight};
    use crate::testing::{classes, gap, predicted};
    use touchline_core::decision::{Event, EventKind};
    use touchline_core::item::Pace;

    #[test]
    fn seconds_without_a_sound_track_are_known() {
        let recorder = Recorder::new("court-1", Arc::new(classes()), Pace::File);
        for (with_sound, is_silent) in [(&[][..], true), (&[3], false)] {
            let (mut whole, mut kept) = (Vec::new(), Vec::new());
            for index in 0..5 {
                let mut published = predicted(index, "tennis", 0.9);
                if let SecondOutcome::Predicted(second) = &mut published.outcome {
                    second.absent.audio =
                        Some(if with_sound.contains(&index) { Absent::NoData } else { Absent::NoTrack });
                    second.scores.audio = None;
                }
                kept.push(line(&recorder, &published));
                whole.extend(recorder.published(&published));
            }
            for lines in [&whole, &kept] {
                let silent = read(lines.join("\n").as_bytes()).unwrap().silent;
                assert_eq!(silent.contains("court-1"), is_silent, "{lines:?}");
            }
        }
    }

    #[test]
    fn seconds_of_another_machine_are_kept_as_its_own_are() {
        let tenure = FleetTenure::new("b".into(), PublishingRight::default());
        tenure.take(7);
        let recorder = Recorder::new("court-1", Arc::new(classes()), Pace::Live).with_tenure(Some(Arc::new(tenure)));
        for published in [predicted(3, "tennis", 0.9995), gap(4, GapReason::Overload)] {
            let own: Value = serde_json::from_str(&line(&recorder, &published)).unwrap();
            let record: Value = serde_json::from_str(&recorder.published(&published)[0]).unwrap();
            let mut kept: Value = serde_json::from_str(&line_of(&record)).unwrap();
            assert_eq!(kept.as_object_mut().unwrap().remove("node"), Some("b".into()));
            // Absent is false.
            let unknown = own["unknown"].as_bool();
            assert_eq!(unknown.unwrap_or(false), kept["unknown"].as_bool().unwrap_or(false));
            let keys = |mut line: Value| {
                line.as_object_mut().unwrap().remove("unknown");
                line
            };
            assert_eq!(keys(kept), keys(own));
        }
    }

    #[test]
    fn kept_seconds_give_the_segments_of_their_records() {
        for pace in [Pace::Live, Pace::File] {
            let recorder = Recorder::new("court-1", Arc::new(classes()), pace);
            let (mut whole, mut kept) = (Vec::new(), Vec::new());
            for index in 0..30 {
                let mut published =
                    if index == 8 { gap(8, GapReason::Overload) } else { predicted(index, "tennis", 0.9) };
                if index == 2 {
                    let class = classes().id("tennis").unwrap();
                    let kind = EventKind::Onset;
                    published.events =
                        vec![Event { kind, class, run: RunId(0), index, probability: 0.9, reason: None }];
                }
                let records = recorder.published(&published);
                kept.push(line(&recorder, &published));
                kept.extend_from_slice(&records[1..]);
                whole.extend(records);
            }
            let segments = |lines: &[String]| {
                let file = read(lines.join("\n").as_bytes()).unwrap();
                assert_eq!(file.damaged, 0, "{:?}", file.damaged_lines);
                file.streams["court-1"].segments(|_| true)
            };
            let (whole_bytes, kept_bytes) = (whole.join("\n").len(), kept.join("\n").len());
            assert!(kept_bytes * 2 < whole_bytes, "{kept_bytes} of {whole_bytes} bytes");
            let [expected, found] = [&whole, &kept].map(|lines| segments(lines));
            assert_eq!((found.len(), found[0].seconds()), (1, 30));
            assert_eq!(found[0].began_ns, expected[0].began_ns);
            assert_eq!(
                (found[0].mean, found[0].peak, found[0].gaps),
                (expected[0].mean, expected[0].peak, expected[0].gaps)
            );
        }
    }
}
