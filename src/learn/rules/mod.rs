//! Rules that watch a training and say, with numbers, when it goes wrong.
//!
//! They look at what the training writes down anyway (losses, tensors in numbers); they change nothing. The definitions
//! follow the built-in rules of Amazon SageMaker Debugger (its developer guide, "List of Debugger built-in rules"):
//! LossNotDecreasing, Overtraining, ExplodingTensor, VanishingGradient, DeadRelu and ClassImbalance. Here the loss rules
//! count epochs instead of steps, and each rule fires once per cause and phase instead of at every step.

mod tensors;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::record::{EpochRecord, Finding, Phase, RuleName, StepRecord};

/// What happens when a rule fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRule {
    /// The run ends. Class imbalance alone never ends a run: class weights may make up for it.
    Stop,
    /// The finding is written down and the run goes on.
    Warn,
}

/// Thresholds of the rules.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleConfig {
    /// *Loss not decreasing* compares the last so many epochs with what was before them. 5.
    pub loss_epochs: u32,
    /// The run stands still when the lowest training loss of those epochs is not at least this share under the lowest
    /// before them, while it has not learnt yet (see `learnt`). 0.01.
    pub loss_fall: f64,
    /// The run diverges when each of those epochs is more than this share above the median of as many before. 0.05.
    pub loss_rise: f64,
    /// A run has learnt once its loss is this share under that of its first epoch. From then on a loss that stays
    /// where it is has converged, which is *over-training*'s business. 0.1.
    pub learnt: f64,
    /// *Over-training*: epochs in which the training loss finds no better value. 10, as in the study.
    pub patience_train: u32,
    /// *Over-training*: the same for the validation loss. 20, as in the study.
    pub patience_validation: u32,
    /// By how much a loss has to be lower to count as better for over-training. 0.01.
    pub delta: f64,
    /// *Exploding tensor*: NaN or infinite values, or a finite one beyond this magnitude, where f16 and soon f32 give
    /// up. 1e6.
    pub exploding: f64,
    /// *Vanishing tensor*: the gradient of a weight (not a bias) whose root mean square is below this. 1e-7.
    pub vanishing: f64,
    /// *Dead ReLU*: a layer of which more than this share of channels is 0 all over a batch. 0.5.
    pub dead_channels: f64,
    /// Vanishing and dead tensors count only when seen so many times in a row: one odd batch says nothing. 2.
    pub in_a_row: u32,
    /// *Class imbalance*: the largest class has more than so many times the samples of the smallest. 10.
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

/// The rules of one run, with what they remember of it.
#[derive(Clone, Debug)]
pub struct Rules {
    on_rule: OnRule,
    config: RuleConfig,
    state: State,
}

/// What a resumed run needs in order to go on as if it had not been interrupted. Losses are kept as their bits: JSON
/// has no NaN, and a last digit lost would make a difference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Whether the loss came down by [`RuleConfig::learnt`] in this phase or one before.
    learnt: bool,
    classes_told: bool,
    phase: Option<PhaseState>,
}

/// Starts anew with each phase: another learning rate, other layers, another loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PhaseState {
    phase: Phase,
    /// Training loss of each epoch so far.
    losses: Vec<u64>,
    last_loss: Option<u64>,
    train: Option<Best>,
    validation: Option<Best>,
    /// What has been reported.
    told: BTreeSet<(RuleName, String)>,
    /// How often in a row a tensor was seen in a bad state; the keys are a tensor's name after what is wrong with it.
    suspects: BTreeMap<String, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
    loss: u64,
    epoch: u32,
}

/// When a finding is made.
#[derive(Clone, Copy)]
struct At {
    phase: Phase,
    step: u64,
    epoch: u32,
}

impl Rules {
    pub fn new(on_rule: OnRule, config: RuleConfig) -> Self {
        Self { on_rule, config, state: State::default() }
    }

