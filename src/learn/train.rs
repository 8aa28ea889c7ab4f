//! From labelled material to a pack: step 1 of the study (frozen backbone, trained heads) for all three modalities.
//!
//! Validation chooses the epoch, the temperatures and the class-to-modality table; the test split is looked at once,
//! for the figures on the card.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use super::card::{card, manifest_fusion, split_csv};
use super::dataset::split::Side;
use super::dataset::{Item, Kind};
use super::extract::{self, Extracted, Inputs, Row};
use super::head::{self, Head, HeadConfig, Samples};
use super::measure::Confusion;
use crate::decision::{ModalityScores, PerModality};
use crate::error::{Error, Result};
use crate::fusion::{FusionTable, TableEntry, second_scores};
use crate::infer::spread_softmax;
use crate::ingest::Open;
use crate::labels::{ClassId, ClassSet, Modality, STUDY_CLASSES};
use crate::models::pack::{MANIFEST, Manifest, Sampling, Section};
use crate::models::{Architecture, LoadError, Network, Tensors, read_weights, save_f16};
use crate::vote::VideoVote;

/// A modality other than the default takes a class over only when its validation F1 is this much better: with few
/// validation sources a smaller difference is chance.
const TABLE_MARGIN: f64 = 0.10;

/// And at least this good: a modality that is wrong more often than right takes nothing over, however bad the default is.
const TABLE_F1: f64 = 0.5;

/// Seconds of a class validation must hold before the table may leave the default.
const TABLE_SUPPORT: u64 = 10;

/// Recordings from a single source that are enough for a modality to know a class.
const ENOUGH_OF_ONE_SOURCE: usize = 10;

/// How much a clip's frame counts beside a picture: a broadcast looks like the clips.
pub const CLIP_WEIGHT: f32 = 3.0;

/// What a training is made from.
#[derive(Clone, Debug)]
pub struct TrainConfig {
    pub data: PathBuf,
    /// Directory of the pack to write.
    pub out: PathBuf,
    pub name: String,
    /// What the material is and where it comes from, for the card.
    pub material: String,
    /// MobileNetV2 backbone, safetensors with torchvision's keys.
    pub backbone: PathBuf,
    /// Directory for computed features.
    pub cache: PathBuf,
    pub seed: u64,
    pub inputs: Inputs,
    pub head: HeadConfig,
}

/// What a training says while it runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    Features { done: usize, total: usize },
    Epoch { modality: Modality, epoch: u32, epochs: u32, loss: f64, validation_f1: Option<f64> },
    Note(String),
}

/// A modality's head and what it tells apart.
struct Trained {
    /// For each output, the class of the pack.
    outputs: Vec<ClassId>,
    head: Head,
    temperature: f32,
}

