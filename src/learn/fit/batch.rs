//! Operations on one batch: targets, mixup and CutMix, dropout, loss.

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

/// Each sample of a batch with a part of another sample.
pub(super) struct Mixture {
    /// Share of the sample itself; the partner has the rest.
    share: f64,
    /// Index of each sample's partner.
    partner: Vec<u32>,
    /// The rectangle that shows the partner, as shares of height and width: top, bottom, left, right. Without one, all values are
    /// weighted sums.
    cut: Option<[f64; 4]>,
}

/// How the samples of a batch are mixed. Each is α of the Beta distribution of the shares; 0 disables it.
#[derive(Clone, Copy, Debug)]
pub(super) struct MixtureConfig {
    pub mixup: f64,
    pub cutmix: f64,
}

impl Mixture {
    /// Draws a mixture of `n` samples: mixup, or CutMix, or either with the same probability. Returns `None` if both are disabled or
    /// there is no partner.
    ///
    /// Sources: Zhang et al., *mixup: Beyond Empirical Risk Minimization*, ICLR 2018; on activations it is *Manifold Mixup*, Verma
    /// et al., ICML 2019. Yun et al., *CutMix*, ICCV 2019.
    pub fn draw(config: MixtureConfig, n: usize, rng: &mut SmallRng) -> Option<Self> {
        let MixtureConfig { mixup, cutmix } = config;
        if (mixup <= 0.0 && cutmix <= 0.0) || n < 2 {
            return None;
        }
        let shift = rng.random_range(1..n) as u32;
        let partner = (0..n as u32).map(|i| (i + shift) % n as u32).collect();
        let cuts = cutmix > 0.0 && (mixup <= 0.0 || rng.random());
        let share = beta(if cuts { cutmix } else { mixup }, rng);
        if !cuts {
            // The sample itself has the larger share, because accuracy counts its own label.
            return Some(Self { share: share.max(1.0 - share), partner, cut: None });
        }
        let half = (1.0 - share).sqrt() / 2.0;
        let mut span = || {
            let centre: f64 = rng.random();
            ((centre - half).max(0.0), (centre + half).min(1.0))
        };
        let ((top, bottom), (left, right)) = (span(), span());
        Some(Self { share, partner, cut: Some([top, bottom, left, right]) })
    }

    /// Returns `x` (C, N, H, W) and `targets` (N, classes), mixed. The partner's share of the targets is its share of the pixels.
    pub fn apply(&self, x: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
        let partner = Tensor::new(self.partner.as_slice(), x.device())?;
        let other = x.index_select(&partner, 1)?;
        let (x, share) = match self.cut {
            None => (((x * self.share)? + (other * (1.0 - self.share))?)?, self.share),
            Some(cut) => {
                let (_, _, height, width) = x.dims4()?;
                let (mask, share) = rectangle(cut, height, width);
                let mask = Tensor::from_vec(mask, (1, 1, height, width), x.device())?;
                ((x + (other - x)?.broadcast_mul(&mask)?)?, share)
            }
        };
        let other = targets.index_select(&partner, 0)?;
        Ok((x, ((targets * share)? + (other * (1.0 - share))?)?))
    }
}

/// Returns 1 for each pixel of a rectangle and 0 for the others, row by row, and the share of the others.
fn rectangle([top, bottom, left, right]: [f64; 4], height: usize, width: usize) -> (Vec<f32>, f64) {
    let pixel = |share: f64, size: usize| (share * size as f64).round() as usize;
    let (rows, columns) = (pixel(top, height)..pixel(bottom, height), pixel(left, width)..pixel(right, width));
    let inside = |i: usize| rows.contains(&(i / width)) && columns.contains(&(i % width));
    let mask = (0..height * width).map(|i| if inside(i) { 1.0 } else { 0.0 }).collect();
    (mask, 1.0 - (rows.len() * columns.len()) as f64 / (height * width).max(1) as f64)
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
        let cpu = &Device::Cpu;
        let x = Tensor::arange(0f32, 12., cpu).unwrap().reshape((2, 3, 1, 2)).unwrap();
        let (targets, _) = tensors(&[0, 1, 2], vec![1.0; 3], 3, 0.0, cpu).unwrap();
        let mixup = |mixup| MixtureConfig { mixup, cutmix: 0.0 };
        let mut shares = Vec::new();
        for _ in 0..200 {
            let mix = Mixture::draw(mixup(0.2), 3, &mut rng).unwrap();
            assert!(mix.partner.iter().enumerate().all(|(i, p)| i as u32 != *p));
            let (y, mixed) = mix.apply(&x, &targets).unwrap();
            for (i, row) in mixed.to_vec2::<f32>().unwrap().iter().enumerate() {
                assert!(row[i] >= 0.5 && (row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
            }
            shares.push(mix.share);
            let sums = |t: &Tensor| t.sum(1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (a, b) in sums(&y).iter().zip(sums(&x)) {
                assert!((a - b).abs() < 1e-4);
            }
        }
        // Beta(0.2, 0.2) is near 0 or 1 most of the time: its variance is 1/(4·1.4), so the mean of the larger is 0.9.
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!((mean - 0.91).abs() < 0.04, "{mean}");
        assert!(Mixture::draw(mixup(0.0), 3, &mut rng).is_none() && Mixture::draw(mixup(0.2), 1, &mut rng).is_none());
    }

    #[test]
    fn a_cut_shows_the_partner_and_targets_have_its_share_of_the_pixels() {
        let mut rng = augment::rng(4, 5, 6);
        let cpu = &Device::Cpu;
        // All pixels of sample i are i.
        let (n, height, width) = (3, 14, 9);
        let values: Vec<f32> = (0..2 * n * height * width).map(|i| (i / (height * width) % n) as f32).collect();
        let x = Tensor::from_vec(values, (2, n, height, width), cpu).unwrap();
        let (targets, _) = tensors(&[0, 1, 2], vec![1.0; 3], 3, 0.0, cpu).unwrap();
        let (mut own, mut draws) = (0.0, 0);
        while draws < 300 {
            let mix = Mixture::draw(MixtureConfig { mixup: 0.2, cutmix: 1.0 }, n, &mut rng).unwrap();
            if mix.cut.is_none() {
                continue;
            }
            draws += 1;
            let (y, mixed) = mix.apply(&x, &targets).unwrap();
            for (i, row) in mixed.to_vec2::<f32>().unwrap().iter().enumerate() {
                let partner = mix.partner[i] as usize;
                let pixels = y.get_on_dim(1, i).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let share =
                    |sample: usize| pixels.iter().filter(|v| **v == sample as f32).count() as f32 / pixels.len() as f32;
                assert!((share(i) - row[i]).abs() < 1e-6 && (share(partner) - row[partner]).abs() < 1e-6, "{row:?}");
                assert!((row[i] + row[partner] - 1.0).abs() < 1e-6, "{row:?}");
                own += f64::from(row[i]) / n as f64;
            }
        }
        // A share from Beta(1, 1) is one half on average; a rectangle over the border shows less of the partner.
        let mean = own / f64::from(draws);
        assert!((0.55..0.75).contains(&mean), "{mean}");
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
