//! ROC curves and the area under them, one class against the rest.

use super::metrics::Samples;
use super::result::RocCurve;
use touchline_core::labels::ClassId;

/// Maximum number of points of a curve in the result; more would not be visible.
const POINTS_KEPT: usize = 200;

/// Steps of the false positive rate at which curves are averaged.
const GRID: usize = 100;

/// A curve over all thresholds.
#[derive(Clone, Debug, PartialEq)]
pub struct Roc {
    /// (false positive rate, true positive rate), ascending, from (0, 0) to (1, 1). Points within a straight line are left out,
    /// as in scikit-learn's `roc_curve`.
    pub points: Vec<(f64, f64)>,
    /// Area under the curve, 0 to 1.
    pub auc: f64,
}

/// Returns the curve of pairs of score and whether the sample is positive. Equal scores are one threshold. `None` unless there
/// are both positives and negatives.
pub fn roc(mut scored: Vec<(f32, bool)>) -> Option<Roc> {
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut counts: Vec<(u64, u64)> = Vec::new();
    let (mut fp, mut tp) = (0u64, 0u64);
    for (i, (score, positive)) in scored.iter().enumerate() {
        if *positive {
            tp += 1
        } else {
            fp += 1
        }
        if scored.get(i + 1).is_none_or(|next| next.0 != *score) {
            counts.push((fp, tp));
        }
    }
    if fp == 0 || tp == 0 {
        return None;
    }
    // Twice the area, in integers.
    let mut area = 0u64;
    let mut last = (0, 0);
    for (x, y) in &counts {
        area += (x - last.0) * (y + last.1);
        last = (*x, *y);
    }
    let (negatives, positives) = (fp as f64, tp as f64);
    let bends = |w: &[(u64, u64)]| {
        let bend = |a: u64, b: u64, c: u64| c + a != 2 * b;
        bend(w[0].0, w[1].0, w[2].0) || bend(w[0].1, w[1].1, w[2].1)
    };
    let inner = counts.windows(3).filter(|w| bends(w)).map(|w| w[1]);
    let first = counts.first().copied();
    let end = (counts.len() > 1).then(|| counts[counts.len() - 1]);
    let points = std::iter::once((0, 0)).chain(first).chain(inner).chain(end);
    Some(Roc {
        points: points.map(|(x, y)| (x as f64 / negatives, y as f64 / positives)).collect(),
        auc: area as f64 / (2.0 * negatives * positives),
    })
}

/// Returns the curve of one class against the rest; `None` unless there are samples of both.
pub fn one_vs_rest(samples: &Samples, class: ClassId) -> Option<Roc> {
    roc(samples.iter().map(|(truth, _, _, row)| (row[class.index()], truth == class)).collect())
}

/// Returns the curve over all pairs of sample and class, as one two-class problem.
fn micro(samples: &Samples) -> Option<Roc> {
    let pairs = samples
        .iter()
        .flat_map(|(truth, _, _, row)| row.iter().enumerate().map(move |(c, p)| (*p, c == truth.index())));
    roc(pairs.collect())
}

/// Returns the curves of the classes that have both positives and negatives, in order, then `macro` and `micro`. The macro curve
/// is the mean of the classes' curves at equal false positive rates, and its area is the mean of their areas.
pub fn curves(samples: &Samples, names: &[String]) -> Vec<RocCurve> {
    let classes: Vec<(&String, Roc)> =
        names.iter().zip(0u16..).filter_map(|(name, c)| Some((name, one_vs_rest(samples, ClassId(c))?))).collect();
    let mut out: Vec<RocCurve> = classes.iter().map(|(name, roc)| sampled_curve((*name).clone(), roc)).collect();
    if !classes.is_empty() {
        let n = classes.len() as f64;
        let mean = |x: f64| classes.iter().map(|(_, roc)| height(&roc.points, x)).sum::<f64>() / n;
        let grid = (0..=GRID).map(|i| i as f64 / GRID as f64);
        let points = std::iter::once((0.0, 0.0)).chain(grid.map(|x| (x, mean(x)))).collect();
        let auc = classes.iter().map(|(_, roc)| roc.auc).sum::<f64>() / n;
        out.push(sampled_curve("macro".into(), &Roc { points, auc }));
    }
    out.extend(micro(samples).map(|roc| sampled_curve("micro".into(), &roc)));
    out
}

/// Returns the highest true positive rate of a curve at the false positive rate `x`, with linear interpolation.
fn height(points: &[(f64, f64)], x: f64) -> f64 {
    let after = points.partition_point(|p| p.0 <= x);
    let (x0, y0) = points[after - 1];
    points.get(after).map_or(y0, |(x1, y1)| y0 + (y1 - y0) * (x - x0) / (x1 - x0))
}

/// Returns the curve with at most [`POINTS_KEPT`] points.
fn sampled_curve(name: String, roc: &Roc) -> RocCurve {
    let n = roc.points.len();
    let points = if n <= POINTS_KEPT {
        roc.points.clone()
    } else {
        (0..POINTS_KEPT).map(|i| roc.points[i * (n - 1) / (POINTS_KEPT - 1)]).collect()
    };
    RocCurve { name, auc: roc.auc, points }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_match_a_calculation_by_hand() {
        // By descending score: a positive, a tie of a positive and a negative, a negative.
        let curve = roc(vec![(0.4, true), (0.9, true), (0.1, false), (0.4, false)]).unwrap();
        assert_eq!(curve.points, [(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)]);
        assert_eq!(curve.auc, 0.875);
        assert_eq!(roc(vec![(0.5, true), (0.5, false)]).unwrap().points, [(0.0, 0.0), (1.0, 1.0)]);
        assert_eq!(roc(vec![(0.5, true)]), None, "no negatives");
        assert_eq!(roc(vec![]), None);
        assert_eq!(height(&curve.points, 0.25), 0.75);
        assert_eq!(height(&curve.points, 0.0), 0.5);
        assert_eq!(height(&curve.points, 1.0), 1.0);
    }

    #[test]
    fn averages_are_over_classes_with_positives_and_negatives() {
        let mut samples = Samples::new(3);
        samples.push(ClassId(0), ClassId(0), 0, &[0.8, 0.2, 0.0]);
        samples.push(ClassId(1), ClassId(0), 0, &[0.6, 0.4, 0.0]);
        let names: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
        let curves = curves(&samples, &names);
        let found: Vec<(&str, f64)> = curves.iter().map(|c| (c.name.as_str(), c.auc)).collect();
        // Micro: 0.8 and 0.4 are positive, 0.6, 0.2, 0 and 0 negative: 7 of the 8 pairs are in order.
        assert_eq!(found, [("a", 1.0), ("b", 1.0), ("macro", 1.0), ("micro", 0.875)]);
    }

    #[test]
    fn long_curves_keep_their_ends() {
        let scored = (0..5000).map(|i| (i as f32, (i * 7919) % 13 < 6)).collect();
        let roc = roc(scored).unwrap();
        let curve = sampled_curve("x".into(), &roc);
        assert_eq!(curve.points.len(), POINTS_KEPT);
        assert_eq!((curve.points[0], curve.points[POINTS_KEPT - 1]), ((0.0, 0.0), (1.0, 1.0)));
    }
}