/// Trains the heads, measures, and writes the pack.
///
/// # Errors
/// [`Error::Data`] when there is too little to learn from, [`Error::Output`] when the pack cannot be written.
pub fn run(
    items: &[Item],
    sides: &[Side],
    config: &TrainConfig,
    opener: &dyn Open,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest> {
    let broken = |e: LoadError| Error::data(&config.backbone, e.to_string(), e.advice());
    let backbone = read_weights(&config.backbone, &Device::Cpu).map_err(broken)?;
    let network = Network::load(Architecture::MobileNetV2, &backbone.tensors, None).map_err(broken)?;
    let extracted = extract::extract(
        &config.data,
        items,
        &config.inputs,
        (&network, &backbone.sha256),
        opener,
        &config.cache,
        &mut |done, total| progress(Progress::Features { done, total }),
    )?;
    for (path, cause) in &extracted.skipped {
        progress(Progress::Note(format!("skipped {}: {cause}", path.display())));
    }

    let (classes, left_out) = known_classes(items)?;
    let set = Labelled { items, sides, classes: &classes, extracted: &extracted };
    let mut trained: PerModality<Option<Trained>> = PerModality::default();
    for modality in Modality::ALL {
        *trained.get_mut(modality) = set.train(modality, &config.head, progress)?;
    }
    if Modality::ALL.iter().all(|m| trained.get(*m).is_none()) {
        let advice = "look at the lines above; a modality needs two classes with files that can be read";
        return Err(Error::data(&config.data, "there is nothing to learn from", advice));
    }
    let validation = set.scored(&trained, Side::Validation)?;
    let fusion = table(&validation, &classes, &trained);
    let test = set.scored(&trained, Side::Test)?;
    let measured = figures(&test, &validation, &fusion, &classes);

    let outputs_dir = &config.out;
    let cannot = |e: std::io::Error| {
        Error::output(outputs_dir.display().to_string(), format!("cannot write the pack: {e}"), "choose another -o")
    };
    std::fs::create_dir_all(outputs_dir).map_err(cannot)?;
    let section = |modality| write_weights(modality, &trained, &backbone.tensors, outputs_dir);
    let (rgb, flow, audio) = (section(Modality::Rgb)?, section(Modality::Flow)?, section(Modality::Audio)?);
    let names = |t: &Trained| t.outputs.iter().map(|id| classes.name(*id).to_owned()).collect();
    let manifest = Manifest {
        format: 1,
        name: config.name.clone(),
        classes: classes.names().to_vec(),
        left_out,
        sampling: Sampling {
            frame_height: config.inputs.frame_height,
            rgb_frames: config.inputs.plan.rgb_frames,
            flow_pairs: config.inputs.plan.flow_pairs,
        },
        rgb: trained.rgb.as_ref().zip(rgb).map(|(t, w)| w.section(names(t), t.temperature, config.inputs.rgb.clone())),
        flow: trained
            .flow
            .as_ref()
            .zip(flow)
            .map(|(t, w)| w.section(names(t), t.temperature, config.inputs.flow.clone())),
        audio: trained
            .audio
            .as_ref()
            .zip(audio)
            .map(|(t, w)| w.section(names(t), t.temperature, config.inputs.audio.clone())),
        fusion: manifest_fusion(&fusion, &classes),
        card: card(items, sides, config, measured),
    };
    let text = toml::to_string(&manifest).map_err(|e| Error::Internal(format!("{MANIFEST} cannot be written: {e}")))?;
    std::fs::write(outputs_dir.join(MANIFEST), text).map_err(cannot)?;
    std::fs::write(outputs_dir.join("split.csv"), split_csv(items, sides)).map_err(cannot)?;
    Ok(manifest)
}

/// The classes the material can teach, in alphabetical order, and the study's classes that are left out, with why.
fn known_classes(items: &[Item]) -> Result<(ClassSet, BTreeMap<String, String>)> {
    let mut names = BTreeSet::new();
    let mut left_out = BTreeMap::new();
    let in_data: BTreeSet<&str> = items.iter().map(|i| i.class.as_str()).collect();
    for class in &in_data {
        let of_class: Vec<&Item> = items.iter().filter(|i| i.class == *class).collect();
        let recordings = of_class.iter().filter(|i| i.kind != Kind::Picture).count();
        if of_class.len() == recordings && !learnable(of_class.iter().copied()) {
            left_out.insert((*class).to_owned(), format!("only {recordings} recording(s) of one source, no pictures"));
        } else {
            names.insert((*class).to_owned());
        }
    }
    for class in STUDY_CLASSES.iter().filter(|c| !in_data.contains(*c)) {
        left_out.insert((*class).to_owned(), "no data".to_owned());
    }
    let names: Vec<String> = names.into_iter().collect();
    let set = ClassSet::new(names).map_err(|e| Error::data("manifest.csv", e, "correct the class column"))?;
    Ok((set, left_out))
}

/// Whether recordings can teach a class: two sources, or many recordings of one.
fn learnable<'a>(items: impl Iterator<Item = &'a Item> + Clone) -> bool {
    let sources: BTreeSet<&str> = items.clone().map(|i| i.source.as_str()).collect();
    sources.len() >= 2 || items.count() >= ENOUGH_OF_ONE_SOURCE
}

/// The material with its features.
struct Labelled<'a> {
    items: &'a [Item],
    sides: &'a [Side],
    classes: &'a ClassSet,
    extracted: &'a Extracted,
}

/// One second with its true class, scored.
struct ScoredSecond {
    item: u32,
    truth: ClassId,
    kind: Kind,
    scores: PerModality<Option<ModalityScores>>,
}

