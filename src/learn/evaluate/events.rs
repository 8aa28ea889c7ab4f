//! Errors of events on simulated programmes: missed and false events, delay, and errors of begin and end.
//!
//! The decisions of a programme pass the vote and the segments of `touchline_core`, as a stream does. An event is a class that
//! was on air, dated back to the change. A scene of a sport is found by the event of its class that overlaps it most. Scenes
//! without an event are missed, events without a scene are false: those of another class, and all but one of several for the
//! same scene. Events of `other` are not counted. Unknown seconds are not withheld, because events have thresholds of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::bootstrap::{DRAWS, interval};
use super::programme::{Programme, RecordingPool};
use super::result::{EventFigures, EventsOfLength, Interval};
use touchline_core::clip::{FrameShare, Gap, GapReason};
use touchline_core::decision::{Decision, Event, EventKind, PackStamp, PerModality, SecondOutcome, SecondPrediction};
use touchline_core::labels::{ClassId, ClassSet, OTHER};
use touchline_core::segment::{MILLION, RecordedSecond, SegmentKind, Segmenter, Verdict};
use touchline_core::tier::DecodeTier;
use touchline_core::time::{RunId, WallSource, WallTime};
use touchline_core::vote::{VoteConfig, Voter};

/// Mean lengths of the scenes of a sport, seconds: highlights, a news item, a live broadcast with interruptions.
const SCENE_SECONDS: [u32; 3] = [20, 60, 180];

/// A class that was on air.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Detection {
    class: ClassId,
    /// Its first second, dated back to the change.
    first: u64,
    /// The second after its last, dated back to the change.
    end: u64,
    /// The second whose vote brought it on air; `None` for what is left of it after an interruption.
    onset: Option<u64>,
}

/// Counts and sums over the scenes of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    seconds: u64,
    scenes: u64,
    missed: u64,
    is_false: u64,
    found: u64,
    begin_error: u64,
    end_error: u64,
    /// Scenes whose onset is known, and the sum of the seconds from their begin to it.
    onsets: u64,
    delay: i64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.scenes += other.scenes;
        self.missed += other.missed;
        self.is_false += other.is_false;
        self.found += other.found;
        self.begin_error += other.begin_error;
        self.end_error += other.end_error;
        self.onsets += other.onsets;
        self.delay += other.delay;
    }
}

/// Errors of events, by length of scenes and source.
#[derive(Clone, Debug)]
pub struct EventErrors {
    vote: VoteConfig,
    tallies: BTreeMap<u32, BTreeMap<u32, Tally>>,
}

impl EventErrors {
    /// No programme yet.
    pub fn new(vote: VoteConfig) -> Self {
        Self { vote, tallies: BTreeMap::new() }
    }

    /// Adds the programmes of a pool.
    pub fn add(&mut self, pool: &RecordingPool, classes: &ClassSet, seed: u64) {
        for length in SCENE_SECONDS {
            let tallies = self.tallies.entry(length).or_default();
            for programme in pool.programmes(length, seed) {
                tally(&programme, &detections(&programme, self.vote, classes.len()), classes.id(OTHER), tallies);
            }
        }
    }

    /// The figures; `None` without a programme. `seed` is that of the bootstrap.
    pub fn figures(&self, seed: u64) -> Option<EventFigures> {
        let lengths = self.tallies.iter().map(|(length, tallies)| {
            let tallies: Vec<Tally> = tallies.values().copied().collect();
            figures(*length, &tallies, seed)
        });
        let VoteConfig { window, stride, onset, offset, .. } = self.vote;
        let by_length: Vec<EventsOfLength> = lengths.collect();
        let figures = EventFigures {
            vote_window: window,
            vote_stride: stride,
            vote_onset: onset.into(),
            vote_offset: offset.into(),
            by_length,
        };
        (!figures.by_length.is_empty()).then_some(figures)
    }
}

/// Votes over a programme. Returns what was on air, in order.
fn detections(programme: &Programme, vote: VoteConfig, classes: usize) -> Vec<Detection> {
    let pack =
        Arc::new(PackStamp { name: String::new(), weights_sha256: String::new(), manifest_sha256: String::new() });
    let (mut voter, mut segmenter) = (Voter::new(vote, classes), Segmenter::default());
    let (mut events, mut onsets): (Vec<Event>, Vec<(ClassId, u64)>) = (Vec::new(), Vec::new());
    for (decision, index) in programme.seconds.iter().zip(0..) {
        voter.push(&outcome(*decision, index, &pack), &mut events);
        segmenter.push(recorded(*decision, index), vote.window);
        for event in events.drain(..) {
            segmenter.event(&event);
            if event.kind == EventKind::Onset {
                onsets.push((event.class, event.index));
            }
        }
    }
    voter.finish(&mut events);
    events.iter().for_each(|event| segmenter.event(event));
    let segments = segmenter.finish().segments(|_| true);
    let of_class = segments.into_iter().filter_map(|segment| {
        let SegmentKind::Class(class) = segment.kind else { return None };
        let (first, end) = (segment.first, segment.last + 1);
        // An onset is dated back by less than a vote window.
        let dated = first..first + u64::from(vote.window);
        let onset = onsets.iter().find(|(of, at)| *of == class && dated.contains(at)).map(|(_, at)| *at);
        Some(Detection { class, first, end, onset })
    });
    of_class.collect()
}

