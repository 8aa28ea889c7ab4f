//! A shard: the seconds of one recording, or of a part of it, in one safetensors file.
//!
//! Only the frames that the sampling plan chose are in it, without loss: as PNG (a tensor with one axis), or as they
//! are where PNG is not smaller (height × width × 3). The sound is one f32 row a second that has any. All else, and what
//! is needed to find duplicates, is JSON in the file's metadata, so that it can be read without the pictures.
//!
//! A second read from a shard equals the one that was cut, except for when it arrived.

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
use touchline_core::time::{Pts, RunId};

/// Changes whenever an older shard must not be read any more.
pub(super) const VERSION: u32 = 1;

/// Key of the header in the file's metadata.
const HEADER_KEY: &str = "touchline";

/// safetensors' own bound on the header, in bytes.
const HEADER_MAX: u64 = 100_000_000;

/// All but pixels and samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub version: u32,
    pub seconds: Vec<SecondHeader>,
    /// No further shard of the recording follows.
    pub last: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SecondHeader {
    pub run: u32,
    pub index: u64,
    pub frames_seen: u32,
    /// PTS of the frames, ns.
    pub pts: Vec<u64>,
    pub rgb: Vec<usize>,
    /// First, second, distance in ns.
    pub pairs: Vec<(usize, usize, u64)>,
    /// The greatest sample without sign, where there is sound.
    pub peak: Option<f32>,
    pub audio_missing: u32,
    pub rgb_absent: Option<Absent>,
    pub flow_absent: Option<Absent>,
    pub audio_absent: Option<Absent>,
    /// Of the middle RGB frame.
    pub print: Option<Print>,
}

impl SecondHeader {
    /// Whether there is sound, and no silence: by the rule that serving has for a second, of which the greatest sample
    /// tells as much as all of them.
    pub fn sounds(&self) -> bool {
        let heard = |peak| ClipSecond { audio: Some(vec![peak]), ..ClipSecond::of_pictures(Vec::new()) };
        self.peak.is_some_and(|peak| !is_silent(&heard(peak)))
    }
}

/// A frame as it is stored.
struct Stored {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Seconds on their way into a shard; frames are encoded as they come.
#[derive(Default)]
pub(super) struct Draft {
    seconds: Vec<SecondHeader>,
    frames: Vec<Stored>,
    /// Little-endian f32.
    audio: Vec<u8>,
    audio_rows: usize,
    rate: usize,
}

impl Draft {
    pub fn len(&self) -> usize {
        self.seconds.len()
    }

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

    /// Writes what came since the last call as `path`: whole or not at all.
    ///
    /// # Errors
    /// [`Error::Output`], as when the disk is full.
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
        whole_or_nothing(path, &bytes)?;
        Ok(header)
    }
}

/// Writes a file beside its place (name + `.part`) and moves it there.
///
/// # Errors
/// [`Error::Output`].
pub(super) fn whole_or_nothing(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let write = || {
        let mut file = std::fs::File::create(&part)?;
        file.write_all(bytes)?;
        // A full disk or a lost network folder is told here at the latest, not when the file is closed.
        file.sync_data()?;
        std::fs::rename(&part, path)
    };
    write().map_err(|e| {
        // What is there of it is of no use, and takes the space that is missing.
        let _ = std::fs::remove_file(&part);
        let advice = "free space, check the permissions or choose another -o, and run the same command again: it goes on \
                      where it stopped";
        Error::output(path.display().to_string(), format!("cannot write: {e}"), advice)
    })
}

fn name(second: usize, frame: usize) -> String {
    format!("frame.{second:03}.{frame:03}")
}

fn store(name: String, frame: &Frame) -> Stored {
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive);
    let encoded = encoder.write_image(&frame.data, frame.width, frame.height, ExtendedColorType::Rgb8);
    if encoded.is_ok() && png.len() < frame.data.len() {
        Stored { name, shape: vec![png.len()], bytes: png }
    } else {
        Stored { name, shape: vec![frame.height as usize, frame.width as usize, 3], bytes: frame.data.to_vec() }
    }
}

/// The header alone; [`None`] for a file that is not there, not whole, or of another version.
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

fn parse_header(json: &str) -> Option<Header> {
    serde_json::from_str(json).ok().filter(|h: &Header| h.version == VERSION)
}

/// The seconds of a shard.
///
/// # Errors
/// [`Error::Data`] naming the file when it is missing or damaged.
pub(super) fn read(path: &Path) -> Result<Vec<ClipSecond>> {
    let broken = |cause: String| {
        Error::data(path, cause, "delete it and run `touchline dataset build` with the same arguments again")
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
        _ => return Err(broken("damaged: the sound is not f32 rows".to_owned())),
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
                return Err(broken(format!("damaged: second {n} names what is not there")));
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
                frames_seen: second.frames_seen,
                audio: row.flatten().map(samples),
                audio_missing: second.audio_missing,
                rgb_absent: second.rgb_absent,
                flow_absent: second.flow_absent,
                audio_absent: second.audio_absent,
                wall: None,
                arrived_ns: 0,
                behind_ns: 0,
            })
        })
        .collect()
}

fn samples(row: &[u8]) -> Vec<f32> {
    row.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

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
    // The tensor's length was checked against its shape, and a decoded picture is whole.
    Some(Frame::new(Pooled::detached(data), width, height, pts, 0))
}
