//! The position of each track on its timeline, and items held back until their timeline is known.
//!
//! Only positions and queues; [`super::builder`] makes the decisions.

use std::collections::VecDeque;

use crate::item::{MediaItem, Track};
use crate::time::NANOS_PER_SECOND;

/// One of two tracks that jumps further ahead than this is on another timeline, ns.
pub(super) const BRIDGE_NS: u64 = 2_000_000_000;

/// A track that jumps back by more than this is on another timeline, ns.
pub(super) const JUMP_BACK_NS: u64 = 500_000_000;

/// How long pictures are held back at most, ns of stream time, because they are large.
const PICTURES_HELD_NS: u64 = 2_000_000_000;

/// The most items of each track that are held back: two seconds of pictures at 60 per second, and about ten
/// seconds of sound in chunks of a millisecond.
const HELD_MAX: [usize; 2] = [128, 8192];

/// The count of a discarded item: 1 for a frame, samples per channel for sound.
pub(super) fn weight(item: &MediaItem) -> u64 {
    match item {
        MediaItem::Pcm(chunk) => chunk.frames() as u64,
        MediaItem::Frame(_) | MediaItem::Unconverted { .. } | MediaItem::Lost { .. } => 1,
        _ => 0,
    }
}

/// The position of one track on one timeline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// Latest PTS of a frame, or end of the latest sound, ns. Jumps back are measured from here.
    latest: u64,
    /// Expected PTS of the next item, ns: for video, one frame distance (at most a second) later.
    pub next: u64,
}

impl Position {
    fn first(track: Track, start: u64, end: u64) -> Self {
        Self { latest: if track == Track::Video { start } else { end }, next: end }
    }

    fn advance(&mut self, track: Track, start: u64, end: u64) {
        match track {
            Track::Video if start > self.latest => {
                self.next = start.saturating_add((start - self.latest).min(NANOS_PER_SECOND));
                self.latest = start;
            }
            Track::Video => {}
            Track::Audio => {
                self.latest = self.latest.max(end);
                self.next = self.latest;
            }
        }
    }

    /// Advances the position in `place`, which may be empty.
    pub fn note(place: &mut Option<Self>, track: Track, start: u64, end: u64) {
        match place {
            Some(position) => position.advance(track, start, end),
            None => *place = Some(Self::first(track, start, end)),
        }
    }

    /// Whether an item at `pts` continues this timeline, whose latest position is `reach`: it may be ahead by `bridge_ns` at most.
    pub fn continues(&self, pts: u64, reach: u64, bridge_ns: u64) -> bool {
        pts.saturating_add(JUMP_BACK_NS) >= self.latest && pts <= reach.max(self.next).saturating_add(bridge_ns)
    }
}

/// The timeline of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timeline {
    pub positions: [Option<Position>; 2],
    start: u64,
}

impl Timeline {
    /// The latest expected PTS of either track, ns; `None` before any data.
    pub fn reach(&self) -> Option<u64> {
        self.positions.iter().flatten().map(|p| p.next).max()
    }

    /// Whether an item of `track` at `pts` belongs to this timeline. The first item of a track may lie before the first of the other
    /// by up to the lag limit.
    pub fn admits(&self, track: Track, pts: u64, lag_ns: u64, bridge_ns: u64) -> bool {
        let Some(reach) = self.reach() else { return true };
        match &self.positions[track.index()] {
            Some(position) => position.continues(pts, reach, bridge_ns),
            None => {
                let earliest = self.start.saturating_sub(lag_ns.max(bridge_ns));
                pts >= earliest && pts <= reach.saturating_add(bridge_ns)
            }
        }
    }

    pub fn note(&mut self, track: Track, start: u64, end: u64) {
        self.start = if self.reach().is_none() { start } else { self.start.min(start) };
        Position::note(&mut self.positions[track.index()], track, start, end);
    }
}

/// Items of one track that wait for a decision.
#[derive(Debug, Default)]
pub(super) struct HeldItems {
    items: VecDeque<MediaItem>,
    /// PTS of the first item, ns.
    pub front: Option<u64>,
    pub position: Option<Position>,
    /// The other track has continued the run since these items were held.
    pub other_moved: bool,
}

impl HeldItems {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds an item with data.
    pub fn push(&mut self, item: MediaItem, track: Track, start: u64, end: u64) {
        self.front.get_or_insert(start);
        Position::note(&mut self.position, track, start, end);
        self.items.push_back(item);
    }

    /// Adds the track's end after the held items.
    pub fn push_end(&mut self, track: Track) {
        self.items.push_back(MediaItem::TrackEnded(track));
    }

    pub fn take(&mut self) -> VecDeque<MediaItem> {
        std::mem::take(self).items
    }

    /// Whether a limit is reached: too much stream time, or too many items.
    pub fn is_exhausted(&self, track: Track, lag_ns: u64) -> bool {
        let (Some(front), Some(position)) = (self.front, self.position) else { return false };
        let limit = match track {
            Track::Video => lag_ns.min(PICTURES_HELD_NS),
            Track::Audio => lag_ns,
        };
        position.next.saturating_sub(front) >= limit || self.items.len() >= HELD_MAX[track.index()]
    }
}

/// Merges two queues by PTS, each in its own order; video first at equal times.
pub(super) fn merge(mut video: VecDeque<MediaItem>, mut audio: VecDeque<MediaItem>) -> VecDeque<MediaItem> {
    // A track's end has no PTS: it follows the item before it.
    let key = |queue: &VecDeque<MediaItem>| queue.front().map(|item| item.span().map_or(0, |(_, start, _)| start));
    let mut merged = VecDeque::with_capacity(video.len() + audio.len());
    loop {
        let from = match (key(&video), key(&audio)) {
            (Some(v), Some(a)) if v <= a => &mut video,
            (Some(_), None) => &mut video,
            (_, Some(_)) => &mut audio,
            (None, None) => return merged,
        };
        merged.extend(from.pop_front());
    }
}
