//! RTSP, HLS, HTTP, SRT, UDP and RTMP servers on this machine.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, End, MEDIA_CHANNEL_CAPACITY, MediaItem, Tracks};
use touchline_core::time::WallSource;
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::supervise::{Policy, SourceObserver, SourceState, Supervisor};
use touchline_media::uri::Pacing;

use super::{BOTH, LIMIT, all, failure, open, some, text};
use crate::common::Fixtures;
use crate::common::http::{HlsMedia, HlsOrigin, HttpServer};
use crate::common::rtmp::RtmpServer;
use crate::common::rtsp::{Media, RtspServer};
use crate::common::senders::Sender;

#[test]
fn rtsp_plays_over_tcp_and_udp() {
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    for transport in ["tcp", "udp"] {
        let options = GstOptions { rtsp_transport: transport.into(), ..GstOptions::default() };
        let received = some(&server.url(), options, 50, 2000);
        assert_eq!(received.tracks, Some(BOTH), "{transport}");
        received.assert_in_order(200);
        assert_eq!((received.frames[0].width, received.frames[0].height), (320, 240));
    }
}

#[test]
fn rtsp_sender_reports_give_wall_time() {
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    let (_source, from) = open(&server.url(), GstOptions::default()).unwrap();
    let until = Instant::now() + LIMIT;
    let mut newest = 0;
    loop {
        assert!(Instant::now() < until, "no wall time from a sender report");
        match from.recv_timeout(LIMIT).unwrap() {
            MediaItem::Frame(frame) => newest = frame.pts.0,
            MediaItem::Wall { pts, wall } => {
                assert_eq!(wall.source, WallSource::RtcpSenderReport);
                // The server is this machine, so the picture at `pts` was made within the last seconds.
                let now = SystemClock::new().unix_ns();
                assert!((now - wall.unix_ns).abs() < 5_000_000_000, "{} against {now}", wall.unix_ns);
                assert!(pts.0.abs_diff(newest) < 5_000_000_000, "{pts} against {newest}");
                break;
            }
            _ => {}
        }
    }
}

#[test]
fn rtsp_plays_single_tracks_recordings_and_with_a_login() {
    let server = RtspServer::start(Media::Test { video: true, audio: false });
    let received = some(&server.url(), GstOptions::default(), 10, 0);
    assert_eq!(received.tracks, Some(Tracks { video: true, audio: false }));

    let dir = Fixtures::new();
    let server = RtspServer::start(Media::File { path: dir.clip("r.mp4", 1), plays: 2 });
    let received = all(&server.url(), GstOptions { rtsp_transport: "tcp".into(), ..GstOptions::default() });
    assert_eq!((received.end, received.frames.len()), (Some(End::Finished), 60));

    let server = RtspServer::start_with_password(Media::Test { video: true, audio: true }, "ann", "geheim-rtsp");
    let with = |login: &str| server.url().replace("rtsp://", &format!("rtsp://{login}@"));
    some(&with("ann:geheim-rtsp"), GstOptions::default(), 5, 0);
    let message = failure(&with("ann:falsch-rtsp"), GstOptions::default());
    assert!(message.starts_with("not authorized (401)") && !message.contains("falsch"), "{message}");
}

#[test]
fn live_hls_is_paced() {
    let origin = HlsOrigin::start(HlsMedia::Test);
    let started = Instant::now();
    let received = some(&origin.url(), GstOptions::default(), 100, 4000);
    assert_eq!(received.tracks, Some(BOTH));
    received.assert_in_order(60);
    assert!(started.elapsed() > Duration::from_millis(2500), "paced: {:?}", started.elapsed());
    let spans: Vec<u64> = received.frames.windows(26).map(|w| w[25].arrived_ns - w[0].arrived_ns).collect();
    // Without pacing, the second of pictures in a segment would arrive within milliseconds. The first half may catch up.
    assert!(spans[spans.len() / 2..].iter().all(|s| *s > 500_000_000), "bursts: {spans:?}");
}

