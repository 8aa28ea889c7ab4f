//! The supervisor with scripted sources. No pause is real, and the stall test advances a simulated clock.

use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::replay::{Replay, Script};
use touchline_core::clock::ManualClock;
use touchline_core::item::{Track, Tracks};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;

#[derive(Default)]
struct Recorder(Mutex<Vec<SourceState>>, Mutex<Vec<Incident>>);

impl SourceObserver for Recorder {
    fn state(&self, state: SourceState) {
        self.0.lock().unwrap().push(state);
    }

    fn incident(&self, incident: Incident) {
        self.1.lock().unwrap().push(incident);
    }
}

struct Bench {
    supervisor: Supervisor,
    recorder: Arc<Recorder>,
    clock: Arc<ManualClock>,
}

fn bench(policy: Policy, scripts: Vec<Script>) -> Bench {
    let (recorder, clock) = (Arc::new(Recorder::default()), Arc::new(ManualClock::default()));
    let supervisor = Supervisor {
        inner: Arc::new(Replay::new(Pace::Live, scripts)),
        policy,
        clock: clock.clone(),
        observer: recorder.clone(),
        counters: Arc::default(),
        id: "t".into(),
    };
    Bench { supervisor, recorder, clock }
}

fn opened() -> MediaItem {
    MediaItem::Opened(Tracks { video: false, audio: true })
}

fn sound(pts: u64) -> MediaItem {
    MediaItem::Pcm(PcmChunk::new(Pooled::detached(vec![0.0; 480]), 48_000, 1, Pts(pts), 0))
}

fn failed(cause: &str) -> Option<End> {
    Some(End::Failed { kind: Cause::NoAnswer, cause: cause.into(), advice: "a".into() })
}

