//! MPEG-TS over SRT and UDP: senders that die, jump, change, lose tracks, and 33 bits that are full.

use std::time::Duration;

use touchline_core::cause::Cause;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, Track};

use super::PATIENCE;
use crate::common::ts::TsSender;
use crate::common::watched::{Said, Watched};

#[test]
fn an_srt_sender_that_dies_comes_back_and_so_does_the_stream() {
    let mut sender = TsSender::srt();
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified(PATIENCE);
    sender.stop();
    watched.until("end", PATIENCE, |said| {
        said.waits_for(Cause::Ended) || said.waits_for(Cause::Stalled) || said.waits_for(Cause::NoAnswer)
    });
    std::thread::sleep(Duration::from_millis(500));
    sender.start();
    watched.until("return", PATIENCE, Said::plays);
    watched.until_classified(PATIENCE);
}

#[test]
fn tracks_that_fall_silent_are_told_one_by_one() {
    let mut sender = TsSender::udp();
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified(PATIENCE);
    sender.send("audio", false);
    watched.until("silence", PATIENCE, |said| {
        matches!(said, Said::Incident(Incident::TrackStalled { track: Track::Audio, silent_ns }) if *silent_ns > 2_000_000_000)
    });
    watched
        .until("second without sound", PATIENCE, |s| matches!(s, Said::Second { has_sound: false, frames: 20.., .. }));
    sender.send("audio", true);
    watched.until("sound", PATIENCE, |said| {
        matches!(said, Said::Incident(Incident::TrackRecovered { track: Track::Audio, .. }))
    });
    watched.until("second with sound", PATIENCE, |s| matches!(s, Said::Second { has_sound: true, .. }));
    sender.send("video", false);
    watched.until("no pictures", PATIENCE, |said| {
        matches!(said, Said::Incident(Incident::TrackStalled { track: Track::Video, .. }))
    });
    watched.until("failure", PATIENCE, |said| said.waits_for(Cause::PicturesStalled));
}

#[test]
fn another_size_is_told_and_the_run_goes_on() {
    let mut sender = TsSender::udp();
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified(PATIENCE);
    watched.skip();
    sender.size(640, 360);
    let changed = Incident::FormatChanged { track: Track::Video };
    watched.until("change", PATIENCE, |said| matches!(said, Said::Incident(i) if *i == changed));
    watched.until("second", PATIENCE, |s| matches!(s, Said::Second { width: 640, .. }));
    assert!(!watched.all().iter().skip(3).any(|(_, said)| matches!(said, Said::State(_))), "no reconnect");
    assert!(!watched.all().iter().any(|(_, said)| matches!(said, Said::Run(Some(_)))), "one run");
}

#[test]
fn time_stamps_that_jump_begin_a_run() {
    for hours in [1i64, -1] {
        let mut sender = TsSender::udp().beginning_at(20_000_000_000_000);
        sender.start();
        let mut watched = Watched::start(sender.url());
        watched.until_classified(PATIENCE);
        watched.skip();
        sender.shift(hours * 3_600_000_000_000);
        let cause = if hours > 0 { Discontinuity::JumpForward } else { Discontinuity::JumpBack };
        watched.until("run", PATIENCE, |said| matches!(said, Said::Run(Some(c)) if *c == cause));
        watched.until("second", PATIENCE, Said::is_second);
        let before = watched.all().len();
        watched
            .until("seconds after it", PATIENCE, |s| matches!(s, Said::Second { has_sound: true, frames: 20.., .. }));
        watched
            .until("seconds after it", PATIENCE, |s| matches!(s, Said::Second { has_sound: true, frames: 20.., .. }));
        let gaps = watched.all().iter().skip(before).filter(|(_, s)| matches!(s, Said::Gap { .. })).count();
        assert!(gaps <= 3, "{hours} h: {gaps} gaps");
    }
}

#[test]
fn thirty_three_bits_that_are_full_lose_no_second() {
    // 2^33 ticks of 90 kHz are 26 h 30 min 43.7 s. The multiplexer's time stamps begin at one hour, so the sender reaches
    // the end eight seconds after its start.
    const WRAP_NS: u64 = (1u64 << 33) * 100_000 / 9;
    let mut sender = TsSender::udp().beginning_at(WRAP_NS - 3_608_000_000_000);
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified(PATIENCE);
    watched.until("wrap", PATIENCE, |said| matches!(said, Said::Incident(Incident::ClockWrapped)));
    std::thread::sleep(Duration::from_secs(4));
    let said = watched.all();
    let seconds: Vec<(u32, u64)> = said
        .iter()
        .filter_map(|(_, s)| if let Said::Second { run, index, .. } = s { Some((*run, *index)) } else { None })
        .collect();
    let gaps = said.iter().filter(|(_, s)| matches!(s, Said::Gap { .. })).count();
    assert_eq!(gaps, 0, "{seconds:?}");
    assert!(seconds.len() >= 9, "{seconds:?}");
    assert!(seconds.windows(2).all(|w| w[0].0 == w[1].0 && w[0].1 + 1 == w[1].1), "one run: {seconds:?}");
}

#[test]
fn garbage_between_the_packets_does_no_harm() {
    let mut sender = TsSender::udp();
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified(PATIENCE);
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let to = sender.url().trim_start_matches("udp://").to_owned();
    for n in 0..2_000u32 {
        let noise: Vec<u8> = (0..1_316u32).map(|i| ((i + n).wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        socket.send_to(&noise, &to).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    watched.skip();
    watched.until("whole second", PATIENCE, |s| matches!(s, Said::Second { has_sound: true, frames: 24.., .. }));
}

#[test]
fn a_sender_that_comes_back_with_less_is_found_out() {
    let mut sender = TsSender::srt();
    sender.start();
    let mut watched = Watched::start(sender.url());
    watched.until_classified(PATIENCE);
    sender.with_audio(false);
    sender.start();
    watched.until("loss", PATIENCE, |s| matches!(s, Said::Incident(Incident::TrackLost { track: Track::Audio })));
    watched.until("second", PATIENCE, Said::is_second);
    sender.with_audio(true);
    sender.start();
    watched.until("sound", PATIENCE, |s| matches!(s, Said::Incident(Incident::TrackAdded { track: Track::Audio })));
    watched.until("second", PATIENCE, |s| matches!(s, Said::Second { has_sound: true, .. }));
}
