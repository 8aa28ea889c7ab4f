use gstreamer_video::prelude::*;

use super::*;
use crate::convert::{Chroma, Converter, Plane};
use crate::template::{self, EXAMPLES, Keys};
use crate::uri::Location;
use touchline_core::item::Tracks;

const ENDING: &str = "videoscale method=bilinear2 add-borders=false ! videoconvert
    ! video/x-raw,format=RGB,pixel-aspect-ratio=1/1,height=[1,288] ! appsink name=video sync=false async=false";

/// The same converters, with 16 bits per value and one value of chroma for two by two pixels, which they have for I420 only.
const FINE_ENDING: &str = "videoscale method=bilinear2 add-borders=false ! videoconvert chroma-mode=none dither=none
    ! video/x-raw,format=ARGB64_LE,pixel-aspect-ratio=1/1,height=[1,288] ! appsink name=video sync=false async=false";

fn info(caps: &str) -> gst_video::VideoInfo {
    super::super::init().unwrap();
    gst_video::VideoInfo::from_caps(&caps.parse::<gst::Caps>().unwrap()).unwrap()
}

/// A value from 0 to 255 of the picture `kind` at a place.
type Pattern = fn(x: usize, y: usize, plane: usize) -> u8;

/// Slow changes, as in most of a picture.
fn smooth(x: usize, y: usize, plane: usize) -> u8 {
    let wave = |at: usize, period: f64| (at as f64 / period).sin();
    let (x, y) = if plane == 0 { (x, y) } else { (2 * x, 2 * y) };
    (128.0 + 55.0 * wave(x + 40 * plane, 31.0) + 50.0 * wave(y + 17 * plane, 23.0)) as u8
}

/// Discs and bars with sharp edges in strong colours.
fn edges(x: usize, y: usize, plane: usize) -> u8 {
    let (x, y) = if plane == 0 { (x, y) } else { (2 * x, 2 * y) };
    let (dx, dy) = ((x % 80).abs_diff(40), (y % 60).abs_diff(30));
    match (dx * dx + dy * dy < 500, (x / 37 + y / 29) % 3, plane) {
        (true, _, 0) => 210,
        (true, _, 1) => 70,
        (true, ..) => 190,
        (false, 0, 0) => 40,
        (false, 1, 0) => 120,
        (false, at, 1) => [128, 180, 90][at],
        (false, at, 2) => [128, 80, 150][at],
        _ => 230,
    }
}

/// No value has to do with its neighbours.
fn noise(x: usize, y: usize, plane: usize) -> u8 {
    let mut value = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77) ^ (plane as u32) << 30;
    value = (value ^ (value >> 15)).wrapping_mul(0x2c1b_3c6d);
    16 + ((value ^ (value >> 13)) % 220) as u8
}

/// A buffer with a picture of `info`.
fn picture(info: &gst_video::VideoInfo, pattern: Pattern) -> gst::Buffer {
    let mut bytes = vec![0u8; info.size()];
    let is_interleaved = info.format() == gst_video::VideoFormat::Nv12;
    let (width, height) = (info.width() as usize, info.height() as usize);
    for plane in 0..3 {
        let (index, at, step) = match plane {
            0 => (0, 0, 1),
            _ if is_interleaved => (1, plane - 1, 2),
            _ => (plane, 0, 1),
        };
        let (columns, rows) = if plane == 0 { (width, height) } else { (width.div_ceil(2), height.div_ceil(2)) };
        let (offset, stride) = (info.offset()[index], info.stride()[index] as usize);
        for y in 0..rows {
            for x in 0..columns {
                bytes[offset + y * stride + at + step * x] = pattern(x, y, plane);
            }
        }
    }
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    buffer.get_mut().unwrap().set_pts(gst::ClockTime::ZERO);
    buffer
}

