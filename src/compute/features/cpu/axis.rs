//! Linear resampling along one axis as a table: every output sample is a weighted sum of neighbouring input samples.
//!
//! Resizing a picture, shrinking it for a pyramid level and enlarging a flow field all use two such tables, one per axis; they
//! differ only in the weights. Sound is resampled elsewhere (`touchline_core::clip`).

/// Weights that map `source` samples to `target` samples.
///
/// Every output reads the same number of neighbouring inputs (`taps`), so loops over it have a fixed length; outputs
/// that need fewer have weights of 0. `start + taps <= source` always holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    source: usize,
    taps: usize,
    starts: Vec<usize>,
    weights: Vec<f32>,
}

impl Axis {
    /// Triangle filter over the stretch `from .. from + length` (in source samples) of the source, as Pillow's
    /// `BILINEAR`: bilinear when enlarging; when shrinking, the triangle is widened by the shrink factor, so nothing
    /// aliases. Samples outside the stretch but inside the source are used where the triangle reaches them.
    ///
    /// # Panics
    /// If `source` or `target` is 0 or `length` is not positive.
    pub fn triangle(source: usize, target: usize, from: f64, length: f64) -> Self {
        Self::filter(source, target, (from, length), 1.0, |distance| (1.0 - distance).max(0.0))
    }

    /// As [`Axis::triangle`] with the cubic kernel of a = −0.5, as Pillow's `BICUBIC`.
    ///
    /// # Panics
    /// As [`Axis::triangle`].
    pub fn cubic(source: usize, target: usize, from: f64, length: f64) -> Self {
        Self::filter(source, target, (from, length), 2.0, |distance| cubic(distance, -0.5))
    }

    /// A symmetric kernel that is 0 from `radius` on, in samples of the coarser side.
    fn filter(
        source: usize,
        target: usize,
        (from, length): (f64, f64),
        radius: f64,
        kernel: impl Fn(f64) -> f64,
    ) -> Self {
        assert!(source > 0 && target > 0 && length > 0.0, "a resampling table needs samples on both sides");
        let scale = length / target as f64;
        let widened = scale.max(1.0);
        let support = radius * widened;
        Self::build(source, target, |i, taps| {
            let centre = from + (i as f64 + 0.5) * scale;
            // Sample j is centred at j + 0.5.
            let first = (centre - support).floor().max(0.0) as usize;
            for j in first..source {
                let distance = (j as f64 + 0.5 - centre) / widened;
                if distance >= radius {
                    break;
                }
                taps.push((j, kernel(distance.abs())));
            }
            if taps.iter().all(|t| t.1 <= 0.0) {
                taps.push(((centre as usize).min(source - 1), 1.0));
            }
        })
    }

    /// Plain bilinear sampling at pixel centres, clamped at the ends, without widening when shrinking: OpenCV's
    /// `INTER_LINEAR`.
    ///
    /// # Panics
    /// If `source` or `target` is 0.
    pub fn bilinear(source: usize, target: usize) -> Self {
        Self::blurred_bilinear(source, target, &[1.0])
    }

    /// [`Axis::bilinear`] of the source blurred by the symmetric `kernel` (odd length), whose reach beyond the ends
    /// is mirrored about the end samples (OpenCV's `BORDER_REFLECT_101`). Both steps are linear, so one table does
    /// them at once, and only the samples that are used are blurred.
    ///
    /// # Panics
    /// If `source` or `target` is 0 or `kernel` has an even length.
    pub fn blurred_bilinear(source: usize, target: usize, kernel: &[f64]) -> Self {
        assert!(source > 0 && target > 0, "a resampling table needs samples on both sides");
        assert!(kernel.len() % 2 == 1, "a blur kernel has a middle");
        let scale = source as f64 / target as f64;
        let radius = (kernel.len() / 2) as isize;
        Self::build(source, target, |i, taps| {
            let at = ((i as f64 + 0.5) * scale - 0.5).clamp(0.0, (source - 1) as f64);
            let (low, fraction) = (at.floor(), at - at.floor());
            for (sample, share) in [(low as isize, 1.0 - fraction), (low as isize + 1, fraction)] {
                if share > 0.0 {
                    let around = kernel.iter().zip(sample - radius..);
                    taps.extend(around.map(|(&k, j)| (mirrored(j, source), k * share)));
                }
            }
        })
    }

