//! Imports weights into a pack: a state dict of torchvision's MobileNetV2 or ResNet50 as a safetensors file.
//!
//! Every key and shape is checked before anything is written. Pickles are never opened: they are programs. Nothing is
//! measured here, so the card states no figures for the imported model, and the table is marked as not fitted to it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::Device;

use super::pack::{Card, Fusion, FusionEntry, MANIFEST, Manifest, Sampling, Section};
use super::{Architecture, Tensors, WeightsFile, check_finite, read_weights, save_f16};
use touchline_core::error::{Error, Result};
use touchline_core::labels::{ClassSet, Modality};

/// Suffix of the batch counters in torchvision's batch norms, which inference does not need.
pub(super) const COUNTER: &str = "num_batches_tracked";

/// How many names a message lists.
const NAMES_SHOWN: usize = 4;

/// An import to run.
#[derive(Clone, Debug)]
pub struct Import {
    /// The state dict.
    pub file: PathBuf,
    /// MobileNetV2 or ResNet50 (v1.5).
    pub architecture: Architecture,
    /// The modality that the network is for.
    pub modality: Modality,
    /// Directory of the pack to write; it must not hold a pack yet.
    pub out: PathBuf,
    /// Classes in the order of the classifier's outputs. `None`: those of the replaced model, or of `onto`.
    pub classes: Option<Vec<String>>,
    /// A pack to copy and put the modality into. `None`: a new pack with this modality alone.
    pub onto: Option<PathBuf>,
}

/// The result of an import.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The manifest that was written.
    pub manifest: Manifest,
    /// Number of imported tensors.
    pub taken: usize,
    /// Number of batch counters that were skipped.
    pub counters: usize,
    /// Names of other tensors that the network does not have; skipped.
    pub unknown: Vec<String>,
}

impl Import {
    /// Checks the weights and writes the pack, its manifest last.
    ///
    /// # Errors
    /// [`Error::Data`] when the file is not such a state dict, [`Error::Usage`] when the classes do not fit it,
    /// [`Error::Pack`] when `onto` is not a pack, [`Error::Output`] when the pack cannot be written.
    pub fn run(&self) -> Result<Imported> {
        let state = self.read()?;
        let onto = self.onto.as_deref().map(Manifest::read).transpose()?;
        let classes = self.classes(&state.tensors, onto.as_ref())?;
        let (tensors, counters, unknown) = self.fitting(state.tensors, classes.len(), "torchvision", &str::to_owned)?;
        let manifest = self.write(&tensors, classes, &state.sha256, onto, |_| {})?;
        Ok(Imported { manifest, taken: tensors.len(), counters, unknown })
    }

    /// Writes the pack, its manifest last. `adjust` completes the manifest.
    pub(super) fn write(
        &self,
        tensors: &Tensors,
        classes: ClassSet,
        from_sha256: &str,
        onto: Option<Manifest>,
        adjust: impl FnOnce(&mut Manifest),
    ) -> Result<Manifest> {
        let out = &self.out;
        let cannot = |cause: String| {
            Error::output(out.display().to_string(), cause, "check the folder, its permissions and the free space")
        };
        if out.join(MANIFEST).exists() {
            return Err(Error::output(out.display().to_string(), "it already holds a pack", "choose another -o"));
        }
        std::fs::create_dir_all(out).map_err(|e| cannot(format!("cannot create the folder: {e}")))?;
        let weights = format!("{}.safetensors", self.modality);
        if let (Some(from), Some(manifest)) = (&self.onto, &onto) {
            self.copy_rest(from, manifest).map_err(|e| cannot(format!("cannot copy {}: {e}", from.display())))?;
        }
        let sha256 = save_f16(tensors, &out.join(&weights)).map_err(|e| cannot(e.to_string()))?;
        let mut manifest = onto.unwrap_or_else(|| self.empty(&classes));
        self.put(&mut manifest, &weights, &sha256, classes, from_sha256);
        adjust(&mut manifest);
        // A pack that could not be opened is not written.
        super::pack::Pack::from_manifest(out, manifest.clone())
            .map_err(|cause| Error::pack(out, cause, "correct --onto or --classes"))?;
        manifest.write(out)?;
        Ok(manifest)
    }

