//! One iteration: from the polynomials of two pictures and a flow to a better flow.
//!
//! With the current flow d̃, each pixel's quadratic is compared with the one at its target: A is the mean of the two
//! second-order terms, Δb half the difference of the linear ones plus A d̃ (the paper's equations 12 and 13). The new
//! flow solves the normal equations (Σ AᵀA) d = Σ AᵀΔb over a window. Rows stream through a ring as high as the
//! window, so the equations of a whole picture are never stored.

use rayon::prelude::*;

use super::band_rows;
use super::expansion::Polynomial;

/// Weights by distance from the picture's edge, where the expansion is less certain because it used repeated pixels.
const EDGE: [f32; 5] = [0.14, 0.14, 0.4472, 0.4472, 0.4472];

/// Added to the determinant, so that the flow is 0 where there is no texture.
const REGULARISER: f64 = 1e-3;

/// Terms of a pixel's normal equations: the matrix [[g11, g12], [g12, g22]] and the right side (h1, h2), in the order
/// [g11, g12, g22, h1, h2].
const TERMS: usize = 5;

/// The averaging window.
#[derive(Clone, Debug)]
pub(in crate::features) struct AveragingWindow {
    /// It covers 2 · `reach` + 1 pixels a side.
    reach: usize,
    kind: WindowKind,
}

#[derive(Clone, Debug)]
enum WindowKind {
    /// Factor of the sums. OpenCV divides by the square of the requested window, even if that is an even number and one more
    /// pixel is summed.
    Box { scale: f64 },
    /// Weights at distances 0..=reach.
    Gaussian { weights: Vec<f32> },
}

impl AveragingWindow {
    /// The reach, the weights of a Gaussian, and the factor of a box window.
    pub fn tables(&self) -> (usize, Option<&[f32]>, f64) {
        match &self.kind {
            WindowKind::Box { scale } => (self.reach, None, *scale),
            WindowKind::Gaussian { weights } => (self.reach, Some(weights), 1.0),
        }
    }

    pub fn new(size: usize, gaussian: bool) -> Self {
        let reach = size / 2;
        let kind = if gaussian {
            let sigma = reach as f64 * 0.3;
            let weight = |d: usize| if d == 0 { 1.0 } else { (-((d * d) as f64) / (2.0 * sigma * sigma)).exp() };
            let weights: Vec<f64> = (0..=reach).map(weight).collect();
            let sum = weights[0] + 2.0 * weights[1..].iter().sum::<f64>();
            WindowKind::Gaussian { weights: weights.iter().map(|w| (w / sum) as f32).collect() }
        } else {
            WindowKind::Box { scale: 1.0 / (size * size) as f64 }
        };
        Self { reach, kind }
    }
}

/// Input of an iteration.
pub(super) struct FlowInputs<'a> {
    pub width: usize,
    pub height: usize,
    pub first: &'a [Polynomial],
    pub second: &'a [Polynomial],
    /// Flow so far.
    pub dx: &'a [f32],
    pub dy: &'a [f32],
}

/// Memory of [`iterate`], one set per band.
#[derive(Debug, Default)]
pub(super) struct UpdateScratch {
    bands: Vec<Band>,
}

#[derive(Debug, Default)]
struct Band {
    /// Row y of the equations lies at slot y mod (2 · reach + 2), its terms one after the other.
    ring: Vec<f32>,
    /// Edge weights of a row.
    edge: Vec<f32>,
    /// Mean and difference of the polynomials of a row: [Δx/2, Δy/2, xx, yy, xy/2], one after the other.
    joint: Vec<f32>,
    /// Vertical sums with a margin for the window on either side; for a box in f64, since a running sum must not drift.
    sums: Vec<f64>,
    /// The same for a Gaussian, which is summed from scratch for every row.
    smooth: Vec<f32>,
    /// The Gaussian's horizontal sums.
    across: Vec<f32>,
}

