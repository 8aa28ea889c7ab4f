//! Compares the figures with those of scikit-learn, which `tests/reference/metrics.py` has written.

use serde::Deserialize;

use super::calibration::{ece, reliability};
use super::metrics::Samples;
use super::roc::{curves, one_vs_rest};
use touchline_core::labels::ClassId;

/// Tolerance of figures from probabilities, which are f32 and are summed in another order and width.
const SINGLE: f64 = 1e-6;

/// Tolerance of figures from integers and their quotients.
const DOUBLE: f64 = 1e-9;

#[derive(Deserialize)]
struct Case {
    name: String,
    classes: usize,
    truth: Vec<u16>,
    predicted: Vec<u16>,
    p: Vec<f32>,
    accuracy: f64,
    precision: Vec<f64>,
    recall: Vec<f64>,
    f1: Vec<f64>,
    support: Vec<u64>,
    macro_precision: f64,
    macro_recall: f64,
    macro_f1: f64,
    confusion: Vec<Vec<u64>>,
    top3: f64,
    log_loss: f64,
    curves: Vec<Option<Curve>>,
    macro_auc: Option<f64>,
    micro_auc: f64,
    bin_count: Vec<u64>,
    bin_accuracy: Vec<f64>,
    bin_confidence: Vec<f64>,
    ece: f64,
}

#[derive(Deserialize)]
struct Curve {
    auc: f64,
    fpr: Vec<f64>,
    tpr: Vec<f64>,
}

impl Case {
    fn samples(&self) -> Samples {
        let mut samples = Samples::new(self.classes);
        for ((t, p), row) in self.truth.iter().zip(&self.predicted).zip(self.p.chunks(self.classes)) {
            samples.push(ClassId(*t), ClassId(*p), 0, row);
        }
        samples
    }

    fn near(&self, figure: &str, got: f64, want: f64, tolerance: f64) {
        assert!((got - want).abs() <= tolerance, "{}: {figure} is {got}, scikit-learn has {want}", self.name);
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../../../tests/reference/metrics.json")).unwrap()
}

#[test]
fn counts_and_averages_equal_scikit_learn() {
    for case in cases() {
        let samples = case.samples();
        let confusion = samples.confusion();
        assert_eq!(confusion.rows(), case.confusion, "{}", case.name);
        case.near("accuracy", confusion.accuracy(), case.accuracy, DOUBLE);
        for c in 0..case.classes {
            let figures = confusion.class(ClassId(c as u16));
            case.near("precision", figures.precision, case.precision[c], DOUBLE);
            case.near("recall", figures.recall, case.recall[c], DOUBLE);
            case.near("F1", figures.f1, case.f1[c], DOUBLE);
            assert_eq!(figures.support, case.support[c]);
        }
        case.near("macro precision", confusion.mean(|f| f.precision), case.macro_precision, DOUBLE);
        case.near("macro recall", confusion.mean(|f| f.recall), case.macro_recall, DOUBLE);
        case.near("macro F1", confusion.macro_f1(), case.macro_f1, DOUBLE);
        case.near("top 3", samples.top_k(3), case.top3, DOUBLE);
        case.near("log loss", samples.log_loss(), case.log_loss, SINGLE);
    }
}

#[test]
fn curves_and_areas_equal_scikit_learn() {
    for case in cases() {
        let samples = case.samples();
        for (c, want) in case.curves.iter().enumerate() {
            let got = one_vs_rest(&samples, ClassId(c as u16));
            assert_eq!(got.is_some(), want.is_some(), "{} class {c}", case.name);
            let (Some(got), Some(want)) = (got, want) else { continue };
            case.near("AUC", got.auc, want.auc, DOUBLE);
            assert_eq!(got.points.len(), want.fpr.len(), "{} class {c}: {:?}", case.name, got.points);
            for ((x, y), (fpr, tpr)) in got.points.iter().zip(want.fpr.iter().zip(&want.tpr)) {
                case.near("false positive rate", *x, *fpr, DOUBLE);
                case.near("true positive rate", *y, *tpr, DOUBLE);
            }
        }
        let names: Vec<String> = (0..case.classes).map(|c| c.to_string()).collect();
        let all = curves(&samples, &names);
        let area = |name: &str| all.iter().find(|c| c.name == name).map(|c| c.auc);
        assert_eq!(area("macro").is_some(), case.macro_auc.is_some());
        if let (Some(got), Some(want)) = (area("macro"), case.macro_auc) {
            case.near("macro AUC", got, want, DOUBLE);
        }
        case.near("micro AUC", area("micro").unwrap(), case.micro_auc, DOUBLE);
    }
}

#[test]
fn reliability_equals_scikit_learn() {
    for case in cases() {
        let bins = reliability(&case.samples());
        assert_eq!(bins.iter().map(|b| b.count).collect::<Vec<_>>(), case.bin_count, "{}", case.name);
        let full: Vec<_> = bins.iter().filter(|b| b.count > 0).collect();
        for (bin, (accuracy, confidence)) in full.iter().zip(case.bin_accuracy.iter().zip(&case.bin_confidence)) {
            case.near("a bin's accuracy", bin.accuracy, *accuracy, DOUBLE);
            case.near("a bin's confidence", bin.confidence, *confidence, SINGLE);
        }
        case.near("ECE", ece(&bins), case.ece, SINGLE);
    }
}
