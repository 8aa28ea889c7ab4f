//! Puts pieces on the stream's timeline: where each begins, whether it continues the previous one, and how much is missing in
//! between.
//!
//! The timeline counts ns from the start of playback. Within continuous media the times in the media decide, because playlists round;
//! across discontinuities the durations in the playlist do. Pure.

use std::sync::Arc;

use parking_lot::Mutex;

use super::container::{APART_MAX_NS, Container, Starts, begins, distance_ns};
use touchline_core::item::Discontinuity;
use touchline_core::time::NANOS_PER_SECOND;

/// How far the times in the media may run ahead of the playlist before they count as a jump, ns: playlists give durations of 0,
/// leave out segments, and round.
const AHEAD_MAX_NS: u64 = 10 * NANOS_PER_SECOND;

/// Pieces further apart than this go into different demuxers, ns: more than playlists round.
const HOLE_NS: u64 = 700_000_000;

/// The most anchors that are kept: that of the current stretch and a few before it.
const ANCHORS_MAX: usize = 4;

/// A time of the media and its position on the timeline.
#[derive(Clone, Copy, Debug)]
struct TimelineAnchor {
    container: Container,
    media_ns: u64,
    line_ns: u64,
}

impl TimelineAnchor {
    fn place(&self, container: Container, media_ns: u64) -> i64 {
        // Packed audio has time stamps of the MPEG-TS clock.
        let wraps = if self.container == Container::Mp4 { container } else { self.container };
        self.line_ns as i64 + distance_ns(wraps, self.media_ns, media_ns)
    }
}

/// The anchors of a stream's main playlist, which also place an audio rendition.
#[derive(Clone, Debug, Default)]
pub(super) struct TimelineAnchors(Arc<Mutex<Vec<TimelineAnchor>>>);

impl TimelineAnchors {
    fn add(&self, anchor: TimelineAnchor) {
        let mut anchors = self.0.lock();
        if anchors.len() == ANCHORS_MAX {
            anchors.remove(0);
        }
        anchors.push(anchor);
    }

    /// The position of `media_ns` by the anchor that gives the one nearest to `expected_ns`.
    fn nearest(&self, container: Container, media_ns: u64, expected_ns: u64) -> Option<i64> {
        let places = self.0.lock().iter().map(|anchor| anchor.place(container, media_ns)).collect::<Vec<_>>();
        places.into_iter().min_by_key(|place| place.abs_diff(expected_ns as i64))
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

/// The properties of a piece before it is placed.
#[derive(Clone, Copy, Debug)]
pub(super) struct PieceInfo {
    pub container: Container,
    pub starts: Starts,
    /// The latest time in it, ns, where that is known.
    pub last_ns: Option<u64>,
    pub duration_ns: u64,
    /// Missing time before it, ns.
    pub missed_ns: u64,
    pub is_break: bool,
    pub is_restart: bool,
    /// Its initialisation section differs from that of the previous piece.
    pub is_other_map: bool,
}

/// The position of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PiecePlacement {
    pub line_ns: u64,
    /// Positions of its first picture and its first sound, ns. A track that begins before the timeline has a negative position.
    pub tracks: [Option<i64>; 2],
    /// It needs another demuxer than the previous piece.
    pub is_new: bool,
    /// Another run begins with it.
    pub discontinuity: Option<Discontinuity>,
    /// The missing interval before it, ns on the timeline.
    pub missing: Option<(u64, u64)>,
}

/// Places the pieces of one playlist.
#[derive(Debug)]
pub(super) struct TimelinePlacer {
    anchors: TimelineAnchors,
    /// Whether this is the main playlist, which creates the anchors.
    is_main: bool,
    anchor: Option<TimelineAnchor>,
    /// The expected position of the next piece, ns.
    next_ns: u64,
    /// The position of the last piece with a known time, ns.
    last_ns: Option<u64>,
    container: Option<Container>,
    /// The last piece was shorter than stated in the playlist.
    ends_early: bool,
}

impl TimelinePlacer {
    /// A placer that starts at `next_ns`.
    pub fn new(anchors: TimelineAnchors, is_main: bool, next_ns: u64) -> Self {
        Self { anchors, is_main, anchor: None, next_ns, last_ns: None, container: None, ends_early: false }
    }

    pub fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Moves over a missing interval.
    pub fn skip(&mut self, missing_ns: u64) {
        self.next_ns = self.next_ns.saturating_add(missing_ns);
    }

    /// The next piece is of another variant and needs its own demuxer.
    pub fn forget_container(&mut self) {
        self.container = None;
    }

