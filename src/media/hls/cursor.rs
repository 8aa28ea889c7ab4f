//! The playlist cursor: selects the next piece of a reloaded media playlist, and counts the time missed before it. Pure: no clock, no
//! network.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use url::Url;

use super::attributes::ByteRange;
use super::playlist::{AdBreakEdge, InitSection, MediaPlaylist, PartialSegment, Protection, Segment};

/// Distance of playback from the end of a live playlist without a `HOLD-BACK`, in target durations (RFC 8216bis, 6.3.3).
const HOLD_BACK_TARGETS: u64 = 3;

/// A playlist that ends up to this many segments before the next one may be an older copy from a cache.
const STALE_MAX: u128 = 3;

/// After this many successive reloads that end before the next segment but still move, the playlist is another stream.
const STALE_TURNS: u32 = 3;

/// The most remembered addresses of taken segments.
const KNOWN_MAX: usize = 16;

/// Segments before the next one that the reader keeps, to compare their addresses.
const LOOK_BACK: u128 = 8;

/// After an outage playback resumes where it was if that is at most this many target durations behind the end.
const RESUME_TARGETS: u64 = 10;

/// The durations of parts and segments are rounded separately: a difference below this is no loss, ns.
const ROUNDING_NS: u64 = 100_000_000;

/// A hole of more segments begins another run.
const MISSED_MAX: u128 = 600;

/// The next thing to fetch: a segment or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub sequence: u128,
    pub url: Url,
    pub range: Option<ByteRange>,
    pub duration_ns: u64,
    pub is_gap: bool,
    pub key: Option<Protection>,
    pub map: Option<Arc<InitSection>>,
    pub made_ns: Option<i64>,
    pub ad: Option<AdBreakEdge>,
    /// `EXT-X-DISCONTINUITY` stands before it.
    pub is_break: bool,
    /// The playlist restarted: its numbers went back, or the same numbers have other media.
    pub is_restart: bool,
    /// Time missed before it, ns: segments that left the playlist before they were taken.
    pub missed_ns: u64,
    /// A part of a segment.
    pub is_part: bool,
}

/// The position in a channel, kept from one connection to the next: no second is decided twice, and segments that are still in the
/// playlist after an outage are not lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlaylistMemory(Arc<Mutex<StoredPosition>>);

/// The content of a [`PlaylistMemory`]: the path of a playlist and its cursor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredPosition(Option<(String, PlaylistCursor)>);

impl PlaylistMemory {
    pub(crate) fn stored(&self) -> StoredPosition {
        self.0.lock().clone()
    }

    pub(crate) fn restore(&self, stored: StoredPosition) {
        *self.0.lock() = stored;
    }

    /// Stores the position of `cursor` in the playlist at `url`. `unreported_ns`: the loss before it that was not reported yet.
    pub(super) fn keep(&self, url: &Url, cursor: &PlaylistCursor, unreported_ns: u64) {
        let missed_ns = cursor.missed_ns.saturating_add(unreported_ns);
        let kept = (url.path().to_owned(), PlaylistCursor { missed_ns, ..cursor.clone() });
        *self.0.lock() = StoredPosition(Some(kept));
    }

    /// A cursor for the playlist at `url`, whose segments are `media`. It resumes at the stored position unless that is too far
    /// behind.
    pub(super) fn resume(&self, url: &Url, media: &MediaPlaylist) -> PlaylistCursor {
        let kept = self.0.lock();
        let known = kept.0.as_ref().filter(|(path, _)| path == url.path() && !media.is_over).map(|(_, cursor)| cursor);
        match known {
            Some(cursor) if cursor.behind_ns(media) <= media.target_ns.saturating_mul(RESUME_TARGETS) => cursor.clone(),
            _ => PlaylistCursor::default(),
        }
    }
}

/// The position of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SegmentPosition {
    sequence: u128,
    part: usize,
}

/// The position in one playlist.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct PlaylistCursor {
    next: Option<SegmentPosition>,
    missed_ns: u64,
    is_restart: bool,
    /// Sequence numbers and paths of taken segments. Without the query: tokens in it change with every reload.
    known: VecDeque<(u128, String)>,
    stale_turns: u32,
    newest: Option<(u128, usize)>,
    /// Parts are played.
    low_latency: bool,
    /// The duration of the parts taken so far of the next segment, ns.
    taken_ns: u64,
}

impl PlaylistCursor {
    /// The sequence number from which segments are wanted.
    pub fn wants_from(&self) -> u128 {
        self.next.map_or(0, |next| next.sequence.saturating_sub(LOOK_BACK))
    }

    /// Whether `media`, read from [`PlaylistCursor::wants_from`] on, must be read again from its start: the next segment is not
    /// in it.
    pub fn must_see_all(&self, media: &MediaPlaylist) -> bool {
        self.next.is_some_and(|next| end(media) < next.sequence) && media.segments.len() < LOOK_BACK as usize
    }

