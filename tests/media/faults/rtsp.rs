//! RTSP servers that stall, change, die, and networks that let no UDP through.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use touchline_core::cause::Cause;
use touchline_core::incident::Incident;
use touchline_core::item::Track;
use touchline_core::time::WallSource;
use touchline_media::gst::GstOptions;

use super::PATIENCE;
use crate::common::rtsp::{Media, RtspServer};
use crate::common::watched::{Said, Watched, quick};

const BOTH: Media = Media::Test { video: true, audio: true };

fn over_tcp(url: &str) -> Watched {
    let (rtsp_transport, connect_timeout) = ("tcp".into(), Duration::from_secs(6));
    Watched::start_with(url, GstOptions { rtsp_transport, connect_timeout, ..GstOptions::default() }, quick())
}

#[test]
fn a_server_that_stalls_is_left_and_found_again() {
    let server = RtspServer::start(BOTH);
    let mut watched = over_tcp(&server.url());
    watched.until_classified(PATIENCE);
    server.send("video", false);
    server.send("audio", false);
    watched.until("stall", PATIENCE, |said| said.waits_for(Cause::Stalled));
    // The next connection is to a new pipeline: clients share one while there are any.
    watched.until("return", PATIENCE, Said::plays);
    watched.until_classified(PATIENCE);
}

#[test]
fn a_server_that_dies_is_found_again() {
    let server = RtspServer::start(BOTH);
    let (port, url) = (server.port(), server.url());
    let mut watched = over_tcp(&url);
    watched.until_classified(PATIENCE);
    drop(server);
    watched.until("refusal", PATIENCE, |said| said.waits_for(Cause::ConnectionRefused));
    let _server = RtspServer::start_on(port, BOTH);
    watched.until("return", PATIENCE, Said::plays);
    watched.until_classified(PATIENCE);
    // Sender reports tie the seconds to the server's clock, which is ours.
    let (_, said) = watched.until(
        "wall time",
        PATIENCE,
        |said| matches!(said, Said::Second { wall: Some(wall), .. } if wall.source == WallSource::RtcpSenderReport),
    );
    let Said::Second { wall: Some(wall), .. } = said else { unreachable!("that was waited for") };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let behind = now.as_nanos() as i64 - wall.unix_ns;
    assert!((0..6_000_000_000).contains(&behind), "{behind} ns");
    assert!(wall.uncertainty_ns >= 40_000_000 && wall.uncertainty_ns < 100_000_000, "{wall:?}");
}

#[test]
fn sound_that_stays_away_costs_no_picture_and_another_size_no_connection() {
    let server = RtspServer::start(BOTH);
    let mut watched = over_tcp(&server.url());
    watched.until_classified(PATIENCE);
    watched.skip();
    server.send("audio", false);
    let silent = |said: &Said| matches!(said, Said::Incident(Incident::TrackStalled { track: Track::Audio, .. }));
    watched.until("silence", PATIENCE, silent);
    watched
        .until("second without sound", PATIENCE, |s| matches!(s, Said::Second { has_sound: false, frames: 20.., .. }));
    server.size(640, 360);
    let changed = Incident::FormatChanged { track: Track::Video };
    watched.until("change", PATIENCE, |said| matches!(said, Said::Incident(i) if *i == changed));
    watched.until("second", PATIENCE, |s| matches!(s, Said::Second { width: 640, .. }));
    server.send("audio", true);
    let heard = |said: &Said| matches!(said, Said::Incident(Incident::TrackRecovered { track: Track::Audio, .. }));
    watched.until("sound", PATIENCE, heard);
    watched.until("second with sound", PATIENCE, |s| matches!(s, Said::Second { has_sound: true, .. }));
    let connections = watched.all().iter().filter(|(_, said)| said.plays()).count();
    assert_eq!(connections, 1);
}

/// Passes RTSP on, but for the ports that UDP would go to: as a firewall would have it.
fn without_udp(server: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("a bound listener").port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) else { return };
            let pump = |mut from: TcpStream, mut to: TcpStream, rewrite: bool| {
                std::thread::spawn(move || {
                    let mut buffer = [0; 65_536];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        let mut data = buffer[..n].to_vec();
                        let at = data.windows(12).position(|w| w == b"client_port=").filter(|_| rewrite);
                        if let Some(at) = at {
                            // The discard port, and the one after it.
                            let end = at + 12 + data[at + 12..].iter().take_while(|b| !b";\r".contains(b)).count();
                            data.splice(at + 12..end, *b"9-10");
                        }
                        if to.write_all(&data).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                })
            };
            let (Ok(down), Ok(up)) = (client.try_clone(), upstream.try_clone()) else { return };
            pump(client, upstream, true);
            pump(up, down, false);
        }
    });
    port
}

#[test]
fn a_network_without_udp_is_played_over_tcp_and_that_is_remembered() {
    let server = RtspServer::start(BOTH);
    let url = format!("rtsp://127.0.0.1:{}/live", without_udp(server.port()));
    let mut watched = Watched::start(&url);
    let (began, _) = watched.until("attempt", PATIENCE, |said| matches!(said, Said::State(_)));
    watched.until("fallback", PATIENCE, |said| matches!(said, Said::Incident(Incident::TcpFallback)));
    let first = watched.until_classified(PATIENCE) - began;
    server.send("video", false);
    server.send("audio", false);
    let (again, _) = watched.until("stall", PATIENCE, |said| said.waits_for(Cause::Stalled));
    let second = watched.until_classified(PATIENCE) - again;
    // UDP was waited for three seconds, once.
    assert!(first > Duration::from_secs(3) && second < first, "{first:?}, then {second:?}");
    let fallbacks = watched.all().iter().filter(|(_, s)| matches!(s, Said::Incident(Incident::TcpFallback))).count();
    assert_eq!(fallbacks, 1);
}
