//! Operations on one batch: targets, mixup, dropout, loss.

use candle_core::{DType, Device, Result, Tensor};
use rand::Rng;
use rand::rngs::SmallRng;

/// Returns the targets over `classes` outputs, (N, classes) row by row: 1 − `smoothing` on the label, and `smoothing` spread
/// evenly over all classes.
///
/// Source: Szegedy et al., *Rethinking the Inception Architecture*, CVPR 2016.
pub fn soft_targets(labels: &[u32], classes: usize, smoothing: f64) -> Vec<f32> {
    let mut targets = vec![(smoothing / classes as f64) as f32; labels.len() * classes];
    for (row, label) in targets.chunks_exact_mut(classes).zip(labels) {
        row[*label as usize] += (1.0 - smoothing) as f32;
    }
    targets
}

/// Returns the weighted mean cross-entropy of `logits` (N, classes) with soft `targets` (N, classes) and sample `weights` (N), as
/// a scalar. Without weights it equals PyTorch's `cross_entropy` with class probabilities as targets.
///
/// # Errors
/// When the shapes do not match.
pub fn log_softmax_loss(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let log_probability = candle_nn::ops::log_softmax(logits, 1)?;
    let each = (log_probability * targets)?.sum(1)?.neg()?;
    (each * weights)?.sum_all()? / weights.sum_all()?
}

/// Zeroes each of the features (N, C) with probability `share` and scales up the rest, as `torch.nn.Dropout` does in training.
pub(super) fn dropout(features: &Tensor, share: f64, rng: &mut SmallRng) -> Result<Tensor> {
    if share <= 0.0 {
        return Ok(features.clone());
    }
    let keep = 1.0 - share;
    let mask: Vec<f32> = (0..features.elem_count())
        .map(|_| if rng.random::<f64>() < keep { (1.0 / keep) as f32 } else { 0.0 })
        .collect();
    features * Tensor::from_vec(mask, features.shape(), features.device())?
}

/// Mixup of a batch: each sample is a weighted sum of itself and a partner.
pub(super) struct Mixup {
    /// Weight of the sample itself, 0.5 to 1; the partner has the rest.
    pub share: f64,
    /// Index of each sample's partner.
    pub partner: Vec<u32>,
}

impl Mixup {
    /// Draws a mixup of `n` samples with a share from Beta(`alpha`, `alpha`). Returns `None` if `alpha` is 0 or there is no
    /// partner.
    ///
    /// Source: Zhang et al., *mixup: Beyond Empirical Risk Minimization*, ICLR 2018. On activations it is *Manifold Mixup*, Verma
    /// et al., ICML 2019.
    pub fn draw(alpha: f64, n: usize, rng: &mut SmallRng) -> Option<Self> {
        if alpha <= 0.0 || n < 2 {
            return None;
        }
        let shift = rng.random_range(1..n) as u32;
        let share = beta(alpha, rng);
        let partner = (0..n as u32).map(|i| (i + shift) % n as u32).collect();
        // The sample itself has the larger share, because accuracy counts its own label.
        Some(Self { share: share.max(1.0 - share), partner })
    }

    /// Mixes `x` along `axis`, the axis of the samples.
    pub fn apply(&self, x: &Tensor, axis: usize) -> Result<Tensor> {
        let other = Tensor::new(self.partner.as_slice(), x.device())?;
        (x * self.share)? + (x.index_select(&other, axis)? * (1.0 - self.share))?
    }
}

/// Draws from Beta(α, α) by Jöhnk's method (*Erzeugung von betaverteilten und gammaverteilten Zufallszahlen*, Metrika 1964), which
/// needs few attempts for α up to 1.
fn beta(alpha: f64, rng: &mut SmallRng) -> f64 {
    for _ in 0..1000 {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        let (x, y) = (u.powf(1.0 / alpha), v.powf(1.0 / alpha));
        if x + y <= 1.0 && x + y > 0.0 {
            return x / (x + y);
        }
    }
    0.5
}

/// Returns the targets of `labels` (N, classes) and their weights (N) as tensors.
pub(super) fn tensors(
    labels: &[u32],
    weights: Vec<f32>,
    classes: usize,
    smoothing: f64,
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let n = labels.len();
    let targets = Tensor::from_vec(soft_targets(labels, classes, smoothing), (n, classes), device)?;
    Ok((targets, Tensor::from_vec(weights, n, device)?))
}

/// Counts the rows whose highest logit is that of their label.
pub(super) fn right(logits: &Tensor, labels: &[u32]) -> Result<u64> {
    let best = logits.argmax(1)?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    Ok(best.iter().zip(labels).filter(|(a, b)| a == b).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment;

    #[test]
    fn loss_is_the_weighted_cross_entropy() {
        let cpu = &Device::Cpu;
        let logits = Tensor::new(&[[1f32, 2., 0.5], [0., 0., 3.]], cpu).unwrap();
        let (targets, weights) = tensors(&[1, 0], vec![1.0, 3.0], 3, 0.1, cpu).unwrap();
        let got = log_softmax_loss(&logits, &targets, &weights).unwrap().to_scalar::<f32>().unwrap();
        let cross = |row: [f64; 3], label: usize| {
            let sum: f64 = row.iter().map(|v| v.exp()).sum();
            (0..3).map(|c| (0.1 / 3.0 + if c == label { 0.9 } else { 0.0 }) * (sum.ln() - row[c])).sum::<f64>()
        };
        let want = (cross([1., 2., 0.5], 1) + 3.0 * cross([0., 0., 3.], 0)) / 4.0;
        assert!((f64::from(got) - want).abs() < 1e-6, "{got} {want}");
        assert_eq!(right(&logits, &[1, 0]).unwrap(), 1);
    }

    #[test]
    fn mixing_keeps_sums_and_own_labels() {
        let mut rng = augment::rng(1, 2, 3);
        let x = Tensor::arange(0f32, 12., &Device::Cpu).unwrap().reshape((2, 3, 2)).unwrap();
        let mut shares = Vec::new();
        for _ in 0..200 {
            let mix = Mixup::draw(0.2, 3, &mut rng).unwrap();
            assert!((0.5..=1.0).contains(&mix.share) && mix.partner.iter().enumerate().all(|(i, p)| i as u32 != *p));
            shares.push(mix.share);
            let y = mix.apply(&x, 1).unwrap();
            let sums = |t: &Tensor| t.sum(1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (a, b) in sums(&y).iter().zip(sums(&x)) {
                assert!((a - b).abs() < 1e-4);
            }
        }
        // Beta(0.2, 0.2) is near 0 or 1 most of the time: its variance is 1/(4·1.4), so the mean of the larger is 0.9.
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!((mean - 0.91).abs() < 0.04, "{mean}");
        assert!(Mixup::draw(0.0, 3, &mut rng).is_none() && Mixup::draw(0.2, 1, &mut rng).is_none());
    }

    #[test]
    fn dropout_keeps_the_mean() {
        let ones = Tensor::ones((100, 100), DType::F32, &Device::Cpu).unwrap();
        let y = dropout(&ones, 0.3, &mut augment::rng(1, 1, 1)).unwrap();
        let mean = y.mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        let zeros = y.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().filter(|v| **v == 0.0).count();
        assert!((2700..3300).contains(&zeros), "{zeros}");
    }
}
