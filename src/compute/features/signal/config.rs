//! Thresholds and hold times.

use std::time::Duration;

use touchline_core::signal::{Signal, Signals};

/// When a condition of the signal counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SignalConfig {
    /// The detectors that are off.
    pub off: Signals,
    /// How long colour bars must last.
    pub bars: Duration,
    /// How long a black picture must last.
    pub black: Duration,
    /// How long a picture must be frozen.
    pub freeze: Duration,
    /// How long silence must last.
    pub silence: Duration,
    /// Maximum luminance of a black pixel, from 0 (black) to 1 (white).
    pub black_luma: f32,
    /// Minimum share of black pixels in a black picture.
    pub black_share: f32,
    /// Maximum mean difference between equal pictures, dB relative to full range.
    pub freeze_db: f32,
    /// Maximum sample value of silence, dB relative to full scale.
    pub silence_db: f32,
}

impl Default for SignalConfig {
    /// Those of FFmpeg's `blackdetect`, `freezedetect` and `silencedetect`, with longer hold times for freeze and silence: replays
    /// end in stills, and crowds fall silent.
    fn default() -> Self {
        Self {
            off: Signals::NONE,
            bars: Duration::from_secs(1),
            black: Duration::from_secs(2),
            freeze: Duration::from_secs(10),
            silence: Duration::from_secs(10),
            black_luma: 0.1,
            black_share: 0.98,
            freeze_db: -60.0,
            silence_db: -60.0,
        }
    }
}

impl SignalConfig {
    /// Shortest hold time: a second is the unit of decisions, and tenths of it are sampled.
    pub const HOLD_MIN: Duration = Duration::from_millis(200);
    /// Longest hold time.
    pub const HOLD_MAX: Duration = Duration::from_secs(3600);
    /// Lowest and highest level, decibels.
    pub const DB: (f32, f32) = (-120.0, 0.0);

    /// No detector.
    pub fn off() -> Self {
        Self { off: Signal::ALL.into_iter().collect(), ..Self::default() }
    }

    /// The hold time of `signal`.
    pub const fn hold(&self, signal: Signal) -> Duration {
        match signal {
            Signal::Bars => self.bars,
            Signal::Black => self.black,
            Signal::Freeze => self.freeze,
            Signal::Silence => self.silence,
        }
    }

    /// Checks all values.
    ///
    /// # Errors
    /// Names the key that is out of bounds and the bounds.
    pub fn validate(&self) -> Result<(), String> {
        for signal in Signal::ALL {
            let hold = self.hold(signal);
            if !(Self::HOLD_MIN..=Self::HOLD_MAX).contains(&hold) {
                let (least, most) = (Self::HOLD_MIN.as_secs_f32(), Self::HOLD_MAX.as_secs());
                return Err(format!("{signal}_s {}: choose {least} to {most} seconds", hold.as_secs_f32()));
            }
        }
        for (key, share) in [("black_luma", self.black_luma), ("black_share", self.black_share)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{key} {share}: choose 0 to 1"));
            }
        }
        let (least, most) = Self::DB;
        for (key, db) in [("freeze_db", self.freeze_db), ("silence_db", self.silence_db)] {
            if !(least..=most).contains(&db) {
                return Err(format!("{key} {db}: choose {least} to {most} decibels"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_settings_are_named() {
        let base = SignalConfig::default();
        for (config, word) in [
            (SignalConfig { bars: Duration::ZERO, ..base }, "bars_s 0"),
            (SignalConfig { silence: Duration::from_secs(4000), ..base }, "silence_s 4000"),
            (SignalConfig { black_luma: 1.5, ..base }, "black_luma"),
            (SignalConfig { black_share: f32::NAN, ..base }, "black_share"),
            (SignalConfig { freeze_db: 3.0, ..base }, "freeze_db"),
            (SignalConfig { silence_db: f32::NEG_INFINITY, ..base }, "silence_db"),
        ] {
            assert!(config.validate().unwrap_err().contains(word), "{config:?}");
        }
        assert_eq!(base.validate(), Ok(()));
        assert_eq!(SignalConfig::off().validate(), Ok(()));
    }
}
