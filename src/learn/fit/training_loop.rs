//! Epochs, steps, validation and checkpoints of a run.

use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use rand::seq::SliceRandom;

use super::average::WeightAverage;
use super::batch::{Mixture, MixtureConfig, dropout, log_softmax_loss, right, tensors};
use super::checkpoint::{self, BEST, BestWeights, CHECKPOINT, TrainState};
use super::log::Log;
use super::order::epoch_order;
use super::{Fit, Observer, Outcome, watch};
use crate::augment;
use crate::classes::Samples;
use crate::measure::Confusion;
use crate::net::Watched;
use crate::optimizer::{Optimizer, cosine};
use crate::record::{EpochRecord, Finding, LogLine, Phase, RunEnd, Start, StepRecord, Validation};
use crate::resources::Resources;
use crate::rows::Rows;
use crate::rules::{RuleConfig, Rules};
use touchline_compute::gpu::GpuError;
use touchline_compute::models::Tensors;
use touchline_core::error::{Error, Result};
use touchline_core::labels::ClassId;

/// Validation rows in one batch.
const VALIDATION_BATCH: usize = 64;

/// Seconds between samples of the process's resource use.
const RESOURCES_EVERY_S: f64 = 5.0;

/// Trains one modality. With `resume`, an interrupted run continues from its last checkpoint, and a run that has ended is
/// left unchanged.
///
/// # Errors
/// [`Error::Data`] when there are no training samples, the directory contains another run, or the loss or its gradient is no
/// longer finite; [`Error::Output`] when the run directory cannot be written.
pub fn run(fit: &Fit<'_>, resume: bool, observer: &mut dyn Observer) -> Result<Outcome> {
    if fit.train.is_empty() {
        let cause = format!("{}: no training samples could be read", fit.modality);
        return Err(Error::data(fit.dir, cause, "check the skipped items and the split"));
    }
    prepare(fit.dir, resume, &fit.ground)?;
    let path = fit.dir.join(CHECKPOINT);
    let mut rules = Rules::new(fit.config.on_rule, RuleConfig::default());
    let (state, moments) = if path.is_file() {
        let (tensors, state) = checkpoint::load(&path)?;
        fit.net.restore(&tensors)?;
        let bad = |e| Error::data(&path, e, "delete the run's directory and start again");
        rules.restore(&state.rules).map_err(bad)?;
        (state, Some(tensors))
    } else {
        let first = if fit.config.head.steps > 0 { Phase::Head } else { Phase::Tune };
        (TrainState::begin(fit.ground.clone(), first, rules.state()), None)
    };
    if let Some(cause) = &state.ended {
        return Ok(outcome(state.best_or_none(), cause.clone(), state.step));
    }
    let log = Log::open(fit.dir, state.log_bytes)?;
    let mut work = Work {
        fit,
        state,
        log,
        rules,
        resources: Resources::start(),
        began: Instant::now(),
        images: 0,
        sampled_s: 0.0,
        losses: Vec::new(),
        average: None,
    };
    work.start(observer)?;
    work.phases(moments, observer).map_err(|e| with_advice(e, fit.net.device()))
}

/// Adds advice to the failure of a GPU.
fn with_advice(error: Error, device: &Device) -> Error {
    let Error::Compute(text) = &error else { return error };
    if device.is_cpu() {
        return error;
    }
    match GpuError::of_text(text) {
        GpuError::OutOfMemory(line) => Error::Device(format!(
            "the GPU has too little memory for this training ({line}); train into another -o with a smaller --batch, with \
             --mixed-precision, or with fewer blocks (--unfreeze)"
        )),
        GpuError::Device(line) => {
            Error::Device(format!("the GPU failed ({line}); continue with --resume, or with --device cpu"))
        }
        GpuError::Unusable(_) | GpuError::Refused(_) => error,
    }
}

