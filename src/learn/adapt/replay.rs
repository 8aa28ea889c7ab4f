//! Replay features: a sample of the material that a pack's RGB model was trained on, as pooled features of its frozen network.
//!
//! `pack build` writes them beside the weights. With them a pack can learn from a few minutes of another channel and be checked
//! for what it knew before, without its training material.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::dataset::Dataset;
use crate::dataset::split::Side;
use crate::inputs::Inputs;
use crate::net::Built;
use crate::rows::{Recipe, RowNetwork, Rows, WantedRow, make, teaches};
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

/// Name of the file in a pack's directory.
pub const FILE: &str = "replay.safetensors";

/// Samples of each class in the file: 48 vectors of 1280 values for 24 classes are 3 MB.
const PER_CLASS: usize = 48;

/// Photographs of each class from which samples are taken: each is a source of its own, so they would crowd out the few sources of
/// recordings.
const PHOTOGRAPHS: usize = 16;

/// Samples of the training material: for each its features, class and source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replay {
    /// Values of a feature vector.
    pub width: usize,
    /// `labels.len() * width` values.
    pub features: Vec<f32>,
    /// Classes, as indices into the outputs of the RGB model.
    pub labels: Vec<u32>,
    /// Numbers of the sources.
    pub sources: Vec<u32>,
}

impl Replay {
    /// Computes the features of a sample of the training side. `network` is the trained network, with the hash of its weights;
    /// `progress` receives the number of finished items and the number of all.
    ///
    /// # Errors
    /// As [`make`].
    pub fn compute(
        dataset: &Dataset,
        sides: &[Side],
        outputs: &[String],
        (built, hash): (&Built, &str),
        inputs: &Inputs,
        cache: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let mut photographs = vec![0; outputs.len()];
        let mut items = Vec::new();
        for (i, (item, side)) in dataset.items.iter().zip(sides).enumerate() {
            let Some(label) = outputs.iter().position(|name| *name == item.class) else { continue };
            if *side != Side::Train || !teaches(Modality::Rgb, item) {
                continue;
            }
            if item.kind == crate::dataset::Kind::Picture {
                photographs[label] += 1;
                if photographs[label] > PHOTOGRAPHS {
                    continue;
                }
            }
            items.push(i);
        }
        let rows = whole_network_rows(dataset, items, (Frozen::of(built), hash), inputs, cache, progress)?;
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut all = Vec::with_capacity(rows.len());
        for key in &rows.keys {
            let item = &dataset.items[key.item as usize];
            let next = numbers.len() as u32;
            let source = *numbers.entry(&item.group).or_insert(next);
            let label = outputs.iter().position(|name| *name == item.class).unwrap_or_default() as u32;
            all.push((label, source));
        }
        let chosen: Vec<u32> = sample(&all, PER_CLASS).into_iter().map(|row| row as u32).collect();
        let features = rows.pooled(&chosen, &Device::Cpu)?.flatten_all()?.to_vec1()?;
        let (labels, sources) = chosen.iter().map(|row| all[*row as usize]).unzip();
        Ok(Self { width: rows.width, features, labels, sources })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Appends samples. Only as many of each class remain as the file has.
    ///
    /// # Panics
    /// If the widths differ.
    pub fn extend(&mut self, other: &Replay) {
        assert_eq!(self.width, other.width, "features of one network");
        let first = self.sources.iter().max().map_or(0, |last| last + 1);
        self.features.extend(&other.features);
        self.labels.extend(&other.labels);
        self.sources.extend(other.sources.iter().map(|source| first + source));
        let pairs: Vec<(u32, u32)> = self.labels.iter().copied().zip(self.sources.iter().copied()).collect();
        let kept = sample(&pairs, PER_CLASS);
        self.features = kept.iter().flat_map(|i| &self.features[i * self.width..][..self.width]).copied().collect();
        (self.labels, self.sources) = kept.into_iter().map(|i| pairs[i]).unzip();
    }

    /// Writes the file beside the weights with the SHA-256 `weights`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn save(&self, dir: &Path, weights: &str) -> Result<()> {
        let path = dir.join(FILE);
        let write = || -> candle_core::Result<()> {
            let (n, cpu) = (self.len(), &Device::Cpu);
            let features = Tensor::from_slice(&self.features, (n, self.width), cpu)?.to_dtype(DType::F16)?;
            let tensors = HashMap::from([
                ("features".to_owned(), features),
                ("labels".to_owned(), Tensor::from_slice(&self.labels, n, cpu)?),
                ("sources".to_owned(), Tensor::from_slice(&self.sources, n, cpu)?),
                ("weights_sha256".to_owned(), Tensor::from_slice(weights.as_bytes(), weights.len(), cpu)?),
            ]);
            let part = path.with_extension("part");
            candle_core::safetensors::save(&tensors, &part)?;
            Ok(std::fs::rename(&part, &path)?)
        };
        write().map_err(|e| {
            let cause = format!("the replay features cannot be written: {e}");
            Error::output(path.display().to_string(), cause, "check the folder, its permissions and the free space")
        })
    }

