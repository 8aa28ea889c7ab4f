//! AdamW and SGD, with state that can be saved and restored, so that an interrupted run can continue.
//!
//! Sources: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019 (AdamW, and the cosine schedule
//! from their *SGDR*, ICLR 2017); Sutskever et al., *On the importance of initialization and momentum*, ICML 2013 (SGD
//! with Nesterov's momentum, in PyTorch's form). Results equal those of PyTorch's `torch.optim.AdamW` and `torch.optim.SGD`.

use std::cell::RefCell;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, DType, Device, InplaceOp2, Layout, Result, Shape, Tensor, Var, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use touchline_compute::models::Tensors;

/// The update rule of an [`Optimizer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    AdamW,
    /// Stochastic gradient descent with Nesterov momentum.
    Sgd,
}

/// AdamW: decay rates of the first and the second moment, as in PyTorch.
const BETAS: (f64, f64) = (0.9, 0.999);

/// AdamW: added to the denominator so that the update stays finite, as in PyTorch.
const EPSILON: f64 = 1e-8;

/// SGD: momentum.
const MOMENTUM: f64 = 0.9;

/// Updates parameters along their gradients. The moments are in the CPU's memory, and so is the arithmetic: for a network on a GPU,
/// gradients come and parameters go once a step.
#[derive(Debug)]
pub struct Optimizer {
    kind: OptimizerKind,
    weight_decay: f64,
    /// Name, variable, and whether weight decay applies.
    parameters: Vec<(String, Var, bool)>,
    /// First moments (AdamW) or velocities (SGD) of each parameter.
    first: Vec<Vec<f32>>,
    /// Second moments; unused by SGD.
    second: Vec<Vec<f32>>,
    steps: u64,
}

impl Optimizer {
    /// Returns an optimizer of `parameters` (name, variable, whether weight decay applies) before its first step.
    ///
    /// # Errors
    /// When a parameter is not `f32`.
    pub fn new(kind: OptimizerKind, weight_decay: f64, parameters: Vec<(String, Var, bool)>) -> Result<Self> {
        if let Some((name, var, _)) = parameters.iter().find(|(_, var, _)| var.dtype() != DType::F32) {
            bail!("optimizer: parameter {name} is {:?}, expected f32", var.dtype());
        }
        let zeros: Vec<Vec<f32>> = parameters.iter().map(|(_, var, _)| vec![0.0; var.elem_count()]).collect();
        Ok(Self { kind, weight_decay, parameters, first: zeros.clone(), second: zeros, steps: 0 })
    }

    /// Returns name, variable and whether weight decay applies, for each parameter.
    pub fn parameters(&self) -> &[(String, Var, bool)] {
        &self.parameters
    }

    /// Takes one step and returns the norm of all gradients together, before clipping. A parameter without a gradient does not
    /// change; no parameter changes when the norm is NaN or infinite. With `clip`, gradients are scaled so that their norm is
    /// at most `clip` (Pascanu et al., *On the difficulty of training recurrent neural networks*, ICML 2013).
    ///
    /// # Errors
    /// When an operation fails on the device.
    pub fn step(&mut self, grads: &GradStore, learning_rate: f64, clip: Option<f64>) -> Result<f64> {
        let length = self.length(grads)?;
        if !length.is_finite() {
            return Ok(length);
        }
        self.steps += 1;
        let scale = clip.map_or(1.0, |limit| (limit / length.max(1e-12)).min(1.0));
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((_, var, decays), (first, second)) in self.parameters.iter().zip(moments) {
            let Some(grad) = grads.get(var) else { continue };
            let decay = if *decays { self.weight_decay } else { 0.0 };
            let rule = UpdateRule { kind: self.kind, steps, rate: learning_rate, decay, scale: scale as f32 };
            let update = Update { rule, moments: RefCell::new((first, second)) };
            let grad = on_cpu(grad)?;
            if var.device().is_cpu() {
                var.inplace_op2(&grad, &update)?;
            } else {
                let values = on_cpu(var)?;
                values.inplace_op2(&grad, &update)?;
                var.set(&values.to_device(var.device())?)?;
            }
        }
        Ok(length)
    }

    /// Returns the Euclidean norm of all gradients together.
    fn length(&self, grads: &GradStore) -> Result<f64> {
        let mut sum = 0f64;
        for (_, var, _) in &self.parameters {
            if let Some(grad) = grads.get(var) {
                sum += on_cpu(grad)?.apply_op1_no_bwd(&Squares)?.to_scalar::<f64>()?;
            }
        }
        Ok(sum.sqrt())
    }

