//! Event clips: cuts coded media at key pictures into files, without encoding them again.
//!
//! Media are read twice. The first pass lists the times of all units, the second copies those of the clips. So a clip begins at the
//! last key picture at or before its start, however long the group of pictures is, and nothing has to be held in memory for it.
//!
//! A clip is one file, or several where the format changes: no player expects that within a file.

mod index;
mod movie_end;
pub(super) mod mux;
mod poster;
pub(super) mod recording;
pub mod ring;
mod seen;
pub(super) mod unit;
mod wav;

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use touchline_core::time::{Pts, RunId};

pub use self::poster::{poster, thumbnail};
pub use self::recording::cut_recording;
pub use self::seen::{SeenPicture, SeenSecond, write_seen};
pub use self::wav::wav;

use self::index::{ClipSpan, Index};
use self::mux::Muxer;
use self::unit::Unit;

/// The time of a clip, and where it is written.
#[derive(Clone, Debug)]
pub struct ClipRequest {
    /// The run that `from` and `to` belong to.
    pub run: RunId,
    /// Start. The clip begins at the key picture at or before it.
    pub from: Pts,
    /// End, exclusive.
    pub to: Pts,
    /// Directory of the files. It exists.
    pub dir: PathBuf,
    /// File name without an extension.
    pub name: String,
}

/// A media file of a clip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipFile {
    /// File name.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// PTS of the first key picture, or of the first sound without pictures. It is time 0 of the file.
    pub begin: Pts,
    /// End of the last picture or sound.
    pub end: Pts,
    /// Coding of the pictures, as a media type of GStreamer.
    pub video: Option<String>,
    /// Coding of the sound.
    pub audio: Option<String>,
    /// Times of more than a second that have no pictures, or no sound without pictures.
    #[serde(default)]
    pub holes: Vec<Range<Pts>>,
}

/// Why a clip was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClipError {
    /// The media of that time are not there.
    NoMedia,
    /// The disk is full.
    NoSpace,
    /// The media cannot be read or written. The text is one line.
    Failed(String),
}

impl std::fmt::Display for ClipError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClipError::NoMedia => f.write_str("no media of that time"),
            ClipError::NoSpace => f.write_str("the disk is full"),
            ClipError::Failed(cause) => f.write_str(cause),
        }
    }
}

impl From<std::io::Error> for ClipError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ClipError::NoSpace,
            _ => ClipError::Failed(error.to_string()),
        }
    }
}

/// A clip that is being written.
struct OpenClip<'a> {
    request: &'a ClipRequest,
    /// PTS of the first unit, ns.
    begin_ns: i64,
    /// Places of the units that are still to come.
    places: [Option<RangeInclusive<usize>>; 2],
    muxer: Option<Muxer>,
    files: Vec<ClipFile>,
    error: Option<ClipError>,
}

impl<'a> OpenClip<'a> {
    fn new(request: &'a ClipRequest, index: &Index) -> Self {
        let ns = |pts: Pts| i64::try_from(pts.0).unwrap_or(i64::MAX);
        let span = index.span(request.run.0, ns(request.from), ns(request.to));
        let error = span.is_none().then_some(ClipError::NoMedia);
        let ClipSpan { begin_ns, places } = span.unwrap_or(ClipSpan { begin_ns: 0, places: [None, None] });
        Self { request, begin_ns, places, muxer: None, files: Vec::new(), error }
    }

    fn is_over(&self) -> bool {
        self.error.is_some() || self.places == [None, None]
    }

    /// Takes the next unit of a track.
    fn push(&mut self, unit: &Unit) {
        if self.error.is_none()
            && let Err(error) = self.try_push(unit)
        {
            self.fail(error);
        }
    }

    fn try_push(&mut self, unit: &Unit) -> Result<(), ClipError> {
        let Some(places) = &self.places[unit.track.index()] else { return Ok(()) };
        let is_last = unit.place >= *places.end();
        // Pictures shown before the first key picture refer to pictures that are not in the clip.
        if places.contains(&unit.place) && unit.pts_ns >= self.begin_ns {
            self.write(unit)?;
        }
        if is_last {
            self.places[unit.track.index()] = None;
            if let Some(muxer) = &mut self.muxer {
                muxer.end_track(unit.track)?;
            }
            if self.is_over() {
                self.close_file()?;
            }
        }
        Ok(())
    }

    fn write(&mut self, unit: &Unit) -> Result<(), ClipError> {
        if self.muxer.as_ref().is_some_and(|muxer| !muxer.accepts(unit)) {
            self.close_file()?;
            self.begin_ns = unit.pts_ns;
        }
        let muxer = self.muxer.get_or_insert_with(|| {
            let name = match self.files.len() {
                0 => self.request.name.clone(),
                count => format!("{}-{}", self.request.name, count + 1),
            };
            Muxer::new(&self.request.dir, &name, self.places.each_ref().map(Option::is_some), self.begin_ns)
        });
        muxer.push(unit)
    }

    fn close_file(&mut self) -> Result<(), ClipError> {
        if let Some(muxer) = self.muxer.take() {
            self.files.extend(muxer.finish()?);
        }
        Ok(())
    }

    /// Ends the clip with the media.
    fn finish(mut self) -> Result<Vec<ClipFile>, ClipError> {
        if self.error.is_none()
            && let Err(error) = self.close_file()
        {
            self.fail(error);
        }
        match self.error {
            Some(error) => Err(error),
            None if self.files.is_empty() => Err(ClipError::NoMedia),
            None => Ok(self.files),
        }
    }

    /// Half a clip would be taken for a whole one.
    fn fail(&mut self, error: ClipError) {
        self.muxer = None;
        for file in self.files.drain(..) {
            // It may be gone already.
            let _ = std::fs::remove_file(self.request.dir.join(file.file));
        }
        self.error = Some(error);
    }
}

/// The suffix of files that are being written.
pub const PARTIAL_SUFFIX: &str = ".part";

/// The name of `file` while it is being written.
fn partial(dir: &Path, file: &str) -> PathBuf {
    dir.join(format!("{file}{PARTIAL_SUFFIX}"))
}

/// Makes a complete file visible under its name.
fn publish(dir: &Path, file: &str) -> std::io::Result<u64> {
    let from = partial(dir, file);
    let open = std::fs::File::open(&from)?;
    open.sync_all()?;
    std::fs::rename(&from, dir.join(file))?;
    // The name is safe only with its directory.
    std::fs::File::open(dir)?.sync_all()?;
    Ok(open.metadata()?.len())
}

/// Writes `bytes` as `file` of `dir`: the whole file, or none.
///
/// # Errors
/// Those of the file system.
pub fn write_whole(dir: &Path, file: &str, bytes: &[u8]) -> std::io::Result<()> {
    let written = std::fs::write(partial(dir, file), bytes).and_then(|()| publish(dir, file));
    if written.is_err() {
        // It may not have been created.
        let _ = std::fs::remove_file(partial(dir, file));
    }
    written.map(|_| ())
}

#[cfg(test)]
mod tests;