    pub fn place(&mut self, found: &PieceInfo) -> PiecePlacement {
        let before_ns = self.next_ns;
        let expected_ns = before_ns.saturating_add(found.missed_ns);
        let start = begins(&found.starts);
        let mut discontinuity = match (found.is_restart, found.is_break) {
            (true, _) => Some(Discontinuity::JumpBack),
            (_, true) => Some(Discontinuity::Playlist),
            _ => None,
        };
        if discontinuity.is_some() {
            (self.anchor, self.last_ns) = (None, None);
        }
        let by_media = match (start, self.anchor) {
            (Some(start), _) if !self.is_main => self.anchors.nearest(found.container, start, expected_ns),
            (Some(start), Some(anchor)) => Some(anchor.place(found.container, start)),
            _ => None,
        };
        // Continuous media lie after the previous piece, and not far ahead of their position by the playlist.
        let goes_on = |place: &i64| {
            let is_behind = self.last_ns.is_none_or(|last| *place > last as i64) || found.duration_ns == 0;
            is_behind && *place <= expected_ns.saturating_add(AHEAD_MAX_NS) as i64
        };
        // A separate audio rendition may begin anywhere.
        let is_free = !self.is_main && self.container.is_none();
        let fits = by_media.filter(|place| is_free || goes_on(place));
        if let (None, Some(place), None) = (fits, by_media.filter(|_| self.is_main), discontinuity) {
            let is_ahead = place > expected_ns as i64;
            discontinuity = Some(if is_ahead { Discontinuity::JumpForward } else { Discontinuity::JumpBack });
        }
        let line = fits.unwrap_or(expected_ns as i64);
        let line_ns = u64::try_from(line).unwrap_or(0);
        if let Some(media_ns) = start.filter(|_| self.is_main && (fits.is_none() || self.anchor.is_none())) {
            let anchor = TimelineAnchor { container: found.container, media_ns, line_ns };
            self.anchor = Some(anchor);
            self.anchors.add(anchor);
        }
        let is_new = discontinuity.is_some()
            || found.missed_ns > 0
            || found.is_other_map
            || self.container != Some(found.container)
            // Demuxers handle a hole between two pieces unpredictably.
            || self.ends_early
            || line.abs_diff(before_ns as i64) > HOLE_NS
            // Unexpected times need a new demuxer even without a discontinuity.
            || (fits.is_none() && by_media.is_some());
        self.container = Some(found.container);
        let lasts = start.zip(found.last_ns).map(|(start, last)| distance_ns(found.container, start, last));
        self.ends_early = lasts.is_some_and(|ns| ns.saturating_add(HOLE_NS as i64) < found.duration_ns as i64);
        self.last_ns = Some(line_ns).filter(|_| start.is_some());
        self.next_ns = u64::try_from(line.saturating_add_unsigned(found.duration_ns)).unwrap_or(0);
        let missing_to_ns = if discontinuity.is_some() { expected_ns } else { line_ns };
        let missing = (found.missed_ns > 0 && missing_to_ns > before_ns).then_some((before_ns, missing_to_ns));
        let of_track = |index: usize| {
            let apart = distance_ns(found.container, start?, found.starts[index]?);
            Some(line + if apart.unsigned_abs() < APART_MAX_NS { apart } else { 0 })
        };
        PiecePlacement { line_ns, tracks: [of_track(0), of_track(1)], is_new, discontinuity, missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::time::NANOS_PER_SECOND as S;

    fn piece(start_s: u64) -> PieceInfo {
        PieceInfo {
            container: Container::MpegTs,
            starts: [Some(start_s * S), Some(start_s * S + S / 10)],
            last_ns: None,
            duration_ns: 2 * S,
            missed_ns: 0,
            is_break: false,
            is_restart: false,
            is_other_map: false,
        }
    }

    fn main_placer() -> TimelinePlacer {
        TimelinePlacer::new(TimelineAnchors::default(), true, 0)
    }

    #[test]
    fn media_times_decide_positions_within_a_run() {
        let mut placer = main_placer();
        let first = placer.place(&piece(100));
        assert_eq!((first.line_ns, first.is_new, first.discontinuity), (0, true, None));
        assert_eq!(first.tracks, [Some(0), Some((S / 10) as i64)]);
        // The playlist states two seconds, but the piece lasted 2.5.
        let second = placer.place(&PieceInfo { starts: [Some(100 * S + 5 * S / 2), None], ..piece(0) });
        assert_eq!((second.line_ns, second.is_new), (5 * S / 2, false));
        // A piece that ends early, and one that is missing in the playlist: a hole, but no new run.
        let third = placer.place(&PieceInfo { last_ns: Some(105 * S), ..piece(104) });
        assert_eq!((third.line_ns, third.is_new, third.discontinuity), (4 * S, false, None));
        let fourth = placer.place(&piece(106));
        assert_eq!((fourth.line_ns, fourth.is_new), (6 * S, true));
        let sixth = placer.place(&piece(112));
        assert_eq!((sixth.line_ns, sixth.is_new, sixth.discontinuity), (12 * S, true, None));
    }

    #[test]
    fn missing_time_is_bridged_within_a_run() {
        let mut placer = main_placer();
        placer.place(&piece(100));
        let after = placer.place(&PieceInfo { missed_ns: 4 * S, ..piece(106) });
        assert_eq!((after.line_ns, after.is_new, after.discontinuity), (6 * S, true, None));
        assert_eq!(after.missing, Some((2 * S, 6 * S)));
        // Missing at the start, and before a break.
        let mut placer = main_placer();
        assert_eq!(placer.place(&PieceInfo { missed_ns: 2 * S, ..piece(50) }).missing, Some((0, 2 * S)));
        let advert = placer.place(&PieceInfo { missed_ns: 2 * S, is_break: true, ..piece(0) });
        assert_eq!((advert.line_ns, advert.missing), (6 * S, Some((4 * S, 6 * S))));
    }

    #[test]
    fn breaks_and_jumps_start_runs_at_the_next_position() {
        let mut placer = main_placer();
        placer.place(&piece(100));
        let advert = placer.place(&PieceInfo { is_break: true, ..piece(0) });
        assert_eq!((advert.line_ns, advert.discontinuity), (2 * S, Some(Discontinuity::Playlist)));
        let more = placer.place(&piece(2));
        assert_eq!((more.line_ns, more.is_new, more.discontinuity), (4 * S, false, None));
        let jump = placer.place(&piece(50));
        assert_eq!((jump.line_ns, jump.is_new, jump.discontinuity), (6 * S, true, Some(Discontinuity::JumpForward)));
        let back = placer.place(&piece(10));
        assert_eq!((back.line_ns, back.discontinuity), (8 * S, Some(Discontinuity::JumpBack)));
        let again = placer.place(&PieceInfo { is_restart: true, ..piece(12) });
        assert_eq!((again.line_ns, again.discontinuity), (10 * S, Some(Discontinuity::JumpBack)));
    }

    #[test]
    fn media_without_times_follow_each_other() {
        let packed = PieceInfo { container: Container::Aac, starts: [None, None], ..piece(0) };
        let mut placer = main_placer();
        assert_eq!(placer.place(&packed).tracks, [None, None]);
        let next = placer.place(&packed);
        assert_eq!((next.line_ns, next.is_new, next.discontinuity), (2 * S, false, None));
        assert!(placer.place(&PieceInfo { missed_ns: 2 * S, ..packed }).is_new);
    }

    #[test]
    fn separate_sound_follows_the_pictures() {
        let anchors = TimelineAnchors::default();
        let mut pictures = TimelinePlacer::new(anchors.clone(), true, 0);
        pictures.place(&PieceInfo { starts: [Some(100 * S), None], ..piece(0) });
        let mut sound = TimelinePlacer::new(anchors.clone(), false, 0);
        let alone = |s: u64| PieceInfo { starts: [None, Some(s)], ..piece(0) };
        let first = sound.place(&alone(98 * S));
        assert_eq!((first.tracks, first.discontinuity), ([None, Some(-2 * S as i64)], None));
        assert_eq!(sound.place(&alone(100 * S)).tracks[1], Some(0));
        // Pictures and sound reach an advertisement.
        pictures.place(&PieceInfo { starts: [Some(102 * S), None], ..piece(0) });
        pictures.place(&PieceInfo { starts: [Some(5 * S), None], is_break: true, ..piece(0) });
        sound.place(&alone(102 * S));
        let advert = sound.place(&PieceInfo { is_break: true, ..alone(5 * S + S / 50) });
        assert_eq!(advert.tracks[1], Some((4 * S + S / 50) as i64));
    }

    #[test]
    fn mpeg_ts_times_continue_across_the_wrap() {
        let mut placer = main_placer();
        let last = super::super::container::WRAP_NS - S;
        placer.place(&PieceInfo { starts: [Some(last), Some(last)], ..piece(0) });
        let next = placer.place(&piece(1));
        assert_eq!((next.line_ns, next.is_new, next.discontinuity), (2 * S, false, None));
    }
}