    /// The duration of the segments in `media` that were not taken, ns.
    fn behind_ns(&self, media: &MediaPlaylist) -> u64 {
        let Some(next) = self.next else { return u64::MAX };
        let taken = usize::try_from(next.sequence.saturating_sub(media.sequence)).unwrap_or(usize::MAX);
        media.segments.iter().skip(taken).map(|segment| segment.duration_ns).sum()
    }

    /// Begins at the segment `sequence` if `media` has it; otherwise as [`PlaylistCursor::update`] does.
    pub fn begin_at(&mut self, sequence: u128, media: &MediaPlaylist) {
        if (media.sequence..end(media)).contains(&sequence) {
            self.next = Some(SegmentPosition { sequence, part: 0 });
        }
    }

    /// Takes in a reloaded playlist. Returns whether it has moved.
    pub fn update(&mut self, media: &MediaPlaylist) -> bool {
        let newest = (end(media), unfinished(media).len());
        let has_moved = self.newest.replace(newest) != Some(newest);
        let Some(next) = self.next else {
            if media.segments.is_empty() && media.unfinished.is_none() {
                return has_moved;
            }
            self.low_latency = !media.is_over && media.part_target_ns.is_some() && has_parts(media);
            self.next = Some(start(media, self.low_latency));
            return has_moved;
        };
        let is_other = self.known.iter().any(|(sequence, path)| {
            let index = sequence.checked_sub(media.sequence).and_then(|i| usize::try_from(i).ok());
            index.and_then(|i| media.segments.get(i)).is_some_and(|segment| segment.url.path() != path)
        });
        let back = next.sequence.saturating_sub(end(media));
        self.stale_turns = if back == 0 { 0 } else { self.stale_turns + u32::from(has_moved) };
        if is_other || back > STALE_MAX || self.stale_turns > STALE_TURNS {
            if !self.renumber(media) {
                self.restart(media);
            }
        } else if media.sequence > next.sequence && !self.renumber(media) {
            let missed = media.sequence - next.sequence;
            if missed > MISSED_MAX {
                self.restart(media);
            } else {
                let missed_ns = (missed as u64).saturating_mul(media.target_ns).saturating_sub(self.taken_ns);
                self.missed_ns = self.missed_ns.saturating_add(missed_ns);
                self.go_to(media.sequence);
            }
        }
        has_moved
    }

    /// Looks for the last taken segment under another number: the same channel, renumbered.
    fn renumber(&mut self, media: &MediaPlaylist) -> bool {
        let Some((_, last)) = self.known.back() else { return false };
        let Some(index) = media.segments.iter().rposition(|segment| segment.url.path() == last) else { return false };
        let sequence = media.sequence + index as u128;
        let last = last.clone();
        self.known.clear();
        self.known.push_back((sequence, last));
        self.stale_turns = 0;
        self.next = Some(SegmentPosition { sequence: sequence + 1, part: 0 });
        true
    }

    fn restart(&mut self, media: &MediaPlaylist) {
        self.known.clear();
        (self.is_restart, self.stale_turns, self.taken_ns) = (true, 0, 0);
        self.next = Some(start(media, self.low_latency));
    }

    /// The next piece in `media`, if it is available.
    pub fn next(&mut self, media: &MediaPlaylist) -> Option<Piece> {
        loop {
            let place = self.next?;
            let index = usize::try_from(place.sequence.checked_sub(media.sequence)?).ok()?;
            if index == media.segments.len() && self.low_latency && !media.is_over {
                let segment = media.unfinished.as_ref().filter(|s| place.part < s.parts.len())?;
                return Some(self.part(segment, place));
            }
            let segment = media.segments.get(index)?;
            if place.part == 0 && (!self.low_latency || segment.parts.is_empty()) {
                return Some(self.whole(segment, place));
            }
            if self.low_latency && place.part < segment.parts.len() {
                return Some(self.part(segment, place));
            }
            if self.low_latency && segment.parts.is_empty() {
                // Its parts have left the playlist, perhaps before all were taken.
                self.miss_rest(segment.duration_ns);
            }
            self.go_to(place.sequence + 1);
        }
    }

    fn go_to(&mut self, sequence: u128) {
        (self.next, self.taken_ns) = (Some(SegmentPosition { sequence, part: 0 }), 0);
    }

    /// Counts the rest of a segment of `duration_ns` as missed.
    fn miss_rest(&mut self, duration_ns: u64) {
        let rest_ns = duration_ns.saturating_sub(self.taken_ns);
        self.missed_ns = self.missed_ns.saturating_add(if rest_ns > ROUNDING_NS { rest_ns } else { 0 });
    }

