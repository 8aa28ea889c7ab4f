//! Model packs: a directory with `pack.toml` and one safetensors file per modality.
//!
//! A manifest is parsed into raw types, with unknown keys rejected, and then validated into [`Pack`]. Weights are read and
//! verified by [`super::read_weights_verified`] when a [backend](crate::backend) loads the pack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Architecture;
pub use super::int8::{Int8, Int8Cost, RangesSpec};
use super::manifest::FORMAT;
pub use super::manifest::{Card, Fusion, FusionEntry, MANIFEST, Manifest, Sampling, Section, Unknown, parse_toml};
use crate::features::params::{AudioParams, FlowParams, PictureParams};
use crate::gpu::Placement;
use crate::nn::fused::{Level, Precision};
use touchline_core::clip::SamplingPlan;
use touchline_core::decision::{PackStamp, PerModality};
use touchline_core::error::{Error, Result};
use touchline_core::fusion::{FusionTable, TableEntry};
use touchline_core::item::Tracks;
use touchline_core::labels::{ClassId, ClassSet, Modality};

/// Frames a second that the signal detectors of a running stream see: they time a condition to 0.2 s.
const SIGNAL_FRAMES: u32 = 5;

/// The model of a modality, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The network.
    pub architecture: Architecture,
    /// The weights file.
    pub weights: PathBuf,
    /// SHA-256 of the weights file, lower-case hexadecimal.
    pub sha256: String,
    /// For each output of the model, the class of the pack.
    pub outputs: Vec<ClassId>,
    /// Logits are divided by this before the softmax.
    pub temperature: f32,
    /// Activation ranges, which int8 needs; `None` if the pack has none.
    pub int8: Option<RangesSpec>,
}

impl ModelSpec {
    /// SHA-256 of the ranges, by which two packs are compared.
    pub fn ranges_sha256(&self) -> Option<&str> {
        self.int8.as_ref().map(|ranges| ranges.sha256.as_str())
    }

    /// The precision of the model when `asked` is asked for: the same, except that int8 is not used where it cost too much
    /// accuracy on validation, and that encoders compute in f32.
    pub fn precision(&self, asked: Precision) -> Precision {
        if self.architecture.is_encoder() {
            return Precision::F32;
        }
        let costly = || self.int8.as_ref().and_then(|ranges| ranges.validation).is_some_and(|cost| !cost.is_small());
        if asked == Precision::Int8 && costly() { Precision::fastest(Level::best()) } else { asked }
    }
}

/// A modality of a pack: its model and its feature parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPart<P> {
    /// The model.
    pub model: ModelSpec,
    /// Feature parameters of its input.
    pub input: P,
}

/// A validated pack, without the weights' bytes.
#[derive(Clone, Debug)]
pub struct Pack {
    /// The pack's directory.
    pub dir: PathBuf,
    /// Name of the pack.
    pub name: String,
    /// The classes.
    pub classes: ClassSet,
    /// Classes of the study that this pack does not know, each with the reason.
    pub left_out: BTreeMap<String, String>,
    /// Height that taller pictures are scaled down to on ingest, lines.
    pub frame_height: u32,
    /// Precision on the CPU. A setting of the program, not of the pack's files; `f32` after [`Pack::open`].
    pub precision: Precision,
    /// Where the networks compute. A setting of the program; the CPU after [`Pack::open`].
    pub placement: Placement,
    /// How frames and pairs are taken from a stream.
    pub plan: SamplingPlan,
    /// The RGB model.
    pub rgb: Option<ModelPart<PictureParams>>,
    /// The flow model.
    pub flow: Option<ModelPart<FlowParams>>,
    /// The audio model.
    pub audio: Option<ModelPart<AudioParams>>,
    /// Which modality decides which class.
    pub fusion: FusionTable,
    /// Why the table must be fitted again, if it must.
    pub refit: Option<String>,
    /// When the answer is unknown; `None`: never.
    pub unknown: Option<Unknown>,
    /// How the pack was trained and measured.
    pub card: Card,
    /// SHA-256 of `pack.toml`, hexadecimal. For a manifest that is not in a file, of the text that would be written.
    pub manifest_sha256: String,
}

