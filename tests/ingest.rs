//! Ingest against real files and real servers, all made at test time.
#![cfg(feature = "gst")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::http::{HlsMedia, HlsOrigin, HttpServer};
use common::rtmp::RtmpServer;
use common::rtsp::{Media, RtspServer};
use common::senders::Sender;
use common::{Fixtures, free_tcp_port};
use crossbeam_channel::{Receiver, bounded};
use touchline::clock::{Clock, SystemClock};
use touchline::error::Result;
use touchline::ingest::frame::Frame;
use touchline::ingest::gst::{GstOpener, GstOptions};
use touchline::ingest::uri::Pacing;
use touchline::ingest::{End, MEDIA_CHANNEL_CAPACITY, MediaItem, Open, Source, Track, Tracks};
use touchline::time::{WallSource, samples_to_nanos};

/// No single wait is longer; a test that needs more hangs.
const PATIENCE: Duration = Duration::from_secs(15);

const BOTH: Tracks = Tracks { video: true, audio: true };

fn open(uri: &str, options: GstOptions) -> Result<(Box<dyn Source>, Receiver<MediaItem>)> {
    let (to, from) = bounded(MEDIA_CHANNEL_CAPACITY);
    let source = GstOpener::new(options, Arc::new(SystemClock::new()))?.open(uri, to)?;
    Ok((source, from))
}

/// What a source brought.
#[derive(Default)]
struct Heard {
    tracks: Option<Tracks>,
    frames: Vec<Frame>,
    /// PTS, samples per channel, rate, channels of each chunk.
    chunks: Vec<(u64, u64, u32, u16)>,
    ended_tracks: Vec<Track>,
    end: Option<End>,
}

impl Heard {
    fn take(&mut self, item: MediaItem) {
        match item {
            MediaItem::Opened(tracks) => {
                assert!(
                    self.tracks.is_none() && self.frames.is_empty() && self.chunks.is_empty(),
                    "opened first, once"
                );
                self.tracks = Some(tracks);
            }
            MediaItem::Frame(frame) => self.frames.push(frame),
            MediaItem::Pcm(c) => self.chunks.push((c.pts.0, c.frames() as u64, c.rate, c.channels)),
            MediaItem::TrackEnded(track) => self.ended_tracks.push(track),
            MediaItem::Wall { .. } => {}
            MediaItem::Discontinuity(d) => panic!("one connection has no discontinuity: {d:?}"),
            MediaItem::Ended(end) => self.end = Some(end),
        }
    }

    fn samples(&self) -> u64 {
        self.chunks.iter().map(|c| c.1).sum()
    }

    /// PTS of each track only grow, and sound has no holes of more than `slack_ms`.
    fn assert_in_order(&self, slack_ms: u64) {
        for pair in self.frames.windows(2) {
            assert!(pair[0].pts < pair[1].pts, "{} then {}", pair[0].pts, pair[1].pts);
        }
        for pair in self.chunks.windows(2) {
            let end = pair[0].0 + samples_to_nanos(pair[0].1, pair[0].2);
            assert!(end.abs_diff(pair[1].0) < slack_ms * 1_000_000, "{:?} then {:?}", pair[0], pair[1]);
        }
    }
}

