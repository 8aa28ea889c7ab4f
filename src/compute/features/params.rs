//! The parameters of the features, as in a model pack. A model only works with the features it was trained on, so training
//! and serving use the same structs.

use serde::{Deserialize, Serialize};

/// How a picture of any aspect ratio is fitted to the model's input rectangle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Scale to fit inside, centre, and fill the rest with the normalisation mean (0 after normalising).
    Pad,
    /// Scale to cover, and crop the centre.
    Crop,
    /// Scale both axes independently.
    Stretch,
}

/// The filter that scales pictures. Both are widened by the factor when they shrink, so nothing aliases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Triangle, as Pillow's `BILINEAR`.
    #[default]
    Bilinear,
    /// Cubic with a = −0.5, as Pillow's `BICUBIC`.
    Bicubic,
}

impl Filter {
    /// Whether it is the filter of packs that do not name one.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Picture → normalised planar f32 input of the RGB model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureParams {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// How pictures are fitted to the input.
    pub fit: Fit,
    /// The filter that scales pictures.
    #[serde(default, skip_serializing_if = "Filter::is_default")]
    pub filter: Filter,
    /// Mean per channel (R, G, B), of values scaled to 0..1.
    pub mean: [f32; 3],
    /// Standard deviation per channel, of values scaled to 0..1.
    pub std: [f32; 3],
}

/// Farnebäck's parameters under OpenCV's names (`calcOpticalFlowFarneback`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FarnebackParams {
    /// Scale between pyramid levels, below 1.
    pub pyr_scale: f64,
    /// Smaller pictures in the pyramid besides the full one, at most: 0 = the picture itself only. OpenCV's `levels`
    /// counts in the same way, contrary to its documentation. No level is smaller than 32 pixels on either side.
    pub levels: usize,
    /// Averaging window, pixels.
    pub winsize: usize,
    /// Iterations per pyramid level.
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
    /// How pictures are fitted to the input.
    pub fit: Fit,
    /// Nominal distance of the two frames, milliseconds.
    pub gap_ms: u32,
    /// Flow is clipped to ±`clip_px` pixels per `gap_ms`, then divided by it: dx, dy in −1..1, magnitude in 0..1.
    pub clip_px: f32,
    /// Parameters of the optical flow.
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
    /// Sample rate, Hz.
    pub sample_rate: u32,
    /// FFT size and length of the periodic Hann window, samples.
    pub n_fft: usize,
    /// Samples between columns.
    pub hop: usize,
    /// Mel bands, the height of the image.
    pub bands: usize,
    /// Lower edge of the lowest band, Hz.
    pub f_min: f32,
    /// Upper edge of the highest band, Hz; at most half the sample rate.
    pub f_max: f32,
    /// The mel scale.
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
    /// Parameters of the log-mel image.
    pub mel: MelParams,
    /// Pixels; the time axis.
    pub width: usize,
    /// Pixels; the axis of bands.
    pub height: usize,
    /// Mean of the decibels, for normalisation.
    pub mean_db: f32,
    /// Standard deviation of the decibels, for normalisation.
    pub std_db: f32,
}

/// Largest side of a model input, pixels: more than any model needs, and small enough that no product overflows.
const MAX_SIDE: usize = 8192;

/// Side of a model input in the shipped packs, pixels; that of torchvision's ImageNet models.
const SIDE: usize = 224;

impl Default for PictureParams {
    /// The values that torchvision's ImageNet models were trained with. They score best with cropped pictures.
    fn default() -> Self {
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        Self { width: SIDE, height: SIDE, fit: Fit::Crop, filter: Filter::Bilinear, mean, std }
    }
}

impl Default for FlowParams {
    /// The values of the shipped packs.
    fn default() -> Self {
        let farneback = FarnebackParams::default();
        Self { width: SIDE, height: SIDE, fit: Fit::Crop, gap_ms: 40, clip_px: 10.0, farneback }
    }
}

impl Default for MelParams {
    /// The values of the shipped packs.
    fn default() -> Self {
        Self {
            sample_rate: 32_000,
            n_fft: 1024,
            hop: 320,
            bands: 128,
            f_min: 50.0,
            f_max: 14_000.0,
            scale: MelScale::Slaney,
            floor: 1e-10,
            top_db: Some(80.0),
        }
    }
}

