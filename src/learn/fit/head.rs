//! Step 1: the classifier alone, trained to its optimum on the features of the frozen network.
//!
//! Step 1 counts as one epoch, regardless of its number of passes, and is validated once. It is deterministic and short compared
//! to step 2, so it has no checkpoint: a run that is interrupted in step 1 repeats it.

use std::time::Instant;

use candle_core::{Device, Tensor};

use super::Observer;
use super::classifier::{FitInput, FitStep, fit};
use super::training_loop::Work;
use crate::record::{LogLine, StepRecord};
use touchline_core::error::{Error, Result};

impl Work<'_> {
    /// Fits the classifier. Returns the reason if the whole run ends.
    pub(super) fn head(&mut self, observer: &mut dyn Observer) -> Result<Option<String>> {
        if self.state.epoch > 1 {
            // Step 1 was complete when the run was interrupted.
            return Ok(None);
        }
        let (of, config) = (self.fit, self.fit.config);
        let samples = of.train;
        // The penalty is made for features of about unit size. Those of CLIP and SigLIP are vectors of length 1.
        let scale = of.net.encoder().map_or(1.0, |_| of.rows.mean_square());
        let material = FitInput {
            features: &|chosen| {
                let rows: Vec<u32> = chosen.iter().map(|i| samples.rows[*i as usize]).collect();
                of.rows.pooled(&rows, &Device::Cpu)
            },
            labels: &samples.labels,
            weights: &samples.weights,
            classes: of.names.len(),
            width: of.rows.width,
            smoothing: config.label_smoothing,
            penalty: config.head.penalty * scale,
            offsets: &[],
        };
        let n = samples.len() as u64;
        let began = Instant::now();
        let mut before = began;
        let fitted = fit(&material, config.head.steps as usize, &mut |progress| {
            self.head_step(progress, n, &mut before, observer)
        })?;
        if !fitted.at.loss.is_finite() {
            let cause = format!("{}: cannot fit the classifier: a feature is not a number", of.modality);
            return Err(Error::data(of.dir, cause, "choose other first weights with --init"));
        }
        let [(_, weight, _), (_, bias, _)] = &of.net.parameters(of.net.blocks())[..] else {
            return Err(Error::Internal("the classifier must have a weight and a bias".into()));
        };
        weight.set(&Tensor::from_vec(fitted.weight, weight.dims(), weight.device())?)?;
        bias.set(&Tensor::from_vec(fitted.bias, bias.dims(), bias.device())?)?;
        self.state.sums = (fitted.at.loss * n as f64, fitted.at.right, n, began.elapsed().as_secs_f64());
        self.epoch_end(1, None, observer)
    }

    /// Logs and reports a step of L-BFGS.
    fn head_step(&mut self, at: FitStep, n: u64, before: &mut Instant, observer: &mut dyn Observer) -> Result<()> {
        self.state.step += 1;
        self.images += n * at.passes;
        let took = before.elapsed().as_secs_f64();
        *before = Instant::now();
        let record = StepRecord {
            phase: self.state.phase,
            step: self.state.step,
            epoch: 1,
            loss: at.loss,
            accuracy: at.right as f64 / n as f64,
            // L-BFGS has no learning rate: a line search finds the length of each step.
            learning_rate: 0.0,
            images_per_second: (n * at.passes) as f64 / took.max(1e-9),
        };
        self.log.write(&LogLine::Step(record.clone()))?;
        observer.step(&record, u64::from(self.fit.config.head.steps));
        self.sample_resources()
    }
}