impl Labelled<'_> {
    fn class_of(&self, item: u32) -> Option<ClassId> {
        self.classes.id(&self.items[item as usize].class)
    }

    /// The items a modality may learn a class from.
    fn teaches(&self, modality: Modality, item: &Item) -> bool {
        !item.weak
            && match modality {
                Modality::Rgb => item.kind != Kind::Sound,
                Modality::Flow => item.kind == Kind::Clip,
                Modality::Audio => item.audible,
            }
    }

    fn outputs(&self, modality: Modality) -> Vec<ClassId> {
        let teaching: Vec<&Item> = self.items.iter().filter(|i| self.teaches(modality, i)).collect();
        self.classes
            .ids()
            .filter(|id| {
                let of_class = teaching.iter().copied().filter(|i| i.class == self.classes.name(*id));
                of_class.clone().any(|i| i.kind == Kind::Picture) || learnable(of_class)
            })
            .collect()
    }

    fn train(
        &self,
        modality: Modality,
        config: &HeadConfig,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<Trained>> {
        let outputs = self.outputs(modality);
        if outputs.len() < 2 {
            progress(Progress::Note(format!("{modality}: fewer than two classes have data; the pack goes without it")));
            return Ok(None);
        }
        let (train, validation) = (self.samples(modality, &outputs, true), self.samples(modality, &outputs, false));
        if train.is_empty() {
            progress(Progress::Note(format!(
                "{modality}: nothing of the training side could be read; the pack goes without it"
            )));
            return Ok(None);
        }
        let epochs = config.epochs;
        let head = head::train(&train, &validation, outputs.len(), config, &mut |epoch, loss, validation_f1| {
            progress(Progress::Epoch { modality, epoch, epochs, loss, validation_f1 });
        })?;
        let temperature = head::temperature(&head.logits(&validation.features)?, &validation.labels);
        progress(Progress::Note(format!(
            "{modality}: {} classes, {} training rows, epoch {} kept, temperature {temperature:.2}",
            outputs.len(),
            train.len(),
            head.epoch
        )));
        Ok(Some(Trained { outputs, head, temperature }))
    }

    /// Rows of one side as samples. Training takes all views and balances classes and sources; validation takes the
    /// rows as they are.
    fn samples(&self, modality: Modality, outputs: &[ClassId], train: bool) -> Samples {
        let rows = self.extracted.rows.get(modality);
        let side = if train { Side::Train } else { Side::Validation };
        let label_of = |row: &Row| -> Option<u32> {
            let item = &self.items[row.item as usize];
            let wanted =
                self.sides[row.item as usize] == side && self.teaches(modality, item) && (train || row.view == 0);
            let class = self.class_of(row.item)?;
            let label = outputs.iter().position(|o| *o == class)?;
            wanted.then_some(label as u32)
        };
        // Square roots: a class or source with many rows counts more, but not in proportion.
        let mut of_class: HashMap<u32, f32> = HashMap::new();
        let mut of_source: HashMap<(u32, &str), f32> = HashMap::new();
        let base = |row: &Row| if self.items[row.item as usize].kind == Kind::Picture { 1.0 } else { CLIP_WEIGHT };
        for row in &rows.rows {
            if let Some(label) = label_of(row) {
                *of_class.entry(label).or_default() += base(row);
                *of_source.entry((label, &self.items[row.item as usize].source)).or_default() += base(row);
            }
        }
        let mut samples = Samples::default();
        for (i, row) in rows.rows.iter().enumerate() {
            let Some(label) = label_of(row) else { continue };
            let source = of_source[&(label, self.items[row.item as usize].source.as_str())];
            let weight = base(row) / (of_class[&label] * source).sqrt();
            samples.push(rows.feature(i, self.extracted.width), label, weight);
        }
        let mean = samples.weights.iter().sum::<f32>() / samples.len().max(1) as f32;
        samples.weights.iter_mut().for_each(|w| *w /= mean);
        samples
    }

    /// The seconds of one side as serving would score them: view 0, majority and mean over the second.
    fn scored(&self, trained: &PerModality<Option<Trained>>, side: Side) -> Result<Vec<ScoredSecond>> {
        let mut seconds: BTreeMap<(u32, u32), ScoredSecond> = BTreeMap::new();
        for modality in Modality::ALL {
            let Some(t) = trained.get(modality) else { continue };
            let rows = self.extracted.rows.get(modality);
            let mut groups: BTreeMap<(u32, u32), Vec<usize>> = BTreeMap::new();
            for (i, row) in rows.rows.iter().enumerate() {
                let item = &self.items[row.item as usize];
                if row.view == 0 && self.sides[row.item as usize] == side && !item.weak {
                    groups.entry((row.item, row.second)).or_default().push(i);
                }
            }
            for ((item, second), members) in groups {
                let Some(truth) = self.class_of(item) else { continue };
                let mut probabilities = Vec::with_capacity(members.len());
                for i in members {
                    let logits = t.head.logits(rows.feature(i, self.extracted.width))?.remove(0);
                    probabilities.push(spread_softmax(&logits, t.temperature, &t.outputs, self.classes.len()));
                }
                let kind = self.items[item as usize].kind;
                let entry = seconds.entry((item, second)).or_insert_with(|| ScoredSecond {
                    item,
                    truth,
                    kind,
                    scores: PerModality::default(),
                });
                *entry.scores.get_mut(modality) = second_scores(&probabilities);
            }
        }
        Ok(seconds.into_values().collect())
    }
}

/// Confusion of one modality over the seconds that have it.
fn confusion<'a>(seconds: impl Iterator<Item = &'a ScoredSecond>, modality: Modality, classes: usize) -> Confusion {
    let mut confusion = Confusion::new(classes);
    for second in seconds {
        if let Some(scores) = second.scores.get(modality) {
            confusion.add(second.truth, scores.label);
        }
    }
    confusion
}

