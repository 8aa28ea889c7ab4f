//! The int8 section of a pack: the file of activation ranges, and the accuracy that int8 costs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[rgb.int8]`, `[flow.int8]`, `[audio.int8]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Int8 {
    /// File name of the ranges, beside `pack.toml`.
    pub ranges: String,
    /// SHA-256 of that file, lower-case hexadecimal.
    pub sha256: String,
    /// Accuracy on validation, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Int8Cost>,
}

/// `[rgb.int8.validation]` and so on: macro F1 of the modality alone, on the seconds of the validation split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Int8Cost {
    /// Macro F1 in `f32`, 0 to 1.
    pub f32: f64,
    /// Macro F1 in int8, 0 to 1.
    pub int8: f64,
}

impl Int8Cost {
    /// The largest loss of macro F1 that is accepted. A model that loses more is computed in the precision of `auto`.
    pub const MAX: f64 = 0.005;

    /// Whether both lie between 0 and 1.
    pub(super) fn is_possible(self) -> bool {
        [self.f32, self.int8].iter().all(|f1| (0.0..=1.0).contains(f1))
    }

    /// Whether the loss is accepted.
    pub fn is_small(self) -> bool {
        // Figures are rounded to four decimals.
        self.f32 - self.int8 < Self::MAX + 5e-5
    }
}

/// The validated form of [`Int8`].
#[derive(Clone, Debug, PartialEq)]
pub struct RangesSpec {
    /// The file of ranges.
    pub path: PathBuf,
    /// SHA-256 of that file, lower-case hexadecimal.
    pub sha256: String,
    /// Accuracy on validation, if it was measured.
    pub validation: Option<Int8Cost>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_may_cost_at_most_half_a_point() {
        let cost = |f32, int8| Int8Cost { f32, int8 };
        assert!(cost(0.501, 0.496).is_small() && cost(0.501, 0.507).is_small());
        assert!(!cost(0.501, 0.4959).is_small() && !cost(0.501, 0.487).is_small());
        assert!(cost(0.0, 1.0).is_possible() && !cost(0.5, f64::NAN).is_possible() && !cost(1.5, 0.5).is_possible());
    }
}
