//! The class-to-modality table and the decision of one second.
//!
//! The rule is the study's, for three modalities instead of two: if a class whose table entry names another modality
//! than the default is among the second's labels, that modality decides; otherwise the default does. In the study the
//! default is RGB and the one exception is badminton, which sound recognises best.
//!
//! `learn` measures the table; [`crate::vote`] votes over seconds.

use crate::decision::{Decision, DecisionReason, ModalityScores, PerModality};
use crate::labels::{ClassId, Modality};

/// One class of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableEntry {
    /// The modality that recognises this class best.
    pub modality: Modality,
    /// F1 of the class on validation, per modality; `None` where the modality does not know the class or validation
    /// has no sample of it.
    pub f1: PerModality<Option<f32>>,
}

/// Decides which modality classifies a second.
#[derive(Clone, Debug, PartialEq)]
pub struct FusionTable {
    /// Modalities from best to worst on validation. The first is the default; the others replace it when it is missing.
    order: Vec<Modality>,
    /// One entry per class of the pack.
    entries: Vec<TableEntry>,
}

impl FusionTable {
    /// A table from its modalities, best first, and one entry per class.
    ///
    /// # Errors
    /// If `order` is empty or names a modality twice, or an entry names a modality that is not in `order`.
    pub fn new(order: Vec<Modality>, entries: Vec<TableEntry>) -> Result<Self, String> {
        if order.is_empty() {
            return Err("fusion.order names no modality".into());
        }
        if let Some(twice) = (1..order.len()).find(|&i| order[..i].contains(&order[i])) {
            return Err(format!("fusion.order names {} twice", order[twice]));
        }
        if let Some(i) = entries.iter().position(|e| !order.contains(&e.modality)) {
            return Err(format!("table entry {i} names {}, which fusion.order does not", entries[i].modality));
        }
        Ok(Self { order, entries })
    }

    /// The modality that decides unless an entry names another.
    pub fn default_modality(&self) -> Modality {
        self.order[0]
    }

    /// Modalities from best to worst on validation.
    pub fn order(&self) -> &[Modality] {
        &self.order
    }

    /// One entry per class.
    pub fn entries(&self) -> &[TableEntry] {
        &self.entries
    }

    /// Decides one second. `None` when every modality is missing.
    ///
    /// When the entries of several labels name different modalities, the one with the highest validation F1 wins; ties
    /// go to the earlier modality of `order`.
    ///
    /// # Panics
    /// If a label does not belong to the table's classes.
    pub fn decide(&self, scores: &PerModality<Option<ModalityScores>>) -> Option<Decision> {
        let mut claim: Option<(Modality, f32)> = None;
        let mut claimed_by_missing = false;
        for by in &self.order {
            let Some(label) = scores.get(*by).as_ref().map(|s| s.label) else { continue };
            let entry = &self.entries[label.index()];
            if entry.modality == self.default_modality() {
                continue;
            }
            if scores.get(entry.modality).is_none() {
                claimed_by_missing = true;
                continue;
            }
            let f1 = entry.f1.get(entry.modality).unwrap_or(0.0);
            let better = claim.is_none_or(|(modality, best)| {
                f1 > best || (f1 == best && self.rank(entry.modality) < self.rank(modality))
            });
            if better {
                claim = Some((entry.modality, f1));
            }
        }
        if let Some((modality, _)) = claim {
            return scores.get(modality).as_ref().map(|s| decision(modality, DecisionReason::Table, s));
        }
        let modality = *self.order.iter().find(|m| scores.get(**m).is_some())?;
        let stands_in = claimed_by_missing || modality != self.default_modality();
        let why = if stands_in { DecisionReason::Fallback } else { DecisionReason::Default };
        scores.get(modality).as_ref().map(|s| decision(modality, why, s))
    }

    fn rank(&self, modality: Modality) -> usize {
        self.order.iter().position(|m| *m == modality).unwrap_or(usize::MAX)
    }
}

fn decision(modality: Modality, why: DecisionReason, scores: &ModalityScores) -> Decision {
    Decision { label: scores.label, probability: scores.score(), modality, why, probabilities: scores.scores.clone() }
}

/// Reduces the softmax rows of one second's frames to the second's scores: mean probability and majority vote.
///
/// `rows` gives one probability vector per frame. Ties of the vote go to the class with the higher mean probability,
/// then to the lower id. `None` without rows.
///
/// # Panics
/// If the rows differ in length or are empty.
pub fn second_scores<'a>(rows: impl IntoIterator<Item = &'a [f32]>) -> Option<ModalityScores> {
    let mut rows = rows.into_iter().peekable();
    let classes = rows.peek()?.len();
    assert!(classes > 0, "a row has a value per class");
    let mut votes = vec![0u32; classes];
    let mut mean = vec![0f32; classes];
    let mut voters = 0;
    for row in rows {
        assert_eq!(row.len(), classes, "rows have one length");
        voters += 1;
        votes[argmax(row)] += 1;
        for (sum, p) in mean.iter_mut().zip(row) {
            *sum += p;
        }
    }
    let scale = 1.0 / voters as f32;
    mean.iter_mut().for_each(|m| *m *= scale);
    let best = (0..classes)
        .max_by(|&a, &b| votes[a].cmp(&votes[b]).then(mean[a].total_cmp(&mean[b])).then(b.cmp(&a)))
        .expect("there is at least one class");
    Some(ModalityScores { scores: mean, label: ClassId(best as u16), votes: votes[best], voters })
}