fn table(validation: &[ScoredSecond], classes: &ClassSet, trained: &PerModality<Option<Trained>>) -> FusionTable {
    let clips = || validation.iter().filter(|s| s.kind == Kind::Clip);
    let mut by_f1: Vec<(Modality, Confusion)> = Modality::ALL
        .into_iter()
        .filter(|m| trained.get(*m).is_some())
        .map(|m| (m, confusion(clips(), m, classes.len())))
        .collect();
    by_f1.sort_by(|a, b| b.1.macro_f1().total_cmp(&a.1.macro_f1()));
    let order: Vec<Modality> = by_f1.iter().map(|(m, _)| *m).collect();
    let entries = classes
        .ids()
        .map(|class| {
            let mut entry = TableEntry { modality: order[0], f1: PerModality::default() };
            let default_f1 = by_f1[0].1.class(class).f1;
            let mut best = (default_f1 + TABLE_MARGIN).max(TABLE_F1);
            for (modality, confusion) in &by_f1 {
                let figures = confusion.class(class);
                if figures.support == 0 {
                    continue;
                }
                *entry.f1.get_mut(*modality) = Some(figures.f1 as f32);
                if *modality != order[0] && figures.support >= TABLE_SUPPORT && figures.f1 >= best {
                    best = figures.f1;
                    entry.modality = *modality;
                }
            }
            entry
        })
        .collect();
    FusionTable::new(order, entries).expect("the order has each trained modality once, and entries only those")
}

fn figures(
    test: &[ScoredSecond],
    validation: &[ScoredSecond],
    fusion: &FusionTable,
    classes: &ClassSet,
) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    let mut put = |name: String, value: f64| out.insert(name, (value * 1e4).round() / 1e4);
    let n = classes.len();
    for (kind, word) in [(Kind::Clip, "clip_seconds"), (Kind::Sound, "sound_seconds"), (Kind::Picture, "pictures")] {
        for modality in Modality::ALL {
            let c = confusion(test.iter().filter(|s| s.kind == kind), modality, n);
            if c.total() > 0 {
                put(format!("test_{word}_{modality}_n"), c.total() as f64);
                put(format!("test_{word}_{modality}_accuracy"), c.accuracy());
                put(format!("test_{word}_{modality}_macro_f1"), c.macro_f1());
            }
        }
    }
    let mut fused = Confusion::new(n);
    let mut videos: BTreeMap<u32, (ClassId, VideoVote)> = BTreeMap::new();
    for second in test.iter().filter(|s| s.kind == Kind::Clip) {
        let Some(decision) = fusion.decide(&second.scores) else { continue };
        fused.add(second.truth, decision.label);
        let (_, vote) = videos.entry(second.item).or_insert_with(|| (second.truth, VideoVote::new(n)));
        vote.add(decision.label, &decision.probabilities);
    }
    put("test_clip_seconds_fusion_accuracy".into(), fused.accuracy());
    put("test_clip_seconds_fusion_macro_f1".into(), fused.macro_f1());
    let mut video = Confusion::new(n);
    for (truth, vote) in videos.values() {
        if let Some(label) = vote.label() {
            video.add(*truth, label.label);
        }
    }
    put("test_videos_n".into(), video.total() as f64);
    put("test_videos_fusion_accuracy".into(), video.accuracy());
    put("test_videos_fusion_macro_f1".into(), video.macro_f1());
    let c = confusion(validation.iter().filter(|s| s.kind == Kind::Clip), Modality::Rgb, n);
    put("validation_clip_seconds_rgb_macro_f1".into(), c.macro_f1());
    out
}

/// A written weights file.
struct Written {
    file: String,
    sha256: String,
}

impl Written {
    fn section<P>(self, classes: Vec<String>, temperature: f32, input: P) -> Section<P> {
        Section {
            architecture: Architecture::MobileNetV2,
            weights: self.file,
            sha256: self.sha256,
            classes,
            temperature,
            input,
        }
    }
}

/// Writes backbone and head as one f16 safetensors file with torchvision's keys.
fn write_weights(
    modality: Modality,
    trained: &PerModality<Option<Trained>>,
    backbone: &Tensors,
    dir: &Path,
) -> Result<Option<Written>> {
    let Some(t) = trained.get(modality) else { return Ok(None) };
    let mut tensors = backbone.clone();
    tensors.insert("classifier.1.weight".into(), t.head.weight.to_dtype(DType::F32)?);
    tensors.insert("classifier.1.bias".into(), t.head.bias.to_dtype(DType::F32)?);
    let file = format!("{modality}.safetensors");
    let path = dir.join(&file);
    let sha256 =
        save_f16(&tensors, &path).map_err(|e| Error::output(path.display().to_string(), e.to_string(), e.advice()))?;
    Ok(Some(Written { file, sha256 }))
}
