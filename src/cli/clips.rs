//! The clips of `touchline score`: the segments of each recording, cut from it without encoding it again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use touchline_core::error::{Error, Result};
use touchline_core::labels::ClassSet;
use touchline_core::redact;
use touchline_core::segment::{Segment, SegmentKind};
use touchline_core::time::{NANOS_PER_SECOND, Pts};
use touchline_media::gst::clips::{ClipError, ClipRequest, cut_recording};
use touchline_serve::clips::{self, ClipReason, ClipStore, ClipSubject, DecisionRecord};

#[derive(Debug, Args)]
pub struct ClipArgs {
    /// Cut each segment of a class into this folder, from the original media: a media file (MP4, or Matroska for codings that
    /// MP4 lacks), a JSON file with its decisions, and a poster.
    #[arg(long, value_name = "DIR")]
    clips: Option<PathBuf>,
    /// Seconds before each segment. The clip begins at the key picture before that.
    #[arg(long, value_name = "N", default_value_t = 2, requires = "clips", value_parser = clap::value_parser!(u32).range(..=600))]
    clip_pre_roll: u32,
    /// Seconds after each segment.
    #[arg(long, value_name = "N", default_value_t = 2, requires = "clips", value_parser = clap::value_parser!(u32).range(..=600))]
    clip_post_roll: u32,
}

/// Cuts the clips of recordings.
pub struct ClipCutter {
    dir: PathBuf,
    pre_roll_ns: u64,
    post_roll_ns: u64,
    /// Names in this run: two recordings may have the same.
    names: BTreeSet<String>,
}

impl ClipCutter {
    /// The cutter that `args` asks for.
    pub fn new(args: &ClipArgs) -> Result<Option<Self>> {
        let Some(dir) = &args.clips else { return Ok(None) };
        ClipStore::open(dir)?;
        let ns = |seconds: u32| u64::from(seconds) * NANOS_PER_SECOND;
        let (pre_roll_ns, post_roll_ns) = (ns(args.clip_pre_roll), ns(args.clip_post_roll));
        Ok(Some(Self { dir: dir.clone(), pre_roll_ns, post_roll_ns, names: BTreeSet::new() }))
    }

    /// Cuts the segments of the recording at `path`, with the records of its seconds. Returns the number of clips.
    ///
    /// # Errors
    /// [`Error::Output`] if a clip cannot be written, [`Error::Source`] if the media cannot be read.
    pub fn cut(
        &mut self,
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
        let stem = self.stem(path);
        let requests: Vec<ClipRequest> = segments
            .iter()
            .enumerate()
            .map(|(i, (segment, class))| ClipRequest {
                run: segment.run,
                from: Pts(Pts::from_second(segment.first).0.saturating_sub(self.pre_roll_ns)),
                to: Pts::from_second(segment.last + 1).plus(self.post_roll_ns),
                dir: self.dir.clone(),
                name: clips::name(&[&stem, &format!("{:04}", i + 1), class]),
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
                wav: false,
            };
            clips::complete(&self.dir, &request.name, &subject, files, records).map_err(|e| self.unwritable(&e))?;
            count += 1;
        }
        Ok(count)
    }

    /// A name for the clips of a recording.
    fn stem(&mut self, path: &Path) -> String {
        let stem = clips::name(&[&path.file_stem().unwrap_or_default().to_string_lossy()]);
        let numbered = (2..).map(|number| format!("{stem}.{number}"));
        let name = std::iter::once(stem.clone()).chain(numbered).find(|name| !self.names.contains(name));
        let name = name.expect("one of the numbers is free");
        self.names.insert(name.clone());
        name
    }

    fn unwritable(&self, cause: &dyn std::fmt::Display) -> Error {
        let place = self.dir.display().to_string();
        Error::output(
            place,
            redact::text(&cause.to_string()),
            "free space, check the permissions or choose another --clips",
        )
    }
}