/// Everything up to the end.
fn all(uri: &str, options: GstOptions) -> Heard {
    let (_source, from) = match open(uri, options) {
        Ok(opened) => opened,
        Err(e) => panic!("{uri}: {e}"),
    };
    let mut heard = Heard::default();
    while heard.end.is_none() {
        heard.take(from.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{uri}: silence")));
    }
    assert!(from.recv_timeout(PATIENCE).is_err(), "the end is the last item");
    heard
}

/// Until there are `frames` pictures and `ms` of sound (each only if above 0); then stops and waits for the end.
fn some(uri: &str, options: GstOptions, frames: usize, ms: u64) -> Heard {
    let (mut source, from) = open(uri, options).unwrap_or_else(|e| panic!("{uri}: {e}"));
    let mut heard = Heard::default();
    let until = Instant::now() + PATIENCE;
    let enough = |h: &Heard| {
        h.frames.len() >= frames && h.chunks.first().map_or(0, |c| h.samples() * 1000 / u64::from(c.2)) >= ms
    };
    while !enough(&heard) {
        assert!(Instant::now() < until, "{uri}: {} pictures, {} samples", heard.frames.len(), heard.samples());
        heard.take(from.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{uri}: silence")));
        assert_eq!(heard.end, None, "{uri}");
    }
    source.stop();
    while heard.end.is_none() {
        heard.take(from.recv_timeout(PATIENCE).expect("a stopped source says so"));
    }
    assert_eq!(heard.end, Some(End::Finished));
    heard
}

/// How the source fails: cause and advice, or the text of the refusal.
fn failure(uri: &str, options: GstOptions) -> String {
    let (_source, from) = match open(uri, options) {
        Ok(opened) => opened,
        Err(e) => return e.to_string(),
    };
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "{uri} does not fail");
        match from.recv_timeout(PATIENCE) {
            Ok(MediaItem::Ended(End::Failed { cause, advice })) => return format!("{cause}; {advice}"),
            Ok(MediaItem::Ended(End::Finished)) => panic!("{uri} ended without failing"),
            Ok(_) => {}
            Err(e) => panic!("{uri}: {e}"),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

#[test]
fn every_container_and_codec_gives_all_its_pictures_and_samples() {
    let dir = Fixtures::new();
    let lavfi = |size: &str, rate: &str, hz: u32| {
        format!(
            "-f lavfi -i testsrc2=size={size}:rate={rate}:duration=2 \
             -f lavfi -i sine=frequency=440:sample_rate={hz}:duration=2"
        )
    };
    let h264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    // Name, size, rate, Hz, codecs, pictures, size out, samples a codec may add or lose at the borders. Lossless sound
    // is exact; coded sound has priming and padding that containers may or may not describe.
    let table: [(&str, &str, &str, u32, String, usize, (u32, u32), u64); 10] = [
        ("a.mp4", "320x180", "30000/1001", 44_100, format!("{h264} -c:a aac -ac 2"), 60, (320, 180), 2048),
        ("a.ts", "320x180", "25", 48_000, format!("{h264} -c:a aac"), 50, (320, 180), 3072),
        ("b.ts", "352x288", "25", 48_000, "-c:v mpeg2video -bf 2 -c:a libmp3lame".into(), 50, (352, 288), 3456),
        ("c.ts", "320x180", "50", 48_000, format!("{h264} -bf 2 -c:a ac3"), 100, (320, 180), 3072),
        (
            "a.mkv",
            "320x180",
            "25",
            48_000,
            "-c:v libx265 -preset ultrafast -x265-params log-level=none -c:a flac".into(),
            50,
            (320, 180),
            0,
        ),
        (
            "b.mkv",
            "322x242",
            "24",
            22_050,
            "-vf format=gbrp,crop=321:241:0:0:exact=1 -c:v ffv1 -pix_fmt bgr0 -c:a pcm_s16le".into(),
            48,
            (321, 241),
            0,
        ),
        ("a.mov", "180x320", "30", 44_100, format!("{h264} -c:a pcm_s16le -ac 2"), 60, (180, 320), 0),
        ("p.mp4", "720x1280", "25", 44_100, format!("{h264} -c:a libmp3lame"), 50, (203, 360), 3456),
        (
            "a.webm",
            "320x180",
            "25",
            48_000,
            "-c:v libvpx -deadline realtime -cpu-used 8 -b:v 500k -c:a libopus".into(),
            50,
            (320, 180),
            1300,
        ),
        (
            "b.webm",
            "320x180",
            "25",
            48_000,
            "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 500k -c:a libopus".into(),
            50,
            (320, 180),
            1300,
        ),
    ];
    for (name, size, rate, hz, codecs, pictures, shape, slack) in table {
        let path = dir.make(name, &format!("{} {codecs}", lavfi(size, rate, hz)));
        let heard = all(text(&path), GstOptions::default());
        assert_eq!(heard.end, Some(End::Finished), "{name}");
        assert_eq!(heard.tracks, Some(BOTH), "{name}");
        assert_eq!(heard.frames.len(), pictures, "{name}");
        assert!(
            heard.frames.iter().all(|f| (f.width, f.height) == shape),
            "{name}: {}×{}",
            heard.frames[0].width,
            heard.frames[0].height
        );
        assert!(heard.samples().abs_diff(2 * u64::from(hz)) <= slack, "{name}: {} samples", heard.samples());
        assert!(heard.chunks.iter().all(|c| c.2 == hz), "{name}");
        heard.assert_in_order(30);
        assert!(heard.frames[0].pts.0 < 150_000_000, "{name} begins at {}", heard.frames[0].pts);
        assert_eq!(heard.ended_tracks.len(), 2, "{name}");
    }
}

#[test]
fn rows_are_where_they_belong_at_odd_widths() {
    let dir = Fixtures::new();
    // Lossless RGB whose every pixel says where it is; 321 × 3 bytes are no multiple of 4.
    let path = dir.make(
        "ramp.mkv",
        "-f lavfi -i nullsrc=size=321x241:rate=5:duration=1,format=gbrp,geq=r=mod(X\\,256):g=mod(Y\\,256):b=mod(X+2*Y\\,256) \
         -c:v ffv1 -pix_fmt bgr0",
    );
    let heard = all(text(&path), GstOptions::default());
    assert_eq!(heard.frames.len(), 5);
    assert_eq!(heard.tracks, Some(Tracks { video: true, audio: false }));
    let frame = &heard.frames[4];
    assert_eq!((frame.width, frame.height), (321, 241));
    for y in 0..241usize {
        for x in 0..321usize {
            let at = (y * 321 + x) * 3;
            let expected = [x % 256, y % 256, (x + 2 * y) % 256].map(|v| v as u8);
            assert_eq!(frame.data[at..at + 3], expected, "row {y}, column {x}");
        }
    }
}

#[test]
fn pictures_shrink_never_grow_and_keep_their_shape() {
    let dir = Fixtures::new();
    let anamorphic =
        dir.make("sd.ts", "-f lavfi -i testsrc2=size=720x576:rate=25:duration=0.4 -vf setdar=16/9 -c:v mpeg2video");
    let interlaced = dir.make(
        "i.ts",
        "-f lavfi -i testsrc2=size=720x576:rate=50:duration=0.8 -vf tinterlace=interleave_top,setdar=4/3 \
         -c:v mpeg2video -flags +ilme+ildct",
    );
    for (path, height, shape, pictures) in
        [(&anamorphic, 288, (512, 288), 10), (&anamorphic, 1080, (1024, 576), 10), (&interlaced, 360, (480, 360), 20)]
    {
        let heard = all(text(path), GstOptions { frame_height: height, ..GstOptions::default() });
        let sizes: Vec<_> = heard.frames.iter().map(|f| (f.width, f.height)).collect();
        assert_eq!(sizes, vec![shape; pictures], "{}", path.display());
    }
}

#[test]
fn one_track_is_enough() {
    let dir = Fixtures::new();
    let silent =
        dir.make("v.mp4", "-f lavfi -i testsrc2=size=320x180:rate=25:duration=1 -c:v libx264 -preset ultrafast");
    let heard = all(text(&silent), GstOptions::default());
    assert_eq!((heard.tracks, heard.frames.len()), (Some(Tracks { video: true, audio: false }), 25));
    assert_eq!(heard.ended_tracks, [Track::Video]);
    for (name, codec) in [("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.wav", "pcm_s16le")] {
        let sound = dir.make(name, &format!("-f lavfi -i sine=sample_rate=44100:duration=1 -ac 2 -c:a {codec}"));
        let heard = all(text(&sound), GstOptions::default());
        assert_eq!(heard.tracks, Some(Tracks { video: false, audio: true }), "{name}");
        assert!(heard.samples().abs_diff(44_100) <= 3456, "{name}: {}", heard.samples());
        assert_eq!(heard.chunks[0].3, 2, "{name}");
    }

    let both = dir.clip("both.mp4", 1);
    let heard = all(text(&both), GstOptions { want_audio: false, ..GstOptions::default() });
    assert_eq!((heard.frames.len(), heard.samples()), (30, 0));
    let heard = all(text(&both), GstOptions { want_video: false, ..GstOptions::default() });
    assert_eq!((heard.frames.len(), heard.tracks), (0, Some(Tracks { video: false, audio: true })));
    let said = failure(text(&silent), GstOptions { want_video: false, ..GstOptions::default() });
    assert!(said.starts_with("no audio track"), "{said}");
}

#[test]
fn the_test_source_is_exact() {
    let started = Instant::now();
    let heard = all("testsrc://?seconds=3&width=321&height=241&fps=29.97", GstOptions::default());
    assert_eq!((heard.frames.len(), heard.samples()), (90, 144_000));
    assert_eq!((heard.frames[0].width, heard.frames[0].height), (321, 241));
    assert_ne!(heard.frames[0].data[..], heard.frames[89].data[..], "the pattern moves");
    heard.assert_in_order(1);
    assert!(started.elapsed() < Duration::from_secs(3), "a recording is not paced");
    let heard = all("testsrc://?seconds=1&video=0", GstOptions::default());
    assert_eq!(heard.tracks, Some(Tracks { video: false, audio: true }));
    let started = Instant::now();
    all("testsrc://?seconds=1&live=1", GstOptions::default());
    assert!(started.elapsed() > Duration::from_millis(900));
}

#[test]
fn a_slow_consumer_loses_nothing_of_a_file_and_realtime_paces_it() {
    let dir = Fixtures::new();
    let path = dir.clip("slow.mp4", 2);
    let reference = all(text(&path), GstOptions::default());
    let (_source, from) = open(text(&path), GstOptions::default()).unwrap();
    let mut heard = Heard::default();
    while heard.end.is_none() {
        std::thread::sleep(Duration::from_millis(if heard.frames.len() < 40 { 10 } else { 0 }));
        heard.take(from.recv_timeout(PATIENCE).expect("more to come"));
    }
    assert_eq!(heard.frames.len(), 60);
    assert_eq!(heard.chunks, reference.chunks);
    for (a, b) in heard.frames.iter().zip(&reference.frames) {
        assert_eq!((a.pts, &a.data[..]), (b.pts, &b.data[..]), "a recording decodes the same every time");
    }

    let started = Instant::now();
    let paced = all(text(&path), GstOptions { pacing: Pacing::Realtime, ..GstOptions::default() });
    assert_eq!(paced.frames.len(), 60);
    assert!(started.elapsed() > Duration::from_millis(1800), "{:?}", started.elapsed());
}

#[test]
fn dropping_a_source_nobody_reads_returns() {
    let dir = Fixtures::new();
    let path = dir.clip("x.mp4", 4);
    let (source, from) = open(text(&path), GstOptions::default()).unwrap();
    while from.len() < MEDIA_CHANNEL_CAPACITY {
        std::thread::sleep(Duration::from_millis(10));
    }
    let started = Instant::now();
    drop(source);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    drop(from);
    // The other way round: the reader goes first.
    let (source, from) = open(text(&path), GstOptions::default()).unwrap();
    from.recv_timeout(PATIENCE).unwrap();
    drop(from);
    drop(source);
}

#[test]
fn rtsp_over_tcp_and_udp() {
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    for transport in ["tcp", "udp"] {
        let options = GstOptions { rtsp_transport: transport.into(), ..GstOptions::default() };
        let heard = some(&server.url(), options, 50, 2000);
        assert_eq!(heard.tracks, Some(BOTH), "{transport}");
        heard.assert_in_order(200);
        assert_eq!((heard.frames[0].width, heard.frames[0].height), (320, 240));
    }
}

#[test]
fn rtsp_sender_reports_tie_pts_to_wall_time() {
    let server = RtspServer::start(Media::Test { video: true, audio: true });
    let (_source, from) = open(&server.url(), GstOptions::default()).unwrap();
    let until = Instant::now() + PATIENCE;
    let mut newest = 0;
    loop {
        assert!(Instant::now() < until, "no sender report was used");
        match from.recv_timeout(PATIENCE).unwrap() {
            MediaItem::Frame(frame) => newest = frame.pts.0,
            MediaItem::Wall { pts, wall } => {
                assert_eq!(wall.source, WallSource::RtcpSenderReport);
                // The server is this machine: what is presented at `pts` was made within the last seconds.
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
fn rtsp_with_one_track_a_recording_and_a_password() {
    let server = RtspServer::start(Media::Test { video: true, audio: false });
    let heard = some(&server.url(), GstOptions::default(), 10, 0);
    assert_eq!(heard.tracks, Some(Tracks { video: true, audio: false }));

    let dir = Fixtures::new();
    let server = RtspServer::start(Media::File { path: dir.clip("r.mp4", 1), plays: 2 });
    let heard = all(&server.url(), GstOptions { rtsp_transport: "tcp".into(), ..GstOptions::default() });
    assert_eq!((heard.end, heard.frames.len()), (Some(End::Finished), 60));

    let server = RtspServer::start_with_password(Media::Test { video: true, audio: true }, "ann", "geheim-rtsp");
    let with = |login: &str| server.url().replace("rtsp://", &format!("rtsp://{login}@"));
    some(&with("ann:geheim-rtsp"), GstOptions::default(), 5, 0);
    let said = failure(&with("ann:falsch-rtsp"), GstOptions::default());
    assert!(said.starts_with("not authorized (401)") && !said.contains("falsch"), "{said}");
}

#[test]
fn live_hls_is_handed_over_at_its_own_pace() {
    let origin = HlsOrigin::start(HlsMedia::Test);
    let started = Instant::now();
    let heard = some(&origin.url(), GstOptions::default(), 100, 4000);
    assert_eq!(heard.tracks, Some(BOTH));
    heard.assert_in_order(60);
    assert!(started.elapsed() > Duration::from_millis(2500), "paced: {:?}", started.elapsed());
    let spans: Vec<u64> = heard.frames.windows(26).map(|w| w[25].arrived_ns - w[0].arrived_ns).collect();
    // Whole segments in a burst would put a second of pictures into milliseconds; some catching up at the start is fine.
    assert!(spans[spans.len() / 2..].iter().all(|s| *s > 500_000_000), "bursts: {spans:?}");
}

#[test]
fn hls_on_demand_ends() {
    let dir = Fixtures::new();
    let clip = dir.clip("vod.mp4", 3);
    dir.make("vod.m3u8", &format!("-i {} -c copy -f hls -hls_time 1 -hls_list_size 0", text(&clip)));
    let server = HttpServer::start(dir.path());
    let options = GstOptions { pacing: Pacing::Unpaced, ..GstOptions::default() };
    let heard = all(&server.url("vod.m3u8"), options);
    assert_eq!((heard.end.as_ref(), heard.frames.len()), (Some(&End::Finished), 90));
    heard.assert_in_order(60);
}

#[test]
fn srt_udp_and_rtmp() {
    let srt = Sender::srt();
    let heard = some(srt.url(), GstOptions::default(), 25, 1000);
    assert_eq!(heard.tracks, Some(BOTH));
    heard.assert_in_order(100);
    drop(srt);

    let udp = Sender::udp();
    let heard = some(udp.url(), GstOptions::default(), 25, 1000);
    assert_eq!(heard.tracks, Some(BOTH));
    heard.assert_in_order(100);
    drop(udp);

    let rtmp = RtmpServer::start();
    let heard = some(&rtmp.url(), GstOptions::default(), 25, 1000);
    assert_eq!(heard.tracks, Some(BOTH));
    heard.assert_in_order(100);
}

#[test]
fn recordings_on_a_web_server() {
    let dir = Fixtures::new();
    dir.clip("a b.mp4", 1);
    let server = HttpServer::start(dir.path());
    let heard = all(&server.url("a%20b.mp4"), GstOptions::default());
    assert_eq!((heard.end, heard.frames.len()), (Some(End::Finished), 30));
}

#[test]
fn failures_name_the_cause_and_no_secret() {
    let dir = Fixtures::new();
    let prose = dir.write("prose.mp4", "It was a dark and stormy night. ".repeat(200).as_bytes());
    let noise: Vec<u8> = (0..60_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let noise = dir.write("noise.mkv", &noise);
    let subtitles = dir.write("only.srt", b"1\n00:00:01,000 --> 00:00:02,000\nHello\n\n");
    let server = HttpServer::start(dir.path());
    let (closed, quick) =
        (free_tcp_port(), GstOptions { connect_timeout: Duration::from_secs(2), ..GstOptions::default() });
    let login = |url: String| url.replace("://", "://ann:geheim-pass@") + "?key=geheim-key-1";
    for (uri, expected) in [
        (text(&prose).to_owned(), "not a media file"),
        (text(&noise).to_owned(), "not a media file"),
        (text(&subtitles).to_owned(), "no"),
        (text(&dir.path().join("none.mp4")).to_owned(), "no such file"),
        (text(dir.path()).to_owned(), "is a folder"),
        (text(&dir.write("empty.ts", b"")).to_owned(), "is empty"),
        (server.url("none.m3u8"), "not found (404)"),
        (server.url("none.mp4"), "not found (404)"),
        (server.url("private/prose.mp4"), "not authorized (401)"),
        (login(format!("http://127.0.0.1:{closed}/a.m3u8")), "connection refused"),
        (login(format!("rtsp://127.0.0.1:{closed}/a")), "connection refused"),
        (login(format!("rtmp://127.0.0.1:{closed}/a/b")), "connection refused"),
        (login("rtsp://host.invalid/a".into()), "host not found"),
        (login("http://host.invalid/a.mp4".into()), "host not found"),
        (format!("udp://127.0.0.1:{closed}"), "no data within 2 s"),
        (format!("srt://127.0.0.1:{closed}?passphrase=geheim-srt-1"), "no data within 2 s"),
        (login("gopher://h/a".into()), "unknown scheme"),
    ] {
        let said = failure(&uri, quick.clone());
        eprintln!("{:<60} {said}", touchline::redact::uri(&uri));
        assert!(said.contains(expected), "{uri}: {said}");
        assert!(!said.contains("geheim") && !said.contains('\n'), "{uri}: {said}");
    }
}

#[test]
fn a_users_pipeline_takes_the_place_of_the_built_in_one() {
    let dir = Fixtures::new();
    let path = dir.clip("o.mp4", 1);
    let with = |pipeline: &str| GstOptions { pipeline: Some(pipeline.into()), ..GstOptions::default() };
    let good = "# pictures only, small\nuridecodebin uri={uri} name=in in. ! videoconvert ! videoscale\n\
                ! video/x-raw,format=RGB,width=64,height=48 ! appsink name=video";
    let heard = all(text(&path), with(good));
    assert_eq!((heard.frames.len(), heard.frames[0].width), (30, 64));
    for (bad, expected) in [
        ("uridecodebin uri={uri} ! fakesink", "no appsink"),
        ("uridecodebin uri={uri} ! videoconvert ! video/x-raw,format=NV12 ! appsink name=video", "not RGB"),
        ("uridecodebin uri={address} ! appsink name=video", "unknown placeholder {address}"),
        ("nosuchelement ! appsink name=video", "element nosuchelement is missing"),
        ("uridecodebin uri={uri} ! ! appsink name=video", "pipeline:"),
        ("appsink name=video", "pipeline:"),
        ("videotestsrc num-buffers=1 ! fakesink name=video", "must be an appsink"),
    ] {
        let said = failure(text(&path), with(bad));
        assert!(said.contains(expected), "{bad}: {said}");
    }
}
