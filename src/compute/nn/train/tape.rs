//! The operations of a training step, recorded so that their gradients can be computed.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var, bail};

use super::backward::BackwardPass;
use super::conv;
use super::depthwise;
use super::elementwise::{self, Sum};
use super::engine::{Buffer, Engine, GROUPS, Shared};
use super::kernel::LANES;
use super::max_pool;
use super::moves::{self, Average, Broadcast, Pack, Unpack};
use super::values::{Affine, BatchShape, Values, View};
use super::weights::{self, WeightShape, with_values};
use super::window::{Taps, Window};
use crate::nn::{Activation, Padding};

/// Mean and variance of each channel over a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchStatistics {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Variance of each channel. Biased: divided by the number of values.
    pub variance: Vec<f32>,
    /// Values per channel.
    pub count: usize,
}

/// The output of an operation: values, or values through the batch norm that follows them.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(super) kept: Rc<KeptValues>,
    pub(super) normalised: bool,
}

/// Values with all that is known of them.
#[derive(Debug)]
pub(super) struct KeptValues {
    pub values: Values,
    /// The statistics, if they were wanted when the values were computed.
    statistics: Option<BatchStatistics>,
    pub norm: OnceCell<Norm>,
    /// Whether a gradient of the values is needed.
    tracked: bool,
    pub grad: RefCell<Option<Rc<Values>>>,
}

#[derive(Debug)]
pub(super) struct Norm {
    pub affine: Affine,
    /// 1 / standard deviation, and the parameters; `None` with fixed statistics.
    pub learned: Option<(Vec<f32>, Var, Var)>,
    /// The gradient of the normalised values, with the sums of [`super::kernel::NormSums`] for each group.
    pub grad: RefCell<Option<(Rc<Values>, Buffer)>>,
}

/// The parameters of a batch norm in training, and the activation after it.
#[derive(Clone, Copy, Debug)]
pub struct NormParameters<'a> {
    /// One value per channel.
    pub weight: &'a Var,
    /// One value per channel.
    pub bias: &'a Var,
    /// Added to the variance.
    pub epsilon: f64,
    /// Applied to the result.
    pub activation: Activation,
}

#[derive(Debug)]
pub(super) enum Node {
    Conv {
        x: Batch,
        y: Rc<KeptValues>,
        weight: Var,
        window: Window,
    },
    Depthwise {
        x: Batch,
        y: Rc<KeptValues>,
        weight: Var,
        window: Window,
    },
    Add {
        a: Batch,
        b: Batch,
        y: Rc<KeptValues>,
        activation: Activation,
    },
    MaxPool {
        x: Batch,
        y: Rc<KeptValues>,
        taps: Vec<u8>,
        window: Window,
    },
    /// Makes sure that the gradients of a norm on an input are computed.
    Input {
        y: Rc<KeptValues>,
    },
}

/// A forward pass. Values live as long as a [`Batch`] or the record of an operation refers to them.
#[derive(Debug)]
pub struct Tape {
    engine: Engine,
    nodes: Option<Vec<Node>>,
}

impl Batch {
    pub(super) fn view(&self) -> View<'_> {
        View { values: &self.kept.values, affine: self.affine() }
    }

    fn affine(&self) -> Option<&Affine> {
        self.normalised.then(|| &self.kept.norm.get().expect("a normalised batch has a norm").affine)
    }

    pub(super) fn shape(&self) -> &BatchShape {
        &self.kept.values.shape
    }

    /// Whether the backward pass needs the gradient of this batch.
    pub(super) fn tracked(&self) -> bool {
        self.kept.tracked || (self.normalised && self.kept.norm.get().is_some_and(|norm| norm.learned.is_some()))
    }
}

fn padded(values: &[f32]) -> Vec<f32> {
    let mut all = values.to_vec();
    all.resize(values.len().next_multiple_of(LANES), 0.0);
    all
}

impl Tape {
    /// A tape for one pass. Only one that records can compute gradients.
    pub fn new(engine: &Engine, records: bool) -> Self {
        Self { engine: engine.clone(), nodes: records.then(Vec::new) }
    }

    fn record(&mut self, node: impl FnOnce() -> Node) {
        if let Some(nodes) = &mut self.nodes {
            nodes.push(node());
        }
    }

    fn keep(&self, values: Values, statistics: Option<BatchStatistics>, tracked: bool) -> Rc<KeptValues> {
        let tracked = tracked && self.nodes.is_some();
        Rc::new(KeptValues { values, statistics, norm: OnceCell::new(), tracked, grad: RefCell::new(None) })
    }

