//! Summaries of tensors, and the rules that check them: exploding, vanishing, dead ReLU.

use std::collections::BTreeMap;

use super::{At, RuleConfig, Rules, listed};
use crate::record::{Collection, Finding, Phase, RuleName, TensorSummary};

impl TensorSummary {
    /// Summarises `values` in one pass, in f64. Without a finite value, mean, deviation, minimum and maximum are 0.
    ///
    /// [`dead_channels`](TensorSummary::dead_channels) is `None`; see [`TensorSummary::of_relu`].
    pub fn of(collection: Collection, name: &str, values: &[f32]) -> Self {
        // Differences from the first finite value are summed, so that a large mean does not cancel the variance.
        let shift = values.iter().find(|v| v.is_finite()).map_or(0.0, |v| f64::from(*v));
        let (mut finite, mut zeros, mut sum, mut squares) = (0_u64, 0_u64, 0.0_f64, 0.0_f64);
        let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
        for value in values.iter().copied().filter(|v| v.is_finite()) {
            let difference = f64::from(value) - shift;
            finite += 1;
            zeros += u64::from(value == 0.0);
            sum += difference;
            squares += difference * difference;
            min = min.min(value);
            max = max.max(value);
        }
        let n = finite.max(1) as f64;
        let (mean, (min, max)) = (sum / n, if finite == 0 { (0.0, 0.0) } else { (min, max) });
        Self {
            collection,
            name: name.to_owned(),
            count: values.len() as u64,
            mean: shift + mean,
            std: (squares / n - mean * mean).max(0.0).sqrt(),
            min: f64::from(min),
            max: f64::from(max),
            not_finite: values.len() as u64 - finite,
            zeros: zeros as f64 / values.len().max(1) as f64,
            dead_channels: None,
        }
    }

    /// Summarises the outputs of a ReLU. `channel_means` has the mean of each channel over a batch. Outputs of a ReLU are never below
    /// 0, so a channel whose mean is 0 is 0 everywhere: it is dead for this batch.
    pub fn of_relu(name: &str, channel_means: &[f32]) -> Self {
        let summary = Self::of(Collection::FeatureMeans, name, channel_means);
        Self { dead_channels: Some(summary.zeros), ..summary }
    }

    /// Root mean square of the finite values.
    pub fn root_mean_square(&self) -> f64 {
        self.mean.hypot(self.std)
    }
}

/// One kind of problem among the tensors of a collection.
struct Trouble {
    rule: RuleName,
    /// Description of the problem, for the evidence.
    problem: String,
    /// Key of each tensor with the problem, and its name with the figure.
    tensors: Vec<(String, String)>,
    /// Whether one observation is enough.
    at_once: bool,
}

impl Rules {
    /// Checks the tensors that were collected at one step: exploding, vanishing, dead ReLU. A finding names the tensors that were not
    /// reported before.
    pub fn tensors(&mut self, phase: Phase, step: u64, epoch: u32, tensors: &[TensorSummary]) -> Vec<Finding> {
        let in_a_row = self.config.in_a_row;
        let troubles = troubles(tensors, &self.config);
        let state = self.enter(phase);
        let before = std::mem::take(&mut state.suspects);
        // A tensor that is not in this collection keeps its count.
        let collected: Vec<String> = tensors.iter().map(key_of).collect();
        state.suspects = before.iter().filter(|(k, _)| !collected.contains(k)).map(|(k, n)| (k.clone(), *n)).collect();
        let mut found = Vec::new();
        for trouble in troubles {
            let total = trouble.tensors.len();
            let mut new = Vec::new();
            for (key, text) in trouble.tensors {
                let count = before.get(&key).copied().unwrap_or(0) + 1;
                if !trouble.at_once && count < in_a_row {
                    state.suspects.insert(key, count);
                } else if state.reported.insert((trouble.rule, key)) {
                    new.push(text);
                }
            }
            if !new.is_empty() {
                let n = new.len();
                let which = if total > n { format!("{n} more tensors") } else { plural(n) };
                found.push((trouble.rule, format!("{which} {}: {}", trouble.problem, listed(new.into_iter()))));
            }
        }
        let at = At { phase, step, epoch };
        found.into_iter().map(|(rule, evidence)| self.finding(rule, at, evidence)).collect()
    }
}

fn plural(n: usize) -> String {
    if n == 1 { "1 tensor".into() } else { format!("{n} tensors") }
}

/// Returns the key of a tensor. It has the collection, because a weight and its gradient have the same name.
fn key_of(tensor: &TensorSummary) -> String {
    let collection = match tensor.collection {
        Collection::Losses => "loss",
        Collection::Gradients => "gradient",
        Collection::Weights => "weight",
        Collection::FeatureMeans => "output",
    };
    format!("{collection} {}", tensor.name)
}

/// Groups the tensors that have a problem by its kind, in the order of the rules.
fn troubles(tensors: &[TensorSummary], config: &RuleConfig) -> Vec<Trouble> {
    let mut kinds: BTreeMap<usize, Vec<(String, String)>> = BTreeMap::new();
    for tensor in tensors {
        let key = key_of(tensor);
        let largest = tensor.max.max(-tensor.min);
        let (kind, figure) = if tensor.not_finite > 0 {
            (0, format!("{} of {}", tensor.not_finite, tensor.count))
        } else if largest > config.exploding {
            (1, format!("{largest:.2e}"))
        } else if tensor.collection == Collection::Gradients
            // The bias of a norm that is followed by another norm has no gradient by construction.
            && !tensor.name.ends_with(".bias")
            && tensor.count > 0
            && tensor.root_mean_square() < config.vanishing
        {
            (2, format!("{:.1e}", tensor.root_mean_square()))
        } else if let Some(dead) = tensor.dead_channels.filter(|dead| *dead > config.dead_channels) {
            (3, format!("{:.0} %", 100.0 * dead))
        } else {
            continue;
        };
        kinds.entry(kind).or_default().push((key.clone(), format!("{key} ({figure})")));
    }
    let describe = |(kind, tensors): (usize, Vec<(String, String)>)| {
        let has = if tensors.len() == 1 { "has" } else { "have" };
        let (rule, problem) = match kind {
            0 => (RuleName::ExplodingTensor, format!("{has} values that are NaN or infinite")),
            1 => (RuleName::ExplodingTensor, format!("{has} values beyond {:.0e}", config.exploding)),
            2 => (RuleName::VanishingTensor, format!("{has} a root mean square under {:.0e}", config.vanishing)),
            _ => (
                RuleName::DeadRelu,
                format!(
                    "{has} more than {:.0} % of channels that are 0 throughout a batch",
                    100.0 * config.dead_channels
                ),
            ),
        };
        Trouble { rule, problem, tensors, at_once: kind < 2 }
    };
    kinds.into_iter().map(describe).collect()
}
