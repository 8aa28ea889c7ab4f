//! The folder of corrections.
//!
//! ```text
//! DIR/corrections.jsonl      each correction and each removal, in order: who, when, what
//! DIR/clips/manifest.csv     the corrections that teach: path, class, source, sound
//! DIR/clips/<id>.mkv         the seconds of one
//! DIR/sounds                 the same for seconds without pictures
//! ```
//!
//! `touchline dataset build DIR` and `touchline adapt --from DIR` read these as any labelled folders. The source of a
//! correction is its stream and day, so that a split does not test with what it trained on. The lines are what counts: the manifest is
//! written again from them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::memory::{HeldSecond, Memory};
use super::past::{PastSecond, PastSeconds, SecondMaterial, TaughtSecond};
use super::types::{AnswerKind, Author, CorrectedDecision, Correction, CorrectionRefusal, NewCorrection};
use crate::clips;
use crate::config::TeachSettings;
use crate::metrics::{CorrectionResult, Metrics};
use crate::record::format::{parse_rfc3339, rfc3339};
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassId, ClassSet};
use touchline_core::time::{NANOS_PER_SECOND, RunId};
use touchline_media::gst::clips::{ClipError, SeenSecond, write_seen, write_whole};

const JOURNAL: &str = "corrections.jsonl";
/// Folders of corrections with pictures and without.
const FOLDERS: [&str; 2] = ["clips", "sounds"];
const MANIFEST: &str = "manifest.csv";

/// Seconds in the file of one correction. A longer span is represented by seconds at even distances.
const SECONDS_MAX: usize = 120;

/// How far the begins of a run may be apart by the wall times of its seconds, ns. Arrival varies, and clocks of sources are set.
const ORIGIN_MAX_NS: u64 = 60 * NANOS_PER_SECOND;

/// A line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum JournalLine {
    Removed { removed: String, at: String, author: Author },
    Kept(Correction),
}

/// A line of the manifest.
#[derive(Serialize)]
struct ManifestLine<'a> {
    path: &'a str,
    class: &'a str,
    source: String,
    audio: &'static str,
}

/// The corrections.
pub struct CorrectionStore {
    settings: TeachSettings,
    classes: Arc<ClassSet>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    /// Seconds that left the memory, if media are recorded.
    past: Option<Arc<dyn PastSeconds>>,
    /// By id. Locked while a file is written: a second answer to the same question waits.
    kept: Mutex<BTreeMap<String, Correction>>,
}

