//! Cuts clips from a ring.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::index::Index;
use super::super::recording::Runs;
use super::super::{ClipError, ClipFile, ClipRequest, OpenClip};
use super::format::{RecordedUnit, RingReader};
use super::{RingFile, files};
use touchline_core::time::{NANOS_PER_SECOND, Pts, RunId};

/// How far the wall time of a second may be from the arrival of its media, ns. A source that states wall times sends them for the time at
/// which pictures were taken, and HLS is a minute behind that.
const WALL_MAX_NS: u64 = 120 * NANOS_PER_SECOND;

/// A wall time within this of the arrival is the arrival, ns.
const WALL_NEAR_NS: u64 = 5 * NANOS_PER_SECOND;

/// How much earlier or later media may arrive than they play from the anchor on, ns: a playlist brings its first segments at once, and is a minute
/// behind the wall times that it states.
const ARRIVAL_SLACK_NS: u64 = WALL_MAX_NS + 60 * NANOS_PER_SECOND;

/// When the media of a second arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arrived {
    /// The monotonic clock of the process that recorded them, ns.
    Clock(u64),
    /// About this wall time, nanoseconds since 1970-01-01 UTC. It is compared with the times in the names of ring files, which another
    /// process may have written.
    Wall(u64),
}

/// A moment of the clip: it tells which media are meant. PTS start over with every connection, and clocks of connections differ.
#[derive(Clone, Copy, Debug)]
pub struct RingAnchor {
    /// Its PTS.
    pub pts: Pts,
    /// When the media of that time arrived.
    pub arrived: Arrived,
    /// Media from before this wall time are left out, nanoseconds since 1970-01-01 UTC: the clock was that of an earlier process then.
    pub since_unix_ns: u64,
}

/// Cuts a clip from the ring of a stream in `dir`. The run of the request is ignored: the anchor tells it.
///
/// # Errors
/// [`ClipError::NoMedia`] if the ring does not have that time.
pub fn cut_ring(dir: &Path, anchor: RingAnchor, request: &ClipRequest) -> Result<Vec<ClipFile>, ClipError> {
    let ring = OpenRing::new(dir, anchor, request.from..request.to)?;
    let request = ClipRequest { run: RunId(ring.run), ..request.clone() };
    let mut clip = OpenClip::new(&request, &ring.index);
    ring.read(&mut |unit| {
        clip.push(&unit.unit);
        !clip.is_over()
    });
    clip.finish()
}

/// The files of a ring around a clip, and the times of their units.
pub(super) struct OpenRing {
    files: Vec<(RingFile, File)>,
    pub index: Index,
    /// The run of the anchor.
    pub run: u32,
}

impl OpenRing {
    /// Opens the ring in `dir` for `span` of the anchor's run. A ring may be a day long, and is not read whole.
    ///
    /// # Errors
    /// [`ClipError::NoMedia`] if it does not have the time of the anchor.
    pub fn new(dir: &Path, anchor: RingAnchor, span: Range<Pts>) -> Result<Self, ClipError> {
        // Open files stay readable when they are removed, so that both passes see the same units.
        let open = |file: RingFile| {
            let open = File::open(&file.path).ok()?;
            Some((file, open))
        };
        let files = files(dir)?.into_iter().filter(|file| file.begun_ns >= anchor.since_unix_ns).collect();
        let files: Vec<(RingFile, File)> = around(files, anchor, span).into_iter().filter_map(open).collect();
        let mut index = Index::default();
        // From the anchor to the nearest arrival, by run.
        let mut distances: BTreeMap<u32, u64> = BTreeMap::new();
        read(&files, false, &mut |RecordedUnit { unit, arrived_ns }, unix_ns| {
            let anchor_ns = i64::try_from(anchor.pts.0).unwrap_or(i64::MAX);
            if unit.pts_ns.abs_diff(anchor_ns) <= NANOS_PER_SECOND {
                let distance_ns = match anchor.arrived {
                    Arrived::Clock(at_ns) => arrived_ns.abs_diff(at_ns),
                    Arrived::Wall(at_ns) => unix_ns.abs_diff(at_ns),
                };
                let least_ns = distances.entry(unit.run).or_insert(distance_ns);
                *least_ns = distance_ns.min(*least_ns);
            }
            index.push(&unit);
            true
        });
        let run = nearest(&distances, anchor.arrived).ok_or(ClipError::NoMedia)?;
        Ok(Self { files, index, run })
    }

    /// Passes all units with their data to `take`, until it returns false.
    pub fn read(&self, take: &mut dyn FnMut(RecordedUnit) -> bool) {
        read(&self.files, true, &mut |recorded, _| take(recorded));
    }
}

/// The files whose media arrived at about the time of `span`.
fn around(files: Vec<RingFile>, anchor: RingAnchor, span: Range<Pts>) -> Vec<RingFile> {
    let (at_ns, begin): (u64, fn(&RingFile) -> Option<u64>) = match anchor.arrived {
        Arrived::Clock(at_ns) => (at_ns, first_arrival),
        Arrived::Wall(at_ns) => (at_ns, |file| Some(file.begun_ns)),
    };
    let first_ns = at_ns.saturating_sub(span.start.distance(anchor.pts).saturating_add(ARRIVAL_SLACK_NS));
    let last_ns = at_ns.saturating_add(anchor.pts.distance(span.end).saturating_add(ARRIVAL_SLACK_NS));
    let begins: Vec<Option<u64>> = files.iter().map(begin).collect();
    let is_near = |n: usize| {
        let Some(begin_ns) = begins[n] else { return false };
        // Times of the next file that are earlier are those of another process.
        let next_ns = begins.get(n + 1).copied().flatten().filter(|next_ns| *next_ns >= begin_ns);
        begin_ns <= last_ns && next_ns.is_none_or(|next_ns| next_ns >= first_ns)
    };
    files.into_iter().enumerate().filter(|(n, _)| is_near(*n)).map(|(_, file)| file).collect()
}

