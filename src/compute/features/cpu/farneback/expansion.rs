//! Polynomial expansion: the best-fitting quadratic around every pixel.
//!
//! In the paper's words: signal ~ xᵀAx + bᵀx + c, weighted least squares with a Gaussian applicability. The basis
//! {1, x, y, x², y², xy} and the Gaussian are separable, so six moments of the picture are taken with three vertical
//! and six horizontal one-dimensional filters; the dual basis then turns moments into coefficients in closed form.

use rayon::prelude::*;

use super::{PyramidLevel, band_rows};

/// The terms of one pixel's quadratic that flow uses (the constant is dropped):
/// `x · X + y · Y + xx · X² + yy · Y² + xy · XY`, in the order [x, y, xx, yy, xy].
pub(super) type Polynomial = [f32; 5];

/// The filters and the dual basis of one neighbourhood.
#[derive(Clone, Debug)]
pub(in crate::features) struct DualBasis {
    /// Distance of the farthest pixel that is used: the neighbourhood has 2 · `reach` + 1 pixels a side, as in OpenCV, whose
    /// `poly_n` means the same despite its documentation.
    reach: usize,
    /// Gaussian, Gaussian · distance and Gaussian · distance² at distances 0..=reach.
    weights: [Vec<f32>; 3],
    /// First moments → x, y.
    linear: f32,
    /// Second moments → xx, yy, and the share of the mean in them.
    square: f32,
    square_of_mean: f32,
    /// Mixed moment → xy.
    mixed: f32,
}

impl DualBasis {
    /// The weights, one after the other, and [linear, square, square of the mean, mixed] of the dual basis.
    pub fn tables(&self) -> (Vec<f32>, [f32; 4]) {
        (self.weights.concat(), [self.linear, self.square, self.square_of_mean, self.mixed])
    }

    pub fn new(reach: usize, sigma: f64) -> Self {
        let gaussian: Vec<f64> = (0..=reach).map(|d| (-((d * d) as f64) / (2.0 * sigma * sigma)).exp()).collect();
        let sum = gaussian[0] + 2.0 * gaussian[1..].iter().sum::<f64>();
        let weight = |power: i32| -> Vec<f32> {
            gaussian.iter().enumerate().map(|(d, g)| (g / sum * (d as f64).powi(power)) as f32).collect()
        };
        let weights = [weight(0), weight(1), weight(2)];
        // Moments of the weights themselves, over both sides. The Gram matrix of {1, x², y²} is
        // [[1, a, a], [a, b, a²], [a, a², b]], whose inverse is known.
        let moment = |power: i32| -> f64 {
            let terms = weights[0].iter().enumerate().skip(1);
            2.0 * terms.map(|(d, &g)| f64::from(g) * (d as f64).powi(power)).sum::<f64>()
        };
        let (a, b) = (moment(2), moment(4));
        Self {
            reach,
            weights,
            linear: (1.0 / a) as f32,
            square: (1.0 / (b - a * a)) as f32,
            square_of_mean: (-a / (b - a * a)) as f32,
            mixed: (1.0 / (a * a)) as f32,
        }
    }
}

/// Memory of [`expand`], reused between calls.
#[derive(Debug, Default)]
pub(super) struct ExpandScratch {
    /// The level's picture.
    picture: Vec<f32>,
    /// Per band: one row of the full picture while shrinking; then the three vertical moments of a row.
    bands: Vec<Vec<f32>>,
}

/// Blurs and shrinks the full `picture` to `level` and expands it.
pub(super) fn expand(
    level: &PyramidLevel,
    basis: &DualBasis,
    picture: &[f32],
    into: &mut [Polynomial],
    scratch: &mut ExpandScratch,
) {
    let (width, height) = (level.width, level.height);
    let rows = band_rows(width, height);
    let ExpandScratch { picture: small, bands } = scratch;
    small.resize(width * height, 0.0);
    bands.resize_with(bands.len().max(height.div_ceil(rows)), Vec::new);
    let shrink = |band: usize, out: &mut [f32], line: &mut Vec<f32>| {
        line.resize(level.horizontal.source(), 0.0);
        for (i, row) in out.chunks_exact_mut(width).enumerate() {
            level.vertical.mix_rows(band * rows + i, picture, line);
            level.horizontal.mix_line(line, row);
        }
    };
    let fit = |small: &[f32], band: usize, out: &mut [Polynomial], line: &mut Vec<f32>| {
        for (i, row) in out.chunks_exact_mut(width).enumerate() {
            // The loops are unrolled over the neighbourhood, so there is a copy of the code for each size.
            match basis.reach {
                5 => expand_row::<5>(basis, small, height, band * rows + i, row, line),
                _ => expand_row::<7>(basis, small, height, band * rows + i, row, line),
            }
        }
    };
    if rows == height {
        shrink(0, small, &mut bands[0]);
        fit(small, 0, into, &mut bands[0]);
    } else {
        let size = rows * width;
        small.par_chunks_mut(size).zip(&mut *bands).enumerate().for_each(|(i, (out, line))| shrink(i, out, line));
        let small = &small[..];
        into.par_chunks_mut(size).zip(bands).enumerate().for_each(|(i, (out, line))| fit(small, i, out, line));
    }
}