/// What the elements of `ending` make of `buffer`: width, height and packed RGB from 0 to 255.
fn by_elements(ending: &str, info: &gst_video::VideoInfo, buffer: &gst::Buffer) -> (usize, usize, Vec<f64>) {
    let pipeline = gst::parse::launch(&format!("appsrc name=in format=time ! {ending}")).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let source = pipeline.by_name("in").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let sink = pipeline.by_name("video").unwrap().downcast::<gst_app::AppSink>().unwrap();
    source.set_caps(Some(&info.to_caps().unwrap()));
    pipeline.set_state(gst::State::Playing).unwrap();
    source.push_buffer(buffer.clone()).unwrap();
    source.end_of_stream().unwrap();
    let sample = sink.pull_sample().unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(sample.buffer().unwrap(), &info).unwrap();
    let (width, height) = (info.width() as usize, info.height() as usize);
    let rows = frame.plane_data(0).unwrap().chunks(frame.plane_stride()[0] as usize).take(height);
    let values = |row: &[u8]| -> Vec<f64> {
        if info.format() == gst_video::VideoFormat::Rgb {
            return row[..3 * width].iter().map(|value| f64::from(*value)).collect();
        }
        let wide = |pair: &[u8]| f64::from(u16::from_le_bytes([pair[0], pair[1]])) / 257.0;
        row[..8 * width].chunks(8).flat_map(|pixel| [2, 4, 6].map(|at| wide(&pixel[at..]))).collect()
    };
    (width, height, rows.flat_map(values).collect())
}

/// What ours makes of `buffer`.
fn by_ours(info: &gst_video::VideoInfo, buffer: &gst::Buffer) -> (usize, usize, Vec<u8>) {
    let conversion = conversion(info, 288, false).expect("ours converts this format");
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let plane =
        |at: u32| Plane { data: frame.plane_data(at).unwrap(), stride: frame.plane_stride()[at as usize] as usize };
    let chroma = match info.format() {
        gst_video::VideoFormat::Nv12 => Chroma::Interleaved(plane(1)),
        _ => Chroma::Separate(plane(1), plane(2)),
    };
    let mut out = Vec::new();
    Converter::new(conversion).convert(plane(0), chroma, &mut out).unwrap();
    (conversion.to.0, conversion.to.1, out)
}

/// The mean and the greatest difference of a value.
fn difference(ours: &[u8], theirs: &[f64]) -> (f64, f64) {
    assert_eq!(ours.len(), theirs.len());
    let each = ours.iter().zip(theirs).map(|(ours, theirs)| (f64::from(*ours) - theirs).abs());
    (each.clone().sum::<f64>() / ours.len() as f64, each.fold(0.0, f64::max))
}

#[test]
fn pictures_are_those_of_gstreamers_converters() {
    // Ratios up to 4, one, a half in both directions, odd sizes, pixels that are not square, upright.
    let sizes = [
        "width=1920,height=1080",
        "width=1280,height=720",
        "width=512,height=288",
        "width=353,height=201",
        "width=641,height=363",
        "width=1024,height=576",
        "width=720,height=576,pixel-aspect-ratio=64/45",
        "width=720,height=576,pixel-aspect-ratio=16/15",
        "width=202,height=640",
    ];
    let mut worst = [(0.0f64, 0.0f64); 3];
    for (kind, pattern) in [("smooth", smooth as Pattern), ("edges", edges), ("noise", noise)] {
        for (format, range, matrix, size) in ["I420", "NV12"].iter().flat_map(|format| {
            // The matrix has nothing to do with what is in the picture.
            let colours = [(2, 4), (1, 3), (2, 6), (1, 4), (2, 3), (1, 6)];
            let colours = colours.into_iter().take(if kind == "smooth" { 6 } else { 2 });
            colours.flat_map(move |(range, matrix)| sizes.map(|size| (*format, range, matrix, size)))
        }) {
            let caps = format!("video/x-raw,format={format},{size},colorimetry=(string){range}:{matrix}:5:1");
            let info = info(&format!("{caps},framerate=25/1"));
            let buffer = picture(&info, pattern);
            let ours = by_ours(&info, &buffer);
            // NV12's chroma is interpolated by the template's converters, I420's is not. Where nothing changes fast, that says little.
            for (at, ending, limit) in
                [(0, FINE_ENDING, (2.5, 32.0)), (1, ENDING, (3.0, 32.0)), (2, ENDING, (5.0, 32.0))]
            {
                if (at == 1 && format == "NV12") || (at == 2 && (format == "I420" || kind != "smooth")) {
                    continue;
                }
                let theirs = by_elements(ending, &info, &buffer);
                assert_eq!((ours.0, ours.1), (theirs.0, theirs.1), "{caps}");
                let (mean, most) = difference(&ours.2, &theirs.2);
                worst[at] = (worst[at].0.max(mean), worst[at].1.max(most));
                assert!(mean < limit.0 && most < limit.1, "{kind} {caps} {at}: {mean} {most}");
            }
        }
    }
    println!("mean and greatest differences: {worst:?}");
}

