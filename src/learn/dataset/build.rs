//! Cuts the material into seconds, in parallel. An interrupted build continues where it stopped.
//!
//! The shards record the progress. The name of a shard contains a hash of the recording's path, length and time of change and of
//! the parameters of the cut, and no partial file has that name. A killed build therefore loses only the recordings that it was
//! working on. The index is written last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::bounded;
use serde::{Deserialize, Serialize};

use super::manifest::{Entry, Material, gather};
use super::prints::Print;
use super::shard::{Draft, Header, SecondHeader, header, write_atomically};
use super::{Item, ItemOrigin, Kind, Meta, duplicates, index, seconds_until, shard, still};
use touchline_compute::models::sha256_hex;
use touchline_core::clip::{ClipConfig, ClipSecond, LagLimits, SamplingPlan};
use touchline_core::error::{Error, Result};
use touchline_core::item::Pace;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::Open;

/// Most seconds in a shard. A longer recording becomes several items, so that the pictures of an item fit in memory (a minute
/// of ten pictures a second at 288 lines takes 260 MB).
const SHARD_SECONDS: usize = 60;

/// File with the fingerprints of the stills that have been decoded.
const STILLS: &str = "stills.csv";

/// Parameters of a build.
#[derive(Clone, Debug)]
pub struct BuildConfig {
    /// Folders and CSVs; [`super::manifest`] describes the forms.
    pub inputs: Vec<PathBuf>,
    /// Directory of the dataset. It is created if it does not exist.
    pub out: PathBuf,
    /// Largest height of pictures, lines. The opener must scale higher pictures down to it.
    pub frame_height: u32,
    /// Sample rate of the sound, Hz.
    pub sample_rate: u32,
    /// Frames and pairs of each second.
    pub plan: SamplingPlan,
    /// Number of recordings and stills that are processed at the same time.
    pub jobs: usize,
}

/// Progress of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildProgress {
    /// A line for the user.
    Note(String),
    /// An input was processed.
    Done {
        /// Recordings and stills that were processed or skipped so far.
        done: usize,
        /// Number of recordings and stills.
        total: usize,
    },
}

/// Result of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of items of each kind.
    pub items: BTreeMap<Kind, usize>,
    /// Seconds of clips and sounds.
    pub seconds: u64,
    /// Recordings and stills taken from an earlier build.
    pub reused: usize,
    /// Files that could not be used, with the cause.
    pub skipped: Vec<(PathBuf, String)>,
    /// Recordings and stills in the inputs.
    pub total: usize,
    /// Pairs of recordings that show the same.
    pub recording_duplicates: usize,
    /// Pairs of stills that show the same.
    pub still_duplicates: usize,
    /// Pairs of a still and a recording that the still may be a frame of.
    pub frame_duplicates: usize,
    /// Number of groups that were merged into others because of such pairs.
    pub groups_joined: usize,
}

/// A processed recording or still.
#[derive(Debug)]
struct Outcome {
    kind: Kind,
    key: String,
    audible: bool,
    parts: Vec<BuiltPart>,
    reused: bool,
}

/// A part of a recording that fills one shard, or a still.
#[derive(Debug)]
struct BuiltPart {
    shard: Option<String>,
    start_ns: Option<u64>,
    end_ns: Option<u64>,
    seconds: u32,
    prints: Vec<Print>,
}

/// A line of `stills.csv`: a still that was decoded.
#[derive(Debug, Serialize, Deserialize)]
struct StillLine {
    key: String,
    hash: String,
    spread: u8,
}

/// A line of `skipped.csv`.
#[derive(Debug, Serialize)]
struct SkippedLine<'a> {
    path: &'a str,
    cause: &'a str,
}

