//! One channel of a depthwise convolution, on slices: no tensors, no threads.
//!
//! The padded channel is split into stride² *phases*: phase (py, px) holds the padded rows py, py + stride, … and of
//! those the columns px, px + stride, …. Under one tap of the kernel all output positions then read one phase at a
//! constant offset, so a convolution of any stride is a sum of shifted contiguous slices. A slice covers the whole picture,
//! past the ends of rows: the few results between rows are computed and discarded, which costs less than vector loops over
//! short rows (14 or 7 pixels). The padding is stored in the phases as zeros, so borders need no special case.

use candle_core::{Result, bail};
use pulp::NullaryFnOnce;

use super::{Activation, valid_outputs, window_count};

/// Sizes of one channel, its kernel and its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub height: usize,
    pub width: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub out_height: usize,
    pub out_width: usize,
    /// Columns of one phase, which is also the distance between two rows of the flat result.
    pitch: usize,
    /// Values of one phase.
    phase_len: usize,
}

impl Geometry {
    pub fn new(height: usize, width: usize, kernel: usize, stride: usize, padding: usize) -> Result<Self> {
        if padding >= kernel && kernel > 0 {
            bail!("depthwise convolution: padding {padding} is not below kernel {kernel}");
        }
        let out_height = window_count("depthwise convolution", height, kernel, stride, padding)?;
        let out_width = window_count("depthwise convolution", width, kernel, stride, padding)?;
        let pitch = (width + 2 * padding).div_ceil(stride);
        let phase_len = (height + 2 * padding).div_ceil(stride) * pitch;
        Ok(Self { height, width, kernel, stride, padding, out_height, out_width, pitch, phase_len })
    }

    /// Values of the result of one channel.
    pub fn out_len(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Values of all phases.
    fn phases_len(&self) -> usize {
        self.stride * self.stride * self.phase_len
    }

    /// Values of the flat result, from its first pixel to its last.
    fn flat_len(&self) -> usize {
        (self.out_height - 1) * self.pitch + self.out_width
    }

    /// Where the slice under tap (ky, kx) starts in the phases.
    fn tap_start(&self, ky: usize, kx: usize) -> usize {
        let phase = ky % self.stride * self.stride + kx % self.stride;
        phase * self.phase_len + ky / self.stride * self.pitch + kx / self.stride
    }

    /// Where row `y` of the input starts in the phases with columns of phase `px`.
    #[inline(always)]
    fn row_start(&self, y: usize, px: usize) -> usize {
        let padded = y + self.padding;
        let phase = padded % self.stride * self.stride + px;
        phase * self.phase_len + padded / self.stride * self.pitch
    }

    /// For each phase: where the pixels of one input row that fall into it start (in the row, and in a row of the
    /// phase).
    fn phase_columns(&self, px: usize) -> (usize, usize) {
        let outputs = valid_outputs(self.width, self.pitch, px, self.stride, self.padding);
        ((outputs.start * self.stride + px).saturating_sub(self.padding), outputs.start)
    }
}

/// Memory for one channel, reused for the next one of the same geometry.
pub(super) struct PlaneScratch {
    /// The padded channel in phases. Only pixels are ever written, so the padding stays 0.
    phases: Vec<f32>,
    /// The flat result or the flat gradient; between the rows of the gradient it stays 0.
    flat: Vec<f32>,
}

impl PlaneScratch {
    pub fn new(geometry: &Geometry) -> Self {
        Self { phases: vec![0.0; geometry.phases_len()], flat: vec![0.0; geometry.flat_len()] }
    }
}

/// `out = activation(kernel * input + bias)` for one channel: a task for `pulp::Arch::dispatch`, which compiles it for
/// the widest vectors of the processor. (A closure would not be inlined into that code.)
pub(super) struct Forward<'a> {
    pub geometry: &'a Geometry,
    pub scratch: &'a mut PlaneScratch,
    pub input: &'a [f32],
    pub taps: &'a [f32],
    pub bias: f32,
    pub activation: Activation,
    pub out: &'a mut [f32],
}

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { geometry, scratch, input, taps, bias, activation, out } = self;
        split(geometry, input, &mut scratch.phases);
        let flat = &mut scratch.flat[..];
        let shifted = |tap: usize| &scratch.phases[geometry.tap_start(tap / geometry.kernel, tap % geometry.kernel)..];
        if let Ok(taps) = <&[f32; 9]>::try_from(taps) {
            nine_taps(flat, std::array::from_fn(shifted), taps, bias);
        } else {
            flat.fill(bias);
            for (tap, weight) in taps.iter().enumerate() {
                for (f, p) in flat.iter_mut().zip(shifted(tap)) {
                    *f += weight * p;
                }
            }
        }
        let (low, high) = activation.bounds();
        for (row, flat) in out.chunks_exact_mut(geometry.out_width).zip(flat.chunks(geometry.pitch)) {
            for (o, f) in row.iter_mut().zip(flat) {
                *o = f.max(low).min(high);
            }
        }
    }
}

