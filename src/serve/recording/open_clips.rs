//! Clips whose end has not come, in memory and on the disk.
//!
//! A killed program loses its memory, but neither the ring nor the clips that it had completed. Each open clip has a file `ID.open` beside the
//! clips: its head, and the decisions about its time as they are made. The next start cuts such a clip as far as the ring goes.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::iter;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cutter::WantedClip;
use crate::clips::DecisionRecord;
use touchline_core::time::Pts;
use touchline_media::gst::clips::PARTIAL_SUFFIX;

/// The extension of these files.
const EXTENSION: &str = "open";

/// The longest file that is read: the decisions of an hour.
const LENGTH_MAX: u64 = 64 << 20;

/// A clip whose end has not come.
#[derive(Clone, Debug)]
pub(super) struct OpenClip {
    pub wanted: WantedClip,
    /// The class is on air: the end of a segment is not known.
    pub is_open_ended: bool,
    file: PathBuf,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClipLine {
    /// The clip, as it is known now. The last one counts.
    Head {
        stream: String,
        since_unix_ns: u64,
        wanted: WantedClip,
        is_open_ended: bool,
    },
    Record(DecisionRecord),
}

/// A clip that a killed program left open.
#[derive(Debug)]
pub(super) struct LeftClip {
    pub stream: String,
    /// Wall time of the start of that program.
    pub since_unix_ns: u64,
    pub wanted: WantedClip,
    pub records: Vec<DecisionRecord>,
    file: PathBuf,
}

impl OpenClip {
    /// Opens a clip in `dir`, with the decisions so far.
    pub fn new(
        dir: &Path,
        stream: &str,
        since_unix_ns: u64,
        wanted: WantedClip,
        is_open_ended: bool,
        records: &[DecisionRecord],
    ) -> Self {
        let file = dir.join(format!("{}.{EXTENSION}", wanted.id(stream)));
        let clip = Self { wanted, is_open_ended, file };
        let records = records.iter().cloned().map(ClipLine::Record);
        let lines: Vec<ClipLine> = iter::once(clip.head(stream, since_unix_ns)).chain(records).collect();
        // Under another name until it is whole: a kill leaves no file without a head.
        let partial = clip.file.with_extension(format!("{EXTENSION}{PARTIAL_SUFFIX}"));
        report_unwritten(&clip.file, append(&partial, &lines).and_then(|()| std::fs::rename(&partial, &clip.file)));
        clip
    }

    fn head(&self, stream: &str, since_unix_ns: u64) -> ClipLine {
        let (stream, wanted, is_open_ended) = (stream.to_owned(), self.wanted.clone(), self.is_open_ended);
        ClipLine::Head { stream, since_unix_ns, wanted, is_open_ended }
    }

    /// Writes what is known of the clip now.
    pub fn write_head(&self, stream: &str, since_unix_ns: u64) {
        report_unwritten(&self.file, append(&self.file, &[self.head(stream, since_unix_ns)]));
    }

    /// Adds decisions.
    pub fn add(&self, records: &[DecisionRecord]) {
        let lines: Vec<ClipLine> = records.iter().cloned().map(ClipLine::Record).collect();
        report_unwritten(&self.file, append(&self.file, &lines));
    }

    /// Removes the file: the clip is cut, or cannot be.
    pub fn close(&self) {
        // It may not have been written.
        let _ = std::fs::remove_file(&self.file);
    }
}

fn append(path: &Path, lines: &[ClipLine]) -> io::Result<()> {
    let mut text = Vec::new();
    for line in lines {
        // They are structs with string keys.
        let _ = serde_json::to_writer(&mut text, line);
        text.push(b'\n');
    }
    OpenOptions::new().append(true).create(true).open(path)?.write_all(&text)
}

fn report_unwritten(path: &Path, result: io::Result<()>) {
    if let Err(e) = result {
        // Only a kill would need it.
        tracing::debug!("{}: {e}", path.display());
    }
}

impl LeftClip {
    /// The clips that a killed program left open in `dir`. A line that was cut off is ignored.
    pub fn all(dir: &Path) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == EXTENSION)).collect();
        paths.sort();
        paths.into_iter().filter_map(Self::read).collect()
    }

    fn read(file: PathBuf) -> Option<Self> {
        let is_sensible = file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= LENGTH_MAX);
        let text = std::fs::read(&file).ok().filter(|_| is_sensible).unwrap_or_default();
        let (mut head, mut records) = (None, Vec::new());
        for line in text.split(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(ClipLine::Head { stream, since_unix_ns, wanted, is_open_ended }) => {
                    head = Some((stream, since_unix_ns, wanted, is_open_ended));
                }
                Ok(ClipLine::Record(record)) => records.push(record),
                Err(_) => {}
            }
        }
        let Some((stream, since_unix_ns, mut wanted, is_open_ended)) = head else {
            // Nothing can be made of it.
            let _ = std::fs::remove_file(&file);
            return None;
        };
        if is_open_ended && let Some(last) = records.last() {
            // The segment is known up to here.
            wanted.to = Pts::from_second(last.index + 1);
            wanted.span.1 = wanted.to;
        }
        Some(Self { stream, since_unix_ns, wanted, records, file })
    }

    /// Removes the file: the clip is cut, or cannot be.
    pub fn close(&self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::super::cutter::SecondPlace;
    use super::*;
    use crate::clips::ClipReason;
    use touchline_core::time::RunId;

    #[test]
    fn an_open_clip_is_read_back_up_to_where_its_file_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let place = SecondPlace {
            run: RunId(3),
            index: 20,
            arrived_ns: 7,
            wall_ns: Some(1_700_000_000_000_000_000),
            top: None,
        };
        let (from, to) = (Pts::from_second(10), Pts::from_second(40));
        let span = (Pts::from_second(20), Pts::from_second(21));
        let wanted = WantedClip { reason: ClipReason::Event, class: Some("tennis".into()), place, span, from, to };
        let record = |index| DecisionRecord { run: RunId(3), index, json: format!("{{\"index\":{index}}}") };
        let mut clip = OpenClip::new(dir.path(), "court", 5, wanted, false, &[record(18), record(19)]);
        clip.wanted.to = Pts::from_second(50);
        clip.write_head("court", 5);
        clip.add(&[record(20)]);
        let path = clip.file.clone();
        let whole = std::fs::read(&path).unwrap();
        let mut ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
        let in_second_head = ends.nth(2).unwrap() + 10;
        for (length, records, to_s) in [(whole.len(), 3, 50), (whole.len() - 2, 2, 50), (in_second_head, 2, 40)] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let [left] = <[LeftClip; 1]>::try_from(LeftClip::all(dir.path())).unwrap();
            assert_eq!((&*left.stream, left.since_unix_ns, left.wanted.class.as_deref()), ("court", 5, Some("tennis")));
            assert_eq!((left.records.len(), left.wanted.to), (records, Pts::from_second(to_s)), "{length}");
            assert_eq!(left.wanted.id("court"), clip.wanted.id("court"), "the name does not change with the end");
        }
        clip.close();
        std::fs::write(dir.path().join("x.open"), "{\"he").unwrap();
        assert!(LeftClip::all(dir.path()).is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "an unusable file does not stay");
    }
}