fn outcome(decision: Option<&Decision>, index: u64, pack: &Arc<PackStamp>) -> SecondOutcome {
    let run = RunId(0);
    let Some(decision) = decision else { return SecondOutcome::Gap(Gap::new(run, index, GapReason::NoMedia)) };
    SecondOutcome::Predicted(SecondPrediction {
        run,
        index,
        scores: PerModality::default(),
        absent: PerModality::default(),
        decision: decision.clone(),
        known_from: 0.0,
        frame_share: FrameShare::ALL,
        tier: DecodeTier::Full,
        pack: pack.clone(),
        wall: WallTime { unix_ns: 0, source: WallSource::Arrival, uncertainty_ns: 0 },
        timecode: None,
        arrived_ns: 0,
    })
}

fn recorded(decision: Option<&Decision>, index: u64) -> RecordedSecond {
    let verdict = match decision {
        None => Verdict::Gap(GapReason::NoMedia),
        Some(Decision { modality, probabilities, .. }) => Verdict::Decided {
            is_unknown: false,
            modality: *modality,
            probabilities: probabilities.iter().map(|p| (p * MILLION as f32) as u32).collect(),
        },
    };
    RecordedSecond { run: RunId(0), index, wall_ns: None, timecode: None, verdict }
}

/// Compares what was on air with the scenes, and adds the counts to the source of each scene. A false event belongs to the source
/// that was shown when it began.
fn tally(programme: &Programme, detections: &[Detection], other: Option<ClassId>, tallies: &mut BTreeMap<u32, Tally>) {
    let mut overlaps: Vec<(u64, usize, usize)> = Vec::new();
    for (s, scene) in programme.scenes.iter().enumerate() {
        tallies.entry(scene.group).or_default().seconds += scene.end - scene.first;
        let same = detections.iter().enumerate().filter(|(_, d)| d.class == scene.class && Some(d.class) != other);
        overlaps.extend(same.filter_map(|(d, detection)| {
            let seconds = detection.end.min(scene.end).checked_sub(detection.first.max(scene.first))?;
            (seconds > 0).then_some((seconds, s, d))
        }));
    }
    // The largest overlap first, then the earliest scene.
    overlaps.sort_by_key(|(seconds, s, d)| (std::cmp::Reverse(*seconds), *s, *d));
    let mut of_scene: Vec<Option<Detection>> = vec![None; programme.scenes.len()];
    let mut is_taken = vec![false; detections.len()];
    for (_, s, d) in overlaps {
        if of_scene[s].is_none() && !std::mem::replace(&mut is_taken[d], true) {
            of_scene[s] = Some(detections[d]);
        }
    }
    for (scene, found) in programme.scenes.iter().zip(of_scene).filter(|(s, _)| Some(s.class) != other) {
        let tally = tallies.entry(scene.group).or_default();
        tally.scenes += 1;
        let Some(found) = found else {
            tally.missed += 1;
            continue;
        };
        tally.found += 1;
        tally.begin_error += found.first.abs_diff(scene.first);
        tally.end_error += found.end.abs_diff(scene.end);
        if let Some(onset) = found.onset {
            tally.onsets += 1;
            // The event is known at the end of its second.
            tally.delay += (onset + 1) as i64 - scene.first as i64;
        }
    }
    for (detection, is_taken) in detections.iter().zip(is_taken) {
        if !is_taken && Some(detection.class) != other {
            tallies.entry(programme.scene_at(detection.first).group).or_default().is_false += 1;
        }
    }
}

fn figures(scene_seconds: u32, tallies: &[Tally], seed: u64) -> EventsOfLength {
    let mut all = Tally::default();
    tallies.iter().for_each(|tally| all.add(tally));
    let ratio = |of: fn(&Tally) -> (f64, f64)| ratio(tallies, of, seed);
    let hours = |tally: &Tally| tally.seconds as f64 / 3600.0;
    EventsOfLength {
        scene_seconds,
        hours: hours(&all),
        scenes: all.scenes,
        missed_per_hour: ratio(|t| (t.missed as f64, t.seconds as f64 / 3600.0)),
        false_per_hour: ratio(|t| (t.is_false as f64, t.seconds as f64 / 3600.0)),
        delay_s: (all.onsets > 0).then(|| ratio(|t| (t.delay as f64, t.onsets as f64))),
        begin_error_s: (all.found > 0).then(|| ratio(|t| (t.begin_error as f64, t.found as f64))),
        end_error_s: (all.found > 0).then(|| ratio(|t| (t.end_error as f64, t.found as f64))),
    }
}

/// The ratio of two sums over sources, with its 95 % interval over sources.
fn ratio(tallies: &[Tally], of: fn(&Tally) -> (f64, f64), seed: u64) -> Interval {
    let parts: Vec<(f64, f64)> = tallies.iter().map(of).collect();
    let value = |drawn: &mut dyn Iterator<Item = usize>| {
        let (over, under) = drawn.fold((0.0, 0.0), |(over, under), i| (over + parts[i].0, under + parts[i].1));
        // Sources in which nothing was found have no error.
        (under > 0.0).then_some(over / under)
    };
    let all = value(&mut (0..parts.len())).unwrap_or(0.0);
    if parts.len() < 2 {
        return interval(all, Vec::new());
    }
    let mut rng = SmallRng::seed_from_u64(seed);
    let draws = (0..DRAWS).filter_map(|_| value(&mut (0..parts.len()).map(|_| rng.random_range(0..parts.len()))));
    interval(all, draws.collect())
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
