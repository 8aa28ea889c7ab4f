//! Evaluation of a pack on a dataset: figures at frame, second and video level.
//!
//! [`score::score_side`] runs the models, and [`evaluate`] turns their scores into an [`Evaluation`]. Temperatures and the
//! class-to-modality table are those of the pack, which were fitted on validation. The learned fusion is fitted here, on the
//! validation side only.

mod bootstrap;
mod by_source;
mod calibration;
pub mod compare;
pub mod cross;
mod events;
pub mod figures;
mod importance;
mod metrics;
mod notes;
#[cfg(test)]
mod parity_tests;
mod predict;
mod programme;
pub mod result;
mod roc;
pub mod score;
pub mod scores;
mod stacking;
pub(super) mod table;
pub(crate) mod temperature;
#[cfg(test)]
mod tests;
pub mod unknown;
mod wrong;

use std::collections::BTreeSet;

use self::events::EventErrors;
use self::metrics::Samples;
use self::predict::{DecisionMethod, clips, frame_samples, second_samples, video_samples};
use self::programme::RecordingPool;
use self::result::{
    Calibration, ClassCount, ClassReport, Evaluation, EventFigures, Histogram, Importance, Improvement, KindReport,
    Level, LevelReport, SourceShare,
};
use self::scores::{ScoreTable, SoftSecond};
use self::stacking::Stacking;
use self::table::fit_table;
use self::unknown::Answers;
use crate::dataset::Kind;
use crate::dataset::split::Side;
use touchline_compute::models::pack::{Pack, Unknown};
use touchline_core::decision::PerModality;
use touchline_core::fusion::FusionTable;
use touchline_core::labels::{ClassId, Modality};
use touchline_core::vote::VoteConfig;

pub use self::wrong::thumbnail;

/// Number of bins in a histogram of residuals.
const RESIDUAL_BINS: usize = 20;

/// The parameters of a pack that turn logits into decisions.
#[derive(Clone, Debug, PartialEq)]
pub struct PackParameters {
    /// Name of the pack.
    pub pack: String,
    /// SHA-256 over all weights of the pack, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Temperature of each modality; 1 without a model.
    pub temperatures: PerModality<f32>,
    /// The class-to-modality table.
    pub fusion: FusionTable,
    /// Least probability of an answer.
    pub known_from: f32,
}

impl PackParameters {
    /// Returns the parameters of `pack`.
    pub fn of(pack: &Pack) -> Self {
        Self {
            pack: pack.name.clone(),
            weights_sha256: pack.weights_sha256(),
            temperatures: PerModality::of(|m| pack.model(m).map_or(1.0, |model| model.temperature)),
            fusion: pack.fusion.clone(),
            known_from: pack.known_from(),
        }
    }
}

/// Parameters that were fitted on validation.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Temperature of each modality.
    pub temperatures: PerModality<f32>,
    /// The class-to-modality table.
    pub fusion: FusionTable,
    /// When the answer is unknown; `None` without recordings and frames.
    pub unknown: Option<Unknown>,
    /// The seconds of validation at these temperatures.
    pub soft: Vec<SoftSecond>,
}

/// Fits temperatures and the class-to-modality table on validation.
///
/// # Panics
/// If the table has no modality.
pub fn fit(validation: &ScoreTable) -> Fitted {
    fit_at(validation, validation.fit_temperatures())
}

/// Fits the class-to-modality table and the threshold of answers on validation, at `temperatures`.
///
/// # Panics
/// If the table has no modality.
pub fn fit_at(validation: &ScoreTable, temperatures: PerModality<f32>) -> Fitted {
    let soft = validation.soften(&temperatures);
    let fusion = fit_table(&soft, &validation.modalities(), validation.classes.len());
    let items =
        by_source::item_samples(&soft, &DecisionMethod::Table(&fusion), validation.classes.len(), &validation.groups());
    Fitted { temperatures, fusion, unknown: unknown::fit(&items), soft }
}

/// Description of the measured side, and the seed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Display name of the dataset.
    pub dataset: String,
    /// The measured side.
    pub side: Side,
    /// Classes of the dataset, over all sides.
    pub dataset_classes: BTreeSet<String>,
    /// The vote that events are measured with.
    pub vote: VoteConfig,
    /// Seed of the bootstrap, the permutations and the programmes.
    pub seed: u64,
}

