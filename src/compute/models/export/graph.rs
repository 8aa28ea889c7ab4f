//! Layers to ONNX operators.

use candle_core::{DType, Result, Tensor, bail};

use super::proto::{Attribute, Batch, Constant, FLOAT, INT64, Node, OnnxGraph};
use crate::nn::{Activation, Build};

/// Name of the input.
pub(super) const INPUT: &str = "input";
/// Name of the output before the softmax.
pub(super) const LOGITS: &str = "logits";
/// Name of the output after temperature and softmax.
pub(super) const SCORES: &str = "scores";

/// Number of a value of an [`OnnxBuilder`]; 0 is the input.
#[derive(Clone, Copy, Debug)]
pub(in crate::models) struct OnnxValue(usize);

/// Receives the layers of a network and lists ONNX's operators for them.
#[derive(Debug, Default)]
pub(in crate::models) struct OnnxBuilder {
    nodes: Vec<Node>,
    constants: Vec<Constant>,
    values: usize,
}

fn name(OnnxValue(value): OnnxValue) -> String {
    if value == 0 { INPUT.into() } else { format!("value{value}") }
}

impl OnnxBuilder {
    /// The network's input.
    pub fn input(&self) -> OnnxValue {
        OnnxValue(0)
    }

    /// A constant of `f32`; returns its name.
    ///
    /// # Errors
    /// When the tensor cannot be read.
    pub fn constant(&mut self, tensor: &Tensor) -> Result<String> {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let dims: Vec<i64> = tensor.dims().iter().map(|n| *n as i64).collect();
        Ok(self.put(FLOAT, dims, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
    }

    /// A number; returns its name.
    pub fn number(&mut self, value: f32) -> String {
        self.put(FLOAT, Vec::new(), value.to_le_bytes().to_vec())
    }

    /// A list of whole numbers, as shapes and indices are; returns its name.
    pub fn whole(&mut self, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.put(INT64, vec![values.len() as i64], bytes)
    }

    fn put(&mut self, data_type: i64, dims: Vec<i64>, data: Vec<u8>) -> String {
        let name = format!("constant{}", self.constants.len());
        self.constants.push(Constant { name: name.clone(), data_type, dims, data });
        name
    }

    /// An operator on values and, after them, constants.
    pub fn node(
        &mut self,
        operator: &str,
        values: &[OnnxValue],
        constants: &[String],
        attributes: Vec<Attribute>,
    ) -> OnnxValue {
        self.values += 1;
        let output = OnnxValue(self.values);
        let inputs = values.iter().map(|value| name(*value)).chain(constants.iter().cloned()).collect();
        self.nodes.push(Node { inputs, output: name(output), operator: operator.into(), attributes });
        output
    }

    /// As [`OnnxBuilder::node`], with a constant before the value.
    pub fn of_constant(&mut self, operator: &str, constant: String, value: OnnxValue) -> OnnxValue {
        let output = self.node(operator, &[value], &[], Vec::new());
        if let Some(node) = self.nodes.last_mut() {
            node.inputs.insert(0, constant);
        }
        output
    }

    fn activated(&mut self, x: OnnxValue, activation: Activation) -> OnnxValue {
        match activation {
            Activation::Identity => x,
            Activation::Relu => self.node("Relu", &[x], &[], Vec::new()),
            Activation::Relu6 => {
                let bounds = [self.number(0.0), self.number(6.0)];
                self.node("Clip", &[x], &bounds, Vec::new())
            }
        }
    }

    fn windowed(
        &mut self,
        x: OnnxValue,
        (weight, bias): (&Tensor, &Tensor),
        (stride, padding): (usize, usize),
        groups: usize,
    ) -> Result<OnnxValue> {
        let weight = match *weight.dims() {
            [outputs, inputs] => weight.reshape((outputs, inputs, 1, 1))?,
            [_, _, _, _] => weight.clone(),
            _ => bail!("a convolution with weights of shape {:?} cannot be exported", weight.dims()),
        };
        let attributes = window(weight.dims()[3], stride, padding);
        let constants = [self.constant(&weight)?, self.constant(bias)?];
        let attributes = attributes.into_iter().chain([Attribute::int("group", groups as i64)]).collect();
        Ok(self.node("Conv", &[x], &constants, attributes))
    }

    /// The mean over all pixels, (N, C, H, W) → (N, C).
    pub fn average(&mut self, x: OnnxValue) -> OnnxValue {
        let x = self.node("GlobalAveragePool", &[x], &[], Vec::new());
        self.node("Flatten", &[x], &[], vec![Attribute::int("axis", 1)])
    }

    /// A linear layer with `weight` (outputs, inputs) over the last axis.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn linear(&mut self, x: OnnxValue, weight: &Tensor, bias: Option<&Tensor>) -> Result<OnnxValue> {
        let weight = self.constant(&weight.t()?.contiguous()?)?;
        let x = self.node("MatMul", &[x], &[weight], Vec::new());
        let Some(bias) = bias else { return Ok(x) };
        let bias = self.constant(bias)?;
        Ok(self.node("Add", &[x], &[bias], Vec::new()))
    }

    /// The graph with both outputs: the classifier's logits, and their softmax after the temperature.
    pub fn finish(
        mut self,
        logits: OnnxValue,
        picture: [usize; 3],
        classes: usize,
        temperature: f32,
        network: &str,
    ) -> OnnxGraph {
        let temperature = self.number(temperature);
        let named = |operator: &str, inputs: Vec<String>, output: &str, attributes| Node {
            inputs,
            output: output.into(),
            operator: operator.into(),
            attributes,
        };
        self.nodes.push(named("Identity", vec![name(logits)], LOGITS, Vec::new()));
        self.nodes.push(named("Div", vec![LOGITS.into(), temperature], "calibrated", Vec::new()));
        self.nodes.push(named("Softmax", vec!["calibrated".into()], SCORES, vec![Attribute::int("axis", -1)]));
        OnnxGraph {
            name: network.into(),
            nodes: self.nodes,
            constants: self.constants,
            input: Batch { name: INPUT.into(), dims: picture.into() },
            outputs: [LOGITS, SCORES].map(|name| Batch { name: name.into(), dims: vec![classes] }).into(),
        }
    }
}

fn window(kernel: usize, stride: usize, padding: usize) -> Vec<Attribute> {
    let twice = |n: usize| [n as i64; 2];
    vec![
        Attribute::ints("kernel_shape", &twice(kernel)),
        Attribute::ints("strides", &twice(stride)),
        Attribute::ints("pads", &[padding as i64; 4]),
    ]
}

impl Build for OnnxBuilder {
    type Value = OnnxValue;

