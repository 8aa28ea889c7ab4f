//! The backward pass of a tape.

use std::rc::Rc;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};

use super::conv;
use super::depthwise;
use super::elementwise::{self, Passed};
use super::engine::{Buffer, Engine, GROUPS, Shared};
use super::max_pool;
use super::tape::{Batch, KeptValues, Node, Norm, group_sums};
use super::values::{Factors, GradientTarget, GradientView, Values, View};
use super::weights::{self, WeightShape, with_values};
use super::window::Taps;
use crate::nn::Activation;

/// The gradient of a batch while it is computed.
pub(super) struct Slot {
    grad: Values,
    sums: Buffer,
}

impl Slot {
    /// Makes the gradient that of `batch`.
    pub fn fill(self, batch: &Batch) {
        let grad = Rc::new(self.grad);
        if batch.normalised {
            let norm = batch.kept.norm.get().expect("a normalised batch has a norm");
            *norm.grad.borrow_mut() = Some((grad, self.sums));
        } else {
            *batch.kept.grad.borrow_mut() = Some(grad);
        }
    }
}

/// Computes gradients, the last operation's first.
pub(super) struct BackwardPass<'a> {
    pub engine: &'a Engine,
}

impl BackwardPass<'_> {
    /// Memory for the gradient of a batch, to which an operation adds if the batch has one already.
    pub fn target<'b>(&self, batch: &'b Batch) -> (Slot, GradientTarget<'b>) {
        let known = if batch.normalised {
            let norm = batch.kept.norm.get().expect("a normalised batch has a norm");
            norm.grad.borrow_mut().take().map(|(grad, _)| grad)
        } else {
            batch.kept.grad.borrow_mut().take()
        };
        let shape = *batch.shape();
        let add = known.is_some();
        let grad = match known.map(Rc::try_unwrap) {
            None => Values::new(self.engine, shape),
            Some(Ok(own)) => own,
            Some(Err(shared)) => {
                let mut own = Values::new(self.engine, shape);
                let words = shape.pixels() * self.engine.words(shape.blocks());
                own.words.words_mut()[..words].copy_from_slice(&shared.words.words()[..words]);
                own
            }
        };
        let sums = self.engine.zeros(GROUPS * 2 * shape.padded());
        let mut slot = Slot { grad, sums };
        let (grad, sums) = (Shared(slot.grad.words.as_mut_ptr()), Shared(slot.sums.as_mut_ptr()));
        (slot, GradientTarget { view: batch.view(), grad, add, sums })
    }

    /// Gives a whole gradient to a batch.
    fn give(&self, batch: &Batch, grad: &Rc<Values>) {
        if !batch.tracked() {
            return;
        }
        let has = if batch.normalised {
            batch.kept.norm.get().expect("a normalised batch has a norm").grad.borrow().is_some()
        } else {
            batch.kept.grad.borrow().is_some()
        };
        if !has && !batch.normalised {
            *batch.kept.grad.borrow_mut() = Some(Rc::clone(grad));
            return;
        }
        let whole = GradientView { grad, norm: None };
        let scratch = elementwise::scratch(batch.shape().padded());
        if has {
            let (slot, target) = self.target(batch);
            self.engine.run(GROUPS, scratch, &Passed { grad: whole, other: None, mask: None, target });
            slot.fill(batch);
            return;
        }
        // Only the sums are computed; the gradient is shared.
        let mut sums = self.engine.zeros(GROUPS * 2 * batch.shape().padded());
        let nowhere = Shared(std::ptr::null_mut());
        let target = GradientTarget { view: batch.view(), grad: nowhere, add: false, sums: Shared(sums.as_mut_ptr()) };
        self.engine.run(GROUPS, scratch, &Passed { grad: whole, other: None, mask: None, target });
        let norm = batch.kept.norm.get().expect("a normalised batch has a norm");
        *norm.grad.borrow_mut() = Some((Rc::clone(grad), sums));
    }

    /// The factors of a norm's gradient. Adds the gradients of its parameters to `grads`.
    fn factors(&self, kept: &KeptValues, norm: &Norm, sums: &Buffer, grads: &mut GradStore) -> Result<Factors> {
        let shape = &kept.values.shape;
        let (count, padded) = (shape.pixels() as f64, shape.padded());
        let [mut alpha, mut beta, mut gamma] = [vec![0f32; padded], vec![0f32; padded], vec![0f32; padded]];
        let Some((inverse, weight, bias)) = &norm.learned else {
            return Ok(Factors { alpha: norm.affine.scale.clone(), beta, gamma });
        };
        let [mut weight_grad, mut bias_grad] = [vec![0f32; shape.channels], vec![0f32; shape.channels]];
        for channel in 0..shape.channels {
            let [all, by_distance] = group_sums(sums, shape, channel);
            let (scale, inverse) = (f64::from(norm.affine.scale[channel]), f64::from(inverse[channel]));
            let slope = by_distance / count * inverse * inverse;
            alpha[channel] = scale as f32;
            beta[channel] = (-scale * slope) as f32;
            gamma[channel] = (-scale * all / count) as f32;
            weight_grad[channel] = (by_distance * inverse) as f32;
            bias_grad[channel] = all as f32;
        }
        insert(grads, weight, weight_grad)?;
        insert(grads, bias, bias_grad)?;
        Ok(Factors { alpha, beta, gamma })
    }

    /// Calls `with` with the gradient of values, if they have one.
    fn gradient(
        &self,
        kept: &KeptValues,
        grads: &mut GradStore,
        with: impl FnOnce(&Self, GradientView<'_>, &mut GradStore) -> Result<()>,
    ) -> Result<()> {
        let own = kept.grad.borrow_mut().take();
        let normed = kept.norm.get().and_then(|norm| Some((norm, norm.grad.borrow_mut().take()?)));
        let Some((norm, (grad, sums))) = normed else {
            return match &own {
                Some(grad) => with(self, GradientView { grad, norm: None }, grads),
                None => Ok(()),
            };
        };
        let factors = self.factors(kept, norm, &sums, grads)?;
        let through = GradientView { grad: &grad, norm: Some((&kept.values, &norm.affine, &factors)) };
        let Some(own) = own else { return with(self, through, grads) };
        let sum = self.passed(through, Some(&*own), None, &kept.values);
        with(self, GradientView { grad: &sum, norm: None }, grads)
    }

    /// `grad` plus `other` where `mask` lets it pass.
    fn passed(
        &self,
        grad: GradientView<'_>,
        other: Option<&Values>,
        mask: Option<(&Values, (f32, f32))>,
        values: &Values,
    ) -> Values {
        let mut sum = Values::new(self.engine, values.shape);
        let target = GradientTarget {
            view: View { values, affine: None },
            grad: Shared(sum.words.as_mut_ptr()),
            add: false,
            sums: Shared(std::ptr::null_mut()),
        };
        let scratch = elementwise::scratch(values.shape.padded());
        self.engine.run(GROUPS, scratch, &Passed { grad, other, mask, target });
        sum
    }

    /// Computes the gradients of the inputs and of the parameters of an operation.
    pub fn node(&self, node: Node, grads: &mut GradStore) -> Result<()> {
        let engine = self.engine;
        match node {
            Node::Input { y } => self.gradient(&y, grads, |_, _, _| Ok(())),
            Node::Conv { x, y, weight, window } => self.gradient(&y, grads, |back, grad, grads| {
                let (outputs, inputs, kernel, _) = weight.dims4()?;
                let shape = WeightShape { outputs, inputs, kernel };
                let (slot, target) = x.tracked().then(|| back.target(&x)).unzip();
                let packed = match &target {
                    Some(_) => with_values(&weight, |values| shape.backward(engine, values))?,
                    None => engine.buffer(0),
                };
                let mut op = conv::ConvBackward {
                    y: grad,
                    x: x.view(),
                    window,
                    weights: packed.words(),
                    target,
                    weight_grads: Shared(std::ptr::null_mut()),
                };
                let each = op.weight_values();
                let mut weight_grads = engine.buffer(GROUPS * each);
                op.weight_grads = Shared(weight_grads.as_mut_ptr());
                engine.run(GROUPS, op.scratch(engine.precision.per_word()), &op);
                if let Some(slot) = slot {
                    slot.fill(&x);
                }
                let taps = Taps::of(x.shape(), x.kept.values.thin, kernel);
                insert(grads, &weight, shape.gradient(&weights::total(weight_grads.words(), each), &taps))
            }),
            Node::Depthwise { x, y, weight, window } => self.gradient(&y, grads, |back, grad, grads| {
                let (channels, _, kernel, _) = weight.dims4()?;
                let taps = with_values(&weight, |values| weights::depthwise(values, channels, kernel * kernel))?;
                let (slot, target) = x.tracked().then(|| back.target(&x)).unzip();
                let mut op = depthwise::DepthwiseBackward {
                    y: grad,
                    x: x.view(),
                    window,
                    weights: &taps,
                    target,
                    weight_grads: Shared(std::ptr::null_mut()),
                };
                let each = op.weight_values();
                let mut weight_grads = engine.buffer(GROUPS * each);
                op.weight_grads = Shared(weight_grads.as_mut_ptr());
                engine.run(GROUPS, op.scratch(), &op);
                if let Some(slot) = slot {
                    slot.fill(&x);
                }
                let total = weights::total(weight_grads.words(), each);
                insert(grads, &weight, weights::depthwise_gradient(&total, channels, kernel * kernel))
            }),
            Node::Add { a, b, y, activation } => {
                let bounds = activation.bounds();
                let masked = (activation != Activation::Identity).then_some((&y.values, bounds));
                let own = y.grad.borrow_mut().take();
                let plain = y.norm.get().is_none_or(|norm| norm.grad.borrow().is_none());
                if let (true, true, Some(own)) = (plain, masked.is_none(), &own) {
                    self.give(&a, own);
                    self.give(&b, own);
                    return Ok(());
                }
                *y.grad.borrow_mut() = own;
                self.gradient(&y, grads, |back, grad, _| {
                    let passed = Rc::new(back.passed(grad, None, masked, &y.values));
                    back.give(&a, &passed);
                    back.give(&b, &passed);
                    Ok(())
                })
            }
            Node::MaxPool { x, y, taps, window } => self.gradient(&y, grads, |back, grad, _| {
                if x.tracked() {
                    let (slot, target) = back.target(&x);
                    let op = max_pool::MaxPoolBackward { y: grad, window, taps: &taps, target };
                    engine.run(GROUPS, op.scratch(), &op);
                    slot.fill(&x);
                }
                Ok(())
            }),
        }
    }
}

fn insert(grads: &mut GradStore, var: &Var, values: Vec<f32>) -> Result<()> {
    let grad = Tensor::from_vec(values, var.shape(), &Device::Cpu)?;
    let grad = match grads.get(var) {
        Some(known) => (known + grad)?,
        None => grad,
    };
    grads.insert(var, grad);
    Ok(())
}
