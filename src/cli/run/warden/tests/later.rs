//! Streams that fail, end, change and come back while the program runs.

use super::*;

#[test]
fn one_that_was_off_at_the_start_and_cannot_be_opened_later_concerns_nobody_else() {
    let mut bench = Bench::new(rules());
    let mut streams = settings(&[("a", "rtsp://h/a"), ("b", "rtsp://h/refused")]);
    streams[1].enabled = false;
    bench.start_with(streams.clone()).unwrap();
    assert_eq!((bench.state("b"), bench.opened().len()), (StreamState::Paused, 1));
    streams[1].enabled = true;
    bench.read_settings(streams);
    assert!(bench.warden.stopping.is_none() && bench.stops.is_empty(), "the other one goes on");
    assert!(matches!(bench.state("b"), StreamState::Failed { .. }), "{:?}", bench.state("b"));
    assert!(bench.warden.ended().is_none());
}