impl Default for AudioParams {
    /// The values of the shipped packs.
    fn default() -> Self {
        Self { mel: MelParams::default(), width: SIDE, height: SIDE, mean_db: -40.0, std_db: 18.0 }
    }
}

impl PictureParams {
    /// Checks that all values are in range.
    ///
    /// # Errors
    /// One line saying which key is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        whole("width", self.width, 1, MAX_SIDE)?;
        whole("height", self.height, 1, MAX_SIDE)?;
        for mean in self.mean {
            real("mean", mean.into(), mean.is_finite(), "three finite numbers, of values scaled to 0..1")?;
        }
        for std in self.std {
            real("std", std.into(), std.is_finite() && std > 0.0, "three finite numbers above 0")?;
        }
        Ok(())
    }
}

impl FarnebackParams {
    /// Checks that all values are in range.
    ///
    /// # Errors
    /// One line saying which key is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        let (scale, sigma) = (self.pyr_scale, self.poly_sigma);
        real("farneback.pyr_scale", scale, (0.1..=0.95).contains(&scale), "0.1 to 0.95")?;
        whole("farneback.levels", self.levels, 0, 32)?;
        whole("farneback.winsize", self.winsize, 1, 255)?;
        whole("farneback.iterations", self.iterations, 1, 100)?;
        if !matches!(self.poly_n, 5 | 7) {
            return Err(format!("farneback.poly_n = {}: must be 5 or 7", self.poly_n));
        }
        real("farneback.poly_sigma", sigma, (0.1..=10.0).contains(&sigma), "0.1 to 10")
    }
}

impl FlowParams {
    /// Checks that all values are in range.
    ///
    /// # Errors
    /// One line saying which key is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        whole("width", self.width, 1, MAX_SIDE)?;
        whole("height", self.height, 1, MAX_SIDE)?;
        whole("gap_ms", self.gap_ms as usize, 1, 1000)?;
        let clip = self.clip_px;
        real("clip_px", clip.into(), (0.01..=1000.0).contains(&clip), "0.01 to 1000 pixels")?;
        self.farneback.validate()
    }
}

impl MelParams {
    /// Checks that all values are in range.
    ///
    /// # Errors
    /// One line saying which key is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        whole("mel.sample_rate", self.sample_rate as usize, 1000, 384_000)?;
        whole("mel.n_fft", self.n_fft, 16, 65_536)?;
        if self.n_fft % 2 == 1 {
            return Err(format!("mel.n_fft = {}: must be even", self.n_fft));
        }
        whole("mel.hop", self.hop, 1, self.sample_rate as usize)?;
        whole("mel.bands", self.bands, 1, 1024)?;
        let (low, high) = (self.f_min, self.f_max);
        let half = f64::from(self.sample_rate) / 2.0;
        real(
            "mel.f_max",
            high.into(),
            f64::from(high) > 0.0 && f64::from(high) <= half,
            &format!("above 0, to {half}"),
        )?;
        real("mel.f_min", low.into(), low >= 0.0 && low < high, "at least 0 and below mel.f_max")?;
        // Below the smallest normal number, f32 loses precision.
        let floor = self.floor;
        real("mel.floor", floor.into(), floor.is_normal() && floor > 0.0, "a finite number above 1.2e-38")?;
        let top = self.top_db.unwrap_or(1.0);
        real("mel.top_db", top.into(), top.is_finite() && top > 0.0, "a finite number above 0, or absent")
    }
}

impl AudioParams {
    /// Checks that all values are in range.
    ///
    /// # Errors
    /// One line saying which key is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        self.mel.validate()?;
        whole("width", self.width, 1, MAX_SIDE)?;
        whole("height", self.height, 1, MAX_SIDE)?;
        real("mean_db", self.mean_db.into(), self.mean_db.is_finite(), "a finite number")?;
        real("std_db", self.std_db.into(), self.std_db.is_finite() && self.std_db > 0.0, "a finite number above 0")
    }
}

fn whole(key: &str, value: usize, low: usize, high: usize) -> Result<(), String> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(format!("{key} = {value}: must be {low} to {high}")) }
}

