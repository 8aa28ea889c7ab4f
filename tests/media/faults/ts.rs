//! MPEG-TS over SRT and UDP: senders that die, jump in time, change, lose tracks, and time stamps that wrap.

use std::time::Duration;

use touchline_core::cause::Cause;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, Track};

use crate::common::ts::TsSender;
use crate::common::watched::{Event, Watched};

#[test]
fn the_stream_recovers_when_an_srt_sender_restarts() {
    let mut sender = TsSender::srt();
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified();
    sender.stop();
    watched.until("end", |event| {
        event.waits_for(Cause::Ended) || event.waits_for(Cause::Stalled) || event.waits_for(Cause::NoAnswer)
    });
    std::thread::sleep(Duration::from_millis(500));
    sender.start();
    watched.until("return", Event::plays);
    watched.until_classified();
}

#[test]
fn each_track_that_stalls_is_reported() {
    let mut sender = TsSender::udp();
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified();
    sender.send("audio", false);
    watched.until("silence", |event| {
        matches!(event, Event::Incident(Incident::TrackStalled { track: Track::Audio, silent_ns }) if *silent_ns > 2_000_000_000)
    });
    watched.until("second without sound", |s| matches!(s, Event::Second { has_sound: false, frames: 20.., .. }));
    sender.send("audio", true);
    watched
        .until("sound", |event| matches!(event, Event::Incident(Incident::TrackRecovered { track: Track::Audio, .. })));
    watched.until("second with sound", |s| matches!(s, Event::Second { has_sound: true, .. }));
    sender.send("video", false);
    watched.until("no pictures", |event| {
        matches!(event, Event::Incident(Incident::TrackStalled { track: Track::Video, .. }))
    });
    watched.until("failure", |event| event.waits_for(Cause::PicturesStalled));
}

#[test]
fn a_new_size_is_reported_and_starts_no_run() {
    let mut sender = TsSender::udp();
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified();
    watched.skip();
    sender.size(640, 360);
    let changed = Incident::FormatChanged { track: Track::Video };
    watched.until("change", |event| matches!(event, Event::Incident(i) if *i == changed));
    watched.until("second", |s| matches!(s, Event::Second { width: 640, .. }));
    assert!(!watched.all().iter().skip(3).any(|event| matches!(event, Event::State(_))), "no reconnect");
    assert!(!watched.all().iter().any(|event| matches!(event, Event::Run(Some(_)))), "one run");
}

#[test]
fn a_jump_of_time_stamps_starts_a_run() {
    for hours in [1i64, -1] {
        let mut sender = TsSender::udp().beginning_at(20_000_000_000_000);
        sender.start();
        let mut watched = Watched::start(sender.url());
        watched.until_classified();
        watched.skip();
        sender.shift(hours * 3_600_000_000_000);
        let cause = if hours > 0 { Discontinuity::JumpForward } else { Discontinuity::JumpBack };
        watched.until("run", |event| matches!(event, Event::Run(Some(c)) if *c == cause));
        watched.until("second", Event::is_second);
        let before = watched.all().len();
        watched.until("seconds after it", |s| matches!(s, Event::Second { has_sound: true, frames: 20.., .. }));
        watched.until("seconds after it", |s| matches!(s, Event::Second { has_sound: true, frames: 20.., .. }));
        let gaps = watched.all().iter().skip(before).filter(|s| matches!(s, Event::Gap { .. })).count();
        assert!(gaps <= 3, "{hours} h: {gaps} gaps");
    }
}

#[test]
fn time_stamps_that_wrap_lose_no_second() {
    // 2^33 ticks of 90 kHz are 26 h 30 min 43.7 s. The multiplexer's time stamps start at one hour, so they wrap eight seconds
    // after the start.
    const WRAP_NS: u64 = (1u64 << 33) * 100_000 / 9;
    let mut sender = TsSender::udp().beginning_at(WRAP_NS - 3_608_000_000_000);
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified();
    watched.until("wrap", |event| matches!(event, Event::Incident(Incident::ClockWrapped)));
    for _ in 0..5 {
        watched.until("second after the wrap", Event::is_second);
    }
    let events = watched.all();
    let seconds: Vec<(u32, u64)> = events
        .iter()
        .filter_map(|s| if let Event::Second { run, index, .. } = s { Some((*run, *index)) } else { None })
        .collect();
    let gaps = events.iter().filter(|s| matches!(s, Event::Gap { .. })).count();
    assert_eq!(gaps, 0, "{seconds:?}");
    assert!(seconds.len() >= 9, "{seconds:?}");
    assert!(seconds.windows(2).all(|w| w[0].0 == w[1].0 && w[0].1 + 1 == w[1].1), "one run: {seconds:?}");
}

#[test]
fn the_stream_recovers_from_garbage_between_packets() {
    let mut sender = TsSender::udp();
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified();
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let to = sender.url().trim_start_matches("udp://").to_owned();
    for n in 0..2_000u32 {
        let noise: Vec<u8> = (0..1_316u32).map(|i| ((i + n).wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        socket.send_to(&noise, &to).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    watched.skip();
    watched.until("whole second", |s| matches!(s, Event::Second { has_sound: true, frames: 24.., .. }));
}

#[test]
fn a_sender_that_restarts_without_sound_is_reported() {
    let mut sender = TsSender::srt();
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified();
    sender.with_audio(false);
    sender.start();
    watched.until("loss", |s| matches!(s, Event::Incident(Incident::TrackLost { track: Track::Audio })));
    watched.until("second", Event::is_second);
    sender.with_audio(true);
    sender.start();
    watched.until("sound", |s| matches!(s, Event::Incident(Incident::TrackAdded { track: Track::Audio })));
    watched.until("second", |s| matches!(s, Event::Second { has_sound: true, .. }));
}
