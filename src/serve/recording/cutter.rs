//! Makes clips from the rings: knows the latest seconds of every stream, and which media belong to them.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::open_clips::LeftClip;
use crate::clips::{
    self, ClipMaker, ClipReason, ClipRefusal, ClipStore, ClipSubject, DecisionRecord, MissingReason, MissingSpan,
    Sidecar,
};
use crate::config::RecordSettings;
use crate::metrics::{ClipResult, Metrics};
use touchline_core::item::Discontinuity;
use touchline_core::time::{NANOS_PER_SECOND, Pts, RunId};
use touchline_media::gst::clips::ring::{self, Arrived, RingAnchor, RingOptions, cut_ring};
use touchline_media::gst::clips::{ClipError, ClipFile, ClipRequest};

/// How many files of the ring are removed for one clip on a full disk. A clip is not larger than these.
const MAKE_ROOM_MAX: usize = 16;

/// The latest time of a request after the begin of the second before it, ns. Seconds follow each other; behind a longer hole there
/// are no media.
const HOLE_MAX_NS: i64 = 2 * NANOS_PER_SECOND as i64;

/// A shorter part without media is not worth a word: tracks do not begin and end at the same time.
const MISSING_MIN_NS: u64 = NANOS_PER_SECOND;

/// Where a second of a stream is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct SecondPlace {
    pub run: RunId,
    pub index: u64,
    /// Monotonic clock when its last sample arrived, ns.
    pub arrived_ns: u64,
    /// Wall time of its start, nanoseconds since 1970-01-01 UTC.
    pub wall_ns: Option<i64>,
    /// Its label, as the number of the class, and its probability.
    #[serde(skip)]
    pub top: Option<(usize, f32)>,
}

/// The latest seconds of one stream: at most `ring_s`, the length of its ring.
#[derive(Default)]
struct LatestSeconds {
    places: VecDeque<SecondPlace>,
    records: VecDeque<DecisionRecord>,
    /// The latest runs, with the number of the first second and why each began.
    runs: VecDeque<RunBegin>,
    /// Why the next run begins, once that is known.
    cause: Option<(RunId, Discontinuity)>,
}

#[derive(Clone, Copy, Debug)]
struct RunBegin {
    run: RunId,
    first: u64,
    cause: Option<Discontinuity>,
}

/// What a clip is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WantedClip {
    pub reason: ClipReason,
    pub class: Option<String>,
    pub place: SecondPlace,
    /// Start and end of what it is made for, without pre- and post-roll.
    pub span: (Pts, Pts),
    /// With pre-roll.
    pub from: Pts,
    /// With post-roll.
    pub to: Pts,
}

impl WantedClip {
    /// The name of the clip. Times in names keep the order of events, and run and PTS keep them apart.
    pub fn id(&self, stream: &str) -> String {
        let label = match (self.reason, &self.class) {
            (ClipReason::Request, _) => "request".to_owned(),
            (ClipReason::Segment, Some(class)) => format!("{class}-segment"),
            (_, class) => class.clone().unwrap_or_else(|| "event".to_owned()),
        };
        let unix_ms = self.place.wall_ns.unwrap_or(0) / 1_000_000;
        clips::id(stream, unix_ms, (self.place.run, self.from), &label)
    }
}

/// Cuts clips from the rings.
pub(super) struct RingCutter {
    settings: RecordSettings,
    pub ring: RingOptions,
    pub store: ClipStore,
    metrics: Metrics,
    /// Names of the classes, by number.
    classes: Vec<String>,
    streams: Mutex<BTreeMap<Arc<str>, LatestSeconds>>,
}

impl RingCutter {
    pub fn new(
        settings: RecordSettings,
        ring: RingOptions,
        store: ClipStore,
        metrics: Metrics,
        classes: Vec<String>,
    ) -> Self {
        Self { settings, ring, store, metrics, classes, streams: Mutex::default() }
    }

    /// The folder of the recording.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// Length of the ring of each stream, seconds.
    pub fn ring_s(&self) -> u64 {
        self.settings.ring_s
    }

