//! AdamW and SGD, with their state open so that a run can go on where it was cut off.
//!
//! Sources: Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, ICLR 2019 (AdamW, and the cosine schedule
//! from their *SGDR*, ICLR 2017); Sutskever et al., *On the importance of initialization and momentum*, ICML 2013 (SGD
//! with Nesterov's momentum, in PyTorch's form). The numbers are PyTorch's `torch.optim.AdamW` and `torch.optim.SGD`.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use serde::{Deserialize, Serialize};

use touchline_compute::models::Tensors;

/// Which rule moves the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    AdamW,
    Sgd,
}

/// AdamW's decay of the first and second moment, and what keeps its quotient finite: PyTorch's defaults.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// SGD's momentum.
const MOMENTUM: f64 = 0.9;

/// Moves parameters along their gradients.
#[derive(Debug)]
pub struct Optimizer {
    kind: OptimizerKind,
    weight_decay: f64,
    /// Name, variable, whether decay applies.
    parameters: Vec<(String, Var, bool)>,
    /// First moments (AdamW) or velocities (SGD), in the order of the parameters.
    first: Vec<Tensor>,
    /// Second moments; empty for SGD.
    second: Vec<Tensor>,
    steps: u64,
}

impl Optimizer {
    /// # Errors
    /// When the device refuses.
    pub fn new(kind: OptimizerKind, weight_decay: f64, parameters: Vec<(String, Var, bool)>) -> Result<Self> {
        let zeros = || parameters.iter().map(|(_, v, _)| v.zeros_like()).collect::<Result<Vec<_>>>();
        let first = zeros()?;
        let second = if kind == OptimizerKind::AdamW { zeros()? } else { Vec::new() };
        Ok(Self { kind, weight_decay, parameters, first, second, steps: 0 })
    }

    pub fn parameters(&self) -> &[(String, Var, bool)] {
        &self.parameters
    }

    /// One step; gives the common length of the gradients. Parameters without a gradient stay, and all do when that length
    /// is not finite. With `clip`, gradients are scaled so that their common length is at most that (Pascanu et al., *On the
    /// difficulty of training recurrent neural networks*, ICML 2013).
    ///
    /// # Errors
    /// When the device refuses.
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

    /// Length of all gradients together.
    fn length(&self, grads: &GradStore) -> Result<f64> {
        let mut sum = 0f64;
        for (_, var, _) in &self.parameters {
            if let Some(grad) = grads.get(var) {
                sum += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
        }
        Ok(sum.sqrt())
    }

    /// The moments by name, and the number of steps.
    pub fn state(&self) -> (Tensors, u64) {
        let mut all = Tensors::new();
        for (moment, name) in [(&self.first, "first"), (&self.second, "second")] {
            for (tensor, (parameter, _, _)) in moment.iter().zip(&self.parameters) {
                all.insert(format!("{name}.{parameter}"), tensor.clone());
            }
        }
        (all, self.steps)
    }

    /// Sets what [`Self::state`] gave.
    ///
    /// # Errors
    /// When a moment is missing or of another shape.
    pub fn restore(&mut self, tensors: &Tensors, steps: u64) -> Result<()> {
        for (moment, name) in [(&mut self.first, "first"), (&mut self.second, "second")] {
            for (tensor, (parameter, var, _)) in moment.iter_mut().zip(&self.parameters) {
                let stored = tensors.get(&format!("{name}.{parameter}")).filter(|t| t.dims() == var.dims());
                let missing = || candle_core::Error::Msg(format!("the {name} moment of {parameter} is missing")).bt();
                *tensor = stored.ok_or_else(missing)?.clone();
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// Learning rate of step `step` of `steps` (from 0): rises linearly over `warm_up` steps, then falls to zero along half a
/// cosine.
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

    /// f(p) = Σ c·p², three steps by hand.
    #[test]
    fn first_steps_are_the_known_ones() {
        let cpu = &Device::Cpu;
        for (kind, decay, want) in [
            // AdamW's first step is the learning rate in the direction of the gradient, after the decay.
            (OptimizerKind::AdamW, 0.1, 1.0 * (1.0 - 0.01 * 0.1) - 0.01),
            // Nesterov: gradient 2 + 0.9·2 at p = 1, c = 1, plus the decay's share in both.
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
    fn state_goes_on_where_it_was() {
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
    fn a_gradient_that_is_no_number_moves_nothing() {
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
