//! The layers of hybrid networks as ONNX's operators.

use candle_core::{Result, Tensor};

use super::FastVit;
use crate::models::encoder::{Gelu, onnx};
use crate::models::export::{Attribute, OnnxBuilder, OnnxValue};
use crate::nn::{Activation, Build, BuildHybrid};

impl FastVit {
    /// Adds the tower: pictures (batch, 3, height, width) → embeddings of length 1.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn onnx(&self, graph: &mut OnnxBuilder, x: OnnxValue) -> Result<OnnxValue> {
        let x = self.fuse(graph, x)?;
        let x = graph.average(x);
        let (weight, bias) = self.projection();
        let x = graph.linear(x, weight, Some(bias))?;
        Ok(onnx::unit(graph, x))
    }
}

/// A linear layer on one pixel, as a convolution.
fn pixel_layer(graph: &mut OnnxBuilder, x: OnnxValue, (weight, bias): (&Tensor, &Tensor)) -> Result<OnnxValue> {
    let outputs = bias.elem_count();
    let weight = graph.constant(&weight.reshape((outputs, weight.elem_count() / outputs, 1, 1))?)?;
    let bias = graph.constant(&bias.flatten_all()?)?;
    Ok(graph.node("Conv", &[x], &[weight, bias], Vec::new()))
}

/// The mean over the channels of each pixel.
fn channel_mean(graph: &mut OnnxBuilder, x: OnnxValue) -> OnnxValue {
    graph.node("ReduceMean", &[x], &[], vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 1)])
}

impl BuildHybrid for OnnxBuilder {
    fn depthwise_repeated(
        &mut self,
        x: OnnxValue,
        times: usize,
        layer: (&Tensor, &Tensor),
        window: (usize, usize),
    ) -> Result<OnnxValue> {
        let x = match times {
            1 => x,
            _ => self.node("Concat", &vec![x; times], &[], vec![Attribute::int("axis", 1)]),
        };
        self.depthwise(x, layer, window, Activation::Identity)
    }

    fn gelu(&mut self, x: OnnxValue) -> Result<OnnxValue> {
        Ok(onnx::gelu(self, x, Gelu::Exact))
    }

    fn squeeze_excite(
        &mut self,
        x: OnnxValue,
        squeeze: (&Tensor, &Tensor),
        excite: (&Tensor, &Tensor),
    ) -> Result<OnnxValue> {
        let mean = self.node("GlobalAveragePool", &[x], &[], Vec::new());
        let squeezed = pixel_layer(self, mean, squeeze)?;
        let squeezed = self.node("Relu", &[squeezed], &[], Vec::new());
        let factors = pixel_layer(self, squeezed, excite)?;
        let factors = self.node("Sigmoid", &[factors], &[], Vec::new());
        Ok(self.node("Mul", &[x, factors], &[], Vec::new()))
    }

    fn channel_norm(&mut self, x: OnnxValue, epsilon: f64) -> Result<OnnxValue> {
        let mean = channel_mean(self, x);
        let centred = self.node("Sub", &[x, mean], &[], Vec::new());
        let squares = self.node("Mul", &[centred, centred], &[], Vec::new());
        let variance = channel_mean(self, squares);
        let epsilon = self.number(epsilon as f32);
        let variance = self.node("Add", &[variance], &[epsilon], Vec::new());
        let deviation = self.node("Sqrt", &[variance], &[], Vec::new());
        Ok(self.node("Div", &[centred, deviation], &[], Vec::new()))
    }

    fn attention(&mut self, x: OnnxValue, (heads, width): (usize, usize)) -> Result<OnnxValue> {
        let channels_of = |graph: &mut Self, x: OnnxValue, from: usize, to: usize| {
            let slice = [graph.whole(&[from as i64]), graph.whole(&[to as i64]), graph.whole(&[1])];
            graph.node("Slice", &[x], &slice, Vec::new())
        };
        let turned = |graph: &mut Self, x: OnnxValue| {
            graph.node("Transpose", &[x], &[], vec![Attribute::ints("perm", &[0, 1, 3, 2])])
        };
        // To (batch, heads, width, pixels) each.
        let split = self.whole(&[0, 3 * heads as i64, width as i64, -1]);
        let all = self.node("Reshape", &[x], &[split], Vec::new());
        let [query, key, value] = [0, 1, 2].map(|n| channels_of(self, all, n * heads, (n + 1) * heads));
        let query = turned(self, query);
        let factor = self.number((width as f32).sqrt().recip());
        let query = self.node("Mul", &[query], &[factor], Vec::new());
        let scores = self.node("MatMul", &[query, key], &[], Vec::new());
        let shares = self.node("Softmax", &[scores], &[], vec![Attribute::int("axis", -1)]);
        let shares = turned(self, shares);
        let y = self.node("MatMul", &[value, shares], &[], Vec::new());
        // Back to the shape of a picture.
        let picture = channels_of(self, x, 0, heads * width);
        let shape = self.node("Shape", &[picture], &[], Vec::new());
        Ok(self.node("Reshape", &[y, shape], &[], Vec::new()))
    }
}
