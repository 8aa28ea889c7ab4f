//! The class-to-modality table, fitted on validation.

use super::predict::clips;
use super::scores::SoftSecond;
use crate::measure::Confusion;
use touchline_core::decision::PerModality;
use touchline_core::fusion::{FusionTable, TableEntry};
use touchline_core::labels::{ClassId, Modality};

/// A modality other than the default takes over a class only if its validation F1 is higher by at least this. With few validation
/// sources, a smaller difference may be chance.
const TABLE_MARGIN: f64 = 0.10;

/// Minimum F1 of a modality that takes over a class. A modality that is wrong more often than right takes over no class, however
/// poor the default is.
const TABLE_F1: f64 = 0.5;

/// Minimum number of seconds of a class in validation before another modality may take it over.
const TABLE_SUPPORT: u64 = 10;

/// Fits the table of `modalities` over `classes` classes on the seconds of validation's clips, or on all seconds if there are no
/// clips.
///
/// Modalities are ordered by their mean F1 over all classes for which any of them has seconds. The best is the default.
/// Modalities with equal F1 keep the given order.
///
/// # Panics
/// If `modalities` is empty or contains one twice.
pub fn fit_table(validation: &[SoftSecond], modalities: &[Modality], classes: usize) -> FusionTable {
    assert!(!modalities.is_empty(), "a table needs at least one modality");
    let clips = clips(validation);
    let mut by_f1: Vec<(Modality, Confusion)> =
        modalities.iter().map(|m| (*m, confusion(clips.iter().copied(), *m, classes))).collect();
    // The mean is over the classes of all modalities: a modality that is good on its few classes is no default for the rest.
    let all: Vec<ClassId> =
        (0..classes as u16).map(ClassId).filter(|c| by_f1.iter().any(|(_, f)| f.class(*c).support > 0)).collect();
    let mean = |c: &Confusion| all.iter().map(|id| c.class(*id).f1).sum::<f64>() / all.len().max(1) as f64;
    by_f1.sort_by(|a, b| mean(&b.1).total_cmp(&mean(&a.1)));
    let order: Vec<Modality> = by_f1.iter().map(|(m, _)| *m).collect();
    let entries = (0..classes as u16)
        .map(|class| {
            let class = ClassId(class);
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
    FusionTable::new(order, entries).expect("the order has each modality once, and entries only those")
}

/// Returns the confusion matrix of one modality over the seconds that have it.
pub fn confusion<'a>(seconds: impl Iterator<Item = &'a SoftSecond>, modality: Modality, classes: usize) -> Confusion {
    let mut confusion = Confusion::new(classes);
    for second in seconds {
        if let Some(scores) = second.scores.get(modality) {
            confusion.add(second.truth, scores.label);
        }
    }
    confusion
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Kind;
    use touchline_core::decision::ModalityScores;

    fn scores_for(label: u16) -> Option<ModalityScores> {
        let scores = (0..3).map(|c| if c == label { 0.8 } else { 0.1 }).collect();
        Some(ModalityScores { scores, label: ClassId(label), votes: 1, voters: 1 })
    }

    /// Adds `n` seconds of class `truth` with these labels from RGB and sound.
    fn add(seconds: &mut Vec<SoftSecond>, n: usize, truth: u16, rgb: u16, audio: Option<u16>) {
        for _ in 0..n {
            seconds.push(SoftSecond {
                item: truth.into(),
                recording: truth.into(),
                second: seconds.len() as u32,
                truth: ClassId(truth),
                kind: Kind::Clip,
                scores: PerModality { rgb: scores_for(rgb), flow: None, audio: audio.and_then(scores_for) },
            });
        }
    }

    #[test]
    fn a_modality_takes_over_a_class_only_by_a_clear_margin_on_enough_seconds() {
        let fit = |n: usize, rgb_right: usize| {
            let mut seconds = Vec::new();
            add(&mut seconds, 40, 1, 1, Some(2));
            add(&mut seconds, 40, 2, 2, Some(1));
            // Class 0: sound is always right, the pictures `rgb_right` of `n` times.
            add(&mut seconds, rgb_right, 0, 0, Some(0));
            add(&mut seconds, n - rgb_right, 0, 1, Some(0));
            // A picture does not count.
            seconds.push(SoftSecond { kind: Kind::Picture, ..seconds[0].clone() });
            fit_table(&seconds, &[Modality::Audio, Modality::Rgb], 3)
        };
        let table = fit(20, 10);
        assert_eq!(table.order(), [Modality::Rgb, Modality::Audio], "the better macro F1 first");
        assert_eq!(table.entries()[0].modality, Modality::Audio);
        assert_eq!(table.entries()[0].f1.audio, Some(1.0));
        assert_eq!(table.entries()[0].f1.rgb, Some(2.0 / 3.0));
        assert_eq!(table.entries()[1].modality, Modality::Rgb);
        assert_eq!(table.entries()[0].f1.flow, None);
        assert_eq!(fit(9, 4).entries()[0].modality, Modality::Rgb, "too few seconds");
        assert_eq!(fit(20, 19).entries()[0].modality, Modality::Rgb, "too small a margin");
    }

    #[test]
    fn a_class_without_validation_stays_with_the_default() {
        let mut seconds = Vec::new();
        add(&mut seconds, 12, 1, 1, Some(1));
        let table = fit_table(&seconds, &[Modality::Rgb, Modality::Audio], 3);
        assert_eq!(table.default_modality(), Modality::Rgb, "equals stay in order");
        assert_eq!(table.entries()[2], TableEntry { modality: Modality::Rgb, f1: PerModality::default() });
    }
}