/// Computes all figures of `measured`. The learned fusion is fitted on `validation` and left out if that is `None` or empty.
/// `thumbnail` returns the picture of a second as a `data:` URI, from the item's index in the dataset and the second's index.
///
/// # Panics
/// If the tables and `deciders` belong to different packs.
pub fn evaluate(
    deciders: &PackParameters,
    measured: &ScoreTable,
    validation: Option<&ScoreTable>,
    settings: &Settings,
    thumbnail: &mut dyn FnMut(usize, u32) -> Option<String>,
) -> Evaluation {
    let soft = measured.soften(&deciders.temperatures);
    let stacking = validation.and_then(|v| Stacking::fit(v, &v.soften(&deciders.temperatures)));
    let modalities = measured.modalities();
    let mut judges: Vec<DecisionMethod> = modalities.iter().map(|m| DecisionMethod::Modality(*m)).collect();
    judges.push(DecisionMethod::Table(&deciders.fusion));
    judges.extend(stacking.as_ref().map(DecisionMethod::Learned));
    let work = Work {
        measured,
        clips: clips(&soft),
        groups: measured.groups(),
        judges,
        modalities,
        deciders,
        seed: settings.seed,
    };
    Evaluation {
        pack: deciders.pack.clone(),
        weights_sha256: deciders.weights_sha256.clone(),
        dataset: settings.dataset.clone(),
        side: settings.side.as_str().to_owned(),
        classes: measured.classes.names().to_vec(),
        modalities: work.modalities.clone(),
        label_distribution: distribution(measured),
        reports: work.reports(),
        kinds: work.kinds(&soft),
        shares: work.shares(&soft),
        comparison: None,
        events: work.events(&soft, settings.vote),
        improvement: work.improvement(),
        calibration: work.calibration(),
        importance: work.importance(),
        residuals: work.residuals(),
        wrong: wrong::wrong(measured, &work.clips, &deciders.fusion, thumbnail),
        notes: notes::notes(measured, &soft, stacking.as_ref(), settings),
    }
}

/// Inputs of the figures.
struct Work<'a> {
    measured: &'a ScoreTable,
    clips: Vec<&'a SoftSecond>,
    groups: Vec<u32>,
    judges: Vec<DecisionMethod<'a>>,
    modalities: Vec<Modality>,
    deciders: &'a PackParameters,
    seed: u64,
}

impl Work<'_> {
    fn classes(&self) -> usize {
        self.measured.classes.len()
    }

    fn temperature(&self, modality: Modality) -> f32 {
        *self.deciders.temperatures.get(modality)
    }

    fn samples(&self, level: Level, seconds: &[&SoftSecond], judge: &DecisionMethod) -> Samples {
        match (level, judge) {
            (Level::Frame, DecisionMethod::Modality(m)) => frame_samples(self.measured, *m, self.temperature(*m)),
            // Each modality has its own frames, so fusion needs at least a second.
            (Level::Frame, _) => Samples::new(self.classes()),
            (Level::Second, _) => second_samples(seconds, judge, self.classes(), &self.groups),
            (Level::Video, _) => video_samples(seconds, judge, self.classes(), &self.groups),
        }
    }

    fn reports(&self) -> Vec<LevelReport> {
        let mut out = Vec::new();
        for level in [Level::Frame, Level::Second, Level::Video] {
            for judge in &self.judges {
                let samples = self.samples(level, &self.clips, judge);
                if !samples.is_empty() {
                    out.push(report(level, judge, &samples, self.measured.classes.names(), self.seed));
                }
            }
        }
        out
    }

    /// Figures of each kind of material, by class and source.
    fn kinds(&self, soft: &[SoftSecond]) -> Vec<KindReport> {
        let classes = &self.measured.classes;
        let of = |judge: &DecisionMethod| {
            let by_kind = by_source::item_samples(soft, judge, classes.len(), &self.groups);
            let report = |(kind, samples): (Kind, Samples)| {
                let mut report = by_source::report(kind, judge.predictor(), &samples, classes, self.seed);
                if matches!(judge, DecisionMethod::Table(_)) {
                    let mut answers = Answers::default();
                    answers.add(&samples, self.deciders.known_from);
                    report.answered = Some(answers.shares());
                }
                report
            };
            by_kind.into_iter().map(report).collect::<Vec<_>>()
        };
        let mut kinds: Vec<KindReport> = self.judges.iter().flat_map(of).collect();
        kinds.sort_by_key(|r| (r.kind, r.predictor));
        kinds
    }

    fn shares(&self, soft: &[SoftSecond]) -> Vec<SourceShare> {
        let (classes, names) = (&self.measured.classes, self.measured.group_names());
        let table = DecisionMethod::Table(&self.deciders.fusion);
        let by_kind = by_source::item_samples(soft, &table, classes.len(), &self.groups);
        by_kind.iter().flat_map(|(kind, samples)| by_source::shares(*kind, samples, classes, &names)).collect()
    }

    fn events(&self, soft: &[SoftSecond], vote: VoteConfig) -> Option<EventFigures> {
        let classes = &self.measured.classes;
        let mut errors = EventErrors::new(vote);
        errors.add(&RecordingPool::new(soft, &self.deciders.fusion, classes, &self.groups)?, classes, self.seed);
        errors.figures(self.seed)
    }

    fn improvement(&self) -> Vec<Improvement> {
        let table = DecisionMethod::Table(&self.deciders.fusion);
        let mut out = Vec::new();
        for level in [Level::Second, Level::Video] {
            for over in &self.modalities {
                let with: Vec<&SoftSecond> =
                    self.clips.iter().copied().filter(|s| s.scores.get(*over).is_some()).collect();
                let f1 = |judge: &DecisionMethod| self.samples(level, &with, judge).confusion().macro_f1();
                let (fusion_f1, modality_f1) = (f1(&table), f1(&DecisionMethod::Modality(*over)));
                // The improvement over 0 is not a number.
                if modality_f1 > 0.0 {
                    let percent = 100.0 * (fusion_f1 - modality_f1) / modality_f1;
                    out.push(Improvement { level, over: *over, fusion_f1, modality_f1, percent });
                }
            }
        }
        out
    }

    fn calibration(&self) -> Vec<Calibration> {
        let of = |modality: &Modality| {
            let temperature = self.temperature(*modality);
            let bins = |t| calibration::reliability(&frame_samples(self.measured, *modality, t));
            let (before, after) = (bins(1.0), bins(temperature));
            let (ece_before, ece_after) = (calibration::ece(&before), calibration::ece(&after));
            let any = before.iter().any(|b| b.count > 0);
            let temperature = f64::from(temperature);
            any.then_some(Calibration { modality: *modality, temperature, ece_before, ece_after, before, after })
        };
        self.modalities.iter().filter_map(of).collect()
    }

    fn importance(&self) -> Vec<Importance> {
        let fusions = self.judges.iter().filter(|j| !matches!(j, DecisionMethod::Modality(_)));
        let of = |judge: &DecisionMethod, m: Modality| {
            importance::importance(&self.clips, judge, m, self.classes(), self.seed)
        };
        fusions.flat_map(|judge| self.modalities.iter().filter_map(move |m| of(judge, *m))).collect()
    }

    fn residuals(&self) -> Vec<Histogram> {
        let edges: Vec<f64> = (0..=RESIDUAL_BINS).map(|i| i as f64 / RESIDUAL_BINS as f64).collect();
        let of = |judge: &DecisionMethod| {
            let samples = self.samples(Level::Second, &self.clips, judge);
            let mut counts = vec![0; RESIDUAL_BINS];
            for residual in samples.residuals() {
                counts[((residual * RESIDUAL_BINS as f64) as usize).min(RESIDUAL_BINS - 1)] += 1;
            }
            let predictor = judge.predictor();
            (!samples.is_empty()).then(|| Histogram { predictor, edges: edges.clone(), counts })
        };
        self.judges.iter().filter_map(of).collect()
    }
}

