//! Cuts of generated media, checked with FFmpeg.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::ring::{Arrived, RingAnchor, RingOptions, RingSeconds, cut_ring, ring_seconds};
use super::*;
use crate::Open;
use crate::gst::{GstOpener, GstOptions};
use crate::wait::until;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, ClipSecond, LagLimits, SamplingPlan};
use touchline_core::clock::SystemClock;
use touchline_core::item::{MediaItem, Pace};

fn run(program: &str, arguments: &str, path: Option<&Path>) -> String {
    let done = Command::new(program)
        .args(["-v", "error"])
        .args(arguments.split_whitespace())
        .args(path)
        .output()
        .expect("FFmpeg is installed");
    assert!(done.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Twelve seconds with a key picture every four, B-pictures, and a tone.
fn recording(dir: &Path, name: &str, coding: &str) -> PathBuf {
    let path = dir.join(name);
    let source = "-y -f lavfi -i testsrc2=size=160x90:rate=25:duration=12 -f lavfi -i sine=frequency=440:sample_rate=48000:duration=12";
    run("ffmpeg", &format!("{source} {coding}"), Some(&path));
    path
}

const H264: &str = "-c:v libx264 -preset ultrafast -bf 2 -g 100 -sc_threshold 0 -pix_fmt yuv420p -c:a aac";

fn request(dir: &Path, name: &str, from_s: u64, to_s: u64) -> ClipRequest {
    let (from, to) = (Pts::from_second(from_s), Pts::from_second(to_s));
    ClipRequest { run: RunId(0), from, to, dir: dir.into(), name: name.into() }
}

/// The checksums of the pictures of a file, decoded.
fn pictures(path: &Path) -> Vec<String> {
    let input = format!("-i {} -map 0:v -fps_mode passthrough -f framemd5 -", path.display());
    let text = run("ffmpeg", &input, None);
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit(',').next().unwrap().trim().to_owned())
        .collect()
}

/// Position of `part` in `whole`.
fn position(whole: &[String], part: &[String]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
}

/// Start and duration of a stream, seconds.
fn times(path: &Path, stream: &str) -> (f64, f64) {
    let text = run(
        "ffprobe",
        &format!("-select_streams {stream} -show_entries stream=start_time,duration -of csv=p=0"),
        Some(path),
    );
    let mut fields = text.trim().split(',').map(|field| field.parse().unwrap());
    (fields.next().unwrap(), fields.next().unwrap())
}

#[test]
fn clips_begin_at_key_pictures_and_hold_the_original_coding() {
    let dir = tempfile::tempdir().unwrap();
    for (name, coding) in [("a.mp4", H264), ("a.ts", H264), ("a.mkv", H264)] {
        let source = recording(dir.path(), name, coding);
        let all = pictures(&source);
        assert_eq!(all.len(), 300, "{name}");
        let out = tempfile::tempdir().unwrap();
        // Within one group, over several, and beyond the end.
        let requests =
            [request(out.path(), "x", 5, 7), request(out.path(), "y", 2, 9), request(out.path(), "z", 9, 40)];
        let cut = cut_recording(&source, &requests).unwrap();
        for (cut, (first, at_least)) in cut.into_iter().zip([(100, 75), (0, 225), (200, 100)]) {
            let [file] = cut.unwrap().try_into().unwrap();
            let path = out.path().join(&file.file);
            assert!(file.file.ends_with(".mp4") && file.bytes == path.metadata().unwrap().len());
            let clip = pictures(&path);
            assert!(clip.len() >= at_least && clip.len() <= at_least + 3, "{name} {}: {}", file.file, clip.len());
            // Behind the end only pictures that others refer to.
            assert_eq!(position(&all, &clip[..at_least]), Some(first), "{name} {}", file.file);
            let (video, audio) = (times(&path, "v:0"), times(&path, "a:0"));
            assert!(video.0.abs() < 0.001 && audio.0 < 0.022, "{name} {}: {video:?} {audio:?}", file.file);
            assert!((video.1 - audio.1).abs() < 0.2, "{name} {}: {video:?} {audio:?}", file.file);
            let head = std::fs::read(&path).unwrap();
            let place = |kind: &[u8]| head.windows(4).position(|bytes| bytes == kind).unwrap();
            assert!(place(b"moov") < place(b"mdat"), "the index comes first");
        }
        assert!(std::fs::read_dir(out.path()).unwrap().count() == 3, "no temporary file stays");
    }
}

/// The packets of a stream that are shown. What is before time 0 only prepares the decoder of the sound.
fn packets(path: &Path, stream: &str) -> usize {
    let entries = format!("-select_streams {stream} -show_entries packet=pts_time -of csv=p=0");
    let times = run("ffprobe", &entries, Some(path));
    times.lines().filter(|time| !time.is_empty() && !time.starts_with('-')).count()
}

#[test]
fn the_last_packets_of_a_recording_are_cut_too() {
    let dir = tempfile::tempdir().unwrap();
    for (name, coding) in [("a.mp4", H264), ("b.mp4", "-c:v libx264 -bf 8 -g 100 -c:a aac -movflags faststart")] {
        let source = recording(dir.path(), name, coding);
        let [file] = cut_recording(&source, &[request(dir.path(), "all", 0, 40)])
            .unwrap()
            .remove(0)
            .unwrap()
            .try_into()
            .unwrap();
        let clip = dir.path().join(&file.file);
        for stream in ["v:0", "a:0"] {
            assert_eq!(packets(&clip, stream), packets(&source, stream), "{name} {stream}");
        }
        std::fs::remove_file(clip).unwrap();
    }
}

/// Plays a recording with a ring below `root`. Returns the arrival of the picture at `anchor_s`.
fn record(source: &Path, root: &Path, anchor_s: u64) -> RingAnchor {
    let options =
        GstOptions { id: "court".into(), record: Some(RingOptions { root: root.into() }), ..GstOptions::default() };
    let opener = GstOpener::new(options, Arc::new(SystemClock::new())).unwrap();
    let (to, items) = crossbeam_channel::bounded(64);
    let _source = opener.open(source.to_str().unwrap(), to).unwrap();
    let pts = Pts::from_second(anchor_s);
    let arrived = items.iter().take_while(|item| !matches!(item, MediaItem::Ended(_))).filter_map(|item| match item {
        MediaItem::Frame(frame) if frame.pts >= pts => Some(frame.arrived_ns),
        _ => None,
    });
    let arrived_ns = arrived.collect::<Vec<_>>()[0];
    RingAnchor { pts, arrived: Arrived::Clock(arrived_ns), since_unix_ns: 0 }
}

#[test]
fn clips_of_a_ring_are_those_of_the_recording_and_of_the_right_connection() {
    let dir = tempfile::tempdir().unwrap();
    let first = recording(dir.path(), "a.ts", H264);
    let second = dir.path().join("b.mp4");
    run("ffmpeg", &format!("-y -i {} -vf negate {H264}", first.display()), Some(&second));
    let root = dir.path().join("ring");
    let options = RingOptions { root: root.clone() };
    let anchors = [record(&first, &root, 6), record(&second, &root, 6)];
    let out = dir.path().join("clips");
    std::fs::create_dir(&out).unwrap();
    for (i, (source, anchor)) in [&first, &second].into_iter().zip(anchors).enumerate() {
        let request = request(&out, &format!("c{i}"), 5, 9);
        let all = pictures(source);
        // The writer has its own thread, and ends after the source. Until it has written the second connection, the clip is that of the first.
        let cut = |_| {
            let cut = cut_ring(&options.dir("court"), anchor, &request).ok()?;
            let clip = pictures(&out.join(&cut[0].file));
            let is_right = (125..=128).contains(&clip.len()) && position(&all, &clip[..125]) == Some(100);
            (cut[0].end >= Pts::from_second(9) && is_right).then_some(cut)
        };
        let cut = (0..200).find_map(cut).expect("the ring has the clip");
        let (video, audio) = (times(&out.join(&cut[0].file), "v:0"), times(&out.join(&cut[0].file), "a:0"));
        assert!(video.0.abs() < 0.001 && audio.0 < 0.025 && (video.1 - audio.1).abs() < 0.2, "{video:?} {audio:?}");
    }
    let nowhere = RingAnchor { pts: Pts::from_second(100), ..anchors[0] };
    assert_eq!(cut_ring(&options.dir("court"), nowhere, &request(&out, "n", 99, 101)), Err(ClipError::NoMedia));
    assert_eq!(cut_ring(&options.dir("none"), anchors[0], &request(&out, "n", 5, 6)), Err(ClipError::NoMedia));
}

/// The pictures of a second with their times, and its sound.
type PicturesAndSound = (Vec<(u64, Vec<u8>)>, Vec<f32>);

fn shown(second: &ClipSecond) -> PicturesAndSound {
    let pictures = second.frames.iter().map(|frame| (frame.pts.0, frame.data.to_vec()));
    (pictures.collect(), second.audio.clone().unwrap_or_default())
}

#[test]
fn seconds_of_a_ring_are_those_that_the_live_stream_saw() {
    let dir = tempfile::tempdir().unwrap();
    let config = ClipConfig {
        sample_rate: Some(16_000),
        plan: SamplingPlan { rgb_frames: 5, flow_pairs: 3, flow_gap_ns: 40_000_000, signal_frames: 0 },
        lag: LagLimits::for_pace(Pace::File),
        behind_ns: 0,
    };
    // Times in ticks of 90 kHz, of which none is a whole number of ns; key pictures within seconds.
    let ntsc = H264.replace("-g 100", "-r 30000/1001 -g 100");
    for (id, name, coding) in [("ntsc", "a.ts", &*ntsc), ("whole", "b.ts", H264)] {
        let source = recording(dir.path(), name, coding);
        let ring = RingOptions { root: dir.path().join("ring") };
        let options = GstOptions { id: id.into(), record: Some(ring.clone()), ..GstOptions::default() };
        let opener = GstOpener::new(options, Arc::new(SystemClock::new())).unwrap();
        let (to, items) = crossbeam_channel::bounded(64);
        let playing = opener.open(source.to_str().unwrap(), to).unwrap();
        let (mut builder, mut out) = (ClipBuilder::new(config.clone()), Vec::new());
        items
            .iter()
            .take_while(|item| !matches!(item, MediaItem::Ended(_)))
            .for_each(|item| builder.push(item, &mut out));
        drop(playing);
        let live: BTreeMap<u64, ClipSecond> = out
            .into_iter()
            .filter_map(|output| match output {
                ClipOutput::Second(second) => Some((second.index, second)),
                _ => None,
            })
            .collect();
        until("the end of the ring's thread", || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
            let mut names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
            !names.any(|other| other.trim() == format!("ring/{id}"))
        });
        let first = *live.keys().next().unwrap();
        let wanted = [first, first + 5, first + 6, first + 10].into();
        let work = dir.path().join(format!("work-{id}"));
        std::fs::create_dir(&work).unwrap();
        let last = &live[&(first + 10)];
        let anchor = RingAnchor { pts: last.start(), arrived: Arrived::Clock(last.arrived_ns), since_unix_ns: 0 };
        let request = RingSeconds { dir: &ring.dir(id), anchor, wanted: &wanted, work: &work, config: &config };
        let again = GstOpener::new(GstOptions::default(), Arc::new(SystemClock::new())).unwrap();
        let mut found = BTreeMap::new();
        ring_seconds(&request, &again, &|| false, &mut |second| drop(found.insert(second.index, second))).unwrap();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), wanted.iter().copied().collect::<Vec<_>>(), "{id}");
        assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "{id}: no file stays");
        for (index, again) in found {
            let ((pictures, sound), (expected, heard)) = (shown(&again), shown(&live[&index]));
            let times = |pictures: &[(u64, Vec<u8>)]| pictures.iter().map(|(at, _)| *at).collect::<Vec<_>>();
            assert_eq!(times(&pictures), times(&expected), "{id} {index}");
            assert!(pictures == expected, "{id} {index}: other pictures");
            assert_eq!(
                (again.pairs, again.rgb),
                (live[&index].pairs.clone(), live[&index].rgb.clone()),
                "{id} {index}"
            );
            // The grid of resampled sound begins with the file, and times in the ring are rounded, so it may be shifted by a fifth of a
            // millisecond: half of the tone of 440 Hz at 1/8.
            let differs = sound.iter().zip(&heard).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // A file begins with a picture, so the first sound of a connection may be missing.
            assert!(sound.len() == 16_000 && (index == first || differs < 0.125 * 0.55), "{id} {index}: {differs}");
        }
        let mut seen = 0;
        ring_seconds(&request, &again, &|| true, &mut |_| seen += 1).unwrap();
        assert_eq!((seen, std::fs::read_dir(&work).unwrap().count()), (0, 0), "{id}: cancelled");
        let nowhere = RingAnchor { pts: Pts::from_second(100), ..anchor };
        let request = RingSeconds { anchor: nowhere, ..request };
        assert_eq!(ring_seconds(&request, &again, &|| false, &mut |_| {}), Err(ClipError::NoMedia), "{id}");
    }
}

