//! `[signal]`: the detectors of pictures and sound without programme.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use touchline_compute::features::signal::SignalConfig;
use touchline_core::signal::Signal;

/// `[signal]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SignalFile {
    /// Detectors that are off.
    pub off: Option<Vec<Signal>>,
    /// Colour bars count as no programme after this time, seconds.
    #[schemars(range(min = SignalConfig::HOLD_MIN.as_secs_f64(), max = SignalConfig::HOLD_MAX.as_secs()))]
    pub bars_s: Option<f32>,
    /// A black picture counts as no programme after this time, seconds.
    #[schemars(range(min = SignalConfig::HOLD_MIN.as_secs_f64(), max = SignalConfig::HOLD_MAX.as_secs()))]
    pub black_s: Option<f32>,
    /// A frozen picture counts as no programme after this time, seconds.
    #[schemars(range(min = SignalConfig::HOLD_MIN.as_secs_f64(), max = SignalConfig::HOLD_MAX.as_secs()))]
    pub freeze_s: Option<f32>,
    /// Silent sound is excluded from decisions after this time, seconds.
    #[schemars(range(min = SignalConfig::HOLD_MIN.as_secs_f64(), max = SignalConfig::HOLD_MAX.as_secs()))]
    pub silence_s: Option<f32>,
    /// Maximum luminance of a black pixel, from 0 (black) to 1 (white).
    #[schemars(range(min = 0, max = 1))]
    pub black_luma: Option<f32>,
    /// Minimum share of black pixels in a black picture.
    #[schemars(range(min = 0, max = 1))]
    pub black_share: Option<f32>,
    /// Maximum mean difference between frozen pictures, dB relative to full range.
    #[schemars(range(min = SignalConfig::DB.0, max = SignalConfig::DB.1))]
    pub freeze_db: Option<f32>,
    /// Maximum sample value of silence, dB relative to full scale.
    #[schemars(range(min = SignalConfig::DB.0, max = SignalConfig::DB.1))]
    pub silence_db: Option<f32>,
}

impl SignalFile {
    /// The defaults with these values over them.
    ///
    /// # Errors
    /// Names the value that is out of bounds.
    pub fn settings(self) -> Result<SignalConfig, String> {
        let base = SignalConfig::default();
        let hold = |key: &str, seconds: Option<f32>, base: Duration| match seconds {
            Some(seconds) => Duration::try_from_secs_f32(seconds).map_err(|e| format!("{key} {seconds}: {e}")),
            None => Ok(base),
        };
        let config = SignalConfig {
            off: self.off.into_iter().flatten().collect(),
            bars: hold("bars_s", self.bars_s, base.bars)?,
            black: hold("black_s", self.black_s, base.black)?,
            freeze: hold("freeze_s", self.freeze_s, base.freeze)?,
            silence: hold("silence_s", self.silence_s, base.silence)?,
            black_luma: self.black_luma.unwrap_or(base.black_luma),
            black_share: self.black_share.unwrap_or(base.black_share),
            freeze_db: self.freeze_db.unwrap_or(base.freeze_db),
            silence_db: self.silence_db.unwrap_or(base.silence_db),
        };
        config.validate()?;
        Ok(config)
    }
}

impl From<SignalConfig> for SignalFile {
    fn from(config: SignalConfig) -> Self {
        let SignalConfig { off, bars, black, freeze, silence, black_luma, black_share, freeze_db, silence_db } = config;
        Self {
            off: Some(off.iter().collect()),
            bars_s: Some(bars.as_secs_f32()),
            black_s: Some(black.as_secs_f32()),
            freeze_s: Some(freeze.as_secs_f32()),
            silence_s: Some(silence.as_secs_f32()),
            black_luma: Some(black_luma),
            black_share: Some(black_share),
            freeze_db: Some(freeze_db),
            silence_db: Some(silence_db),
        }
    }
}
