//! `[history]`: limits of the history in the store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::Within;

/// Age of the oldest segment, event, incident and state, days.
pub type HistoryDays = Within<1, 36_500>;
/// Age of the oldest second, days.
pub type SecondsDays = Within<1, 3650>;
/// Size of the store, MB.
pub type HistoryMb = Within<10, 10_000_000>;

/// `[history]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryFile {
    /// Segments, events, incidents and states are removed from the store after this many days.
    pub days: Option<HistoryDays>,
    /// Seconds are removed after this many days. A day of one stream takes 3 MB.
    pub seconds_days: Option<SecondsDays>,
    /// Maximum size of the store, MB. Beyond it, the oldest seconds are removed first, then the oldest other records.
    pub max_mb: Option<HistoryMb>,
}

/// The bounds of the history, valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistorySettings {
    /// Segments and records are kept for this long, seconds.
    pub keep_s: u64,
    /// Seconds are kept for this long, seconds.
    pub seconds_s: u64,
    /// Size of the store.
    pub max_bytes: u64,
}

const DAY_S: u64 = 86_400;
const MEGABYTE: u64 = 1_000_000;

impl Default for HistorySettings {
    fn default() -> Self {
        HistoryFile::default().settings()
    }
}

impl HistoryFile {
    /// All values.
    pub(super) const fn default_values() -> Self {
        Self {
            days: Some(HistoryDays::of::<90>()),
            seconds_days: Some(SecondsDays::of::<7>()),
            max_mb: Some(HistoryMb::of::<2000>()),
        }
    }

    /// The settings.
    pub fn settings(&self) -> HistorySettings {
        let defaults = Self::default_values();
        let number = |given: Option<u32>, default: Option<u32>| u64::from(given.or(default).unwrap_or_default());
        HistorySettings {
            keep_s: number(self.days.map(Within::get), defaults.days.map(Within::get)) * DAY_S,
            seconds_s: number(self.seconds_days.map(Within::get), defaults.seconds_days.map(Within::get)) * DAY_S,
            max_bytes: number(self.max_mb.map(Within::get), defaults.max_mb.map(Within::get)) * MEGABYTE,
        }
    }
}