#[test]
fn codings_that_mp4_lacks_are_in_matroska_and_sound_alone_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mpeg2 = recording(dir.path(), "a.ts", "-c:v mpeg2video -g 25 -bf 2 -c:a mp2");
    let [file] =
        cut_recording(&mpeg2, &[request(dir.path(), "x", 3, 5)]).unwrap().remove(0).unwrap().try_into().unwrap();
    assert_eq!((file.file.as_str(), file.video.as_deref()), ("x.mkv", Some("video/mpeg, mpegversion=2")));
    let (all, clip) = (pictures(&mpeg2), pictures(&dir.path().join("x.mkv")));
    assert!(clip.len() >= 50 && position(&all, &clip[..50]).is_some(), "{}", clip.len());

    let sound = recording(dir.path(), "a.m4a", "-vn -c:a aac");
    let [file] =
        cut_recording(&sound, &[request(dir.path(), "y", 3, 5)]).unwrap().remove(0).unwrap().try_into().unwrap();
    assert_eq!((file.file.as_str(), file.video.is_none()), ("y.mp4", true));
    assert!((times(&dir.path().join("y.mp4"), "a:0").1 - 2.0).abs() < 0.05);

    let hevc = recording(
        dir.path(),
        "h.mp4",
        "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=50 -c:a libopus",
    );
    let [file] =
        cut_recording(&hevc, &[request(dir.path(), "z", 5, 7)]).unwrap().remove(0).unwrap().try_into().unwrap();
    assert_eq!((file.file.as_str(), file.begin), ("z.mp4", Pts::from_second(4)));

    let missing = cut_recording(&sound, &[request(dir.path(), "n", 50, 60)]).unwrap().remove(0);
    assert_eq!(missing, Err(ClipError::NoMedia));
    let text = dir.path().join("t.mp4");
    std::fs::write(&text, "no media").unwrap();
    assert!(matches!(cut_recording(&text, &[request(dir.path(), "n", 0, 1)]), Err(ClipError::Failed(_))));
}

