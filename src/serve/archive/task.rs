//! The work of one process: what it reads from standard input, and what it answers.
//!
//! A recording is decoded by a process of its own with the lowest priority. A file that ends the process ends no live stream, and the process
//! can be stopped at any moment in favour of them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use touchline_core::decision::SecondOutcome;
use touchline_core::error::{Error, Result};

/// Name of the hidden subcommand that works on a task.
pub const SUBCOMMAND: &str = "archive-worker";

/// The file of decided seconds in [`ArchiveTask::folder`].
pub const OUTCOMES: &str = "outcomes.jsonl";

/// The file of records in [`ArchiveTask::folder`].
pub const RECORDS: &str = "records.jsonl";

/// The table of seconds in [`ArchiveTask::folder`].
pub const TABLE: &str = "seconds.parquet";

/// Settings that decide a recording, as variables of `touchline score`.
pub type ScoreVariables = BTreeMap<String, String>;

/// What a process does with a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArchiveTask {
    /// The recording, on this machine.
    pub recording: PathBuf,
    /// Its name in records.
    pub name: String,
    /// Directory of the pack.
    pub pack: PathBuf,
    /// SHA-256 of the pack's manifest, which the directory must have.
    pub manifest_sha256: String,
    /// The settings.
    pub variables: ScoreVariables,
    /// Folder for the results.
    pub folder: PathBuf,
    /// What to do.
    pub step: TaskStep,
}

/// A step towards the results of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskStep {
    /// Divide it into parts of this many seconds. One that is not longer is scored.
    Begin {
        /// Seconds.
        part_seconds: u64,
    },
    /// Decide the seconds of a part.
    Part(PartPlan),
    /// Vote over the seconds of all parts, in files of [`OUTCOMES`].
    Join {
        /// In order.
        parts: Vec<PathBuf>,
    },
}

/// A part of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartPlan {
    /// Index of the first second.
    pub from: u64,
    /// Index of the first second after it.
    pub to: u64,
    /// Where decoding can begin, the latest first. If the signals of the part depend on more, the next one is tried, and last the
    /// begin of the recording.
    pub starts: Vec<PartStart>,
}

/// Where the decoding of a part can begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartStart {
    /// PTS of a key picture, ns.
    pub key_ns: u64,
    /// The first second whose pictures are right.
    pub seen_from: u64,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskAnswer {
    /// The recording has these parts.
    Parts(Vec<PartPlan>),
    /// The seconds of a part are decided.
    Decided {
        /// How many.
        seconds: u64,
    },
    /// The records and the table are written.
    Scored {
        /// Seconds with a decision.
        seconds: u64,
        /// Seconds without.
        gaps: u64,
    },
    /// The recording is damaged, so its parts could differ from the whole. It must be scored in one piece.
    Damaged,
}

/// A line of the process's standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskLine {
    /// Seconds that were decided since the line before.
    Decided(u64),
    /// The last line.
    Answer(TaskAnswer),
}

/// Pictures of so many seconds are decoded before a part. More than the default hold times of signals; each following start is tried only if
/// those were not enough.
const PRE_ROLLS: [u64; 3] = [15, 120, 1200];

/// Groups of pictures between the begin of decoding and the first second that is right: references of an open group may be in the group
/// before, and decoders report errors until they have all references.
const GROUPS_BEFORE: usize = 2;

/// The parts of a recording whose seconds are `first..end`. `keys`: the times of its key pictures, ns, in the order of decoding.
pub fn parts(first: u64, end: u64, part_seconds: u64, keys: &[u64]) -> Vec<PartPlan> {
    let part_seconds = part_seconds.max(1);
    // A rest of less than half a part belongs to the part before it.
    let count = ((end - first + part_seconds / 2) / part_seconds).max(1);
    (0..count)
        .map(|n| {
            let from = first + n * part_seconds;
            let to = if n + 1 == count { end } else { from + part_seconds };
            let mut starts: Vec<PartStart> = PRE_ROLLS.iter().filter_map(|roll| start(from, *roll, keys)).collect();
            starts.dedup();
            PartPlan { from, to, starts }
        })
        .collect()
}

