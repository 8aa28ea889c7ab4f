//! Records that a receiver refused, in a file beside the spool, and their redelivery.
//!
//! A person who has repaired the receiver renames the file to `NAME.again.jsonl`. The sink takes its records into the spool, behind those
//! that wait. They get new numbers, and so new ids: no receiver has accepted the old ones.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::envelope::Envelope;
use super::spool::Spool;
use crate::config::RecordKind;
use crate::record::format::rfc3339;

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

/// The parts of a dead letter that a redelivery needs.
#[derive(Deserialize)]
struct ReadLetter<'a> {
    #[serde(borrow)]
    event: ReadEvent<'a>,
}

#[derive(Deserialize)]
struct ReadEvent<'a> {
    subject: String,
    r#type: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The results for the letters of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TakenAgain {
    /// Records that are in the spool now.
    pub records: u64,
    /// Lines that are not dead letters. They are discarded.
    pub damaged: u64,
    /// Lines that the spool has no room for. They stay in the file.
    pub left: u64,
}

/// Moves the records of `path` into the spool. Does nothing if there is no such file.
///
/// # Errors
/// If the file cannot be read or replaced, or the spool cannot be written. A record may then be in both: it is delivered twice.
pub(super) fn take_again(path: &Path, spool: &mut Spool, unix_ns: i64) -> std::io::Result<TakenAgain> {
    let mut taken = TakenAgain::default();
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(taken),
        file => file?,
    };
    let mut rest = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        if taken.left > 0 || !spool.has_room(line.len()) {
            taken.left += 1;
            rest.extend(line);
            rest.push(b'\n');
            continue;
        }
        let letter: Option<ReadLetter<'_>> = serde_json::from_slice(&line).ok();
        let record = letter.and_then(|ReadLetter { event }| {
            let name = event.r#type.strip_prefix("touchline.")?;
            let kind = RecordKind::ALL.into_iter().find(|kind| kind.as_str() == name)?;
            Some((event.subject, kind, event.data.get()))
        });
        match record {
            Some((stream, kind, json)) => {
                spool.add(&stream, unix_ns, &[(kind, json)]).map_err(std::io::Error::other)?;
                taken.records += 1;
            }
            None if line.trim_ascii().is_empty() => {}
            None => taken.damaged += 1,
        }
    }
    if taken.left == 0 {
        std::fs::remove_file(path)?;
    } else {
        let part = path.with_extension("part");
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?.write_all(&rest)?;
        std::fs::rename(part, path)?;
    }
    Ok(taken)
}