    /// The run that begins next began because of `cause`.
    pub fn run_started(&self, stream: &Arc<str>, run: RunId, cause: Discontinuity) {
        self.streams.lock().entry(stream.clone()).or_default().cause = Some((run, cause));
    }

    /// Takes a second and its records.
    pub fn second(&self, stream: &Arc<str>, place: SecondPlace, records: &[DecisionRecord]) {
        let mut streams = self.streams.lock();
        let latest = streams.entry(stream.clone()).or_default();
        if latest.runs.back().is_none_or(|begin| begin.run != place.run) {
            let cause = latest.cause.take().filter(|(run, _)| *run == place.run).map(|(_, cause)| cause);
            latest.runs.push_back(RunBegin { run: place.run, first: place.index, cause });
        }
        latest.places.push_back(place);
        latest.records.extend(records.iter().cloned());
        // Each place is a second, so the ring has no more of them.
        while latest.places.len() as u64 > self.settings.ring_s {
            let Some(old) = latest.places.pop_front() else { break };
            let is_old = |record: &DecisionRecord| (record.run, record.index) == (old.run, old.index);
            while latest.records.front().is_some_and(is_old) {
                latest.records.pop_front();
            }
        }
        let oldest = latest.places.front().map(|place| place.run);
        while latest.runs.len() > 1 && latest.runs.front().map(|begin| begin.run) != oldest {
            latest.runs.pop_front();
        }
    }

    /// The records of a stream from the second `first` of a run on.
    pub fn records(&self, stream: &str, run: RunId, first: u64) -> Vec<DecisionRecord> {
        let streams = self.streams.lock();
        let latest = streams.get(stream).into_iter().flat_map(|latest| &latest.records);
        latest.filter(|record| record.run == run && record.index >= first).cloned().collect()
    }

    /// The latest second of a run.
    pub fn last(&self, stream: &str, run: RunId) -> Option<u64> {
        let streams = self.streams.lock();
        streams.get(stream)?.places.iter().rev().find(|place| place.run == run).map(|place| place.index)
    }

    /// The seconds from `from` to `to` of a run, both included, that this process has decided and not forgotten.
    pub fn places(&self, stream: &str, run: RunId, (from, to): (u64, u64)) -> Vec<SecondPlace> {
        let streams = self.streams.lock();
        let places = streams.get(stream).into_iter().flat_map(|latest| &latest.places);
        places.filter(|place| place.run == run && (from..=to).contains(&place.index)).copied().collect()
    }

    /// Why the run after `run` began.
    pub fn cause_after(&self, stream: &str, run: RunId) -> Option<Discontinuity> {
        let streams = self.streams.lock();
        let mut runs = streams.get(stream)?.runs.iter().skip_while(|begin| begin.run != run);
        runs.nth(1)?.cause
    }

    /// Forgets a stream that is over.
    pub fn forget(&self, stream: &str) {
        self.streams.lock().remove(stream);
    }

    /// Makes a clip, and counts it. `end` is why its media may end early.
    pub fn make(&self, stream: &str, wanted: &WantedClip, end: MissingReason) -> Result<Sidecar, ClipError> {
        let first = wanted.from.0 / NANOS_PER_SECOND;
        let records = self.records(stream, wanted.place.run, first.saturating_sub(1));
        let begin = {
            let streams = self.streams.lock();
            let runs = streams.get(stream).into_iter().flat_map(|latest| &latest.runs);
            runs.rev().find(|begin| begin.run == wanted.place.run).copied()
        };
        // A run that began later than the clip, or media that the ring does not have any more.
        let begin = match begin {
            Some(RunBegin { first: at, cause, .. }) if at > first => cause.map_or(MissingReason::StreamEnd, Into::into),
            _ => MissingReason::Ring,
        };
        self.counted(self.try_make(stream, wanted, (begin, end), 0, &records))
    }

