//! What a pack says of int8: where the ranges of a network's values are, and what int8 costs with them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[rgb.int8]` and so on
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Int8 {
    /// File name of the ranges, beside `pack.toml`.
    pub ranges: String,
    /// Of that file, lower-case hexadecimal.
    pub sha256: String,
    /// What int8 cost on validation, where there was any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Int8Cost>,
}

/// `[rgb.int8.validation]` and so on: macro F1 of the modality by itself on validation's seconds of clips.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Int8Cost {
    pub f32: f64,
    pub int8: f64,
}

impl Int8Cost {
    /// Macro F1 that int8 may cost; a model that it costs more is computed in what `auto` takes.
    pub const MAX: f64 = 0.005;

    /// Whether both are macro F1s.
    pub(super) fn is_possible(self) -> bool {
        [self.f32, self.int8].iter().all(|f1| (0.0..=1.0).contains(f1))
    }

    /// Whether int8 is good enough.
    pub fn is_small(self) -> bool {
        // Figures are to four decimals.
        self.f32 - self.int8 < Self::MAX + 5e-5
    }
}

/// Where the ranges of a network's values are, and what int8 costs with them.
#[derive(Clone, Debug, PartialEq)]
pub struct RangesSpec {
    pub path: PathBuf,
    pub sha256: String,
    pub validation: Option<Int8Cost>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_point_is_the_most_that_int8_may_cost() {
        let cost = |f32, int8| Int8Cost { f32, int8 };
        assert!(cost(0.501, 0.496).is_small() && cost(0.501, 0.507).is_small());
        assert!(!cost(0.501, 0.4959).is_small() && !cost(0.501, 0.487).is_small());
        assert!(cost(0.0, 1.0).is_possible() && !cost(0.5, f64::NAN).is_possible() && !cost(1.5, 0.5).is_possible());
    }
}