impl Pack {
    /// Reads and validates `dir/pack.toml`.
    ///
    /// # Errors
    /// [`Error::Pack`] naming the key that is missing, unknown or out of range.
    pub fn open(dir: &Path) -> Result<Self> {
        let (manifest, sha256) = Manifest::read_hashed(dir)?;
        Self::validated(dir, manifest, sha256)
            .map_err(|cause| Error::pack(dir, format!("{MANIFEST}: {cause}"), "correct the key named"))
    }

    /// Validates a manifest that is not in a file (yet).
    ///
    /// # Errors
    /// A line that names the key and what is allowed.
    pub fn from_manifest(dir: &Path, manifest: Manifest) -> Result<Self, String> {
        let text = toml::to_string(&manifest).map_err(|e| format!("cannot be written as TOML: {e}"))?;
        Self::validated(dir, manifest, super::sha256_hex(text.as_bytes()))
    }

    fn validated(dir: &Path, manifest: Manifest, manifest_sha256: String) -> Result<Self, String> {
        if manifest.format != FORMAT {
            return Err(format!("format = {} is not the format this version reads ({FORMAT})", manifest.format));
        }
        if manifest.name.is_empty() || manifest.name.len() > 64 {
            return Err("name: choose 1 to 64 characters".into());
        }
        let classes = ClassSet::new(manifest.classes).map_err(|e| format!("classes: {e}"))?;
        let sampling = &manifest.sampling;
        if !(32..=2160).contains(&sampling.frame_height) {
            return Err(format!("sampling.frame_height = {}: choose 32 to 2160 lines", sampling.frame_height));
        }
        for (key, value) in [("rgb_frames", sampling.rgb_frames), ("flow_pairs", sampling.flow_pairs)] {
            if value > 60 {
                return Err(format!("sampling.{key} = {value}: choose 0 to 60 a second"));
            }
        }
        if let Some(Unknown { below, .. }) = manifest.unknown
            && !(0.0..1.0).contains(&below)
        {
            return Err(format!("unknown.below = {below}: choose 0 to less than 1"));
        }
        let rgb = part(dir, "rgb", manifest.rgb, &classes, PictureParams::validate)?;
        let flow = part(dir, "flow", manifest.flow, &classes, FlowParams::validate)?;
        let audio = part(dir, "audio", manifest.audio, &classes, AudioParams::validate)?;
        let has = |m: Modality| match m {
            Modality::Rgb => rgb.is_some(),
            Modality::Flow => flow.is_some(),
            Modality::Audio => audio.is_some(),
        };
        for m in Modality::ALL {
            if has(m) != manifest.fusion.order.contains(&m) {
                return Err(format!("fusion.order must name exactly the modalities that the pack has; check {m}"));
            }
        }
        let entries = table(&manifest.fusion, &classes)?;
        let fusion = FusionTable::new(manifest.fusion.order, entries)?;
        let plan = SamplingPlan {
            rgb_frames: if rgb.is_some() { sampling.rgb_frames } else { 0 },
            flow_pairs: if flow.is_some() { sampling.flow_pairs } else { 0 },
            flow_gap_ns: flow.as_ref().map_or(40, |f| u64::from(f.input.gap_ms)) * 1_000_000,
            signal_frames: if rgb.is_some() || flow.is_some() { SIGNAL_FRAMES } else { 0 },
        };
        Ok(Self {
            dir: dir.to_owned(),
            name: manifest.name,
            classes,
            left_out: manifest.left_out,
            precision: Precision::F32,
            placement: Placement::CPU,
            frame_height: sampling.frame_height,
            plan,
            rgb,
            flow,
            audio,
            fusion,
            refit: manifest.fusion.refit,
            unknown: manifest.unknown,
            card: manifest.card,
            manifest_sha256,
        })
    }

    /// Least probability of an answer; 0: every label is one.
    pub fn known_from(&self) -> f32 {
        self.unknown.map_or(0.0, |unknown| unknown.below)
    }