/// Creates the directory of a run. Rejects a directory that contains a run, unless `resume` is set and that run has the same
/// `ground`. Call this early, because the work before the first step may take hours.
///
/// # Errors
/// [`Error::Data`] for a directory that contains another run, [`Error::Output`] for one that cannot be created.
pub fn prepare(dir: &Path, resume: bool, ground: &str) -> Result<()> {
    let path = dir.join(CHECKPOINT);
    if path.is_file() {
        if !resume {
            let advice = "add --resume to continue it, or choose another -o";
            return Err(Error::data(dir, "already contains a training run", advice));
        }
        if checkpoint::load(&path)?.1.ground != ground {
            let cause = "contains a training run of other material or with other settings";
            return Err(Error::data(dir, cause, "use the same options, or choose another -o"));
        }
    }
    std::fs::create_dir_all(dir)
        .map_err(|e| Error::output(dir.display().to_string(), format!("cannot be created: {e}"), "choose another -o"))
}

impl TrainState {
    /// Returns the best weights so far; epoch 0 stands for none, before the end of the first epoch.
    fn best_or_none(&self) -> BestWeights {
        self.kept.unwrap_or(BestWeights { phase: self.phase, epoch: 0, figures: None })
    }

    /// The state at the beginning of `phase`.
    fn begin(ground: String, phase: Phase, rules: serde_json::Value) -> Self {
        Self {
            ground,
            phase,
            epoch: 1,
            batches: 0,
            step: 0,
            optimizer_steps: 0,
            sums: (0.0, 0, 0, 0.0),
            kept: None,
            since_kept: 0,
            rules,
            log_bytes: 0,
            elapsed_s: 0.0,
            ended: None,
        }
    }
}

fn outcome(kept: BestWeights, cause: String, steps: u64) -> Outcome {
    let validation_f1 = kept.figures.map(|f| f.0);
    Outcome { best_phase: kept.phase, best_epoch: kept.epoch, validation_f1, cause, steps }
}

/// A run in progress.
pub(super) struct Work<'a> {
    pub fit: &'a Fit<'a>,
    pub state: TrainState,
    pub log: Log,
    rules: Rules,
    resources: Resources,
    began: Instant,
    /// Samples processed since the process started, over all passes.
    pub images: u64,
    /// Time of the last resource sample, in seconds since `began`.
    sampled_s: f64,
    /// Losses of the steps since the last collection of tensors.
    losses: Vec<f32>,
    /// The averaged weights in step 2, with [`FitConfig::average`](super::FitConfig::average).
    average: Option<WeightAverage>,
}

