//! Datasets: labelled recordings and stills, cut into seconds once, so that training and evaluation read what serving
//! would cut without decoding a recording again.
//!
//! A dataset is a directory:
//!
//! | file | what |
//! |---|---|
//! | `dataset.toml` | how the seconds were cut, where the material lies |
//! | `items.csv` | a line for each recording (or part of one) and still |
//! | `shards/*.safetensors` | the seconds; stills are not copied |
//! | `split.csv` | the side of every item (`touchline dataset split`) |
//! | `skipped.csv`, `duplicates.csv` | what could not be read, and why; what shows the same |
//!
//! `manifest` finds the material, [`build`] cuts it, `shard` keeps it, `duplicates` says what belongs together, [`split`]
//! divides it, [`stats`] counts it. Features are not computed here.

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

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A photograph: RGB only. Each is its own source.
    Picture,
    /// A video, with or without sound.
    Clip,
    /// Sound without picture.
    Sound,
    /// A still of a broadcast or of other footage of play: RGB only. Frames of one recording look alike, so a source is
    /// kept together; and they differ from photographs more than two sports do, so they are measured apart.
    Frame,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Picture, Kind::Clip, Kind::Sound, Kind::Frame];

    /// One picture without time or sound.
    pub const fn is_still(self) -> bool {
        matches!(self, Kind::Picture | Kind::Frame)
    }

    /// As people read it.
    pub const fn plural(self) -> &'static str {
        match self {
            Kind::Picture => "pictures",
            Kind::Clip => "clips",
            Kind::Sound => "sounds",
            Kind::Frame => "frames",
        }
    }

    /// The folder of labelled material that holds the kind.
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
    pub kind: Kind,
    /// As the material names it: relative to the folder or the CSV that was given (with the folders below it), so that
    /// it is the same on every machine. [`Dataset::file`] says where it lies.
    pub path: PathBuf,
    pub class: String,
    /// Where it comes from, as the material says.
    pub source: String,
    /// What is kept on one side of a split: the source, joined with others by near-duplicates. A picture of labelled
    /// folders is its own source.
    pub group: String,
    /// Little of the sport is shown.
    pub weak: bool,
    /// Has sound that is not silence.
    pub audible: bool,
    /// As the material says, often empty.
    pub licence: String,
    /// Of a part of a recording: its seconds lie wholly after this, ns of the recording's time.
    pub start_ns: Option<u64>,
    /// Of a part of a recording: its seconds lie wholly before this, ns of the recording's time.
    pub end_ns: Option<u64>,
    /// How many seconds it has; 1 for a still.
    pub seconds: u32,
    /// File name in `shards/`; [`None`] for a still.
    pub shard: Option<String>,
}

/// How the seconds were cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Version of the directory's form.
    pub format: u32,
    /// Lines that pictures were scaled down to at most.
    pub frame_height: u32,
    /// Hz of the mono sound.
    pub sample_rate: u32,
    pub plan: SamplingPlan,
}

/// What an index keeps of an item besides the item.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    /// Index into the roots.
    pub root: u32,
    /// Hash of the file's place, length and time of change, and of how it was cut.
    pub key: String,
}

/// A built dataset. Reading it changes nothing, so that several threads may.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub dir: PathBuf,
    pub meta: Meta,
    /// In the order of the material.
    pub items: Vec<Item>,
    origins: Vec<Origin>,
    roots: Vec<PathBuf>,
    sides: Sides,
}

/// What is known of the split.
#[derive(Clone, Debug)]
enum Sides {
    Known(Vec<Side>),
    Missing,
    /// The dataset was built anew since.
    Stale,
}

impl Dataset {
    /// Opens a dataset that [`build::build`] made.
    ///
    /// # Errors
    /// [`Error::Data`] naming file and line when it is no dataset, half written or damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        index::open(dir)
    }

    /// The side of every item, in their order.
    ///
    /// # Errors
    /// [`Error::Data`] when it was not split, or not since it was built anew.
    pub fn sides(&self) -> Result<&[Side]> {
        let cause = match &self.sides {
            Sides::Known(sides) => return Ok(sides),
            Sides::Missing => "it is not split",
            Sides::Stale => "it was built anew since it was split",
        };
        Err(Error::data(&self.dir, cause, format!("run `touchline dataset split {}`", self.dir.display())))
    }

    /// Where the file of an item lies.
    ///
    /// # Panics
    /// If there is no item `index`.
    pub fn file(&self, index: usize) -> PathBuf {
        self.roots[self.origins[index].root as usize].join(&self.items[index].path)
    }

    /// The seconds of an item: exactly those that serving would cut, except that nothing says when they arrived. A still
    /// is one second with one picture.
    ///
    /// # Errors
    /// [`Error::Data`] when the shard or the still is missing or damaged.
    ///
    /// # Panics
    /// If there is no item `index`.
    pub fn seconds(&self, index: usize) -> Result<Vec<ClipSecond>> {
        match &self.items[index].shard {
            Some(shard) => shard::read(&self.dir.join(index::SHARDS).join(shard)),
            None => Ok(vec![still(&self.file(index), self.meta.frame_height)?]),
        }
    }

    /// The classes of the items, sorted.
    pub fn class_names(&self) -> Vec<String> {
        self.items.iter().map(|i| i.class.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// A hash of all that features depend on: the items in their order, with what is in them and how they were cut, but
    /// not how they are labelled or divided. 64 hex digits.
    pub fn fingerprint(&self) -> String {
        let mut text = format!("{:?}\n", self.meta);
        for (item, origin) in self.items.iter().zip(&self.origins) {
            let shard = item.shard.as_deref().unwrap_or("-");
            // Features of a frame are those of a picture: which of the two it is, is a label.
            let kind = if item.kind.is_still() { Kind::Picture } else { item.kind };
            text += &format!("{kind:?} {} {shard} {} {}\n", origin.key, item.seconds, item.audible);
        }
        sha256_hex(text.as_bytes())
    }
}

#[cfg(test)]
mod tests;
