//! Detects tracks of a connection that bring no data. Pure: all times are passed in.

use super::supervise::{Policy, nanos};
use touchline_core::item::{Track, Tracks};

/// The result of [`StallDetector::check`], worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    /// No track has brought data for the stall time.
    All,
    /// Pictures have been missing for too long.
    Pictures,
    /// A track is silent. Reported once per silence.
    Track {
        track: Track,
        silent_ns: u64,
    },
    None,
}

/// The activity of one track.
#[derive(Clone, Copy, Debug)]
struct TrackActivity {
    /// Monotonic time of the last data, or of the opening, ns.
    last_data_ns: u64,
    /// The track exists and has not ended.
    is_active: bool,
    /// Its silence was reported.
    is_stalled: bool,
}

/// Watches the tracks of one connection from its opening on.
#[derive(Clone, Copy, Debug)]
pub(super) struct StallDetector {
    tracks: [TrackActivity; 2],
}

const TRACKS: [Track; 2] = [Track::Video, Track::Audio];

impl StallDetector {
    pub fn new(tracks: Tracks, now_ns: u64) -> Self {
        let activity = |track| TrackActivity { last_data_ns: now_ns, is_active: tracks.has(track), is_stalled: false };
        Self { tracks: TRACKS.map(activity) }
    }

    /// Expects pictures although the source says that it has none: their absence is a failure, but not reported before that.
    pub fn expect_pictures(&mut self) {
        let activity = &mut self.tracks[Track::Video.index()];
        (activity.is_active, activity.is_stalled) = (true, true);
    }

    /// Takes note of data of `track`. Returns how long it was silent, ns, if that was reported.
    pub fn received(&mut self, track: Track, now_ns: u64) -> Option<u64> {
        let activity = &mut self.tracks[track.index()];
        let silent_ns = now_ns.saturating_sub(activity.last_data_ns);
        activity.last_data_ns = now_ns;
        std::mem::take(&mut activity.is_stalled).then_some(silent_ns)
    }

    /// Ends the watch on `track`.
    pub fn end(&mut self, track: Track) {
        self.tracks[track.index()].is_active = false;
    }

    /// Checks for stalls at `now_ns`.
    pub fn check(&mut self, now_ns: u64, policy: &Policy) -> Stall {
        let silent = |activity: &TrackActivity| now_ns.saturating_sub(activity.last_data_ns);
        if self.tracks.iter().map(silent).min().is_some_and(|ns| ns > nanos(policy.stall)) {
            return Stall::All;
        }
        let video = &self.tracks[Track::Video.index()];
        if video.is_active && silent(video) > nanos(policy.pictures_stall) {
            return Stall::Pictures;
        }
        let shortest_ns = self.tracks.iter().map(silent).min().unwrap_or(0);
        for track in TRACKS {
            let activity = &mut self.tracks[track.index()];
            let silent_ns = silent(activity);
            // If both are silent, this is a stall of the source and not of one track.
            let is_alone = shortest_ns < nanos(policy.track_stall) / 2;
            if activity.is_active && !activity.is_stalled && is_alone && silent_ns > nanos(policy.track_stall) {
                activity.is_stalled = true;
                return Stall::Track { track, silent_ns };
            }
        }
        Stall::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const BOTH: Tracks = Tracks { video: true, audio: true };

    #[test]
    fn a_silent_track_and_its_return_are_reported_once() {
        let (mut watch, policy) = (StallDetector::new(BOTH, 0), Policy::default());
        for second in 1..=20 {
            assert_eq!(watch.received(Track::Video, second * S), None);
            let stall = watch.check(second * S, &policy);
            let due = second == 6;
            assert_eq!(stall != Stall::None, due, "{second}: {stall:?}");
            if due {
                assert_eq!(stall, Stall::Track { track: Track::Audio, silent_ns: 6 * S });
            }
        }
        assert_eq!(watch.received(Track::Audio, 21 * S), Some(21 * S));
        assert_eq!(watch.received(Track::Audio, 22 * S), None);
        // Missing sound is never a failure.
        for second in 22..500 {
            watch.received(Track::Video, second * S);
            assert!(!matches!(watch.check(second * S, &policy), Stall::All | Stall::Pictures));
        }
    }

    #[test]
    fn missing_pictures_are_a_failure_and_so_is_silence() {
        let (mut watch, policy) = (StallDetector::new(BOTH, 0), Policy::default());
        let mut stalls = Vec::new();
        for second in 1..=31 {
            watch.received(Track::Audio, second * S);
            stalls.push(watch.check(second * S, &policy));
        }
        assert_eq!(stalls.iter().filter(|s| **s != Stall::None).count(), 2);
        assert_eq!(stalls[5], Stall::Track { track: Track::Video, silent_ns: 6 * S });
        assert_eq!(stalls[30], Stall::Pictures);

        let mut watch = StallDetector::new(BOTH, 0);
        assert_eq!(watch.check(10 * S, &policy), Stall::None, "both together are one stall");
        assert_eq!(watch.check(10 * S + 1, &policy), Stall::All);
    }

    #[test]
    fn an_absent_track_does_not_stall() {
        let (mut watch, policy) = (StallDetector::new(Tracks { video: false, audio: true }, 0), Policy::default());
        for second in 1..100 {
            watch.received(Track::Audio, second * S);
            assert_eq!(watch.check(second * S, &policy), Stall::None);
        }
        let mut watch = StallDetector::new(BOTH, 0);
        watch.end(Track::Audio);
        for second in 1..100 {
            watch.received(Track::Video, second * S);
            assert_eq!(watch.check(second * S, &policy), Stall::None);
        }
    }
}
