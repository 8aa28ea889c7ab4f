//! Reads seconds of a ring again as the models saw them: cuts the media around them into files, and decodes these as recordings.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::super::{ClipError, ClipFile, ClipRequest, OpenClip};
use super::cut::{OpenRing, RingAnchor};
use crate::Open;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, ClipSecond};
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY, MediaItem, Track};
use touchline_core::time::{NANOS_PER_SECOND, Pts, RunId};

/// Seconds with so many others between them at most are decoded together. Opening a file takes as long as decoding some seconds.
const APART_MAX: u64 = 4;

/// Seconds that are decoded together at most: the size of a file on the disk.
const TOGETHER_MAX: u64 = 30;

/// Media before the first second, ns: decoders and resamplers of sound have a begin, which the live stream did not have there.
const BEFORE_NS: u64 = NANOS_PER_SECOND;

/// Media behind the last second, ns: resamplers look ahead.
const AFTER_NS: u64 = NANOS_PER_SECOND / 2;

/// How far a decoded picture may be from its time in the ring, ns. Containers round times: MP4 to a fraction of a picture, Matroska to a
/// millisecond.
const ROUNDED_NS: u64 = 2_000_000;

/// How often a source that sends nothing is looked after.
const POLL: Duration = Duration::from_millis(100);

/// A file of which nothing is decoded for so many polls is given up: half a minute.
const SILENT_POLLS: u32 = 300;

/// Seconds of a stream whose media are in its ring.
pub struct RingSeconds<'a> {
    /// Folder of the ring.
    pub dir: &'a Path,
    /// A moment of their run: that of the last of them, which leaves the ring last.
    pub anchor: RingAnchor,
    /// Their numbers.
    pub wanted: &'a BTreeSet<u64>,
    /// An empty folder for files that are removed at once.
    pub work: &'a Path,
    /// How they are cut: as the live stream.
    pub config: &'a ClipConfig,
}

/// Decodes seconds and passes those whose media are there to `each`, in order. `opener` opens the files. Ends early, without an error, when
/// `is_cancelled` returns true.
///
/// The pictures are those that the live stream chose: they get the times back that they had there, which the containers of the files round.
///
/// # Errors
/// [`ClipError::NoMedia`] if the ring does not have the time of the anchor; others if it cannot be read, cut or decoded.
pub fn ring_seconds(
    request: &RingSeconds<'_>,
    opener: &dyn Open,
    is_cancelled: &dyn Fn() -> bool,
    each: &mut dyn FnMut(ClipSecond),
) -> Result<(), ClipError> {
    let (Some(first), Some(last)) = (request.wanted.first(), request.wanted.last()) else { return Ok(()) };
    let span = Pts(Pts::from_second(*first).0.saturating_sub(BEFORE_NS))..Pts::from_second(last + 1).plus(AFTER_NS);
    let ring = OpenRing::new(request.dir, request.anchor, span)?;
    let run = RunId(ring.run);
    let requests: Vec<ClipRequest> = groups(request.wanted)
        .into_iter()
        .map(|group| ClipRequest {
            run,
            from: Pts(Pts::from_second(*group.start()).0.saturating_sub(BEFORE_NS)),
            to: Pts::from_second(group.end() + 1).plus(AFTER_NS),
            dir: request.work.into(),
            name: format!("seconds-{}", group.start()),
        })
        .collect();
    let mut open: Vec<OpenClip<'_>> = requests.iter().map(|request| OpenClip::new(request, &ring.index)).collect();
    open.retain(|clip| clip.error.is_none());
    let times = ring.index.times(ring.run, Track::Video);
    let mut seconds = Seconds { request, times, opener, is_cancelled, each, seen: BTreeSet::new() };
    let mut result = Ok(());
    ring.read(&mut |recorded| {
        open.iter_mut().for_each(|clip| clip.push(&recorded.unit));
        // One file after the other, so that they do not fill the disk.
        for clip in open.extract_if(.., |clip| clip.is_over()) {
            result = std::mem::replace(&mut result, Ok(())).and_then(|()| seconds.decode(clip));
        }
        result.is_ok() && !open.is_empty() && !is_cancelled()
    });
    result
}

/// The spans that are decoded together.
fn groups(wanted: &BTreeSet<u64>) -> Vec<RangeInclusive<u64>> {
    let mut groups: Vec<RangeInclusive<u64>> = Vec::new();
    for &index in wanted {
        match groups.last_mut() {
            Some(last) if index - last.end() <= APART_MAX && index - last.start() < TOGETHER_MAX => {
                *last = *last.start()..=index;
            }
            _ => groups.push(index..=index),
        }
    }
    groups
}

