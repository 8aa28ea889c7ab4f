//! The ring: the latest coded media of a stream, in files of a few seconds.
//!
//! The ring is a folder per stream. The process that opens the source writes it; the program reads it, cuts clips from it, and
//! removes its oldest files. They share nothing but the files. A file begins with a key picture, has its own formats, and may end
//! anywhere: what follows the last whole unit is ignored.

mod cut;
mod follow;
mod format;
mod seconds;
mod tap;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use touchline_core::time::NANOS_PER_SECOND;

pub use self::cut::{Arrived, RingAnchor, cut_ring};
pub(in crate::gst) use self::follow::RingFollower;
pub use self::seconds::{RingSeconds, ring_seconds};
pub(in crate::gst) use self::tap::RingTap;

/// The extension of ring files.
const EXTENSION: &str = "ring";

/// The suffix of folders. With it, no id (`.` and `..` are valid ones) is the name of another folder.
const STREAM_SUFFIX: &str = ".stream";

/// A file is written for no longer than this, seconds: twice the longest file.
const WRITTEN_S: u64 = 120;

/// Where a source records its coded media.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingOptions {
    /// Folder of all rings. Each stream has a folder of its own in it.
    pub root: PathBuf,
}

impl RingOptions {
    /// The folder of a stream.
    pub fn dir(&self, id: &str) -> PathBuf {
        self.root.join(format!("{id}{STREAM_SUFFIX}"))
    }
}

/// A file of a ring.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RingFile {
    /// Wall time at which it was begun, nanoseconds since 1970-01-01 UTC.
    begun_ns: u64,
    /// Connection that it belongs to: the wall time at which that began.
    connection_ns: u64,
    path: PathBuf,
}

impl RingFile {
    fn new(dir: &Path, connection_ns: u64, begun_ns: u64) -> Self {
        Self { begun_ns, connection_ns, path: dir.join(format!("{begun_ns:020}-{connection_ns:020}.{EXTENSION}")) }
    }

    /// Reads the name of a file; [`None`] for other files.
    fn parse(path: PathBuf) -> Option<Self> {
        let (begun, connection) =
            path.file_name()?.to_str()?.strip_suffix(EXTENSION)?.strip_suffix('.')?.split_once('-')?;
        Some(Self { begun_ns: begun.parse().ok()?, connection_ns: connection.parse().ok()?, path })
    }
}

/// The files in the folder of a stream, oldest first.
fn files(dir: &Path) -> io::Result<Vec<RingFile>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files: Vec<RingFile> = entries.filter_map(|entry| RingFile::parse(entry.ok()?.path())).collect();
    files.sort();
    Ok(files)
}

/// The extent of all rings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingExtent {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Nanoseconds from the begin of the oldest file to now, by stream.
    pub ages_ns: BTreeMap<String, u64>,
}

/// Removes files of all rings below `root`: first those begun more than `age_s` seconds before `unix_ns`, then the oldest until the
/// rest has at most `bytes`. The newest file of each stream stays, because it is being written, unless it is so old that its stream is gone.
///
/// # Errors
/// If `root` cannot be read.
pub fn trim(root: &Path, bytes: u64, age_s: u64, unix_ns: u64) -> io::Result<RingExtent> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(root)?.filter_map(Result::ok).filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name();
        let Some(stream) = name.to_str().and_then(|name| name.strip_suffix(STREAM_SUFFIX)) else { continue };
        let files = files(&entry.path())?;
        let last = files.len().saturating_sub(1);
        for (i, file) in files.into_iter().enumerate() {
            // A file that has just been removed counts nothing.
            let size = file.path.metadata().map_or(0, |meta| meta.len());
            all.push((file, size, stream.to_owned(), i == last));
        }
    }
    all.sort();
    let mut extent = RingExtent { bytes: all.iter().map(|(_, size, ..)| size).sum(), ..RingExtent::default() };
    for (file, size, stream, is_newest) in all {
        let age_ns = unix_ns.saturating_sub(file.begun_ns);
        let is_too_much = extent.bytes > bytes || age_ns > age_s.saturating_mul(NANOS_PER_SECOND);
        let is_written = is_newest && age_ns <= age_s.saturating_add(WRITTEN_S).saturating_mul(NANOS_PER_SECOND);
        if is_too_much && !is_written && std::fs::remove_file(&file.path).is_ok() {
            extent.bytes = extent.bytes.saturating_sub(size);
        } else {
            extent.ages_ns.entry(stream).or_insert(age_ns);
        }
    }
    Ok(extent)
}

/// Removes the oldest file of all rings below `root`. Returns whether there was one.
pub fn remove_oldest(root: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(root) else { return false };
    let oldest = entries.filter_map(|entry| {
        let mut files = files(&entry.ok()?.path()).ok()?;
        // The newest file is being written.
        files.pop();
        files.into_iter().next()
    });
    oldest.min().is_some_and(|file| std::fs::remove_file(file.path).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_of_all_streams_go_first() {
        let root = tempfile::tempdir().unwrap();
        let options = RingOptions { root: root.path().into() };
        let put = |stream: &str, begun_s: u64, bytes: usize| {
            let dir = options.dir(stream);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(RingFile::new(&dir, 1, begun_s * NANOS_PER_SECOND).path, vec![0; bytes]).unwrap();
        };
        for (stream, begun_s) in [("a", 210), ("b", 212), ("a", 214), ("b", 216), ("a", 218), ("c", 201), ("gone", 20)]
        {
            put(stream, begun_s, 100);
        }
        std::fs::write(options.dir("a").join("notes.txt"), "x").unwrap();
        let left = |stream: &str| -> Vec<u64> {
            files(&options.dir(stream)).unwrap().iter().map(|file| file.begun_ns / NANOS_PER_SECOND).collect()
        };
        let now = 220 * NANOS_PER_SECOND;
        let extent = trim(root.path(), 1000, 9, now).unwrap();
        assert_eq!((left("a"), left("b"), left("c")), (vec![214, 218], vec![212, 216], vec![201]), "by age");
        assert!(left("gone").is_empty(), "its stream is gone");
        assert_eq!((extent.bytes, extent.ages_ns["a"]), (500, 6 * NANOS_PER_SECOND));
        trim(root.path(), 400, 1000, now).unwrap();
        assert_eq!(
            (left("a"), left("b"), left("c")),
            (vec![214, 218], vec![216], vec![201]),
            "by size, over all streams"
        );
        assert!(remove_oldest(root.path()) && !remove_oldest(root.path()));
        assert_eq!(
            (left("a"), left("b"), left("c")),
            (vec![218], vec![216], vec![201]),
            "the newest of each stream stays"
        );
        assert!(options.dir("a").join("notes.txt").exists());
    }
}