fn report(level: Level, judge: &DecisionMethod, samples: &Samples, names: &[String], seed: u64) -> LevelReport {
    let confusion = samples.confusion();
    let (accuracy, macro_f1) = bootstrap::intervals(samples, bootstrap::DRAWS, seed);
    let roc = roc::curves(samples, names);
    // The search starts at the end, where the averages are, because a class may have the name of an average.
    let macro_auc = roc.iter().rev().find(|c| c.name == "macro").map(|c| c.auc);
    let class = |(name, c): (&String, u16)| {
        let f = confusion.class(ClassId(c));
        let auc = roc::one_vs_rest(samples, ClassId(c)).map(|r| r.auc);
        ClassReport { class: name.clone(), precision: f.precision, recall: f.recall, f1: f.f1, support: f.support, auc }
    };
    LevelReport {
        level,
        predictor: judge.predictor(),
        n: samples.len() as u64,
        accuracy,
        macro_f1,
        macro_precision: confusion.mean(|f| f.precision),
        macro_recall: confusion.mean(|f| f.recall),
        top3: samples.top_k(3),
        log_loss: samples.log_loss(),
        macro_auc,
        per_class: names.iter().zip(0..).map(class).collect(),
        confusion: confusion.rows(),
        roc,
    }
}

/// Counts the scored material of each class.
fn distribution(table: &ScoreTable) -> Vec<ClassCount> {
    let mut counts: Vec<ClassCount> = table
        .classes
        .names()
        .iter()
        .map(|class| ClassCount { class: class.clone(), recordings: 0, sources: 0, seconds: 0, pictures: 0, frames: 0 })
        .collect();
    let mut items = BTreeSet::new();
    let mut sources = BTreeSet::new();
    for second in &table.seconds {
        let item = table.item(second);
        let count = &mut counts[item.truth.index()];
        match item.kind {
            Kind::Picture => count.pictures += 1,
            Kind::Frame => count.frames += 1,
            Kind::Clip | Kind::Sound => {
                count.seconds += 1;
                count.recordings += u64::from(items.insert((&item.path, item.truth)));
                count.sources += u64::from(sources.insert((item.truth, &item.group)));
            }
        }
    }
    counts
}
