//! Which tracks of a connection bring data, and since when one does not. Pure: the time is told.

use super::supervise::{Policy, nanos};
use touchline_core::item::{Track, Tracks};

/// What [`Watch::look`] found, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nothing came for the stall time.
    All,
    /// Pictures have been missing for too long.
    Pictures,
    /// A track has fallen silent. Said once, until it is heard again.
    Track {
        track: Track,
        silent_ns: u64,
    },
    None,
}

#[derive(Clone, Copy, Debug)]
struct Ear {
    /// Monotonic clock of the last data; of the opening before the first, ns.
    heard_ns: u64,
    /// The track is there and has not ended.
    listens: bool,
    /// Its silence was told.
    is_stalled: bool,
}

/// The tracks of one connection, from its opening on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    ears: [Ear; 2],
}

const TRACKS: [Track; 2] = [Track::Video, Track::Audio];

impl Watch {
    pub fn new(tracks: Tracks, now_ns: u64) -> Self {
        let ear = |track| Ear { heard_ns: now_ns, listens: tracks.has(track), is_stalled: false };
        Self { ears: TRACKS.map(ear) }
    }

    /// The track brought data; for how long it had not, if that was told.
    pub fn heard(&mut self, track: Track, now_ns: u64) -> Option<u64> {
        let ear = &mut self.ears[track.index()];
        let silent_ns = now_ns.saturating_sub(ear.heard_ns);
        ear.heard_ns = now_ns;
        std::mem::take(&mut ear.is_stalled).then_some(silent_ns)
    }

    /// The track brings no more.
    pub fn end(&mut self, track: Track) {
        self.ears[track.index()].listens = false;
    }

    pub fn look(&mut self, now_ns: u64, policy: &Policy) -> Silence {
        let silent = |ear: &Ear| now_ns.saturating_sub(ear.heard_ns);
        if self.ears.iter().map(silent).min().is_some_and(|ns| ns > nanos(policy.stall)) {
            return Silence::All;
        }
        let video = &self.ears[Track::Video.index()];
        if video.listens && silent(video) > nanos(policy.pictures_stall) {
            return Silence::Pictures;
        }
        let loudest = self.ears.iter().map(silent).min().unwrap_or(0);
        for track in TRACKS {
            let ear = &mut self.ears[track.index()];
            let silent_ns = silent(ear);
            // When both fall silent together nothing can be said of one: that is the stall of all.
            let is_alone = loudest < nanos(policy.track_stall) / 2;
            if ear.listens && !ear.is_stalled && is_alone && silent_ns > nanos(policy.track_stall) {
                ear.is_stalled = true;
                return Silence::Track { track, silent_ns };
            }
        }
        Silence::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const BOTH: Tracks = Tracks { video: true, audio: true };

    #[test]
    fn one_track_that_falls_silent_is_told_once_and_so_is_its_return() {
        let (mut watch, policy) = (Watch::new(BOTH, 0), Policy::default());
        for second in 1..=20 {
            assert_eq!(watch.heard(Track::Video, second * S), None);
            let said = watch.look(second * S, &policy);
            let due = second == 6;
            assert_eq!(said != Silence::None, due, "{second}: {said:?}");
            if due {
                assert_eq!(said, Silence::Track { track: Track::Audio, silent_ns: 6 * S });
            }
        }
        assert_eq!(watch.heard(Track::Audio, 21 * S), Some(21 * S));
        assert_eq!(watch.heard(Track::Audio, 22 * S), None);
        // Sound may be away for ever.
        for second in 22..500 {
            watch.heard(Track::Video, second * S);
            assert!(!matches!(watch.look(second * S, &policy), Silence::All | Silence::Pictures));
        }
    }

    #[test]
    fn pictures_that_stay_away_are_a_failure_and_so_is_silence() {
        let (mut watch, policy) = (Watch::new(BOTH, 0), Policy::default());
        let mut said = Vec::new();
        for second in 1..=31 {
            watch.heard(Track::Audio, second * S);
            said.push(watch.look(second * S, &policy));
        }
        assert_eq!(said.iter().filter(|s| **s != Silence::None).count(), 2);
        assert_eq!(said[5], Silence::Track { track: Track::Video, silent_ns: 6 * S });
        assert_eq!(said[30], Silence::Pictures);

        let mut watch = Watch::new(BOTH, 0);
        assert_eq!(watch.look(10 * S, &policy), Silence::None, "both together are one stall");
        assert_eq!(watch.look(10 * S + 1, &policy), Silence::All);
    }

    #[test]
    fn a_track_that_is_not_there_is_not_missed() {
        let (mut watch, policy) = (Watch::new(Tracks { video: false, audio: true }, 0), Policy::default());
        for second in 1..100 {
            watch.heard(Track::Audio, second * S);
            assert_eq!(watch.look(second * S, &policy), Silence::None);
        }
        let mut watch = Watch::new(BOTH, 0);
        watch.end(Track::Audio);
        for second in 1..100 {
            watch.heard(Track::Video, second * S);
            assert_eq!(watch.look(second * S, &policy), Silence::None);
        }
    }
}