    pub(super) fn read(&self) -> Result<WeightsFile> {
        let file = &self.file;
        let mut start = Vec::new();
        std::fs::File::open(file)
            .and_then(|opened| opened.take(9).read_to_end(&mut start))
            .map_err(|e| Error::data(file, format!("cannot read it: {e}"), "check the path"))?;
        if is_pickle(&start) {
            let advice = format!(
                "convert it where you trust it: python3 -c \"import sys, torch, safetensors.torch as s; \
                 d = torch.load(sys.argv[1], weights_only=True, map_location='cpu'); \
                 s.save_file({{k: v.contiguous() for k, v in d.items()}}, sys.argv[2])\" {} {}",
                file.display(),
                file.with_extension("safetensors").display()
            );
            return Err(Error::data(file, "it is a pickle, which can run arbitrary code when opened", advice));
        }
        let state = read_weights(file, &Device::Cpu).map_err(|e| Error::data(file, e.to_string(), e.advice()))?;
        check_finite(&state.tensors).map_err(|e| Error::data(file, e.to_string(), e.advice()))?;
        Ok(state)
    }

    /// The classes of the classifier's outputs.
    fn classes(&self, state: &Tensors, onto: Option<&Manifest>) -> Result<ClassSet> {
        let name = format!("{}.weight", self.architecture.classifier());
        let rows = state.get(&name).and_then(|weight| weight.dims().first().copied()).ok_or_else(|| {
            let cause = format!("it has no classifier {name}, so it is not a complete {}", self.architecture);
            Error::data(&self.file, cause, "give the state dict of the whole network and the matching --arch")
        })?;
        let own = onto.and_then(|manifest| match self.modality {
            Modality::Rgb => manifest.rgb.as_ref().map(|s| &s.classes),
            Modality::Flow => manifest.flow.as_ref().map(|s| &s.classes),
            Modality::Audio => manifest.audio.as_ref().map(|s| &s.classes),
        });
        let known = [own, onto.map(|manifest| &manifest.classes)];
        let fitting = known.into_iter().flatten().find(|names| names.len() == rows);
        let names = self.classes.as_ref().or(fitting).ok_or_else(|| {
            Error::Usage(format!("the classifier has {rows} outputs; name their classes, in order, with --classes"))
        })?;
        let classes = ClassSet::new(names.clone()).map_err(|e| Error::Usage(format!("--classes: {e}")))?;
        if classes.len() != rows {
            return Err(Error::Usage(format!(
                "the classifier has {rows} outputs and --classes names {}; give one name per output, in order",
                classes.len()
            )));
        }
        if let Some(manifest) = onto
            && let Some(foreign) = classes.names().iter().find(|name| !manifest.classes.contains(name))
        {
            return Err(Error::Usage(format!(
                "class {foreign:?} is not in the pack of --onto; a model can only have classes of its pack"
            )));
        }
        Ok(classes)
    }

    /// The tensors of the network, the number of batch counters, and the names of all other tensors.
    /// `theirs` is the name of a tensor in `library`, of which the file is.
    pub(super) fn fitting(
        &self,
        mut state: Tensors,
        classes: usize,
        library: &str,
        theirs: &dyn Fn(&str) -> String,
    ) -> Result<(Tensors, usize, Vec<String>)> {
        let mut taken = Tensors::new();
        let (mut missing, mut wrong) = (Vec::new(), Vec::new());
        for (own, want) in self.architecture.tensors(classes) {
            let name = theirs(&own);
            match state.remove(&name) {
                None => missing.push(name),
                Some(tensor) if tensor.dims() != want => {
                    wrong.push(format!("{name} is {:?}, needs {want:?}", tensor.dims()));
                }
                Some(tensor) if !tensor.dtype().is_float() => {
                    wrong.push(format!("{name} is of type {}", tensor.dtype().as_str()));
                }
                Some(tensor) => drop(taken.insert(own, tensor)),
            }
        }
        let (counters, mut unknown): (Vec<_>, Vec<_>) = state.into_keys().partition(|name| name.ends_with(COUNTER));
        unknown.sort();
        if missing.is_empty() && wrong.is_empty() {
            return Ok((taken, counters.len(), unknown));
        }
        let mut said = Vec::new();
        for (what, names) in [("lacks", &missing), ("has in another form", &wrong), ("also has", &unknown)] {
            if !names.is_empty() {
                said.push(format!("{what} {}: {}", names.len(), first(names)));
            }
        }
        let cause = format!("it is not a {} with {library}'s keys: it {}", self.architecture, said.join("; it "));
        Err(Error::data(&self.file, cause, format!("give the matching network, with {library}'s names")))
    }

