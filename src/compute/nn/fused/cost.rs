//! The cost of each layer of a plan: products, and bytes that must at least be moved.

use super::graph::CacheLine;
use super::kernel::LANES;
use super::plan::{Plan, Step, StepKind};

/// The cost of a layer of a plan. See [`super::Fused::profile`].
#[derive(Clone, Debug)]
pub struct LayerCost {
    /// Kind, channels and size.
    pub name: String,
    /// Multiply-adds of the plain convolution; tiles need fewer.
    pub products: u64,
    /// Size of the weights, bytes.
    pub weight_bytes: u64,
    /// Size of the values read and written once, bytes.
    pub value_bytes: u64,
    /// Median time, nanoseconds.
    pub ns: u64,
}

impl Plan {
    /// The layers for `n` pictures, without times.
    pub fn costs(&self, n: usize) -> Vec<LayerCost> {
        let bytes = |value: usize| {
            let p = &self.values[value];
            (n * p.blocks * p.pixel * p.h * p.w * size_of::<f32>()) as u64
        };
        let cost = |step: &Step| {
            let (x, y) = (&self.values[step.x], &self.values[step.y]);
            let size = format!("{}x{}", y.h, y.w);
            let (name, products, weights) = match &step.work {
                StepKind::Winograd(tiled) => {
                    let layer = &tiled.layer;
                    let weights = layer.winograd.as_ref().map_or(0, Vec::len) * size_of::<CacheLine>();
                    let name = format!("3x3/1 {} to {} {size} in tiles", layer.inputs, layer.outputs);
                    (name, layer.inputs * layer.outputs * 9 * y.h * y.w, weights)
                }
                StepKind::Conv(conv) => {
                    let (layer, k) = (&conv.layer, conv.layer.window.kernel);
                    let name = format!("{k}x{k}/{} {} to {} {size}", layer.window.stride, layer.inputs, layer.outputs);
                    (
                        name,
                        layer.inputs * layer.outputs * k * k * y.h * y.w,
                        layer.weights.len() * size_of::<CacheLine>(),
                    )
                }
                StepKind::Depthwise { layer, .. } => {
                    let k = layer.window.kernel;
                    let name = format!("depthwise {k}x{k}/{} {} {size}", layer.window.stride, layer.channels);
                    (name, layer.channels * k * k * y.h * y.w, layer.weights.len() * size_of::<CacheLine>())
                }
                StepKind::MaxPool { .. } => (format!("max pool {size}"), 0, 0),
                StepKind::ScaleShift { .. } => (format!("scale and shift {size}"), 0, 0),
                StepKind::Gate(_) => (format!("gate {}", self.values[step.y].blocks * LANES), 0, 0),
                StepKind::Scale { .. } => (format!("scale {size}"), 0, 0),
                StepKind::ChannelNorm { .. } => (format!("channel norm {size}"), 0, 0),
                StepKind::Attention => (format!("attention {size}"), 0, 0),
                StepKind::Planes { .. } => (format!("input {size}"), 0, 0),
                StepKind::Average => (format!("average {}x{}", x.h, x.w), 0, 0),
                StepKind::WholePicture => (format!("output {size}"), 0, 0),
            };
            let value_bytes = bytes(step.x) + bytes(step.y) + step.residual.map_or(0, bytes);
            LayerCost { name, products: (n * products) as u64, weight_bytes: weights as u64, value_bytes, ns: 0 }
        };
        self.steps.iter().map(cost).collect()
    }
}
