//! Rows: what training reads again and again, computed once and kept on disk.
//!
//! A row stands for one model input (a frame, a pair, a second of sound), as it is (view 0) or as a random view of it
//! (1…). It holds the activations at the border between the frozen and the learning blocks, as `f16`, and the pooled
//! features of the whole frozen network, for step 1. With nothing frozen the activations are the model inputs.
//!
//! Rows lie in chunk files whose names hash all that they depend on; a run that was cut short finds those that were
//! complete. `make` computes them, `chunk` keeps them.

mod chunk;
mod make;

use std::path::PathBuf;

use candle_core::{Device, Tensor};

pub use make::{Wanted, make};

use self::chunk::Chunk;
use super::dataset::{Dataset, Item, Kind};
use super::inputs::Inputs;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

/// Which input a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Index into the dataset's items.
    pub item: u32,
    /// Second of the recording.
    pub second: u32,
    /// 0 = as it is.
    pub view: u32,
}

/// What rows are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    pub modality: Modality,
    pub inputs: Inputs,
    /// Blocks that do not learn.
    pub frozen: usize,
    /// Whether activations are wanted, or only pooled features.
    pub activations: bool,
    /// Frames (pairs) of a second that a random view takes; view 0 takes all.
    pub frames: u32,
    /// Of the random views.
    pub seed: u64,
}

/// The rows of one modality.
#[derive(Debug)]
pub struct Rows {
    pub keys: Vec<Key>,
    /// Values of a row of pooled features.
    pub width: usize,
    /// Channels, height and width of the activations.
    pub shape: [usize; 3],
    /// `keys.len() * width`
    pooled: Vec<f32>,
    chunks: Vec<Chunk>,
    /// For each row, its chunk and its place in it.
    places: Vec<(u32, u32)>,
    /// Items that could not be read, with the cause.
    pub skipped: Vec<(PathBuf, String)>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Pooled features of some rows, (N, width).
    ///
    /// # Errors
    /// When the device refuses.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn pooled(&self, rows: &[u32], device: &Device) -> Result<Tensor> {
        let mut values = Vec::with_capacity(rows.len() * self.width);
        for row in rows {
            let at = *row as usize * self.width;
            values.extend_from_slice(&self.pooled[at..at + self.width]);
        }
        Ok(Tensor::from_vec(values, (rows.len(), self.width), device)?)
    }

    /// Activations of some rows at the border, channel-major, (C, N, H, W).
    ///
    /// # Errors
    /// [`Error::Data`] when a chunk file cannot be read any more.
    ///
    /// # Panics
    /// If there is no such row, or the recipe did not ask for activations.
    pub fn activations(&self, rows: &[u32], device: &Device) -> Result<Tensor> {
        let [c, h, w] = self.shape;
        let plane = h * w;
        let mut values = vec![0f32; c * rows.len() * plane];
        let mut halves = vec![half::f16::ZERO; c * plane];
        for (n, row) in rows.iter().enumerate() {
            let (chunk, place) = self.places[*row as usize];
            self.chunks[chunk as usize].read(place, &mut halves)?;
            for (channel, source) in halves.chunks_exact(plane).enumerate() {
                let target = &mut values[(channel * rows.len() + n) * plane..][..plane];
                for (t, s) in target.iter_mut().zip(source) {
                    *t = s.to_f32();
                }
            }
        }
        Ok(Tensor::from_vec(values, (c, rows.len(), h, w), device)?)
    }
}

/// The items a modality may learn a class from or be validated on.
pub fn teaches(modality: Modality, item: &Item) -> bool {
    !item.weak
        && match modality {
            Modality::Rgb => item.kind != Kind::Sound,
            Modality::Flow => item.kind == Kind::Clip,
            Modality::Audio => !item.kind.is_still() && item.audible,
        }
}

/// What a row depends on besides its item: part of a chunk's name.
fn ground(dataset: &Dataset, network: &str, recipe: &Recipe) -> String {
    let Recipe { modality, inputs, frozen, activations, frames, seed } = recipe;
    let params = match modality {
        Modality::Rgb => format!("{:?}", inputs.rgb),
        Modality::Flow => format!("{:?}", inputs.flow),
        Modality::Audio => format!("{:?}", inputs.audio),
    };
    let fingerprint = dataset.fingerprint();
    format!("{fingerprint} {network} {modality} {params} {frozen} {activations} {frames} {seed}")
}

fn unreadable(path: &std::path::Path, cause: impl std::fmt::Display) -> Error {
    Error::data(path, cause.to_string(), "delete this file and run again; it is computed anew")
}
