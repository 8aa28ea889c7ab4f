//! Int8 quantisation: scales and zero points from measured ranges.
//!
//! An activation is `(byte − zero) · unit`, with a scale (`unit`) and a zero point (`zero`) per channel. The reading layer
//! folds the scales into its weights, so channels of small values keep their precision beside channels of large ones. A
//! weight is `whole · unit` with a scale per output channel. 0 is exactly a byte, so borders add nothing. Source: Jacob et al.,
//! *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*, CVPR 2018.

/// The highest byte.
pub(super) const TOP: f32 = 255.0;

/// The highest quantised weight; the lowest is its negative.
const WEIGHT_TOP: f32 = 127.0;

/// The range of one channel of an activation. Values beyond it are clamped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The lowest value.
    pub low: f32,
    /// The highest value.
    pub high: f32,
    /// The mean, with which the average error of rounded weights is corrected.
    pub mean: f32,
}

impl Range {
    /// Whether the range is finite and includes 0.
    pub fn is_sound(self) -> bool {
        self.low.is_finite() && self.high.is_finite() && self.mean.is_finite() && self.low <= 0.0 && self.high >= 0.0
    }
}

/// Quantisation of one channel of an activation: `real = (byte − zero) · unit`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quantisation {
    /// The scale.
    pub unit: f32,
    /// The zero point, a byte.
    pub zero: f32,
    /// Mean of the real values.
    pub mean: f32,
}

impl Quantisation {
    /// For formats that store real values.
    pub const NONE: Quantisation = Quantisation { unit: 1.0, zero: 0.0, mean: 0.0 };

    /// For a sound range, cut to `bounds`: storing a byte then clamps like the activation.
    pub fn within(range: Range, (least, most): (f32, f32)) -> Self {
        Self::of(Range { low: range.low.max(least.min(0.0)), high: range.high.min(most.max(0.0)), ..range })
    }

    /// For a sound range. A range of only 0 has scale 0: its byte is always 0, and readers have weight 0 for it.
    pub fn of(range: Range) -> Self {
        if range.low >= range.high {
            return Self { unit: 0.0, zero: 0.0, mean: 0.0 };
        }
        let unit = (range.high - range.low) / TOP;
        Self { unit, zero: (-range.low / unit).round_ties_even().clamp(0.0, TOP), mean: range.mean }
    }

    /// A real value as a byte, not rounded.
    pub fn place(self, real: f32) -> f32 {
        self.units(real) + self.zero
    }

    /// `real / unit`; 0 where the scale is 0.
    pub fn units(self, real: f32) -> f32 {
        if self.unit > 0.0 { real / self.unit } else { 0.0 }
    }

    /// The real value of a byte, or of a mean of bytes.
    pub fn real(self, byte: f32) -> f32 {
        (byte - self.zero) * self.unit
    }
}

/// Quantised weights of one output channel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct QuantisedWeights {
    /// The weights, input channel by input channel.
    pub weights: Vec<i8>,
    /// Their scale.
    pub unit: f32,
    /// The share of the inputs' zero points in a sum.
    pub zeros: f32,
    /// The mean error that rounding adds to the real sum. It is subtracted from the bias; otherwise such shifts add up through a
    /// deep network. Source: Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*, ICCV 2019.
    pub shift: f32,
}

impl QuantisedWeights {
    /// Quantises real weights, `taps` per input channel.
    pub fn of(weights: &[f32], taps: usize, inputs: &[Quantisation]) -> Self {
        let input = |i: usize| inputs[i / taps];
        let scaled: Vec<f32> = weights.iter().enumerate().map(|(i, weight)| weight * input(i).unit).collect();
        let most = scaled.iter().fold(0f32, |most, weight| most.max(weight.abs()));
        // Weights of only 0 may have any scale. (NaN is rejected when weights are read.)
        let unit = if most > 0.0 { most / WEIGHT_TOP } else { 1.0 };
        let weights: Vec<i8> = scaled.iter().map(|weight| (weight / unit).round_ties_even() as i8).collect();
        let (mut zeros, mut shift) = (0.0, 0.0);
        for (i, (whole, scaled)) in weights.iter().zip(&scaled).enumerate() {
            zeros += f32::from(*whole) * input(i).zero;
            shift += (f32::from(*whole) * unit - scaled) * input(i).units(input(i).mean);
        }
        Self { weights, unit, zeros, shift }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_quantised_to_bytes_with_an_exact_zero() {
        for (low, high) in [(0.0, 6.0), (-2.1, 2.6), (-1.0, 0.0), (-1e-3, 70.0)] {
            let bytes = Quantisation::of(Range { low, high, mean: 0.0 });
            assert_eq!(bytes.place(0.0), bytes.zero);
            assert_eq!(bytes.zero, bytes.zero.round());
            assert_eq!(bytes.real(bytes.zero), 0.0);
            for i in 0..=20 {
                let real = low + (high - low) * i as f32 / 20.0;
                let back = bytes.real(bytes.place(real).round_ties_even().clamp(0.0, TOP));
                // Half a unit of rounding, and half a unit at the ends because 0 is moved to a byte.
                assert!((real - back).abs() <= 1.001 * bytes.unit, "{real} of {low}..{high} became {back}");
            }
        }
        assert!(!Range { low: 0.1, high: 1.0, mean: 0.5 }.is_sound());
        assert!(!Range { low: 0.0, high: f32::NAN, mean: 0.0 }.is_sound());
        assert_eq!(Quantisation::of(Range { low: 0.0, high: 0.0, mean: 0.0 }).place(3.0), 0.0);
        let bytes = Quantisation::within(Range { low: -3.0, high: 9.0, mean: 0.0 }, (0.0, 6.0));
        assert_eq!((bytes.zero, bytes.real(255.0)), (0.0, 6.0));
    }

    #[test]
    fn weights_keep_their_largest_value_and_state_the_shift_by_rounding() {
        let input = |unit, zero, mean| Quantisation { unit, zero, mean };
        let whole = QuantisedWeights::of(&[0.5, -1.0, 0.003], 3, &[input(1.0, 2.0, 10.0)]);
        assert_eq!(whole.weights, [64, -127, 0]);
        assert!((whole.unit * 127.0 - 1.0).abs() < 1e-6);
        assert_eq!(whole.zeros, -126.0);
        // 64/127 in place of 0.5, and 0 in place of 0.003.
        assert!((whole.shift - 10.0 * (64.0 / 127.0 - 0.5 - 0.003)).abs() < 1e-5, "{}", whole.shift);
        // The weights include the units of the inputs. A channel that is always 0 has no weight.
        let whole = QuantisedWeights::of(
            &[1.0, 1.0, 1.0],
            1,
            &[input(2.0, 0.0, 0.0), input(1.0, 0.0, 0.0), input(0.0, 0.0, 0.0)],
        );
        assert_eq!(whole.weights, [127, 64, 0]);
        let nothing = QuantisedWeights::of(&[0.0, 0.0], 2, &[Quantisation::NONE]);
        assert_eq!((nothing.weights, nothing.shift), (vec![0, 0], 0.0));
    }
}
