//! The layers of MobileNetV2 1.0.
//!
//! Source: Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, CVPR 2018. Tensors have
//! torchvision's names: `features.0.0.weight`, `features.1.conv.0.0.weight`, …, `features.18.1.running_var`, `classifier.1.weight`.

use super::inverted_residual::{InvertedResidualPlan, Stage, blocks};

/// Table 2 of the paper, between the first and the last convolution.
#[rustfmt::skip]
const STAGES: [Stage; 7] = [
    Stage { kernel: 3, expansion: 1, outputs:  16, repeats: 1, stride: 1 },
    Stage { kernel: 3, expansion: 6, outputs:  24, repeats: 2, stride: 2 },
    Stage { kernel: 3, expansion: 6, outputs:  32, repeats: 3, stride: 2 },
    Stage { kernel: 3, expansion: 6, outputs:  64, repeats: 4, stride: 2 },
    Stage { kernel: 3, expansion: 6, outputs:  96, repeats: 3, stride: 1 },
    Stage { kernel: 3, expansion: 6, outputs: 160, repeats: 3, stride: 2 },
    Stage { kernel: 3, expansion: 6, outputs: 320, repeats: 1, stride: 1 },
];

/// The layers, with torchvision's names.
pub(super) fn plan() -> InvertedResidualPlan {
    let blocks = blocks(STAGES, |block, has_expansion| {
        let name = format!("features.{}", block + 1);
        // Layers are numbered without gaps: without the expansion, the others move up by one.
        let inner = |layer: usize| (format!("{name}.conv.{layer}.0"), format!("{name}.conv.{layer}.1"));
        let filter = usize::from(has_expansion);
        let project = (format!("{name}.conv.{}", filter + 1), format!("{name}.conv.{}", filter + 2));
        let expand = has_expansion.then(|| inner(0));
        let filter = inner(filter);
        (name, expand, filter, project)
    });
    let last = format!("features.{}", blocks.len() + 1);
    InvertedResidualPlan {
        stem: ("features.0.0".into(), "features.0.1".into()),
        blocks,
        last: (format!("{last}.0"), format!("{last}.1")),
        classifier: "classifier.1",
    }
}
