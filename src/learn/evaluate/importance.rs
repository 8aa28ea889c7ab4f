//! Importance of each modality for fusion.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::predict::DecisionMethod;
use super::result::Importance;
use super::scores::SoftSecond;
use crate::measure::Confusion;
use touchline_core::decision::{ModalityScores, PerModality};
use touchline_core::labels::Modality;

/// Number of permutations of a modality's scores.
pub const PERMUTATIONS: usize = 20;

/// Returns the fall of a fusion's macro F1 over `seconds` when `modality` is removed (ablation), and when its scores are permuted
/// among the seconds that have it (permutation importance: Breiman, *Random Forests*, Machine Learning 45, 2001). Seconds that
/// have only this modality cannot be decided without it, so the ablation leaves them out. `None` when no second has the
/// modality and another one.
pub fn importance(
    seconds: &[&SoftSecond],
    judge: &DecisionMethod,
    modality: Modality,
    classes: usize,
    seed: u64,
) -> Option<Importance> {
    let has = |s: &SoftSecond, m: Modality| s.scores.get(m).is_some();
    let with_others: Vec<&SoftSecond> =
        seconds.iter().copied().filter(|s| Modality::ALL.iter().any(|m| *m != modality && has(s, *m))).collect();
    if !with_others.iter().any(|s| has(s, modality)) {
        return None;
    }
    let without = with_others.iter().map(|s| {
        let mut scores = s.scores.clone();
        *scores.get_mut(modality) = None;
        scores
    });
    let whole = macro_f1(with_others.iter().map(|s| (*s, &s.scores)), judge, classes);
    let without: Vec<PerModality<Option<ModalityScores>>> = without.collect();
    let left = macro_f1(with_others.iter().copied().zip(&without), judge, classes);

    let places: Vec<usize> = (0..seconds.len()).filter(|i| has(seconds[*i], modality)).collect();
    let full = macro_f1(seconds.iter().map(|s| (*s, &s.scores)), judge, classes);
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut dealt: Vec<PerModality<Option<ModalityScores>>> = seconds.iter().map(|s| s.scores.clone()).collect();
    let falls: Vec<f64> = (0..PERMUTATIONS)
        .map(|_| {
            let mut from = places.clone();
            from.shuffle(&mut rng);
            for (to, from) in places.iter().zip(from) {
                *dealt[*to].get_mut(modality) = seconds[from].scores.get(modality).clone();
            }
            full - macro_f1(seconds.iter().copied().zip(&dealt), judge, classes)
        })
        .collect();
    let mean = falls.iter().sum::<f64>() / falls.len() as f64;
    let variance = falls.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / (falls.len() - 1) as f64;
    Some(Importance {
        predictor: judge.predictor(),
        modality,
        ablation: whole - left,
        permutation: mean,
        permutation_std: variance.sqrt(),
    })
}

fn macro_f1<'a>(
    seconds: impl Iterator<Item = (&'a SoftSecond, &'a PerModality<Option<ModalityScores>>)>,
    judge: &DecisionMethod,
    classes: usize,
) -> f64 {
    let mut confusion = Confusion::new(classes);
    for (second, scores) in seconds {
        if let Some((label, _)) = judge.decide(scores) {
            confusion.add(second.truth, label);
        }
    }
    confusion.macro_f1()
}

#[cfg(test)]
mod tests {
    use super::super::predict::clips;
    use super::super::scores::testing::{logits_for, table};
    use super::super::stacking::Stacking;
    use super::super::table::fit_table;
    use super::*;
    use crate::dataset::Kind;

    const ONE: PerModality<f32> = PerModality { rgb: 1.0, flow: 1.0, audio: 1.0 };

    #[test]
    fn a_useless_modality_has_no_importance() {
        let mut t = table(3);
        t.outputs.flow = None;
        for group in 0..30usize {
            // Sound gives the same scores for every class; the last group has sound only.
            let rgb = if group == 29 { vec![] } else { vec![logits_for(group % 3, 3.0, 3)] };
            let second = PerModality { rgb, flow: vec![], audio: vec![logits_for(1, 2.0, 3)] };
            t.add(Kind::Clip, (group % 3) as u16, &group.to_string(), vec![second; 3]);
        }
        let soft = t.soften(&ONE);
        let seconds = clips(&soft);
        let table = fit_table(&soft, &[Modality::Rgb, Modality::Audio], 3);
        let stacking = Stacking::fit(&t, &soft).unwrap();
        for judge in [DecisionMethod::Table(&table), DecisionMethod::Learned(&stacking)] {
            let audio = importance(&seconds, &judge, Modality::Audio, 3, 1).unwrap();
            assert_eq!((audio.ablation, audio.permutation, audio.permutation_std), (0.0, 0.0, 0.0), "{judge:?}");
            let rgb = importance(&seconds, &judge, Modality::Rgb, 3, 1).unwrap();
            // Without pictures every second gets the same class: F1 is 1/2 for one class of three.
            assert!(rgb.ablation > 0.75, "{rgb:?}");
            if let DecisionMethod::Table(_) = judge {
                // With pictures, only the last group, which has sound alone, is wrong: F1 1, 60/63 and 54/57.
                let whole = (1.0 + 60.0 / 63.0 + 54.0 / 57.0) / 3.0;
                assert!((rgb.ablation - (whole - 0.5 / 3.0)).abs() < 1e-9, "{rgb:?}");
            }
            // Permuted pictures are right for a third.
            assert!((rgb.permutation - 0.65).abs() < 0.1 && rgb.permutation_std > 0.01, "{rgb:?}");
            assert_eq!(importance(&seconds, &judge, Modality::Rgb, 3, 1), Some(rgb), "it is reproducible");
            assert_eq!(importance(&seconds, &judge, Modality::Flow, 3, 1), None);
        }
    }
}