/// `flat = bias + Σ taps[i] · shifted[i]` in one pass: the 3×3 kernel of MobileNet.
#[inline(always)]
fn nine_taps(flat: &mut [f32], shifted: [&[f32]; 9], taps: &[f32; 9], bias: f32) {
    let n = flat.len();
    let [a, b, c, d, e, f, g, h, i] = shifted.map(|s| &s[..n]);
    for (at, out) in flat.iter_mut().enumerate() {
        let top = taps[0] * a[at] + taps[1] * b[at] + taps[2] * c[at];
        let middle = taps[3] * d[at] + taps[4] * e[at] + taps[5] * f[at];
        let bottom = taps[6] * g[at] + taps[7] * h[at] + taps[8] * i[at];
        *out = bias + top + (middle + bottom);
    }
}

/// Gradient of the input of one channel: every tap adds its share of the result's gradient to the pixels it read.
/// `input_grad` is overwritten. A task as [`Forward`].
pub(super) struct BackwardInput<'a> {
    pub geometry: &'a Geometry,
    pub scratch: &'a mut PlaneScratch,
    pub out_grad: &'a [f32],
    pub taps: &'a [f32],
    pub input_grad: &'a mut [f32],
}

impl NullaryFnOnce for BackwardInput<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { geometry, scratch, out_grad, taps, input_grad } = self;
        spread(geometry, out_grad, &mut scratch.flat);
        // The gradient of the padding is not used, but must not accumulate from channel to channel.
        scratch.phases.fill(0.0);
        for (tap, weight) in taps.iter().enumerate() {
            let start = geometry.tap_start(tap / geometry.kernel, tap % geometry.kernel);
            for (p, g) in scratch.phases[start..].iter_mut().zip(&scratch.flat) {
                *p += weight * g;
            }
        }
        for px in 0..geometry.stride {
            let (column, phase_column) = geometry.phase_columns(px);
            for (y, row) in input_grad.chunks_exact_mut(geometry.width).enumerate() {
                let phase = &scratch.phases[geometry.row_start(y, px) + phase_column..];
                for (r, p) in row.iter_mut().skip(column).step_by(geometry.stride).zip(phase) {
                    *r = *p;
                }
            }
        }
    }
}

/// Gradient of the kernel of one channel for one sample, added to `tap_grads`. A task as [`Forward`].
pub(super) struct BackwardWeight<'a> {
    pub geometry: &'a Geometry,
    pub scratch: &'a mut PlaneScratch,
    pub input: &'a [f32],
    pub out_grad: &'a [f32],
    pub tap_grads: &'a mut [f32],
}

impl NullaryFnOnce for BackwardWeight<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { geometry, scratch, input, out_grad, tap_grads } = self;
        split(geometry, input, &mut scratch.phases);
        spread(geometry, out_grad, &mut scratch.flat);
        for (tap, grad) in tap_grads.iter_mut().enumerate() {
            let start = geometry.tap_start(tap / geometry.kernel, tap % geometry.kernel);
            *grad += dot(&scratch.flat, &scratch.phases[start..][..scratch.flat.len()]);
        }
    }
}

/// Sum of products with 16 partial sums, which fit vector registers and lose less precision than one.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let (a_whole, a_rest) = a.as_chunks::<16>();
    let (b_whole, b_rest) = b.as_chunks::<16>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Writes the pixels of a channel into its phases.
#[inline(always)]
fn split(geometry: &Geometry, input: &[f32], phases: &mut [f32]) {
    for px in 0..geometry.stride {
        let (column, phase_column) = geometry.phase_columns(px);
        for (y, row) in input.chunks_exact(geometry.width).enumerate() {
            let row = row.get(column..).unwrap_or_default();
            let phase = &mut phases[geometry.row_start(y, px) + phase_column..];
            match geometry.stride {
                1 => phase[..row.len()].copy_from_slice(row),
                // Fixed pairs vectorise, a general step does not.
                2 => {
                    let (pairs, last) = row.as_chunks::<2>();
                    for (p, pair) in phase.iter_mut().zip(pairs) {
                        *p = pair[0];
                    }
                    if let [last] = last {
                        phase[pairs.len()] = *last;
                    }
                }
                stride => {
                    for (p, r) in phase.iter_mut().zip(row.iter().step_by(stride)) {
                        *p = *r;
                    }
                }
            }
        }
    }
}

/// Writes the rows of a result's gradient at the distance of the phases' rows.
#[inline(always)]
fn spread(geometry: &Geometry, out_grad: &[f32], flat: &mut [f32]) {
    for (row, flat) in out_grad.chunks_exact(geometry.out_width).zip(flat.chunks_mut(geometry.pitch)) {
        flat[..geometry.out_width].copy_from_slice(row);
    }
}
