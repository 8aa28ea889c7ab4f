//! Confusion matrix, precision, recall and F1, and their text form.

use serde::Serialize;

use touchline_core::labels::ClassId;

/// Confusion matrix: counts of (true class, predicted class).
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

/// Precision, recall and F1 of one class. A figure whose denominator is 0 is 0, as in scikit-learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClassFigures {
    /// Share of the samples predicted as the class that belong to it, 0 to 1.
    pub precision: f64,
    /// Share of the samples of the class that are predicted as it, 0 to 1.
    pub recall: f64,
    /// Harmonic mean of precision and recall, 0 to 1.
    pub f1: f64,
    /// Number of samples of the class.
    pub support: u64,
}

impl Confusion {
    /// Returns an empty matrix over `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts one sample.
    ///
    /// # Panics
    /// If a class is out of range.
    pub fn add(&mut self, truth: ClassId, predicted: ClassId) {
        self.counts[truth.index() * self.classes + predicted.index()] += 1;
    }

    /// Returns the number of samples of class `truth` that were predicted as `predicted`.
    ///
    /// # Panics
    /// If a class is out of range.
    pub fn count(&self, truth: ClassId, predicted: ClassId) -> u64 {
        self.counts[truth.index() * self.classes + predicted.index()]
    }

    /// Returns the number of samples.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the share of samples on the diagonal, 0 to 1; 0 without samples.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes).map(|c| self.counts[c * self.classes + c]).sum();
        ratio(right, self.total())
    }

    /// Returns precision, recall, F1 and support of a class.
    ///
    /// # Panics
    /// If the class is out of range.
    pub fn class(&self, class: ClassId) -> ClassFigures {
        let c = class.index();
        let right = self.counts[c * self.classes + c];
        let support: u64 = self.counts[c * self.classes..(c + 1) * self.classes].iter().sum();
        let predicted: u64 = (0..self.classes).map(|t| self.counts[t * self.classes + c]).sum();
        let (precision, recall) = (ratio(right, predicted), ratio(right, support));
        let f1 = ratio(2 * right, support + predicted);
        ClassFigures { precision, recall, f1, support }
    }

    /// Returns the mean F1 over the classes that have samples; 0 without samples.
    pub fn macro_f1(&self) -> f64 {
        self.mean(|f| f.f1)
    }

    /// Returns the mean of a figure over the classes that have samples; 0 without samples.
    pub fn mean(&self, figure: impl Fn(ClassFigures) -> f64) -> f64 {
        let figures = (0..self.classes).map(|c| self.class(ClassId(c as u16))).filter(|f| f.support > 0);
        let (sum, n) = figures.fold((0.0, 0u32), |(sum, n), f| (sum + figure(f), n + 1));
        if n == 0 { 0.0 } else { sum / f64::from(n) }
    }

    /// Returns the counts as `[truth][predicted]`.
    pub fn rows(&self) -> Vec<Vec<u64>> {
        self.counts.chunks(self.classes.max(1)).map(<[u64]>::to_vec).collect()
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// Formats a figure with `decimals` decimals. A value that rounds to zero has no sign, because `-0.000` would read as a small
/// loss.
pub fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.bytes().all(|b| matches!(b, b'0' | b'.')) => digits.to_owned(),
        _ => text,
    }
}

/// Formats a difference as [`fixed`] does, with a `+` when it is positive after rounding.
pub fn signed(value: f64, decimals: usize) -> String {
    let text = fixed(value, decimals);
    let is_gain = value > 0.0 && text.bytes().any(|b| matches!(b, b'1'..=b'9'));
    if is_gain { format!("+{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounded_zeros_have_no_sign() {
        for (value, plain, difference) in [
            (-1e-17, "0.000", "0.000"),
            (-0.0, "0.000", "0.000"),
            (4e-4, "0.000", "0.000"),
            (-4e-4, "0.000", "0.000"),
            (-6e-4, "-0.001", "-0.001"),
            (6e-4, "0.001", "+0.001"),
            (10.0, "10.000", "+10.000"),
            (f64::NAN, "NaN", "NaN"),
        ] {
            assert_eq!((fixed(value, 3).as_str(), signed(value, 3).as_str()), (plain, difference));
        }
        assert_eq!((fixed(-0.4, 0), fixed(f64::NEG_INFINITY, 3)), ("0".into(), "-inf".into()));
    }

    /// The figures come from scikit-learn 1.x `classification_report` for truth 0001122 and prediction 0010121.
    #[test]
    fn figures_equal_those_of_scikit_learn() {
        let mut confusion = Confusion::new(4);
        for (t, p) in [0, 0, 0, 1, 1, 2, 2].into_iter().zip([0, 0, 1, 0, 1, 2, 1]) {
            confusion.add(ClassId(t), ClassId(p));
        }
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        near(confusion.accuracy(), 4.0 / 7.0);
        let one = confusion.class(ClassId(1));
        near(one.precision, 1.0 / 3.0);
        near(one.recall, 0.5);
        near(one.f1, 0.4);
        near(confusion.macro_f1(), (2.0 / 3.0 + 0.4 + 2.0 / 3.0) / 3.0);
        assert_eq!(confusion.class(ClassId(3)), ClassFigures::default());
        assert_eq!(Confusion::new(2).macro_f1(), 0.0);
    }
}