    /// Class imbalance; `train` has the training samples of each of the classes `names`. Call it when the run begins:
    /// a resumed one says nothing twice.
    pub fn classes(&mut self, names: &[String], train: &[u64]) -> Vec<Finding> {
        let counts: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(train.iter().copied()).collect();
        let (Some(most), Some(fewest)) = (counts.iter().max_by_key(|c| c.1), counts.iter().min_by_key(|c| c.1)) else {
            return Vec::new();
        };
        let few = |n: u64| n as f64 * self.config.imbalance < most.1 as f64;
        if self.state.classes_told || !few(fewest.1) {
            return Vec::new();
        }
        self.state.classes_told = true;
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

    /// A loss that is no number any more.
    pub fn step(&mut self, step: &StepRecord) -> Vec<Finding> {
        let at = At { phase: step.phase, step: step.step, epoch: step.epoch };
        let phase = self.enter(step.phase);
        let before = phase.last_loss.replace(step.loss.to_bits()).map(f64::from_bits);
        if step.loss.is_finite() || !phase.told.insert((RuleName::ExplodingTensor, "loss".into())) {
            return Vec::new();
        }
        let before = before.map_or(String::new(), |loss| format!(", after {loss:.4} the step before"));
        let evidence = format!("the loss is {}{before}, at a learning rate of {:.2e}", step.loss, step.learning_rate);
        vec![self.finding(RuleName::ExplodingTensor, at, evidence)]
    }

    /// Loss not decreasing, and over-training.
    pub fn epoch(&mut self, epoch: &EpochRecord) -> Vec<Finding> {
        let at = At { phase: epoch.phase, step: epoch.step, epoch: epoch.epoch };
        let config = self.config.clone();
        let mut learnt = self.state.learnt;
        let phase = self.enter(epoch.phase);
        let mut found = Vec::new();
        let losses = [("training", Some(epoch.train_loss)), ("validation", epoch.validation.map(|v| v.loss))];
        for (what, loss) in losses {
            // A training loss that broke down within the epoch has been reported by its step.
            let broke = loss.is_some_and(|loss| !loss.is_finite());
            let known = what == "training" && phase.told.contains(&(RuleName::ExplodingTensor, "loss".into()));
            if broke && phase.told.insert((RuleName::ExplodingTensor, what.into())) && !known {
                let text = format!("the {what} loss of the epoch is {}", loss.unwrap_or(f64::NAN));
                found.push((RuleName::ExplodingTensor, text));
            }
        }
        if epoch.train_loss.is_finite() {
            phase.losses.push(epoch.train_loss.to_bits());
            let losses: Vec<f64> = phase.losses.iter().map(|bits| f64::from_bits(*bits)).collect();
            learnt |= epoch.train_loss < losses[0] * (1.0 - config.learnt);
            if let Some((cause, evidence)) = not_decreasing(&losses, learnt, &config)
                && phase.told.insert((RuleName::LossNotDecreasing, cause.into()))
            {
                found.push((RuleName::LossNotDecreasing, evidence));
            }
        }
        let sides = [
            ("training", losses[0].1, &mut phase.train, config.patience_train),
            ("validation", losses[1].1, &mut phase.validation, config.patience_validation),
        ];
        for (what, loss, best, patience) in sides {
            let Some(loss) = loss.filter(|loss| loss.is_finite()) else { continue };
            let Some(stale) = stale(best, loss, epoch.epoch, patience, config.delta) else { continue };
            // Before anything was learnt there is nothing to over-train: that is a loss that does not decrease.
            if learnt && phase.told.insert((RuleName::OverTraining, what.into())) {
                let (best, since) = (f64::from_bits(stale.loss), epoch.epoch.saturating_sub(stale.epoch));
                let evidence = format!(
                    "the {what} loss has not fallen by {} in {since} epochs: {best:.4} in epoch {}, now {loss:.4}",
                    config.delta, stale.epoch
                );
                found.push((RuleName::OverTraining, evidence));
            }
        }
        self.state.learnt = learnt;
        found.into_iter().map(|(rule, evidence)| self.finding(rule, at, evidence)).collect()
    }

    /// What to keep in a checkpoint.
    pub fn state(&self) -> serde_json::Value {
        serde_json::to_value(&self.state).expect("plain numbers and strings are always JSON")
    }

    /// Goes on where [`Rules::state`] was taken.
    ///
    /// # Errors
    /// Says what is wrong with a state that another version wrote, or that was changed by hand.
    pub fn restore(&mut self, state: &serde_json::Value) -> Result<(), String> {
        self.state = State::deserialize(state).map_err(|e| format!("the state of the rules does not fit: {e}"))?;
        Ok(())
    }

    /// The state of `phase`, new when it begins.
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
            told: BTreeSet::new(),
            suspects: BTreeMap::new(),
        })
    }

    fn finding(&self, rule: RuleName, at: At, evidence: String) -> Finding {
        let stopped = self.on_rule == OnRule::Stop && rule != RuleName::ClassImbalance;
        Finding { rule, phase: at.phase, step: at.step, epoch: at.epoch, evidence, stopped }
    }
}

/// The cause and the evidence when the training losses of the epochs so far do not go down as they should.
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
    // The absolute part keeps quiet about the noise of a loss that is next to nothing.
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

/// Takes a loss in; the best one when it is `patience` epochs old.
fn stale(best: &mut Option<Best>, loss: f64, epoch: u32, patience: u32, delta: f64) -> Option<Best> {
    let better = best.is_none_or(|best| loss < f64::from_bits(best.loss) - delta);
    if better {
        *best = Some(Best { loss: loss.to_bits(), epoch });
        return None;
    }
    best.filter(|best| epoch.saturating_sub(best.epoch) >= patience)
}

/// The first few, and how many more there are.
fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let more = items.len().saturating_sub(SHOWN);
    let mut text = items.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