    /// No samples, of features of `width` values.
    pub(super) fn none(width: usize) -> Self {
        Self { width, ..Self::default() }
    }

    /// Reads the file of the pack in `dir`, whose RGB weights have the SHA-256 `weights` and `outputs` classes.
    ///
    /// # Errors
    /// [`Error::Pack`] when it is missing, damaged, or belongs to other weights.
    pub fn load(dir: &Path, weights: &str, outputs: usize) -> Result<Self> {
        let advice = "build the pack again with `touchline pack build`, which writes this file";
        let broken = |cause: String| Error::pack(dir, format!("{FILE} {cause}"), advice);
        if !dir.join(FILE).is_file() {
            return Err(broken("is missing: the pack cannot be checked for what it knows".into()));
        }
        let read = || -> candle_core::Result<(Replay, Vec<u8>)> {
            let tensors = candle_core::safetensors::load(dir.join(FILE), &Device::Cpu)?;
            let tensor = |name: &str| tensors.get(name).ok_or_else(|| candle_core::Error::Msg(format!("lacks {name}")));
            let features = tensor("features")?.to_dtype(DType::F32)?;
            let replay = Replay {
                width: features.dims2()?.1,
                features: features.flatten_all()?.to_vec1()?,
                labels: tensor("labels")?.to_vec1()?,
                sources: tensor("sources")?.to_vec1()?,
            };
            Ok((replay, tensor("weights_sha256")?.to_vec1()?))
        };
        let (replay, of) = read().map_err(|e| broken(format!("is damaged: {e}")))?;
        let n = replay.len();
        let fits = replay.features.len() == n * replay.width && replay.sources.len() == n;
        if !fits || replay.labels.iter().any(|label| *label as usize >= outputs) {
            return Err(broken("is damaged: its parts do not fit each other or the pack's classes".into()));
        }
        if replay.features.iter().any(|v| !v.is_finite()) {
            return Err(broken("is damaged: a feature is NaN or infinite".into()));
        }
        if of != weights.as_bytes() {
            return Err(broken("belongs to other weights than the pack's".into()));
        }
        Ok(replay)
    }
}

/// A network with all blocks frozen.
#[derive(Clone, Copy)]
pub(super) struct Frozen<'a> {
    pub net: RowNetwork<'a>,
    pub blocks: usize,
}

impl<'a> Frozen<'a> {
    pub fn of(built: &'a Built) -> Self {
        Self { net: (&built.net).into(), blocks: built.net.blocks() }
    }
}