/// Polynomials of row `y`. Pixels outside the picture are those at its edge.
fn expand_row<const N: usize>(
    basis: &DualBasis,
    picture: &[f32],
    height: usize,
    y: usize,
    out: &mut [Polynomial],
    line: &mut Vec<f32>,
) {
    let width = out.len();
    let row = |y: usize| &picture[y * width..y * width + width];
    let weights: [[f32; 3]; N] =
        std::array::from_fn(|k| [basis.weights[0][k + 1], basis.weights[1][k + 1], basis.weights[2][k + 1]]);
    let centre_weight = basis.weights[0][0];

    // Vertical moments 0, 1 and 2, with a margin of N pixels on either side.
    line.resize(3 * (width + 2 * N), 0.0);
    let (m0, rest) = line.split_at_mut(width + 2 * N);
    let (m1, m2) = rest.split_at_mut(width + 2 * N);
    {
        let centre = row(y);
        let above: [&[f32]; N] = std::array::from_fn(|k| row(y.saturating_sub(k + 1)));
        let below: [&[f32]; N] = std::array::from_fn(|k| row((y + k + 1).min(height - 1)));
        let (m0, m1, m2) = (&mut m0[N..N + width], &mut m1[N..N + width], &mut m2[N..N + width]);
        for x in 0..width {
            let (mut s0, mut s1, mut s2) = (centre[x] * centre_weight, 0.0, 0.0);
            for k in 0..N {
                let (up, down, [g, gd, gdd]) = (above[k][x], below[k][x], weights[k]);
                s0 += g * (down + up);
                s1 += gd * (down - up);
                s2 += gdd * (down + up);
            }
            (m0[x], m1[x], m2[x]) = (s0, s1, s2);
        }
    }
    for m in [&mut *m0, &mut *m1, &mut *m2] {
        let (first, last) = (m[N], m[N + width - 1]);
        m[..N].fill(first);
        m[N + width..].fill(last);
    }

    // Horizontal moments of those, and the dual basis.
    let (m0, m1, m2) = (&*m0, &*m1, &*m2);
    let left = |k: usize| N - 1 - k;
    let right = |k: usize| N + 1 + k;
    let l0: [&[f32]; N] = std::array::from_fn(|k| &m0[left(k)..][..width]);
    let r0: [&[f32]; N] = std::array::from_fn(|k| &m0[right(k)..][..width]);
    let l1: [&[f32]; N] = std::array::from_fn(|k| &m1[left(k)..][..width]);
    let r1: [&[f32]; N] = std::array::from_fn(|k| &m1[right(k)..][..width]);
    let l2: [&[f32]; N] = std::array::from_fn(|k| &m2[left(k)..][..width]);
    let r2: [&[f32]; N] = std::array::from_fn(|k| &m2[right(k)..][..width]);
    let (c0, c1, c2) = (&m0[N..][..width], &m1[N..][..width], &m2[N..][..width]);
    for x in 0..width {
        let (mut mean, mut sx, mut sxx) = (c0[x] * centre_weight, 0.0, 0.0);
        let (mut sy, mut sxy) = (c1[x] * centre_weight, 0.0);
        let mut syy = c2[x] * centre_weight;
        for k in 0..N {
            let [g, gd, gdd] = weights[k];
            let sum = r0[k][x] + l0[k][x];
            mean += g * sum;
            sxx += gdd * sum;
            sx += gd * (r0[k][x] - l0[k][x]);
            sy += g * (r1[k][x] + l1[k][x]);
            sxy += gd * (r1[k][x] - l1[k][x]);
            syy += g * (r2[k][x] + l2[k][x]);
        }
        out[x] = [
            sx * basis.linear,
            sy * basis.linear,
            mean * basis.square_of_mean + sxx * basis.square,
            mean * basis.square_of_mean + syy * basis.square,
            sxy * basis.mixed,
        ];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quadratic_is_found_exactly() {
        let (width, height) = (31, 27);
        let [x, y, xx, yy, xy] = [0.7, -1.1, 0.05, -0.03, 0.02];
        for reach in [5, 7] {
            let basis = DualBasis::new(reach, if reach == 5 { 1.2 } else { 1.5 });
            let (cx, cy) = (15.0, 13.0);
            let picture: Vec<f32> = (0..width * height)
                .map(|i| {
                    let (u, v) = ((i % width) as f64 - cx, (i / width) as f64 - cy);
                    (100.0 + x * u + y * v + xx * u * u + yy * v * v + xy * u * v) as f32
                })
                .collect();
            let mut row = vec![Polynomial::default(); width];
            let mut line = Vec::new();
            match reach {
                5 => expand_row::<5>(&basis, &picture, height, 13, &mut row, &mut line),
                _ => expand_row::<7>(&basis, &picture, height, 13, &mut row, &mut line),
            }
            for (got, want) in row[15].iter().zip([x, y, xx, yy, xy]) {
                assert!((f64::from(*got) - want).abs() < 2e-4, "reach {reach}: {:?}", row[15]);
            }
        }
    }
}
