//! Synthetic inputs: an evaluation of seconds with probabilities of three modalities, and the log of a training in two
//! steps.

use base64::Engine;
use touchline_compute::models::Architecture;
use touchline_core::labels::{Modality, OTHER, STUDY_CLASSES};
use touchline_learn::dataset::Kind;
use touchline_learn::evaluate::result::*;
use touchline_learn::record::*;
use touchline_learn::report::RunLog;

/// A random number generator with the same sequence on every machine (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }
}

/// 23 of the study's classes, and `other`.
pub fn classes() -> Vec<String> {
    let known = STUDY_CLASSES.iter().filter(|c| !["football", "handball"].contains(*c));
    known.copied().chain([OTHER]).map(String::from).collect()
}

struct Sample {
    truth: usize,
    scores: Vec<f64>,
}

/// Scores of a model: the higher `strength`, the better. The last classes are the hardest.
fn samples(dice: &mut Dice, classes: usize, counts: &[u64], strength: f64) -> Vec<Sample> {
    let mut all = Vec::new();
    for (truth, count) in counts.iter().enumerate() {
        for _ in 0..*count {
            let mut logits: Vec<f64> = (0..classes).map(|_| 1.6 * dice.normal()).collect();
            logits[truth] += strength * (1.4 - 0.9 * truth as f64 / classes as f64);
            if classes > 1 {
                logits[(truth + 1) % classes] += 0.35 * strength * dice.unit();
            }
            let top = logits.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = logits.iter().map(|l| (l - top).exp()).sum();
            all.push(Sample { truth, scores: logits.iter().map(|l| (l - top).exp() / sum).collect() });
        }
    }
    all
}

fn best(scores: &[f64]) -> usize {
    (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0)
}

fn curve(class: Option<usize>, name: &str, samples: &[Sample]) -> Option<RocCurve> {
    let mut pairs: Vec<(f64, bool)> = samples
        .iter()
        .flat_map(|s| {
            let pair = |c: usize| (s.scores[c], s.truth == c);
            class.map_or_else(|| (0..s.scores.len()).map(pair).collect(), |c| vec![pair(c)])
        })
        .collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let right = pairs.iter().filter(|p| p.1).count() as f64;
    let wrong = pairs.len() as f64 - right;
    if right == 0.0 || wrong == 0.0 {
        return None;
    }
    let (mut tp, mut fp, mut auc) = (0.0, 0.0, 0.0);
    let mut points = vec![(0.0, 0.0)];
    for (_, is_positive) in pairs {
        if is_positive {
            tp += 1.0;
        } else {
            fp += 1.0;
            auc += tp / right / wrong;
        }
        points.push((fp / wrong, tp / right));
    }
    Some(RocCurve { name: name.into(), auc, points })
}

fn report(level: Level, predictor: Predictor, names: &[String], samples: &[Sample]) -> LevelReport {
    let n = names.len();
    let mut confusion = vec![vec![0_u64; n]; n];
    samples.iter().for_each(|s| confusion[s.truth][best(&s.scores)] += 1);
    let mut roc: Vec<RocCurve> = curve(None, "macro", samples).into_iter().collect();
    let per_class: Vec<ClassReport> = (0..n)
        .map(|c| {
            let right = confusion[c][c] as f64;
            let support: u64 = confusion[c].iter().sum();
            let predicted: u64 = confusion.iter().map(|row| row[c]).sum();
            let (precision, recall) = (right / predicted.max(1) as f64, right / support.max(1) as f64);
            let f1 = if right > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
            let roc_of = curve(Some(c), &names[c], samples);
            let auc = roc_of.as_ref().map(|r| r.auc);
            roc.extend(roc_of);
            ClassReport { class: names[c].clone(), precision, recall, f1, support, auc }
        })
        .collect();
    let known: Vec<&ClassReport> = per_class.iter().filter(|c| c.support > 0).collect();
    let mean = |of: fn(&ClassReport) -> f64| known.iter().map(|c| of(c)).sum::<f64>() / known.len().max(1) as f64;
    let share =
        |of: &dyn Fn(&Sample) -> bool| samples.iter().filter(|s| of(s)).count() as f64 / samples.len().max(1) as f64;
    let around = |value: f64| {
        let half = 1.0 / (samples.len().max(1) as f64).sqrt();
        Interval { value, low: Some((value - half).max(0.0)), high: Some((value + half).min(1.0)) }
    };
    let rank = |s: &Sample| s.scores.iter().filter(|p| **p > s.scores[s.truth]).count();
    LevelReport {
        level,
        predictor,
        n: samples.len() as u64,
        accuracy: around(share(&|s| rank(s) == 0)),
        macro_f1: around(mean(|c| c.f1)),
        macro_precision: mean(|c| c.precision),
        macro_recall: mean(|c| c.recall),
        top3: share(&|s| rank(s) < 3),
        log_loss: samples.iter().map(|s| -s.scores[s.truth].ln()).sum::<f64>() / samples.len().max(1) as f64,
        macro_auc: roc.first().map(|r| r.auc),
        per_class,
        confusion,
        roc,
    }
}

