use super::*;
use crate::wait::until;
use parking_lot::Mutex;
use touchline_core::cause::Cause;
use touchline_core::clock::ManualClock;
use touchline_core::error::Error;
use touchline_core::item::{End, Pace, Tracks};
use touchline_media::Open;
use touchline_media::replay::{Replay, Script};

/// Opens replays; a URI with `missing` fails, and one with `hangs` waits until `release` is dropped.
#[derive(Default)]
struct FakeOpener {
    opened: Mutex<Vec<StreamSettings>>,
    release: Mutex<Option<Receiver<Infallible>>>,
}

impl ProbeOpener for FakeOpener {
    fn open(&self, settings: &StreamSettings, _: SharedFacts, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        self.opened.lock().push(settings.clone());
        if settings.uri.contains("missing") {
            return Err(Error::source_failure(Cause::NotFound, "x", "no such file", "check the path"));
        }
        if settings.uri.contains("hangs") {
            let release = self.release.lock().clone();
            // Returns when the test drops the sender.
            let _ = release.map(|release| release.recv());
        }
        let opened = MediaItem::Opened(Tracks { video: false, audio: true });
        let (items, end) = match settings.uri.contains("silent") {
            true => (Vec::new(), None),
            false => (vec![opened], Some(End::Finished)),
        };
        Replay::new(Pace::Live, vec![Script { items, end }]).open(&settings.uri, to)
    }
}

fn new(uri: &str) -> NewStream {
    serde_json::from_value(serde_json::json!({ "uri": uri, "id": "court" })).unwrap()
}

fn control() -> (ProbeControl, Arc<FakeOpener>, Arc<ManualClock>) {
    let (clock, opener) = (Arc::new(ManualClock::default()), Arc::new(FakeOpener::default()));
    let control = ProbeControl::new(clock.clone(), Metrics::new(), 321);
    assert_eq!(control.start(new("rtsp://h/a")).unwrap_err().kind, StreamRefusalKind::NotReady);
    control.connect(opener.clone());
    (control, opener, clock)
}

fn counted(control: &ProbeControl, result: &str) -> bool {
    control.metrics.encode().contains(&format!("touchline_probes_total{{result=\"{result}\"}} 1\n"))
}

#[test]
fn a_test_opens_the_source_of_the_settings_and_frees_its_place() {
    let (control, opener, _) = control();
    let test = control.start(new("rtsp://h/a")).unwrap();
    let found = test.outcome.blocking_recv().unwrap();
    assert!(test.closed.blocking_recv().is_err());
    assert_eq!(control.running(), 0, "the place is free when the source is closed");
    assert_eq!((found.tracks, found.failure), (Some(Tracks { video: false, audio: true }), None));
    let settings = opener.opened.lock().pop().unwrap();
    assert_eq!((settings.uri.as_str(), settings.id.as_str(), settings.latency_ms), ("rtsp://h/a", "probe", 321));
    let failure = control.start(new("rtsp://h/missing")).unwrap().outcome.blocking_recv().unwrap().failure.unwrap();
    assert_eq!((failure.kind, failure.advice.as_str()), (Cause::NotFound, "check the path"));
    until("free places", || control.running() == 0);
    assert!(counted(&control, "playable") && counted(&control, "failed"));
    for uri in ["", "gopher://h/a"] {
        assert_eq!(control.start(new(uri)).unwrap_err().kind, StreamRefusalKind::Invalid, "{uri:?}");
    }
}

#[test]
fn a_dropped_test_is_cancelled_and_a_third_is_refused() {
    let (control, _, _) = control();
    let tests: Vec<_> = (0..PROBES_MAX).map(|_| control.start(new("rtsp://h/silent")).unwrap()).collect();
    let refused = control.start(new("rtsp://h/a")).unwrap_err();
    assert_eq!(refused.kind, StreamRefusalKind::Busy, "{refused}");
    assert!(counted(&control, "busy"));
    drop(tests);
    until("free places", || control.running() == 0);
    assert!(control.metrics.encode().contains("touchline_probes_total{result=\"cancelled\"} 2\n"));
}

#[test]
fn a_silent_source_is_closed_at_the_limit() {
    let (control, _, clock) = control();
    let mut test = control.start(new("rtsp://h/silent")).unwrap();
    clock.advance(PROBE_TIMEOUT.as_nanos() as u64 + 1);
    let mut found = None;
    // The thread may have read the clock before or after its advance.
    until("the end of the test", || {
        clock.advance(1_000_000_000);
        found = test.outcome.try_recv().ok();
        found.is_some()
    });
    assert_eq!(found.unwrap().failure.unwrap().kind, Cause::NoData);
    until("a free place", || control.running() == 0);
}

#[test]
fn a_place_is_taken_until_a_source_that_hangs_is_gone() {
    let (control, opener, _) = control();
    let (release, held) = bounded(0);
    *opener.release.lock() = Some(held);
    let test = control.start(new("rtsp://h/hangs")).unwrap();
    until("the opening", || opener.opened.lock().len() == 1);
    drop(test);
    assert_eq!(control.running(), 1);
    drop(release);
    until("a free place", || control.running() == 0);
}
