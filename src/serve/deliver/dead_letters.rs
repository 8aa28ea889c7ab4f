//! Records that a receiver refused, in a file beside the spool.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::value::RawValue;

use super::envelope::Envelope;
use crate::publish::format::rfc3339;

/// One JSON object per line: when and why it was refused, and the event.
pub(super) struct DeadLetters {
    path: PathBuf,
    max_bytes: u64,
}

#[derive(Serialize)]
struct DeadLetter<'a> {
    refused_at: String,
    cause: &'a str,
    event: &'a RawValue,
}

impl DeadLetters {
    /// A file that is longer than `max_bytes` is renamed; the one renamed before it is removed.
    pub const fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes }
    }

    /// Appends a refused record.
    pub fn add(&self, refused: &Envelope, cause: &str, unix_ns: i64) -> std::io::Result<()> {
        let event = serde_json::from_str(&refused.json)?;
        let mut line = serde_json::to_vec(&DeadLetter { refused_at: rfc3339(unix_ns), cause, event })?;
        line.push(b'\n');
        if std::fs::metadata(&self.path).is_ok_and(|file| file.len() >= self.max_bytes) {
            std::fs::rename(&self.path, self.path.with_extension("old.jsonl"))?;
        }
        OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?.write_all(&line)
    }
}