impl Work<'_> {
    fn start(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let fit = self.fit;
        let counts = fit.train.counts(fit.names.len());
        self.log.write(&LogLine::Start(Start {
            modality: fit.modality,
            architecture: fit.net.architecture(),
            classes: fit.names.to_vec(),
            train: counts.clone(),
            validation: fit.validation.counts(fit.names.len()),
            trainable_parameters: fit.parameters.1,
            parameters: fit.parameters.0,
            seed: fit.config.seed,
            settings: fit.settings.clone(),
            resumed_at: self.state.step,
        }))?;
        if self.state.step > 0 {
            observer.note(&format!("{}: continues after step {}", fit.modality, self.state.step));
        }
        let findings = self.rules.classes(fit.names, &counts);
        self.findings(findings, observer).map(drop)
    }

    fn phases(&mut self, moments: Option<Tensors>, observer: &mut dyn Observer) -> Result<Outcome> {
        let moments = moments.filter(|_| self.state.phase == Phase::Tune);
        if self.state.phase == Phase::Head {
            let cause = self.head(observer)?;
            if cause.is_some() || self.fit.config.tune.epochs == 0 {
                return self.end(cause.unwrap_or_else(|| "finished".into()), None);
            }
            let TrainState { ground, step, kept, rules, log_bytes, elapsed_s, .. } = self.state.clone();
            let fresh = TrainState::begin(ground, Phase::Tune, rules);
            self.state = TrainState { step, kept, log_bytes, elapsed_s, ..fresh };
        }
        let config = self.fit.config;
        let parameters = self.fit.net.parameters(self.fit.frozen);
        let mut optimizer = Optimizer::new(config.optimizer, config.weight_decay, parameters)?;
        if let Some(moments) = &moments {
            optimizer.restore(moments, self.state.optimizer_steps)?;
        }
        self.average = WeightAverage::begin(config.average, self.fit.net, self.fit.frozen, moments.as_ref())?;
        let cause = self.tune(&mut optimizer, observer)?.unwrap_or_else(|| "finished".into());
        self.end(cause, Some(&optimizer))
    }

    fn end(&mut self, cause: String, optimizer: Option<&Optimizer>) -> Result<Outcome> {
        let kept = self.state.best_or_none();
        let took_s = self.elapsed();
        self.log.write(&LogLine::End(RunEnd {
            step: self.state.step,
            cause: cause.clone(),
            best_phase: kept.phase,
            best_epoch: kept.epoch,
            took_s,
        }))?;
        self.state.ended = Some(cause.clone());
        self.checkpoint(optimizer)?;
        Ok(outcome(kept, cause, self.state.step))
    }

    fn elapsed(&self) -> f64 {
        self.state.elapsed_s + self.began.elapsed().as_secs_f64()
    }

    /// Runs the epochs of step 2. Returns the reason if they end early.
    fn tune(&mut self, optimizer: &mut Optimizer, observer: &mut dyn Observer) -> Result<Option<String>> {
        let config = self.fit.config.tune;
        while self.state.epoch <= config.epochs {
            // The check comes before an epoch, because a run may have been interrupted after the previous one.
            let patience = self.fit.config.patience;
            if patience > 0 && self.state.since_kept >= patience && self.state.batches == 0 {
                let text = format!("no improvement on validation for {patience} epochs");
                observer.note(&format!("{}: {text}; this step ends early", self.fit.modality));
                return Ok(Some(format!("early stop: {text}")));
            }
            let fresh = self.fit.fresh.map(|rows| rows.of_epoch(self.state.epoch, observer)).transpose()?;
            let (rows, train) = fresh.as_ref().map_or((self.fit.rows, self.fit.train), |(rows, train)| (rows, train));
            let samples = config.samples.map_or(train.len(), |n| n.clamp(1, train.len()));
            let batches = samples.div_ceil(config.batch.max(1)) as u64;
            let total = batches * u64::from(config.epochs);
            let order = self.order(train.len(), samples);
            let chunks: Vec<&[u32]> = order.chunks(order.len().div_ceil(batches as usize)).collect();
            while (self.state.batches as usize) < chunks.len() {
                let chosen = chunks[self.state.batches as usize];
                if let Some(cause) = self.step((rows, train), chosen, total, optimizer, observer)? {
                    return Ok(Some(cause));
                }
            }
            if let Some(cause) = self.epoch_end(config.epochs, Some(optimizer), observer)? {
                return Ok(Some(cause));
            }
        }
        Ok(None)
    }

    /// Returns the samples of the current epoch, shuffled: `samples` of `all`.
    fn order(&self, all: usize, samples: usize) -> Vec<u32> {
        let shuffled = |pass: u64| {
            let mut order: Vec<u32> = (0..all as u32).collect();
            order.shuffle(&mut augment::rng(self.fit.config.seed, 2 << 32 | pass, 1));
            order
        };
        epoch_order(all, samples, self.state.epoch, shuffled)
    }

    /// Takes one optimiser step on the samples `chosen` of `train`, whose rows are in `rows`. `total` is the number of steps of the phase. Returns the reason if the
    /// run ends.
    fn step(
        &mut self,
        (rows, train): (&Rows, &Samples),
        chosen: &[u32],
        total: u64,
        optimizer: &mut Optimizer,
        observer: &mut dyn Observer,
    ) -> Result<Option<String>> {
        let (fit, config, phase) = (self.fit, self.fit.config, self.fit.config.tune);
        let began = Instant::now();
        let device = fit.net.device();
        let labels: Vec<u32> = chosen.iter().map(|i| train.labels[*i as usize]).collect();
        let weights: Vec<f32> = chosen.iter().map(|i| train.weights[*i as usize]).collect();
        let places: Vec<u32> = chosen.iter().map(|i| train.rows[*i as usize]).collect();
        let step = self.state.step + 1;
        let mut rng = augment::rng(config.seed, step, 2);
        let (targets, weights) = tensors(&labels, weights, fit.names.len(), config.label_smoothing, device)?;
        let mix = MixtureConfig { mixup: config.mixup, cutmix: config.cutmix };
        let mix = Mixture::draw(mix, places.len(), &mut rng);
        let collects = config.tensors_every > 0 && step.is_multiple_of(config.tensors_every);
        let mut watched = Watched::default();
        let x = rows.activations(&places, device)?;
        let (x, targets) = mix.map_or(Ok((x.clone(), targets.clone())), |mix| mix.apply(&x, &targets))?;
        let pass = fit.net.learn(&x, fit.frozen, collects.then_some(&mut watched))?;
        let logits = fit.net.classify(&dropout(pass.features(), config.dropout, &mut rng)?)?;
        let loss = log_softmax_loss(&logits, &targets, &weights)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        let right = right(&logits, &labels)?;
        let batches = total / u64::from(phase.epochs.max(1));
        let warm_up = (config.warm_up_epochs * batches as f64).round() as u64;
        let at = u64::from(self.state.epoch - 1) * batches + self.state.batches;
        let rate = cosine(at, total, warm_up, phase.learning_rate);
        let grads = pass.backward(&loss)?;
        // A loss or gradient that is not finite changes no weights.
        let finite = value.is_finite() && optimizer.step(&grads, rate, config.clip_norm)?.is_finite();
        if finite && let Some(average) = &mut self.average {
            average.add(fit.net, self.state.optimizer_steps)?;
        }
        self.state.step = step;
        self.state.batches += 1;
        self.state.optimizer_steps += 1;
        let n = places.len() as u64;
        let took = began.elapsed().as_secs_f64();
        let sums = &mut self.state.sums;
        *sums = (sums.0 + value * n as f64, sums.1 + right, sums.2 + n, sums.3 + took);
        self.images += n;
        self.losses.push(value as f32);
        let record = StepRecord {
            phase: self.state.phase,
            step,
            epoch: self.state.epoch,
            loss: value,
            accuracy: right as f64 / n as f64,
            learning_rate: rate,
            images_per_second: n as f64 / took.max(1e-9),
        };
        let mut findings = self.rules.step(&record);
        if collects {
            let summaries = watch::collect(fit.dir, step, &self.losses, optimizer, &grads, &watched)?;
            self.losses.clear();
            findings.extend(self.rules.tensors(self.state.phase, step, self.state.epoch, &summaries));
        }
        if value.is_finite() {
            self.log.write(&LogLine::Step(record.clone()))?;
        }
        observer.step(&record, total);
        let stopped = self.findings(findings, observer)?;
        if !finite {
            let cause = format!("{}: the loss is {value} at step {step}, or its gradient is not finite", fit.modality);
            let advice =
                "train into another -o with a lower --learning-rate or --clip-norm; the best weights so far remain";
            return Err(Error::data(fit.dir, cause, advice));
        }
        self.sample_resources()?;
        if stopped.is_some() || (config.checkpoint_every > 0 && step.is_multiple_of(config.checkpoint_every)) {
            self.checkpoint(Some(optimizer))?;
        }
        Ok(stopped)
    }

    /// Logs the resource use, if the last sample is [`RESOURCES_EVERY_S`] old.
    pub(super) fn sample_resources(&mut self) -> Result<()> {
        let now = self.began.elapsed().as_secs_f64();
        if now - self.sampled_s < RESOURCES_EVERY_S {
            return Ok(());
        }
        self.sampled_s = now;
        let sample = self.resources.sample(self.images);
        self.log.write(&LogLine::Resources(sample))
    }

    /// Reports and logs findings. Returns the reason if one of them ends the run.
    fn findings(&mut self, findings: Vec<Finding>, observer: &mut dyn Observer) -> Result<Option<String>> {
        let mut stopped = None;
        for finding in findings {
            observer.finding(&finding);
            if finding.stopped && stopped.is_none() {
                stopped = Some(format!("stopped by a rule: {}", finding.evidence));
            }
            self.log.write(&LogLine::Finding(finding))?;
        }
        Ok(stopped)
    }

    /// Ends an epoch: validates, saves the weights if they are the best so far, logs the epoch and writes a checkpoint. Returns the
    /// reason if the run ends.
    pub(super) fn epoch_end(
        &mut self,
        epochs: u32,
        optimizer: Option<&Optimizer>,
        observer: &mut dyn Observer,
    ) -> Result<Option<String>> {
        let last = self.average.as_ref().map(|average| average.enter(self.fit.net)).transpose()?;
        let validation = self.validate()?;
        // A loss that is not finite counts as the worst, and JSON has no infinity.
        let figures = validation.map(|v| (v.macro_f1, if v.loss.is_finite() { v.loss } else { f64::MAX }));
        let better = match (self.state.kept.and_then(|k| k.figures), figures) {
            (Some(before), Some(now)) => now.0 > before.0 || (now.0 == before.0 && now.1 < before.1),
            // Without validation the last epoch counts as the best.
            _ => true,
        };
        if better {
            self.state.kept = Some(BestWeights { phase: self.state.phase, epoch: self.state.epoch, figures });
            self.state.since_kept = 0;
            checkpoint::write(&self.fit.dir.join(BEST), &self.fit.net.tensors()?, None)?;
        } else {
            self.state.since_kept += 1;
        }
        if let Some(last) = &last {
            self.fit.net.restore(last)?;
        }
        let (loss, right, n, took_s) = self.state.sums;
        let record = EpochRecord {
            phase: self.state.phase,
            step: self.state.step,
            epoch: self.state.epoch,
            epochs,
            train_loss: loss / n.max(1) as f64,
            train_accuracy: right as f64 / n.max(1) as f64,
            validation,
            took_s,
            images_per_second: n as f64 / took_s.max(1e-9),
            best: better,
        };
        observer.epoch(&record);
        let findings = self.rules.epoch(&record);
        self.log.write(&LogLine::Epoch(record))?;
        self.state.epoch += 1;
        self.state.batches = 0;
        self.state.sums = (0.0, 0, 0, 0.0);
        let stopped = self.findings(findings, observer)?;
        self.checkpoint(optimizer)?;
        Ok(stopped)
    }

    fn checkpoint(&mut self, optimizer: Option<&Optimizer>) -> Result<()> {
        let (moments, steps) = optimizer.map(Optimizer::state).transpose()?.unwrap_or_default();
        let mut tensors = self.fit.net.tensors()?;
        tensors.extend(moments);
        tensors.extend(self.average.iter().flat_map(WeightAverage::state));
        let elapsed_s = self.elapsed();
        self.state.optimizer_steps = steps;
        self.state.rules = self.rules.state();
        self.state.log_bytes = self.log.bytes();
        let state = TrainState { elapsed_s, ..self.state.clone() };
        checkpoint::save(&self.fit.dir.join(CHECKPOINT), &tensors, &state)
    }

    /// Returns loss, accuracy and macro F1 on the validation samples; `None` without any.
    fn validate(&self) -> Result<Option<Validation>> {
        let (fit, samples) = (self.fit, self.fit.validation);
        if samples.is_empty() {
            return Ok(None);
        }
        let device = fit.net.device();
        let mut confusion = Confusion::new(fit.names.len());
        let (mut loss, mut weight) = (0f64, 0f64);
        let all: Vec<usize> = (0..samples.len()).collect();
        for chosen in all.chunks(VALIDATION_BATCH) {
            let rows: Vec<u32> = chosen.iter().map(|i| samples.rows[*i]).collect();
            let labels: Vec<u32> = chosen.iter().map(|i| samples.labels[*i]).collect();
            let weights: Vec<f32> = chosen.iter().map(|i| samples.weights[*i]).collect();
            let features = if self.state.phase == Phase::Head {
                fit.rows.pooled(&rows, device)?
            } else {
                let x = fit.rows.activations(&rows, device)?;
                fit.net.pool(&fit.net.run(&x, fit.frozen, fit.net.blocks())?)?
            };
            let logits = fit.net.classify_fixed(&features)?;
            let sum: f32 = weights.iter().sum();
            let (targets, weights) = tensors(&labels, weights, fit.names.len(), 0.0, device)?;
            loss += f64::from(sum) * f64::from(log_softmax_loss(&logits, &targets, &weights)?.to_scalar::<f32>()?);
            weight += f64::from(sum);
            for (row, label) in logits.to_vec2::<f32>()?.iter().zip(labels) {
                confusion.add(ClassId(label as u16), ClassId(touchline_core::fusion::argmax(row) as u16));
            }
        }
        Ok(Some(Validation {
            loss: loss / weight.max(1e-12),
            accuracy: confusion.accuracy(),
            macro_f1: confusion.macro_f1(),
        }))
    }
}