    /// Returns the moments by name (`first.NAME`, `second.NAME`), and the number of steps taken.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn state(&self) -> Result<(Tensors, u64)> {
        let mut all = Tensors::new();
        for (moment, name) in self.moments() {
            for (values, (parameter, var, _)) in moment.iter().zip(&self.parameters) {
                let tensor = Tensor::from_slice(values, var.shape(), &Device::Cpu)?;
                all.insert(format!("{name}.{parameter}"), tensor);
            }
        }
        Ok((all, self.steps))
    }

    /// Returns the moments that the rule uses, with the prefix of their names.
    fn moments(&self) -> Vec<(&[Vec<f32>], &'static str)> {
        match self.kind {
            OptimizerKind::AdamW => vec![(&self.first, "first"), (&self.second, "second")],
            OptimizerKind::Sgd => vec![(&self.first, "first")],
        }
    }

    /// Restores a state that [`Self::state`] returned.
    ///
    /// # Errors
    /// When a moment is missing or has another shape than its parameter.
    pub fn restore(&mut self, tensors: &Tensors, steps: u64) -> Result<()> {
        let names: Vec<&str> = self.moments().iter().map(|(_, name)| *name).collect();
        for (moment, name) in [&mut self.first, &mut self.second].into_iter().zip(names) {
            for (values, (parameter, var, _)) in moment.iter_mut().zip(&self.parameters) {
                let stored = tensors.get(&format!("{name}.{parameter}")).filter(|t| t.dims() == var.dims());
                let missing = || {
                    candle_core::Error::Msg(format!("the {name} moment of {parameter} is missing or has another shape"))
                        .bt()
                };
                *values = stored.ok_or_else(missing)?.flatten_all()?.to_vec1()?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// Returns the contiguous tensor in the CPU's memory.
fn on_cpu(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_device(&Device::Cpu)?.contiguous()
}

/// Values that a thread processes at once.
const PART: usize = 1 << 14;

/// Returns where the values of a contiguous `f32` tensor are.
fn range(name: &str, storage: &CpuStorage, layout: &Layout) -> Result<std::ops::Range<usize>> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(_), Some((start, end))) => Ok(start..end),
        _ => bail!("{name}: expected a contiguous f32 tensor, got {:?}", layout.dims()),
    }
}

/// The sum of squares as one `f64`.
struct Squares;

impl CustomOp1 for Squares {
    fn name(&self) -> &'static str {
        "sum of squares"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let range = range(self.name(), storage, layout)?;
        let parts: Vec<f64> = storage.as_slice::<f32>()?[range]
            .par_chunks(PART)
            // Sums of a few squares in f32, which the compiler vectorises; their total in f64.
            .map(|part| part.chunks(64).map(|few| f64::from(few.iter().map(|x| x * x).sum::<f32>())).sum())
            .collect();
        Ok((CpuStorage::F64(vec![parts.iter().sum()]), Shape::from(())))
    }
}

/// How a parameter moves along its gradient.
#[derive(Clone, Copy)]
struct UpdateRule {
    kind: OptimizerKind,
    /// The number of this step, from 1.
    steps: i32,
    rate: f64,
    decay: f64,
    /// Factor of the gradient.
    scale: f32,
}

/// A step of one parameter, in one pass over parameter, gradient and moments.
struct Update<'a> {
    rule: UpdateRule,
    moments: RefCell<(&'a mut Vec<f32>, &'a mut Vec<f32>)>,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "optimizer"
    }

    fn cpu_fwd(&self, theta: &mut CpuStorage, theta_l: &Layout, grad: &CpuStorage, grad_l: &Layout) -> Result<()> {
        let (at, grad_at) = (range(self.name(), theta, theta_l)?, range(self.name(), grad, grad_l)?);
        let CpuStorage::F32(theta) = theta else { bail!("optimizer: expected f32") };
        let (theta, grad) = (&mut theta[at], &grad.as_slice::<f32>()?[grad_at]);
        let mut moments = self.moments.borrow_mut();
        let (first, second) = &mut *moments;
        if theta.len() != grad.len() || theta.len() != first.len() {
            bail!("optimizer: a gradient of {} values does not fit a parameter of {}", grad.len(), theta.len());
        }
        let parts = theta.par_chunks_mut(PART).zip(grad.par_chunks(PART));
        let moments = first.par_chunks_mut(PART).zip(second.par_chunks_mut(PART));
        let rule = self.rule;
        parts.zip(moments).for_each(|((theta, grad), (first, second))| match rule.kind {
            OptimizerKind::AdamW => rule.adam_w(theta, grad, first, second),
            OptimizerKind::Sgd => rule.sgd(theta, grad, first),
        });
        Ok(())
    }
}

impl UpdateRule {
    fn adam_w(self, theta: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32]) {
        let (keep, by) = ((1.0 - self.rate * self.decay) as f32, self.rate as f32);
        let (beta_1, beta_2) = (BETAS.0 as f32, BETAS.1 as f32);
        let (new_1, new_2) = ((1.0 - BETAS.0) as f32, (1.0 - BETAS.1) as f32);
        let correct_1 = (1.0 / (1.0 - BETAS.0.powi(self.steps))) as f32;
        let correct_2 = (1.0 / (1.0 - BETAS.1.powi(self.steps))) as f32;
        for (((theta, grad), m), v) in theta.iter_mut().zip(grad).zip(first).zip(second) {
            let grad = grad * self.scale;
            *m = *m * beta_1 + grad * new_1;
            *v = *v * beta_2 + grad * grad * new_2;
            *theta = *theta * keep - by * (*m * correct_1) / ((*v * correct_2).sqrt() + EPSILON as f32);
        }
    }

    fn sgd(self, theta: &mut [f32], grad: &[f32], velocity: &mut [f32]) {
        let (decay, by) = (self.decay as f32, self.rate as f32);
        let momentum = MOMENTUM as f32;
        for ((theta, grad), velocity) in theta.iter_mut().zip(grad).zip(velocity) {
            let grad = grad * self.scale + *theta * decay;
            // The velocity is 0 before the first step, which makes it the gradient, as in PyTorch.
            *velocity = *velocity * momentum + grad;
            *theta -= by * (grad + *velocity * momentum);
        }
    }
}

