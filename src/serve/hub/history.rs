//! One second of the timeline.

use schemars::JsonSchema;
use serde::Serialize;

use crate::record::Published;
use crate::record::types::Probability;
use touchline_core::clip::GapReason;
use touchline_core::decision::SecondOutcome;
use touchline_core::labels::{ClassId, ClassSet, Modality};
use touchline_core::time::RunId;

/// A second, as the timeline needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HistoryEntry {
    pub(super) run: RunId,
    pub(super) index: u64,
    /// When it was published, milliseconds since 1970-01-01 UTC.
    pub(super) at_ms: i64,
    pub(super) verdict: HistoryOutcome,
    /// Label of the estimate and its mean probability; `None` while the window is empty.
    pub(super) window: Option<(ClassId, f32)>,
    pub(super) unknown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum HistoryOutcome {
    Decided { label: ClassId, probability: f32, by: Modality },
    Gap(GapReason),
}

impl HistoryEntry {
    pub(super) fn new(published: &Published, unix_ns: i64) -> Self {
        let estimate = &published.estimate;
        Self {
            run: published.outcome.run(),
            index: published.outcome.index(),
            at_ms: unix_ns.div_euclid(1_000_000),
            verdict: match &published.outcome {
                SecondOutcome::Predicted(second) => HistoryOutcome::Decided {
                    label: second.decision.label,
                    probability: second.decision.probability,
                    by: second.decision.modality,
                },
                SecondOutcome::Gap(gap) => HistoryOutcome::Gap(gap.reason),
            },
            window: (estimate.seconds > 0).then(|| (estimate.label, estimate.probability())),
            unknown: estimate.is_unknown(),
        }
    }

    pub(super) fn row<'a>(&self, classes: &'a ClassSet) -> Row<'a> {
        let (label, probability, decided_by, reason) = match self.verdict {
            HistoryOutcome::Decided { label, probability, by } => {
                (Some(classes.name(label)), Some(probability.into()), Some(by), None)
            }
            HistoryOutcome::Gap(reason) => (None, None, None, Some(reason)),
        };
        Row {
            run: self.run,
            index: self.index,
            at_ms: self.at_ms,
            label,
            probability,
            decided_by,
            reason,
            window_label: self.window.map(|(label, _)| classes.name(label)),
            window_probability: self.window.map(|(_, probability)| probability.into()),
            window_unknown: self.unknown,
        }
    }
}

/// A second of the history. `label`, `probability` and `decided_by` are null for a gap, `reason` for a second.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HistoryEntry")]
pub(super) struct Row<'a> {
    run: RunId,
    index: u64,
    /// When it was published, milliseconds since 1970-01-01 UTC.
    at_ms: i64,
    label: Option<&'a str>,
    probability: Option<Probability>,
    decided_by: Option<Modality>,
    reason: Option<GapReason>,
    window_label: Option<&'a str>,
    window_probability: Option<Probability>,
    /// `window_label` is too improbable to be the answer.
    window_unknown: bool,
}