#[test]
fn hls_on_demand_ends() {
    let dir = Fixtures::new();
    let clip = dir.clip("vod.mp4", 3);
    dir.playlist("vod.m3u8", &clip);
    let server = HttpServer::start(dir.path());
    let options = GstOptions { pacing: Pacing::Unpaced, ..GstOptions::default() };
    let received = all(&server.url("vod.m3u8"), options);
    assert_eq!((received.end.as_ref(), received.frames.len()), (Some(&End::Finished), 90));
    received.assert_in_order(60);
    let login = server.url("private/vod.m3u8").replace("://", "://ann:geheim-hls@");
    let received = all(&login, GstOptions { pacing: Pacing::Unpaced, ..GstOptions::default() });
    assert_eq!((received.end, received.frames.len()), (Some(End::Finished), 90));
}

/// The whole recording may be loaded before GStreamer has opened an output.
#[test]
fn hls_recordings_of_one_segment_play() {
    let dir = Fixtures::new();
    let clip = dir.clip("short.mp4", 2);
    let server = HttpServer::start(dir.path());
    for (name, tracks, options) in [
        ("both", BOTH, ""),
        ("pictures", Tracks { video: true, audio: false }, "-an"),
        ("sound", Tracks { video: false, audio: true }, "-vn"),
        ("fmp4", BOTH, "-hls_segment_type fmp4 -hls_fmp4_init_filename fmp4-init.mp4"),
    ] {
        let playlist = format!("{name}.m3u8");
        dir.make(&playlist, &format!("-i {} -c copy {options} -f hls -hls_time 9 -hls_list_size 0", text(&clip)));
        let began = Instant::now();
        let received = all(&server.url(&playlist), GstOptions { pacing: Pacing::Unpaced, ..GstOptions::default() });
        println!("{name}: {:?}", began.elapsed());
        assert_eq!((received.end.as_ref(), received.tracks), (Some(&End::Finished), Some(tracks)), "{name}");
        assert_eq!(received.frames.len(), if tracks.video { 60 } else { 0 }, "{name}");
    }
}

#[test]
fn hls_variants_and_separate_sound_play_through() {
    let dir = Fixtures::new();
    let clip = dir.clip("abr.mp4", 4);
    // Two sizes of picture and one sound rendition in separate playlists, as most broadcasters have.
    crate::common::ffmpeg(
        &format!(
            "-i {} -map 0:v -map 0:v -map 0:a -c:v libx264 -preset ultrafast -g 30 -s:v:0 160x90 -b:v:0 100k \
             -s:v:1 320x180 -b:v:1 400k -c:a aac -f hls -hls_time 1 -hls_list_size 0 -master_pl_name master.m3u8 \
             -hls_segment_filename {}/v%v_%d.ts -var_stream_map v:0,agroup:s~v:1,agroup:s~a:0,agroup:s",
            text(&clip),
            text(dir.path())
        ),
        &dir.path().join("v%v.m3u8"),
    );
    let server = HttpServer::start(dir.path());
    let received = all(&server.url("master.m3u8"), GstOptions { pacing: Pacing::Unpaced, ..GstOptions::default() });
    assert_eq!((received.end.as_ref(), received.frames.len()), (Some(&End::Finished), 120));
    assert_eq!(received.tracks, Some(BOTH));
    assert!(received.samples().abs_diff(4 * 44_100) < 4096, "{} samples", received.samples());
    // The source plays one variant: a change to the other would be a discontinuity, which `take` refuses.
    received.assert_in_order(60);
}

