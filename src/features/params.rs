//! The parameters of every feature, as they stand in a model pack: a model is only right with the features it was
//! trained on, so training and serving read these same structs.

use serde::{Deserialize, Serialize};

/// How a picture of any aspect ratio becomes the model's input rectangle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Scale to fit inside, centre, fill the rest with the normalisation mean (0 after normalising).
    Pad,
    /// Scale to cover, cut the centre.
    Crop,
    /// Scale both axes on their own.
    Stretch,
}

/// Picture → normalised planar f32 input of the RGB model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureParams {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    pub fit: Fit,
    /// Per channel (R, G, B), of values scaled to 0..1.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Farnebäck's parameters under OpenCV's names (`calcOpticalFlowFarneback`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FarnebackParams {
    /// Scale between pyramid levels, below 1.
    pub pyr_scale: f64,
    /// Pyramid levels besides the full picture: OpenCV's `levels` counts likewise (1 = the picture itself only).
    pub levels: usize,
    /// Averaging window, pixels.
    pub winsize: usize,
    pub iterations: usize,
    /// Neighbourhood of the polynomial expansion: 5 or 7.
    pub poly_n: usize,
    /// Standard deviation of the Gaussian weights of the expansion.
    pub poly_sigma: f64,
    /// Gaussian instead of box window (`OPTFLOW_FARNEBACK_GAUSSIAN`).
    pub gaussian: bool,
}

impl Default for FarnebackParams {
    fn default() -> Self {
        Self { pyr_scale: 0.5, levels: 3, winsize: 15, iterations: 3, poly_n: 5, poly_sigma: 1.2, gaussian: false }
    }
}

/// Pair of frames → 3-channel (dx, dy, magnitude) input of the flow model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowParams {
    /// Pixels; flow is computed at this size.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    pub fit: Fit,
    /// Nominal distance of the two frames, milliseconds.
    pub gap_ms: u32,
    /// Flow is clipped to ±`clip_px` pixels per `gap_ms`, then divided by it: dx, dy in −1..1, magnitude in 0..1.
    pub clip_px: f32,
    pub farneback: FarnebackParams,
}

/// Which scale maps Hz to mel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MelScale {
    /// Slaney's Auditory Toolbox (librosa's default): linear below 1 kHz, logarithmic above.
    Slaney,
    /// HTK: 2595 log10(1 + f/700).
    Htk,
}

/// One second of mono sound → log-mel image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MelParams {
    /// Hz.
    pub sample_rate: u32,
    /// FFT size and length of the periodic Hann window, samples.
    pub n_fft: usize,
    /// Samples between columns.
    pub hop: usize,
    pub bands: usize,
    /// Hz.
    pub f_min: f32,
    /// Hz, at most half the sample rate.
    pub f_max: f32,
    pub scale: MelScale,
    /// Power below this is raised to it before the logarithm (librosa's `amin`).
    pub floor: f32,
    /// Decibels are clipped to at most this far below the second's maximum (librosa's `top_db`); `None` = no clip.
    pub top_db: Option<f32>,
}

/// Log-mel image → input of the sound model: decibels are normalised by `(dB - mean_db) / std_db`, the image is
/// resized to `width` × `height` (time × bands) and repeated on 3 channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioParams {
    pub mel: MelParams,
    pub width: usize,
    pub height: usize,
    pub mean_db: f32,
    pub std_db: f32,
}
