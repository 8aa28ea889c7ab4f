//! What the models of a pack that is being made look at and listen to.

use serde::{Deserialize, Serialize};

use crate::features::params::{AudioParams, FarnebackParams, Fit, FlowParams, MelParams, MelScale, PictureParams};
use crate::labels::Modality;

/// Mean and standard deviation of ImageNet's pictures per channel, as torchvision's models expect.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The feature parameters of the three modalities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    pub rgb: PictureParams,
    pub flow: FlowParams,
    pub audio: AudioParams,
}

impl Inputs {
    /// The inputs of the packs that ship: squares of `side` pixels, and sound at `sample_rate` Hz in 128 mel bands.
    ///
    /// Cropping beats padding and squashing for an ImageNet backbone: on clips of unseen sources a linear classifier is
    /// right for 67 %, 61 % and 61 % of them.
    pub fn standard(side: usize, sample_rate: u32, flow_gap_ms: u32) -> Self {
        Self {
            rgb: PictureParams { width: side, height: side, fit: Fit::Crop, mean: IMAGENET_MEAN, std: IMAGENET_STD },
            flow: FlowParams {
                width: side,
                height: side,
                fit: Fit::Crop,
                gap_ms: flow_gap_ms,
                clip_px: 10.0,
                farneback: FarnebackParams::default(),
            },
            audio: AudioParams {
                mel: MelParams {
                    sample_rate,
                    n_fft: 1024,
                    hop: sample_rate as usize / 100,
                    bands: 128,
                    f_min: 50.0,
                    f_max: (sample_rate as f32 * 0.4375).min(14_000.0),
                    scale: MelScale::Slaney,
                    floor: 1e-10,
                    top_db: Some(80.0),
                },
                width: side,
                height: side,
                mean_db: -40.0,
                std_db: 18.0,
            },
        }
    }

    /// Width and height of a modality's model input.
    pub fn size(&self, modality: Modality) -> (usize, usize) {
        match modality {
            Modality::Rgb => (self.rgb.width, self.rgb.height),
            Modality::Flow => (self.flow.width, self.flow.height),
            Modality::Audio => (self.audio.width, self.audio.height),
        }
    }
}
