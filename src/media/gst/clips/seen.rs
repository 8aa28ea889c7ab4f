//! Seconds as the models saw them, as a media file: the sampled pictures as JPEG and the sound as 16-bit samples, in Matroska.
//!
//! A dataset is built from such a file as from any recording. The clip builder samples it again and finds the same pictures, because the
//! file has no others.

use std::path::Path;

use gstreamer as gst;

use super::mux::Muxer;
use super::unit::Unit;
use super::{ClipError, ClipFile};
use touchline_core::item::Track;
use touchline_core::time::NANOS_PER_SECOND;

/// The rate of the silence in files without sound, samples per second.
const SILENT_RATE: u32 = 8000;

/// The frame rate that the file names, pictures per second. Pictures have their own times; some decoders want a rate.
const NOMINAL_RATE: i32 = 25;

/// A sampled picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPicture {
    /// Its time in the second, ns.
    pub offset_ns: u64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The picture as JPEG.
    pub jpeg: Vec<u8>,
}

/// What the models saw of one second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenSecond {
    /// The pictures in the order of their times.
    pub pictures: Vec<SeenPicture>,
    /// Mono samples; empty without sound.
    pub sound: Vec<i16>,
}

impl SeenSecond {
    /// Size of the pictures and the sound.
    pub fn bytes(&self) -> usize {
        self.pictures.iter().map(|picture| picture.jpeg.len()).sum::<usize>() + self.sound.len() * size_of::<i16>()
    }

    /// Whether there is sound.
    pub fn has_sound(&self) -> bool {
        !self.sound.is_empty()
    }
}

/// Writes `seconds` as consecutive seconds of the file `name` (without extension) in `dir`. Sound has `rate` samples per second.
///
/// The file always has sound, silence where there is none: it begins at the begin of the first second, and so fixes where a reader cuts
/// the seconds. A silent track teaches nothing.
///
/// # Errors
/// Those of the muxer and the disk. No part of a file stays.
pub fn write_seen<'a>(
    dir: &Path,
    name: &str,
    rate: Option<u32>,
    seconds: impl IntoIterator<Item = &'a SeenSecond>,
) -> Result<ClipFile, ClipError> {
    crate::gst::init().map_err(|e| ClipError::Failed(e.to_string()))?;
    let rate = rate.unwrap_or(SILENT_RATE);
    let seconds: Vec<&SeenSecond> = seconds.into_iter().collect();
    let has_pictures = seconds.iter().any(|second| !second.pictures.is_empty());
    let mut muxer = Muxer::new(dir, name, [has_pictures, true], 0);
    let sound_caps = gst::Caps::builder("audio/x-raw")
        .field("format", "S16LE")
        .field("layout", "interleaved")
        .field("rate", i32::try_from(rate).unwrap_or(i32::MAX))
        .field("channels", 1)
        .build();
    for (at_ns, second) in (0..).step_by(NANOS_PER_SECOND as usize).zip(seconds) {
        let mut samples = second.sound.clone();
        samples.resize(rate as usize, 0);
        let sound = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        muxer.push(&unit(Track::Audio, at_ns, NANOS_PER_SECOND, sound, &sound_caps))?;
        for picture in &second.pictures {
            let caps = gst::Caps::builder("image/jpeg")
                .field("width", i32::try_from(picture.width).unwrap_or(i32::MAX))
                .field("height", i32::try_from(picture.height).unwrap_or(i32::MAX))
                .field("framerate", gst::Fraction::new(NOMINAL_RATE, 1))
                .build();
            let unit = unit(Track::Video, at_ns + picture.offset_ns, 0, picture.jpeg.clone(), &caps);
            // Of another size, after a change of the source. A file has one size, and a second with fewer pictures is still one.
            if muxer.accepts(&unit) {
                muxer.push(&unit)?;
            }
        }
    }
    muxer.finish()?.ok_or(ClipError::NoMedia)
}

fn unit(track: Track, at_ns: u64, length_ns: u64, bytes: Vec<u8>, caps: &gst::Caps) -> Unit {
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    let fields = buffer.get_mut().expect("nothing else holds it");
    if length_ns > 0 {
        fields.set_duration(gst::ClockTime::from_nseconds(length_ns));
    }
    Unit::new(track, i64::try_from(at_ns).unwrap_or(i64::MAX), buffer, caps.clone(), None)
}
