//! Datasets: labelled recordings and stills, cut into seconds once. Training and evaluation read the same seconds that serving
//! would cut, without decoding a recording again.
//!
//! A dataset is a directory:
//!
//! | file | contents |
//! |---|---|
//! | `dataset.toml` | how the seconds were cut, where the material is stored |
//! | `items.csv` | a line for each recording (or part of one) and still |
//! | `shards/*.safetensors` | the seconds; stills are not copied |
//! | `split.csv` | the side of every item (`touchline dataset split`) |
//! | `skipped.csv` | files that could not be read, with the cause |
//! | `duplicates.csv` | pairs of items that show the same |
//!
//! `manifest` finds the material, [`build`] cuts it, `shard` stores it, `duplicates` groups items that show the same, [`split`]
//! and [`folds`] divide it, [`stats`] counts it. Features are not computed here.

pub mod build;
mod cut;
mod duplicates;
mod folder;
pub mod folds;
mod index;
pub mod manifest;
mod prints;
mod shard;
pub mod split;
pub mod stats;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::cut::{seconds, seconds_until, still};
use self::split::Side;
use touchline_compute::models::sha256_hex;
use touchline_core::clip::{ClipSecond, SamplingPlan};
use touchline_core::error::{Error, Result};

/// Kind of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A photograph: RGB only. Each photograph is a source of its own.
    Picture,
    /// A video, with or without sound.
    Clip,
    /// Sound without pictures.
    Sound,
    /// A still of a broadcast or of other footage of play: RGB only. Frames of one recording look alike, so the frames of a
    /// source stay together. They differ from photographs more than two sports differ, so they are measured separately.
    Frame,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 4] = [Kind::Picture, Kind::Clip, Kind::Sound, Kind::Frame];

    /// Returns whether an item of the kind is a single picture without time or sound.
    pub const fn is_still(self) -> bool {
        matches!(self, Kind::Picture | Kind::Frame)
    }

    /// Returns the plural for messages and reports.
    pub const fn plural(self) -> &'static str {
        match self {
            Kind::Picture => "pictures",
            Kind::Clip => "clips",
            Kind::Sound => "sounds",
            Kind::Frame => "frames",
        }
    }

    /// Returns the name of the kind's folder in labelled folders.
    pub const fn folder(self) -> &'static str {
        match self {
            Kind::Picture => "images",
            Kind::Clip => "clips",
            Kind::Sound => "sounds",
            Kind::Frame => "frames",
        }
    }
}

/// One labelled recording, part of a recording, or still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Kind of the item.
    pub kind: Kind,
    /// Path as the material gives it: relative to the input folder, or to the folder of the CSV, so that it is the same on every
    /// machine. [`Dataset::file`] returns the absolute path.
    pub path: PathBuf,
    /// Class name.
    pub class: String,
    /// Source as the material states it, such as a match or a channel.
    pub source: String,
    /// Group that stays on one side of a split: the source, merged with others by near-duplicates. A picture of labelled folders
    /// is a group of its own.
    pub group: String,
    /// Whether little of the sport is shown. Such an item is not used for training or validation.
    pub weak: bool,
    /// Whether the item has sound that is not silence.
    pub audible: bool,
    /// Licence as the material states it; often empty.
    pub licence: String,
    /// For a part of a recording: no second begins before this, ns of the recording's time.
    pub start_ns: Option<u64>,
    /// For a part of a recording: no second ends after this, ns of the recording's time.
    pub end_ns: Option<u64>,
    /// Number of seconds; 1 for a still.
    pub seconds: u32,
    /// File name in `shards/`; [`None`] for a still.
    pub shard: Option<String>,
}

/// Parameters that the seconds were cut with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Version of the directory's format.
    pub format: u32,
    /// Largest height of pictures, lines. Higher pictures were scaled down.
    pub frame_height: u32,
    /// Sample rate of the mono sound, Hz.
    pub sample_rate: u32,
    /// Frames and pairs of each second.
    pub plan: SamplingPlan,
}

impl Meta {
    /// Distance between the two frames of a pair, milliseconds.
    pub fn flow_gap_ms(&self) -> u32 {
        u32::try_from(self.plan.flow_gap_ns / 1_000_000).unwrap_or(u32::MAX)
    }
}

/// Data that the index stores with an item.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ItemOrigin {
    /// Index into the roots.
    pub root: u32,
    /// Hash of the file's path, length and time of change, and of the parameters of the cut.
    pub key: String,
}

/// A built dataset. Reading does not change it, so several threads can read at the same time.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Directory of the dataset.
    pub dir: PathBuf,
    /// Parameters that the seconds were cut with.
    pub meta: Meta,
    /// Items, in the order of the material.
    pub items: Vec<Item>,
    origins: Vec<ItemOrigin>,
    roots: Vec<PathBuf>,
    sides: Sides,
}

/// State of the split.
#[derive(Clone, Debug)]
enum Sides {
    /// The side of every item.
    Known(Vec<Side>),
    /// The dataset was never split.
    Missing,
    /// The items have changed since the split.
    Stale,
}

impl Dataset {
    /// Opens a dataset that [`build::build`] wrote.
    ///
    /// # Errors
    /// [`Error::Data`], with file and line, when the directory is not a dataset, is incomplete or is damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        index::open(dir)
    }

    /// Returns the side of every item, in their order.
    ///
    /// # Errors
    /// [`Error::Data`] when the dataset is not split, or its items have changed since.
    pub fn sides(&self) -> Result<&[Side]> {
        let cause = match &self.sides {
            Sides::Known(sides) => return Ok(sides),
            Sides::Missing => "it is not split",
            Sides::Stale => "it was built again after it was split",
        };
        Err(Error::data(&self.dir, cause, format!("run `touchline dataset split {}`", self.dir.display())))
    }

    /// Returns the path of an item's file.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn file(&self, index: usize) -> PathBuf {
        self.roots[self.origins[index].root as usize].join(&self.items[index].path)
    }

    /// Returns the seconds of an item: those that serving would cut, without the time of arrival. A still is one second with one
    /// picture.
    ///
    /// # Errors
    /// [`Error::Data`] when the shard or the still is missing or damaged.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn seconds(&self, index: usize) -> Result<Vec<ClipSecond>> {
        match &self.items[index].shard {
            Some(shard) => shard::read(&self.dir.join(index::SHARDS).join(shard)),
            None => Ok(vec![still(&self.file(index), self.meta.frame_height)?]),
        }
    }

    /// Returns the class names of the items, sorted.
    pub fn class_names(&self) -> Vec<String> {
        self.items.iter().map(|i| i.class.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Returns a hash of everything that features depend on, as 64 hex digits: the items in their order, their contents and the
    /// parameters of the cut. Labels and split are not included.
    pub fn fingerprint(&self) -> String {
        let mut text = format!("{:?}\n", self.meta);
        for (item, origin) in self.items.iter().zip(&self.origins) {
            let shard = item.shard.as_deref().unwrap_or("-");
            // Frames and pictures have the same features. The difference is a label.
            let kind = if item.kind.is_still() { Kind::Picture } else { item.kind };
            text += &format!("{kind:?} {} {shard} {} {}\n", origin.key, item.seconds, item.audible);
        }
        sha256_hex(text.as_bytes())
    }
}

#[cfg(test)]
mod tests;
