//! An encoder as ONNX's operators.

use candle_core::{Result, Tensor};
use candle_nn::{LayerNorm, Linear};

use super::blocks::{Attention, Mlp};
use super::{Encoder, Gelu, Pool};
use crate::models::export::{Attribute, OnnxBuilder, OnnxValue};

impl Encoder {
    /// Adds the encoder: pictures (batch, 3, side, side) → features (batch, [`Encoder::feature_width`]).
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub(in crate::models) fn onnx(&self, onnx: &mut OnnxBuilder, x: OnnxValue) -> Result<OnnxValue> {
        let (weight, bias) = &self.patches;
        let mut constants = vec![onnx.constant(weight)?];
        if let Some(bias) = bias {
            constants.push(onnx.constant(&bias.flatten_all()?)?);
        }
        let patch = Attribute::ints("strides", &[self.patch as i64; 2]);
        let x = onnx.node("Conv", &[x], &constants, vec![patch]);
        let width = weight.dims()[0] as i64;
        let rows = onnx.whole(&[0, width, -1]);
        let x = onnx.node("Reshape", &[x], &[rows], Vec::new());
        let mut x = onnx.node("Transpose", &[x], &[], vec![Attribute::ints("perm", &[0, 2, 1])]);
        let mut positions = self.positions.clone();
        if let Some(class) = &self.class {
            // A token of zeros, to which the class token is added with its position: so its value needs no batch.
            let front = onnx.whole(&[0, 1, 0, 0, 0, 0]);
            x = onnx.node("Pad", &[x], &[front], Vec::new());
            let patches = positions.narrow(1, 1, positions.dim(1)? - 1)?;
            positions = Tensor::cat(&[&(positions.narrow(1, 0, 1)? + class)?, &patches], 1)?;
        }
        let positions = onnx.constant(&positions)?;
        x = onnx.node("Add", &[x], &[positions], Vec::new());
        if let Some(before) = &self.before {
            x = norm(onnx, x, before)?;
        }
        for block in &self.blocks.blocks {
            let [first, second] = &block.norms;
            let inner = norm(onnx, x, first)?;
            let branch = attention(onnx, inner, &block.attention)?;
            x = added(onnx, x, branch, block.scales.as_ref().map(|scales| &scales[0]))?;
            let inner = norm(onnx, x, second)?;
            let branch = mlp(onnx, inner, &block.mlp)?;
            x = added(onnx, x, branch, block.scales.as_ref().map(|scales| &scales[1]))?;
        }
        let x = norm(onnx, x, &self.after)?;
        match &self.pool {
            Pool::Class => Ok(first_token(onnx, x)),
            Pool::Projected(projection) => {
                let class = first_token(onnx, x);
                let embedding = onnx.linear(class, projection, None)?;
                Ok(unit(onnx, embedding))
            }
            Pool::ClassAndMean => {
                let class = first_token(onnx, x);
                let slice = [onnx.whole(&[1]), onnx.whole(&[i64::MAX]), onnx.whole(&[1])];
                let patches = onnx.node("Slice", &[x], &slice, Vec::new());
                let over = vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 0)];
                let mean = onnx.node("ReduceMean", &[patches], &[], over);
                Ok(onnx.node("Concat", &[class, mean], &[], vec![Attribute::int("axis", 1)]))
            }
            Pool::Attention(pool) => {
                let query = candle_core::Module::forward(&pool.attention.query, &pool.probe)?;
                let x = attended(onnx, &pool.attention, Query::Fixed(&query), x)?;
                let inner = norm(onnx, x, &pool.norm)?;
                let branch = mlp(onnx, inner, &pool.mlp)?;
                let x = added(onnx, x, branch, None)?;
                let token = first_token(onnx, x);
                Ok(unit(onnx, token))
            }
        }
    }
}

fn norm(onnx: &mut OnnxBuilder, x: OnnxValue, layer: &LayerNorm) -> Result<OnnxValue> {
    let mut constants = vec![onnx.constant(layer.weight())?];
    if let Some(bias) = layer.bias() {
        constants.push(onnx.constant(bias)?);
    }
    let attributes = vec![Attribute::int("axis", -1), Attribute::float("epsilon", layer.eps() as f32)];
    Ok(onnx.node("LayerNormalization", &[x], &constants, attributes))
}

fn linear(onnx: &mut OnnxBuilder, x: OnnxValue, layer: &Linear) -> Result<OnnxValue> {
    onnx.linear(x, layer.weight(), layer.bias())
}

/// The shortcut and a branch beside it, scaled by `scale` (width) if there is one.
fn added(onnx: &mut OnnxBuilder, x: OnnxValue, branch: OnnxValue, scale: Option<&Tensor>) -> Result<OnnxValue> {
    let branch = match scale {
        Some(scale) => {
            let scale = onnx.constant(scale)?;
            onnx.node("Mul", &[branch], &[scale], Vec::new())
        }
        None => branch,
    };
    Ok(onnx.node("Add", &[x, branch], &[], Vec::new()))
}