    /// `contribute` pushes (source sample, weight) pairs for each output; they are summed per sample and normalised.
    fn build(source: usize, target: usize, mut contribute: impl FnMut(usize, &mut Vec<(usize, f64)>)) -> Self {
        let mut pairs = Vec::new();
        let rows: Vec<(usize, Vec<f64>)> = (0..target)
            .map(|i| {
                pairs.clear();
                contribute(i, &mut pairs);
                pairs.retain(|p| p.1 != 0.0);
                let first = pairs.iter().map(|p| p.0).min().unwrap_or(0);
                let last = pairs.iter().map(|p| p.0).max().unwrap_or(0);
                let mut dense = vec![0.0; last - first + 1];
                for &(j, weight) in &pairs {
                    dense[j - first] += weight;
                }
                let sum: f64 = dense.iter().sum();
                dense.iter_mut().for_each(|w| *w /= sum);
                (first, dense)
            })
            .collect();
        let taps = rows.iter().map(|r| r.1.len()).max().unwrap_or(1);
        let mut starts = Vec::with_capacity(target);
        let mut weights = vec![0.0; target * taps];
        for ((first, dense), slot) in rows.iter().zip(weights.chunks_exact_mut(taps)) {
            // Near the end the window is moved back so that all of its taps lie inside the source.
            let start = (*first).min(source - taps);
            starts.push(start);
            for (w, d) in slot[first - start..].iter_mut().zip(dense) {
                *w = *d as f32;
            }
        }
        Self { source, taps, starts, weights }
    }

    /// Number of input samples.
    pub fn source(&self) -> usize {
        self.source
    }

    /// Number of output samples.
    pub fn target(&self) -> usize {
        self.starts.len()
    }

    /// Number of inputs that every output reads.
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// The whole table: the first input of every output, and all weights, [`Axis::taps`] an output.
    pub fn table(&self) -> (&[usize], &[f32]) {
        (&self.starts, &self.weights)
    }

    /// First input and weights of output `i`.
    pub fn window(&self, i: usize) -> (usize, &[f32]) {
        (self.starts[i], &self.weights[i * self.taps..(i + 1) * self.taps])
    }

    /// Computes output row `i` of a picture with `out.len()` values per row: the vertical step. `source` is row-major.
    pub fn mix_rows<T: Copy + Into<f32>>(&self, i: usize, source: &[T], out: &mut [f32]) {
        let stride = out.len();
        let (start, weights) = self.window(i);
        let rows = &source[start * stride..(start + self.taps) * stride];
        out.fill(0.0);
        // Four rows at a time, so that the sum is loaded and stored once for four.
        for (rows, weights) in rows.chunks(4 * stride).zip(weights.chunks(4)) {
            if let &[wa, wb, wc, wd] = weights {
                let (a, rest) = rows.split_at(stride);
                let (b, rest) = rest.split_at(stride);
                let (c, d) = rest.split_at(stride);
                for ((((o, &a), &b), &c), &d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                    *o += (a.into() * wa + b.into() * wb) + (c.into() * wc + d.into() * wd);
                }
            } else {
                for (row, &w) in rows.chunks_exact(stride).zip(weights) {
                    for (o, &v) in out.iter_mut().zip(row) {
                        *o += v.into() * w;
                    }
                }
            }
        }
    }

    /// Resamples one row of single values: the horizontal step. `line` has [`Axis::source`] values, `out` has
    /// [`Axis::target`].
    pub fn mix_line(&self, line: &[f32], out: &mut [f32]) {
        let windows = self.starts.iter().zip(self.weights.chunks_exact(self.taps));
        for (o, (&start, weights)) in out.iter_mut().zip(windows) {
            let values = &line[start..start + self.taps];
            let mut lanes = [0f32; 4];
            let (values, tail) = values.as_chunks::<4>();
            let (weights, tail_weights) = weights.as_chunks::<4>();
            for (v, w) in values.iter().zip(weights) {
                for ((lane, v), w) in lanes.iter_mut().zip(v).zip(w) {
                    *lane += v * w;
                }
            }
            let tail: f32 = tail.iter().zip(tail_weights).map(|(v, w)| v * w).sum();
            *o = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]) + tail;
        }
    }

    /// Resamples one row of interleaved RGB, one `[r, g, b]` per output. `line` has `3 * source + 1` values; the last
    /// one exists so that every pixel can be read as four values.
    pub fn mix_rgb_line(&self, line: &[f32], out: &mut [[f32; 3]]) {
        let windows = self.starts.iter().zip(self.weights.chunks_exact(self.taps));
        for (o, (&start, weights)) in out.iter_mut().zip(windows) {
            let pixels = line[3 * start..3 * (start + self.taps) + 1].windows(4).step_by(3);
            let mut sum = [0f32; 4];
            for (pixel, &w) in pixels.zip(weights) {
                for (s, v) in sum.iter_mut().zip(pixel) {
                    *s += v * w;
                }
            }
            *o = [sum[0], sum[1], sum[2]];
        }
    }
}

/// The cubic convolution kernel with parameter `a` at a distance of 0 or more, in samples.
pub(crate) fn cubic(distance: f64, a: f64) -> f64 {
    let d = distance;
    if d < 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        (((d - 5.0) * d + 8.0) * d - 4.0) * a
    } else {
        0.0
    }
}

