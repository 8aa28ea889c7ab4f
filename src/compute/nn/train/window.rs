//! Which input positions each output position of a convolution reads.

use super::kernel::LANES;
use super::values::{BatchShape, THIN};

/// Sizes of a convolution. There are ⌈n / stride⌉ output positions for n input positions; the first tap of the first is `before`
/// positions before the first input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub kernel: usize,
    pub stride: usize,
    pub before: usize,
}

impl Window {
    /// The number of output positions.
    pub fn count(&self, n: usize) -> usize {
        n.div_ceil(self.stride)
    }

    pub fn output(&self, x: &BatchShape, channels: usize) -> BatchShape {
        BatchShape { samples: x.samples, height: self.count(x.height), width: self.count(x.width), channels }
    }

    /// Whether pixels are independent.
    pub fn is_flat(&self) -> bool {
        self.kernel == 1 && self.stride == 1
    }

    /// Positions after the last input that the last window has.
    pub fn after(&self, n: usize) -> usize {
        ((self.count(n) - 1) * self.stride + self.kernel).saturating_sub(self.before + n)
    }

    /// The taps, in one direction, whose windows include position `i` of the input, with the output position of each. The output
    /// position may be out of range.
    pub fn outputs_of(self, i: usize) -> impl Iterator<Item = (usize, isize)> {
        let at = i + self.before;
        let taps = (0..self.kernel).filter(move |tap| at % self.stride == tap % self.stride);
        taps.map(move |tap| (tap, (at as isize - tap as isize) / self.stride as isize))
    }

    /// Output positions before the first and after the last whose windows include inputs of a row of `n`: as many zeros are put
    /// around a gradient.
    pub fn border(&self, n: usize) -> (usize, usize) {
        let before = (self.kernel - 1).saturating_sub(self.before).div_ceil(self.stride);
        let after = ((n - 1 + self.before) / self.stride + 1).saturating_sub(self.count(n));
        (before, after)
    }
}

/// Taps of a convolution as parts of a sum: a tap with all channels, or, of a thin picture, a row of taps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taps {
    /// Rows, and parts in a row.
    pub rows: usize,
    pub columns: usize,
    /// Terms of a part.
    pub terms: usize,
}

impl Taps {
    pub fn of(x: &BatchShape, thin: bool, kernel: usize) -> Self {
        match thin {
            true => Self { rows: kernel, columns: 1, terms: kernel * THIN },
            false => Self { rows: kernel, columns: kernel, terms: x.padded() },
        }
    }

    pub fn count(&self) -> usize {
        self.rows * self.columns
    }

    /// Blocks of 16 terms of a part.
    pub fn blocks(&self) -> usize {
        self.terms.div_ceil(LANES)
    }
}
