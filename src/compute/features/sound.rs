//! Samples → input of the sound model.

use super::cpu::axis::Axis;
use super::cpu::mel::LogMel;
use super::params::AudioParams;
use touchline_core::clip::ClipSecond;

/// A second whose samples all stay below this peak (-100 dB of full scale) is digitally silent: the feed is muted or dead.
const SILENCE_PEAK: f32 = 1e-5;

/// Whether a second has sound that is digitally silent. It is not scored: a model can only answer with a sport. False for a
/// second without sound.
pub fn is_silent(second: &ClipSecond) -> bool {
    second.audio.as_ref().is_some_and(|samples| samples.iter().all(|s| s.abs() < SILENCE_PEAK))
}

/// Makes the sound model's input by [`AudioParams`]: a log-mel image (see [`LogMel`]), resized bilinearly
/// (anti-aliased where it shrinks) to width × height, normalised, on three equal channels.
///
/// Row 0, the top, is the lowest band; time runs from left to right.
#[derive(Debug)]
pub struct SoundExtractor {
    params: AudioParams,
    mel: LogMel,
    vertical: Axis,
    /// Table for the last number of columns.
    horizontal: Axis,
    image: Vec<f32>,
    line: Vec<f32>,
}

impl SoundExtractor {
    /// Makes the tables.
    ///
    /// # Errors
    /// One line saying which key is wrong and what is allowed ([`AudioParams::validate`]).
    pub fn new(params: &AudioParams) -> Result<Self, String> {
        params.validate()?;
        let mel = LogMel::new(&params.mel)?;
        let columns = mel.columns(params.mel.sample_rate as usize);
        Ok(Self {
            vertical: whole(params.mel.bands, params.height),
            horizontal: whole(columns, params.width),
            image: Vec::new(),
            line: Vec::new(),
            params: params.clone(),
            mel,
        })
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &AudioParams {
        &self.params
    }

    /// Values of one input: 3 × height × width.
    pub fn input_len(&self) -> usize {
        3 * self.params.width * self.params.height
    }

    /// Appends the input made from `samples` (mono, at `params.mel.sample_rate`; usually one second, but any number)
    /// as 3 × height × width.
    pub fn samples_into(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        let columns = self.mel.columns(samples.len());
        if self.horizontal.source() != columns {
            self.horizontal = whole(columns, self.params.width);
        }
        self.image.resize(self.params.mel.bands * columns, 0.0);
        self.mel.compute(samples, &mut self.image);

        self.line.resize(columns, 0.0);
        let start = out.len();
        let plane = self.params.width * self.params.height;
        out.resize(start + plane, 0.0);
        let (gain, mean) = (1.0 / self.params.std_db, self.params.mean_db);
        for (i, row) in out[start..].chunks_exact_mut(self.params.width).enumerate() {
            self.vertical.mix_rows(i, &self.image, &mut self.line);
            self.horizontal.mix_line(&self.line, row);
            row.iter_mut().for_each(|v| *v = (*v - mean) * gain);
        }
        out.extend_from_within(start..start + plane);
        out.extend_from_within(start..start + plane);
    }
}

/// The table that resizes a whole axis of an image.
pub(in crate::features) fn whole(source: usize, target: usize) -> Axis {
    Axis::triangle(source, target, 0.0, source as f64)
}