/// Computes a better flow than `pair.dx`, `pair.dy` into `dx`, `dy`.
pub(super) fn iterate(
    pair: &FlowInputs<'_>,
    window: &AveragingWindow,
    scratch: &mut UpdateScratch,
    dx: &mut [f32],
    dy: &mut [f32],
) {
    let rows = band_rows(pair.width, pair.height);
    let bands = pair.height.div_ceil(rows);
    if scratch.bands.len() < bands {
        scratch.bands.resize_with(bands, Band::default);
    }
    if bands == 1 {
        scratch.bands[0].run(pair, window, 0, dx, dy);
    } else {
        let size = rows * pair.width;
        let tasks = dx.par_chunks_mut(size).zip(dy.par_chunks_mut(size)).zip(&mut scratch.bands).enumerate();
        tasks.for_each(|(i, ((dx, dy), band))| band.run(pair, window, i * rows, dx, dy));
    }
}

impl Band {
    /// Solves the rows from `start` on that `dx` and `dy` hold.
    fn run(&mut self, pair: &FlowInputs<'_>, window: &AveragingWindow, start: usize, dx: &mut [f32], dy: &mut [f32]) {
        let (width, reach) = (pair.width, window.reach);
        let row_len = TERMS * width;
        let slots = 2 * reach + 2;
        self.ring.resize(slots * row_len, 0.0);
        self.joint.resize(row_len, 0.0);
        self.edge.clear();
        self.edge.extend((0..width).map(|x| edge_weight(x, width)));

        let last = pair.height - 1;
        let slot = |y: usize| y % slots * row_len..(y % slots + 1) * row_len;
        for y in start.saturating_sub(reach)..(start + reach).min(pair.height) {
            equations(pair, y, &self.edge, &mut self.joint, &mut self.ring[slot(y)]);
        }
        let out = dx.chunks_exact_mut(width).zip(dy.chunks_exact_mut(width)).zip(start..);
        match &window.kind {
            WindowKind::Box { scale } => {
                let padded = width + 2 * reach + 1;
                self.sums.clear();
                self.sums.resize(TERMS * padded, 0.0);
                for ((dx, dy), y) in out {
                    if y + reach <= last {
                        let newest = y + reach;
                        equations(pair, newest, &self.edge, &mut self.joint, &mut self.ring[slot(newest)]);
                    }
                    if y == start {
                        for offset in 0..=2 * reach {
                            let row = (y + offset).saturating_sub(reach).min(last);
                            add(&mut self.sums, padded, reach + 1, &self.ring[slot(row)]);
                        }
                    } else {
                        let enters = &self.ring[slot((y + reach).min(last))];
                        let leaves = &self.ring[slot(y.saturating_sub(reach + 1))];
                        slide(&mut self.sums, padded, reach + 1, enters, leaves);
                    }
                    box_row(&mut self.sums, reach, *scale, dx, dy);
                }
            }
            WindowKind::Gaussian { weights } => {
                let padded = width + 2 * reach;
                self.smooth.resize(TERMS * padded, 0.0);
                self.across.resize(row_len, 0.0);
                for ((dx, dy), y) in out {
                    if y + reach <= last {
                        let newest = y + reach;
                        equations(pair, newest, &self.edge, &mut self.joint, &mut self.ring[slot(newest)]);
                    }
                    let row = |y: usize| &self.ring[slot(y)];
                    gaussian_column(weights, row, y, last, padded, &mut self.smooth);
                    gaussian_row(weights, padded, &mut self.smooth, &mut self.across);
                    solve_row(&self.across, dx, dy);
                }
            }
        }
    }
}

/// Weight of pixel `i` of `length` by its distance from both ends.
fn edge_weight(i: usize, length: usize) -> f32 {
    let weight = |distance: usize| EDGE.get(distance).copied().unwrap_or(1.0);
    weight(i) * weight(length - 1 - i)
}

/// The normal equations of row `y`, each term a row of `out`.
fn equations(pair: &FlowInputs<'_>, y: usize, edge: &[f32], joint: &mut [f32], out: &mut [f32]) {
    let width = pair.width;
    let row = y * width..(y + 1) * width;
    let (dx, dy) = (&pair.dx[row.clone()], &pair.dy[row.clone()]);
    compare(pair, y, &pair.first[row], dx, dy, joint);

    let down = edge_weight(y, pair.height);
    let mut joint = joint.chunks_exact(width);
    let mut next = || joint.next().expect("five rows of terms");
    let (bx, by, xx, yy, xy) = (next(), next(), next(), next(), next());
    let mut out = out.chunks_exact_mut(width);
    let mut next = || out.next().expect("five rows of terms");
    let (g11, g12, g22, h1, h2) = (next(), next(), next(), next(), next());
    let (edge, dx, dy) = (&edge[..width], &dx[..width], &dy[..width]);
    for x in 0..width {
        let weight = edge[x] * down;
        let (xx, yy, xy) = (xx[x] * weight, yy[x] * weight, xy[x] * weight);
        let bx = bx[x] * weight + xx * dx[x] + xy * dy[x];
        let by = by[x] * weight + xy * dx[x] + yy * dy[x];
        g11[x] = xx * xx + xy * xy;
        g12[x] = (xx + yy) * xy;
        g22[x] = yy * yy + xy * xy;
        h1[x] = xx * bx + xy * by;
        h2[x] = xy * bx + yy * by;
    }
}

