//! `[teach]`: the material of recent seconds, and the folder of corrections.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::Within;

/// Size of the material in memory, MB.
pub type MemoryMb = Within<16, 100_000>;
/// Age of the oldest second in memory, seconds.
pub type MemoryS = Within<10, 86_400>;
/// Size of the folder of corrections, MB.
pub type CorrectionsMb = Within<10, 100_000_000>;
/// Age of the oldest correction, days.
pub type CorrectionDays = Within<1, 36_500>;

/// `[teach]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TeachFile {
    /// Folder for corrections: what people say that seconds show, with the pictures and the sound of these seconds. Without it
    /// nothing can be corrected.
    pub dir: Option<PathBuf>,
    /// Material of recent seconds of all streams that is held in memory for corrections, MB.
    pub memory_mb: Option<MemoryMb>,
    /// Seconds older than this are no longer held, seconds.
    pub memory_s: Option<MemoryS>,
    /// Maximum size of the folder, MB. Corrections beyond it are refused.
    pub max_mb: Option<CorrectionsMb>,
    /// Corrections are removed after this many days; by default they stay.
    pub keep_days: Option<CorrectionDays>,
}

/// The settings of teaching, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeachSettings {
    /// Folder of the corrections.
    pub dir: PathBuf,
    /// Size of the material in memory.
    pub memory_bytes: u64,
    /// Age of the oldest second in memory, seconds.
    pub memory_s: u64,
    /// Size of the folder.
    pub max_bytes: u64,
    /// Age of the oldest correction, seconds; `None`: any.
    pub keep_s: Option<u64>,
}

const MEGABYTE: u64 = 1_000_000;

impl TeachFile {
    /// All values without a folder.
    pub(super) fn default_values() -> Self {
        Self {
            dir: None,
            memory_mb: Some(MemoryMb::of::<256>()),
            memory_s: Some(MemoryS::of::<600>()),
            max_mb: Some(CorrectionsMb::of::<2000>()),
            keep_days: None,
        }
    }

    /// The settings; `None` without a folder.
    pub fn settings(self) -> Option<TeachSettings> {
        let defaults = Self::default_values();
        let number = |given: Option<u32>, default: Option<u32>| u64::from(given.or(default).unwrap_or_default());
        let memory_mb = number(self.memory_mb.map(Within::get), defaults.memory_mb.map(Within::get));
        let memory_s = number(self.memory_s.map(Within::get), defaults.memory_s.map(Within::get));
        let max_mb = number(self.max_mb.map(Within::get), defaults.max_mb.map(Within::get));
        Some(TeachSettings {
            dir: self.dir?,
            memory_bytes: memory_mb * MEGABYTE,
            memory_s,
            max_bytes: max_mb * MEGABYTE,
            keep_s: self.keep_days.map(|days| u64::from(days.get()) * 86_400),
        })
    }
}
