//! SRT listeners: they wait for a caller, and for the next one after it disconnects.

use std::net::UdpSocket;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use touchline_core::cause::Cause;
use touchline_media::gst::GstOptions;
use touchline_media::supervise::{Policy, SourceState};

use crate::common::wait::until;
use crate::common::watched::{Event, Watched};
use crate::common::{free_udp_port, init};

/// Starts a caller that sends a moving pattern.
fn call(port: u16) -> gst::Element {
    init();
    let line = format!(
        "videotestsrc is-live=true ! video/x-raw,width=160,height=120,framerate=25/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! h264parse config-interval=-1 \
         ! mpegtsmux alignment=7 ! srtsink uri=srt://127.0.0.1:{port}?mode=caller sync=false"
    );
    let pipeline = gst::parse::launch(&line).expect("the sender's pipeline parses");
    pipeline.set_state(gst::State::Playing).expect("the sender starts");
    pipeline
}

fn hang_up(caller: &gst::Element) {
    caller.set_state(gst::State::Null).expect("the sender stops");
}

fn listen(port: u16) -> Watched {
    // This timeout must not apply: a listener waits for callers instead of connecting.
    let options = GstOptions { connect_timeout: Duration::from_secs(1), ..GstOptions::default() };
    Watched::start_with(&format!("srt://127.0.0.1:{port}?mode=listener"), options, Policy::listening())
}

#[test]
fn a_listener_waits_for_callers_and_for_the_next_one() {
    let port = free_udp_port();
    let mut watched = listen(port);
    watched.until("wait", waits_for_a_caller);
    let is_open = || UdpSocket::bind(("127.0.0.1", port)).is_err();
    until("the open port", is_open);
    // For longer than the connect timeout, the listener is not closed and opened again.
    let quiet = std::time::Instant::now() + Duration::from_secs(3);
    while std::time::Instant::now() < quiet {
        assert_eq!(watched.all().len(), 1, "{:?}", watched.all());
        assert!(is_open(), "the port stays open");
        std::thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..3 {
        let caller = call(port);
        watched.until("caller", Event::plays);
        watched.until("second", Event::is_second);
        hang_up(&caller);
        watched.until("end", |event| matches!(event, Event::State(SourceState::Waiting { .. })));
        watched.until("wait", waits_for_a_caller);
    }
    // Every pause between two callers is short.
    for event in watched.all() {
        if let Event::State(SourceState::Waiting { retry_in, .. }) = event {
            assert!(retry_in <= Duration::from_millis(50), "{event:?}");
        }
    }
}

fn waits_for_a_caller(event: &Event) -> bool {
    event.waits_for(Cause::NoCaller)
}