#[test]
fn the_source_reconnects_to_a_server_that_returns() {
    #[derive(Default)]
    struct States(Mutex<Vec<SourceState>>);
    impl SourceObserver for States {
        fn state(&self, state: SourceState) {
            self.0.lock().push(state);
        }

        fn incident(&self, _: Incident) {}
    }
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    let (port, url) = (server.port(), server.url());
    let clock = Arc::new(SystemClock::new());
    let options = GstOptions { rtsp_transport: "tcp".into(), ..GstOptions::default() };
    let states = Arc::new(States::default());
    let supervisor = Supervisor {
        inner: Arc::new(GstOpener::new(options.clone(), clock.clone()).unwrap()),
        policy: Policy { stall: Duration::from_secs(3), backoff_max: Duration::from_secs(1), ..Policy::default() },
        clock,
        observer: states.clone(),
        counters: options.counters.clone(),
        id: "s".into(),
    };
    let (to, from) = bounded(MEDIA_CHANNEL_CAPACITY);
    let mut source = supervisor.open(&url, to).unwrap();
    let until = Instant::now() + 4 * LIMIT;
    let is_reconnect = |from: &Receiver<MediaItem>| loop {
        assert!(Instant::now() < until, "{:?}", states.0.lock());
        match from.recv_timeout(LIMIT) {
            Ok(MediaItem::Frame(_)) => return false,
            Ok(MediaItem::Discontinuity(Discontinuity::Reconnect)) => return true,
            Ok(MediaItem::Ended(end)) => panic!("{end:?}"),
            Ok(_) => {}
            Err(e) => panic!("{e}: {:?}", states.0.lock()),
        }
    };
    assert!(!is_reconnect(&from));
    drop(server);
    let server = RtspServer::start_on(port, Media::Test { video: true, audio: true });
    while !is_reconnect(&from) {}
    assert!(!is_reconnect(&from), "pictures follow the discontinuity");
    source.stop();
    assert!(from.iter().any(|i| matches!(i, MediaItem::Ended(End::Finished))));
    assert!(options.counters.reconnects.load(Ordering::Relaxed) >= 1);
    drop(server);
    let states = states.0.lock();
    assert!(states.iter().any(|s| matches!(s, SourceState::Waiting { .. })), "{states:?}");
    assert_eq!(states.last(), Some(&SourceState::Ended));
}

#[test]
fn a_source_ends_when_its_srt_sender_does() {
    let srt = Sender::srt();
    let (_source, from) = open(srt.url(), GstOptions::default()).unwrap();
    assert!(matches!(from.recv_timeout(LIMIT), Ok(MediaItem::Opened(_))));
    drop(srt);
    let until = Instant::now() + LIMIT;
    while !matches!(from.recv_timeout(LIMIT).expect("an end"), MediaItem::Ended(_)) {
        assert!(Instant::now() < until, "still playing");
    }
}

#[test]
fn srt_udp_and_rtmp_play() {
    let srt = Sender::srt();
    let received = some(srt.url(), GstOptions::default(), 25, 1000);
    assert_eq!(received.tracks, Some(BOTH));
    received.assert_in_order(100);
    drop(srt);

    let udp = Sender::udp();
    let received = some(udp.url(), GstOptions::default(), 25, 1000);
    assert_eq!(received.tracks, Some(BOTH));
    received.assert_in_order(100);
    drop(udp);

    let rtmp = RtmpServer::start();
    let received = some(&rtmp.url(), GstOptions::default(), 25, 1000);
    assert_eq!(received.tracks, Some(BOTH));
    received.assert_in_order(100);
}

#[test]
fn recordings_on_a_web_server_play() {
    let dir = Fixtures::new();
    dir.clip("a b.mp4", 1);
    let server = HttpServer::start(dir.path());
    let received = all(&server.url("a%20b.mp4"), GstOptions::default());
    assert_eq!((received.end, received.frames.len()), (Some(End::Finished), 30));
    let login = server.url("private/a%20b.mp4").replace("://", "://ann:geheim-http@");
    let received = all(&login, GstOptions::default());
    assert_eq!((received.end, received.frames.len()), (Some(End::Finished), 30));
}