#[test]
fn the_sound_of_a_clip_keeps_all_bits_of_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let tone = "-y -f lavfi -i aevalsrc=0.7*sin(880*PI*t)|0.3*sin(300*PI*t):s=48000:d=2 -c:a flac -sample_fmt";
    for (name, form, coding) in [("a.mkv", "s16", "pcm_s16le"), ("b.mkv", "s32 -bits_per_raw_sample 24", "pcm_f32le")] {
        run("ffmpeg", &format!("{tone} {form}"), Some(&dir.path().join(name)));
        let bytes = wav(dir.path(), name, "sound.wav").unwrap();
        let sound = dir.path().join("sound.wav");
        assert_eq!(bytes, sound.metadata().unwrap().len());
        assert_eq!(run("ffprobe", "-show_entries stream=codec_name -of csv=p=0", Some(&sound)).trim(), coding);
        let whole = |path: &Path| {
            let raw = dir.path().join("raw");
            run("ffmpeg", &format!("-y -i {} -f s32le", path.display()), Some(&raw));
            std::fs::read(raw).unwrap()
        };
        assert!(whole(&sound) == whole(&dir.path().join(name)), "{name}: the samples are those of the source");
    }
    assert!(wav(dir.path(), "none.mkv", "x.wav").is_err() && !dir.path().join("x.wav.part").exists());
}