/// Returns the learning rate of step `step` (from 0) of `steps`. It rises linearly to `peak` over `warm_up` steps, then falls to
/// zero along half a cosine.
pub fn cosine(step: u64, steps: u64, warm_up: u64, peak: f64) -> f64 {
    if step < warm_up {
        return peak * (step + 1) as f64 / warm_up as f64;
    }
    let share = (step - warm_up) as f64 / steps.saturating_sub(warm_up).max(1) as f64;
    0.5 * peak * (1.0 + (std::f64::consts::PI * share.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// First steps on f(p) = p², calculated by hand.
    #[test]
    fn first_steps_equal_those_calculated_by_hand() {
        let cpu = &Device::Cpu;
        for (kind, decay, want) in [
            // AdamW's first step is the learning rate in the direction of the gradient, after the decay.
            (OptimizerKind::AdamW, 0.1, 1.0 * (1.0 - 0.01 * 0.1) - 0.01),
            // Nesterov: gradient 2 + 0.9·2 at p = 1, plus the weight decay in both.
            (OptimizerKind::Sgd, 0.1, 1.0 - 0.01 * 1.9 * 2.1),
        ] {
            let p = Var::new(&[1f32], cpu).unwrap();
            let mut optimizer = Optimizer::new(kind, decay, vec![("p".into(), p.clone(), true)]).unwrap();
            let grads = p.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            optimizer.step(&grads, 0.01, None).unwrap();
            let got = f64::from(p.to_vec1::<f32>().unwrap()[0]);
            assert!((got - want).abs() < 1e-6, "{kind:?}: {got} {want}");
        }
    }

    #[test]
    fn a_restored_state_gives_the_same_steps() {
        let cpu = &Device::Cpu;
        for kind in [OptimizerKind::AdamW, OptimizerKind::Sgd] {
            let run = |cut: Option<u32>| {
                let p = Var::new(&[1f32, -2.0, 3.0], cpu).unwrap();
                let named = || vec![("p".to_owned(), p.clone(), true)];
                let mut optimizer = Optimizer::new(kind, 0.01, named()).unwrap();
                for step in 0..10 {
                    if cut == Some(step) {
                        let (state, steps) = optimizer.state().unwrap();
                        optimizer = Optimizer::new(kind, 0.01, named()).unwrap();
                        optimizer.restore(&state, steps).unwrap();
                    }
                    let grads = p.powf(4.0).unwrap().sum_all().unwrap().backward().unwrap();
                    optimizer.step(&grads, 0.01, Some(1.0)).unwrap();
                }
                p.to_vec1::<f32>().unwrap()
            };
            assert_eq!(run(None), run(Some(4)), "{kind:?}");
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_no_parameter() {
        let p = Var::new(&[0f32, 4.0], &Device::Cpu).unwrap();
        let mut optimizer = Optimizer::new(OptimizerKind::AdamW, 0.1, vec![("p".into(), p.clone(), true)]).unwrap();
        // The slope of the root is infinite at 0.
        let grads = p.sqrt().unwrap().sum_all().unwrap().backward().unwrap();
        assert!(!optimizer.step(&grads, 0.1, Some(1.0)).unwrap().is_finite());
        assert_eq!((p.to_vec1::<f32>().unwrap(), optimizer.state().unwrap().1), (vec![0.0, 4.0], 0));
    }

    #[test]
    fn clipping_bounds_the_step_and_the_schedule_warms_up_and_ends_at_zero() {
        let p = Var::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        let mut optimizer = Optimizer::new(OptimizerKind::Sgd, 0.0, vec![("p".into(), p.clone(), true)]).unwrap();
        let grads = (p.as_tensor() * 100.0).unwrap().sum_all().unwrap().backward().unwrap();
        optimizer.step(&grads, 1.0, Some(1.0)).unwrap();
        // The clipped gradient has length 1; Nesterov makes it 1.9 long.
        let moved = p.to_vec1::<f32>().unwrap();
        let length = ((3.0 - moved[0]).powi(2) + (4.0 - moved[1]).powi(2)).sqrt();
        assert!((length - 1.9).abs() < 1e-4, "{length}");
        assert!((cosine(0, 100, 10, 1.0) - 0.1).abs() < 1e-12);
        assert!((cosine(9, 100, 10, 1.0) - 1.0).abs() < 1e-12);
        assert!((cosine(55, 100, 10, 1.0) - 0.5).abs() < 1e-12);
        assert!(cosine(99, 100, 10, 1.0) < 0.001 && cosine(500, 100, 10, 1.0) < 1e-12);
    }
}