fn bins(samples: &[Sample], sharpen: f64) -> (f64, Vec<Bin>) {
    let mut all: Vec<(u64, f64, f64)> = vec![(0, 0.0, 0.0); 15];
    for s in samples {
        let sum: f64 = s.scores.iter().map(|p| p.powf(sharpen)).sum();
        let top = s.scores.iter().map(|p| p.powf(sharpen) / sum).fold(0.0, f64::max);
        let bin = &mut all[((top * 15.0) as usize).min(14)];
        *bin = (bin.0 + 1, bin.1 + top, bin.2 + f64::from(u8::from(best(&s.scores) == s.truth)));
    }
    let ece = all.iter().map(|b| (b.1 - b.2).abs()).sum::<f64>() / samples.len() as f64;
    let bin = |(i, (count, confidence, right)): (usize, &(u64, f64, f64))| {
        let n = (*count).max(1) as f64;
        let (from, to) = (i as f64 / 15.0, (i + 1) as f64 / 15.0);
        Bin { from, to, count: *count, confidence: confidence / n, accuracy: right / n }
    };
    (ece, all.iter().enumerate().map(bin).collect())
}

fn residuals(predictor: Predictor, samples: &[Sample]) -> Histogram {
    let mut counts = vec![0; 20];
    samples.iter().for_each(|s| counts[(((1.0 - s.scores[s.truth]) * 20.0) as usize).min(19)] += 1);
    Histogram { predictor, edges: (0..=20).map(|i| f64::from(i) / 20.0).collect(), counts }
}

fn thumbnail(dice: &mut Dice) -> String {
    let (r, g, b) = (dice.unit() * 120.0, 60.0 + dice.unit() * 120.0, dice.unit() * 120.0);
    let line = dice.below(80) as u32 + 20;
    let picture = image::RgbImage::from_fn(192, 108, |x, y| {
        let light = if x.abs_diff(line) < 2 || y.abs_diff(line / 2) < 2 { 120.0 } else { f64::from(y) * 0.4 };
        image::Rgb([r + light, g + light, b + light].map(|v| v.min(255.0) as u8))
    });
    let mut jpeg = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    format!("data:image/jpeg;base64,{}", base64::engine::general_purpose::STANDARD.encode(jpeg.into_inner()))
}

/// Reports by kind, predicted by the table: every class has photographs, every third class has frames of a single
/// source.
fn events() -> EventFigures {
    let of = |value: f64| Interval { value, low: Some(value * 0.8), high: Some(value * 1.3) };
    let length = |scene_seconds: u32| EventsOfLength {
        scene_seconds,
        hours: 2.0,
        scenes: 5760 / u64::from(scene_seconds),
        missed_per_hour: of(960.0 / f64::from(scene_seconds)),
        false_per_hour: of(7.25),
        delay_s: Some(of(6.5)),
        begin_error_s: Some(of(1.125)),
        end_error_s: None,
    };
    let by_length = [20, 60].map(length).to_vec();
    EventFigures { vote_window: 10, vote_stride: 1, vote_onset: 0.6, vote_offset: 0.4, by_length }
}

fn comparison() -> Comparison {
    let kind = |kind, value: f64, verdict| KindComparison {
        kind,
        sources: 12,
        difference: Interval { value, low: Some(value - 0.02), high: Some(value + 0.02) },
        verdict,
    };
    Comparison {
        pack: "last season".to_owned(),
        weights_sha256: "0".repeat(64),
        not_compared: 3,
        kinds: vec![kind(Kind::Picture, 0.03, Verdict::Better), kind(Kind::Clip, -0.01, Verdict::Undecided)],
        verdict: Verdict::Better,
    }
}

fn kinds(names: &[String]) -> Vec<KindReport> {
    let report_of = |kind: Kind, sources: u64| {
        let present = names.iter().step_by(if sources == 1 { 3 } else { 1 });
        let class = |class: &String| ClassOfKind {
            class: class.clone(),
            items: 8 * sources,
            sources,
            right: Interval { value: 0.75, low: (sources > 1).then_some(0.5), high: (sources > 1).then_some(1.0) },
        };
        let classes: Vec<ClassOfKind> = present.map(class).collect();
        KindReport {
            kind,
            predictor: Predictor::Table,
            items: 8 * sources * classes.len() as u64,
            sources: sources * classes.len() as u64,
            accuracy: 0.75,
            macro_f1: 0.7,
            top3: 0.9,
            by_source: Interval { value: 0.75, low: Some(0.6), high: Some(0.9) },
            mean_over_classes: 0.75,
            log_loss: 0.9,
            other_called_a_sport: Some(0.25),
            answered: None,
            classes,
        }
    };
    vec![report_of(Kind::Picture, 4), report_of(Kind::Frame, 1)]
}