impl CorrectionStore {
    /// Opens the folder, and creates it.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be read or written.
    pub fn open(
        settings: TeachSettings,
        classes: Arc<ClassSet>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self> {
        FOLDERS.iter().try_for_each(|folder| clips::create_dir(&settings.dir.join(folder)))?;
        let (past, kept) = (None, Mutex::default());
        let store = Self { settings, classes, clock, metrics, past, kept };
        let unusable = |e: io::Error| {
            let place = store.settings.dir.display().to_string();
            Error::output(place, format!("cannot keep corrections: {e}"), "check the path and its permissions")
        };
        for folder in FOLDERS {
            clips::remove_unfinished(&store.settings.dir.join(folder)).map_err(unusable)?;
        }
        *store.kept.lock() = store.read().map_err(unusable)?;
        let mut kept = store.kept.lock();
        store.remove_old(&mut kept);
        store.write_manifests(&kept).map_err(unusable)?;
        store.count(&kept);
        drop(kept);
        Ok(store)
    }

    /// Seconds that have left the memory come from `past`.
    #[must_use]
    pub fn with_past(self, past: Option<Arc<dyn PastSeconds>>) -> Self {
        Self { past, ..self }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// Largest size of the folder.
    pub fn max_bytes(&self) -> u64 {
        self.settings.max_bytes
    }

    /// The corrections, the newest first.
    pub fn list(&self) -> Vec<Correction> {
        let mut all: Vec<Correction> = self.kept.lock().values().cloned().collect();
        all.sort_by(|a, b| (&b.at, &b.id).cmp(&(&a.at, &a.id)));
        all
    }

    /// The number of corrections that teach.
    pub fn teaching(&self) -> usize {
        self.kept.lock().values().filter(|kept| kept.file.is_some()).count()
    }

    /// Whether a correction is about any second of the block of `held`.
    pub fn has_answer(&self, held: &HeldSecond) -> bool {
        let (from, to) = held.block();
        let origin_ns = origin_ns(held.index, held.unix_ns);
        let block = Span { stream: &held.stream, run: held.run, from, to, origin_ns };
        self.kept.lock().values().any(|kept| block.overlaps(kept))
    }

    /// Keeps an answer about seconds, with their material from `memory`, or from the ring of the stream. Older corrections of the same
    /// seconds are replaced; their ids are returned. Reading the ring takes seconds; `is_cancelled` ends it.
    ///
    /// # Errors
    /// Why it was not kept. Refusals are counted.
    pub fn add(
        &self,
        memory: &Memory,
        new: &NewCorrection,
        author: Author,
        is_cancelled: &dyn Fn() -> bool,
    ) -> std::result::Result<(Correction, Vec<String>), CorrectionRefusal> {
        let added = self.try_add(memory, new, author, is_cancelled);
        self.metrics.correction(match &added {
            Ok(_) => CorrectionResult::Kept,
            Err(CorrectionRefusal::NotHeld) => CorrectionResult::NotHeld,
            Err(CorrectionRefusal::NotRecorded) => CorrectionResult::NotRecorded,
            Err(CorrectionRefusal::Overlaps(_)) => CorrectionResult::Overlaps,
            Err(CorrectionRefusal::Full) => CorrectionResult::Full,
            Err(CorrectionRefusal::NoSpace) => CorrectionResult::NoSpace,
            Err(CorrectionRefusal::Unknown(_) | CorrectionRefusal::Failed(_) | CorrectionRefusal::Cancelled) => {
                CorrectionResult::Failed
            }
        });
        added
    }

    /// Whether an answer needs seconds from the ring of the stream.
    pub fn reads_ring(&self, memory: &Memory, new: &NewCorrection) -> bool {
        let past = self.past.as_ref().filter(|past| past.is_recorded(&new.stream));
        past.is_some() && (memory.span(&new.stream, new.run, (new.from, new.to)).len() as u64) <= new.to - new.from
    }

    /// The decided seconds of an answer, from memory and from the ring, in order.
    fn seconds(&self, memory: &Memory, new: &NewCorrection) -> Vec<TaughtSecond> {
        let span = (new.from, new.to);
        let mut seconds: BTreeMap<u64, TaughtSecond> = BTreeMap::new();
        if let Some(past) = self.past.as_ref().filter(|_| self.reads_ring(memory, new)) {
            let decided = past.decided(&new.stream, new.run, span);
            seconds.extend(decided.into_iter().map(|past| (past.index, past.into())));
        }
        let held = memory.span(&new.stream, new.run, span);
        seconds.extend(held.into_iter().map(|held| (held.index, held.into())));
        seconds.into_values().collect()
    }

    /// Reads the material of the seconds that are not in memory. Those without material are left out.
    fn recall(
        &self,
        stream: &str,
        seconds: &mut Vec<TaughtSecond>,
        is_cancelled: &dyn Fn() -> bool,
    ) -> std::result::Result<(), CorrectionRefusal> {
        let wanted: Vec<PastSecond> = seconds.iter().filter_map(TaughtSecond::past).collect();
        let Some(past) = self.past.as_ref().filter(|_| !wanted.is_empty()) else { return Ok(()) };
        let found = match past.see(stream, &wanted, is_cancelled) {
            // The others may be in memory.
            Err(ClipError::NoMedia) => BTreeMap::new(),
            found => found.map_err(refused)?,
        };
        if is_cancelled() {
            return Err(CorrectionRefusal::Cancelled);
        }
        let found: BTreeMap<u64, Arc<SeenSecond>> =
            found.into_iter().map(|(index, seen)| (index, Arc::new(seen))).collect();
        for second in seconds.iter_mut().filter(|second| second.past().is_some()) {
            if let Some(seen) = found.get(&second.index) {
                second.material = SecondMaterial::Seen(seen.clone());
            }
        }
        seconds.retain(|second| second.seen().is_some());
        if seconds.is_empty() { Err(CorrectionRefusal::NotRecorded) } else { Ok(()) }
    }

    /// The refusal of seconds that nothing has.
    fn nowhere(&self, stream: &str) -> CorrectionRefusal {
        match &self.past {
            Some(past) if past.is_recorded(stream) => CorrectionRefusal::NotRecorded,
            _ => CorrectionRefusal::NotHeld,
        }
    }

    fn try_add(
        &self,
        memory: &Memory,
        new: &NewCorrection,
        author: Author,
        is_cancelled: &dyn Fn() -> bool,
    ) -> std::result::Result<(Correction, Vec<String>), CorrectionRefusal> {
        let mut seconds = self.seconds(memory, new);
        let decision = self.decision(&seconds).ok_or_else(|| self.nowhere(&new.stream))?;
        let class = match new.answer {
            AnswerKind::Class => new.class.clone(),
            AnswerKind::Unsure => None,
            AnswerKind::Confirm => {
                // Of several decisions only the most frequent one is confirmed.
                seconds.retain(|second| self.classes.name(second.label) == decision.label);
                Some(decision.label.clone())
            }
        };
        thin(&mut seconds);
        if class.is_some() {
            // Before the lock, because it takes long.
            self.recall(&new.stream, &mut seconds, is_cancelled)?;
        }
        let mut kept = self.kept.lock();
        self.remove_old(&mut kept);
        let first = seconds.first().ok_or_else(|| self.nowhere(&new.stream))?;
        let NewCorrection { ref stream, run, from, to, .. } = *new;
        let span = Span { stream, run, from, to, origin_ns: origin_ns(first.index, first.unix_ns) };
        let others: Vec<&Correction> = kept.values().filter(|kept| span.overlaps(kept)).collect();
        if let Some(other) = others.iter().find(|other| other.from < new.from || other.to > new.to) {
            return Err(CorrectionRefusal::Overlaps(other.id.clone()));
        }
        let others: Vec<String> = others.into_iter().map(|other| other.id.clone()).collect();
        let (unix_ms, at) = (first.unix_ns.div_euclid(1_000_000), rfc3339(self.clock.unix_ns()));
        let place = format!("{}.{}-{}", new.run.0, new.from, new.to);
        let id = clips::name(&[&new.stream, &unix_ms.to_string(), &place]);
        let mut correction = Correction {
            id: id.clone(),
            at,
            author,
            stream: new.stream.clone(),
            run: new.run,
            from: new.from,
            to: new.to,
            began: rfc3339(first.unix_ns),
            answer: new.answer,
            class,
            decision,
            seconds: 0,
            file: None,
            bytes: 0,
            has_pictures: seen_of(&seconds).any(|seen| !seen.pictures.is_empty()),
            has_sound: seen_of(&seconds).any(SeenSecond::has_sound),
        };
        if correction.class.is_some() {
            let wanted: u64 = seen_of(&seconds).map(|seen| seen.bytes() as u64).sum();
            if size_of(&kept) + wanted > self.settings.max_bytes {
                return Err(CorrectionRefusal::Full);
            }
            let file = write_seen(&self.folder(&correction), &id, memory.rate(), seen_of(&seconds)).map_err(refused)?;
            correction.seconds = u32::try_from(seconds.len()).unwrap_or(u32::MAX);
            (correction.file, correction.bytes) = (Some(file.file), file.bytes);
        }
        self.append(&JournalLine::Kept(correction.clone())).map_err(|e| refused(e.into()))?;
        let replaced: Vec<String> = others.into_iter().filter(|other| *other != id).collect();
        for other in &replaced {
            self.remove_file(&mut kept, other);
        }
        if correction.file.is_none() {
            // An answer to the same question may have had one.
            self.remove_file(&mut kept, &id);
        }
        kept.insert(id, correction.clone());
        self.write_manifests(&kept).map_err(|e| refused(e.into()))?;
        self.count(&kept);
        Ok((correction, replaced))
    }

    /// Removes a correction and its file.
    ///
    /// # Errors
    /// If there is none, or the folder cannot be written.
    pub fn remove(&self, id: &str, author: Author) -> std::result::Result<(), CorrectionRefusal> {
        let mut kept = self.kept.lock();
        if !kept.contains_key(id) {
            return Err(CorrectionRefusal::Unknown(id.to_owned()));
        }
        let at = rfc3339(self.clock.unix_ns());
        let line = JournalLine::Removed { removed: id.to_owned(), at, author };
        self.append(&line).map_err(|e| refused(e.into()))?;
        self.remove_file(&mut kept, id);
        self.write_manifests(&kept).map_err(|e| refused(e.into()))?;
        self.count(&kept);
        Ok(())
    }

    /// The class of most of the seconds, and its mean probability in these.
    fn decision(&self, seconds: &[TaughtSecond]) -> Option<CorrectedDecision> {
        let mut sums: BTreeMap<ClassId, (u32, f32)> = BTreeMap::new();
        for second in seconds {
            let (count, sum) = sums.entry(second.label).or_default();
            (*count, *sum) = (*count + 1, *sum + second.probability);
        }
        let (label, (count, sum)) =
            sums.into_iter().max_by(|(_, a), (_, b)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)))?;
        Some(CorrectedDecision { label: self.classes.name(label).to_owned(), probability: sum / count as f32 })
    }

