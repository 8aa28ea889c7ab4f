//! Rules that watch a training and report problems with their figures.
//!
//! The rules read the losses and tensor summaries that the training logs, and change nothing. The definitions follow the built-in
//! rules of Amazon SageMaker Debugger (developer guide, "List of Debugger built-in rules"): LossNotDecreasing, Overtraining,
//! ExplodingTensor, VanishingGradient, DeadRelu and ClassImbalance. Here the loss rules count epochs instead of steps, and each rule
//! fires once per cause and phase instead of at every step.

mod tensors;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::record::{EpochRecord, Finding, Phase, RuleName, StepRecord};

/// Action when a rule fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRule {
    /// The run ends. Class imbalance never ends a run, because class weights may compensate for it.
    Stop,
    /// The finding is logged and the run continues.
    Warn,
}

/// Thresholds of the rules. The default is given at the end of each description.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleConfig {
    /// *Loss not decreasing*: number of last epochs that are compared with the epochs before them. 5.
    pub loss_epochs: u32,
    /// *Loss not decreasing*: the rule fires when the lowest training loss of the last epochs is not at least this share below the
    /// lowest loss before them, as long as the run has not learnt (see `learnt`). 0.01.
    pub loss_fall: f64,
    /// *Loss not decreasing*: the rule also fires when the training loss of each of the last epochs is more than this share above
    /// the median of as many epochs before them. 0.05.
    pub loss_rise: f64,
    /// A run has learnt once its training loss is this share below that of the first epoch. A constant loss then means
    /// convergence, which *over-training* covers. 0.1.
    pub learnt: f64,
    /// *Over-training*: number of epochs without a better training loss. 10, as in the study.
    pub patience_train: u32,
    /// *Over-training*: number of epochs without a better validation loss. 20, as in the study.
    pub patience_validation: u32,
    /// *Over-training*: minimum fall of a loss that counts as better. 0.01.
    pub delta: f64,
    /// *Exploding tensor*: maximum magnitude of a value. The rule also fires on NaN and infinite values. Larger values overflow
    /// f16, and soon f32. 1e6.
    pub exploding: f64,
    /// *Vanishing tensor*: minimum root mean square of the gradient of a weight; biases are ignored. 1e-7.
    pub vanishing: f64,
    /// *Dead ReLU*: maximum share of the channels of a layer that are 0 throughout a batch. 0.5.
    pub dead_channels: f64,
    /// *Vanishing tensor*, *dead ReLU*: number of consecutive collections of a tensor with the problem, because a single
    /// batch may be an exception. 2.
    pub in_a_row: u32,
    /// *Class imbalance*: maximum ratio of the samples of the largest class to those of the smallest. 10.
    pub imbalance: f64,
}

impl Default for RuleConfig {
    fn default() -> Self {
        Self {
            loss_epochs: 5,
            loss_fall: 0.01,
            loss_rise: 0.05,
            learnt: 0.1,
            patience_train: 10,
            patience_validation: 20,
            delta: 0.01,
            exploding: 1e6,
            vanishing: 1e-7,
            dead_channels: 0.5,
            in_a_row: 2,
            imbalance: 10.0,
        }
    }
}

/// The rules of one run, with their state.
#[derive(Clone, Debug)]
pub struct Rules {
    on_rule: OnRule,
    config: RuleConfig,
    state: RuleState,
}

/// State of the rules, saved in checkpoints so that a resumed run behaves like an uninterrupted one. Losses are stored as their
/// bits, because JSON has no NaN and a rounded digit would change results.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleState {
    /// Whether the loss has fallen by [`RuleConfig::learnt`], in this phase or an earlier one.
    learnt: bool,
    /// Whether class imbalance was reported.
    #[serde(rename = "classes_told")]
    classes_reported: bool,
    phase: Option<PhaseState>,
}

/// State of one phase. Each phase starts with a new one, because its learning rate, layers and loss differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PhaseState {
    phase: Phase,
    /// Training loss of each epoch so far.
    losses: Vec<u64>,
    last_loss: Option<u64>,
    train: Option<Best>,
    validation: Option<Best>,
    /// Causes that were reported: the rule and the name of the loss or tensor.
    #[serde(rename = "told")]
    reported: BTreeSet<(RuleName, String)>,
    /// Number of consecutive collections in which a tensor had a problem, by collection and name.
    suspects: BTreeMap<String, u32>,
}