    /// Makes a clip that a killed program left open, and counts it.
    pub fn salvage(&self, left: &LeftClip) -> Result<Sidecar, ClipError> {
        let reasons = (MissingReason::Ring, MissingReason::Killed);
        self.counted(self.try_make(&left.stream, &left.wanted, reasons, left.since_unix_ns, &left.records))
    }

    fn counted(&self, result: Result<Sidecar, ClipError>) -> Result<Sidecar, ClipError> {
        self.metrics.clip(match &result {
            Ok(_) => ClipResult::Made,
            Err(ClipError::NoMedia) => ClipResult::NoMedia,
            Err(ClipError::NoSpace) => ClipResult::NoSpace,
            Err(ClipError::Failed(_)) => ClipResult::Failed,
        });
        result
    }

    fn try_make(
        &self,
        stream: &str,
        wanted: &WantedClip,
        reasons: (MissingReason, MissingReason),
        since_unix_ns: u64,
        records: &[DecisionRecord],
    ) -> Result<Sidecar, ClipError> {
        let WantedClip { reason, class, place, span, from, to } = wanted;
        let pts = Pts::from_second(place.index);
        let (dir, name) = (self.store.dir(), wanted.id(stream));
        let request = ClipRequest { run: place.run, from: *from, to: *to, dir: dir.into(), name };
        let anchor = RingAnchor { pts, arrived: Arrived::Clock(place.arrived_ns), since_unix_ns };
        let ring = self.ring.dir(stream);
        let subject = ClipSubject {
            stream,
            reason: *reason,
            class: class.as_deref(),
            run: place.run,
            from: span.0,
            to: span.1,
            strongest: self.strongest(stream, wanted).unwrap_or(place.index),
            wall: place.wall_ns.map(|wall_ns| (pts, wall_ns)),
            missing: Vec::new(),
            wav: self.settings.wav,
        };
        self.with_room(|| {
            let files = cut_ring(&ring, anchor, &request)?;
            let missing = missing(&files, *from..*to, reasons);
            Ok(clips::complete(dir, &request.name, &ClipSubject { missing, ..subject.clone() }, files, records)?)
        })
    }

    /// Repeats `make` while the disk is full and the oldest media of all rings can make room.
    fn with_room<T>(&self, make: impl Fn() -> Result<T, ClipError>) -> Result<T, ClipError> {
        for _ in 0..MAKE_ROOM_MAX {
            match make() {
                Err(ClipError::NoSpace) if ring::remove_oldest(&self.ring.root) => {}
                result => return result,
            }
        }
        Err(ClipError::NoSpace)
    }

    /// The second with the highest probability: of the clip's class, or of any.
    fn strongest(&self, stream: &str, wanted: &WantedClip) -> Option<u64> {
        let class = wanted.class.as_ref().and_then(|class| self.classes.iter().position(|name| name == class));
        let streams = self.streams.lock();
        strongest(&streams.get(stream)?.places, wanted.place.run, wanted.from..wanted.to, class)
    }

    /// Finds the second of a wall time, and checks that the ring has everything up to `to_ns`.
    fn find(&self, stream: &str, from_ns: i64, to_ns: i64) -> Result<SecondPlace, ClipRefusal> {
        let clip_max_s = self.settings.clip_max_s();
        if to_ns <= from_ns || to_ns.abs_diff(from_ns) > clip_max_s * NANOS_PER_SECOND {
            let text = format!("to must be after from, by {clip_max_s} s at most (ring_s, and an hour)");
            return Err(ClipRefusal::Invalid(text));
        }
        let streams = self.streams.lock();
        let places = &streams.get(stream).ok_or(ClipRefusal::NotYet)?.places;
        let newest_ns = places.iter().rev().find_map(|place| place.wall_ns);
        if newest_ns.is_none_or(|ns| ns.saturating_add_unsigned(NANOS_PER_SECOND) < to_ns) {
            return Err(ClipRefusal::NotYet);
        }
        let place = places.iter().rev().find(|place| place.wall_ns.is_some_and(|ns| ns <= from_ns));
        let is_near = |place: &&SecondPlace| place.wall_ns.is_some_and(|ns| from_ns - ns <= HOLE_MAX_NS);
        place.filter(is_near).copied().ok_or(ClipRefusal::Clip(ClipError::NoMedia))
    }
}