    fn conv(
        &mut self,
        x: OnnxValue,
        layer: (&Tensor, &Tensor),
        window: (usize, usize),
        residual: Option<OnnxValue>,
        activation: Activation,
    ) -> Result<OnnxValue> {
        let mut y = self.windowed(x, layer, window, 1)?;
        if let Some(residual) = residual {
            y = self.node("Add", &[y, residual], &[], Vec::new());
        }
        Ok(self.activated(y, activation))
    }

    fn depthwise(
        &mut self,
        x: OnnxValue,
        layer: (&Tensor, &Tensor),
        window: (usize, usize),
        activation: Activation,
    ) -> Result<OnnxValue> {
        let y = self.windowed(x, layer, window, layer.1.elem_count())?;
        Ok(self.activated(y, activation))
    }

    fn max_pool(&mut self, x: OnnxValue, kernel: usize, stride: usize, padding: usize) -> Result<OnnxValue> {
        Ok(self.node("MaxPool", &[x], &[], window(kernel, stride, padding)))
    }

    fn scale_shift(
        &mut self,
        x: OnnxValue,
        (scale, shift): (&Tensor, &Tensor),
        activation: Activation,
    ) -> Result<OnnxValue> {
        let channels = (1, scale.elem_count(), 1, 1);
        let scale = self.constant(&scale.reshape(channels)?)?;
        let shift = self.constant(&shift.reshape(channels)?)?;
        let scaled = self.node("Mul", &[x], &[scale], Vec::new());
        let y = self.node("Add", &[scaled], &[shift], Vec::new());
        Ok(self.activated(y, activation))
    }
}