#[test]
fn holes_within_a_clip_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let torn = format!("-vf select=not(between(t\\,4\\,5.49)) -fps_mode passthrough {H264} -g 1 -bf 0");
    for (name, coding, expected) in [("whole.mkv", H264, None), ("torn.mkv", &torn, Some((3.96, 5.52)))] {
        let source = recording(dir.path(), name, coding);
        let [file] = cut_recording(&source, &[request(dir.path(), "clip", 2, 9)])
            .unwrap()
            .remove(0)
            .unwrap()
            .try_into()
            .unwrap();
        let seconds = |pts: Pts| pts.0 as f64 / 1e9;
        let holes: Vec<_> = file.holes.iter().map(|hole| (seconds(hole.start), seconds(hole.end))).collect();
        let is_expected = |(found, (begin, end)): (&(f64, f64), (f64, f64))| {
            (found.0 - begin).abs() < 0.05 && (found.1 - end).abs() < 0.05
        };
        assert_eq!(holes.len(), expected.iter().len(), "{name}: {holes:?}");
        assert!(holes.iter().zip(expected).all(is_expected), "{name}: {holes:?}");
    }
}

/// A second with pictures at these times, in ms, and a tone if it sounds.
fn seen(times_ms: &[u64], grey: u8, sounds: bool) -> SeenSecond {
    let picture = |ms: &u64| {
        let (width, height) = (64, 48);
        let mut jpeg = Vec::new();
        let pixels = image::GrayImage::from_pixel(width, height, image::Luma([grey]));
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 90);
        encoder.encode_image(&image::DynamicImage::ImageLuma8(pixels).to_rgb8()).unwrap();
        SeenPicture { offset_ns: ms * 1_000_000, width, height, jpeg }
    };
    let sample = |i: usize| ((i as f32 / 16_000.0 * 440.0 * std::f32::consts::TAU).sin() * 12_000.0) as i16;
    let sound = if sounds { (0..16_000).map(sample).collect() } else { Vec::new() };
    SeenSecond { pictures: times_ms.iter().map(picture).collect(), sound }
}

