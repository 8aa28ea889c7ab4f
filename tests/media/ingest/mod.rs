//! Ingest from real files and real servers, all made at test time. This module has the shared helpers.

mod conversion;
mod decode_tiers;
mod decoders;
mod failures;
mod frame_selection;
mod guarded;
mod logins;
mod recordings;
mod servers;
mod timecode;
mod tls;
mod web;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use touchline_core::clock::SystemClock;
use touchline_core::error::Result;
use touchline_core::frame::Frame;
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY, MediaItem, Track, Tracks};
use touchline_core::time::samples_to_nanos;
use touchline_core::timecode::TimecodeMark;
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::{Open, Source};

use crate::common::wait::LIMIT;

const BOTH: Tracks = Tracks { video: true, audio: true };

fn open(uri: &str, options: GstOptions) -> Result<(Box<dyn Source>, Receiver<MediaItem>)> {
    let (to, from) = bounded(MEDIA_CHANNEL_CAPACITY);
    let source = GstOpener::new(options, Arc::new(SystemClock::new()))?.open(uri, to)?;
    Ok((source, from))
}

/// The items of a source.
#[derive(Default)]
struct Received {
    tracks: Option<Tracks>,
    frames: Vec<Frame>,
    /// PTS, samples per channel, rate, channels of each chunk.
    chunks: Vec<(u64, u64, u32, u16)>,
    ended_tracks: Vec<Track>,
    /// Pictures that could not be decoded because a picture they depend on is missing.
    lost: usize,
    timecodes: Vec<TimecodeMark>,
    end: Option<End>,
}

impl Received {
    fn take(&mut self, item: MediaItem) {
        match item {
            MediaItem::Opened(tracks) => {
                assert!(
                    self.tracks.is_none() && self.frames.is_empty() && self.chunks.is_empty(),
                    "`Opened` is the first item and comes once"
                );
                self.tracks = Some(tracks);
            }
            MediaItem::Frame(frame) => self.frames.push(frame),
            MediaItem::Unconverted { .. } => panic!("every picture is converted"),
            MediaItem::Lost { .. } => self.lost += 1,
            MediaItem::Missing { from, to } => panic!("nothing is missing, but the source reports {from} to {to}"),
            MediaItem::Pcm(c) => self.chunks.push((c.pts.0, c.frames() as u64, c.rate, c.channels)),
            MediaItem::TrackEnded(track) => self.ended_tracks.push(track),
            MediaItem::Timecode(mark) => self.timecodes.push(mark),
            MediaItem::Wall { .. } | MediaItem::Incident(_) => {}
            MediaItem::Discontinuity(d) => panic!("a single connection has no discontinuity: {d:?}"),
            MediaItem::Ended(end) => self.end = Some(end),
        }
    }

    fn samples(&self) -> u64 {
        self.chunks.iter().map(|c| c.1).sum()
    }

    /// Checks that the PTS of pictures increase, and that sound has no gaps or overlaps of `slack_ms` or more.
    fn assert_in_order(&self, slack_ms: u64) {
        for pair in self.frames.windows(2) {
            assert!(pair[0].pts < pair[1].pts, "{} then {}", pair[0].pts, pair[1].pts);
        }
        for pair in self.chunks.windows(2) {
            let end = pair[0].0 + samples_to_nanos(pair[0].1, pair[0].2);
            assert!(end.abs_diff(pair[1].0) < slack_ms * 1_000_000, "{:?} then {:?}", pair[0], pair[1]);
        }
    }
}

/// All items up to the end.
fn all(uri: &str, options: GstOptions) -> Received {
    let (_source, from) = match open(uri, options) {
        Ok(opened) => opened,
        Err(e) => panic!("{uri}: {e}"),
    };
    let mut received = Received::default();
    while received.end.is_none() {
        received.take(from.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{uri}: no item in time")));
    }
    assert_eq!(from.recv_timeout(LIMIT).err(), Some(RecvTimeoutError::Disconnected), "the end is the last item");
    received
}

/// Receives at least `frames` pictures and `ms` of sound, then stops the source and waits for its end.
fn some(uri: &str, options: GstOptions, frames: usize, ms: u64) -> Received {
    let (mut source, from) = open(uri, options).unwrap_or_else(|e| panic!("{uri}: {e}"));
    let mut received = Received::default();
    let until = Instant::now() + LIMIT;
    let enough = |h: &Received| {
        h.frames.len() >= frames && h.chunks.first().map_or(0, |c| h.samples() * 1000 / u64::from(c.2)) >= ms
    };
    while !enough(&received) {
        assert!(Instant::now() < until, "{uri}: {} pictures, {} samples", received.frames.len(), received.samples());
        received.take(from.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{uri}: no item in time")));
        assert_eq!(received.end, None, "{uri}");
    }
    source.stop();
    while received.end.is_none() {
        received.take(from.recv_timeout(LIMIT).expect("a stopped source sends its end"));
    }
    assert_eq!(received.end, Some(End::Finished));
    received
}

/// The failure of a source: its cause and advice, or the error of opening it.
fn failure(uri: &str, options: GstOptions) -> String {
    let (_source, from) = match open(uri, options) {
        Ok(opened) => opened,
        Err(e) => return e.to_string(),
    };
    let until = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < until, "{uri} does not fail");
        match from.recv_timeout(LIMIT) {
            Ok(MediaItem::Ended(End::Failed { cause, advice, .. })) => return format!("{cause}; {advice}"),
            Ok(MediaItem::Ended(End::Finished)) => panic!("{uri} ended without failing"),
            Ok(_) => {}
            Err(e) => panic!("{uri}: {e}"),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}