impl ClipMaker for RingCutter {
    fn make(&self, stream: &str, from_ns: i64, to_ns: i64) -> Result<Sidecar, ClipRefusal> {
        let place = self.find(stream, from_ns, to_ns)?;
        let since_ns = place.wall_ns.map_or(0, |wall_ns| from_ns.abs_diff(wall_ns));
        let from = Pts::from_second(place.index).plus(since_ns);
        let to = from.plus(to_ns.abs_diff(from_ns));
        let wanted = WantedClip { reason: ClipReason::Request, class: None, place, span: (from, to), from, to };
        let end = self.cause_after(stream, place.run).map_or(MissingReason::Ring, Into::into);
        RingCutter::make(self, stream, &wanted, end).map_err(ClipRefusal::Clip)
    }
}

/// The parts of `wanted` without media: before and after those of `files`, with the reasons for each, and holes, which the ring has.
fn missing(
    files: &[ClipFile],
    wanted: std::ops::Range<Pts>,
    (before, after): (MissingReason, MissingReason),
) -> Vec<MissingSpan> {
    let begin = files.iter().map(|file| file.begin).min().unwrap_or(wanted.start);
    let end = files.iter().map(|file| file.end).max().unwrap_or(wanted.end);
    let holes = files.iter().flat_map(|file| &file.holes);
    let holes = holes.map(|hole| (MissingReason::Ring, hole.start.max(wanted.start), hole.end.min(wanted.end)));
    let spans = [(before, wanted.start, begin)].into_iter().chain(holes).chain([(after, end, wanted.end)]);
    let is_missing = |(_, from, to): &(MissingReason, Pts, Pts)| to.0.saturating_sub(from.0) > MISSING_MIN_NS;
    let span = |(reason, from_pts_ns, to_pts_ns)| MissingSpan { reason, from_pts_ns, to_pts_ns };
    spans.filter(is_missing).map(span).collect()
}