/// The best loss so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
    /// Bits of the loss.
    loss: u64,
    epoch: u32,
}

/// Time of a finding.
#[derive(Clone, Copy)]
struct At {
    phase: Phase,
    step: u64,
    epoch: u32,
}

impl Rules {
    /// Rules of a new run.
    pub fn new(on_rule: OnRule, config: RuleConfig) -> Self {
        Self { on_rule, config, state: RuleState::default() }
    }

    /// Checks class imbalance. `train` has the number of training samples of each of the classes `names`. Call it whenever the run
    /// starts; a resumed run does not repeat the finding.
    pub fn classes(&mut self, names: &[String], train: &[u64]) -> Vec<Finding> {
        let counts: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(train.iter().copied()).collect();
        let (Some(most), Some(fewest)) = (counts.iter().max_by_key(|c| c.1), counts.iter().min_by_key(|c| c.1)) else {
            return Vec::new();
        };
        let few = |n: u64| n as f64 * self.config.imbalance < most.1 as f64;
        if self.state.classes_reported || !few(fewest.1) {
            return Vec::new();
        }
        self.state.classes_reported = true;
        let mut rare: Vec<_> = counts.iter().filter(|c| few(c.1)).collect();
        rare.sort_by_key(|c| c.1);
        let list = listed(rare.iter().map(|(name, n)| format!("{name} {n}")));
        let evidence = format!(
            "{} of {} classes have less than 1/{} of the samples of {} ({}): {list}",
            rare.len(),
            counts.len(),
            self.config.imbalance,
            most.0,
            most.1,
        );
        vec![self.finding(RuleName::ClassImbalance, At { phase: Phase::Head, step: 0, epoch: 0 }, evidence)]
    }

    /// Checks that the loss of a step is finite (exploding tensor).
    pub fn step(&mut self, step: &StepRecord) -> Vec<Finding> {
        let at = At { phase: step.phase, step: step.step, epoch: step.epoch };
        let phase = self.enter(step.phase);
        let before = phase.last_loss.replace(step.loss.to_bits()).map(f64::from_bits);
        if step.loss.is_finite() || !phase.reported.insert((RuleName::ExplodingTensor, "loss".into())) {
            return Vec::new();
        }
        let before = before.map_or(String::new(), |loss| format!(", after {loss:.4} the step before"));
        let evidence = format!("the loss is {}{before}, at a learning rate of {:.2e}", step.loss, step.learning_rate);
        vec![self.finding(RuleName::ExplodingTensor, at, evidence)]
    }

    /// Checks an epoch: loss not decreasing, over-training, and losses that are not finite.
    pub fn epoch(&mut self, epoch: &EpochRecord) -> Vec<Finding> {
        let at = At { phase: epoch.phase, step: epoch.step, epoch: epoch.epoch };
        let config = self.config.clone();
        let mut learnt = self.state.learnt;
        let phase = self.enter(epoch.phase);
        let mut found = Vec::new();
        let losses = [("training", Some(epoch.train_loss)), ("validation", epoch.validation.map(|v| v.loss))];
        for (side, loss) in losses {
            // If the training loss became infinite or NaN at a step, that step has reported it.
            let broke = loss.is_some_and(|loss| !loss.is_finite());
            let known = side == "training" && phase.reported.contains(&(RuleName::ExplodingTensor, "loss".into()));
            if broke && phase.reported.insert((RuleName::ExplodingTensor, side.into())) && !known {
                let text = format!("the {side} loss of the epoch is {}", loss.unwrap_or(f64::NAN));
                found.push((RuleName::ExplodingTensor, text));
            }
        }
        if epoch.train_loss.is_finite() {
            phase.losses.push(epoch.train_loss.to_bits());
            let losses: Vec<f64> = phase.losses.iter().map(|bits| f64::from_bits(*bits)).collect();
            learnt |= epoch.train_loss < losses[0] * (1.0 - config.learnt);
            if let Some((cause, evidence)) = not_decreasing(&losses, learnt, &config)
                && phase.reported.insert((RuleName::LossNotDecreasing, cause.into()))
            {
                found.push((RuleName::LossNotDecreasing, evidence));
            }
        }
        let sides = [
            ("training", losses[0].1, &mut phase.train, config.patience_train),
            ("validation", losses[1].1, &mut phase.validation, config.patience_validation),
        ];
        for (side, loss, best, patience) in sides {
            let Some(loss) = loss.filter(|loss| loss.is_finite()) else { continue };
            let Some(stale) = stale(best, loss, epoch.epoch, patience, config.delta) else { continue };
            // Before the run has learnt, a constant loss is a loss that does not decrease, not over-training.
            if learnt && phase.reported.insert((RuleName::OverTraining, side.into())) {
                let (best, since) = (f64::from_bits(stale.loss), epoch.epoch.saturating_sub(stale.epoch));
                let evidence = format!(
                    "the {side} loss has not fallen by {} in {since} epochs: {best:.4} in epoch {}, now {loss:.4}",
                    config.delta, stale.epoch
                );
                found.push((RuleName::OverTraining, evidence));
            }
        }
        self.state.learnt = learnt;
        found.into_iter().map(|(rule, evidence)| self.finding(rule, at, evidence)).collect()
    }

