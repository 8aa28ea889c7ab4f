//! AdamW and SGD, with state that can be saved and restored, so that an interrupted run can continue.
//!
//! Sources: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019 (AdamW, and the cosine schedule
//! from their *SGDR*, ICLR 2017); Sutskever et al., *On the importance of initialization and momentum*, ICML 2013 (SGD
//! with Nesterov's momentum, in PyTorch's form). Results equal those of PyTorch's `torch.optim.AdamW` and `torch.optim.SGD`.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
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

/// Updates parameters along their gradients.
#[derive(Debug)]
pub struct Optimizer {
    kind: OptimizerKind,
    weight_decay: f64,
    /// Name, variable, and whether weight decay applies.
    parameters: Vec<(String, Var, bool)>,
    /// First moments (AdamW) or velocities (SGD), in the order of the parameters.
    first: Vec<Tensor>,
    /// Second moments; empty for SGD.
    second: Vec<Tensor>,
    steps: u64,
}

impl Optimizer {
    /// Returns an optimizer of `parameters` (name, variable, whether weight decay applies) before its first step.
    ///
    /// # Errors
    /// When the moments cannot be allocated on the device.
    pub fn new(kind: OptimizerKind, weight_decay: f64, parameters: Vec<(String, Var, bool)>) -> Result<Self> {
        let zeros = || parameters.iter().map(|(_, v, _)| v.zeros_like()).collect::<Result<Vec<_>>>();
        let first = zeros()?;
        let second = if kind == OptimizerKind::AdamW { zeros()? } else { Vec::new() };
        Ok(Self { kind, weight_decay, parameters, first, second, steps: 0 })
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
        for (i, (_, var, decays)) in self.parameters.iter().enumerate() {
            let Some(grad) = grads.get(var) else { continue };
            let grad = if scale < 1.0 { (grad * scale)? } else { grad.clone() };
            let theta = var.as_detached_tensor();
            let decay = if *decays { self.weight_decay } else { 0.0 };
            let next = match self.kind {
                OptimizerKind::AdamW => {
                    let m = ((&self.first[i] * BETAS.0)? + (&grad * (1.0 - BETAS.0))?)?;
                    let v = ((&self.second[i] * BETAS.1)? + (grad.sqr()? * (1.0 - BETAS.1))?)?;
                    let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
                    let (m_hat, v_hat) = ((&m / (1.0 - BETAS.0.powi(steps)))?, (&v / (1.0 - BETAS.1.powi(steps)))?);
                    let update = (m_hat / (v_hat.sqrt()? + EPSILON)?)?;
                    (self.first[i], self.second[i]) = (m, v);
                    ((theta * (1.0 - learning_rate * decay))? - (update * learning_rate)?)?
                }
                OptimizerKind::Sgd => {
                    let grad = if decay > 0.0 { (grad + (&theta * decay)?)? } else { grad };
                    let velocity = if self.steps == 1 { grad.clone() } else { ((&self.first[i] * MOMENTUM)? + &grad)? };
                    let update = (grad + (&velocity * MOMENTUM)?)?;
                    self.first[i] = velocity;
                    (theta - (update * learning_rate)?)?
                }
            };
            var.set(&next.detach())?;
            self.first[i] = self.first[i].detach();
            if let Some(second) = self.second.get_mut(i) {
                *second = second.detach();
            }
        }
        Ok(length)
    }

    /// Returns the Euclidean norm of all gradients together.
    fn length(&self, grads: &GradStore) -> Result<f64> {
        let mut sum = 0f64;
        for (_, var, _) in &self.parameters {
            if let Some(grad) = grads.get(var) {
                sum += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
        }
        Ok(sum.sqrt())
    }

    /// Returns the moments by name (`first.NAME`, `second.NAME`), and the number of steps taken.
    pub fn state(&self) -> (Tensors, u64) {
        let mut all = Tensors::new();
        for (moment, name) in [(&self.first, "first"), (&self.second, "second")] {
            for (tensor, (parameter, _, _)) in moment.iter().zip(&self.parameters) {
                all.insert(format!("{name}.{parameter}"), tensor.clone());
            }
        }
        (all, self.steps)
    }

    /// Restores a state that [`Self::state`] returned.
    ///
    /// # Errors
    /// When a moment is missing or has another shape than its parameter.
    pub fn restore(&mut self, tensors: &Tensors, steps: u64) -> Result<()> {
        for (moment, name) in [(&mut self.first, "first"), (&mut self.second, "second")] {
            for (tensor, (parameter, var, _)) in moment.iter_mut().zip(&self.parameters) {
                let stored = tensors.get(&format!("{name}.{parameter}")).filter(|t| t.dims() == var.dims());
                let missing = || {
                    candle_core::Error::Msg(format!("the {name} moment of {parameter} is missing or has another shape"))
                        .bt()
                };
                *tensor = stored.ok_or_else(missing)?.clone();
            }
        }
        self.steps = steps;
        Ok(())
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
                        let (state, steps) = optimizer.state();
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
        assert_eq!((p.to_vec1::<f32>().unwrap(), optimizer.state().1), (vec![0.0, 4.0], 0));
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