    /// The batch of a tensor (C, N, H, W). `thin` stores up to three channels in a form that only [`Tape::conv`] reads.
    ///
    /// # Errors
    /// When the tensor is not contiguous `f32` of rank 4 on the CPU, is empty, or is thin with more channels.
    pub fn input(&mut self, x: &Tensor, thin: bool) -> Result<Batch> {
        let (channels, samples, height, width) = x.dims4()?;
        let shape = BatchShape { samples, height, width, channels };
        if x.elem_count() == 0 || (thin && channels > 3) {
            bail!("training: a batch of shape {:?} is empty, or not thin", x.dims());
        }
        let engine = &self.engine;
        let mut values = if thin {
            let words = shape.pixels() * engine.words(1) / 4;
            Values { shape, thin, words: engine.buffer(words) }
        } else {
            Values::new(engine, shape)
        };
        let out = Shared(values.words.as_mut_ptr());
        with_values(x, |from| {
            engine.run(GROUPS, moves::scratch(shape.padded()), &Pack { from, shape, thin, out });
        })?;
        let y = self.keep(values, None, false);
        self.record(|| Node::Input { y: Rc::clone(&y) });
        Ok(Batch { kept: y, normalised: false })
    }

    /// The convolution of `x` with `weight` (outputs, inputs, k, k), k odd, without bias. `centre` asks for the statistics that
    /// [`Tape::norm`] needs: one value per output near its mean makes them more exact.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn conv(
        &mut self,
        x: &Batch,
        weight: &Var,
        stride: usize,
        padding: Padding,
        centre: Option<&[f32]>,
    ) -> Result<Batch> {
        let (outputs, inputs, kernel, wide) = weight.dims4()?;
        if inputs != x.shape().channels || kernel != wide || (x.kept.values.thin && x.normalised) {
            bail!("training: a convolution of {:?} does not fit {} channels", weight.dims(), x.shape().channels);
        }
        let window = window(kernel, stride, padding)?;
        let y = window.output(x.shape(), outputs);
        let taps = Taps::of(x.shape(), x.kept.values.thin, kernel);
        let engine = &self.engine;
        let weights = WeightShape { outputs, inputs, kernel };
        let packed = with_values(weight, |values| weights.forward(engine, values, &taps))?;
        let mut values = Values::new(engine, y);
        let mut statistics = Statistics::begin(engine, &y, centre);
        let op = conv::ConvForward {
            x: x.view(),
            window,
            y,
            weights: packed.words(),
            out: Shared(values.words.as_mut_ptr()),
            sums: statistics.as_mut().map(Statistics::sums),
        };
        engine.run(GROUPS, op.scratch(engine.precision.per_word()), &op);
        let y = self.keep(values, statistics.map(|s| s.end(&y)), true);
        self.record(|| Node::Conv { x: x.clone(), y: Rc::clone(&y), weight: weight.clone(), window });
        Ok(Batch { kept: y, normalised: false })
    }

    /// The depthwise convolution of `x` with `weight` (channels, 1, k, k), k odd, without bias. `centre` as for [`Tape::conv`].
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn depthwise(
        &mut self,
        x: &Batch,
        weight: &Var,
        stride: usize,
        padding: Padding,
        centre: Option<&[f32]>,
    ) -> Result<Batch> {
        let (channels, one, kernel, wide) = weight.dims4()?;
        if channels != x.shape().channels || one != 1 || kernel != wide || x.kept.values.thin {
            bail!(
                "training: a depthwise convolution of {:?} does not fit {} channels",
                weight.dims(),
                x.shape().channels
            );
        }
        let window = window(kernel, stride, padding)?;
        let y = window.output(x.shape(), channels);
        let engine = &self.engine;
        let taps = with_values(weight, |values| weights::depthwise(values, channels, kernel * kernel))?;
        let mut values = Values::new(engine, y);
        let mut statistics = Statistics::begin(engine, &y, centre);
        let op = depthwise::DepthwiseForward {
            x: x.view(),
            window,
            y,
            weights: &taps,
            out: Shared(values.words.as_mut_ptr()),
            sums: statistics.as_mut().map(Statistics::sums),
        };
        engine.run(GROUPS, op.scratch(), &op);
        let y = self.keep(values, statistics.map(|s| s.end(&y)), true);
        self.record(|| Node::Depthwise { x: x.clone(), y: Rc::clone(&y), weight: weight.clone(), window });
        Ok(Batch { kept: y, normalised: false })
    }

    /// Batch norm with the statistics of the batch, and an activation. Returns the statistics too. Gradients flow through them.
    ///
    /// # Errors
    /// When the number of channels differs, or `x` has a batch norm already.
    pub fn norm(&mut self, x: &Batch, parameters: NormParameters<'_>) -> Result<(Batch, BatchStatistics)> {
        let NormParameters { weight, bias, epsilon, activation } = parameters;
        let channels = x.shape().channels;
        if weight.dims() != [channels] || bias.dims() != [channels] || x.kept.values.thin {
            bail!("training: a batch norm of {:?} does not fit {channels} channels", weight.dims());
        }
        let statistics = match &x.kept.statistics {
            Some(statistics) => statistics.clone(),
            None => self.statistics(x),
        };
        let inverse: Vec<f32> =
            statistics.variance.iter().map(|v| (1.0 / (f64::from(*v) + epsilon).sqrt()) as f32).collect();
        let scale: Vec<f32> = with_values(weight, |weight| weight.iter().zip(&inverse).map(|(w, i)| w * i).collect())?;
        let shift: Vec<f32> = with_values(bias, |bias| {
            bias.iter().zip(&scale).zip(&statistics.mean).map(|((b, s), m)| b - m * s).collect()
        })?;
        let affine = Affine {
            scale: padded(&scale),
            shift: padded(&shift),
            mean: padded(&statistics.mean),
            bounds: activation.bounds(),
        };
        let learned = Some((inverse, weight.clone(), bias.clone()));
        Ok((through(x, Norm { affine, learned, grad: RefCell::new(None) })?, statistics))
    }

    /// `activation(scale · x + shift)` for each channel: batch norm with fixed statistics.
    ///
    /// # Errors
    /// When the number of channels differs, or `x` has a batch norm already.
    pub fn fixed_norm(&mut self, x: &Batch, scale: &[f32], shift: &[f32], activation: Activation) -> Result<Batch> {
        let channels = x.shape().channels;
        if scale.len() != channels || shift.len() != channels || x.kept.values.thin {
            bail!("training: {} scales do not fit {channels} channels", scale.len());
        }
        let (scale, shift) = (padded(scale), padded(shift));
        let affine = Affine { mean: vec![0.0; scale.len()], scale, shift, bounds: activation.bounds() };
        through(x, Norm { affine, learned: None, grad: RefCell::new(None) })
    }

    /// `activation(a + b)`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn add(&mut self, a: &Batch, b: &Batch, activation: Activation) -> Result<Batch> {
        if a.shape() != b.shape() || a.kept.values.thin || b.kept.values.thin {
            bail!("training: batches of shapes {:?} and {:?} cannot be added", a.shape(), b.shape());
        }
        let shape = *a.shape();
        let mut values = Values::new(&self.engine, shape);
        let out = Shared(values.words.as_mut_ptr());
        let op = Sum { a: a.view(), b: Some(b.view()), bounds: activation.bounds(), out, sums: None };
        self.engine.run(GROUPS, elementwise::scratch(shape.padded()), &op);
        let y = self.keep(values, None, a.tracked() || b.tracked());
        self.record(|| Node::Add { a: a.clone(), b: b.clone(), y: Rc::clone(&y), activation });
        Ok(Batch { kept: y, normalised: false })
    }

    /// The maximum over 3×3 windows with stride 2 and padding 1, as in ResNet. The gradient goes to the first maximum.
    ///
    /// # Errors
    /// When `x` is thin.
    pub fn max_pool(&mut self, x: &Batch) -> Result<Batch> {
        let window = window(3, 2, Padding::Symmetric)?;
        if x.kept.values.thin {
            bail!("training: a thin batch cannot be pooled");
        }
        let y = window.output(x.shape(), x.shape().channels);
        let mut values = Values::new(&self.engine, y);
        let mut taps = vec![0u8; y.pixels() * y.padded()];
        let out = Shared(values.words.as_mut_ptr());
        let op = max_pool::MaxPoolForward { x: x.view(), window, y, out, taps: taps.as_mut_ptr() };
        self.engine.run(GROUPS, op.scratch(), &op);
        let y = self.keep(values, None, x.tracked());
        self.record(|| Node::MaxPool { x: x.clone(), y: Rc::clone(&y), taps, window });
        Ok(Batch { kept: y, normalised: false })
    }

    /// The mean over the pixels of each sample, (N, C).
    ///
    /// # Errors
    /// When the tensor cannot be made.
    pub fn average(&self, x: &Batch) -> Result<Tensor> {
        let shape = x.shape();
        let mut out = vec![0f32; shape.samples * shape.padded()];
        let op = Average { x: x.view(), out: Shared(out.as_mut_ptr()) };
        self.engine.run(GROUPS, moves::scratch(shape.padded()), &op);
        Tensor::from_vec(out, (shape.samples, shape.padded()), &Device::Cpu)?.narrow(1, 0, shape.channels)?.contiguous()
    }

    /// The batch as a tensor (C, N, H, W).
    ///
    /// # Errors
    /// When the tensor cannot be made, or the batch is thin.
    pub fn tensor(&self, x: &Batch) -> Result<Tensor> {
        let shape = x.shape();
        if x.kept.values.thin {
            bail!("training: a thin batch is read by convolutions only");
        }
        let mut out = vec![0f32; shape.channels * shape.pixels()];
        let op = Unpack { x: x.view(), out: Shared(out.as_mut_ptr()) };
        self.engine.run(GROUPS, moves::scratch(shape.padded()), &op);
        Tensor::from_vec(out, (shape.channels, shape.samples, shape.height, shape.width), &Device::Cpu)
    }

    /// Statistics of a batch.
    pub fn statistics(&self, x: &Batch) -> BatchStatistics {
        let shape = x.shape();
        let mut statistics = Statistics::around(&self.engine, shape, vec![0.0; shape.padded()]);
        let bounds = Activation::Identity.bounds();
        let out = Shared(std::ptr::null_mut());
        let op = Sum { a: x.view(), b: None, bounds, out, sums: Some(statistics.sums()) };
        self.engine.run(GROUPS, elementwise::scratch(shape.padded()), &op);
        statistics.end(shape)
    }

    /// Computes the gradients of all parameters, from `grad` (N, C), the gradient of [`Tape::average`] of `last`, and adds them to
    /// `grads`.
    ///
    /// # Errors
    /// When the tape does not record, or `grad` does not fit.
    pub fn backward(self, last: &Batch, grad: &Tensor, grads: &mut GradStore) -> Result<()> {
        let Self { engine, nodes } = self;
        let Some(nodes) = nodes else { bail!("training: a pass that was not recorded has no gradients") };
        if grad.dims() != [last.shape().samples, last.shape().channels] {
            bail!("training: a gradient of shape {:?} does not fit {:?}", grad.dims(), last.shape());
        }
        let back = BackwardPass { engine: &engine };
        if last.tracked() {
            let (slot, target) = back.target(last);
            with_values(grad, |from| {
                let op = Broadcast { from, target };
                engine.run(GROUPS, moves::scratch(last.shape().padded()), &op);
            })?;
            slot.fill(last);
        }
        for node in nodes.into_iter().rev() {
            back.node(node, grads)?;
        }
        Ok(())
    }
}