    /// Returns the state for a checkpoint.
    pub fn state(&self) -> serde_json::Value {
        serde_json::to_value(&self.state).expect("plain numbers and strings are always JSON")
    }

    /// Restores a state from [`Rules::state`].
    ///
    /// # Errors
    /// When the state does not fit, because another version wrote it or it was changed by hand.
    pub fn restore(&mut self, state: &serde_json::Value) -> Result<(), String> {
        self.state = RuleState::deserialize(state).map_err(|e| format!("the state of the rules does not fit: {e}"))?;
        Ok(())
    }

    /// Returns the state of `phase`, a new one when the phase begins.
    fn enter(&mut self, phase: Phase) -> &mut PhaseState {
        let fits = self.state.phase.as_ref().is_some_and(|p| p.phase == phase);
        if !fits {
            self.state.phase = None;
        }
        self.state.phase.get_or_insert_with(|| PhaseState {
            phase,
            losses: Vec::new(),
            last_loss: None,
            train: None,
            validation: None,
            reported: BTreeSet::new(),
            suspects: BTreeMap::new(),
        })
    }

    fn finding(&self, rule: RuleName, at: At, evidence: String) -> Finding {
        let stopped = self.on_rule == OnRule::Stop && rule != RuleName::ClassImbalance;
        Finding { rule, phase: at.phase, step: at.step, epoch: at.epoch, evidence, stopped }
    }
}

/// Returns cause and evidence when the training losses of the epochs so far do not decrease; `None` when they do.
fn not_decreasing(losses: &[f64], learnt: bool, config: &RuleConfig) -> Option<(&'static str, String)> {
    let n = config.loss_epochs as usize;
    if n == 0 || losses.len() <= n {
        return None;
    }
    let (before, last) = losses.split_at(losses.len() - n);
    let lowest = |losses: &[f64]| losses.iter().copied().fold(f64::INFINITY, f64::min);
    let (low_before, low_last) = (lowest(before), lowest(last));
    if !learnt && low_last > low_before * (1.0 - config.loss_fall) {
        let percent = 100.0 * config.loss_fall;
        let text =
            format!("the training loss has not fallen by {percent} % in {n} epochs: {low_before:.4} → {low_last:.4}");
        return Some(("standstill", text));
    }
    let mut earlier = before.get(before.len().checked_sub(n)?..)?.to_vec();
    earlier.sort_by(f64::total_cmp);
    let median = earlier[n / 2];
    // The absolute threshold ignores the noise of a loss near 0.
    if low_last > median * (1.0 + config.loss_rise) && low_last > median + config.delta {
        let percent = 100.0 * (low_last / median - 1.0);
        let text = format!(
            "the training loss rises: the lowest of the last {n} epochs is {low_last:.4}, {percent:.1} % above the \
             {median:.4} of the {n} before"
        );
        return Some(("rise", text));
    }
    None
}

/// Updates `best` with the loss of an epoch. Returns the best loss when it is at least `patience` epochs old.
fn stale(best: &mut Option<Best>, loss: f64, epoch: u32, patience: u32, delta: f64) -> Option<Best> {
    let better = best.is_none_or(|best| loss < f64::from_bits(best.loss) - delta);
    if better {
        *best = Some(Best { loss: loss.to_bits(), epoch });
        return None;
    }
    best.filter(|best| epoch.saturating_sub(best.epoch) >= patience)
}

/// Joins the first few items, and appends the number of the others.
fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let more = items.len().saturating_sub(SHOWN);
    let mut text = items.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
