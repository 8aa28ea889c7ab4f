//! Keeps the tracks of a recording in step.
//!
//! Each track is decoded on its own thread, and sound is far cheaper than pictures. Without a bound, all sound of a short
//! recording would arrive before its first second of pictures, and the clip builder would have to hold it. So the track that is
//! ahead waits. The wait is limited: recordings whose tracks are badly interleaved, or begin at different times, need one track
//! to continue before the other can. A track counts as without data only if the queues before it are empty. A decoder that waits for a busy
//! machine does not count, because the resulting seconds must not depend on the machine.
//!
//! A pipeline that begins to play sets one appsink after the other, and the first may get its data before that returns. Waiting for the second
//! then keeps it from playing, so the first lets one buffer pass from time to time until the second plays.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use touchline_core::clock::{Clock, Deadline};
use touchline_core::item::Track;
use touchline_core::time::NANOS_PER_SECOND;

/// How far one track may be ahead of the other, ns: two of the seconds that are cut downstream.
const LEAD_MAX_NS: u64 = 2 * NANOS_PER_SECOND;

/// A track that has neither delivered nor handled data for this long, and has none queued, is ignored until it advances again.
const STUCK_AFTER: Duration = Duration::from_millis(500);

/// A track whose appsink does not play yet lets a buffer of the other one pass after this time.
const START_AFTER: Duration = Duration::from_millis(100);

/// How often a waiting track checks for a stop request.
const POLL: Duration = Duration::from_millis(20);

/// What a track that does not advance waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrackWait {
    /// Its appsink does not play yet.
    Start,
    /// Data are queued before its appsink.
    Decoder,
    /// Nothing is queued.
    Data,
}

impl TrackWait {
    pub fn of(plays: bool, has_queued: bool) -> Self {
        match (plays, has_queued) {
            (false, _) => TrackWait::Start,
            (true, true) => TrackWait::Decoder,
            (true, false) => TrackWait::Data,
        }
    }
}

/// The progress of one track.
#[derive(Clone, Copy, Debug, Default)]
struct SyncState {
    /// PTS of the last buffer that was sent, ns.
    at_ns: u64,
    /// PTS of a buffer that waits for the other track, ns.
    waits_at: Option<u64>,
    /// A buffer is being sent, possibly waiting for room downstream.
    busy: bool,
    /// The other track no longer waits for this one.
    stuck: bool,
    ended: bool,
}

/// Synchronises the streaming threads of two tracks.
#[derive(Debug)]
pub(super) struct TrackSync {
    tracks: Mutex<[SyncState; 2]>,
    moved: Condvar,
}

impl TrackSync {
    /// Synchronises the tracks that exist.
    pub fn new(video: bool, audio: bool) -> Self {
        let track_state = |present: bool| SyncState { ended: !present, ..SyncState::default() };
        Self { tracks: Mutex::new([track_state(video), track_state(audio)]), moved: Condvar::new() }
    }

    /// Waits until a buffer of `track` at `pts_ns` is not too far ahead, or `stopped` returns true. `other_wait` returns what the other track
    /// waits for.
    pub fn wait(
        &self,
        track: Track,
        pts_ns: u64,
        clock: &dyn Clock,
        stopped: &dyn Fn() -> bool,
        other_wait: &dyn Fn() -> TrackWait,
    ) {
        let (own, other) = (track.index(), track.other().index());
        let mut tracks = self.tracks.lock();
        let stuck_at = || Deadline::after(clock, STUCK_AFTER);
        let check_at = || Deadline::after(clock, START_AFTER);
        let mut next_check = check_at();
        let mut last = (tracks[other].at_ns, stuck_at());
        tracks[own].waits_at = Some(pts_ns);
        self.moved.notify_all();
        while !stopped() {
            let that = tracks[other];
            // If both wait, the earlier one continues: there is nothing before it.
            let is_earlier = that.waits_at.is_some_and(|at_ns| pts_ns <= at_ns);
            if that.ended || that.stuck || is_earlier || pts_ns <= that.at_ns.saturating_add(LEAD_MAX_NS) {
                break;
            }
            if that.busy || that.at_ns != last.0 {
                last = (that.at_ns, stuck_at());
            } else if next_check.is_over(clock) {
                drop(tracks);
                let wait = other_wait();
                tracks = self.tracks.lock();
                next_check = check_at();
                let is_idle = tracks[other].at_ns == last.0 && !tracks[other].busy;
                match wait {
                    TrackWait::Start if is_idle => break,
                    TrackWait::Data if is_idle && last.1.is_over(clock) => {
                        tracks[other].stuck = true;
                        break;
                    }
                    TrackWait::Decoder => last = (tracks[other].at_ns, stuck_at()),
                    TrackWait::Start | TrackWait::Data => {}
                }
            }
            self.moved.wait_for(&mut tracks, POLL);
        }
        tracks[own].waits_at = None;
        tracks[own].busy = true;
        tracks[own].stuck = false;
    }

