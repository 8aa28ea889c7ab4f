//! One decoded picture to small RGB: the program's converter and GStreamer's two elements in turn, on one thread. Prints medians.
//!
//! `cargo bench -p touchline-media --bench convert`. The elements are represented by the converters inside them, without the pipeline.

use std::hint::black_box;
use std::time::{Duration, Instant};

use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use touchline_media::convert::{Chroma, Conversion, Converter, Matrix, Plane, Range};

const ROUNDS: usize = 15;

/// Pictures per round, so that a round is some milliseconds.
const PICTURES: u32 = 10;

/// The time of one picture.
fn time(mut work: impl FnMut()) -> Duration {
    let began = Instant::now();
    (0..PICTURES).for_each(|_| work());
    began.elapsed() / PICTURES
}

fn info(format: gst_video::VideoFormat, width: u32, height: u32) -> gst_video::VideoInfo {
    let colours = if format == gst_video::VideoFormat::Rgb { "sRGB" } else { "bt709" };
    let colours: gst_video::VideoColorimetry = colours.parse().expect("GStreamer knows the name");
    gst_video::VideoInfo::builder(format, width, height).colorimetry(&colours).build().expect("a sensible picture")
}

fn frame(info: &gst_video::VideoInfo) -> gst_video::VideoFrame<gst_video::video_frame::Writable> {
    let bytes = (0..info.size()).map(|at| 16 + (at * 7 % 220) as u8).collect::<Vec<_>>();
    gst_video::VideoFrame::from_buffer_writable(gstreamer::Buffer::from_mut_slice(bytes), info)
        .expect("a whole picture")
}

fn main() {
    touchline_media::gst::init().expect("GStreamer starts");
    println!("| from | to | GStreamer | Touchline | ratio |\n|---|---|---|---|---|");
    for (width, height) in [(1920, 1080), (1280, 720), (960, 540), (640, 360)] {
        for format in [gst_video::VideoFormat::I420, gst_video::VideoFormat::Nv12] {
            let to = ((256 * width + height / 2) / height, 256);
            let from = frame(&info(format, width, height));
            let mut small = frame(&info(format, to.0, to.1));
            let mut rgb = frame(&info(gst_video::VideoFormat::Rgb, to.0, to.1));
            // As `videoscale method=bilinear2`, and as `videoconvert` without properties.
            let mut scaling = gst_video::VideoConverterConfig::new();
            scaling.set_resampler_method(gst_video::VideoResamplerMethod::Linear);
            let scale = gst_video::VideoConverter::new(from.info(), small.info(), Some(scaling)).expect("it scales");
            let convert = gst_video::VideoConverter::new(small.info(), rgb.info(), None).expect("it converts");

            let plane = |at: u32| Plane {
                data: from.plane_data(at).expect("the plane is there"),
                stride: from.plane_stride()[at as usize] as usize,
            };
            let is_interleaved = format == gst_video::VideoFormat::Nv12;
            let chroma =
                if is_interleaved { Chroma::Interleaved(plane(1)) } else { Chroma::Separate(plane(1), plane(2)) };
            let mut converter = Converter::new(Conversion {
                from: (width as usize, height as usize),
                to: (to.0 as usize, to.1 as usize),
                is_interleaved,
                matrix: Matrix::Bt709,
                range: Range::Limited,
            });
            let mut out = Vec::new();
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                times[0].push(time(|| {
                    scale.frame(&from, &mut small);
                    convert.frame(&small, &mut rgb);
                }));
                times[1].push(time(|| {
                    out.clear();
                    converter.convert(black_box(plane(0)), chroma, &mut out).expect("the planes are whole");
                }));
            }
            let [theirs, ours] = times.map(|mut times| {
                times.sort();
                times[ROUNDS / 2].as_secs_f64() * 1e3
            });
            println!(
                "| {width}×{height} {format} | {}×{} RGB | {theirs:.2} ms | {ours:.2} ms | **{:.2}** |",
                to.0,
                to.1,
                ours / theirs
            );
        }
    }
}
