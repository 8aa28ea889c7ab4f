//! Makes clips from the rings: knows the latest seconds of every stream, and which media belong to them.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;

use crate::clips::{self, ClipMaker, ClipReason, ClipRefusal, ClipStore, ClipSubject, DecisionRecord, Sidecar};
use crate::config::RecordSettings;
use crate::metrics::{ClipResult, Metrics};
use touchline_core::time::{NANOS_PER_SECOND, Pts, RunId};
use touchline_media::gst::clips::ring::{self, RingAnchor, RingOptions, cut_ring};
use touchline_media::gst::clips::{ClipError, ClipFile, ClipRequest};

/// How many files of the ring are removed for one clip on a full disk. A clip is not larger than these.
const MAKE_ROOM_MAX: usize = 16;

/// The latest time of a request after the begin of the second before it, ns. Seconds follow each other; behind a longer hole there
/// are no media.
const HOLE_MAX_NS: i64 = 2 * NANOS_PER_SECOND as i64;

/// Where a second of a stream is.
#[derive(Clone, Copy, Debug)]
pub(super) struct SecondPlace {
    pub run: RunId,
    pub index: u64,
    /// Monotonic clock when its last sample arrived, ns.
    pub arrived_ns: u64,
    /// Wall time of its start, nanoseconds since 1970-01-01 UTC.
    pub wall_ns: Option<i64>,
}

/// The latest seconds of one stream: at most `ring_s`, the length of its ring.
#[derive(Default)]
struct LatestSeconds {
    places: VecDeque<SecondPlace>,
    records: VecDeque<DecisionRecord>,
}

/// What a clip is made of.
pub(super) struct WantedClip<'a> {
    pub reason: ClipReason,
    pub class: Option<&'a str>,
    pub place: SecondPlace,
    pub from: Pts,
    pub to: Pts,
}

/// Cuts clips from the rings.
pub(super) struct RingCutter {
    settings: RecordSettings,
    pub ring: RingOptions,
    pub store: ClipStore,
    metrics: Metrics,
    streams: Mutex<BTreeMap<Arc<str>, LatestSeconds>>,
}

/// The keys of a second's record that tell the strongest one.
#[derive(Deserialize)]
struct StrengthRecord {
    label: String,
    probability: f64,
}

impl RingCutter {
    pub fn new(settings: RecordSettings, ring: RingOptions, store: ClipStore, metrics: Metrics) -> Self {
        Self { settings, ring, store, metrics, streams: Mutex::default() }
    }

    /// Takes a second and its records.
    pub fn second(&self, stream: &Arc<str>, place: SecondPlace, records: &[Arc<str>]) {
        let mut streams = self.streams.lock();
        let latest = streams.entry(stream.clone()).or_default();
        latest.places.push_back(place);
        let (run, index) = (place.run, place.index);
        latest.records.extend(records.iter().map(|json| DecisionRecord { run, index, json: json.to_string() }));
        // Each place is a second, so the ring has no more of them.
        while latest.places.len() as u64 > self.settings.ring_s {
            let Some(old) = latest.places.pop_front() else { break };
            let is_old = |record: &DecisionRecord| (record.run, record.index) == (old.run, old.index);
            while latest.records.front().is_some_and(is_old) {
                latest.records.pop_front();
            }
        }
    }

    /// Forgets a stream that is over.
    pub fn forget(&self, stream: &str) {
        self.streams.lock().remove(stream);
    }

    /// Makes a clip, and counts it.
    pub fn make(&self, stream: &str, wanted: &WantedClip<'_>) -> Result<Sidecar, ClipError> {
        let result = self.try_make(stream, wanted);
        self.metrics.clip(match &result {
            Ok(_) => ClipResult::Made,
            Err(ClipError::NoMedia) => ClipResult::NoMedia,
            Err(ClipError::NoSpace) => ClipResult::NoSpace,
            Err(ClipError::Failed(_)) => ClipResult::Failed,
        });
        result
    }

    fn try_make(&self, stream: &str, wanted: &WantedClip<'_>) -> Result<Sidecar, ClipError> {
        let WantedClip { reason, class, place, from, to } = *wanted;
        let pts = Pts::from_second(place.index);
        let label = match reason {
            ClipReason::Request => "request".to_owned(),
            _ => class.unwrap_or("event").to_owned(),
        };
        // Times in names keep the order of events, and run and PTS keep them apart.
        let unix_ms = place.wall_ns.unwrap_or(0) / 1_000_000;
        let name =
            clips::name(&[stream, &unix_ms.to_string(), &format!("{}.{}", place.run.0, from.0 / 1_000_000), &label]);
        let dir = self.store.dir();
        let request = ClipRequest { run: place.run, from, to, dir: dir.into(), name };
        let anchor = RingAnchor { pts, arrived_ns: place.arrived_ns };
        let files = self.cut_with_room(&self.ring.dir(stream), anchor, &request)?;
        let records: Vec<DecisionRecord> =
            self.streams.lock().get(stream).map_or_else(Vec::new, |latest| latest.records.iter().cloned().collect());
        let strongest = strongest(&records, place.run, from..to, class).unwrap_or(place.index);
        let wall = place.wall_ns.map(|wall_ns| (pts, wall_ns));
        let subject = ClipSubject { stream, reason, class, run: place.run, from, to, strongest, wall };
        Ok(clips::complete(dir, &request.name, &subject, files, &records)?)
    }

