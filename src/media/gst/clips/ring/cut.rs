//! Cuts clips from a ring.

use std::fs::File;
use std::path::Path;

use super::super::index::Index;
use super::super::recording::Runs;
use super::super::{ClipError, ClipFile, ClipRequest, OpenClip};
use super::format::{RecordedUnit, RingReader};
use super::{RingFile, files};
use touchline_core::time::{NANOS_PER_SECOND, Pts, RunId};

/// A moment of the clip: it tells which media are meant. PTS start over with every connection, and clocks of connections differ.
#[derive(Clone, Copy, Debug)]
pub struct RingAnchor {
    /// Its PTS.
    pub pts: Pts,
    /// Monotonic clock when the media of that time arrived, ns.
    pub arrived_ns: u64,
    /// Media from before this wall time are left out, nanoseconds since 1970-01-01 UTC: the clock was that of an earlier process then.
    pub since_unix_ns: u64,
}

/// Cuts a clip from the ring of a stream in `dir`. The run of the request is ignored: the anchor tells it.
///
/// # Errors
/// [`ClipError::NoMedia`] if the ring does not have that time.
pub fn cut_ring(dir: &Path, anchor: RingAnchor, request: &ClipRequest) -> Result<Vec<ClipFile>, ClipError> {
    // Open files stay readable when they are removed, so that both passes see the same units.
    let open = |file: RingFile| {
        let open = File::open(&file.path).ok()?;
        Some((file, open))
    };
    let files = files(dir)?.into_iter().filter(|file| file.begun_ns >= anchor.since_unix_ns);
    let files: Vec<(RingFile, File)> = files.filter_map(open).collect();
    let mut index = Index::default();
    let mut best: Option<(u64, u32)> = None;
    read(&files, false, |RecordedUnit { unit, arrived_ns }| {
        let anchor_ns = i64::try_from(anchor.pts.0).unwrap_or(i64::MAX);
        if unit.pts_ns.abs_diff(anchor_ns) <= NANOS_PER_SECOND {
            let distance_ns = arrived_ns.abs_diff(anchor.arrived_ns);
            if best.is_none_or(|(least_ns, _)| distance_ns < least_ns) {
                best = Some((distance_ns, unit.run));
            }
        }
        index.push(&unit);
        true
    });
    let (_, run) = best.ok_or(ClipError::NoMedia)?;
    let request = ClipRequest { run: RunId(run), ..request.clone() };
    let mut clip = OpenClip::new(&request, &index);
    read(&files, true, |recorded| {
        clip.push(&recorded.unit);
        !clip.is_over()
    });
    clip.finish()
}

/// Passes the units of all files to `take`, until it returns false. Runs are numbered over all connections.
fn read(files: &[(RingFile, File)], with_data: bool, mut take: impl FnMut(RecordedUnit) -> bool) {
    let (mut runs, mut places) = (Runs::default(), [0; 2]);
    let mut connection_ns = None;
    for (file, open) in files {
        if connection_ns.replace(file.connection_ns).is_some_and(|before| before != file.connection_ns) {
            runs = runs.next_connection();
        }
        let Ok(mut reader) = open.try_clone().and_then(|open| RingReader::new(open, with_data)) else { continue };
        while let Some(mut recorded) = reader.next() {
            let unit = &mut recorded.unit;
            unit.run = runs.of(unit.track, unit.pts_ns, unit.end_ns());
            unit.place = places[unit.track.index()];
            places[unit.track.index()] += 1;
            if !take(recorded) {
                return;
            }
        }
    }
}
