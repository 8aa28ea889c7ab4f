//! L-BFGS with a backtracking line search: minimises a smooth function of many variables.
//!
//! Source: Nocedal and Wright, *Numerical Optimization*, algorithms 7.4 and 3.1. Intended for convex functions: the line search
//! does not enforce the strong Wolfe conditions, and a step with non-positive curvature is not stored.

use std::collections::VecDeque;
use std::convert::Infallible;

/// Number of past steps that approximate the Hessian.
const MEMORY: usize = 10;

/// Share of the predicted decrease that a step must reach (Armijo condition).
const ARMIJO: f64 = 1e-4;

/// The function that is minimised.
pub trait Objective {
    /// Failure of an evaluation. It ends the minimisation.
    type Error;

    /// Writes the gradient at `x` into `gradient` and returns the value at `x`.
    ///
    /// # Errors
    /// When the value cannot be computed. The minimisation ends with this error.
    fn value(&mut self, x: &[f64], gradient: &mut [f64]) -> Result<f64, Self::Error>;

    /// Called after each accepted step. The new point is the one that [`Self::value`] received last.
    ///
    /// # Errors
    /// An error ends the minimisation.
    fn stepped(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

impl<F: FnMut(&[f64], &mut [f64]) -> f64> Objective for F {
    type Error = Infallible;

    fn value(&mut self, x: &[f64], gradient: &mut [f64]) -> Result<f64, Infallible> {
        Ok(self(x, gradient))
    }
}

/// Minimises `objective` from `x` and returns the last point. Stops after `steps` steps, when no component of the gradient
/// exceeds `tolerance` in magnitude, or when no step decreases the value any more.
///
/// # Errors
/// The errors of the objective.
pub fn minimise<O: Objective>(
    objective: &mut O,
    mut x: Vec<f64>,
    steps: usize,
    tolerance: f64,
) -> Result<Vec<f64>, O::Error> {
    let mut gradient = vec![0.0; x.len()];
    let mut value = objective.value(&x, &mut gradient)?;
    let mut memory: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::new();
    for _ in 0..steps {
        if gradient.iter().all(|g| g.abs() <= tolerance) {
            break;
        }
        let mut direction = direction(&gradient, &memory);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            memory.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
        }
        let length = slope.abs().sqrt().max(1e-12);
        let mut step = if memory.is_empty() { (1.0 / length).min(1.0) } else { 1.0 };
        let mut next_gradient = vec![0.0; x.len()];
        let accepted = loop {
            let next: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
            let next_value = objective.value(&next, &mut next_gradient)?;
            if next_value <= value + ARMIJO * step * slope {
                break Some((next, next_value));
            }
            step *= 0.5;
            if step < 1e-12 {
                break None;
            }
        };
        // No step decreases the value: this is the minimum within floating-point precision.
        let Some((next, next_value)) = accepted else { break };
        objective.stepped()?;
        let s: Vec<f64> = next.iter().zip(&x).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        let sy = dot(&s, &y);
        if sy > 1e-12 * dot(&y, &y) {
            if memory.len() == MEMORY {
                memory.pop_front();
            }
            memory.push_back((s, y, 1.0 / sy));
        }
        (x, value, gradient) = (next, next_value, next_gradient);
    }
    Ok(x)
}

/// Two-loop recursion: returns minus the inverse Hessian, approximated from `memory`, times the gradient. `memory` holds
/// (s, y, 1 / s·y) per step, oldest first.
fn direction(gradient: &[f64], memory: &VecDeque<(Vec<f64>, Vec<f64>, f64)>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.to_vec();
    let mut alphas = Vec::with_capacity(memory.len());
    for (s, y, rho) in memory.iter().rev() {
        let alpha = rho * dot(s, &q);
        q.iter_mut().zip(y).for_each(|(q, y)| *q -= alpha * y);
        alphas.push(alpha);
    }
    if let Some((_, y, rho)) = memory.back() {
        let scale = 1.0 / (rho * dot(y, y));
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for ((s, y, rho), alpha) in memory.iter().zip(alphas.into_iter().rev()) {
        let beta = rho * dot(y, &q);
        q.iter_mut().zip(s).for_each(|(q, s)| *q += (alpha - beta) * s);
    }
    q.iter_mut().for_each(|q| *q = -*q);
    q
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_minima_are_found() {
        // A stretched bowl, condition number 10⁴, lowest at (1, 2, 3, 4).
        let mut bowl = |x: &[f64], g: &mut [f64]| {
            let mut value = 0.0;
            for (i, x) in x.iter().enumerate() {
                let (stiffness, off) = (10f64.powi(i as i32 + i as i32 / 3), x - (i + 1) as f64);
                value += 0.5 * stiffness * off * off;
                g[i] = stiffness * off;
            }
            value
        };
        let found = minimise(&mut bowl, vec![0.0; 4], 200, 1e-9).unwrap();
        assert!(found.iter().zip([1.0, 2.0, 3.0, 4.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        let mut rosenbrock = |x: &[f64], g: &mut [f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            g[0] = -2.0 * a - 400.0 * x[0] * b;
            g[1] = 200.0 * b;
            a * a + 100.0 * b * b
        };
        let found = minimise(&mut rosenbrock, vec![-1.2, 1.0], 500, 1e-8).unwrap();
        assert!(found.iter().all(|x| (x - 1.0).abs() < 1e-5), "{found:?}");
    }
}
