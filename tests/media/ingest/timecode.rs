//! Timecode of the media: the timecode track of MP4, and SEI messages of H.264 in MPEG-TS, from a file and over HLS.

use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;
use touchline_core::item::{End, Tracks};
use touchline_core::timecode::{FrameRate, TimecodeMark};
use touchline_media::gst::GstOptions;

use super::{Received, all};
use crate::common::http::HttpServer;
use crate::common::{self, Fixtures};

/// Name of the rate, pictures a second, and the first timecode.
const CASES: [(&str, &str, &str); 4] = [
    ("25", "25/1", "10:00:00:00"),
    ("29.97df", "30000/1001", "00:59:58;00"),
    ("59.94df", "60000/1001", "00:59:58;00"),
    ("59.94", "60000/1001", "01:00:00:00"),
];

/// Panics unless every mark is the number of its picture, and every second of `seconds` has one.
fn assert_exact(received: &Received, rate: &str, first: &str, seconds: u64, context: &str) {
    assert_eq!(received.end, Some(End::Finished), "{context}");
    let rate = FrameRate::parse(rate).unwrap();
    let first = rate.parse_timecode(first).unwrap();
    let mut pictures: Vec<u64> = received.frames.iter().map(|frame| frame.pts.0).collect();
    pictures.sort_unstable();
    let number = |mark: &TimecodeMark| {
        let at = pictures.iter().position(|pts| pts.abs_diff(mark.pts.0) <= TimecodeMark::ROUNDING_NS);
        at.unwrap_or_else(|| panic!("{context}: no picture at {mark:?}")) as i64
    };
    for mark in &received.timecodes {
        assert_eq!((mark.rate.name(), mark.frame), (rate.name(), first + number(mark)), "{context}: {mark:?}");
    }
    let marked: std::collections::BTreeSet<u64> = received.timecodes.iter().map(|mark| mark.pts.second()).collect();
    assert_eq!(marked, (0..seconds).collect(), "{context}");
    let limit = 3 * seconds as usize;
    assert!(received.timecodes.len() <= limit, "{context}: {} marks in {seconds} s", received.timecodes.len());
}

/// Three seconds of H.264 with B-pictures in MPEG-TS, with picture timing SEI from `first` on.
fn with_sei(path: &Path, rate: &str, fps: &str, first: &str) {
    common::init();
    let rate = FrameRate::parse(rate).unwrap();
    let (numerator, denominator) = rate.ratio();
    let pictures = 3 * numerator / denominator;
    let text = format!(
        "videotestsrc num-buffers={pictures} ! video/x-raw,format=I420,width=160,height=96,framerate={fps} ! \
         timecodestamper set=always source=internal timecode-offset={} drop-frame={} ! \
         x264enc speed-preset=ultrafast bframes=2 key-int-max=30 option-string=pic-struct=1 ! \
         h264parse update-timecode=true ! video/x-h264,stream-format=byte-stream,alignment=au ! \
         mpegtsmux ! filesink location={}",
        rate.parse_timecode(first).unwrap(),
        rate.is_drop(),
        path.display(),
    );
    let pipeline = gst::parse::launch(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let message =
        bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Eos, gst::MessageType::Error]);
    let message = message.expect("an end in time");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    pipeline.set_state(gst::State::Null).unwrap();
}

fn pictures_only() -> GstOptions {
    GstOptions { want_audio: false, ..GstOptions::default() }
}

#[test]
fn the_timecode_track_of_a_recording_numbers_its_pictures() {
    let fixtures = Fixtures::new();
    for (rate, fps, first) in CASES {
        for name in [format!("{rate}.mov"), format!("{rate}.mp4")] {
            let arguments = format!(
                "-f lavfi -i testsrc2=size=160x96:rate={fps}:duration=3 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -bf 2 -timecode {first}"
            );
            let clip = fixtures.make(&name, &arguments);
            let received = all(clip.to_str().unwrap(), pictures_only());
            assert_exact(&received, rate, first, 3, &name);
        }
    }
}

#[test]
fn a_recording_without_timecode_has_no_marks() {
    let fixtures = Fixtures::new();
    let clip = fixtures.clip("plain.mp4", 2);
    let received = all(clip.to_str().unwrap(), GstOptions::default());
    assert_eq!((received.timecodes.len(), received.tracks), (0, Some(Tracks { video: true, audio: true })));
}

#[test]
fn the_timecode_in_h264_numbers_its_pictures() {
    let fixtures = Fixtures::new();
    let server = HttpServer::start(fixtures.path());
    for (rate, fps, first) in CASES {
        let clip = fixtures.path().join(format!("{rate}.ts"));
        with_sei(&clip, rate, fps, first);
        let received = all(clip.to_str().unwrap(), pictures_only());
        assert_exact(&received, rate, first, 3, rate);
        fixtures.playlist(&format!("{rate}.m3u8"), &clip);
        let received = all(&server.url(&format!("{rate}.m3u8")), pictures_only());
        assert_exact(&received, rate, first, 3, &format!("{rate} over HLS"));
    }
}
