use super::*;
use crate::facts::VideoFacts;
use crate::replay::{Replay, Script};
use crate::{Open, Source};
use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;
use touchline_core::clock::ManualClock;
use touchline_core::item::Pace;
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;

const BOTH: Tracks = Tracks { video: true, audio: true };
const LIMIT: Duration = Duration::from_secs(10);

fn picture(ms: u64) -> MediaItem {
    MediaItem::Frame(Frame::new(Pooled::detached(vec![7; 12]), 2, 2, Pts(ms * 1_000_000), 0))
}

fn sound() -> MediaItem {
    MediaItem::Pcm(PcmChunk::new(Pooled::detached(vec![0.0; 4]), 44_100, 2, Pts(0), 0))
}

/// A probe of `items`, after which the source ends with `end` or is silent.
struct Test {
    clock: Arc<ManualClock>,
    facts: SharedFacts,
    items: Receiver<MediaItem>,
    cancel: Option<Sender<Infallible>>,
    cancelled: Receiver<Infallible>,
    // In a mutex, so that the test can be shared.
    _source: Mutex<Box<dyn Source>>,
}

impl Test {
    fn new(items: Vec<MediaItem>, end: Option<End>) -> Self {
        let (to, received) = bounded(64);
        let source = Replay::new(Pace::Live, vec![Script { items, end }]).open("x", to).unwrap();
        let (cancel, cancelled) = bounded(0);
        let (clock, facts) = (Arc::new(ManualClock::default()), SharedFacts::default());
        Self { clock, facts, items: received, cancel: Some(cancel), cancelled, _source: Mutex::new(source) }
    }

    fn run_as(&self, listens: bool, limit: Duration) -> Option<Probed> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let limits = ProbeLimits { clock: &clock, began_ns: 0, limit, listens, cancelled: &self.cancelled };
        watch(&self.items, &self.facts, &limits)
    }

    fn run(&self) -> Probed {
        self.run_as(false, LIMIT).expect("it was not cancelled")
    }
}

#[test]
fn a_probe_ends_when_tracks_formats_and_the_first_picture_are_known() {
    let test = Test::new(vec![MediaItem::Opened(BOTH), sound(), picture(40), picture(80)], None);
    let video = VideoFacts { codec: Some("H.264".into()), frame_rate: Some(25.0), ..VideoFacts::default() };
    test.facts.update(|facts| facts.video = Some(video.clone()));
    test.clock.advance(1_500_000_000);
    let found = test.run();
    assert_eq!((found.tracks, found.opened_ns, found.failure), (Some(BOTH), Some(1_500_000_000), None));
    let (frame, after_ns) = found.picture.unwrap();
    assert_eq!((frame.pts, after_ns), (Pts(40_000_000), 1_500_000_000));
    assert_eq!(found.facts.video, Some(video));
    let audio = AudioFacts { codec: None, rate: Some(44_100), channels: Some(2) };
    assert_eq!(found.facts.audio, Some(audio), "from the samples, if the source reports no format");
}

#[test]
fn the_rate_is_measured_if_the_stream_does_not_state_it() {
    let only_video = Tracks { video: true, audio: false };
    // In decoding order: the times are not sorted.
    let times = (0..40).map(|n: u64| picture((n ^ 1) * 20));
    let items = std::iter::once(MediaItem::Opened(only_video)).chain(times).collect();
    let found = Test::new(items, None).run();
    assert_eq!(found.facts.video.unwrap().frame_rate, Some(50.0));
    assert_eq!(found.facts.audio, None);
}

#[test]
fn a_failure_is_reported_with_what_was_found_before() {
    let failed = End::Failed { kind: Cause::NotAuthorized, cause: "401".into(), advice: "log in".into() };
    let found = Test::new(Vec::new(), Some(failed.clone())).run();
    assert_eq!(found.failure.unwrap().kind, Cause::NotAuthorized);
    assert_eq!((found.tracks, found.opened_ns), (None, None));
    let found = Test::new(vec![MediaItem::Opened(BOTH), picture(0)], Some(failed)).run();
    assert!(found.failure.is_some() && found.picture.is_some() && found.tracks == Some(BOTH));
    let found = Test::new(Vec::new(), Some(End::Finished)).run();
    assert_eq!(found.failure.unwrap().kind, Cause::NoTracks);
    let short = vec![MediaItem::Opened(BOTH), picture(0), sound()];
    assert_eq!(Test::new(short, Some(End::Finished)).run().failure, None, "a short recording is no failure");
}

#[test]
fn a_silent_source_ends_the_probe_at_its_limit() {
    for (listens, cause, word) in [(false, Cause::NoData, "within 10 s"), (true, Cause::NoCaller, "no sender")] {
        let test = Test::new(Vec::new(), None);
        test.clock.advance(10_000_000_000);
        let failure = test.run_as(listens, LIMIT).unwrap().failure.unwrap();
        assert!(failure.kind == cause && failure.cause.contains(word), "{failure}");
    }
    // Pictures that never come do not hide the sound.
    let test = Test::new(vec![MediaItem::Opened(BOTH), sound()], None);
    std::thread::scope(|scope| {
        let probe = scope.spawn(|| test.run());
        crate::wait::until("the items to be read", || test.items.is_empty());
        test.clock.advance(10_000_000_000);
        let found = probe.join().unwrap();
        assert!(found.failure.is_none() && found.picture.is_none() && found.facts.audio.is_some());
    });
}

#[test]
fn the_first_picture_waits_two_seconds_for_sound() {
    let test = Test::new(vec![MediaItem::Opened(BOTH), picture(0)], None);
    let hour = Duration::from_secs(3600);
    std::thread::scope(|scope| {
        let probe = scope.spawn(|| test.run_as(false, hour).unwrap());
        crate::wait::until("the end of the probe", || {
            test.clock.advance(500_000_000);
            probe.is_finished()
        });
        assert!(probe.join().unwrap().picture.is_some());
        assert!(u128::from(test.clock.mono_ns()) < hour.as_nanos(), "it waited for the limit");
    });
}

#[test]
fn a_cancelled_probe_ends_at_once() {
    let mut test = Test::new(Vec::new(), None);
    drop(test.cancel.take());
    assert!(test.run_as(false, LIMIT).is_none());
}

#[test]
fn errors_of_opening_keep_their_cause_and_lose_their_secrets() {
    let error = Error::source_failure(Cause::NotFound, "x", "no rtsp://ann:geheim31@h/a", "check it");
    let failure = failure_of(error);
    assert!(failure.kind == Cause::NotFound && !failure.cause.contains("geheim31"), "{failure}");
    assert_eq!(failure_of(Error::Usage("bad".into())).kind, Cause::Other);
}
