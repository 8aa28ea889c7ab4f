//! The program's own converter and GStreamer's give the same pictures, and formats that it does not read take GStreamer's.

use touchline_media::gst::GstOptions;

use super::{all, text};
use crate::common::Fixtures;

/// The template for recordings, with an element before the last caps. So the program leaves its converters alone.
fn converters() -> String {
    let template = include_str!("../../../pipelines/file.gst");
    let text = template.replace("! video/x-raw,format=RGB", "! identity ! video/x-raw,format=RGB");
    assert_ne!(text, template);
    text
}

/// Compares the pictures of a recording by the program's own converter with those of GStreamer's. Returns their size, the mean
/// difference, and the greatest one.
fn compare(uri: &str, frame_height: u32) -> ((u32, u32), f64, u8) {
    let options = || GstOptions { frame_height, want_audio: false, ..GstOptions::default() };
    let ours = all(uri, options());
    let theirs = all(uri, GstOptions { pipeline: Some(converters()), ..options() });
    assert!(!ours.frames.is_empty());
    assert_eq!(ours.frames.len(), theirs.frames.len(), "{uri}");
    let (mut sum, mut count, mut most, mut size) = (0u64, 0u64, 0, (0, 0));
    for (ours, theirs) in ours.frames.iter().zip(&theirs.frames) {
        assert_eq!((ours.pts, ours.width, ours.height), (theirs.pts, theirs.width, theirs.height), "{uri}");
        for (a, b) in ours.data.iter().zip(theirs.data.iter()) {
            sum += u64::from(a.abs_diff(*b));
            most = most.max(a.abs_diff(*b));
        }
        count += ours.data.len() as u64;
        size = (ours.width, ours.height);
    }
    (size, sum as f64 / count as f64, most)
}

/// The elements calculate with few bits (src/media/DESIGN.md), which shows most at the sharp edges of a test pattern. Pictures without a
/// difference would be theirs.
fn assert_near(mean: f64, most: u8, name: &str) {
    println!("{name}: {mean:.2} {most}");
    assert!(mean > 0.2 && mean < 3.0 && most < 96, "{name}: {mean} {most}");
}

#[test]
fn recordings_look_the_same_by_either_converter() {
    let dir = Fixtures::new();
    let h264 = "-c:v libx264 -preset ultrafast";
    let source = |size: &str| format!("-f lavfi -i testsrc2=size={size}:rate=10:duration=1");
    let rows = [
        ("hd.mp4", source("1920x1080"), format!("{h264} -pix_fmt yuv420p"), 288, (512, 288)),
        ("same.mp4", source("512x288"), format!("{h264} -pix_fmt yuv420p"), 288, (512, 288)),
        (
            "odd.mkv",
            source("642x362"),
            "-vf crop=641:361:0:0:exact=1 -c:v ffv1 -pix_fmt yuv420p".into(),
            200,
            (355, 200),
        ),
        ("wide.ts", source("720x576"), "-vf setsar=64/45 -c:v mpeg2video -q:v 3".into(), 288, (512, 288)),
        ("full.mkv", source("640x360"), "-c:v mjpeg -q:v 3 -pix_fmt yuvj420p".into(), 288, (512, 288)),
        ("fields.ts", source("720x576"), "-c:v mpeg2video -q:v 3 -flags +ilme+ildct -top 1".into(), 288, (360, 288)),
    ];
    for (name, input, coding, frame_height, size) in rows {
        let path = dir.make(name, &format!("{input} {coding}"));
        let (found, mean, most) = compare(text(&path), frame_height);
        assert_eq!(found, size, "{name}");
        assert_near(mean, most, name);
    }
}

#[test]
fn other_formats_take_gstreamers_converters() {
    let dir = Fixtures::new();
    let source = "-f lavfi -i testsrc2=size=640x360:rate=10:duration=1";
    for (name, coding) in [
        ("422.mp4", "-c:v libx264 -preset ultrafast -pix_fmt yuv422p"),
        ("deep.mp4", "-c:v libx264 -preset ultrafast -pix_fmt yuv420p10le"),
        ("rgb.mkv", "-c:v ffv1 -pix_fmt bgr0"),
    ] {
        let path = dir.make(name, &format!("{source} {coding}"));
        assert_eq!(compare(text(&path), 288), ((512, 288), 0.0, 0), "{name}");
    }
}

#[test]
fn pictures_on_their_side_look_the_same() {
    let dir = Fixtures::new();
    let coding = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    let upright = dir.make("a.mp4", &format!("-f lavfi -i testsrc2=size=640x360:rate=10:duration=1 {coding}"));
    let turned = dir.make("turned.mp4", &format!("-i {} -c copy -metadata:s:v:0 rotate=90", upright.display()));
    let (size, mean, most) = compare(text(&turned), 288);
    assert_eq!(size, (162, 288));
    assert_near(mean, most, "turned.mp4");
}