struct Seconds<'a> {
    request: &'a RingSeconds<'a>,
    /// Times of the pictures of the run in the ring, ascending.
    times: Vec<i64>,
    opener: &'a dyn Open,
    is_cancelled: &'a dyn Fn() -> bool,
    each: &'a mut dyn FnMut(ClipSecond),
    seen: BTreeSet<u64>,
}

impl Seconds<'_> {
    fn decode(&mut self, clip: OpenClip<'_>) -> Result<(), ClipError> {
        let files = match clip.finish() {
            // The ring begins within the second before the wanted ones.
            Err(ClipError::NoMedia) => return Ok(()),
            files => files?,
        };
        for file in files {
            let path = self.request.work.join(&file.file);
            let decoded = self.decode_file(&path, &file);
            std::fs::remove_file(&path)?;
            decoded?;
        }
        Ok(())
    }

    fn decode_file(&mut self, path: &Path, file: &ClipFile) -> Result<(), ClipError> {
        let failed =
            |cause: &dyn std::fmt::Display| ClipError::Failed(format!("cannot decode recorded media: {cause}"));
        let (to, items) = bounded(MEDIA_CHANNEL_CAPACITY);
        let _source = self.opener.open(&path.to_string_lossy(), to).map_err(|e| failed(&e))?;
        let mut builder = ClipBuilder::new(self.request.config.clone());
        let (mut out, mut silent) = (Vec::new(), 0);
        while !(self.is_cancelled)() {
            let item = match items.recv_timeout(POLL) {
                Ok(item) => item,
                Err(RecvTimeoutError::Timeout) if silent < SILENT_POLLS => {
                    silent += 1;
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => return Err(failed(&"the decoder makes no progress")),
                Err(RecvTimeoutError::Disconnected) => return Err(failed(&"the source ended unexpectedly")),
            };
            silent = 0;
            builder.push(self.placed(item, file.begin), &mut out);
            for output in out.drain(..) {
                match output {
                    // A hole begins a run, whose seconds the live stream has in another run too.
                    ClipOutput::Second(second)
                        if second.run == RunId(0)
                            && self.request.wanted.contains(&second.index)
                            && self.seen.insert(second.index) =>
                    {
                        (self.each)(second);
                    }
                    ClipOutput::Ended(End::Finished) => return Ok(()),
                    ClipOutput::Ended(End::Failed { cause, .. }) => return Err(failed(&cause)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// An item of a file whose time 0 is at `begin`, on the timeline of the stream.
    fn placed(&self, item: MediaItem, begin: Pts) -> MediaItem {
        let at = |pts: Pts| pts.plus(begin.0);
        match item {
            MediaItem::Frame(mut frame) => {
                frame.pts = self.picture(at(frame.pts));
                MediaItem::Frame(frame)
            }
            MediaItem::Unconverted { pts, arrived_ns } => {
                MediaItem::Unconverted { pts: self.picture(at(pts)), arrived_ns }
            }
            MediaItem::Lost { pts } => MediaItem::Lost { pts: self.picture(at(pts)) },
            MediaItem::Pcm(mut chunk) => {
                chunk.pts = at(chunk.pts);
                MediaItem::Pcm(chunk)
            }
            MediaItem::Missing { from, to } => MediaItem::Missing { from: at(from), to: at(to) },
            item => item,
        }
    }

    /// The time in the ring of a picture that is about at `pts`.
    fn picture(&self, pts: Pts) -> Pts {
        let ns = i64::try_from(pts.0).unwrap_or(i64::MAX);
        let after = self.times.partition_point(|time| *time < ns);
        let near = self.times[after.saturating_sub(1)..].iter().take(2).min_by_key(|time| time.abs_diff(ns));
        let exact = near.filter(|time| time.abs_diff(ns) <= ROUNDED_NS);
        exact.and_then(|time| u64::try_from(*time).ok()).map_or(pts, Pts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_that_are_near_are_decoded_together() {
        let of = |wanted: &[u64]| groups(&wanted.iter().copied().collect());
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[3, 4, 8, 20]), [3..=8, 20..=20]);
        let long = of(&(0..70).collect::<Vec<_>>());
        assert_eq!(long, [0..=29, 30..=59, 60..=69]);
    }
}