fn real(key: &str, value: f64, holds: bool, allowed: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{key} = {value}: must be {allowed}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> PictureParams {
        PictureParams {
            width: 224,
            height: 224,
            fit: Fit::Pad,
            filter: Filter::Bilinear,
            mean: [0.5; 3],
            std: [0.2; 3],
        }
    }

    fn flow() -> FlowParams {
        let farneback = FarnebackParams::default();
        FlowParams { width: 224, height: 224, fit: Fit::Pad, gap_ms: 40, clip_px: 8.0, farneback }
    }

    fn audio() -> AudioParams {
        let mel = MelParams {
            sample_rate: 32_000,
            n_fft: 1024,
            hop: 320,
            bands: 128,
            f_min: 50.0,
            f_max: 16_000.0,
            scale: MelScale::Slaney,
            floor: 1e-10,
            top_db: Some(80.0),
        };
        AudioParams { mel, width: 224, height: 128, mean_db: -40.0, std_db: 20.0 }
    }

    #[test]
    fn valid_parameters_are_accepted() {
        assert_eq!(picture().validate(), Ok(()));
        assert_eq!(flow().validate(), Ok(()));
        assert_eq!(audio().validate(), Ok(()));
    }

    #[test]
    fn every_invalid_key_is_named() {
        let picture = |change: fn(&mut PictureParams)| {
            let mut p = picture();
            change(&mut p);
            p.validate().unwrap_err()
        };
        let flow = |change: fn(&mut FlowParams)| {
            let mut p = flow();
            change(&mut p);
            p.validate().unwrap_err()
        };
        let audio = |change: fn(&mut AudioParams)| {
            let mut p = audio();
            change(&mut p);
            p.validate().unwrap_err()
        };
        let table = [
            ("width = 0:", picture(|p| p.width = 0)),
            ("height = 9000:", picture(|p| p.height = 9000)),
            ("mean = NaN:", picture(|p| p.mean[1] = f32::NAN)),
            ("std = 0:", picture(|p| p.std[2] = 0.0)),
            ("width = 0:", flow(|p| p.width = 0)),
            ("height = 0:", flow(|p| p.height = 0)),
            ("gap_ms = 0:", flow(|p| p.gap_ms = 0)),
            ("clip_px = 0:", flow(|p| p.clip_px = 0.0)),
            ("farneback.pyr_scale = 1:", flow(|p| p.farneback.pyr_scale = 1.0)),
            ("farneback.levels = 40:", flow(|p| p.farneback.levels = 40)),
            ("farneback.winsize = 0:", flow(|p| p.farneback.winsize = 0)),
            ("farneback.iterations = 0:", flow(|p| p.farneback.iterations = 0)),
            ("farneback.poly_n = 6:", flow(|p| p.farneback.poly_n = 6)),
            ("farneback.poly_sigma = NaN:", flow(|p| p.farneback.poly_sigma = f64::NAN)),
            ("width = 0:", audio(|p| p.width = 0)),
            ("height = 0:", audio(|p| p.height = 0)),
            ("mean_db = inf:", audio(|p| p.mean_db = f32::INFINITY)),
            ("std_db = -1:", audio(|p| p.std_db = -1.0)),
            ("mel.sample_rate = 0:", audio(|p| p.mel.sample_rate = 0)),
            ("mel.n_fft = 8:", audio(|p| p.mel.n_fft = 8)),
            ("mel.n_fft = 1023:", audio(|p| p.mel.n_fft = 1023)),
            ("mel.hop = 0:", audio(|p| p.mel.hop = 0)),
            ("mel.bands = 0:", audio(|p| p.mel.bands = 0)),
            ("mel.f_max = 16001:", audio(|p| p.mel.f_max = 16_001.0)),
            ("mel.f_min = 16000:", audio(|p| p.mel.f_min = 16_000.0)),
            ("mel.floor = 0:", audio(|p| p.mel.floor = 0.0)),
            ("mel.top_db = 0:", audio(|p| p.mel.top_db = Some(0.0))),
        ];
        for (start, error) in table {
            assert!(error.starts_with(start) && error.contains("must be") && !error.contains('\n'), "{start} {error}");
        }
    }
}