/// `index` brought into `0..length` by mirroring about the end samples: −1 → 1, `length` → `length - 2`.
fn mirrored(index: isize, length: usize) -> usize {
    if length == 1 {
        return 0;
    }
    let period = 2 * (length as isize - 1);
    let folded = index.rem_euclid(period);
    folded.min(period - folded) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(axis: &Axis, line: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; axis.target()];
        axis.mix_line(line, &mut out);
        out
    }

    #[test]
    fn mirroring_does_not_repeat_the_end_sample() {
        let got: Vec<usize> = (-5..8).map(|i| mirrored(i, 4)).collect();
        assert_eq!(got, [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]);
        assert_eq!(mirrored(-3, 1), 0);
    }

    #[test]
    fn same_size_is_the_identity() {
        let line: Vec<f32> = (0..9).map(|i| (i * i) as f32).collect();
        assert_eq!(apply(&Axis::triangle(9, 9, 0.0, 9.0), &line), line);
        assert_eq!(apply(&Axis::bilinear(9, 9), &line), line);
    }

    #[test]
    fn enlarging_is_bilinear_with_clamped_ends() {
        let line = [0.0, 4.0];
        assert_eq!(apply(&Axis::bilinear(2, 4), &line), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(apply(&Axis::triangle(2, 4, 0.0, 2.0), &line), [0.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn shrinking_keeps_the_mean_only_with_the_triangle() {
        // The finest possible pattern. A filter that does not widen gives a wrong constant or a beat.
        let line: Vec<f32> = (0..64).map(|i| (i % 2) as f32).collect();
        for v in &apply(&Axis::triangle(64, 7, 0.0, 64.0), &line) {
            assert!((v - 0.5).abs() < 0.02, "{v}");
        }
        let beat = apply(&Axis::bilinear(64, 7), &line);
        assert!(beat.iter().any(|v| (v - 0.5).abs() > 0.1), "{beat:?}");
    }

    #[test]
    fn blurring_and_sampling_in_one_table_equals_the_two_steps() {
        let kernel = [0.1, 0.2, 0.4, 0.2, 0.1];
        let line: Vec<f32> = (0..13).map(|i| ((i * 37) % 11) as f32).collect();
        let blurred: Vec<f32> = (0..13)
            .map(|i| (-2..3isize).zip(kernel).map(|(d, k)| line[mirrored(i + d, 13)] * k as f32).sum())
            .collect();
        let two = apply(&Axis::bilinear(13, 5), &blurred);
        let one = apply(&Axis::blurred_bilinear(13, 5, &kernel), &line);
        assert!(one.iter().zip(&two).all(|(a, b)| (a - b).abs() < 1e-5), "{one:?} {two:?}");
    }

    #[test]
    fn every_window_lies_inside_and_sums_to_one() {
        for (source, target) in [(1, 1), (1, 9), (9, 1), (2, 97), (640, 7), (3, 2), (1000, 999)] {
            let tables = [
                Axis::triangle(source, target, 0.0, source as f64),
                Axis::triangle(source, target, source as f64 * 0.4, source as f64 * 0.2),
                Axis::bilinear(source, target),
                Axis::blurred_bilinear(source, target, &[0.25, 0.5, 0.25]),
            ];
            for axis in &tables {
                assert_eq!((axis.source(), axis.target()), (source, target));
                for i in 0..target {
                    let (start, weights) = axis.window(i);
                    assert!(start + axis.taps() <= source);
                    assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                }
            }
        }
    }

    /// `numpy.asarray(Image.fromarray(row, "F").resize((target, 1), Image.BICUBIC))` of Pillow.
    #[test]
    fn the_cubic_is_pillows() {
        let line: Vec<f32> = (0..11).map(|i| ((i * 37) % 23) as f32).collect();
        for (target, want) in [(4, &SHRUNK[..]), (13, &ENLARGED)] {
            let got = apply(&Axis::cubic(11, target, 0.0, 11.0), &line);
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-4), "{got:?} {want:?}");
        }
    }

    const SHRUNK: [f32; 4] = [8.010_744, 10.676_489, 10.282_919, 10.386_758];
    const ENLARGED: [f32; 13] = [
        -0.481_375, 11.810_884, 7.833_409, 11.241_693, 17.926_718, 8.385_071, 1.0, 13.882_567, 7.827_037, 13.758_307,
        18.213_472, 8.603_479, 1.690_544,
    ];

    #[test]
    fn rows_and_lines_agree() {
        let axis = Axis::triangle(23, 7, 0.0, 23.0);
        let column: Vec<f32> = (0..23).map(|i| ((i * 29) % 17) as f32).collect();
        let across = apply(&axis, &column);
        let pixels: Vec<f32> = column.iter().flat_map(|&v| [v, 2.0 * v, -v]).chain([0.0]).collect();
        let mut rgb = vec![[0.0; 3]; 7];
        axis.mix_rgb_line(&pixels, &mut rgb);
        for i in 0..7 {
            let mut down = [0.0];
            axis.mix_rows(i, &column, &mut down);
            assert!((down[0] - across[i]).abs() < 1e-4);
            assert!((rgb[i][1] - 2.0 * across[i]).abs() < 1e-4 && (rgb[i][2] + across[i]).abs() < 1e-4);
        }
    }
}
