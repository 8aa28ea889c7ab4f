//! RTSP servers that stall, change or die, and networks that block UDP.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use touchline_core::cause::Cause;
use touchline_core::incident::Incident;
use touchline_core::item::Track;
use touchline_core::time::WallSource;
use touchline_media::gst::GstOptions;

use crate::common::rtsp::{Media, RtspServer};
use crate::common::watched::{Event, Watched, quick};

const BOTH: Media = Media::Test { video: true, audio: true };

fn over_tcp(url: &str) -> Watched {
    let (rtsp_transport, connect_timeout) = ("tcp".into(), Duration::from_secs(6));
    Watched::start_with(url, GstOptions { rtsp_transport, connect_timeout, ..GstOptions::default() }, quick())
}

#[test]
fn the_source_reconnects_to_a_server_that_stalls() {
    let server = RtspServer::start(BOTH);
    let mut watched = over_tcp(&server.url());
    watched.until_classified();
    server.send("video", false);
    server.send("audio", false);
    watched.until("stall", |event| event.waits_for(Cause::Stalled));
    // The next connection gets a new pipeline: clients share one only while one of them is connected.
    watched.until("return", Event::plays);
    watched.until_classified();
}

#[test]
fn the_source_reconnects_to_a_server_that_was_restarted() {
    let server = RtspServer::start(BOTH);
    let (port, url) = (server.port(), server.url());
    let mut watched = over_tcp(&url);
    watched.until_classified();
    drop(server);
    watched.until("refusal", |event| event.waits_for(Cause::ConnectionRefused));
    let _server = RtspServer::start_on(port, BOTH);
    watched.until("return", Event::plays);
    watched.until_classified();
    // Sender reports map the seconds to the server's clock, which is this machine's.
    let event = watched.until(
        "wall time",
        |event| matches!(event, Event::Second { wall: Some(wall), .. } if wall.source == WallSource::RtcpSenderReport),
    );
    let Event::Second { wall: Some(wall), .. } = event else { unreachable!("`until` matched it") };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let behind = now.as_nanos() as i64 - wall.unix_ns;
    assert!((0..6_000_000_000).contains(&behind), "{behind} ns");
    assert!(wall.uncertainty_ns >= 40_000_000 && wall.uncertainty_ns < 100_000_000, "{wall:?}");
}

#[test]
fn silent_audio_costs_no_picture_and_a_new_size_no_reconnect() {
    let server = RtspServer::start(BOTH);
    let mut watched = over_tcp(&server.url());
    watched.until_classified();
    watched.skip();
    server.send("audio", false);
    let silent = |event: &Event| matches!(event, Event::Incident(Incident::TrackStalled { track: Track::Audio, .. }));
    watched.until("silence", silent);
    watched.until("second without sound", |s| matches!(s, Event::Second { has_sound: false, frames: 20.., .. }));
    server.size(640, 360);
    let changed = Incident::FormatChanged { track: Track::Video };
    watched.until("change", |event| matches!(event, Event::Incident(i) if *i == changed));
    watched.until("second", |s| matches!(s, Event::Second { width: 640, .. }));
    server.send("audio", true);
    let recovered =
        |event: &Event| matches!(event, Event::Incident(Incident::TrackRecovered { track: Track::Audio, .. }));
    watched.until("sound", recovered);
    watched.until("second with sound", |s| matches!(s, Event::Second { has_sound: true, .. }));
    let connections = watched.all().iter().filter(|event| event.plays()).count();
    assert_eq!(connections, 1);
}

/// A proxy for RTSP that replaces the client's UDP ports, so that no UDP arrives, as behind a firewall.
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
                            // The discard port and the next one.
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
fn without_udp_the_source_falls_back_to_tcp_and_keeps_it() {
    let server = RtspServer::start(BOTH);
    let url = format!("rtsp://127.0.0.1:{}/live", without_udp(server.port()));
    let mut watched = Watched::start(&url);
    watched.until("fallback", |event| matches!(event, Event::Incident(Incident::TcpFallback)));
    watched.until_classified();
    server.send("video", false);
    server.send("audio", false);
    watched.until("stall", |event| event.waits_for(Cause::Stalled));
    watched.until_classified();
    // Only the first connection waits for UDP.
    let fallbacks = watched.all().iter().filter(|s| matches!(s, Event::Incident(Incident::TcpFallback))).count();
    assert_eq!(fallbacks, 1);
}
