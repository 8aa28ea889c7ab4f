//! The clips of `touchline score`: the segments of each recording, cut from it without encoding it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;

use super::paths::{output_path, shown};
use touchline_core::error::{Error, Result};
use touchline_core::labels::ClassSet;
use touchline_core::redact;
use touchline_core::segment::{Segment, SegmentKind};
use touchline_core::time::{NANOS_PER_SECOND, Pts};
use touchline_media::gst::clips::{ClipError, ClipRequest, cut_recording};
use touchline_serve::clips::{self, ClipReason, ClipSubject, DecisionRecord};

#[derive(Debug, Args)]
pub struct ClipArgs {
    /// Cut each segment of a class into this folder, from the original media: a media file (MP4, or Matroska for codings that
    /// MP4 lacks), a JSON file with its decisions, and a poster.
    #[arg(long, value_name = "DIR", value_parser = output_path())]
    clips: Option<PathBuf>,
    /// Seconds before each segment. The clip begins at the key picture before that.
    #[arg(long, value_name = "N", default_value_t = 2, requires = "clips", value_parser = clap::value_parser!(u32).range(..=600))]
    clip_pre_roll: u32,
    /// Seconds after each segment.
    #[arg(long, value_name = "N", default_value_t = 2, requires = "clips", value_parser = clap::value_parser!(u32).range(..=600))]
    clip_post_roll: u32,
    /// Write the sound of each clip as a WAV file as well.
    #[arg(long, requires = "clips")]
    clip_wav: bool,
}

/// Cuts the clips of recordings.
pub struct ClipCutter {
    dir: PathBuf,
    pre_roll_ns: u64,
    post_roll_ns: u64,
    wav: bool,
    /// Names of the clips of each recording, without number and class: two recordings may have the same name.
    stems: BTreeMap<PathBuf, String>,
}

impl ClipCutter {
    /// The cutter of `recordings` that `args` asks for. Only it writes to the folder: what the user has there stays.
    ///
    /// # Errors
    /// [`Error::Usage`] if a clip could replace one of the recordings, [`Error::Output`] if the folder cannot be created.
    pub fn new(args: &ClipArgs, recordings: &[PathBuf]) -> Result<Option<Self>> {
        let Some(dir) = &args.clips else { return Ok(None) };
        let stems = stems(recordings);
        refuse_replaced(dir, recordings, &stems)?;
        clips::create_dir(dir)?;
        let ns = |seconds: u32| u64::from(seconds) * NANOS_PER_SECOND;
        let (pre_roll_ns, post_roll_ns) = (ns(args.clip_pre_roll), ns(args.clip_post_roll));
        Ok(Some(Self { dir: dir.clone(), pre_roll_ns, post_roll_ns, wav: args.clip_wav, stems }))
    }

    /// Cuts the segments of the recording at `path`, with the records of its seconds. Returns the number of clips.
    ///
    /// # Errors
    /// [`Error::Output`] if a clip cannot be written, [`Error::Source`] if the media cannot be read.
    pub fn cut(
        &self,
        path: &Path,
        segments: &[Segment],
        classes: &ClassSet,
        records: &[DecisionRecord],
    ) -> Result<usize> {
        let segments: Vec<(&Segment, &str)> = segments
            .iter()
            .filter_map(|segment| {
                let SegmentKind::Class(class) = segment.kind else { return None };
                Some((segment, classes.name(class)))
            })
            .collect();
        if segments.is_empty() {
            return Ok(0);
        }
        let stem =
            self.stems.get(path).ok_or_else(|| Error::Internal("a recording has no name for its clips".into()))?;
        let requests: Vec<ClipRequest> = segments
            .iter()
            .enumerate()
            .map(|(i, (segment, class))| ClipRequest {
                run: segment.run,
                from: Pts(Pts::from_second(segment.first).0.saturating_sub(self.pre_roll_ns)),
                to: Pts::from_second(segment.last + 1).plus(self.post_roll_ns),
                dir: self.dir.clone(),
                name: clips::name(&[stem, &format!("{:04}", i + 1), class]),
            })
            .collect();
        let cut = cut_recording(path, &requests).map_err(|e| {
            Error::source_error(
                path.display().to_string(),
                redact::text(&e.to_string()),
                "check the file with another player",
            )
        })?;
        let mut count = 0;
        for ((request, (segment, class)), files) in requests.iter().zip(&segments).zip(cut) {
            let files = match files {
                Ok(files) => files,
                Err(ClipError::NoMedia) => {
                    tracing::warn!("clip {}: no media of that time; the recording may be damaged there", request.name);
                    continue;
                }
                Err(e) => return Err(self.unwritable(&e)),
            };
            let subject = ClipSubject {
                stream: &path.to_string_lossy(),
                reason: ClipReason::Segment,
                class: Some(class),
                run: segment.run,
                from: Pts::from_second(segment.first),
                to: Pts::from_second(segment.last + 1),
                strongest: segment.peak_index.unwrap_or(segment.first),
                wall: None,
                missing: Vec::new(),
                wav: self.wav,
            };
            clips::complete(&self.dir, &request.name, &subject, files, records).map_err(|e| self.unwritable(&e))?;
            count += 1;
        }
        Ok(count)
    }

