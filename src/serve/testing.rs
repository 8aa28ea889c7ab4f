//! Hubs and published seconds for unit tests.

use std::sync::Arc;

use crate::hub::{Hub, HubInfo};
use crate::metrics::Metrics;
use crate::record::Published;
use touchline_core::clip::{Absent, FrameShare, Gap, GapReason};
use touchline_core::clock::Clock;
use touchline_core::decision::{
    Decision, DecisionReason, ModalityScores, PackStamp, PerModality, SecondOutcome, SecondPrediction, WindowEstimate,
};
use touchline_core::expectation::WatchedSecond;
use touchline_core::labels::{ClassSet, Modality};
use touchline_core::tier::DecodeTier;
use touchline_core::time::{RunId, WallSource, WallTime};

/// 2023-11-14T22:13:20Z.
pub const EPOCH_NS: i64 = 1_700_000_000_000_000_000;

pub fn classes() -> ClassSet {
    ClassSet::new(["soccer", "tennis", "other"].map(String::from).to_vec()).unwrap()
}

/// The pack of all that is published here.
pub fn stamp() -> PackStamp {
    PackStamp { name: "compact".into(), weights_sha256: "3f7a".into(), manifest_sha256: "9d01".into() }
}

/// A hub without streams, whose pack has every modality.
pub fn hub(clock: Arc<dyn Clock>) -> Hub {
    let info = HubInfo {
        classes: classes(),
        modalities: Modality::ALL.to_vec(),
        pack: stamp(),
        vote_window_s: 10,
        instance: None,
    };
    Hub::new(info, Metrics::new(), clock)
}

/// Second `index` of run 0, without sound, decided by RGB.
pub fn predicted(index: u64, label: &str, probability: f32) -> Published {
    let classes = classes();
    let id = classes.id(label).unwrap();
    let rest = (1.0 - probability) / 2.0;
    let scores: Vec<f32> = classes.ids().map(|c| if c == id { probability } else { rest }).collect();
    let share = classes.ids().map(|c| f32::from(u8::from(c == id))).collect();
    let modality = || Some(ModalityScores { scores: scores.clone(), label: id, votes: 4, voters: 5 });
    Published {
        outcome: SecondOutcome::Predicted(SecondPrediction {
            run: RunId(0),
            index,
            scores: PerModality { rgb: modality(), flow: modality(), audio: None },
            absent: PerModality { rgb: None, flow: None, audio: Some(Absent::NoTrack) },
            decision: Decision {
                label: id,
                probability,
                modality: Modality::Rgb,
                why: DecisionReason::Table,
                probabilities: scores.clone(),
            },
            known_from: 0.0,
            frame_share: FrameShare::ALL,
            tier: DecodeTier::Full,
            pack: Arc::new(stamp()),
            wall: WallTime {
                unix_ns: EPOCH_NS + index as i64 * 1_000_000_000,
                source: WallSource::Arrival,
                uncertainty_ns: 1_200_000_000,
            },
            timecode: None,
            arrived_ns: 0,
        }),
        estimate: WindowEstimate { share, mean: scores, label: id, seconds: 8, gaps: 0, known_from: 0.0 },
        events: Vec::new(),
        segments: Vec::new(),
        watched: WatchedSecond::default(),
        latency_ns: Some(640_250_000),
        backlog: 1,
    }
}

/// Second `index` of run 0 as a gap after tennis.
pub fn gap(index: u64, reason: GapReason) -> Published {
    let mut published = predicted(index, "tennis", 0.9);
    published.outcome = SecondOutcome::Gap(Gap::new(RunId(0), index, reason));
    published.latency_ns = None;
    published
}