/// Builds a dataset, or completes one. `opener` must scale pictures down to `config.frame_height` lines.
///
/// A recording that cannot be read is skipped and listed in [`Summary::skipped`].
///
/// # Errors
/// [`Error::Data`] when the inputs are invalid or none of their files can be read; [`Error::Output`] when the directory cannot be
/// written or another build is writing it.
pub fn build(config: &BuildConfig, opener: &dyn Open, progress: &mut dyn FnMut(BuildProgress)) -> Result<Summary> {
    let material = gather(&config.inputs)?;
    for note in &material.notes {
        progress(BuildProgress::Note(note.clone()));
    }
    let shards = config.out.join(index::SHARDS);
    let cannot = |e: std::io::Error| {
        Error::output(config.out.display().to_string(), format!("cannot write: {e}"), "choose another -o")
    };
    std::fs::create_dir_all(&shards).map_err(cannot)?;
    let _lock = lock(&config.out)?;
    let job = Job { config, opener, material: &material, shards: &shards, stills: read_stills(&config.out) };

    let mut summary = Summary { total: material.entries.len() + material.skipped.len(), ..Summary::default() };
    summary.skipped.clone_from(&material.skipped);
    let outcomes = job.run(&mut summary, progress)?;
    if outcomes.iter().all(Option::is_none) {
        save_skipped(&config.out, &summary.skipped)?;
        let cause = format!("none of {} recordings and pictures can be read", summary.total);
        return Err(Error::data(&config.inputs[0], cause, "see the causes above"));
    }

    let mut items = Vec::new();
    let mut prints = Vec::new();
    for (entry, outcome) in material.entries.iter().zip(outcomes) {
        let Some(outcome) = outcome else { continue };
        summary.reused += usize::from(outcome.reused);
        for part in outcome.parts {
            let item = Item {
                kind: outcome.kind,
                audible: !outcome.kind.is_still() && entry.audible.unwrap_or(outcome.audible),
                start_ns: part.start_ns,
                end_ns: part.end_ns,
                seconds: part.seconds,
                shard: part.shard,
                ..entry.item.clone()
            };
            *summary.items.entry(item.kind).or_default() += 1;
            summary.seconds += if item.kind.is_still() { 0 } else { u64::from(item.seconds) };
            items.push((item, ItemOrigin { root: entry.root, key: outcome.key.clone() }));
            prints.push(part.prints);
        }
    }
    let duplicates = duplicates::find(&mut items, &prints);
    (summary.recording_duplicates, summary.still_duplicates) = (duplicates.recordings, duplicates.stills);
    summary.frame_duplicates = duplicates.frames;
    summary.groups_joined = duplicates.groups_joined;
    write_atomically(&config.out.join("duplicates.csv"), &index::to_csv(duplicates.reports.iter())?)?;
    save_skipped(&config.out, &summary.skipped)?;
    let meta = Meta {
        format: index::FORMAT,
        frame_height: config.frame_height,
        sample_rate: config.sample_rate,
        plan: config.plan.clone(),
    };
    index::save(&config.out, &meta, &material.roots, &items)?;
    // A file that could not be read may be readable next time, and its shards with it.
    if summary.skipped.is_empty()
        && let Some(note) = remove_unused(&shards, &items)
    {
        progress(BuildProgress::Note(note));
    }
    Ok(summary)
}

