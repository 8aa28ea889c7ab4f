//! Features: the models' inputs, computed from a second of frames and sound. Training and serving use the same code.
//!
//! | extractor | input | output |
//! |---|---|---|
//! | [`PictureExtractor`] | the frames chosen for the RGB model | N × 3 × height × width, normalised |
//! | [`FlowExtractor`] | the pairs chosen for the flow model | N × 3 × height × width: dx, dy, magnitude |
//! | [`SoundExtractor`] | mono samples | 1 × 3 × height × width: log-mel, three times the same |
//!
//! [`FeatureExtractor`] combines the three extractors of a pack. An extractor owns its tables and scratch memory: after the
//! first second of a stream it allocates only for the caller's output vector. Pictures and pairs are processed in
//! parallel on rayon's current pool; results are the same bit for bit for any number of threads.
//!
//! [`without_bars`] comes before: it cuts off the black bars of pictures.
//!
//! The CPU code in [`cpu`] is the reference; [`cuda`] mirrors it for GPUs.

mod bars;
pub mod cpu;
pub mod cuda;
mod flow;
pub mod params;
mod picture;
mod reuse;
pub mod signal;
mod sound;

use params::{AudioParams, FlowParams, PictureParams};
use touchline_core::clip::ClipSecond;

pub use bars::without_bars;
pub use flow::FlowExtractor;
pub use picture::PictureExtractor;
pub use sound::{SoundExtractor, is_silent};

/// The extractors of a pack.
#[derive(Debug)]
pub struct FeatureExtractor {
    /// `None` if the pack has no RGB model.
    pub picture: Option<PictureExtractor>,
    /// `None` if the pack has no flow model.
    pub flow: Option<FlowExtractor>,
    /// `None` if the pack has no audio model.
    pub sound: Option<SoundExtractor>,
}

impl FeatureExtractor {
    /// Makes the extractors. An extractor without parameters is `None` and computes nothing.
    ///
    /// # Errors
    /// One line that names the wrong key, as `picture.width`, `flow.farneback.levels` or `audio.mel.hop`, and what is
    /// allowed.
    pub fn new(
        picture: Option<&PictureParams>,
        flow: Option<&FlowParams>,
        audio: Option<&AudioParams>,
    ) -> Result<Self, String> {
        let named = |section: &'static str| move |error: String| format!("{section}.{error}");
        Ok(Self {
            picture: picture.map(PictureExtractor::new).transpose().map_err(named("picture"))?,
            flow: flow.map(FlowExtractor::new).transpose().map_err(named("flow"))?,
            sound: audio.map(SoundExtractor::new).transpose().map_err(named("audio"))?,
        })
    }

    /// Appends the RGB model's inputs for `second` to `out` and returns their number; see [`PictureExtractor::second_into`].
    pub fn pictures_into(&mut self, second: &ClipSecond, out: &mut Vec<f32>) -> usize {
        self.picture.as_mut().map_or(0, |extractor| extractor.second_into(second, out))
    }

    /// Appends the flow model's inputs for `second` to `out` and returns their number; see [`FlowExtractor::second_into`].
    pub fn flows_into(&mut self, second: &ClipSecond, out: &mut Vec<f32>) -> usize {
        self.flow.as_mut().map_or(0, |extractor| extractor.second_into(second, out))
    }

    /// Appends the sound model's input for `second` to `out` and returns their number: 1, or 0 when the second has
    /// no sound; see [`SoundExtractor::samples_into`].
    pub fn sound_into(&mut self, second: &ClipSecond, out: &mut Vec<f32>) -> usize {
        match (&mut self.sound, &second.audio) {
            (Some(extractor), Some(samples)) => {
                extractor.samples_into(samples, out);
                1
            }
            _ => 0,
        }
    }
}

/// The RGB model's inputs for one second: N × 3 × height × width. For more than one second keep a
/// [`PictureExtractor`].
///
/// # Errors
/// One line if `params` is wrong ([`PictureParams::validate`]).
pub fn pictures(second: &ClipSecond, params: &PictureParams) -> Result<Vec<f32>, String> {
    let mut out = Vec::new();
    PictureExtractor::new(params)?.second_into(second, &mut out);
    Ok(out)
}

/// The flow model's inputs for one second: N × 3 × height × width. For more than one second keep a [`FlowExtractor`].
///
/// # Errors
/// One line if `params` is wrong ([`FlowParams::validate`]).
pub fn flows(second: &ClipSecond, params: &FlowParams) -> Result<Vec<f32>, String> {
    let mut out = Vec::new();
    FlowExtractor::new(params)?.second_into(second, &mut out);
    Ok(out)
}

/// The sound model's input: 1 × 3 × height × width. For more than one second keep a [`SoundExtractor`].
///
/// # Errors
/// One line if `params` is wrong ([`AudioParams::validate`]).
pub fn sound(samples: &[f32], params: &AudioParams) -> Result<Vec<f32>, String> {
    let mut out = Vec::new();
    SoundExtractor::new(params)?.samples_into(samples, &mut out);
    Ok(out)
}

#[cfg(test)]
mod tests;