/// The filter of a pipeline, and what the pipeline is.
fn filter(description: &str) -> (gst::Pipeline, Arc<FormatFilter>) {
    super::super::init().unwrap();
    let pipeline = gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("video").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let filter = FormatFilter::before(&sink, 288).expect("a caps filter is before the sink");
    (pipeline, filter)
}

#[test]
fn every_built_in_template_ends_so_that_ours_converts() {
    for uri in EXAMPLES {
        let location = Location::parse(uri).unwrap();
        let keys = Keys {
            location: &location,
            frame_height: 288,
            sync: false,
            latency_ms: 200,
            rtsp_transport: "tcp",
            timeout_s: 10,
        };
        let wanted = Tracks { video: true, audio: false };
        let text = template::render(location.kind.spec().template.unwrap(), &keys, wanted).unwrap();
        assert!(filter(&text).1.is_replaceable, "{uri}: {text}");
    }
}

#[test]
fn a_template_that_ends_in_another_way_is_left_alone() {
    let ending = |from: &str, to: &str| {
        let text = ENDING.replace(from, to);
        assert!(from == to || text != ENDING, "{from} is in the template");
        filter(&format!("videotestsrc ! {text}")).1.is_replaceable
    };
    assert!(ending("", ""));
    assert!(ending("videoconvert", "videoconvert n-threads=2"));
    assert!(ending(
        "videoscale method=bilinear2 add-borders=false ! videoconvert",
        "videoconvertscale method=bilinear2 add-borders=false"
    ));
    for (from, to) in [
        ("bilinear2", "lanczos"),
        (" add-borders=false", ""),
        ("videoconvert", "videoconvert dither=none"),
        ("videoscale method=bilinear2 add-borders=false ! ", ""),
        ("[1,288]", "[1,360]"),
        ("height=[1,288]", "height=288"),
        ("format=RGB", "width=512,format=RGB"),
        ("videoconvert", "videoconvert ! identity"),
        ("! videoconvert", "! video/x-raw,width=320 ! videoconvert"),
    ] {
        assert!(!ending(from, to), "{from} to {to}");
    }
}

/// The caps of the pictures of `format` that reach the sink.
fn delivered(format: &str, is_sideways: bool) -> String {
    let (pipeline, filter) = filter(&format!(
        "videotestsrc num-buffers=2 ! video/x-raw,width=640,height=480,{format} ! queue name=queue ! {ENDING}"
    ));
    filter.set_sideways(is_sideways);
    let entry = pipeline.by_name("queue").unwrap().static_pad("src").unwrap();
    let at_entry = filter.clone();
    entry.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view()) {
            at_entry.set_input(caps.caps(), false);
        }
        gst::PadProbeReturn::Ok
    });
    let sink = pipeline.by_name("video").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let sample = sink.pull_sample().unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
    format!("{} {}x{}", info.format(), info.width(), info.height())
}

#[test]
fn only_planes_that_ours_reads_reach_the_sink() {
    assert_eq!(delivered("format=I420", false), "I420 640x480");
    assert_eq!(delivered("format=NV12", false), "NV12 640x480");
    assert_eq!(delivered("format=I420", true), "I420 640x480");
    for format in [
        "format=Y42B",
        "format=I420_10LE",
        "format=GRAY8",
        "format=I420,interlace-mode=interleaved",
        "format=I420,colorimetry=(string)1:2:5:1",
        "format=NV21",
    ] {
        assert_eq!(delivered(format, false), "RGB 384x288", "{format}");
        assert_eq!(delivered(format, true), "RGB 288x216", "{format}");
    }
}

#[test]
fn sizes_are_those_of_the_scaler() {
    let of = |caps: &str, is_sideways| size(&info(&format!("video/x-raw,format=I420,{caps}")), 288, is_sideways);
    assert_eq!(of("width=1920,height=1080", false), Some((512, 288)));
    assert_eq!(of("width=1920,height=1080", true), Some((288, 162)));
    assert_eq!(of("width=200,height=480", true), Some((200, 480)));
    assert_eq!(of("width=720,height=576,pixel-aspect-ratio=16/15", false), Some((384, 288)));
    assert_eq!(of("width=1,height=1", false), Some((1, 1)));
    assert_eq!(of("width=2,height=3000", false), Some((1, 288)), "a picture has pixels");
    assert_eq!(of("width=4000,height=1,pixel-aspect-ratio=60/1", false), None, "wider than any picture");
}
