//! A shard: the seconds of one recording, or of a part of it, in one safetensors file.
//!
//! It contains only the frames that the sampling plan selected, without loss: as PNG (a tensor with one axis), or as RGB8 (height
//! × width × 3) where PNG is not smaller. The sound has one f32 row for each second with sound. All other data, including the
//! fingerprints for finding duplicates, is JSON in the file's metadata, so that it can be read without the pictures.
//!
//! A second read from a shard equals the one that was cut, except for its time of arrival.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageFormat};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::prints::Print;
use touchline_compute::infer::is_silent;
use touchline_core::clip::{Absent, ClipSecond, FlowPair, FrameShare};
use touchline_core::error::{Error, Result};
use touchline_core::frame::Frame;
use touchline_core::pool::Pooled;
use touchline_core::tier::DecodeTier;
use touchline_core::time::{Pts, RunId};

/// Version of the format. Increase it when older shards must not be read any more.
pub(super) const VERSION: u32 = 1;

/// Key of the header in the file's metadata.
const HEADER_KEY: &str = "touchline";

/// Limit of the safetensors crate for the header, bytes.
const HEADER_MAX: u64 = 100_000_000;

/// The contents of a shard without pixels and samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub version: u32,
    pub seconds: Vec<SecondHeader>,
    /// Whether this is the last shard of the recording.
    pub last: bool,
}

/// A [`ClipSecond`] without pixels and samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SecondHeader {
    pub run: u32,
    pub index: u64,
    pub frames_seen: u32,
    /// PTS of the frames, ns.
    pub pts: Vec<u64>,
    pub rgb: Vec<usize>,
    /// Indices of the first and the second frame, and their distance in ns.
    pub pairs: Vec<(usize, usize, u64)>,
    /// Largest magnitude of the samples; `None` without sound.
    pub peak: Option<f32>,
    pub audio_missing: u32,
    pub rgb_absent: Option<Absent>,
    pub flow_absent: Option<Absent>,
    pub audio_absent: Option<Absent>,
    /// Fingerprint of the middle RGB frame.
    pub print: Option<Print>,
}

impl SecondHeader {
    /// Returns whether there is sound that is not silence. The rule is that of serving, which depends on the peak only.
    pub fn is_audible(&self) -> bool {
        let second = |peak| ClipSecond { audio: Some(vec![peak]), ..ClipSecond::of_pictures(Vec::new()) };
        self.peak.is_some_and(|peak| !is_silent(&second(peak)))
    }
}

/// A frame in the form in which it is stored.
struct StoredFrame {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Collects the seconds of a shard. Frames are encoded when they are added.
#[derive(Default)]
pub(super) struct Draft {
    seconds: Vec<SecondHeader>,
    frames: Vec<StoredFrame>,
    /// Samples of all seconds with sound, little-endian f32.
    audio: Vec<u8>,
    audio_rows: usize,
    /// Samples per row.
    rate: usize,
}

impl Draft {
    /// Returns the number of seconds.
    pub fn len(&self) -> usize {
        self.seconds.len()
    }

    /// Adds a second.
    pub fn push(&mut self, second: &ClipSecond) {
        for (n, frame) in second.frames.iter().enumerate() {
            self.frames.push(store(name(self.seconds.len(), n), frame));
        }
        if let Some(samples) = &second.audio {
            self.audio.extend(samples.iter().flat_map(|s| s.to_le_bytes()));
            self.audio_rows += 1;
            self.rate = samples.len();
        }
        let middle = second.rgb.get(second.rgb.len() / 2).and_then(|i| second.frames.get(*i));
        self.seconds.push(SecondHeader {
            run: second.run.0,
            index: second.index,
            frames_seen: second.frames_seen,
            pts: second.frames.iter().map(|f| f.pts.0).collect(),
            rgb: second.rgb.clone(),
            pairs: second.pairs.iter().map(|p| (p.first, p.second, p.gap_ns)).collect(),
            peak: second.audio.as_ref().map(|a| a.iter().fold(0.0, |max: f32, s| max.max(s.abs()))),
            audio_missing: second.audio_missing,
            rgb_absent: second.rgb_absent,
            flow_absent: second.flow_absent,
            audio_absent: second.audio_absent,
            print: middle.map(|frame| Print::of(frame.view())),
        });
    }

    /// Writes the seconds added since the last call to the shard `path`, and returns its header. `last` marks the last shard of a
    /// recording.
    ///
    /// # Errors
    /// [`Error::Output`] when the file cannot be written, for example because the disk is full.
    pub fn write(&mut self, path: &Path, last: bool) -> Result<Header> {
        let draft = std::mem::take(self);
        let header = Header { version: VERSION, seconds: draft.seconds, last };
        let json = serde_json::to_string(&header)
            .map_err(|e| Error::Internal(format!("the header of {} cannot be written: {e}", path.display())))?;
        let broken = |e: safetensors::SafeTensorError| Error::Internal(format!("{}: {e}", path.display()));
        let mut tensors = Vec::with_capacity(draft.frames.len() + 1);
        for stored in &draft.frames {
            let view = TensorView::new(Dtype::U8, stored.shape.clone(), &stored.bytes).map_err(broken)?;
            tensors.push((stored.name.as_str(), view));
        }
        let shape = vec![draft.audio_rows, draft.rate];
        tensors.push(("audio", TensorView::new(Dtype::F32, shape, &draft.audio).map_err(broken)?));
        let metadata = HashMap::from([(HEADER_KEY.to_owned(), json)]);
        let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(broken)?;
        write_atomically(path, &bytes)?;
        Ok(header)
    }
}

/// Writes a file under a temporary name (`.part` appended) and renames it, so that no partial file has the final name.
///
/// # Errors
/// [`Error::Output`] when the file cannot be written.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let write = || {
        let mut file = std::fs::File::create(&part)?;
        file.write_all(bytes)?;
        // Reports a full disk or a lost network folder here, since errors at closing are ignored.
        file.sync_data()?;
        std::fs::rename(&part, path)
    };
    write().map_err(|e| {
        // The partial file is useless and takes space.
        let _ = std::fs::remove_file(&part);
        let advice = "free space, check the permissions or choose another -o, and run the same command again; it continues \
                      where it stopped";
        Error::output(path.display().to_string(), format!("cannot write: {e}"), advice)
    })
}

