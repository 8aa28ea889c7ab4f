//! The layers of EfficientNet-Lite0 and -Lite2.
//!
//! Sources: Tan and Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, ICML 2019, and TensorFlow's
//! `efficientnet/lite/efficientnet_lite_builder.py` (no squeeze and excitation, ReLU6, stem and head of fixed width). Tensors have the
//! names of the Python package `efficientnet_lite_pytorch`: `_conv_stem.weight`, `_blocks.0._depthwise_conv.weight`, …, `_fc.weight`.

use super::inverted_residual::{InvertedResidualPlan, Stage, blocks};

/// The stages of Lite0. Stems, heads and the repeats of the first and the last stage do not scale.
#[rustfmt::skip]
const STAGES: [Stage; 7] = [
    Stage { kernel: 3, expansion: 1, outputs:  16, repeats: 1, stride: 1 },
    Stage { kernel: 3, expansion: 6, outputs:  24, repeats: 2, stride: 2 },
    Stage { kernel: 5, expansion: 6, outputs:  40, repeats: 2, stride: 2 },
    Stage { kernel: 3, expansion: 6, outputs:  80, repeats: 3, stride: 2 },
    Stage { kernel: 5, expansion: 6, outputs: 112, repeats: 3, stride: 1 },
    Stage { kernel: 5, expansion: 6, outputs: 192, repeats: 4, stride: 2 },
    Stage { kernel: 3, expansion: 6, outputs: 320, repeats: 1, stride: 1 },
];

/// Multiples of Lite0's channels and repeats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    width: f64,
    depth: f64,
}

/// EfficientNet-Lite0.
pub(super) const LITE0: Scale = Scale { width: 1.0, depth: 1.0 };

/// EfficientNet-Lite2.
pub(super) const LITE2: Scale = Scale { width: 1.1, depth: 1.2 };

/// Channels are multiples of this.
const CHANNEL_STEP: usize = 8;

impl Scale {
    /// Scaled channels: the nearest multiple of [`CHANNEL_STEP`], but not less than nine tenths.
    fn channels(self, channels: usize) -> usize {
        let scaled = channels as f64 * self.width;
        let step = CHANNEL_STEP as f64;
        let rounded = ((scaled + step / 2.0) / step).floor().max(1.0) * step;
        let rounded = if rounded < 0.9 * scaled { rounded + step } else { rounded };
        rounded as usize
    }

    fn repeats(self, repeats: usize) -> usize {
        (repeats as f64 * self.depth).ceil() as usize
    }
}

/// The layers, with the names of `efficientnet_lite_pytorch`.
pub(super) fn plan(scale: Scale) -> InvertedResidualPlan {
    let last_stage = STAGES.len() - 1;
    let stages = STAGES.into_iter().enumerate().map(|(i, stage)| Stage {
        outputs: scale.channels(stage.outputs),
        repeats: if i == 0 || i == last_stage { stage.repeats } else { scale.repeats(stage.repeats) },
        ..stage
    });
    let blocks = blocks(stages, |block, has_expansion| {
        let name = format!("_blocks.{block}");
        let layer = |conv: &str, norm: &str| (format!("{name}.{conv}"), format!("{name}.{norm}"));
        let expand = has_expansion.then(|| layer("_expand_conv", "_bn0"));
        let (filter, project) = (layer("_depthwise_conv", "_bn1"), layer("_project_conv", "_bn2"));
        (name, expand, filter, project)
    });
    InvertedResidualPlan {
        stem: ("_conv_stem".into(), "_bn0".into()),
        blocks,
        last: ("_conv_head".into(), "_bn1".into()),
        classifier: "_fc",
    }
}