/// Computes the pooled features of `items` with the whole network frozen. The network comes with the hash of its weights; `progress`
/// receives the number of finished items and the number of all.
pub(super) fn whole_network_rows(
    dataset: &Dataset,
    items: impl IntoIterator<Item = usize>,
    (frozen, hash): (Frozen<'_>, &str),
    inputs: &Inputs,
    cache: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Rows> {
    let mut wanted: Vec<WantedRow> = items.into_iter().map(|item| WantedRow::with_views(item as u32, 0)).collect();
    // Stills first, so that a chunk has items of one kind.
    wanted.sort_by_key(|w| (!dataset.items[w.item as usize].kind.is_still(), w.item));
    let recipe = Recipe {
        modality: Modality::Rgb,
        inputs: inputs.clone(),
        frozen: frozen.blocks,
        pooled: true,
        activations: false,
        // Only random views use these.
        frames: 1,
        seed: 0,
    };
    make(dataset, &wanted, (frozen.net, hash), &recipe, cache, &mut |done, _| progress(done, wanted.len()))
}

/// Indices of at most `per_class` samples of each class, in order. Sources take turns; a source gives samples at even distances.
fn sample(all: &[(u32, u32)], per_class: usize) -> Vec<usize> {
    let mut classes: BTreeMap<u32, BTreeMap<u32, Vec<usize>>> = BTreeMap::new();
    for (i, (label, source)) in all.iter().enumerate() {
        classes.entry(*label).or_default().entry(*source).or_default().push(i);
    }
    let mut chosen = Vec::new();
    for sources in classes.into_values() {
        let mut shares = vec![0usize; sources.len()];
        let mut left = per_class.min(sources.values().map(Vec::len).sum());
        while left > 0 {
            for (share, rows) in shares.iter_mut().zip(sources.values()) {
                if left > 0 && *share < rows.len() {
                    *share += 1;
                    left -= 1;
                }
            }
        }
        for (share, rows) in shares.into_iter().zip(sources.values()) {
            chosen.extend((0..share).map(|i| rows[(2 * i + 1) * rows.len() / (2 * share)]));
        }
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_take_turns_and_samples_are_evenly_spaced() {
        let mut all: Vec<(u32, u32)> = (0..100).map(|_| (0, 7)).collect();
        all.extend([(0, 8), (0, 8), (1, 9)]);
        assert_eq!(sample(&all, 6), [12, 37, 62, 87, 100, 101, 102]);
        assert_eq!(sample(&all, 7).len(), 7 + 1, "class 1 has one sample");
        assert_eq!(sample(&all, 1000).len(), all.len());
    }

    #[test]
    fn files_survive_the_round_trip_and_damage_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let sha = "a".repeat(64);
        let replay = Replay { width: 2, features: vec![0.5, 1.0, 1.5, 2.0], labels: vec![0, 1], sources: vec![0, 0] };
        let error = |sha: &str, outputs| Replay::load(dir.path(), sha, outputs).unwrap_err().to_string();
        assert!(error(&sha, 2).contains("is missing"));
        replay.save(dir.path(), &sha).unwrap();
        assert_eq!(Replay::load(dir.path(), &sha, 2).unwrap(), replay);
        assert!(error(&"b".repeat(64), 2).contains("belongs to other weights"));
        assert!(error(&sha, 1).contains("do not fit"));
        let nan = Replay { features: vec![f32::NAN; 4], ..replay };
        nan.save(dir.path(), &sha).unwrap();
        assert!(error(&sha, 2).contains("NaN"));
        std::fs::write(dir.path().join(FILE), b"nonsense").unwrap();
        assert!(error(&sha, 2).contains("is damaged"));
    }

    #[test]
    fn appended_samples_have_their_own_sources() {
        let mut replay = Replay { width: 1, features: vec![1.0, 2.0], labels: vec![0, 0], sources: vec![0, 1] };
        replay.extend(&Replay { width: 1, features: vec![3.0], labels: vec![2], sources: vec![0] });
        assert_eq!(
            (replay.sources, replay.labels, replay.features),
            (vec![0, 1, 2], vec![0, 0, 2], vec![1.0, 2.0, 3.0])
        );
    }
}