/// What asks in an attention.
enum Query<'a> {
    /// The tokens themselves.
    Tokens,
    /// The query (1, 1, width) of one token that is the same for all pictures.
    Fixed(&'a Tensor),
}

fn attention(onnx: &mut OnnxBuilder, x: OnnxValue, layer: &Attention) -> Result<OnnxValue> {
    attended(onnx, layer, Query::Tokens, x)
}

fn attended(onnx: &mut OnnxBuilder, layer: &Attention, query: Query<'_>, x: OnnxValue) -> Result<OnnxValue> {
    let width = layer.query.weight().dims()[0];
    let (heads, head) = (layer.heads, width / layer.heads);
    // To (batch, heads, tokens, head), or with the last two axes exchanged.
    let split = |onnx: &mut OnnxBuilder, x: OnnxValue, perm: [i64; 4]| {
        let shape = onnx.whole(&[0, 0, heads as i64, head as i64]);
        let x = onnx.node("Reshape", &[x], &[shape], Vec::new());
        onnx.node("Transpose", &[x], &[], vec![Attribute::ints("perm", &perm)])
    };
    let keys = linear(onnx, x, &layer.key)?;
    let keys = split(onnx, keys, [0, 2, 3, 1]);
    let factor = onnx.number(layer.scale(width) as f32);
    let keys = onnx.node("Mul", &[keys], &[factor], Vec::new());
    let scores = match query {
        Query::Tokens => {
            let queries = linear(onnx, x, &layer.query)?;
            let queries = split(onnx, queries, [0, 2, 1, 3]);
            onnx.node("MatMul", &[queries, keys], &[], Vec::new())
        }
        Query::Fixed(query) => {
            let query = onnx.constant(&query.reshape((1, heads, 1, head))?)?;
            onnx.of_constant("MatMul", query, keys)
        }
    };
    let shares = onnx.node("Softmax", &[scores], &[], vec![Attribute::int("axis", -1)]);
    let values = linear(onnx, x, &layer.value)?;
    let values = split(onnx, values, [0, 2, 1, 3]);
    let mixed = onnx.node("MatMul", &[shares, values], &[], Vec::new());
    let mixed = onnx.node("Transpose", &[mixed], &[], vec![Attribute::ints("perm", &[0, 2, 1, 3])]);
    let shape = onnx.whole(&[0, 0, width as i64]);
    let mixed = onnx.node("Reshape", &[mixed], &[shape], Vec::new());
    linear(onnx, mixed, &layer.out)
}

fn mlp(onnx: &mut OnnxBuilder, x: OnnxValue, layer: &Mlp) -> Result<OnnxValue> {
    let inner = linear(onnx, x, &layer.layers[0])?;
    let inner = gelu(onnx, inner, layer.gelu);
    linear(onnx, inner, &layer.layers[1])
}

/// An activation.
pub(in crate::models) fn gelu(onnx: &mut OnnxBuilder, x: OnnxValue, gelu: Gelu) -> OnnxValue {
    let by = |onnx: &mut OnnxBuilder, op: &str, x: OnnxValue, value: f64| {
        let value = onnx.number(value as f32);
        onnx.node(op, &[x], &[value], Vec::new())
    };
    let share = match gelu {
        Gelu::Quick => {
            let inner = by(onnx, "Mul", x, 1.702);
            return {
                let gate = onnx.node("Sigmoid", &[inner], &[], Vec::new());
                onnx.node("Mul", &[x, gate], &[], Vec::new())
            };
        }
        Gelu::Exact => {
            let inner = by(onnx, "Mul", x, std::f64::consts::FRAC_1_SQRT_2);
            onnx.node("Erf", &[inner], &[], Vec::new())
        }
        Gelu::Tanh => {
            let square = onnx.node("Mul", &[x, x], &[], Vec::new());
            let square = by(onnx, "Mul", square, 0.044_715);
            let factor = by(onnx, "Add", square, 1.0);
            let inner = onnx.node("Mul", &[x, factor], &[], Vec::new());
            let inner = by(onnx, "Mul", inner, (2.0 / std::f64::consts::PI).sqrt());
            onnx.node("Tanh", &[inner], &[], Vec::new())
        }
    };
    let share = by(onnx, "Add", share, 1.0);
    let share = by(onnx, "Mul", share, 0.5);
    onnx.node("Mul", &[x, share], &[], Vec::new())
}

/// (batch, tokens, width) → (batch, width).
fn first_token(onnx: &mut OnnxBuilder, x: OnnxValue) -> OnnxValue {
    let (index, shape) = (onnx.whole(&[0]), onnx.whole(&[0, -1]));
    let token = onnx.node("Gather", &[x], &[index], vec![Attribute::int("axis", 1)]);
    onnx.node("Reshape", &[token], &[shape], Vec::new())
}

/// Rows scaled to length 1.
pub(in crate::models) fn unit(onnx: &mut OnnxBuilder, x: OnnxValue) -> OnnxValue {
    onnx.node("LpNormalization", &[x], &[], vec![Attribute::int("axis", -1), Attribute::int("p", 2)])
}