    /// Cuts a clip. When the disk is full, the oldest media of all rings make room.
    fn cut_with_room(&self, dir: &Path, anchor: RingAnchor, request: &ClipRequest) -> Result<Vec<ClipFile>, ClipError> {
        for _ in 0..MAKE_ROOM_MAX {
            match cut_ring(dir, anchor, request) {
                Err(ClipError::NoSpace) if ring::remove_oldest(&self.ring.root) => {}
                result => return result,
            }
        }
        Err(ClipError::NoSpace)
    }

    /// Finds the second of a wall time, and checks that the ring has everything up to `to_ns`.
    fn find(&self, stream: &str, from_ns: i64, to_ns: i64) -> Result<SecondPlace, ClipRefusal> {
        if to_ns <= from_ns || to_ns.abs_diff(from_ns) > self.settings.ring_s * NANOS_PER_SECOND {
            let ring_s = self.settings.ring_s;
            return Err(ClipRefusal::Invalid(format!("to must be after from, by {ring_s} s at most (ring_s)")));
        }
        let streams = self.streams.lock();
        let places = &streams.get(stream).ok_or(ClipRefusal::Clip(ClipError::NoMedia))?.places;
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
        let wanted = WantedClip { reason: ClipReason::Request, class: None, place, from, to };
        RingCutter::make(self, stream, &wanted).map_err(ClipRefusal::Clip)
    }
}

/// The second with the highest probability: of `class`, or of any.
fn strongest(records: &[DecisionRecord], run: RunId, span: std::ops::Range<Pts>, class: Option<&str>) -> Option<u64> {
    let within = records.iter().filter(|record| record.run == run && span.contains(&Pts::from_second(record.index)));
    let decided = within.filter_map(|record| {
        let StrengthRecord { label, probability } = serde_json::from_str(&record.json).ok()?;
        class.is_none_or(|class| class == label).then_some((record.index, probability))
    });
    decided.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cutter(dir: &Path) -> RingCutter {
        let settings = RecordSettings {
            dir: dir.into(),
            ring_s: 60,
            ring_bytes: 1 << 30,
            pre_roll_s: 5,
            post_roll_s: 5,
            keep_s: 1 << 30,
            keep_bytes: 1 << 30,
        };
        let (store, _) = ClipStore::open(&dir.join("clips")).unwrap();
        RingCutter::new(settings, RingOptions { root: dir.join("ring") }, store, Metrics::new())
    }

    const BASE_NS: i64 = 1_700_000_000_000_000_000;
    const SECOND: i64 = NANOS_PER_SECOND as i64;

    fn fill(cutter: &RingCutter, run: u32, indices: std::ops::Range<u64>) {
        for index in indices {
            let wall_ns = Some(BASE_NS + (i64::from(run) * 1000 + index as i64) * SECOND);
            let place = SecondPlace { run: RunId(run), index, arrived_ns: 0, wall_ns };
            let json = format!(r#"{{"label":"tennis","probability":0.{index:03}}}"#);
            cutter.second(&"a".into(), place, &[json.into()]);
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
        assert_eq!(cutter.find("b", BASE_NS, BASE_NS + SECOND).err(), Some(ClipRefusal::Clip(ClipError::NoMedia)));
        let latest = cutter.streams.lock();
        assert_eq!((latest["a"].places.len(), latest["a"].records.len()), (60, 60), "no more than the ring has");
    }

    #[test]
    fn the_strongest_second_is_that_of_the_class() {
        let record = |index: u64, label: &str, probability: f64| DecisionRecord {
            run: RunId(0),
            index,
            json: format!(r#"{{"label":"{label}","probability":{probability}}}"#),
        };
        let records =
            [record(1, "golf", 0.9), record(2, "tennis", 0.5), record(3, "tennis", 0.7), record(9, "tennis", 1.0)];
        let span = || Pts::from_second(0)..Pts::from_second(5);
        assert_eq!(strongest(&records, RunId(0), span(), Some("tennis")), Some(3));
        assert_eq!(strongest(&records, RunId(0), span(), None), Some(1));
        assert_eq!(strongest(&records, RunId(1), span(), None), None);
    }
}
