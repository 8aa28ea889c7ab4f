//! `[overlay]`: the label on the picture of live outputs.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::gst::output::{DEFAULT_BITRATE_KBPS, Encoder, LabelMode};
use touchline_media::overlay::{DEFAULT_TEMPLATE, OverlayOptions, Position, SAFE_AREA_MAX, SIZE_MAX};

/// `[overlay]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OverlayFile {
    /// How outputs have the label: drawn on the pictures, which are encoded again, or as metadata beside pictures that stay as they are
    /// (KLV in MPEG-TS, WebVTT in HLS).
    pub mode: Option<LabelMode>,
    /// The label on the picture of outputs: bug, label, bars, or the path of an SVG file.
    #[schemars(length(min = 1))]
    pub template: Option<String>,
    /// Position of the label on the picture; by default from the template.
    pub position: Option<Position>,
    /// Height of the label in percent of the picture's shorter side; by default from the template.
    #[schemars(range(min = 1, max = SIZE_MAX))]
    pub size: Option<u32>,
    /// Margin between the label and each edge of the picture in percent; by default from the template.
    #[schemars(range(min = 0, max = SAFE_AREA_MAX))]
    pub safe_area: Option<u32>,
    /// Font file in place of the system's sans-serif font.
    pub font: Option<PathBuf>,
    /// Video encoder.
    pub encoder: Option<Encoder>,
    /// Highest bit rate of the pictures, kbit/s.
    #[schemars(range(min = 100, max = 100_000))]
    pub bitrate_kbps: Option<u32>,
    /// Maximum time that a picture waits for the decision of its second, milliseconds.
    #[schemars(range(min = 0, max = 60_000))]
    pub delay_ms: Option<u32>,
}

/// The settings of live outputs, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlaySettings {
    /// How outputs have the label.
    pub mode: LabelMode,
    /// How the label looks.
    pub options: OverlayOptions,
    /// Video encoder.
    pub encoder: Encoder,
    /// Highest bit rate of the pictures, kbit/s.
    pub bitrate_kbps: u32,
    /// Maximum time that a picture waits for its decision, ns.
    pub delay_ns: u64,
}

/// A second ends a second after its first picture, and is decided within the second after that.
const DEFAULT_DELAY_MS: u32 = 4000;

impl Default for OverlaySettings {
    fn default() -> Self {
        OverlayFile::default().settings().expect("the defaults are within their bounds")
    }
}

impl OverlayFile {
    /// All values that do not depend on the template.
    pub(super) fn default_values() -> Self {
        Self {
            mode: Some(LabelMode::Draw),
            template: Some(DEFAULT_TEMPLATE.into()),
            encoder: Some(Encoder::X264),
            bitrate_kbps: Some(DEFAULT_BITRATE_KBPS),
            delay_ms: Some(DEFAULT_DELAY_MS),
            ..Self::default()
        }
    }

    /// The settings.
    ///
    /// # Errors
    /// Names the value that is out of bounds.
    pub fn settings(self) -> Result<OverlaySettings, String> {
        let within = |key: &str, value: Option<u32>, least: u32, most: u32| match value {
            Some(value) if !(least..=most).contains(&value) => {
                Err(format!("{key} {value} is not allowed; choose {least} to {most}"))
            }
            value => Ok(value),
        };
        let Self { mode, template, position, font, encoder, .. } = self;
        let size = within("size", self.size, 1, SIZE_MAX)?;
        let safe_area = within("safe_area", self.safe_area, 0, SAFE_AREA_MAX)?;
        let bitrate_kbps = within("bitrate_kbps", self.bitrate_kbps, 100, 100_000)?;
        let delay_ms = within("delay_ms", self.delay_ms, 0, 60_000)?.unwrap_or(DEFAULT_DELAY_MS);
        Ok(OverlaySettings {
            mode: mode.unwrap_or_default(),
            options: OverlayOptions { template, position, size, safe_area, font },
            encoder: encoder.unwrap_or_default(),
            bitrate_kbps: bitrate_kbps.unwrap_or(DEFAULT_BITRATE_KBPS),
            delay_ns: u64::from(delay_ms) * NANOS_PER_SECOND / 1000,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        let file = OverlayFile { size: Some(20), delay_ms: Some(1500), ..OverlayFile::default_values() };
        let settings = file.settings().unwrap();
        assert_eq!((settings.options.size, settings.delay_ns), (Some(20), 1_500_000_000));
        let refused = |file: OverlayFile| file.settings().unwrap_err();
        assert!(refused(OverlayFile { size: Some(0), ..OverlayFile::default() }).contains("choose 1 to 100"));
        let error = refused(OverlayFile { bitrate_kbps: Some(99), ..OverlayFile::default() });
        assert!(error.contains("bitrate_kbps 99") && error.contains("100 to 100000"), "{error}");
    }
}