/// The latest start with pictures for at least `pre_roll` seconds before second `from`; `None`: the begin of the recording.
fn start(from: u64, pre_roll: u64, keys: &[u64]) -> Option<PartStart> {
    let seen_from = from.checked_sub(pre_roll)?;
    let ahead = keys.iter().position(|key| *key > touchline_core::time::Pts::from_second(seen_from).0);
    let last = ahead.unwrap_or(keys.len()).checked_sub(1 + GROUPS_BEFORE)?;
    // The first key picture is where the recording begins anyway.
    (last > 0).then(|| PartStart { key_ns: keys[last], seen_from })
}

/// Appends decided seconds to a file.
pub struct OutcomeWriter {
    file: std::io::BufWriter<std::fs::File>,
    path: PathBuf,
}

impl OutcomeWriter {
    /// Replaces the file `path`.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let file = std::fs::File::create(path).map_err(|e| unwritable(path, &e))?;
        Ok(Self { file: std::io::BufWriter::new(file), path: path.to_owned() })
    }

    /// Appends a second.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be written.
    pub fn write(&mut self, outcome: &SecondOutcome) -> Result<()> {
        let json = serde_json::to_vec(outcome).expect("an outcome is structs, enums and numbers");
        let written = self.file.write_all(&json).and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|e| unwritable(&self.path, &e))
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(|e| unwritable(&self.path, &e))
    }
}

/// The decided seconds of a file.
///
/// # Errors
/// [`Error::Output`] if it cannot be read, and for a line that is none.
pub fn outcomes(path: &Path) -> Result<impl Iterator<Item = Result<SecondOutcome>> + use<>> {
    let damaged = |path: &Path, e: &dyn std::fmt::Display| {
        Error::output(path.display().to_string(), format!("cannot be read: {e}"), "retry the recording")
    };
    let file = std::fs::File::open(path).map_err(|e| damaged(path, &e))?;
    let path = path.to_owned();
    Ok(BufReader::new(file).lines().map(move |line| {
        let line = line.map_err(|e| damaged(&path, &e))?;
        serde_json::from_str(&line).map_err(|e| damaged(&path, &e))
    }))
}

pub(super) fn unwritable(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::output(path.display().to_string(), e.to_string(), "check the disk")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::predicted;
    use touchline_core::clip::{Gap, GapReason};
    use touchline_core::signal::{Signal, Signals};
    use touchline_core::time::RunId;

    const S: u64 = 1_000_000_000;

    #[test]
    fn parts_cover_all_seconds_and_begin_two_groups_early() {
        // A key picture every 4 s.
        let keys: Vec<u64> = (0..1000).map(|n| n * 4 * S).collect();
        let all = parts(3, 3700, 1200, &keys);
        let ranges: Vec<_> = all.iter().map(|part| (part.from, part.to)).collect();
        assert_eq!(ranges, [(3, 1203), (1203, 2403), (2403, 3700)]);
        assert_eq!(all[0].starts, [], "it is decoded from the begin");
        // 1188 is a multiple of 4.
        let starts: Vec<_> = all[1].starts.iter().map(|start| (start.key_ns / S, start.seen_from)).collect();
        assert_eq!(starts, [(1180, 1188), (1072, 1083)]);
        assert_eq!(all[2].starts.len(), 3);
        assert_eq!(parts(0, 30, 1200, &keys).len(), 1);
        assert_eq!(parts(0, 3600, 1200, &[]).iter().map(|part| part.starts.len()).sum::<usize>(), 0);
    }

    #[test]
    fn outcomes_survive_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OUTCOMES);
        let mut odd = predicted(7, "soccer", 0.1 + 0.2).outcome;
        if let SecondOutcome::Predicted(second) = &mut odd {
            second.decision.probabilities[0] = f32::MIN_POSITIVE / 3.0;
            second.known_from = f32::from_bits(0x3e99_999b);
        }
        let signals = Signals::NONE.with(Signal::Black).with(Signal::Silence);
        let gap = Gap { signals, ..Gap::new(RunId(3), 9, GapReason::NoProgramme) };
        let all = [odd, SecondOutcome::Gap(gap)];
        let mut writer = OutcomeWriter::create(&path).unwrap();
        all.iter().for_each(|outcome| writer.write(outcome).unwrap());
        writer.finish().unwrap();
        let read: Vec<_> = outcomes(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, all);
    }
}
