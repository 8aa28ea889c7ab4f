//! Reliability: the accuracy of predictions at a given confidence.

use super::metrics::Samples;
use super::result::Bin;

/// Number of bins of equal width, as in Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017.
pub const BINS: usize = 15;

/// Bins the samples by their highest probability. A bin excludes its lower border and includes its upper one.
pub fn reliability(samples: &Samples) -> Vec<Bin> {
    let edge = |i: usize| i as f64 / BINS as f64;
    let mut sums = [(0u64, 0f64, 0u64); BINS];
    for (truth, predicted, _, row) in samples.iter() {
        let confidence = f64::from(row.iter().copied().fold(0f32, f32::max));
        let bin = (1..BINS).find(|i| confidence <= edge(*i)).unwrap_or(BINS) - 1;
        let (count, sum, right) = &mut sums[bin];
        *count += 1;
        *sum += confidence;
        *right += u64::from(truth == predicted);
    }
    let bin = |(i, (count, sum, right)): (usize, (u64, f64, u64))| {
        let n = count.max(1) as f64;
        Bin { from: edge(i), to: edge(i + 1), count, confidence: sum / n, accuracy: right as f64 / n }
    };
    sums.into_iter().enumerate().map(bin).collect()
}

/// Returns the expected calibration error: the mean distance between confidence and accuracy, with each bin weighted by its
/// samples. 0 without samples.
pub fn ece(bins: &[Bin]) -> f64 {
    let total: u64 = bins.iter().map(|b| b.count).sum();
    let off: f64 = bins.iter().map(|b| b.count as f64 * (b.confidence - b.accuracy).abs()).sum();
    off / total.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::labels::ClassId;

    #[test]
    fn bins_match_a_calculation_by_hand() {
        let mut samples = Samples::new(2);
        for (truth, p) in [(0, 0.8), (0, 0.8), (1, 0.8), (0, 0.95), (1, 1.0)] {
            samples.push(ClassId(truth), ClassId(0), 0, &[p, 1.0 - p]);
        }
        let bins = reliability(&samples);
        // 0.8 is 12/15, but in f32 slightly above: the bin (12/15, 13/15].
        assert_eq!((bins[12].count, bins[14].count), (3, 2));
        assert!((bins[12].accuracy - 2.0 / 3.0).abs() < 1e-12 && (bins[14].confidence - 0.975).abs() < 1e-7);
        let want = (3.0 * (0.8 - 2.0 / 3.0) + 2.0 * (0.975 - 0.5)) / 5.0;
        assert!((ece(&bins) - want).abs() < 1e-7);
        assert_eq!(ece(&reliability(&Samples::new(2))), 0.0);
    }
}