    /// The model of a modality, if the pack has one.
    pub fn model(&self, modality: Modality) -> Option<&ModelSpec> {
        match modality {
            Modality::Rgb => self.rgb.as_ref().map(|p| &p.model),
            Modality::Flow => self.flow.as_ref().map(|p| &p.model),
            Modality::Audio => self.audio.as_ref().map(|p| &p.model),
        }
    }

    /// Width and height of a model's input, pixels, if the pack has one for the modality.
    pub fn input_size(&self, modality: Modality) -> Option<(usize, usize)> {
        match modality {
            Modality::Rgb => self.rgb.as_ref().map(|p| (p.input.width, p.input.height)),
            Modality::Flow => self.flow.as_ref().map(|p| (p.input.width, p.input.height)),
            Modality::Audio => self.audio.as_ref().map(|p| (p.input.width, p.input.height)),
        }
    }

    /// One SHA-256 for all the pack's weights: over the hashes of the files, in the order rgb, flow, audio.
    pub fn weights_sha256(&self) -> String {
        let all: String = Modality::ALL.iter().filter_map(|m| self.model(*m)).map(|m| m.sha256.as_str()).collect();
        super::sha256_hex(all.as_bytes())
    }

    /// Name and hashes of the pack, which every decision carries.
    pub fn stamp(&self) -> PackStamp {
        PackStamp {
            name: self.name.clone(),
            weights_sha256: self.weights_sha256(),
            manifest_sha256: self.manifest_sha256.clone(),
        }
    }

    /// Checks that this pack can replace `running` without reopening streams: it must have the same classes in the same order,
    /// and take pictures, pairs and sound from streams in the same way.
    ///
    /// # Errors
    /// One line that says what differs.
    pub fn can_replace(&self, running: &Pack) -> Result<(), String> {
        if self.classes != running.classes {
            let lacks = |a: &ClassSet, b: &ClassSet| {
                let names: Vec<&str> =
                    a.names().iter().filter(|n| b.id(n).is_none()).map(String::as_str).take(5).collect();
                names.join(", ")
            };
            let (missing, new) = (lacks(&running.classes, &self.classes), lacks(&self.classes, &running.classes));
            return Err(match (missing.is_empty(), new.is_empty()) {
                (true, true) => "its classes are in another order than the running pack's".into(),
                (false, true) => format!("its classes are not the running pack's: it lacks {missing}"),
                (true, false) => format!("its classes are not the running pack's: {new} would be new"),
                (false, false) => {
                    format!("its classes are not the running pack's: it lacks {missing}, and {new} would be new")
                }
            });
        }
        if self.wants() != running.wants() {
            let say = |t: Tracks| match (t.video, t.audio) {
                (true, true) => "pictures and sound",
                (true, false) => "pictures only",
                (false, _) => "sound only",
            };
            return Err(format!(
                "it takes {}, the streams were opened for {}",
                say(self.wants()),
                say(running.wants())
            ));
        }
        let compared = [
            ("sampling.frame_height", u64::from(self.frame_height), u64::from(running.frame_height)),
            ("sampling.rgb_frames", u64::from(self.plan.rgb_frames), u64::from(running.plan.rgb_frames)),
            ("sampling.flow_pairs", u64::from(self.plan.flow_pairs), u64::from(running.plan.flow_pairs)),
            ("flow.input.gap_ms", self.plan.flow_gap_ns / 1_000_000, running.plan.flow_gap_ns / 1_000_000),
            (
                "audio.input.mel.sample_rate",
                self.sample_rate().unwrap_or(0).into(),
                running.sample_rate().unwrap_or(0).into(),
            ),
        ];
        match compared.iter().find(|(_, own, theirs)| own != theirs) {
            Some((key, own, theirs)) => Err(format!("its {key} is {own}, the streams were opened with {theirs}")),
            None => Ok(()),
        }
    }