/// The seconds that a reader cuts: the pictures' offsets in ms with their grey, and whether there is sound.
fn cut_again(path: &Path) -> Vec<(Vec<(u64, u8)>, bool)> {
    use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, LagLimits, SamplingPlan};
    use touchline_core::item::Pace;
    let plan = SamplingPlan { rgb_frames: 3, flow_pairs: 0, flow_gap_ns: 100_000_000, signal_frames: 0 };
    let mut builder = ClipBuilder::new(ClipConfig {
        sample_rate: Some(16_000),
        plan,
        lag: LagLimits::for_pace(Pace::File),
        behind_ns: 0,
    });
    let options = GstOptions { frame_height: 48, ..GstOptions::default() };
    let opener = GstOpener::new(options, Arc::new(SystemClock::new())).unwrap();
    let (to, media) = crossbeam_channel::bounded(64);
    let _source = opener.open(&path.display().to_string(), to).unwrap();
    let (mut out, mut seconds) = (Vec::new(), Vec::new());
    for item in media {
        let ended = matches!(item, MediaItem::Ended(_));
        builder.push(item, &mut out);
        for output in out.drain(..) {
            if let ClipOutput::Second(second) = output {
                let start = second.start().0;
                let picture = |frame: &touchline_core::frame::Frame| ((frame.pts.0 - start) / 1_000_000, frame.data[0]);
                let loud = second.audio.iter().flatten().any(|sample| sample.abs() > 0.1);
                seconds.push((second.frames.iter().map(picture).collect(), loud));
            }
        }
        if ended {
            break;
        }
    }
    seconds
}

#[test]
fn seconds_as_seen_are_cut_again_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let times = [[170, 500, 830], [160, 520, 840]];
    // The last second has no sound, and the first file none at all: its first picture is not at the begin of a second.
    for (name, sounds) in [("silent", [false, false]), ("mixed", [true, false])] {
        let seconds = [seen(&times[0], 60, sounds[0]), seen(&times[1], 180, sounds[1])];
        let rate = sounds.contains(&true).then_some(16_000);
        let file = write_seen(dir.path(), name, rate, &seconds).unwrap();
        assert_eq!(file.file, format!("{name}.mkv"));
        assert_eq!(file.bytes, dir.path().join(&file.file).metadata().unwrap().len());
        let cut = cut_again(&dir.path().join(&file.file));
        assert_eq!(cut.len(), 2, "{name}: {cut:?}");
        for (((pictures, loud), times), (grey, sounds)) in
            cut.iter().zip(times).zip([(60_i16, sounds[0]), (180, sounds[1])])
        {
            let found: Vec<u64> = pictures.iter().map(|(ms, _)| *ms).collect();
            assert!(found.len() == 3 && found.iter().zip(times).all(|(a, b)| a.abs_diff(b) <= 1), "{name}: {found:?}");
            assert!(pictures.iter().all(|(_, value)| (i16::from(*value) - grey).abs() < 4), "{name}: {pictures:?}");
            assert_eq!(*loud, sounds, "{name}");
        }
    }
    let nothing = write_seen(dir.path(), "none", None, []);
    assert_eq!(nothing, Err(ClipError::NoMedia));
    let absent = write_seen(&dir.path().join("absent"), "a", None, &[seen(&[500], 60, false)]);
    assert!(matches!(absent, Err(ClipError::Failed(_))), "{absent:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no part of a file stays");
}