fn window(kernel: usize, stride: usize, padding: Padding) -> Result<Window> {
    if kernel.is_multiple_of(2) || stride == 0 {
        bail!("training: a kernel of {kernel} with stride {stride} is not supported");
    }
    let before = match padding {
        Padding::Same if stride > 1 => (kernel / 2).saturating_sub(1),
        Padding::Same | Padding::Symmetric => kernel / 2,
    };
    Ok(Window { kernel, stride, before })
}

fn through(x: &Batch, norm: Norm) -> Result<Batch> {
    if x.normalised || x.kept.norm.set(norm).is_err() {
        bail!("training: values have one batch norm at most");
    }
    Ok(Batch { kept: Rc::clone(&x.kept), normalised: true })
}

/// Sums that become statistics.
struct Statistics {
    centre: Vec<f32>,
    sums: Buffer,
}

impl Statistics {
    fn begin(engine: &Engine, shape: &BatchShape, centre: Option<&[f32]>) -> Option<Self> {
        centre.map(|centre| Self::around(engine, shape, padded(centre)))
    }

    fn around(engine: &Engine, shape: &BatchShape, centre: Vec<f32>) -> Self {
        Self { centre, sums: engine.zeros(GROUPS * 2 * shape.padded()) }
    }

    fn sums(&mut self) -> (&[f32], Shared) {
        (&self.centre, Shared(self.sums.as_mut_ptr()))
    }

    fn end(self, shape: &BatchShape) -> BatchStatistics {
        let count = shape.pixels();
        let (mut mean, mut variance) = (Vec::new(), Vec::new());
        for channel in 0..shape.channels {
            let [first, second] = group_sums(&self.sums, shape, channel).map(|sum| sum / count as f64);
            mean.push((f64::from(self.centre[channel]) + first) as f32);
            variance.push((second - first * first).max(0.0) as f32);
        }
        BatchStatistics { mean, variance, count }
    }
}

/// The two sums of a channel over all groups.
pub(super) fn group_sums(sums: &Buffer, shape: &BatchShape, channel: usize) -> [f64; 2] {
    let padded = shape.padded();
    [0, padded].map(|row| {
        let of = |group: usize| f64::from(sums.words()[group * 2 * padded + row + channel]);
        (0..GROUPS).map(of).sum()
    })
}