    /// Removes what is older than the settings allow. The journal keeps the lines, which name no picture.
    fn remove_old(&self, kept: &mut BTreeMap<String, Correction>) {
        let Some(keep_s) = self.settings.keep_s else { return };
        let keep_ns = i64::try_from(keep_s.saturating_mul(NANOS_PER_SECOND)).unwrap_or(i64::MAX);
        let oldest_ns = self.clock.unix_ns().saturating_sub(keep_ns);
        let is_old = |kept: &&Correction| parse_rfc3339(&kept.at).is_ok_and(|at_ns| at_ns < oldest_ns);
        let old: Vec<String> = kept.values().filter(is_old).map(|kept| kept.id.clone()).collect();
        for id in old {
            let author = Author { by: "keep_days".into(), address: String::new() };
            let line = JournalLine::Removed { removed: id.clone(), at: rfc3339(self.clock.unix_ns()), author };
            if let Err(e) = self.append(&line) {
                tracing::warn!("{}: an old correction cannot be removed: {e}", self.settings.dir.display());
                return;
            }
            self.remove_file(kept, &id);
        }
    }

    fn remove_file(&self, kept: &mut BTreeMap<String, Correction>, id: &str) {
        let removed = kept.remove(id);
        if let Some(path) = removed.and_then(|removed| Some(self.folder(&removed).join(removed.file?))) {
            // Without its line it teaches nothing. It may be gone already.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Where the file of a correction lies.
    fn folder(&self, correction: &Correction) -> PathBuf {
        self.settings.dir.join(FOLDERS[usize::from(!correction.has_pictures)])
    }

    /// Appends a line, and waits for the disk.
    fn append(&self, line: &JournalLine) -> io::Result<()> {
        let mut text = serde_json::to_string(line).map_err(io::Error::other)?;
        text.push('\n');
        let mut file = File::options().create(true).append(true).open(self.settings.dir.join(JOURNAL))?;
        file.write_all(text.as_bytes())?;
        file.sync_data()
    }

    /// Reads the journal. What no correction can be made of is named in the log and stays.
    fn read(&self) -> io::Result<BTreeMap<String, Correction>> {
        let path = self.settings.dir.join(JOURNAL);
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            read => read?,
        };
        if !text.is_empty() && !text.ends_with('\n') {
            // A kill cut the last line short. The next one begins on a line of its own.
            File::options().append(true).open(&path)?.write_all(b"\n")?;
        }
        let (mut kept, mut unreadable) = (BTreeMap::new(), 0);
        for line in text.lines().filter(|line| !line.is_empty()) {
            match serde_json::from_str(line) {
                Ok(JournalLine::Removed { removed, .. }) => drop(kept.remove(&removed)),
                // Names come from the file, which anybody may have edited.
                Ok(JournalLine::Kept(new)) if new.file.iter().all(|file| clips::name(&[file]) == *file) => {
                    kept.retain(|_, old| !Span::of(&new).overlaps(old));
                    kept.insert(new.id.clone(), new);
                }
                _ => unreadable += 1,
            }
        }
        if unreadable > 0 {
            tracing::warn!("{}: {unreadable} lines are no corrections; they stay and are not used", path.display());
        }
        let is_there = |kept: &Correction| kept.file.as_ref().is_none_or(|file| self.folder(kept).join(file).is_file());
        let missing = kept.values().filter(|kept| !is_there(kept)).count();
        if missing > 0 {
            let place = self.settings.dir.display();
            tracing::warn!("{place}: the files of {missing} corrections are missing; they are not used");
            kept.retain(|_, kept| is_there(kept));
        }
        Ok(kept)
    }

    fn write_manifests(&self, kept: &BTreeMap<String, Correction>) -> io::Result<()> {
        FOLDERS.iter().zip([true, false]).try_for_each(|(folder, has_pictures)| {
            let dir = self.settings.dir.join(folder);
            let is_wanted = |kept: &&Correction| kept.has_pictures == has_pictures;
            // Most streams have pictures.
            if !has_pictures && !kept.values().any(|kept| is_wanted(&kept)) && !dir.join(MANIFEST).exists() {
                return Ok(());
            }
            write_manifest(&dir, kept.values().filter(is_wanted))
        })
    }

    fn count(&self, kept: &BTreeMap<String, Correction>) {
        self.metrics.corrections(kept.len(), size_of(kept));
    }
}

fn seen_of(seconds: &[TaughtSecond]) -> impl Iterator<Item = &SeenSecond> {
    seconds.iter().filter_map(TaughtSecond::seen)
}

fn write_manifest<'a>(dir: &Path, kept: impl Iterator<Item = &'a Correction>) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    writer.write_record(["path", "class", "source", "audio"])?;
    for correction in kept {
        let (Some(path), Some(class)) = (&correction.file, &correction.class) else { continue };
        let day = correction.began.get(..10).unwrap_or_default();
        let source = format!("{}/{day}", correction.stream);
        writer.serialize(ManifestLine {
            path,
            class,
            source,
            audio: if correction.has_sound { "yes" } else { "none" },
        })?;
    }
    let text = writer.into_inner().map_err(|e| io::Error::other(e.to_string()))?;
    write_whole(dir, MANIFEST, &text)
}

