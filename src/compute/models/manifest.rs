//! `pack.toml` as it is in the file: raw types with unknown keys rejected. [`super::pack`] validates them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Architecture;
use super::int8::Int8;
use crate::features::params::{AudioParams, FlowParams, PictureParams};
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;

/// Name of the manifest in a pack's directory.
pub const MANIFEST: &str = "pack.toml";

/// The format that this program reads and writes.
pub(super) const FORMAT: u32 = 1;

/// `pack.toml` as parsed, not validated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Name of the pack, 1 to 64 characters.
    pub name: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Classes of the study that this pack does not know, each with the reason.
    #[serde(default)]
    pub left_out: BTreeMap<String, String>,
    /// How frames and pairs are taken from a stream.
    pub sampling: Sampling,
    /// The RGB model.
    pub rgb: Option<Section<PictureParams>>,
    /// The flow model.
    pub flow: Option<Section<FlowParams>>,
    /// The audio model.
    pub audio: Option<Section<AudioParams>>,
    /// Which modality decides which class.
    pub fusion: Fusion,
    /// When the answer is unknown; by default never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Unknown>,
    /// How the pack was trained and measured, for people.
    pub card: Card,
}

/// `[unknown]`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unknown {
    /// The answer is unknown when the probability of the label is below this.
    pub below: f32,
    /// Share of right answers among the answers on the material that it was chosen on (validation, or held-out folds), each source of a class with the same weight.
    pub precision: f32,
    /// Share of the recordings and frames of that material that are answered.
    pub coverage: f32,
}

/// `[sampling]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Height that taller pictures are scaled down to on ingest, lines.
    pub frame_height: u32,
    /// Frames per second for the RGB model.
    pub rgb_frames: u32,
    /// Pairs per second for the flow model.
    pub flow_pairs: u32,
}

impl Default for Sampling {
    /// The values of the shipped packs. The frame height is a quarter more than the models need, for the preview.
    fn default() -> Self {
        Self { frame_height: 288, rgb_frames: 5, flow_pairs: 5 }
    }
}

/// `[rgb]`, `[flow]`, `[audio]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section<P> {
    /// The network.
    pub architecture: Architecture,
    /// File name of the weights, beside `pack.toml`.
    pub weights: String,
    /// SHA-256 of the weights file, lower-case hexadecimal.
    pub sha256: String,
    /// Classes in the order of the model's outputs; a subset of the pack's.
    pub classes: Vec<String>,
    /// Logits are divided by this before the softmax; measured on validation.
    pub temperature: f32,
    /// Feature parameters of the model's input.
    pub input: P,
    /// Activation ranges for int8, measured by `touchline pack calibrate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int8: Option<Int8>,
}

/// `[fusion]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// Modalities from best to worst on validation; the first decides by default.
    pub order: Vec<Modality>,
    /// Why the table must be fitted again: it was measured on other models than those in the pack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refit: Option<String>,
    /// One entry per class of the pack.
    pub table: BTreeMap<String, FusionEntry>,
}

/// `[fusion.table.<class>]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusionEntry {
    /// The modality that decides the class.
    pub modality: Modality,
    /// F1 of the RGB model on validation, if it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rgb: Option<f32>,
    /// F1 of the flow model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<f32>,
    /// F1 of the audio model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<f32>,
}

/// `[card]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The training data.
    pub trained_on: String,
    /// How the models were trained.
    pub method: String,
    /// How the data was split.
    pub split: String,
    /// Figures on the held-back test split, by name.
    pub measured: BTreeMap<String, f64>,
    /// Known limits of the models.
    pub limits: String,
}

impl Manifest {
    /// Reads `dir/pack.toml` without validating it.
    ///
    /// # Errors
    /// [`Error::Pack`] naming the line and the key that is missing or unknown.
    pub fn read(dir: &Path) -> Result<Self> {
        Ok(Self::read_hashed(dir)?.0)
    }

    /// As [`Manifest::read`], with the SHA-256 of the file.
    pub(super) fn read_hashed(dir: &Path) -> Result<(Self, String)> {
        let path = dir.join(MANIFEST);
        let text = std::fs::read_to_string(&path).map_err(|e| {
            Error::pack(dir, format!("cannot read {MANIFEST}: {e}"), "give the directory of a model pack with --pack")
        })?;
        let manifest = parse_toml(&text).map_err(|cause| {
            let advice = "correct the key or fetch the pack again";
            Error::pack(dir, format!("{MANIFEST} {cause}"), advice)
        })?;
        Ok((manifest, super::sha256_hex(text.as_bytes())))
    }

    /// Writes `dir/pack.toml` atomically. Call it after the weights have been written.
    ///
    /// # Errors
    /// [`Error::Output`] when it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(MANIFEST);
        let text =
            toml::to_string(self).map_err(|e| Error::Internal(format!("{MANIFEST} cannot be written as TOML: {e}")))?;
        let part = dir.join(format!("{MANIFEST}.part"));
        std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &path)).map_err(|e| {
            Error::output(
                path.display().to_string(),
                e.to_string(),
                "check the folder, its permissions and the free space",
            )
        })
    }
}

/// Parses TOML.
///
/// # Errors
/// One line: the line number and the cause.
pub fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |s| text[..s.start].matches('\n').count() + 1);
        format!("line {line}: {}", e.message().replace('\n', " "))
    })
}