/// Row `y` of the first picture against where the flow points in the second: half the difference of the linear terms
/// and the mean of the others, term after term in `joint`. Where the flow points outside, the second picture's
/// linear terms count as 0 and its others as equal to the first's.
fn compare(pair: &FlowInputs<'_>, y: usize, first: &[Polynomial], dx: &[f32], dy: &[f32], joint: &mut [f32]) {
    let width = pair.width;
    let (limit_x, limit_y) = ((width - 1) as f32, (pair.height - 1) as f32);
    let (bx, rest) = joint.split_at_mut(width);
    let (by, rest) = rest.split_at_mut(width);
    let (xx, rest) = rest.split_at_mut(width);
    let (yy, xy) = rest.split_at_mut(width);
    let (bx, by, xx, yy, xy) =
        (&mut bx[..width], &mut by[..width], &mut xx[..width], &mut yy[..width], &mut xy[..width]);
    let (first, dx, dy) = (&first[..width], &dx[..width], &dy[..width]);
    for x in 0..width {
        let a = first[x];
        let (u, v) = (x as f32 + dx[x], y as f32 + dy[x]);
        // NaN counts as outside.
        let b = if u >= 0.0 && u < limit_x && v >= 0.0 && v < limit_y {
            let (left, top) = (u as u32, v as u32);
            let (u, v) = (u - left as f32, v - top as f32);
            let at = top as usize * width + left as usize;
            let (upper, lower) = (&pair.second[at..at + 2], &pair.second[at + width..at + width + 2]);
            let (p00, p01, p10, p11) = (&upper[0], &upper[1], &lower[0], &lower[1]);
            let (w00, w01, w10, w11) = ((1.0 - u) * (1.0 - v), u * (1.0 - v), (1.0 - u) * v, u * v);
            // A loop over an array of known length, which compiles to one vector step and one scalar step.
            let mut b = [0f32; TERMS];
            for i in 0..TERMS {
                b[i] = (p00[i] * w00 + p01[i] * w01) + (p10[i] * w10 + p11[i] * w11);
            }
            b
        } else {
            [0.0, 0.0, a[2], a[3], a[4]]
        };
        bx[x] = (a[0] - b[0]) * 0.5;
        by[x] = (a[1] - b[1]) * 0.5;
        xx[x] = (a[2] + b[2]) * 0.5;
        yy[x] = (a[3] + b[3]) * 0.5;
        xy[x] = (a[4] + b[4]) * 0.25;
    }
}

/// Adds a row of equations to the vertical sums, which have `margin` places before each term's first.
fn add(sums: &mut [f64], padded: usize, margin: usize, row: &[f32]) {
    let width = row.len() / TERMS;
    for (sums, row) in sums.chunks_exact_mut(padded).zip(row.chunks_exact(width)) {
        for (s, &v) in sums[margin..].iter_mut().zip(row) {
            *s += f64::from(v);
        }
    }
}

/// Moves the vertical sums one row on.
fn slide(sums: &mut [f64], padded: usize, margin: usize, enters: &[f32], leaves: &[f32]) {
    let width = enters.len() / TERMS;
    let rows = enters.chunks_exact(width).zip(leaves.chunks_exact(width));
    for (sums, (enters, leaves)) in sums.chunks_exact_mut(padded).zip(rows) {
        for ((s, &new), &old) in sums[margin..].iter_mut().zip(enters).zip(leaves) {
            *s += f64::from(new) - f64::from(old);
        }
    }
}