/// Locks the directory against a second build, as long as the returned file is open.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let place = path.display().to_string();
    let file =
        File::create(&path).map_err(|e| Error::output(&place, format!("cannot write: {e}"), "choose another -o"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::output(
            dir.display().to_string(),
            "another build is writing it",
            "wait until it ends, or stop it",
        )),
        // The file system has no locks. Two builds would write the same bytes under the same names, so the build continues.
        Err(std::fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// Removes shards that no item uses any more, and partial files of killed builds. Returns a note when it removed any.
fn remove_unused(shards: &Path, items: &[(Item, ItemOrigin)]) -> Option<String> {
    let used: BTreeSet<&str> = items.iter().filter_map(|(i, _)| i.shard.as_deref()).collect();
    let (mut count, mut bytes) = (0, 0);
    for file in std::fs::read_dir(shards).ok()?.flatten() {
        let name = file.file_name();
        let is_ours = [".safetensors", ".safetensors.part"].iter().any(|end| name.to_string_lossy().ends_with(end));
        if is_ours && !used.contains(name.to_string_lossy().as_ref()) {
            let length = file.metadata().map_or(0, |m| m.len());
            // A file that cannot be removed takes space, but does no harm.
            if std::fs::remove_file(file.path()).is_ok() {
                (count, bytes) = (count + 1, bytes + length);
            }
        }
    }
    (count > 0)
        .then(|| format!("removed {count} shards of earlier builds that no item uses ({} MB)", bytes / 1_000_000))
}

/// Returns the fingerprints of the stills that earlier builds have decoded, by key.
fn read_stills(dir: &Path) -> BTreeMap<String, Print> {
    let Ok(mut reader) = csv::Reader::from_path(dir.join(STILLS)) else { return BTreeMap::new() };
    // A line that was cut short is ignored, and its still is decoded again.
    let lines = reader.deserialize::<StillLine>().filter_map(std::result::Result::ok);
    lines
        .filter_map(|l| Some((l.key, Print { hash: u64::from_str_radix(&l.hash, 16).ok()?, spread: l.spread })))
        .collect()
}

/// Writes `skipped.csv`.
fn save_skipped(dir: &Path, skipped: &[(PathBuf, String)]) -> Result<()> {
    let named: Vec<_> = skipped.iter().map(|(path, cause)| (path.to_string_lossy(), cause)).collect();
    let lines = named.iter().map(|(path, cause)| SkippedLine { path, cause });
    write_atomically(&dir.join("skipped.csv"), &index::to_csv(lines)?)
}

/// State that the threads of a build share.
struct Job<'a> {
    config: &'a BuildConfig,
    opener: &'a dyn Open,
    material: &'a Material,
    shards: &'a Path,
    /// Fingerprints of the stills that earlier builds have decoded, by key.
    stills: BTreeMap<String, Print>,
}

impl Job<'_> {
    /// Processes all entries. The result has one outcome per entry; [`None`] for an entry that was skipped.
    fn run(&self, summary: &mut Summary, progress: &mut dyn FnMut(BuildProgress)) -> Result<Vec<Option<Outcome>>> {
        let entries = &self.material.entries;
        let mut outcomes: Vec<Option<Outcome>> = entries.iter().map(|_| None).collect();
        let jobs = self.config.jobs.clamp(1, entries.len().max(1));
        // Recordings first. The estimate of the remaining time is then too long at first instead of too short, and no thread ends
        // up with a long recording while the others are idle.
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|i| entries[*i].item.kind.is_still());
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        // A result is small, and the collector does little work, so a few results per thread keep all threads busy.
        let (to, results) = bounded(4 * jobs);
        let mut journal = Journal::open(&self.config.out, &self.stills)?;
        std::thread::scope(|scope| {
            for n in 0..jobs {
                let (to, next, stopped, order) = (to.clone(), &next, &stopped, &order);
                std::thread::Builder::new()
                    .name(format!("dataset/{n}"))
                    .spawn_scoped(scope, move || {
                        while !stopped.load(Ordering::Relaxed) {
                            let Some(i) = order.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                            if to.send((*i, self.entry(&entries[*i]))).is_err() {
                                return;
                            }
                        }
                    })
                    .map_err(|e| Error::Internal(format!("cannot start a thread: {e}")))?;
            }
            drop(to);
            let mut failure = None;
            for (done, (i, result)) in results.iter().enumerate() {
                match result {
                    Ok(outcome) => {
                        if let (true, false, [part]) = (outcome.kind.is_still(), outcome.reused, &outcome.parts[..])
                            && let Err(e) = journal.add(&outcome.key, &part.prints)
                        {
                            stopped.store(true, Ordering::Relaxed);
                            failure.get_or_insert(e);
                        }
                        outcomes[i] = Some(outcome);
                    }
                    // Faults of the output or of the program affect every recording.
                    Err(e @ (Error::Output { .. } | Error::Internal(_) | Error::Usage(_))) => {
                        stopped.store(true, Ordering::Relaxed);
                        failure.get_or_insert(e);
                    }
                    Err(e) => {
                        let cause = touchline_core::redact::text(&e.to_string());
                        progress(BuildProgress::Note(format!("skipped: {cause}")));
                        summary.skipped.push((entries[i].item.path.clone(), cause));
                    }
                }
                progress(BuildProgress::Done { done: done + 1, total: entries.len() });
            }
            // Sorted, so that the order does not depend on the threads.
            summary.skipped.sort();
            failure.map_or(Ok(()), Err)
        })?;
        journal.finish()?;
        Ok(outcomes)
    }

    /// Processes a recording or a still.
    fn entry(&self, entry: &Entry) -> Result<Outcome> {
        let path = self.material.roots[entry.root as usize].join(&entry.item.path);
        let meta = std::fs::metadata(&path).map_err(|e| Error::data(&path, e.to_string(), "check the path"))?;
        let changed = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let changed_ns = changed.map_or(0, |t| t.as_nanos());
        let mut text = format!("{} {} {} {changed_ns}", shard::VERSION, path.display(), meta.len());
        if entry.item.kind.is_still() {
            let key = key(&text);
            let reused = self.stills.get(&key);
            let print = match reused {
                Some(print) => *print,
                None => Print::of(still(&path, self.config.frame_height)?.frames[0].view()),
            };
            let part = BuiltPart { shard: None, start_ns: None, end_ns: None, seconds: 1, prints: vec![print] };
            let (kind, reused) = (entry.item.kind, reused.is_some());
            return Ok(Outcome { kind, key, audible: false, parts: vec![part], reused });
        }
        let (start, end) = (entry.item.start_ns, entry.item.end_ns);
        let plan = self.plan(entry);
        text += &format!(" {start:?} {end:?} {} {} {plan:?}", self.config.frame_height, self.config.sample_rate);
        self.recording(entry, &path, key(&text), plan)
    }

    /// Returns the sampling plan of an entry. A sound has no frames, even if its file contains a picture, such as a cover.
    fn plan(&self, entry: &Entry) -> SamplingPlan {
        match entry.item.kind {
            Kind::Sound => SamplingPlan { rgb_frames: 0, flow_pairs: 0, ..self.config.plan.clone() },
            Kind::Clip | Kind::Picture | Kind::Frame => self.config.plan.clone(),
        }
    }

    /// Takes a recording from its shards if they are complete; otherwise cuts it.
    fn recording(&self, entry: &Entry, path: &Path, key: String, plan: SamplingPlan) -> Result<Outcome> {
        let name = |part: usize| format!("{key}-{part:04}.safetensors");
        let mut headers = Vec::new();
        while let Some(header) = header(&self.shards.join(name(headers.len()))) {
            let last = header.last;
            headers.push(header);
            if last {
                break;
            }
        }
        let reused = headers.last().is_some_and(|h| h.last);
        if !reused {
            headers = self.cut(entry, path, plan, &|part| self.shards.join(name(part)))?;
        }
        let is_whole = headers.len() == 1;
        let seconds = || headers.iter().flat_map(|h| &h.seconds);
        let has_pictures = seconds().any(|s| !s.rgb.is_empty());
        let has_sound = seconds().any(|s| s.peak.is_some());
        let kind = match entry.item.kind {
            Kind::Clip if !has_pictures && has_sound && !entry.kind_stated => Kind::Sound,
            kind => kind,
        };
        let missing = match kind {
            _ if seconds().next().is_none() => Some(match (entry.item.start_ns, entry.item.end_ns) {
                (None, None) => "no second of it has pictures or sound",
                _ => "there is no whole second between start and end",
            }),
            Kind::Clip if !has_pictures => Some("the recording has no pictures"),
            Kind::Sound if !has_sound => Some("it has no sound"),
            _ => None,
        };
        if let Some(cause) = missing {
            return Err(Error::data(path, cause, "replace it or remove it from the material"));
        }
        let audible = seconds().any(SecondHeader::is_audible);
        let parts = headers.iter().enumerate().map(|(n, header)| {
            let bounds = header.seconds.first().zip(header.seconds.last());
            let (first, last) = bounds.map_or((0, 0), |(a, b)| (a.index, b.index + 1));
            BuiltPart {
                shard: Some(name(n)),
                start_ns: if is_whole { entry.item.start_ns } else { Some(first * NANOS_PER_SECOND) },
                end_ns: if is_whole { entry.item.end_ns } else { Some(last * NANOS_PER_SECOND) },
                seconds: header.seconds.len() as u32,
                prints: header.seconds.iter().filter_map(|s: &SecondHeader| s.print).collect(),
            }
        });
        let parts = parts.collect();
        Ok(Outcome { kind, key, audible, parts, reused })
    }

    /// Decodes a recording and writes its shards. `place` returns the path of the nth shard.
    fn cut(
        &self,
        entry: &Entry,
        path: &Path,
        plan: SamplingPlan,
        place: &dyn Fn(usize) -> PathBuf,
    ) -> Result<Vec<Header>> {
        let config = ClipConfig {
            sample_rate: Some(self.config.sample_rate),
            plan,
            lag: LagLimits::for_pace(Pace::File),
            behind_ns: 0,
        };
        let start = entry.item.start_ns.unwrap_or(0);
        let end = entry.item.end_ns.unwrap_or(u64::MAX);
        let (mut draft, mut headers) = (Draft::default(), Vec::new());
        seconds_until(self.opener, path, config, &mut |second: ClipSecond| {
            let from = second.start().0;
            if from + NANOS_PER_SECOND > end {
                return Ok(ControlFlow::Break(()));
            }
            if from >= start {
                // A full shard is written only when another second follows; otherwise it is the last one.
                if draft.len() == SHARD_SECONDS {
                    headers.push(draft.write(&place(headers.len()), false)?);
                }
                draft.push(&second);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        headers.push(draft.write(&place(headers.len()), true)?);
        Ok(headers)
    }
}

/// Returns the first 16 hex digits of the SHA-256 of `text`.
fn key(text: &str) -> String {
    let mut hex = sha256_hex(text.as_bytes());
    hex.truncate(16);
    hex
}

/// Appends decoded stills to `stills.csv`.
struct Journal {
    writer: csv::Writer<File>,
    place: String,
    /// Lines since the last flush.
    pending: usize,
}

impl Journal {
    /// Most lines that are lost when the build is killed: half a second of decoding.
    const FLUSH_EVERY: usize = 64;

    /// Opens the file. It is written again with the known stills first, which removes a line that was cut short.
    fn open(dir: &Path, known: &BTreeMap<String, Print>) -> Result<Self> {
        let path = dir.join(STILLS);
        let lines = known.iter().map(|(key, print)| still_line(key, *print));
        write_atomically(&path, &index::to_csv(lines)?)?;
        let place = path.display().to_string();
        let file = File::options()
            .append(true)
            .open(&path)
            .map_err(|e| Error::output(&place, format!("cannot write: {e}"), "choose another -o"))?;
        let writer = csv::WriterBuilder::new().has_headers(known.is_empty()).from_writer(file);
        Ok(Self { writer, place, pending: 0 })
    }

    /// Adds the fingerprint of a still.
    fn add(&mut self, key: &str, prints: &[Print]) -> Result<()> {
        for print in prints {
            self.writer.serialize(still_line(key, *print)).map_err(|e| self.cannot(&e))?;
        }
        self.pending += 1;
        if self.pending >= Self::FLUSH_EVERY { self.finish() } else { Ok(()) }
    }

    /// Writes all added lines to the file.
    fn finish(&mut self) -> Result<()> {
        self.pending = 0;
        self.writer.flush().map_err(|e| self.cannot(&e))
    }

    fn cannot(&self, e: &dyn std::fmt::Display) -> Error {
        Error::output(
            &self.place,
            format!("cannot write: {e}"),
            "free space or choose another -o, and run the command again",
        )
    }
}

fn still_line(key: &str, print: Print) -> StillLine {
    StillLine { key: key.to_owned(), hash: format!("{:016x}", print.hash), spread: print.spread }
}