/// Seconds of a stream, both ends included.
struct Span<'a> {
    stream: &'a str,
    run: RunId,
    from: u64,
    to: u64,
    /// Wall time of second 0 of the run, ns.
    origin_ns: i64,
}

impl<'a> Span<'a> {
    fn of(kept: &'a Correction) -> Self {
        let began_ns = parse_rfc3339(&kept.began).unwrap_or(0);
        let origin_ns = origin_ns(kept.from, began_ns);
        Self { stream: &kept.stream, run: kept.run, from: kept.from, to: kept.to, origin_ns }
    }

    /// Whether `kept` is about any of the seconds. Without a store a restart repeats the numbers of runs, so their times count too.
    fn overlaps(&self, kept: &Correction) -> bool {
        let is_near = |kept: &Correction| Span::of(kept).origin_ns.abs_diff(self.origin_ns) <= ORIGIN_MAX_NS;
        let is_same_run = kept.stream == self.stream && kept.run == self.run;
        is_same_run && kept.from <= self.to && self.from <= kept.to && is_near(kept)
    }
}

/// Wall time of second 0 of a run, whose second `index` began at `unix_ns`.
fn origin_ns(index: u64, unix_ns: i64) -> i64 {
    unix_ns.saturating_sub_unsigned(index.saturating_mul(NANOS_PER_SECOND))
}

fn size_of(kept: &BTreeMap<String, Correction>) -> u64 {
    kept.values().map(|kept| kept.bytes).sum()
}

/// Leaves at most [`SECONDS_MAX`] seconds, at even distances.
fn thin(seconds: &mut Vec<TaughtSecond>) {
    let all = seconds.len();
    if all > SECONDS_MAX {
        *seconds = (0..SECONDS_MAX).map(|i| seconds[(2 * i + 1) * all / (2 * SECONDS_MAX)].clone()).collect();
    }
}

fn refused(error: ClipError) -> CorrectionRefusal {
    match error {
        ClipError::NoMedia => CorrectionRefusal::NotRecorded,
        ClipError::NoSpace => CorrectionRefusal::NoSpace,
        ClipError::Failed(cause) => CorrectionRefusal::Failed(cause),
    }
}