/// Sums along a row (outside the picture, the edge's equations are repeated) and solves.
fn box_row(sums: &mut [f64], reach: usize, scale: f64, dx: &mut [f32], dy: &mut [f32]) {
    let width = dx.len();
    let padded = width + 2 * reach + 1;
    let margin = reach + 1;
    let mut total = [0f64; TERMS];
    for (sums, total) in sums.chunks_exact_mut(padded).zip(&mut total) {
        let (first, last) = (sums[margin], sums[margin + width - 1]);
        sums[..margin].fill(first);
        sums[margin + width..].fill(last);
        // The window of the pixel before the first: the loop below begins by moving it.
        *total = sums[..2 * reach + 1].iter().sum();
    }
    let mut terms = sums.chunks_exact(padded).map(|sums| (&sums[2 * reach + 1..][..width], &sums[..width]));
    let mut next = || terms.next().expect("five rows of sums");
    let ((e0, l0), (e1, l1), (e2, l2), (e3, l3), (e4, l4)) = (next(), next(), next(), next(), next());
    let (dx, dy) = (&mut dx[..width], &mut dy[..width]);
    for x in 0..width {
        total[0] += e0[x] - l0[x];
        total[1] += e1[x] - l1[x];
        total[2] += e2[x] - l2[x];
        total[3] += e3[x] - l3[x];
        total[4] += e4[x] - l4[x];
        (dx[x], dy[x]) = solve(total.map(|t| t * scale));
    }
}

/// Gaussian sums of the equations around row `y`, down the columns.
fn gaussian_column<'a>(
    weights: &[f32],
    row: impl Fn(usize) -> &'a [f32],
    y: usize,
    last: usize,
    padded: usize,
    smooth: &mut [f32],
) {
    let reach = weights.len() - 1;
    let centre = row(y);
    let width = centre.len() / TERMS;
    for (term, out) in smooth.chunks_exact_mut(padded).enumerate() {
        let out = &mut out[reach..reach + width];
        let of = |row: &'a [f32]| &row[term * width..(term + 1) * width];
        for (o, &v) in out.iter_mut().zip(of(centre)) {
            *o = v * weights[0];
        }
        for (d, &w) in weights.iter().enumerate().skip(1) {
            let (above, below) = (of(row(y.saturating_sub(d))), of(row((y + d).min(last))));
            for ((o, &a), &b) in out.iter_mut().zip(above).zip(below) {
                *o += (a + b) * w;
            }
        }
    }
}

/// Gaussian sums of those along the row.
fn gaussian_row(weights: &[f32], padded: usize, smooth: &mut [f32], across: &mut [f32]) {
    let reach = weights.len() - 1;
    let width = padded - 2 * reach;
    for (smooth, out) in smooth.chunks_exact_mut(padded).zip(across.chunks_exact_mut(width)) {
        let (first, last) = (smooth[reach], smooth[reach + width - 1]);
        smooth[..reach].fill(first);
        smooth[reach + width..].fill(last);
        for (o, &v) in out.iter_mut().zip(&smooth[reach..]) {
            *o = v * weights[0];
        }
        for (d, &w) in weights.iter().enumerate().skip(1) {
            for ((o, &a), &b) in out.iter_mut().zip(&smooth[reach - d..]).zip(&smooth[reach + d..]) {
                *o += (a + b) * w;
            }
        }
    }
}

fn solve_row(sums: &[f32], dx: &mut [f32], dy: &mut [f32]) {
    let width = dx.len();
    let mut terms = sums.chunks_exact(width);
    let mut next = || terms.next().expect("five rows of sums");
    let (g11, g12, g22, h1, h2) = (next(), next(), next(), next(), next());
    let dy = &mut dy[..width];
    for x in 0..width {
        (dx[x], dy[x]) = solve([g11[x], g12[x], g22[x], h1[x], h2[x]].map(f64::from));
    }
}

/// The flow of one pixel. In f64: the determinant is a small difference of large products.
fn solve([g11, g12, g22, h1, h2]: [f64; TERMS]) -> (f32, f32) {
    let inverse = 1.0 / (g11 * g22 - g12 * g12 + REGULARISER);
    let (dx, dy) = (((g22 * h1 - g12 * h2) * inverse) as f32, ((g11 * h2 - g12 * h1) * inverse) as f32);
    // A value that is not finite must not spread through the iterations.
    if (dx + dy).is_finite() { (dx, dy) } else { (0.0, 0.0) }
}