fn describe(items: &[MediaItem]) -> Vec<String> {
    items
        .iter()
        .map(|item| match item {
            MediaItem::Opened(_) => "opened".into(),
            MediaItem::Pcm(chunk) => format!("pcm {}", chunk.pts.0),
            MediaItem::Discontinuity(_) => "reconnect".into(),
            MediaItem::Ended(End::Finished) => "finished".into(),
            MediaItem::Ended(End::Failed { cause, .. }) => format!("failed: {cause}"),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_lost_connection_is_reopened_with_growing_pauses_and_a_new_timeline() {
    let script = |items, end| Script { items, end };
    let b = bench(
        Policy { reopen_on_end: true, ..Policy::default() },
        vec![
            script(vec![opened(), sound(1)], failed("cable")),
            script(vec![], failed("refused")),
            script(vec![], failed("refused")),
            script(vec![opened(), sound(2)], Some(End::Finished)),
            script(vec![opened(), sound(3)], None),
        ],
    );
    let (to, from) = bounded(64);
    let mut source = b.supervisor.open("rtsp://h/a", to).unwrap();
    let mut items: Vec<MediaItem> = from.iter().take(8).collect();
    source.stop();
    items.extend(from.iter());
    let expected = ["opened", "pcm 1", "reconnect", "opened", "pcm 2", "reconnect", "opened", "pcm 3", "finished"];
    assert_eq!(describe(&items), expected);
    assert_eq!(b.supervisor.counters.reconnects.load(Ordering::Relaxed), 2);

    let slept = b.clock.sleeps();
    assert_eq!(slept.len(), 4);
    for (pause, nominal) in slept.iter().zip([1, 2, 4, 8]) {
        let nominal = Duration::from_secs(nominal);
        assert!(*pause <= nominal && *pause >= nominal.mul_f64(0.75), "{pause:?} of {nominal:?}");
    }
    let states = b.recorder.0.lock().unwrap();
    assert_eq!(states.first(), Some(&SourceState::Connecting));
    assert_eq!(states.last(), Some(&SourceState::Ended));
    assert!(
        states.iter().any(|s| matches!(s, SourceState::Waiting { attempt: 1, cause, .. } if cause == "cable")),
        "{states:?}"
    );
    assert_eq!(states.iter().filter(|s| **s == SourceState::Playing).count(), 3);
}

/// A clock whose sleeps end with the source.
#[derive(Default)]
struct UntilStopped(ManualClock);

impl Clock for UntilStopped {
    fn mono_ns(&self) -> u64 {
        self.0.mono_ns()
    }

    fn unix_ns(&self) -> i64 {
        self.0.unix_ns()
    }

    fn sleep_until_stopped(&self, _: Duration, stop: &Receiver<Infallible>) {
        let _ = stop.recv();
    }
}

#[test]
fn a_run_ends_with_its_connection_and_not_with_the_next() {
    let script = |items| Script { items, end: failed("cable") };
    let mut b = bench(Policy::default(), vec![script(vec![opened(), sound(1)])]);
    b.supervisor.clock = Arc::new(UntilStopped::default());
    let (to, from) = bounded(64);
    let mut source = b.supervisor.open("rtsp://h/a", to).unwrap();
    let next = || from.recv_timeout(Duration::from_secs(10)).expect("the item arrives while there is no connection");
    assert_eq!(describe(&[next(), next(), next()]), ["opened", "pcm 1", "reconnect"]);
    source.stop();
    assert_eq!(describe(&from.iter().collect::<Vec<_>>()), ["finished"]);

    // A connection that never opened has no run to close, and no run is closed twice.
    let scripts = vec![script(vec![]), script(vec![opened(), sound(1)]), script(vec![]), script(vec![opened()])];
    let b = bench(Policy { retry_first: true, ..Policy::default() }, scripts);
    let (to, from) = bounded(64);
    let mut source = b.supervisor.open("rtsp://h/a", to).unwrap();
    let items: Vec<MediaItem> = from.iter().take(5).collect();
    source.stop();
    assert_eq!(describe(&items), ["opened", "pcm 1", "reconnect", "opened", "reconnect"]);
}

#[test]
fn a_failed_first_attempt_is_final_unless_the_policy_retries_it() {
    let scripts = || vec![Script { items: vec![], end: failed("refused") }];
    let b = bench(Policy::default(), scripts());
    let (to, from) = bounded(64);
    let _source = b.supervisor.open("rtsp://h/a", to).unwrap();
    assert_eq!(describe(&from.iter().collect::<Vec<_>>()), ["failed: refused"]);
    assert_eq!(
        b.recorder.0.lock().unwrap().last(),
        Some(&SourceState::Failed { kind: Cause::NoAnswer, cause: "refused".into(), advice: "a".into() })
    );

    let mut scripts = scripts();
    scripts.push(Script { items: vec![opened()], end: None });
    let b = bench(Policy { retry_first: true, ..Policy::default() }, scripts);
    let (to, from) = bounded(64);
    let mut source = b.supervisor.open("rtsp://h/a", to).unwrap();
    assert_eq!(describe(&[from.recv().unwrap()]), ["opened"]);
    source.stop();
    assert_eq!(describe(&from.iter().collect::<Vec<_>>()), ["finished"]);
}

#[test]
fn an_end_is_final_for_kinds_that_end() {
    let b = bench(
        Policy { reopen_on_end: false, ..Policy::default() },
        vec![Script { items: vec![opened(), MediaItem::TrackEnded(Track::Audio)], end: Some(End::Finished) }],
    );
    let (to, from) = bounded(64);
    let _source = b.supervisor.open("http://h/a.m3u8", to).unwrap();
    let items: Vec<_> = from.iter().collect();
    assert!(matches!(items.last(), Some(MediaItem::Ended(End::Finished))), "{items:?}");
    assert_eq!(items.len(), 3);
}

#[test]
fn a_recording_ends_and_a_channel_of_its_kind_is_reopened() {
    let script = || Script { items: vec![opened(), sound(1)], end: Some(End::Finished) };
    for (on_demand, expected) in
        [(true, vec!["opened", "pcm 1", "finished"]), (false, vec!["opened", "pcm 1", "reconnect", "opened", "pcm 1"])]
    {
        let b = bench(Policy::default(), vec![script(), script()]);
        b.supervisor.counters.on_demand.set(on_demand).expect("the value is not set yet");
        let (to, from) = bounded(64);
        let mut source = b.supervisor.open("http://h/a.m3u8", to).unwrap();
        assert_eq!(describe(&from.iter().take(expected.len()).collect::<Vec<_>>()), expected);
        source.stop();
    }
}

#[test]
fn silence_is_a_failure_after_the_stall_time() {
    let b = bench(
        Policy::default(),
        vec![
            Script { items: vec![opened(), sound(1)], end: None },
            Script { items: vec![opened(), sound(2)], end: None },
        ],
    );
    let (to, from) = bounded(64);
    let _source = b.supervisor.open("rtsp://h/a", to).unwrap();
    assert_eq!(describe(&from.iter().take(2).collect::<Vec<_>>()), ["opened", "pcm 1"]);
    assert!(from.recv_timeout(Duration::from_millis(200)).is_err(), "no stall before its time");
    b.clock.advance(11_000_000_000);
    assert_eq!(describe(&from.iter().take(3).collect::<Vec<_>>()), ["reconnect", "opened", "pcm 2"]);
    assert!(
        b.recorder
            .0
            .lock()
            .unwrap()
            .iter()
            .any(|s| matches!(s, SourceState::Waiting { cause, .. } if cause == "no pictures and no sound for 10 s"))
    );
}

#[test]
fn pauses_stop_growing() {
    let policy = Policy::default();
    let pause = |attempt| backoff(policy.backoff_min, policy.backoff_max, attempt);
    assert_eq!(pause(1), Duration::from_secs(1));
    assert_eq!(pause(5), Duration::from_secs(16));
    assert_eq!(pause(6), Duration::from_secs(30));
    assert_eq!(pause(u32::MAX), Duration::from_secs(30));
}

#[test]
fn a_refused_login_is_retried_rarely() {
    let refused = || {
        let (kind, cause, advice) = (Cause::NotAuthorized, "not authorized (401)".into(), "a".into());
        Script { items: vec![], end: Some(End::Failed { kind, cause, advice }) }
    };
    let plays = |end| Script { items: vec![opened(), sound(1)], end };
    let mut scripts = vec![plays(failed("cable"))];
    scripts.extend((0..6).map(|_| refused()));
    scripts.extend([plays(failed("cable")), refused(), plays(None)]);
    let b = bench(Policy::default(), scripts);
    let (to, from) = bounded(64);
    let mut source = b.supervisor.open("rtsp://ann:wrong@h/a", to).unwrap();
    let items: Vec<MediaItem> = from.iter().take(8).collect();
    assert_eq!(items.len(), 8, "it plays in the end");
    source.stop();
    let slept = b.clock.sleeps();
    for (pause, nominal) in slept.iter().zip([1, 60, 120, 240, 480, 900, 900, 30, 60]) {
        let nominal = Duration::from_secs(nominal);
        assert!(*pause <= nominal && *pause >= nominal.mul_f64(0.75), "{pause:?} of {nominal:?}: {slept:?}");
    }
}

fn picture(pts: u64) -> MediaItem {
    MediaItem::Unconverted { pts: Pts(pts), arrived_ns: 0 }
}

#[test]
fn tracks_that_change_between_connections_are_reported() {
    let tracks = |video, audio| MediaItem::Opened(Tracks { video, audio });
    let script = |tracks, end| Script { items: vec![tracks, sound(1)], end };
    let b = bench(
        Policy::default(),
        vec![
            script(tracks(true, true), Some(End::Finished)),
            script(tracks(false, true), Some(End::Finished)),
            script(tracks(true, true), None),
        ],
    );
    let (to, from) = bounded(64);
    let _source = b.supervisor.open("rtsp://h/a", to).unwrap();
    assert_eq!(from.iter().take(8).filter(|i| matches!(i, MediaItem::Discontinuity(_))).count(), 2);
    let expected = [Incident::TrackLost { track: Track::Video }, Incident::TrackAdded { track: Track::Video }];
    assert_eq!(*b.recorder.1.lock().unwrap(), expected);
    let states = b.recorder.0.lock().unwrap();
    let ended = |s: &&SourceState| matches!(s, SourceState::Waiting { kind: Cause::Ended, .. });
    assert_eq!(states.iter().filter(ended).count(), 2, "{states:?}");
}

#[test]
fn pictures_that_are_gone_after_a_reconnect_are_looked_for_once() {
    let script = |video, end| Script { items: vec![MediaItem::Opened(Tracks { video, audio: true }), sound(1)], end };
    let policy = Policy { pictures_stall: Duration::from_secs(5), ..Policy::default() };
    let without = || script(false, None);
    let b = bench(policy, vec![script(true, Some(End::Finished)), without(), without(), without()]);
    let (to, from) = bounded(64);
    let _source = b.supervisor.open("rtsp://h/a", to).unwrap();
    let next = |count| describe(&from.iter().take(count).collect::<Vec<_>>());
    assert_eq!(next(5), ["opened", "pcm 1", "reconnect", "opened", "pcm 1"]);
    b.clock.advance(6_000_000_000);
    assert_eq!(next(3), ["reconnect", "opened", "pcm 1"]);
    // Without pictures again: now only the silence of everything is a failure.
    b.clock.advance(6_000_000_000);
    assert!(from.recv_timeout(Duration::from_millis(1_500)).is_err(), "no stall before its time");
    b.clock.advance(11_000_000_000);
    assert_eq!(next(3), ["reconnect", "opened", "pcm 1"]);
    let states = b.recorder.0.lock().unwrap();
    let causes = states.iter().filter_map(|state| match state {
        SourceState::Waiting { kind, .. } => Some(*kind),
        _ => None,
    });
    assert_eq!(causes.collect::<Vec<_>>(), [Cause::Ended, Cause::PicturesStalled, Cause::Stalled]);
    assert_eq!(*b.recorder.1.lock().unwrap(), [Incident::TrackLost { track: Track::Video }]);
}

#[test]
fn a_later_track_is_not_a_reconnect() {
    let items = vec![
        MediaItem::Opened(Tracks { video: true, audio: false }),
        picture(1),
        MediaItem::Discontinuity(Discontinuity::Tracks),
        MediaItem::Opened(Tracks { video: true, audio: true }),
        sound(2),
        MediaItem::Incident(Incident::TcpFallback),
        MediaItem::TrackEnded(Track::Audio),
        picture(3),
    ];
    let b = bench(Policy::default(), vec![Script { items, end: None }]);
    let (to, from) = bounded(64);
    let _source = b.supervisor.open("rtsp://h/a", to).unwrap();
    let passed = from.iter().take(7).collect::<Vec<_>>();
    assert!(matches!(passed[2], MediaItem::Discontinuity(Discontinuity::Tracks)), "{passed:?}");
    assert!(
        matches!(passed[6], MediaItem::Unconverted { .. }),
        "incidents are not sent to the clip builder: {passed:?}"
    );
    assert_eq!(b.supervisor.counters.reconnects.load(Ordering::Relaxed), 0);
    let (added, lost) = (Incident::TrackAdded { track: Track::Audio }, Incident::TrackLost { track: Track::Audio });
    assert_eq!(*b.recorder.1.lock().unwrap(), [added, Incident::TcpFallback, lost]);
}

/// A source whose thread panics after its first item. The thread of the second attempt continues.
struct Panics(AtomicBool);

struct Running(Option<Sender<MediaItem>>);

impl Source for Running {
    fn pace(&self) -> Pace {
        Pace::Live
    }

    fn stop(&mut self) {
        self.0.take().map(|to| to.send(MediaItem::Ended(End::Finished)));
    }
}

impl Open for Panics {
    fn open(&self, _: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        to.send(opened()).unwrap();
        if self.0.swap(true, Ordering::Relaxed) {
            return Ok(Box::new(Running(Some(to))));
        }
        let thread = std::thread::spawn(move || {
            to.send(sound(1)).unwrap();
            panic!("a bug in a demuxer");
        });
        thread.join().unwrap_err();
        Ok(Box::new(Running(None)))
    }
}

#[test]
fn a_panic_on_the_source_s_thread_is_an_internal_failure_and_the_stream_is_reopened() {
    let mut b = bench(Policy::default(), Vec::new());
    b.supervisor.inner = Arc::new(Panics(AtomicBool::new(false)));
    let (to, from) = bounded(64);
    let mut source = b.supervisor.open("rtsp://h/a", to).unwrap();
    let items: Vec<MediaItem> = from.iter().take(4).collect();
    assert_eq!(describe(&items), ["opened", "pcm 1", "reconnect", "opened"]);
    source.stop();
    assert_eq!(from.iter().count(), 1, "the end");
    let states = b.recorder.0.lock().unwrap();
    let broken = |s: &&SourceState| matches!(s, SourceState::Waiting { kind: Cause::Internal, .. });
    assert_eq!(states.iter().filter(broken).count(), 1, "{states:?}");
}