    fn whole(&mut self, segment: &Segment, place: SegmentPosition) -> Piece {
        self.go_to(place.sequence + 1);
        self.remember(place.sequence, &segment.url);
        Piece {
            sequence: place.sequence,
            url: segment.url.clone(),
            range: segment.range,
            duration_ns: segment.duration_ns,
            is_gap: segment.is_gap,
            key: segment.key.clone(),
            map: segment.map.clone(),
            made_ns: segment.made_ns,
            ad: segment.ad,
            is_break: segment.is_break,
            is_restart: std::mem::take(&mut self.is_restart),
            missed_ns: std::mem::take(&mut self.missed_ns),
            is_part: false,
        }
    }

    fn part(&mut self, segment: &Segment, place: SegmentPosition) -> Piece {
        let part = &segment.parts[place.part];
        self.next = Some(SegmentPosition { part: place.part + 1, ..place });
        self.taken_ns = self.taken_ns.saturating_add(part.duration_ns);
        let is_first = place.part == 0;
        Piece {
            sequence: place.sequence,
            url: part.url.clone(),
            range: part.range,
            duration_ns: part.duration_ns,
            is_gap: part.is_gap,
            key: segment.key.clone(),
            map: segment.map.clone(),
            made_ns: segment.made_ns.filter(|_| is_first),
            ad: segment.ad.filter(|_| is_first),
            is_break: segment.is_break && is_first,
            is_restart: std::mem::take(&mut self.is_restart),
            missed_ns: std::mem::take(&mut self.missed_ns),
            is_part: true,
        }
    }

    fn remember(&mut self, sequence: u128, url: &Url) {
        if self.known.len() == KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back((sequence, url.path().to_owned()));
    }

    /// Moves back to the segment `sequence`.
    pub fn go_back_to(&mut self, sequence: u128) {
        self.go_to(sequence);
    }

    /// Forgets the addresses of taken segments: another variant has different ones.
    pub fn forget_known(&mut self) {
        self.known.clear();
    }

    /// Continues with whole segments because the part `piece` cannot be fetched: with the segment of `piece` if none of its parts
    /// was taken, otherwise with the next one, and the rest of the segment is missed.
    pub fn leave_parts(&mut self, piece: &Piece, media: &MediaPlaylist) {
        self.low_latency = false;
        // The next piece reports this instead.
        self.is_restart |= piece.is_restart;
        self.missed_ns = self.missed_ns.saturating_add(piece.missed_ns);
        let Some(next) = self.next.filter(|next| next.part > 0) else { return };
        if next.part == 1 {
            self.go_to(next.sequence);
            return;
        }
        self.taken_ns = self.taken_ns.saturating_sub(piece.duration_ns);
        let index = next.sequence.checked_sub(media.sequence).and_then(|i| usize::try_from(i).ok());
        // Its duration is unknown until it is complete.
        let length_ns = index.and_then(|i| media.segments.get(i)).map_or(media.target_ns, |s| s.duration_ns);
        self.miss_rest(length_ns);
        self.go_to(next.sequence + 1);
    }

    pub fn is_low_latency(&self) -> bool {
        self.low_latency
    }

    /// The query that lets a server hold its answer back until there is something new (RFC 8216bis, 6.2.5.2).
    pub fn blocking_query(&self) -> Option<String> {
        let next = self.next.filter(|_| self.low_latency)?;
        Some(format!("_HLS_msn={}&_HLS_part={}", next.sequence, next.part))
    }

    /// Whether everything in `media` was taken.
    pub fn is_at_end(&self, media: &MediaPlaylist) -> bool {
        self.next.is_none_or(|next| next.sequence >= end(media))
    }
}

/// The sequence number after the last segment.
fn end(media: &MediaPlaylist) -> u128 {
    media.sequence.saturating_add(media.segments.len() as u128)
}

fn unfinished(media: &MediaPlaylist) -> &[PartialSegment] {
    media.unfinished.as_ref().map_or(&[], |segment| &segment.parts)
}

fn has_parts(media: &MediaPlaylist) -> bool {
    media.unfinished.is_some() || media.segments.last().is_some_and(|s| !s.parts.is_empty())
}

/// Where playback begins: a recording at its start, a channel as close to its end as the playlist allows.
fn start(media: &MediaPlaylist, low_latency: bool) -> SegmentPosition {
    let first = SegmentPosition { sequence: media.sequence, part: 0 };
    if media.is_over {
        return first;
    }
    let plain_ns = media.hold_back_ns.unwrap_or(media.target_ns.saturating_mul(HOLD_BACK_TARGETS));
    let hold_ns = if low_latency { media.part_hold_back_ns.unwrap_or(media.target_ns) } else { plain_ns };
    let mut behind_ns = 0u64;
    if low_latency {
        behind_ns = unfinished(media).iter().map(|part| part.duration_ns).sum();
        if behind_ns >= hold_ns || media.segments.is_empty() {
            return SegmentPosition { sequence: end(media), part: 0 };
        }
    }
    for (index, segment) in media.segments.iter().enumerate().rev() {
        behind_ns = behind_ns.saturating_add(segment.duration_ns);
        if behind_ns >= hold_ns {
            return SegmentPosition { sequence: media.sequence + index as u128, part: 0 };
        }
    }
    first
}

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