/// An evaluation of three modalities and both fusions on the classes `names`; the last class has no samples.
pub fn evaluation(names: &[String]) -> Evaluation {
    let dice = &mut Dice(7);
    let n = names.len();
    let counts: Vec<u64> = (0..n).map(|i| if i + 1 == n && n > 1 { 0 } else { 4 + dice.below(28) as u64 }).collect();
    let strengths = [
        (Predictor::Rgb, 6.2),
        (Predictor::Flow, 3.2),
        (Predictor::Audio, 2.2),
        (Predictor::Table, 6.4),
        (Predictor::Learned, 6.8),
    ];
    let videos: Vec<u64> = counts.iter().map(|n| n.div_ceil(10)).collect();
    let frames: Vec<u64> = counts.iter().map(|n| n * 5).collect();
    let mut reports = Vec::new();
    let (mut calibration, mut histograms, mut improvement) = (Vec::new(), Vec::new(), Vec::new());
    for (level, counts, more) in
        [(Level::Frame, &frames, 0.8), (Level::Second, &counts, 1.0), (Level::Video, &videos, 1.3)]
    {
        for (predictor, strength) in strengths {
            if level == Level::Frame && strength > 6.3 {
                continue;
            }
            let samples = samples(dice, n, counts, strength * more);
            if level == Level::Frame {
                let modality = Modality::ALL[calibration.len()];
                let ((ece_before, before), (ece_after, after)) = (bins(&samples, 1.8), bins(&samples, 0.95));
                calibration.push(Calibration { modality, temperature: 1.9, ece_before, ece_after, before, after });
            }
            if level == Level::Second {
                histograms.push(residuals(predictor, &samples));
            }
            reports.push(report(level, predictor, names, &samples));
        }
    }
    for level in [Level::Second, Level::Video] {
        let f1 = |p: Predictor| reports.iter().find(|r| r.level == level && r.predictor == p).unwrap().macro_f1.value;
        for (over, predictor) in Modality::ALL.into_iter().zip([Predictor::Rgb, Predictor::Flow, Predictor::Audio]) {
            let (fusion_f1, modality_f1) = (f1(Predictor::Table), f1(predictor));
            let percent = 100.0 * (fusion_f1 - modality_f1) / modality_f1;
            improvement.push(Improvement { level, over, fusion_f1, modality_f1, percent });
        }
    }
    let falls = [(Predictor::Table, [0.41, 0.0, 0.021]), (Predictor::Learned, [0.38, 0.034, -0.006])];
    let importance = falls
        .into_iter()
        .flat_map(|(predictor, falls)| {
            Modality::ALL.into_iter().zip(falls).map(move |(modality, ablation)| Importance {
                predictor,
                modality,
                ablation,
                permutation: ablation * 1.2 + 0.004,
                permutation_std: 0.011,
            })
        })
        .collect();
    let wrong = (0..9)
        .map(|i| WrongExample {
            path: format!("clips/{}/match_{i}_a_rather_long_name_of_a_recording.mp4", names[i % n]),
            second: 3 * i as u32,
            truth: names[i % n].clone(),
            predicted: names[(i + 1) % n].clone(),
            probability: 0.97 - 0.05 * i as f64,
            decided_by: Modality::ALL.get(i % 4).copied(),
            thumbnail: (i % 4 != 2).then(|| thumbnail(dice)),
        })
        .collect();
    let label_distribution = names
        .iter()
        .zip(&counts)
        .enumerate()
        .map(|(i, (class, n))| ClassCount {
            class: class.clone(),
            recordings: n.div_ceil(10),
            sources: if i % 9 == 4 { (*n).min(1) } else { n.div_ceil(14) },
            seconds: *n,
            pictures: if *n > 0 { 30 } else { 0 },
            frames: if i % 3 == 0 { 8 } else { 0 },
        })
        .collect();
    Evaluation {
        shares: Vec::new(),
        comparison: Some(comparison()),
        pack: "compact".into(),
        weights_sha256: "5f0c2c3a".repeat(8),
        dataset: "datasets/broadcasts".into(),
        side: "test".into(),
        classes: names.to_vec(),
        modalities: Modality::ALL.to_vec(),
        label_distribution,
        reports,
        kinds: kinds(names),
        events: Some(events()),
        improvement,
        calibration,
        importance,
        residuals: histograms,
        wrong,
        notes: vec![
            "3 recordings could not be decoded and were skipped.".into(),
            "bowling has sound in 4 of its 12 seconds.".into(),
            "The learned fusion was trained on 212 validation seconds.".into(),
            "Intervals come from 1000 bootstrap draws over 61 sources.".into(),
        ],
    }
}