fn strongest(
    places: &VecDeque<SecondPlace>,
    run: RunId,
    span: std::ops::Range<Pts>,
    class: Option<usize>,
) -> Option<u64> {
    let within = places.iter().filter(|place| place.run == run && span.contains(&Pts::from_second(place.index)));
    let decided = within.filter_map(|place| Some((place.index, place.top?)));
    let of_class = decided.filter(|(_, (label, _))| class.is_none_or(|class| class == *label));
    of_class.max_by(|(_, (_, a)), (_, (_, b))| a.total_cmp(b)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClipKind;

    fn cutter(dir: &Path) -> RingCutter {
        let settings = RecordSettings {
            dir: dir.into(),
            ring_s: 60,
            ring_bytes: 1 << 30,
            pre_roll_s: 5,
            post_roll_s: 5,
            keep_s: 1 << 30,
            keep_bytes: 1 << 30,
            clips: vec![ClipKind::Event],
            wav: false,
        };
        let (store, _) = ClipStore::open(&dir.join("clips")).unwrap();
        RingCutter::new(settings, RingOptions { root: dir.join("ring") }, store, Metrics::new(), Vec::new())
    }

    const BASE_NS: i64 = 1_700_000_000_000_000_000;
    const SECOND: i64 = NANOS_PER_SECOND as i64;

    fn fill(cutter: &RingCutter, run: u32, indices: std::ops::Range<u64>) {
        for index in indices {
            let wall_ns = Some(BASE_NS + (i64::from(run) * 1000 + index as i64) * SECOND);
            let place = SecondPlace { run: RunId(run), index, arrived_ns: 0, wall_ns, top: None };
            cutter.second(&"a".into(), place, &[DecisionRecord { run: RunId(run), index, json: "{}".into() }]);
        }
    }

    #[test]
    fn wall_times_are_found_in_the_seconds_of_the_ring() {
        let dir = tempfile::tempdir().unwrap();
        let cutter = cutter(dir.path());
        fill(&cutter, 0, 0..100);
        let find = |from: i64, to: i64| cutter.find("a", BASE_NS + from, BASE_NS + to).map(|place| place.index);
        assert_eq!(find(50 * SECOND + 1, 60 * SECOND), Ok(50));
        assert_eq!(find(90 * SECOND, 100 * SECOND), Ok(90));
        assert_eq!(find(90 * SECOND, 101 * SECOND), Err(ClipRefusal::NotYet));
        assert_eq!(find(30 * SECOND, 50 * SECOND), Err(ClipRefusal::Clip(ClipError::NoMedia)), "older than the ring");
        assert!(matches!(find(50 * SECOND, 50 * SECOND), Err(ClipRefusal::Invalid(_))));
        assert!(matches!(find(20 * SECOND, 90 * SECOND), Err(ClipRefusal::Invalid(_))));
        fill(&cutter, 1, 0..10);
        let second =
            |from: i64, to: i64| cutter.find("a", BASE_NS + from, BASE_NS + to).map(|place| (place.run.0, place.index));
        assert_eq!(second(1004 * SECOND, 1009 * SECOND), Ok((1, 4)));
        assert_eq!(second(990 * SECOND, 1009 * SECOND), Err(ClipRefusal::Clip(ClipError::NoMedia)), "in the outage");
        assert_eq!(cutter.find("b", BASE_NS, BASE_NS + SECOND).err(), Some(ClipRefusal::NotYet), "nothing is decided");
        let latest = cutter.streams.lock();
        assert_eq!((latest["a"].places.len(), latest["a"].records.len()), (60, 60), "no more than the ring has");
    }

    #[test]
    fn the_strongest_second_is_that_of_the_class() {
        let place = |index: u64, label: usize, probability: f32| SecondPlace {
            run: RunId(0),
            index,
            arrived_ns: 0,
            wall_ns: None,
            top: Some((label, probability)),
        };
        let places = [place(1, 0, 0.9), place(2, 1, 0.5), place(3, 1, 0.7), place(9, 1, 1.0)].into();
        let span = || Pts::from_second(0)..Pts::from_second(5);
        assert_eq!(strongest(&places, RunId(0), span(), Some(1)), Some(3));
        assert_eq!(strongest(&places, RunId(0), span(), None), Some(1));
        assert_eq!(strongest(&places, RunId(1), span(), None), None);
    }

    #[test]
    fn parts_without_media_are_named_with_their_reasons() {
        let file = |begin_s: u64, end_s: u64| ClipFile {
            file: "a.mp4".into(),
            bytes: 1,
            begin: Pts::from_second(begin_s),
            end: Pts::from_second(end_s),
            video: None,
            audio: None,
            holes: Vec::new(),
        };
        let of = |files: &[ClipFile]| {
            let wanted = Pts::from_second(10)..Pts::from_second(30);
            let found = missing(files, wanted, (MissingReason::Ring, MissingReason::Reconnect));
            let s = |pts: Pts| pts.0 / NANOS_PER_SECOND;
            found.iter().map(|m| (m.reason, s(m.from_pts_ns), s(m.to_pts_ns))).collect::<Vec<_>>()
        };
        assert_eq!(of(&[file(8, 30)]), []);
        assert_eq!(of(&[file(10, 20), file(20, 24)]), [(MissingReason::Reconnect, 24, 30)]);
        assert_eq!(of(&[file(14, 40)]), [(MissingReason::Ring, 10, 14)]);
        let hole = |from: u64, to: u64| Pts::from_second(from)..Pts::from_second(to);
        let torn = ClipFile { holes: vec![hole(5, 12), hole(15, 18), hole(32, 35)], ..file(4, 28) };
        assert_eq!(
            of(&[torn]),
            [(MissingReason::Ring, 10, 12), (MissingReason::Ring, 15, 18), (MissingReason::Reconnect, 28, 30)]
        );
    }
}
