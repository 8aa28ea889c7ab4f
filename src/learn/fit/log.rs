//! `log.jsonl`: one JSON object a line. A resumed run truncates it to the length at its checkpoint.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::record::LogLine;
use touchline_core::error::{Error, Result};

/// File name of the log in the run directory of a modality.
pub const LOG: &str = "log.jsonl";

/// The open log of a run.
pub(super) struct Log {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Log {
    /// Opens the log and truncates it to `bytes`.
    pub fn open(dir: &Path, bytes: u64) -> Result<Self> {
        let path = dir.join(LOG);
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path).and_then(|mut file| {
            file.set_len(bytes)?;
            file.seek(SeekFrom::Start(bytes))?;
            Ok(file)
        });
        let file = opened.map_err(|e| failed(&path, &e))?;
        Ok(Self { file, path, bytes })
    }

    /// Appends a line.
    pub fn write(&mut self, line: &LogLine) -> Result<()> {
        let mut text =
            serde_json::to_string(line).map_err(|e| Error::Internal(format!("cannot serialise a log line: {e}")))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|e| failed(&self.path, &e))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Length of the log in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn failed(path: &Path, cause: &std::io::Error) -> Error {
    let advice = "free space or choose another -o; the last checkpoint is intact";
    Error::output(path.display().to_string(), format!("cannot write: {cause}"), advice)
}
