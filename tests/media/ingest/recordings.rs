//! Files and the built-in test source.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use touchline_core::cause::Cause;
use touchline_core::clock::ManualClock;
use touchline_core::error::Error;
use touchline_core::frame::Frame;
use touchline_core::item::{End, MediaItem, Track, Tracks};
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::outlet::DropReason;
use touchline_media::uri::Pacing;

use super::{BOTH, LIMIT, Received, all, failure, open, text};
use crate::common::Fixtures;

#[test]
fn every_container_and_codec_yields_all_pictures_and_samples() {
    let dir = Fixtures::new();
    let lavfi = |size: &str, rate: &str, hz: u32| {
        format!(
            "-f lavfi -i testsrc2=size={size}:rate={rate}:duration=2 \
             -f lavfi -i sine=frequency=440:sample_rate={hz}:duration=2"
        )
    };
    let h264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    // Name, size, rate, Hz, codecs, pictures, output size, and the tolerance in samples. Lossless sound is exact. Coded sound
    // has priming and padding that containers may or may not describe.
    type Row = (&'static str, &'static str, &'static str, u32, String, usize, (u32, u32), u64);
    let table: [Row; 10] = [
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
        let received = all(text(&path), GstOptions::default());
        assert_eq!(received.end, Some(End::Finished), "{name}");
        assert_eq!(received.tracks, Some(BOTH), "{name}");
        assert_eq!(received.frames.len(), pictures, "{name}");
        assert!(
            received.frames.iter().all(|f| (f.width, f.height) == shape),
            "{name}: {}×{}",
            received.frames[0].width,
            received.frames[0].height
        );
        assert!(received.samples().abs_diff(2 * u64::from(hz)) <= slack, "{name}: {} samples", received.samples());
        assert!(received.chunks.iter().all(|c| c.2 == hz), "{name}");
        received.assert_in_order(30);
        assert!(received.frames[0].pts.0 < 150_000_000, "{name} begins at {}", received.frames[0].pts);
        assert_eq!(received.ended_tracks.len(), 2, "{name}");
    }
}

#[test]
fn rows_have_no_padding_at_odd_widths() {
    let dir = Fixtures::new();
    // Lossless RGB in which every pixel encodes its position. A row of 321 × 3 bytes is not a multiple of 4.
    let path = dir.make(
        "ramp.mkv",
        "-f lavfi -i nullsrc=size=321x241:rate=5:duration=1,format=gbrp,geq=r=mod(X\\,256):g=mod(Y\\,256):b=mod(X+2*Y\\,256) \
         -c:v ffv1 -pix_fmt bgr0",
    );
    let received = all(text(&path), GstOptions::default());
    assert_eq!(received.frames.len(), 5);
    assert_eq!(received.tracks, Some(Tracks { video: true, audio: false }));
    let frame = &received.frames[4];
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
fn pictures_are_never_enlarged_and_keep_their_aspect_ratio() {
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
        let received = all(text(path), GstOptions { frame_height: height, ..GstOptions::default() });
        let sizes: Vec<_> = received.frames.iter().map(|f| (f.width, f.height)).collect();
        assert_eq!(sizes, vec![shape; pictures], "{}", path.display());
    }
}

#[test]
fn recordings_with_one_track_play() {
    let dir = Fixtures::new();
    let silent =
        dir.make("v.mp4", "-f lavfi -i testsrc2=size=320x180:rate=25:duration=1 -c:v libx264 -preset ultrafast");
    let received = all(text(&silent), GstOptions::default());
    assert_eq!((received.tracks, received.frames.len()), (Some(Tracks { video: true, audio: false }), 25));
    assert_eq!(received.ended_tracks, [Track::Video]);
    for (name, codec) in [("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.wav", "pcm_s16le")] {
        let sound = dir.make(name, &format!("-f lavfi -i sine=sample_rate=44100:duration=1 -ac 2 -c:a {codec}"));
        let received = all(text(&sound), GstOptions::default());
        assert_eq!(received.tracks, Some(Tracks { video: false, audio: true }), "{name}");
        assert!(received.samples().abs_diff(44_100) <= 3456, "{name}: {}", received.samples());
        assert_eq!(received.chunks[0].3, 2, "{name}");
    }

    let both = dir.clip("both.mp4", 1);
    let received = all(text(&both), GstOptions { want_audio: false, ..GstOptions::default() });
    assert_eq!((received.frames.len(), received.samples()), (30, 0));
    let received = all(text(&both), GstOptions { want_video: false, ..GstOptions::default() });
    assert_eq!((received.frames.len(), received.tracks), (0, Some(Tracks { video: false, audio: true })));
    let message = failure(text(&silent), GstOptions { want_video: false, ..GstOptions::default() });
    assert!(message.starts_with("no audio track"), "{message}");
}

#[test]
fn the_test_source_has_exact_lengths_and_sizes() {
    let received = all("testsrc://?seconds=3&width=321&height=241&fps=29.97", GstOptions::default());
    assert_eq!((received.frames.len(), received.samples()), (90, 144_000));
    assert_eq!((received.frames[0].width, received.frames[0].height), (321, 241));
    assert_ne!(received.frames[0].data[..], received.frames[89].data[..], "the pattern moves");
    received.assert_in_order(1);
    let started = Instant::now();
    all("testsrc://?seconds=120&width=64&height=48&fps=5&audio=0", GstOptions::default());
    assert!(started.elapsed() < Duration::from_secs(100), "a recording is not paced");
    let received = all("testsrc://?seconds=1&video=0", GstOptions::default());
    assert_eq!(received.tracks, Some(Tracks { video: false, audio: true }));
    let started = Instant::now();
    all("testsrc://?seconds=1&live=1", GstOptions::default());
    assert!(started.elapsed() > Duration::from_millis(900));
}

#[test]
fn a_slow_consumer_loses_nothing_and_realtime_paces_a_recording() {
    let dir = Fixtures::new();
    let path = dir.clip("slow.mp4", 2);
    let reference = all(text(&path), GstOptions::default());
    let (_source, from) = open(text(&path), GstOptions::default()).unwrap();
    let mut received = Received::default();
    while received.end.is_none() {
        std::thread::sleep(Duration::from_millis(if received.frames.len() < 40 { 10 } else { 0 }));
        received.take(from.recv_timeout(LIMIT).expect("the recording has not ended"));
    }
    assert_eq!(received.frames.len(), 60);
    assert_eq!(received.chunks, reference.chunks);
    for (a, b) in received.frames.iter().zip(&reference.frames) {
        assert_eq!((a.pts, &a.data[..]), (b.pts, &b.data[..]), "a recording decodes the same every time");
    }

    let started = Instant::now();
    let paced = all(text(&path), GstOptions { pacing: Pacing::Realtime, ..GstOptions::default() });
    assert_eq!(paced.frames.len(), 60);
    assert!(started.elapsed() > Duration::from_millis(1800), "{:?}", started.elapsed());
}

#[test]
fn the_tracks_of_a_recording_stay_together() {
    let dir = Fixtures::new();
    // A long recording of small pictures: the demuxer's queues could hold all of it.
    let path = dir.clip("long.mp4", 12);
    let (_source, from) = open(text(&path), GstOptions::default()).unwrap();
    let (mut video_ns, mut audio_ns, mut ended) = (0u64, 0u64, false);
    for item in from.iter() {
        match item {
            MediaItem::Frame(frame) => video_ns = frame.pts.0,
            MediaItem::Pcm(chunk) => audio_ns = chunk.pts.0,
            MediaItem::TrackEnded(_) => ended = true,
            _ => {}
        }
        // Two seconds, plus the items that were in the channel when the leading track was stopped.
        assert!(ended || video_ns.abs_diff(audio_ns) < 3_200_000_000, "pictures {video_ns}, sound {audio_ns}");
    }
    assert!(ended && video_ns > 11_900_000_000);
    // Sound that starts five seconds late loses nothing, and does not block the pictures.
    let path = dir.make(
        "late.mkv",
        "-f lavfi -i testsrc2=size=320x180:rate=25:duration=8 -itsoffset 5 -f lavfi -i sine=duration=3 \
         -c:v libx264 -preset ultrafast -c:a flac",
    );
    let received = all(text(&path), GstOptions::default());
    assert_eq!((received.frames.len(), received.samples()), (200, 3 * 44_100));
    assert!(received.chunks[0].0.abs_diff(5_000_000_000) < 50_000_000, "sound begins at {}", received.chunks[0].0);
}

/// The mean difference of the values of two pictures.
fn difference(a: &Frame, b: &Frame) -> f64 {
    assert_eq!((a.width, a.height), (b.width, b.height));
    let sum: u64 = a.data.iter().zip(b.data.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.data.len() as f64
}

fn assert_same(a: &Received, b: &Received) {
    assert_eq!(a.chunks, b.chunks);
    assert_eq!(a.frames.len(), b.frames.len());
    for (a, b) in a.frames.iter().zip(&b.frames) {
        assert_eq!((a.pts, a.width, a.height), (b.pts, b.width, b.height));
        assert_eq!(a.data[..], b.data[..], "the picture at {}", a.pts);
    }
}

#[test]
fn a_recording_may_change_its_format() {
    let dir = Fixtures::new();
    let part = |name: &str, size: &str, channels: u32, rate: u32| {
        let path = dir.make(
            name,
            &format!(
                "-f lavfi -i testsrc2=size={size}:rate=25:duration=3 -f lavfi -i sine=duration=3 \
                 -c:v mpeg2video -b:v 1M -c:a ac3 -ac {channels} -ar {rate}"
            ),
        );
        std::fs::read(path).unwrap()
    };
    let parts = [part("1.ts", "320x240", 2, 48_000), part("2.ts", "640x360", 6, 44_100)].concat();
    let path = dir.write("both.ts", &parts);
    let (once, again) = (all(text(&path), GstOptions::default()), all(text(&path), GstOptions::default()));
    assert_eq!(once.end, Some(End::Finished));
    let sizes = |width: u32| once.frames.iter().filter(|f| f.width == width).count();
    assert_eq!((sizes(320), sizes(640)), (75, 75));
    assert_eq!(once.chunks.last().map(|c| (c.2, c.3)), Some((44_100, 6)));
    assert_same(&once, &again);
}

#[test]
fn damaged_recordings_decode_the_same_every_time() {
    let dir = Fixtures::new();
    let clip = dir.make(
        "whole.ts",
        "-f lavfi -i testsrc2=size=320x240:rate=25:duration=4 -f lavfi -i sine=duration=4 \
         -c:v libx264 -preset ultrafast -g 25 -c:a aac",
    );
    let whole = std::fs::read(clip).unwrap();
    // One recording has a flipped bit in every 30 011th byte outside of packet headers; the other misses every 400th packet.
    let mut corrupt = whole.clone();
    for at in (20_000..corrupt.len()).step_by(30_011).filter(|at| at % 188 > 8) {
        corrupt[at] ^= 0x10;
    }
    let lossy: Vec<u8> =
        whole.chunks(188).enumerate().filter(|(i, _)| i % 400 != 399).flat_map(|(_, p)| p).copied().collect();
    for (name, bytes) in [("corrupt.ts", corrupt), ("lossy.ts", lossy)] {
        let path = dir.write(name, &bytes);
        let options = GstOptions::default();
        let once = all(text(&path), options.clone());
        assert_eq!(once.end, Some(End::Finished), "{name}");
        assert!(once.frames.len() >= 4 && !once.chunks.is_empty(), "{name}: {} pictures", once.frames.len());
        assert!(options.counters.damage() > 0, "{name}: damage is counted");
        assert_same(&once, &all(text(&path), GstOptions::default()));
    }
}

#[test]
fn sound_plays_when_every_key_frame_is_damaged() {
    let dir = Fixtures::new();
    let clip = dir.make(
        "whole.ts",
        "-f lavfi -i testsrc2=size=320x240:rate=25:duration=4 -f lavfi -i sine=duration=4 \
         -c:v libx264 -preset ultrafast -g 25 -c:a aac",
    );
    // Every 37th packet of the pictures is missing. A key frame has about 50.
    let mut pictures = 0;
    let mut is_kept = |packet: &[u8]| {
        let is_picture = packet[1] & 0x1f == 1 && packet[2] == 0;
        pictures += u32::from(is_picture);
        !is_picture || !pictures.is_multiple_of(37)
    };
    let whole = std::fs::read(clip).unwrap();
    let mut lossy = Vec::new();
    whole.chunks(188).filter(|packet| is_kept(packet)).for_each(|packet| lossy.extend_from_slice(packet));
    assert!(lossy.len() < whole.len());
    let path = dir.write("lossy.ts", &lossy);
    let options = GstOptions::default();
    let once = all(text(&path), options.clone());
    assert_eq!(once.end, Some(End::Finished));
    assert!(once.samples() > 3 * 44_100, "{} samples", once.samples());
    assert!(options.counters.damage() > 0);
    assert_same(&once, &all(text(&path), GstOptions::default()));
}

#[test]
fn a_pipeline_that_stops_silently_is_damaged_after_two_seconds() {
    let dir = Fixtures::new();
    let path = dir.clip("a.mp4", 1);
    let clock = Arc::new(ManualClock::default());
    // Its only thread ends at the end of the file, and the sink for pictures receives nothing, as when GStreamer loses the error
    // of a demuxer.
    let silent = format!("filesrc location={} ! fakesink appsink name=video", path.display());
    let options = GstOptions { pipeline: Some(silent), want_audio: false, ..GstOptions::default() };
    let (to, from) = crossbeam_channel::bounded(4);
    let _source = GstOpener::new(options, clock.clone()).unwrap().open(text(&path), to).unwrap();
    clock.advance(2_100_000_000);
    let end = from.iter().find_map(|item| if let MediaItem::Ended(end) = item { Some(end) } else { None });
    assert!(matches!(&end, Some(End::Failed { kind: Cause::Damaged, .. })), "{end:?}");
}

#[test]
fn refused_files_have_a_typed_cause() {
    let dir = Fixtures::new();
    let whole = std::fs::read(dir.clip("whole.mp4", 1)).unwrap();
    dir.write("empty.mp4", b"");
    dir.write("a.gif", b"GIF89a\x10\0\x10\0\0\0\0");
    dir.write("cut.mp4", &whole[..whole.len() / 2]);
    for (name, kind) in [
        ("missing.mp4", Cause::NotFound),
        ("", Cause::NotMedia),
        ("empty.mp4", Cause::NotMedia),
        ("a.gif", Cause::Format),
        ("cut.mp4", Cause::Damaged),
    ] {
        let path = dir.path().join(name);
        let refused = open(text(&path), GstOptions::default()).map(drop);
        assert!(matches!(&refused, Err(Error::Source { kind: found, .. }) if *found == kind), "{name}: {refused:?}");
    }
}

#[test]
fn pictures_before_the_first_key_frame_are_dropped_and_counted() {
    let dir = Fixtures::new();
    let clip = "-f lavfi -i testsrc2=size=320x240:rate=25:duration=6 -c:v libx264 -preset ultrafast -g 50 -keyint_min 50 \
                -sc_threshold 0 -bf 0";
    dir.make("whole.mkv", clip);
    let path = dir.make("joined.mkv", &format!("{clip} -bsf:v noise=drop=lt(n\\,10)"));
    let options = GstOptions::default();
    let received = all(text(&path), options.clone());
    let dropped = options.counters.dropped(DropReason::BeforeKeyFrame);
    assert_eq!(dropped, 40);
    assert_eq!(received.frames.len(), 100, "two groups of pictures are complete");
    let reference = all(text(&dir.path().join("whole.mkv")), GstOptions::default());
    for (frame, whole) in received.frames.iter().zip(&reference.frames[50..]) {
        assert_eq!(frame.data[..], whole.data[..], "the picture is undamaged");
    }
    assert_eq!(options.counters.frames.load(Ordering::Relaxed), 100);
}

#[test]
fn rotated_recordings_are_turned_upright() {
    let dir = Fixtures::new();
    let source = "-f lavfi -i testsrc2=size=640x360:rate=5:duration=1 -c:v libx264 -preset ultrafast -crf 10";
    let plain = dir.make("plain.mp4", source);
    // ffmpeg's muxer counts rotation counterclockwise.
    let turned = dir.make("turned.mp4", &format!("-i {} -c copy -metadata:s:v:0 rotate=90", plain.display()));
    let received = all(text(&turned), GstOptions { frame_height: 240, ..GstOptions::default() });
    let upright = received.frames.first().map(|f| (f.width, f.height));
    assert_eq!(upright, Some((135, 240)), "the height is the configured one");
    let differences = ["transpose=clock", "transpose=cclock"].map(|filter| {
        let encoded = dir.make(&format!("{filter}.mp4"), &format!("-i {} -vf {filter} -crf 10", plain.display()));
        let encoded = all(text(&encoded), GstOptions { frame_height: 240, ..GstOptions::default() });
        difference(&received.frames[2], &encoded.frames[2])
    });
    // The colours too: the matrix is guessed from the shorter side.
    assert!(differences[1] < 6.0 && differences[0] > 60.0, "{differences:?}");
}

#[test]
fn hdr_pictures_look_like_their_sdr_twin() {
    let dir = Fixtures::new();
    let sdr = dir.make(
        "sdr.mp4",
        "-f lavfi -i testsrc2=size=320x180:rate=5:duration=1 -vf scale=out_color_matrix=bt709,format=yuv420p -c:v libx264 \
         -crf 4 -colorspace bt709 -color_trc bt709 -color_primaries bt709",
    );
    // Diffuse white at 203 cd/m².
    for (name, transfer) in [("pq.mp4", "smpte2084"), ("hlg.mp4", "arib-std-b67")] {
        let hdr = dir.make(
            name,
            &format!(
                "-i {} -vf zscale=min=709:tin=709:pin=709:t={transfer}:p=2020:m=2020_ncl:npl=203,format=yuv420p10le \
                 -c:v libx265 -x265-params log-level=none:crf=4 -colorspace bt2020nc -color_trc {transfer} \
                 -color_primaries bt2020",
                sdr.display()
            ),
        );
        let [sdr, hdr] = [&sdr, &hdr].map(|path| all(text(path), GstOptions::default()));
        let error = difference(&sdr.frames[2], &hdr.frames[2]);
        // BT.2390 reserves a range for highlights: diffuse white becomes 230 of 255. For HLG, zscale assumes a different display
        // peak.
        let limit = if transfer == "smpte2084" { 35.0 } else { 50.0 };
        assert!(error < limit, "{name}: {error}");
    }
}

#[test]
fn a_picture_is_repeated_in_every_second_it_is_shown() {
    let dir = Fixtures::new();
    let path = dir.make(
        "slides.mp4",
        "-f lavfi -i testsrc2=size=320x240:rate=1/4:duration=12 -f lavfi -i sine=duration=5 \
         -c:v libx264 -preset ultrafast -c:a aac",
    );
    let received = all(text(&path), GstOptions::default());
    let seconds: Vec<u64> = received.frames.iter().map(|f| f.pts.second()).collect();
    assert_eq!(seconds, (0..12).collect::<Vec<_>>());
    assert_eq!(received.frames[4].data[..], received.frames[7].data[..]);
    assert_ne!(received.frames[3].data[..], received.frames[4].data[..]);
}

#[test]
fn a_recording_without_progress_fails_unless_the_consumer_is_slow() {
    let dir = Fixtures::new();
    let path = dir.clip("a.mp4", 3);
    // A pipeline that produces nothing.
    let clock = Arc::new(ManualClock::default());
    let silent =
        "appsrc name=nothing caps=video/x-raw,format=RGB,width=16,height=16,framerate=25/1 ! appsink name=video";
    let options = GstOptions { pipeline: Some(silent.into()), want_audio: false, ..GstOptions::default() };
    let (to, from) = crossbeam_channel::bounded(4);
    let _source = GstOpener::new(options, clock.clone()).unwrap().open(text(&path), to).unwrap();
    clock.advance(31_000_000_000);
    let end = from.iter().find_map(|item| if let MediaItem::Ended(end) = item { Some(end) } else { None });
    assert!(
        matches!(&end, Some(End::Failed { cause, .. }) if cause.contains("the media time has not advanced")),
        "{end:?}"
    );

    // A slow consumer: it takes three minutes in total.
    let clock = Arc::new(ManualClock::default());
    let (to, from) = crossbeam_channel::bounded(1);
    let _source = GstOpener::new(GstOptions::default(), clock.clone()).unwrap().open(text(&path), to).unwrap();
    let mut received = Received::default();
    while received.end.is_none() {
        if received.frames.len() < 10 {
            // The source must be waiting for room before the clock advances.
            let until = Instant::now() + LIMIT;
            while !from.is_full() {
                assert!(Instant::now() < until, "the source produces nothing");
                std::thread::yield_now();
            }
            clock.advance(20_000_000_000);
        }
        received.take(from.recv_timeout(LIMIT).expect("the recording has not ended"));
    }
    assert_eq!((received.end, received.frames.len()), (Some(End::Finished), 90));
}
