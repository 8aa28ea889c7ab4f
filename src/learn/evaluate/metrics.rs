//! Figures of a list of predictions: confusion, top-k, log loss, with the definitions of scikit-learn.

use crate::measure::Confusion;
use touchline_core::labels::ClassId;

/// Predictions with their true classes: `n` samples over `classes` classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    classes: usize,
    truth: Vec<ClassId>,
    predicted: Vec<ClassId>,
    groups: Vec<u32>,
    /// `n * classes`, row-major.
    probabilities: Vec<f32>,
}

impl Samples {
    /// An empty list over `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, ..Self::default() }
    }

    /// Adds a sample. Samples of one `group` are resampled together.
    ///
    /// # Panics
    /// If `probabilities` does not have one value per class.
    pub fn push(&mut self, truth: ClassId, predicted: ClassId, group: u32, probabilities: &[f32]) {
        assert_eq!(probabilities.len(), self.classes, "a probability per class");
        self.truth.push(truth);
        self.predicted.push(predicted);
        self.groups.push(group);
        self.probabilities.extend_from_slice(probabilities);
    }

    /// Adds the samples of another list over the same classes.
    ///
    /// # Panics
    /// If the other list has another number of classes.
    pub fn append(&mut self, other: Self) {
        assert_eq!(self.classes, other.classes, "both lists have the same classes");
        self.truth.extend(other.truth);
        self.predicted.extend(other.predicted);
        self.groups.extend(other.groups);
        self.probabilities.extend(other.probabilities);
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.truth.len()
    }

    /// Whether the list has no samples.
    pub fn is_empty(&self) -> bool {
        self.truth.is_empty()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Iterates over true class, predicted class, group and probabilities of each sample.
    pub fn iter(&self) -> impl Iterator<Item = (ClassId, ClassId, u32, &[f32])> {
        let rows = self.probabilities.chunks_exact(self.classes.max(1));
        self.truth.iter().zip(&self.predicted).zip(&self.groups).zip(rows).map(|(((t, p), g), row)| (*t, *p, *g, row))
    }

    /// Returns the confusion matrix.
    pub fn confusion(&self) -> Confusion {
        let mut confusion = Confusion::new(self.classes);
        self.iter().for_each(|(truth, predicted, _, _)| confusion.add(truth, predicted));
        confusion
    }

    /// Share of samples whose true class is among the `k` most probable. Of classes with equal probabilities, the later one counts
    /// as the more probable, as in scikit-learn's `top_k_accuracy_score`. 0 without samples.
    pub fn top_k(&self, k: usize) -> f64 {
        let hit = |truth: ClassId, row: &[f32]| {
            let own = row[truth.index()];
            let before =
                row.iter().enumerate().filter(|(c, p)| **p > own || (**p == own && *c > truth.index())).count();
            before < k
        };
        let hits = self.iter().filter(|(truth, _, _, row)| hit(*truth, row)).count();
        self.mean_of(hits as f64)
    }

    /// Mean of `−ln p(true class)`, with `p` clipped to `[ε, 1 − ε]` and the ε of `f32`, as in scikit-learn's `log_loss`. 0 without
    /// samples.
    pub fn log_loss(&self) -> f64 {
        const EPSILON: f64 = f32::EPSILON as f64;
        let loss = |truth: ClassId, row: &[f32]| -f64::from(row[truth.index()]).clamp(EPSILON, 1.0 - EPSILON).ln();
        self.mean_of(self.iter().map(|(truth, _, _, row)| loss(truth, row)).sum())
    }

    /// `1 − probability of the true class` of each sample.
    pub fn residuals(&self) -> impl Iterator<Item = f64> {
        self.iter().map(|(truth, _, _, row)| 1.0 - f64::from(row[truth.index()]))
    }

    fn mean_of(&self, sum: f64) -> f64 {
        if self.is_empty() { 0.0 } else { sum / self.len() as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_and_log_loss_match_a_calculation_by_hand() {
        let mut samples = Samples::new(4);
        assert_eq!((samples.top_k(3), samples.log_loss()), (0.0, 0.0), "there are no samples");
        samples.push(ClassId(0), ClassId(0), 0, &[0.5, 0.25, 0.25, 0.0]);
        samples.push(ClassId(1), ClassId(0), 0, &[0.5, 0.25, 0.25, 0.0]); // third: of equal probabilities the later comes first
        samples.push(ClassId(3), ClassId(0), 0, &[1.0, 0.0, 0.0, 0.0]); // second, likewise
        samples.push(ClassId(0), ClassId(2), 0, &[0.1, 0.2, 0.4, 0.3]);
        assert_eq!((samples.top_k(1), samples.top_k(2), samples.top_k(3)), (0.25, 0.5, 0.75));
        let want = -(0.5f64.ln() + 0.25f64.ln() + f64::from(f32::EPSILON).ln() + f64::from(0.1f32).ln()) / 4.0;
        assert!((samples.log_loss() - want).abs() < 1e-12);
        assert_eq!(samples.confusion().accuracy(), 0.25);
        assert_eq!(samples.residuals().nth(1), Some(0.75));
    }
}
