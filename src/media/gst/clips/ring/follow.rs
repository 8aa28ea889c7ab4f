//! Reads a ring while it is written.

use std::fs::File;
use std::path::PathBuf;

use super::super::recording::Runs;
use super::format::{RecordedUnit, RingReader};
use super::{RingFile, RingOptions, files};

/// Reads the units of a stream's ring in the order in which they are written.
pub(in crate::gst) struct RingFollower {
    dir: PathBuf,
    /// Files begun before this wall time are not read, nanoseconds since 1970-01-01 UTC.
    since_unix_ns: u64,
    open: Option<(RingFile, RingReader)>,
    runs: Runs,
}

impl RingFollower {
    /// Follows the ring of the stream `id` from the first file that was begun at or after `since_unix_ns`.
    pub fn new(ring: &RingOptions, id: &str, since_unix_ns: u64) -> Self {
        Self { dir: ring.dir(id), since_unix_ns, open: None, runs: Runs::default() }
    }

    /// The next unit, with the number of its run, and its arrival on the monotonic clock in ns. [`None`]: nothing new is written yet.
    pub fn next(&mut self) -> Option<(super::super::unit::Unit, u64)> {
        loop {
            if let Some(recorded) = self.open.as_mut().and_then(|(_, reader)| reader.next()) {
                return Some(self.numbered(recorded));
            }
            // The writer completes a file before it begins the next, so the next file is looked for first.
            let next = self.following();
            if let Some((_, reader)) = &mut self.open {
                reader.resume().ok()?;
                if let Some(recorded) = reader.next() {
                    return Some(self.numbered(recorded));
                }
            }
            self.begin(next?)?;
        }
    }

    /// Continues with the newest file.
    pub fn skip(&mut self) {
        if let Some(newest) = files(&self.dir).ok().and_then(|mut files| files.pop())
            && self.open.as_ref().is_none_or(|(open, _)| newest.begun_ns > open.begun_ns)
        {
            self.begin(newest);
        }
    }

    fn following(&self) -> Option<RingFile> {
        let files = files(&self.dir).ok()?;
        match &self.open {
            Some((open, _)) => files.into_iter().find(|file| file.begun_ns > open.begun_ns),
            None => files.into_iter().find(|file| file.begun_ns >= self.since_unix_ns),
        }
    }

    fn begin(&mut self, file: RingFile) -> Option<()> {
        // A file that has just been removed is not there.
        let reader = RingReader::new(File::open(&file.path).ok()?, true).ok()?;
        if self.open.as_ref().is_some_and(|(open, _)| open.connection_ns != file.connection_ns) {
            self.runs = self.runs.next_connection();
        }
        self.open = Some((file, reader));
        Some(())
    }

    fn numbered(&mut self, recorded: RecordedUnit) -> (super::super::unit::Unit, u64) {
        let RecordedUnit { mut unit, arrived_ns } = recorded;
        unit.run = self.runs.of(unit.track, unit.pts_ns, unit.end_ns());
        (unit, arrived_ns)
    }
}