    /// Whether both packs have the same networks and feature parameters. They may differ in table, temperatures and texts.
    pub fn same_networks(&self, other: &Pack) -> bool {
        let model = |a: &ModelSpec, b: &ModelSpec| {
            let made_of = |m: &ModelSpec| (m.architecture, m.precision(Precision::Int8));
            made_of(a) == made_of(b)
                && (&a.sha256, &a.outputs, a.ranges_sha256()) == (&b.sha256, &b.outputs, b.ranges_sha256())
        };
        fn part<P: PartialEq>(
            a: &Option<ModelPart<P>>,
            b: &Option<ModelPart<P>>,
            model: impl Fn(&ModelSpec, &ModelSpec) -> bool,
        ) -> bool {
            match (a, b) {
                (Some(a), Some(b)) => model(&a.model, &b.model) && a.input == b.input,
                (None, None) => true,
                _ => false,
            }
        }
        part(&self.rgb, &other.rgb, model)
            && part(&self.flow, &other.flow, model)
            && part(&self.audio, &other.audio, model)
    }

    /// The tracks that the pack needs.
    pub fn wants(&self) -> Tracks {
        Tracks { video: self.rgb.is_some() || self.flow.is_some(), audio: self.audio.is_some() }
    }

    /// Sample rate of the audio model's input, Hz; `None` without an audio model.
    pub fn sample_rate(&self) -> Option<u32> {
        self.audio.as_ref().map(|p| p.input.mel.sample_rate)
    }
}

fn part<P>(
    dir: &Path,
    key: &str,
    section: Option<Section<P>>,
    classes: &ClassSet,
    validate: impl Fn(&P) -> Result<(), String>,
) -> Result<Option<ModelPart<P>>, String> {
    let Some(section) = section else { return Ok(None) };
    validate(&section.input).map_err(|e| format!("{key}.input: {e}"))?;
    let own = ClassSet::new(section.classes).map_err(|e| format!("{key}.classes: {e}"))?;
    let outputs = own
        .names()
        .iter()
        .map(|name| classes.id(name).ok_or_else(|| format!("{key}.classes names {name:?}, which is not in classes")))
        .collect::<Result<Vec<_>, _>>()?;
    if !(0.05..=20.0).contains(&section.temperature) {
        return Err(format!("{key}.temperature = {}: choose 0.05 to 20", section.temperature));
    }
    let name = file(&format!("{key}.weights"), &section.weights)?.to_owned();
    hash(&format!("{key}.sha256"), &section.sha256)?;
    let int8 = match section.int8 {
        Some(int8) => {
            hash(&format!("{key}.int8.sha256"), &int8.sha256)?;
            if !int8.validation.is_none_or(Int8Cost::is_possible) {
                return Err(format!("{key}.int8.validation: macro F1 must lie between 0 and 1"));
            }
            let path = dir.join(file(&format!("{key}.int8.ranges"), &int8.ranges)?);
            Some(RangesSpec { path, sha256: int8.sha256, validation: int8.validation })
        }
        None => None,
    };
    let model = ModelSpec {
        architecture: section.architecture,
        weights: dir.join(name),
        sha256: section.sha256,
        outputs,
        temperature: section.temperature,
        int8,
    };
    Ok(Some(ModelPart { model, input: section.input }))
}

/// Checks the name of a safetensors file in the pack.
fn file<'a>(key: &str, name: &'a str) -> Result<&'a Path, String> {
    let path = Path::new(name);
    if path.components().count() != 1 || path.extension().is_none_or(|e| e != "safetensors") {
        return Err(format!("{key} = {name:?}: give the name of a .safetensors file in the pack"));
    }
    Ok(path)
}

fn hash(key: &str, sha256: &str) -> Result<(), String> {
    if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("{key}: give 64 lower-case hexadecimal digits"));
    }
    Ok(())
}

fn table(fusion: &Fusion, classes: &ClassSet) -> Result<Vec<TableEntry>, String> {
    if let Some(unknown) = fusion.table.keys().find(|name| classes.id(name).is_none()) {
        return Err(format!("fusion.table.{unknown}: not in classes"));
    }
    classes
        .names()
        .iter()
        .map(|name| {
            let entry = fusion.table.get(name).ok_or_else(|| format!("fusion.table.{name} is missing"))?;
            let f1 = PerModality { rgb: entry.rgb, flow: entry.flow, audio: entry.audio };
            Ok(TableEntry { modality: entry.modality, f1 })
        })
        .collect()
}