/// Index of the largest value; the first of equals. NaN loses against everything.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] || values[best].is_nan() {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const BADMINTON: u16 = 0;
    const TENNIS: u16 = 1;
    const SOCCER: u16 = 2;

    fn entry(modality: Modality, f1: f32) -> TableEntry {
        let mut scores = PerModality::default();
        *scores.get_mut(modality) = Some(f1);
        TableEntry { modality, f1: scores }
    }

    /// The study's table: sound for badminton, RGB for all other classes.
    fn study() -> FusionTable {
        FusionTable::new(
            vec![Modality::Rgb, Modality::Audio, Modality::Flow],
            vec![entry(Modality::Audio, 0.9), entry(Modality::Rgb, 0.8), entry(Modality::Rgb, 0.9)],
        )
        .unwrap()
    }

    fn predicts(label: u16, probability: f32) -> Option<ModalityScores> {
        let mut scores = vec![(1.0 - probability) / 2.0; 3];
        scores[label as usize] = probability;
        Some(ModalityScores { scores, label: ClassId(label), votes: 1, voters: 1 })
    }

    #[test]
    fn the_badminton_rule_of_the_study() {
        // (rgb, audio) labels and probabilities → deciding modality, label, probability, reason
        let table = [
            // RGB and sound have badminton: sound decides.
            (
                predicts(BADMINTON, 0.6),
                predicts(BADMINTON, 0.9),
                Modality::Audio,
                BADMINTON,
                0.9,
                DecisionReason::Table,
            ),
            // RGB has badminton: it is among the labels, so sound decides with its own label and probability.
            (predicts(BADMINTON, 0.6), predicts(TENNIS, 0.7), Modality::Audio, TENNIS, 0.7, DecisionReason::Table),
            // Only sound has badminton: sound decides.
            (predicts(TENNIS, 0.9), predicts(BADMINTON, 0.5), Modality::Audio, BADMINTON, 0.5, DecisionReason::Table),
            // No badminton among the labels: RGB.
            (predicts(TENNIS, 0.8), predicts(SOCCER, 0.99), Modality::Rgb, TENNIS, 0.8, DecisionReason::Default),
            // Sound is missing: RGB replaces it, as a fallback.
            (predicts(BADMINTON, 0.6), None, Modality::Rgb, BADMINTON, 0.6, DecisionReason::Fallback),
            (predicts(SOCCER, 0.6), None, Modality::Rgb, SOCCER, 0.6, DecisionReason::Default),
            // Pictures are missing: sound replaces RGB for other classes, and decides its own.
            (None, predicts(SOCCER, 0.4), Modality::Audio, SOCCER, 0.4, DecisionReason::Fallback),
            (None, predicts(BADMINTON, 0.4), Modality::Audio, BADMINTON, 0.4, DecisionReason::Table),
        ];
        for (row, (rgb, audio, modality, label, probability, reason)) in table.into_iter().enumerate() {
            let decision = study().decide(&PerModality { rgb, flow: None, audio }).unwrap();
            let actual = (decision.modality, decision.label.0, decision.probability, decision.why);
            assert_eq!(actual, (modality, label, probability, reason), "row {row}");
        }
        assert_eq!(study().decide(&PerModality::default()), None, "there are no scores");
    }

    #[test]
    fn the_modality_with_the_better_validation_wins() {
        let fusion = FusionTable::new(
            vec![Modality::Rgb, Modality::Flow, Modality::Audio],
            vec![entry(Modality::Audio, 0.7), entry(Modality::Flow, 0.8), entry(Modality::Rgb, 0.9)],
        )
        .unwrap();
        let scores =
            PerModality { rgb: predicts(BADMINTON, 0.5), flow: predicts(TENNIS, 0.5), audio: predicts(BADMINTON, 0.5) };
        assert_eq!(fusion.decide(&scores).unwrap().modality, Modality::Flow);
    }

    #[test]
    fn invalid_tables_are_refused() {
        assert!(FusionTable::new(vec![], vec![]).unwrap_err().contains("no modality"));
        assert!(FusionTable::new(vec![Modality::Rgb; 2], vec![]).unwrap_err().contains("twice"));
        let foreign = FusionTable::new(vec![Modality::Rgb], vec![entry(Modality::Flow, 1.0)]);
        assert!(foreign.unwrap_err().contains("flow"));
    }

    #[test]
    fn the_majority_decides_and_then_the_mean() {
        let rows: [&[f32]; 3] = [&[0.5, 0.3, 0.2], &[0.5, 0.3, 0.2], &[0.0, 0.9, 0.1]];
        let scores = second_scores(rows).unwrap();
        assert_eq!((scores.label, scores.votes, scores.voters), (ClassId(0), 2, 3), "the majority, not the mean");
        assert!((scores.score() - 1.0 / 3.0).abs() < 1e-6);
        let tie = second_scores([&[0.6, 0.4][..], &[0.1, 0.9]]).unwrap();
        assert_eq!(tie.label, ClassId(1), "a tie goes to the higher mean");
        assert_eq!(second_scores([]), None);
        assert_eq!(argmax(&[f32::NAN, 0.1, 0.2]), 2);
    }
}
