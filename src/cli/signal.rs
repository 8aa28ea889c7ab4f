//! Flags of the detectors of test bars, black, freeze and silence.

use clap::Args;
use serde::Serialize;
use touchline_core::signal::Signal;

use super::run::named;

const HEADING: &str = "No programme: test bars, black, freeze, silence";

#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = HEADING)]
pub(super) struct SignalArgs {
    /// Detectors that are off, separated by commas.
    #[arg(long = "signal-off", value_name = "LIST", value_delimiter = ',', value_parser = named::<Signal>(&Signal::NAMES))]
    off: Option<Vec<Signal>>,
    /// Colour bars count as no programme after this time, 0.2 to 3600 s [default: 1].
    #[arg(long = "signal-bars-s", value_name = "SECONDS")]
    bars_s: Option<f32>,
    /// A black picture counts as no programme after this time [default: 2].
    #[arg(long = "signal-black-s", value_name = "SECONDS")]
    black_s: Option<f32>,
    /// A frozen picture counts as no programme after this time [default: 10].
    #[arg(long = "signal-freeze-s", value_name = "SECONDS")]
    freeze_s: Option<f32>,
    /// Silent sound is excluded from decisions after this time [default: 10].
    #[arg(long = "signal-silence-s", value_name = "SECONDS")]
    silence_s: Option<f32>,
    /// Maximum luminance of a black pixel, from 0 (black) to 1 (white) [default: 0.1].
    #[arg(long = "signal-black-luma", value_name = "LUMA")]
    black_luma: Option<f32>,
    /// Minimum share of black pixels in a black picture [default: 0.98].
    #[arg(long = "signal-black-share", value_name = "SHARE")]
    black_share: Option<f32>,
    /// Maximum mean difference between frozen pictures, dB relative to full range, -120 to 0 [default: -60].
    #[arg(long = "signal-freeze-db", value_name = "DB", allow_negative_numbers = true)]
    freeze_db: Option<f32>,
    /// Maximum sample value of silence, dB relative to full scale, -120 to 0 [default: -60].
    #[arg(long = "signal-silence-db", value_name = "DB", allow_negative_numbers = true)]
    silence_db: Option<f32>,
}
