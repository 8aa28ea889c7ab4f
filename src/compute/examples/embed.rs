//! Embeds the engine: feeds frames and sound of your own, and prints a decision per second.
//!
//! ```sh
//! cargo run --release -p touchline-compute --example embed [PACK] [PICTURE.rgb WIDTHxHEIGHT]
//! ```
//!
//! PACK is a model pack's directory, by default `weights/compact`. PICTURE.rgb is one picture as packed RGB8, which is shown
//! as a still; `ffmpeg -i IN -frames:v 1 -pix_fmt rgb24 -f rawvideo PICTURE.rgb` writes one. Without it a synthetic, moving
//! texture with a tone is shown. GStreamer is not needed.

use std::error::Error;
use std::path::PathBuf;

use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, ClipSecond, LagLimits};
use touchline_core::frame::Frame;
use touchline_core::item::{End, MediaItem, Pace, Tracks};
use touchline_core::observer::{DeviceFault, Observer, Stage};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;
use touchline_core::time::{Pts, WallSource, WallTime};

/// Frames per second of the material.
const FPS: u64 = 25;

/// Sample rate of the material, Hz. The clip builder resamples it to the pack's rate.
const RATE: u32 = 48_000;

/// Length of the material, seconds.
const SECONDS: u64 = 3;

/// Ignores timings and faults. A server exports them as metrics.
struct Quiet;

impl Observer for Quiet {
    fn observe_stage(&self, _stage: Stage, _ns: u64) {}

    fn device_fault(&self, _fault: DeviceFault) {}
}

/// A picture: packed RGB8, width and height in pixels.
struct Picture {
    data: Vec<u8>,
    width: u32,
    height: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let pack = arguments.first().map_or_else(|| PathBuf::from("weights/compact"), PathBuf::from);
    let still = match arguments.get(1..3) {
        Some([file, size]) => Some(read(file, size)?),
        _ => None,
    };

    // `pack.precision` and `pack.placement` choose how and where the models compute; by default in f32 on the CPU.
    let pack = Pack::open(&pack)?;
    let mut engine = Engine::load(pack)?;
    let pack = engine.pack();

    // The clip builder cuts seconds by PTS and takes the frames, pairs and samples that the pack needs.
    let mut builder = ClipBuilder::new(ClipConfig {
        sample_rate: pack.sample_rate(),
        plan: pack.plan.clone(),
        lag: LagLimits::for_pace(Pace::File),
        behind_ns: 0,
    });
    let tracks = Tracks { video: true, audio: still.is_none() };
    let mut cut = Vec::new();
    builder.push(MediaItem::Opened(tracks), &mut cut);
    for n in 0..SECONDS * FPS {
        let picture = still.as_ref().map_or_else(|| texture(n), |still| Picture { data: still.data.clone(), ..*still });
        builder.push(MediaItem::Frame(frame(picture, Pts(n * 1_000_000_000 / FPS))), &mut cut);
        if tracks.audio {
            builder.push(MediaItem::Pcm(tone(n)), &mut cut);
        }
    }
    builder.push(MediaItem::Ended(End::Finished), &mut cut);

    let seconds: Vec<ClipSecond> = cut
        .into_iter()
        .filter_map(|output| match output {
            ClipOutput::Second(second) => Some(second),
            // Gaps and notices. A server reports them.
            _ => None,
        })
        .collect();
    // One batch. A live program scores each second as soon as it has been cut.
    let scored = engine.score(&seconds.iter().collect::<Vec<_>>(), &Quiet)?;
    for (second, scored) in seconds.iter().zip(scored) {
        let arrival = WallTime { unix_ns: 0, source: WallSource::Arrival, uncertainty_ns: 0 };
        match engine.decide(second, scored, arrival) {
            Some(prediction) => {
                let decision = &prediction.decision;
                let class = engine.pack().classes.name(decision.label);
                println!(
                    "second {}: {class}, probability {:.2}, decided by {}",
                    second.index, decision.probability, decision.modality
                );
            }
            None => println!("second {}: no input for any model", second.index),
        }
    }
    Ok(())
}

/// Reads a picture of packed RGB8; `size` is WIDTHxHEIGHT.
fn read(file: &str, size: &str) -> Result<Picture, Box<dyn Error>> {
    let (width, height) = size.split_once('x').ok_or("give the size as WIDTHxHEIGHT")?;
    let (width, height) = (width.parse()?, height.parse()?);
    let data = std::fs::read(file)?;
    if data.len() as u64 != 3 * u64::from(width) * u64::from(height) {
        return Err(format!("{file} has {} bytes, and {width}x{height} RGB8 has three per pixel", data.len()).into());
    }
    Ok(Picture { data, width, height })
}

/// A texture that moves with `n`.
fn texture(n: u64) -> Picture {
    let (width, height) = (512, 288);
    let wave = |x: u64, y: u64| (((x + 3 * n) as f32 * 0.05).sin() * (y as f32 * 0.03).cos() * 90.0 + 128.0) as u8;
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let data = pixels.flat_map(|(x, y)| [wave(x, y), wave(x + 40, y), wave(x, y + 40)]).collect();
    Picture { data, width: width as u32, height: height as u32 }
}

/// Wraps a picture as a frame. Data from a [`touchline_core::pool::Pool`] would be reused instead of freed.
fn frame(picture: Picture, pts: Pts) -> Frame {
    Frame::new(Pooled::detached(picture.data), picture.width, picture.height, pts, pts.0)
}

/// The stereo sound of frame `n`.
fn tone(n: u64) -> PcmChunk {
    let per_frame = u64::from(RATE) / FPS;
    let sample = |i: u64| ((i / 2) as f32 * 440.0 * std::f32::consts::TAU / RATE as f32).sin() * 0.3;
    let data = (2 * n * per_frame..2 * (n + 1) * per_frame).map(sample).collect();
    let pts = Pts(n * 1_000_000_000 / FPS);
    PcmChunk::new(Pooled::detached(data), RATE, 2, pts, pts.0)
}