    fn unwritable(&self, cause: &dyn std::fmt::Display) -> Error {
        let place = shown(&self.dir);
        Error::output(
            place,
            redact::text(&cause.to_string()),
            "free space, check the permissions or choose another --clips",
        )
    }
}

/// A name for the clips of each recording.
fn stems(recordings: &[PathBuf]) -> BTreeMap<PathBuf, String> {
    let (mut stems, mut names) = (BTreeMap::new(), BTreeSet::new());
    for path in recordings {
        let stem = clips::name(&[&path.file_stem().unwrap_or_default().to_string_lossy()]);
        let numbered = (2..).map(|number| format!("{stem}.{number}"));
        let name = std::iter::once(stem.clone()).chain(numbered).find(|name| !names.contains(name));
        let name = name.expect("one of the numbers is free");
        names.insert(name.clone());
        // A recording that is given twice has the same clips twice.
        stems.insert(path.clone(), name);
    }
    stems
}

/// Refuses recordings that lie in the folder of the clips and have the name of a clip, as those of an earlier run.
fn refuse_replaced(dir: &Path, recordings: &[PathBuf], stems: &BTreeMap<PathBuf, String>) -> Result<()> {
    let Ok(dir_file) = dir.canonicalize() else { return Ok(()) };
    let stems: BTreeSet<&str> = stems.values().map(String::as_str).collect();
    let is_replaced = |path: &&PathBuf| {
        let Ok(file) = path.canonicalize() else { return false };
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        file.parent() == Some(&dir_file) && clip_stems(&name).any(|stem| stems.contains(stem))
    };
    match recordings.iter().find(is_replaced) {
        None => Ok(()),
        Some(path) => Err(Error::Usage(format!(
            "--clips: {} has the name of a clip and would be replaced; name another folder",
            shown(path)
        ))),
    }
}

/// What stands before a number of four digits or more in `name`, as in that of a clip.
fn clip_stems(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('-').filter_map(|(at, _)| {
        let digits = name[at + 1..].find(|c: char| !c.is_ascii_digit())?;
        (digits >= 4 && name[at + 1 + digits..].starts_with('-')).then_some(&name[..at])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_do_not_replace_recordings_of_the_same_run() {
        let dir = tempfile::tempdir().unwrap();
        let paths = |names: &[&str]| -> Vec<PathBuf> {
            let put = |name: &&str| {
                let path = dir.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, "media").unwrap();
                path
            };
            names.iter().map(put).collect()
        };
        let check = |recordings: &[PathBuf]| refuse_replaced(dir.path(), recordings, &stems(recordings));
        for names in [&["a.mp4", "a-0001-tennis.mp4"][..], &["a.mp4", "x/a.mp4", "a.2-0001-tennis.mp4"]] {
            let refused = check(&paths(names)).unwrap_err().to_string();
            assert!(refused.contains("-0001-tennis.mp4 has the name of a clip"), "{refused}");
        }
        for names in
            [&["a.mp4", "b-0001-tennis.mp4"][..], &["a.mp4", "x/a-0001-tennis.mp4"], &["a.mp4", "a-24-final.mp4"]]
        {
            check(&paths(names)).unwrap();
        }
    }
}
