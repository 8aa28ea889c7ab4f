//! What fusion loses without a modality.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::predict::Judge;
use super::result::Importance;
use super::scores::SoftSecond;
use crate::measure::Confusion;
use touchline_core::decision::{ModalityScores, PerModality};
use touchline_core::labels::Modality;

/// Shuffles of a modality.
pub const PERMUTATIONS: usize = 20;

/// The fall of a fusion's macro F1 over the seconds when `modality` is taken away, and when its scores are dealt out anew
/// among the seconds that have it (Breiman's permutation importance). Seconds that have nothing but the modality cannot
/// be decided without it: the ablation is over the others. `None` when no second has the modality and another.
pub fn importance(
    seconds: &[&SoftSecond],
    judge: &Judge,
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
    judge: &Judge,
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
    use super::super::scores::testing::{says, table};
    use super::super::stacking::Stacking;
    use super::super::table::fit_table;
    use super::*;
    use crate::dataset::Kind;

    const ONE: PerModality<f32> = PerModality { rgb: 1.0, flow: 1.0, audio: 1.0 };

    #[test]
    fn what_decides_counts_and_what_is_useless_does_not() {
        let mut t = table(3);
        t.outputs.flow = None;
        for group in 0..30usize {
            // Sound says the same whatever is on; the last group has sound only.
            let rgb = if group == 29 { vec![] } else { vec![says(group % 3, 3.0, 3)] };
            let second = PerModality { rgb, flow: vec![], audio: vec![says(1, 2.0, 3)] };
            t.add(Kind::Clip, (group % 3) as u16, &group.to_string(), vec![second; 3]);
        }
        let soft = t.soften(&ONE);
        let seconds = clips(&soft);
        let table = fit_table(&soft, &[Modality::Rgb, Modality::Audio], 3);
        let stacking = Stacking::fit(&t, &soft).unwrap();
        for judge in [Judge::Table(&table), Judge::Learned(&stacking)] {
            let audio = importance(&seconds, &judge, Modality::Audio, 3, 1).unwrap();
            assert_eq!((audio.ablation, audio.permutation, audio.permutation_std), (0.0, 0.0, 0.0), "{judge:?}");
            let rgb = importance(&seconds, &judge, Modality::Rgb, 3, 1).unwrap();
            // Without pictures all is one class: F1 is 1/2 of one class of three.
            assert!(rgb.ablation > 0.75, "{rgb:?}");
            if let Judge::Table(_) = judge {
                // With them sound is wrong for its last group: F1 1, 60/63 and 54/57.
                let whole = (1.0 + 60.0 / 63.0 + 54.0 / 57.0) / 3.0;
                assert!((rgb.ablation - (whole - 0.5 / 3.0)).abs() < 1e-9, "{rgb:?}");
            }
            // Dealt out anew they are right for a third.
            assert!((rgb.permutation - 0.65).abs() < 0.1 && rgb.permutation_std > 0.01, "{rgb:?}");
            assert_eq!(importance(&seconds, &judge, Modality::Rgb, 3, 1), Some(rgb), "repeats");
            assert_eq!(importance(&seconds, &judge, Modality::Flow, 3, 1), None);
        }
    }
}
