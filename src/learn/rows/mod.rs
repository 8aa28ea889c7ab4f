//! Rows: cached inputs of training, computed once and stored on disk.
//!
//! A row stands for one model input (a frame, a pair or a second of sound), unchanged (view 0) or as a random view (1…). It
//! holds the activations at the border between the frozen and the trained blocks, as `f16`, and the pooled features of the
//! whole network before training, for step 1. When no block is frozen, the activations are the model inputs.
//!
//! Rows are stored in chunk files. The name of a chunk is a hash of everything that its rows depend on, so a resumed run finds
//! the complete chunks of the interrupted one. `make` computes rows, `chunk` stores them.

mod chunk;
mod make;
mod network;

use std::path::PathBuf;

use candle_core::{Device, Tensor};

pub use make::{WantedRow, make};
pub use network::RowNetwork;

use self::chunk::Chunk;
use super::dataset::{Dataset, Item, Kind};
use super::inputs::Inputs;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

/// Identifies the model input that a row stands for. Several frames or pairs of one second share a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Index into the dataset's items.
    pub item: u32,
    /// Index of the second within the item.
    pub second: u32,
    /// 0 for the unchanged input, from 1 for random views.
    pub view: u32,
}

/// Parameters that rows are computed with.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Modality of the network.
    pub modality: Modality,
    /// Feature parameters of the model inputs.
    pub inputs: Inputs,
    /// Number of frozen blocks, from the first on.
    pub frozen: usize,
    /// Whether rows hold pooled features, which step 1 needs.
    pub pooled: bool,
    /// Whether rows hold activations, which step 2 needs.
    pub activations: bool,
    /// Most frames or pairs per second in a random view. View 0 has all.
    pub frames: u32,
    /// Seed of the random views.
    pub seed: u64,
}

/// The rows of one modality.
#[derive(Debug)]
pub struct Rows {
    /// Key of each row.
    pub keys: Vec<Key>,
    /// Number of pooled features per row.
    pub width: usize,
    /// Channels, height and width of a row's activations.
    pub shape: [usize; 3],
    /// Row-major; `keys.len() * width` values.
    pooled: Vec<f32>,
    chunks: Vec<Chunk>,
    /// Index of the chunk of each row, and the row's index within the chunk.
    places: Vec<(u32, u32)>,
    /// Files of items that could not be read, with the cause.
    pub skipped: Vec<(PathBuf, String)>,
}

impl Rows {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Removes the files of the rows from the cache. The rows stay readable.
    pub fn remove_files(&self) {
        for chunk in &self.chunks {
            // A file that stays only takes space.
            let _ = std::fs::remove_file(chunk.path());
        }
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the pooled features of the given rows, (N, width).
    ///
    /// # Errors
    /// When the tensor cannot be created on the device.
    ///
    /// # Panics
    /// If a row index is out of range.
    pub fn pooled(&self, rows: &[u32], device: &Device) -> Result<Tensor> {
        let mut values = Vec::with_capacity(rows.len() * self.width);
        for row in rows {
            let at = *row as usize * self.width;
            values.extend_from_slice(&self.pooled[at..at + self.width]);
        }
        Ok(Tensor::from_vec(values, (rows.len(), self.width), device)?)
    }

    /// Returns the mean square of a pooled feature.
    pub fn mean_square(&self) -> f64 {
        let sum: f64 = self.pooled.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        sum / self.pooled.len().max(1) as f64
    }

    /// Returns the activations of the given rows at the border, channel-major, (C, N, H, W). The rows must have been made with
    /// [`Recipe::activations`].
    ///
    /// # Errors
    /// [`Error::Data`] when a chunk file cannot be read; an error of the device when the tensor cannot be created.
    ///
    /// # Panics
    /// If a row index is out of range.
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

/// Returns whether a modality may be trained or validated on an item. An item with little of its sport is not used.
pub fn teaches(modality: Modality, item: &Item) -> bool {
    !item.weak
        && match modality {
            Modality::Rgb => item.kind != Kind::Sound,
            Modality::Flow => item.kind == Kind::Clip,
            Modality::Audio => !item.kind.is_still() && item.audible,
        }
}

/// Describes everything that a row depends on besides its item. It is part of the hash in a chunk's name.
fn dependencies(dataset: &Dataset, network: &str, recipe: &Recipe) -> String {
    let Recipe { modality, inputs, frozen, pooled, activations, frames, seed } = recipe;
    let params = match modality {
        Modality::Rgb => format!("{:?} without bars", inputs.rgb),
        Modality::Flow => format!("{:?}", inputs.flow),
        Modality::Audio => format!("{:?}", inputs.audio),
    };
    let fingerprint = dataset.fingerprint();
    let pooled = if *pooled { "" } else { " without pooled" };
    format!("{fingerprint} {network} {modality} {params} {frozen} {activations} {frames} {seed}{pooled}")
}

fn unreadable(path: &std::path::Path, cause: impl std::fmt::Display) -> Error {
    Error::data(path, cause.to_string(), "delete this file and run the command again; the file is computed again")
}
