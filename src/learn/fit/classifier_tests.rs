use serde::Deserialize;

use super::*;
use crate::augment::rng;
use rand::Rng;

/// Weights that scikit-learn fitted to seeded samples, written by `tests/reference/training/classifier.py`.
#[derive(Deserialize)]
struct Reference {
    classes: usize,
    width: usize,
    smoothing: f64,
    penalty: f64,
    features: Vec<f32>,
    labels: Vec<u32>,
    weights: Vec<f32>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    loss: f64,
}

fn rows_of(features: &[f32], width: usize, rows: &[u32]) -> Result<Tensor> {
    let values: Vec<f32> = rows.iter().flat_map(|r| features[*r as usize * width..][..width].iter().copied()).collect();
    Ok(Tensor::from_vec(values, (rows.len(), width), &Device::Cpu)?)
}

fn near(name: &str, got: impl Iterator<Item = f64>, want: &[f64]) {
    let got: Vec<f64> = got.collect();
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < 1e-3, "{name} {i}: {got} {want}");
    }
}

#[test]
fn the_optimum_equals_scikit_learn() {
    let r: Reference =
        serde_json::from_str(include_str!("../../../tests/reference/training/classifier.json")).expect("a fixture");
    let features = |rows: &[u32]| rows_of(&r.features, r.width, rows);
    let material = FitInput {
        features: &features,
        labels: &r.labels,
        weights: &r.weights,
        classes: r.classes,
        width: r.width,
        smoothing: r.smoothing,
        penalty: r.penalty,
        offsets: &[],
    };
    let mut losses = Vec::new();
    let mut on_step = |at: FitStep| {
        losses.push(at.loss);
        Ok(())
    };
    let fitted = fit(&material, 500, &mut on_step).unwrap();
    near("weight", fitted.weight.iter().map(|w| f64::from(*w)), &r.weight);
    let mean = fitted.bias.iter().map(|b| f64::from(*b)).sum::<f64>() / r.classes as f64;
    near("bias", fitted.bias.iter().map(|b| f64::from(*b) - mean), &r.bias);
    let last = losses.last().unwrap();
    assert!((last - r.loss).abs() < 1e-5 && losses[0] > *last, "{losses:?} {}", r.loss);
    assert!(losses.len() < 100, "the fit ends at the optimum, not after all steps: {}", losses.len());
}

/// More samples than one chunk give the same weights on one thread and on three, and the limit of steps applies.
#[test]
fn the_fit_is_reproducible_on_any_number_of_threads() {
    let (n, width, classes) = (2 * CHUNK + 77, 5, 3);
    let mut rng = rng(3, 1, 4);
    let labels: Vec<u32> = (0..n).map(|_| rng.random_range(0..classes as u32)).collect();
    let features: Vec<f32> = labels
        .iter()
        .flat_map(|l| (0..width as u32).map(|j| u32::from(j == *l) as f32))
        .map(|v| v + rng.random::<f32>())
        .collect();
    let weights: Vec<f32> = (0..n).map(|_| rng.random_range(0.5..2.0)).collect();
    let features = |rows: &[u32]| rows_of(&features, width, rows);
    let material = FitInput {
        features: &features,
        labels: &labels,
        weights: &weights,
        classes,
        width,
        smoothing: 0.0,
        penalty: 0.1,
        offsets: &[],
    };
    let on = |threads: usize, steps: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut taken = 0;
        let fitted = pool.install(|| {
            fit(&material, steps, &mut |at| {
                assert!(at.passes >= 1 && at.right <= n as u64);
                taken += 1;
                Ok(())
            })
        });
        let Fitted { weight, bias, .. } = fitted.unwrap();
        (weight, bias, taken)
    };
    assert_eq!(on(1, 500), on(3, 500));
    assert_eq!(on(2, 2).2, 2);
}

/// Constant features are not an error. A NaN feature gives a loss that is not finite.
#[test]
fn a_fit_without_steps_reports_its_figures() {
    for (value, finite) in [(0.0, true), (f32::NAN, false)] {
        let features = vec![value; 4 * 3];
        let features = |rows: &[u32]| rows_of(&features, 3, rows);
        let material = FitInput {
            features: &features,
            labels: &[0, 1, 0, 1],
            weights: &[1.0; 4],
            classes: 2,
            width: 3,
            smoothing: 0.1,
            penalty: 1e-4,
            offsets: &[],
        };
        let fitted = fit(&material, 500, &mut |at| panic!("{at:?}")).unwrap();
        assert_eq!(fitted.at.loss.is_finite(), finite);
        assert!(!finite || (fitted.at.loss - std::f64::consts::LN_2).abs() < 1e-6, "{:?}", fitted.at);
    }
}
