//! Temperature scaling (Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017).

/// Returns the temperature that maximises the likelihood of the labels under the softmax of the logits, between 0.1 and 10. A
/// golden-section search over its logarithm finds it, since the likelihood has one optimum. 1 without samples.
pub fn temperature(logits: &[Vec<f32>], labels: &[u32]) -> f32 {
    if logits.is_empty() {
        return 1.0;
    }
    let loss = |log_t: f64| -> f64 {
        let t = log_t.exp();
        logits
            .iter()
            .zip(labels)
            .map(|(row, label)| {
                let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|v| (f64::from(v - top) / t).exp()).sum();
                sum.ln() - f64::from(row[*label as usize] - top) / t
            })
            .sum()
    };
    let (mut low, mut high) = (0.1f64.ln(), 10f64.ln());
    let golden = 0.5 * (5f64.sqrt() - 1.0);
    for _ in 0..60 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if loss(a) < loss(b) { high = b } else { low = a }
    }
    (0.5 * (low + high)).exp() as f32
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn temperature_undoes_a_known_scale() {
        let mut rng = crate::augment::rng(5, 5, 5);
        // Labels are drawn from the softmax of the logits: the true temperature is 1, and tripled logits need 3.
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..4000 {
            let row: Vec<f32> = (0..3).map(|_| rng.random_range(-2.0..2.0f32)).collect();
            let weights: Vec<f32> = row.iter().map(|v| v.exp()).collect();
            let mut at = rng.random_range(0.0..weights.iter().sum::<f32>());
            let label = weights.iter().position(|w| {
                at -= w;
                at < 0.0
            });
            labels.push(label.unwrap_or(2) as u32);
            logits.push(row.iter().map(|v| v * 3.0).collect());
        }
        let t = temperature(&logits, &labels);
        assert!((t - 3.0).abs() < 0.25, "{t}");
        assert_eq!(temperature(&[], &[]), 1.0);
    }
}