/// When the first unit of a file arrived; `None` if the file is gone or empty.
fn first_arrival(file: &RingFile) -> Option<u64> {
    let unit = RingReader::new(File::open(&file.path).ok()?, false).ok()?.next()?;
    Some(unit.arrived_ns)
}

/// The run whose media arrived at the time of the anchor. A wall time that may be that of two runs is none.
fn nearest(distances: &BTreeMap<u32, u64>, arrived: Arrived) -> Option<u32> {
    let (run, least_ns) = distances.iter().min_by_key(|(_, distance_ns)| **distance_ns)?;
    if let Arrived::Wall(_) = arrived {
        let possible = distances.values().filter(|distance_ns| **distance_ns <= WALL_MAX_NS).count();
        if possible == 0 || possible > 1 && *least_ns > WALL_NEAR_NS {
            return None;
        }
    }
    Some(*run)
}

/// Passes the units of all files, with the wall times of their arrival, to `take`, until it returns false. Runs are numbered over all
/// connections.
fn read(files: &[(RingFile, File)], with_data: bool, take: &mut dyn FnMut(RecordedUnit, u64) -> bool) {
    let (mut runs, mut places) = (Runs::default(), [0; 2]);
    let mut connection_ns = None;
    for (file, open) in files {
        if connection_ns.replace(file.connection_ns).is_some_and(|before| before != file.connection_ns) {
            runs = runs.next_connection();
        }
        let Ok(mut reader) = open.try_clone().and_then(|open| RingReader::new(open, with_data)) else { continue };
        // A file is named when its first unit is written.
        let mut first_ns = None;
        while let Some(mut recorded) = reader.next() {
            let unit = &mut recorded.unit;
            unit.run = runs.of(unit.track, unit.pts_ns, unit.end_ns());
            unit.place = places[unit.track.index()];
            places[unit.track.index()] += 1;
            let since_ns = recorded.arrived_ns.saturating_sub(*first_ns.get_or_insert(recorded.arrived_ns));
            if !take(recorded, file.begun_ns.saturating_add(since_ns)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::unit::Unit;
    use super::super::format::RingWriter;
    use super::*;
    use gstreamer as gst;
    use touchline_core::item::Track;

    const S: u64 = NANOS_PER_SECOND;

    /// The seconds at which the files around seconds `from` to `to` begin, of `files`.
    fn begins(files: &[RingFile], pts_s: u64, arrived: Arrived, (from, to): (u64, u64)) -> Vec<u64> {
        let anchor = RingAnchor { pts: Pts(pts_s * S), arrived, since_unix_ns: 0 };
        let near = around(files.to_vec(), anchor, Pts(from * S)..Pts(to * S));
        near.iter().map(|file| file.begun_ns / S).collect()
    }

    #[test]
    fn only_files_around_the_clip_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let hours: Vec<RingFile> = (0..24).map(|n| RingFile::new(dir.path(), 0, n * 3600 * S)).collect();
        let wall = Arrived::Wall(36_000 * S);
        assert_eq!(begins(&hours, 100, wall, (90, 120)), [9 * 3600, 10 * 3600]);
        assert_eq!(begins(&hours, 7300, wall, (100, 7300)), [7 * 3600, 8 * 3600, 9 * 3600, 10 * 3600]);
        assert_eq!(begins(&hours, 100, wall, (100, 4000)), [9 * 3600, 10 * 3600, 11 * 3600]);
        assert_eq!(begins(&hours, 100, Arrived::Wall(0), (90, 120)), [0]);
        assert_eq!(begins(&hours[..1], 100, wall, (90, 120)), [0], "the newest file may be written still");
        // By the clock of a process, which began 50 s before. The first file is of another process.
        gst::init().unwrap();
        let caps = gst::Caps::new_empty_simple("video/x-h264");
        let unit = Unit::new(Track::Video, 0, gst::Buffer::from_slice([0; 4]), caps.clone(), None);
        for (n, file) in hours.iter().enumerate() {
            let clock_s = if n == 0 { 90_000 } else { n as u64 * 3600 + 50 };
            let mut writer = RingWriter::create(&file.path).unwrap();
            writer.format(Track::Video, caps.as_ref()).unwrap();
            writer.unit(&unit, clock_s * S).unwrap();
            writer.flush().unwrap();
        }
        assert_eq!(begins(&hours, 100, Arrived::Clock(36_100 * S), (90, 120)), [9 * 3600, 10 * 3600]);
        // Where one is gone, the one before may reach as far.
        std::fs::remove_file(&hours[10].path).unwrap();
        assert_eq!(begins(&hours, 100, Arrived::Clock(40_000 * S), (90, 120)), [9 * 3600, 11 * 3600]);
    }

    #[test]
    fn a_wall_time_chooses_a_run_only_if_it_can_be_that_of_no_other() {
        let of = |distances: &[u64], arrived| nearest(&(0..).zip(distances.iter().copied()).collect(), arrived);
        let wall = Arrived::Wall(0);
        assert_eq!(of(&[40 * S], wall), Some(0), "a playlist is behind");
        assert_eq!(of(&[400 * S], wall), None, "the ring no longer has it");
        assert_eq!(of(&[30 * S, S, 20 * S], wall), Some(1));
        assert_eq!(of(&[30 * S, 20 * S], wall), None, "it may be either");
        assert_eq!(of(&[30 * S, 200 * S], wall), Some(0));
        assert_eq!(of(&[400 * S, 300 * S], Arrived::Clock(0)), Some(1));
        assert_eq!(of(&[], wall), None);
    }
}