    /// Records that `track` has sent the buffer at `pts_ns`.
    pub fn done(&self, track: Track, pts_ns: u64) {
        let track_state = &mut self.tracks.lock()[track.index()];
        (track_state.busy, track_state.at_ns) = (false, pts_ns);
        self.moved.notify_all();
    }

    /// Records the end of `track`.
    pub fn end(&self, track: Track) {
        self.tracks.lock()[track.index()].ended = true;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};
    use touchline_core::clock::ManualClock;

    const SECOND: u64 = NANOS_PER_SECOND;
    const NEVER: &dyn Fn() -> bool = &|| false;
    const NO_DATA: &dyn Fn() -> TrackWait = &|| TrackWait::Data;

    /// Advances `clock` and counts the checks of a waiting track, which call this.
    fn check(clock: &ManualClock, by: Duration, checks: &AtomicU64) -> bool {
        clock.advance(by.as_nanos() as u64);
        checks.fetch_add(1, Ordering::Release);
        false
    }

    #[test]
    fn the_leading_track_waits_for_the_other() {
        let (sync, clock, checks) = (TrackSync::new(true, true), ManualClock::default(), AtomicU64::new(0));
        sync.wait(Track::Audio, 2 * SECOND, &clock, NEVER, NO_DATA);
        sync.done(Track::Audio, 2 * SECOND);
        sync.wait(Track::Video, 0, &clock, NEVER, NO_DATA);
        let stopped = || check(&clock, 2 * STUCK_AFTER, &checks);
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| sync.wait(Track::Audio, 3 * SECOND, &clock, &stopped, NO_DATA));
            // The other track is busy, so it does not count as stuck.
            while checks.load(Ordering::Acquire) < 5 {
                assert!(!leader.is_finished());
                std::thread::yield_now();
            }
            sync.done(Track::Video, SECOND);
        });
    }

    #[test]
    fn a_track_without_data_delays_the_other_once() {
        let (sync, clock, checks) = (TrackSync::new(true, true), ManualClock::default(), AtomicU64::new(0));
        let stopped = || check(&clock, STUCK_AFTER / 5, &checks);
        for second in 3..1000 {
            sync.wait(Track::Audio, second * SECOND, &clock, &stopped, NO_DATA);
            sync.done(Track::Audio, second * SECOND);
        }
        assert_eq!(checks.into_inner(), 997 + 5, "five more checks of the first buffer");
    }

    #[test]
    fn a_track_with_queued_data_is_waited_for() {
        let (sync, clock, checks) = (TrackSync::new(true, true), ManualClock::default(), AtomicU64::new(0));
        let calls = Cell::new(0);
        // The video decoder gets no processor time for three times the limit for a track without data.
        let decodes = || {
            calls.set(calls.get() + 1);
            if calls.get() == 3 {
                sync.done(Track::Video, 9 * SECOND);
            }
            TrackWait::Decoder
        };
        // The lock is free during the call.
        sync.wait(Track::Audio, 10 * SECOND, &clock, &|| check(&clock, 2 * STUCK_AFTER, &checks), &decodes);
        assert_eq!(calls.get(), 3);
    }

    #[test]
    fn a_track_that_starts_late_lets_single_buffers_pass() {
        let (sync, clock, checks) = (TrackSync::new(true, true), ManualClock::default(), AtomicU64::new(0));
        let stopped = || check(&clock, START_AFTER / 5, &checks);
        for tenth in 30..40 {
            let at_ns = tenth * SECOND / 10;
            sync.wait(Track::Audio, at_ns, &clock, &stopped, &|| TrackWait::Start);
            sync.done(Track::Audio, at_ns);
        }
        assert_eq!(checks.load(Ordering::Relaxed), 10 * 6, "each buffer waits for the time");
        // Then it plays, and is waited for as long as it decodes.
        let plays = || {
            sync.done(Track::Video, 3 * SECOND);
            TrackWait::Decoder
        };
        sync.wait(Track::Audio, 5 * SECOND, &clock, &stopped, &plays);
        assert_eq!(sync.tracks.lock()[0].at_ns, 3 * SECOND);
    }

    #[test]
    fn ended_and_absent_tracks_and_stops_delay_nothing() {
        let clock = ManualClock::default();
        let alone = TrackSync::new(false, true);
        alone.wait(Track::Audio, 100 * SECOND, &clock, NEVER, NO_DATA);
        let sync = TrackSync::new(true, true);
        sync.end(Track::Video);
        sync.wait(Track::Audio, 100 * SECOND, &clock, NEVER, NO_DATA);
        TrackSync::new(true, true).wait(Track::Audio, 100 * SECOND, &clock, &|| true, NO_DATA);
    }
}