    /// Copies all files of a pack except its manifest and those of the replaced network.
    fn copy_rest(&self, from: &Path, manifest: &Manifest) -> std::io::Result<()> {
        let (weights, int8) = match self.modality {
            Modality::Rgb => manifest.rgb.as_ref().map(|s| (&s.weights, &s.int8)),
            Modality::Flow => manifest.flow.as_ref().map(|s| (&s.weights, &s.int8)),
            Modality::Audio => manifest.audio.as_ref().map(|s| (&s.weights, &s.int8)),
        }
        .unzip();
        let ranges = int8.and_then(|int8| int8.as_ref()).map(|int8| &int8.ranges);
        let replaced =
            |name: &std::ffi::OsStr| [weights, ranges].into_iter().flatten().any(|file| name == file.as_str());
        for entry in std::fs::read_dir(from)? {
            let path = entry?.path();
            let Some(name) = path.file_name() else { continue };
            if path.is_file() && name != MANIFEST && !replaced(name) {
                std::fs::copy(&path, self.out.join(name))?;
            }
        }
        Ok(())
    }

    /// A pack without models.
    fn empty(&self, classes: &ClassSet) -> Manifest {
        let entry = || FusionEntry { modality: self.modality, rgb: None, flow: None, audio: None };
        let name = self.out.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Manifest {
            format: super::manifest::FORMAT,
            name: name.chars().take(64).collect(),
            classes: classes.names().to_vec(),
            left_out: BTreeMap::new(),
            sampling: Sampling::default(),
            rgb: None,
            flow: None,
            audio: None,
            unknown: None,
            fusion: Fusion {
                order: Vec::new(),
                refit: None,
                table: classes.names().iter().map(|name| (name.clone(), entry())).collect(),
            },
            card: Card {
                trained_on: "not stated: the weights were imported".into(),
                split: "not stated".into(),
                ..Card::default()
            },
        }
    }

    /// Puts the model into the manifest, and removes statements that are no longer true.
    fn put(&self, manifest: &mut Manifest, weights: &str, sha256: &str, classes: ClassSet, from_sha256: &str) {
        let modality = self.modality;
        let names = classes.names().to_vec();
        match modality {
            Modality::Rgb => manifest.rgb = Some(self.section(manifest.rgb.take(), weights, sha256, names)),
            Modality::Flow => manifest.flow = Some(self.section(manifest.flow.take(), weights, sha256, names)),
            Modality::Audio => manifest.audio = Some(self.section(manifest.audio.take(), weights, sha256, names)),
        }
        let sampling = &mut manifest.sampling;
        match modality {
            Modality::Rgb if sampling.rgb_frames == 0 => sampling.rgb_frames = Sampling::default().rgb_frames,
            Modality::Flow if sampling.flow_pairs == 0 => sampling.flow_pairs = Sampling::default().flow_pairs,
            _ => {}
        }
        let fusion = &mut manifest.fusion;
        if !fusion.order.contains(&modality) {
            fusion.order.push(modality);
        }
        for entry in fusion.table.values_mut() {
            match modality {
                Modality::Rgb => entry.rgb = None,
                Modality::Flow => entry.flow = None,
                Modality::Audio => entry.audio = None,
            }
        }
        if fusion.order.len() > 1 {
            let why = format!("the {modality} model was imported: neither table nor temperature was measured on it");
            fusion.refit = Some(why);
        }
        let card = &mut manifest.card;
        card.measured.retain(|name, _| !stands_in(name, "fusion") && !stands_in(name, modality.as_str()));
        let name = self.file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let said = format!("{modality}: {} imported from {name} (SHA-256 {from_sha256})", self.architecture);
        card.method = if card.method.is_empty() { said } else { format!("{}; {said}", card.method) };
        let limit = format!("The {modality} model was not measured with this program.");
        card.limits = if card.limits.is_empty() { limit } else { format!("{} {limit}", card.limits) };
    }

    /// The section of the modality. It keeps the feature parameters of the replaced model.
    fn section<P: Default>(
        &self,
        had: Option<Section<P>>,
        weights: &str,
        sha256: &str,
        classes: Vec<String>,
    ) -> Section<P> {
        Section {
            architecture: self.architecture,
            weights: weights.to_owned(),
            sha256: sha256.to_owned(),
            classes,
            temperature: 1.0,
            input: had.map(|section| section.input).unwrap_or_default(),
            // The ranges of the replaced network do not apply.
            int8: None,
        }
    }
}

/// Whether a file is a pickle, by its first nine bytes. torch.save writes a zip archive, and before version 1.6 a bare pickle.
/// The header length of a safetensors file may look like the start of a pickle, but then a `{` follows.
fn is_pickle(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04") || (matches!(start, [0x80, 2..=5, ..]) && start.get(8) != Some(&b'{'))
}

/// Whether `word` is one of the words of a figure's name.
fn stands_in(name: &str, word: &str) -> bool {
    name.split('_').any(|part| part == word)
}

/// The first few names, and the number of others.
fn first(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMES_SHOWN)].join(", ");
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
