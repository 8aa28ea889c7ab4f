//! `log.jsonl`: a line for everything that happens, cut back to the checkpoint when a run is taken up again.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::record::LogLine;
use touchline_core::error::{Error, Result};

/// File name in a modality's run.
pub const LOG: &str = "log.jsonl";

pub(super) struct Log {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Log {
    /// Opens the log and forgets what is after the first `bytes`.
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
            serde_json::to_string(line).map_err(|e| Error::Internal(format!("a log line is no JSON: {e}")))?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|e| failed(&self.path, &e))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn failed(path: &Path, cause: &std::io::Error) -> Error {
    let advice = "free space or choose another -o; the last checkpoint is still whole";
    Error::output(path.display().to_string(), format!("cannot write: {cause}"), advice)
}
