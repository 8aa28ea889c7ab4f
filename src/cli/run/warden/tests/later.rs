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

#[test]
fn a_program_whose_last_stream_is_taken_out_or_turned_off_waits_for_the_next() {
    let mut bench = Bench::new(rules());
    let mut streams = settings(&[("a", "rtsp://h/a")]);
    streams[0].enabled = false;
    bench.start_with(streams.clone()).unwrap();
    assert!(bench.warden.ended().is_none(), "it was started with a stream that is off");

    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    bench.read_settings(streams);
    bench.end_stopped();
    assert_eq!(bench.state("a"), StreamState::Paused);
    assert!(bench.warden.ended().is_none(), "its only stream was turned off");
    bench.read(&[]);
    assert!(bench.warden.entries.is_empty() && bench.warden.ended().is_none(), "and taken out");
    bench.read(&[("a", "rtsp://h/a")]);
    assert!(bench.warden.ended().is_none());
    bench.line("a");
}