/// The log of a training: `head` epochs of step 1 and `tune` epochs of step 2, each of 30 optimiser steps.
pub fn training(modality: Modality, names: &[String], head: u32, tune: u32) -> RunLog {
    let dice = &mut Dice(11 + modality as u64);
    let count = |dice: &mut Dice, scale: f64| names.iter().map(|_| (scale * (0.2 + dice.unit())) as u64).collect();
    let mut lines = vec![LogLine::Start(Start {
        modality,
        architecture: Architecture::MobileNetV2,
        classes: names.to_vec(),
        train: count(dice, 400.0),
        validation: count(dice, 50.0),
        trainable_parameters: 2_254_616,
        parameters: 2_290_000,
        seed: 1,
        settings: [
            ("optimiser", "AdamW, weight decay 0.05"),
            ("schedule", "cosine, 100 steps of warm-up"),
            ("batch", "64"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .to_vec(),
        resumed_at: 0,
    })];
    lines.push(LogLine::Finding(Finding {
        rule: RuleName::ClassImbalance,
        phase: Phase::Head,
        step: 0,
        epoch: 0,
        evidence: "2 of 24 classes have less than 1/10 of the samples of soccer (471): bowling 21, lacrosse 40".into(),
        stopped: false,
    }));
    let (mut step, mut best_f1, mut kept) = (0, 0.0, (Phase::Head, 1));
    let total = f64::from((head + tune).max(1));
    for (phase, epochs, base) in [(Phase::Head, head, 1.1), (Phase::Tune, tune, 0.62)] {
        for epoch in 1..=epochs {
            let along = f64::from(epoch) / f64::from(epochs);
            let start = if phase == Phase::Head { 2.1 } else { 0.5 };
            let loss = base + start * (-4.0 * along).exp();
            for _ in 0..30 {
                step += 1;
                lines.push(LogLine::Step(StepRecord {
                    phase,
                    step,
                    epoch,
                    loss: loss + 0.12 * dice.normal(),
                    accuracy: (1.15 - 0.33 * loss + 0.04 * dice.normal()).clamp(0.0, 1.0),
                    learning_rate: (if phase == Phase::Head { 1e-3 } else { 3e-4 })
                        * 0.5
                        * (1.0 + (std::f64::consts::PI * along).cos()),
                    images_per_second: (if phase == Phase::Head { 900.0 } else { 210.0 }) + 12.0 * dice.normal(),
                }));
            }
            let validation_loss = loss + 0.15 + 0.25 * along * along;
            let macro_f1 = (1.02 - 0.3 * validation_loss + 0.008 * dice.normal()).clamp(0.0, 1.0);
            let best = macro_f1 > best_f1;
            if best {
                (best_f1, kept) = (macro_f1, (phase, epoch));
            }
            lines.push(LogLine::Epoch(EpochRecord {
                phase,
                step,
                epoch,
                epochs,
                train_loss: loss,
                train_accuracy: (1.15 - 0.33 * loss).clamp(0.0, 1.0),
                validation: Some(Validation { loss: validation_loss, accuracy: macro_f1 + 0.02, macro_f1 }),
                took_s: 21.5,
                images_per_second: 400.0,
                best,
            }));
            let at_s = step as f64 / 30.0 * 21.5;
            lines.push(LogLine::Resources(ResourceSample {
                at_s,
                cpu_cores: 1.9 + 0.05 * dice.normal(),
                memory_bytes: ((1.4 + 0.6 * at_s / 21.5 / total) * (1_u64 << 30) as f64) as u64,
                gpu_utilisation: Some((0.8 + 0.05 * dice.normal()).min(1.0)),
                gpu_memory_bytes: Some(6 << 30),
                read_bytes_per_second: 2.1e7 * (1.0 + 0.2 * dice.normal()),
                written_bytes_per_second: if epoch % 5 == 0 { 9e6 } else { 1e5 },
                images_per_second: if phase == Phase::Head { 890.0 } else { 205.0 },
            }));
        }
    }
    lines.push(LogLine::Finding(Finding {
        rule: RuleName::OverTraining,
        phase: Phase::Tune,
        step,
        epoch: tune,
        evidence: "the validation loss has not fallen by 0.01 in 20 epochs: 0.8103 in epoch 9, now 1.0121".into(),
        stopped: true,
    }));
    lines.push(LogLine::End(RunEnd {
        step,
        cause: "stopped by a rule: over-training".into(),
        best_phase: kept.0,
        best_epoch: kept.1,
        took_s: total * 21.5,
    }));
    RunLog { modality, lines }
}