/// Returns the tensor name of a frame.
fn name(second: usize, frame: usize) -> String {
    format!("frame.{second:03}.{frame:03}")
}

/// Encodes a frame.
fn store(name: String, frame: &Frame) -> StoredFrame {
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive);
    let encoded = encoder.write_image(&frame.data, frame.width, frame.height, ExtendedColorType::Rgb8);
    if encoded.is_ok() && png.len() < frame.data.len() {
        StoredFrame { name, shape: vec![png.len()], bytes: png }
    } else {
        StoredFrame { name, shape: vec![frame.height as usize, frame.width as usize, 3], bytes: frame.data.to_vec() }
    }
}

/// Reads the header of a shard; [`None`] when the file is missing, truncated or of another version.
pub(super) fn header(path: &Path) -> Option<Header> {
    let mut file = std::fs::File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_MAX {
        return None;
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).ok()?;
    let tensors: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&json).ok()?;
    let end = tensors.values().filter_map(|t| t.get("data_offsets")?.get(1)?.as_u64()).max()?;
    if file.metadata().ok()?.len() != 8 + length + end {
        return None;
    }
    parse_header(tensors.get("__metadata__")?.get(HEADER_KEY)?.as_str()?)
}

/// Parses a header; [`None`] when it is invalid or of another version.
fn parse_header(json: &str) -> Option<Header> {
    serde_json::from_str(json).ok().filter(|h: &Header| h.version == VERSION)
}

/// Reads the seconds of a shard.
///
/// # Errors
/// [`Error::Data`] with the path when the file is missing or damaged.
pub(super) fn read(path: &Path) -> Result<Vec<ClipSecond>> {
    let broken = |cause: String| {
        Error::data(path, cause, "delete it and run `touchline dataset build` again with the same arguments")
    };
    let bytes = std::fs::read(path).map_err(|e| broken(e.to_string()))?;
    let damaged = |e: safetensors::SafeTensorError| broken(format!("damaged: {e}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let json = metadata.metadata().as_ref().and_then(|m| m.get(HEADER_KEY));
    let header = json.and_then(|j| parse_header(j)).ok_or_else(|| broken("not a shard of this version".to_owned()))?;
    let audio = tensors.tensor("audio").map_err(damaged)?;
    let mut rows = match (audio.dtype(), audio.shape()) {
        (Dtype::F32, [_, rate]) => audio.data().chunks_exact((rate * 4).max(1)),
        _ => return Err(broken("damaged: the sound is not in rows of f32".to_owned())),
    };
    header
        .seconds
        .into_iter()
        .enumerate()
        .map(|(n, second)| {
            let frames = second
                .pts
                .iter()
                .enumerate()
                .map(|(i, pts)| {
                    let tensor = tensors.tensor(&name(n, i)).map_err(damaged)?;
                    frame(&tensor, Pts(*pts)).ok_or_else(|| broken(format!("damaged: frame {i} of second {n}")))
                })
                .collect::<Result<Vec<_>>>()?;
            let row = second.peak.is_some().then(|| rows.next());
            let is_whole = row != Some(None)
                && second.rgb.iter().chain(second.pairs.iter().flat_map(|(a, b, _)| [a, b])).all(|i| *i < frames.len());
            if !is_whole {
                return Err(broken(format!("damaged: second {n} refers to missing frames or sound")));
            }
            Ok(ClipSecond {
                run: RunId(second.run),
                index: second.index,
                frames,
                rgb: second.rgb,
                pairs: second
                    .pairs
                    .into_iter()
                    .map(|(first, second, gap_ns)| FlowPair { first, second, gap_ns })
                    .collect(),
                frame_share: FrameShare::ALL,
                tier: DecodeTier::Full,
                frames_seen: second.frames_seen,
                audio: row.flatten().map(samples),
                audio_missing: second.audio_missing,
                rgb_absent: second.rgb_absent,
                flow_absent: second.flow_absent,
                audio_absent: second.audio_absent,
                wall: None,
                timecode: None,
                arrived_ns: 0,
                behind_ns: 0,
            })
        })
        .collect()
}

/// Decodes a row of little-endian f32 samples.
fn samples(row: &[u8]) -> Vec<f32> {
    row.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Decodes a frame; [`None`] when it is damaged.
fn frame(tensor: &TensorView<'_>, pts: Pts) -> Option<Frame> {
    let (data, width, height) = match tensor.shape() {
        [_] => {
            let image = image::load_from_memory_with_format(tensor.data(), ImageFormat::Png).ok()?.into_rgb8();
            let (width, height) = image.dimensions();
            (image.into_raw(), width, height)
        }
        [height, width, 3] => (tensor.data().to_vec(), *width as u32, *height as u32),
        _ => return None,
    };
    // safetensors has checked the length of the tensor against its shape, and a decoded picture is complete.
    Some(Frame::new(Pooled::detached(data), width, height, pts, 0))
}
