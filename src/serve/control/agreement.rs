//! Agreement of the shadow with the running pack, counted since both run.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::metrics::ShadowDrop;
use crate::record::types::Probability;
use touchline_core::decision::{PackStamp, SecondPrediction};
use touchline_core::labels::{ClassId, ClassSet};

/// Number of pairs of labels in the API.
const PAIRS_SHOWN: usize = 10;

/// Counts of one running pack against the shadow. They restart when the pack changes.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    against: Option<Arc<PackStamp>>,
    streams: BTreeMap<String, AgreementCounts>,
    /// Counts of removed streams.
    gone: AgreementCounts,
    /// Running pack's label and the shadow's, where they differ; at most classes².
    different: BTreeMap<(ClassId, ClassId), u64>,
    /// In the order of [`ShadowDrop::ALL`].
    dropped: [u64; ShadowDrop::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct AgreementCounts {
    same: u64,
    different: u64,
    /// Sum of the seconds' mean absolute differences.
    difference: f64,
}

impl Agreement {
    /// Counts a second that both decided; gives the mean over the classes of the absolute difference of their
    /// probabilities.
    pub(crate) fn compared(&mut self, stream: &str, main: &SecondPrediction, shadow: &SecondPrediction) -> f64 {
        if self.against.as_ref() != Some(&main.pack) {
            *self = Self { against: Some(main.pack.clone()), ..Self::default() };
        }
        let (a, b) = (&main.decision, &shadow.decision);
        let sum: f64 = a.probabilities.iter().zip(&b.probabilities).map(|(a, b)| f64::from((a - b).abs())).sum();
        let difference = sum / a.probabilities.len().max(1) as f64;
        if !self.streams.contains_key(stream) {
            self.streams.insert(stream.to_owned(), AgreementCounts::default());
        }
        if let Some(counts) = self.streams.get_mut(stream) {
            counts.difference += difference;
            if a.label == b.label { counts.same += 1 } else { counts.different += 1 }
        }
        if a.label != b.label {
            *self.different.entry((a.label, b.label)).or_default() += 1;
        }
        difference
    }

    /// Removes a stream. The totals keep its counts.
    pub(crate) fn forget(&mut self, stream: &str) {
        if let Some(counts) = self.streams.remove(stream) {
            self.gone.add(&counts);
        }
    }

    pub(crate) fn dropped(&mut self, why: ShadowDrop) {
        self.dropped[why as usize] += 1;
    }

    /// Seconds with the same label, and all.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let all = self.streams.values().chain([&self.gone]);
        all.fold((0, 0), |(same, seconds), counts| (same + counts.same, seconds + counts.same + counts.different))
    }

    pub(crate) fn view<'a>(&'a self, classes: &'a ClassSet) -> AgreementView<'a> {
        let mut all = self.gone;
        self.streams.values().for_each(|counts| all.add(counts));
        let mut pairs: Vec<_> = self.different.iter().collect();
        // The most frequent first; equals in the order of the classes.
        pairs.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        AgreementView {
            all: all.view(),
            dropped: DroppedView {
                overload: self.dropped[ShadowDrop::Overload as usize],
                compute: self.dropped[ShadowDrop::Compute as usize],
                no_scores: self.dropped[ShadowDrop::NoScores as usize],
            },
            streams: self.streams.iter().map(|(id, counts)| (id.as_str(), counts.view())).collect(),
            disagreements: pairs
                .into_iter()
                .take(PAIRS_SHOWN)
                .map(|((main, shadow), seconds)| PairView {
                    main: classes.name(*main),
                    shadow: classes.name(*shadow),
                    seconds: *seconds,
                })
                .collect(),
        }
    }
}

impl AgreementCounts {
    fn add(&mut self, other: &AgreementCounts) {
        self.same += other.same;
        self.different += other.different;
        self.difference += other.difference;
    }

    fn view(&self) -> CountsView {
        let seconds = self.same + self.different;
        let per_second = |sum: f64| (seconds > 0).then(|| Probability::from((sum / seconds as f64) as f32));
        CountsView {
            seconds,
            same: self.same,
            different: self.different,
            agreement: per_second(self.same as f64),
            mean_absolute_difference: per_second(self.difference),
        }
    }
}

/// Shares are null before the first second.
#[derive(Serialize, JsonSchema)]
struct CountsView {
    seconds: u64,
    same: u64,
    different: u64,
    agreement: Option<Probability>,
    mean_absolute_difference: Option<Probability>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct AgreementView<'a> {
    #[serde(flatten)]
    all: CountsView,
    dropped: DroppedView,
    streams: BTreeMap<&'a str, CountsView>,
    disagreements: Vec<PairView<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
struct DroppedView {
    overload: u64,
    compute: u64,
    no_scores: u64,
}

#[derive(Serialize, JsonSchema)]
struct PairView<'a> {
    main: &'a str,
    shadow: &'a str,
    seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{classes, predicted, stamp};
    use touchline_core::decision::SecondOutcome;

    fn second(label: &str, probability: f32) -> SecondPrediction {
        match predicted(0, label, probability).outcome {
            SecondOutcome::Predicted(second) => second,
            SecondOutcome::Gap(_) => unreachable!("the second is predicted"),
        }
    }

    fn json(agreement: &Agreement) -> serde_json::Value {
        serde_json::to_value(agreement.view(&classes())).unwrap()
    }

    #[test]
    fn seconds_are_counted_by_stream_and_by_pair_of_labels() {
        let mut agreement = Agreement::default();
        assert!(json(&agreement)["agreement"].is_null(), "there is no agreement before the first second");
        assert_eq!(agreement.compared("a", &second("tennis", 0.9), &second("tennis", 0.9)), 0.0);
        // 0.9, 0.05, 0.05 against 0.1, 0.8, 0.1.
        let difference = agreement.compared("a", &second("tennis", 0.9), &second("soccer", 0.8));
        assert!((difference - (0.8 + 0.75 + 0.05) / 3.0).abs() < 1e-6, "{difference}");
        for _ in 0..2 {
            agreement.compared("b", &second("soccer", 0.9), &second("other", 0.8));
        }
        agreement.dropped(ShadowDrop::NoScores);
        let view = json(&agreement);
        assert_eq!((&view["seconds"], &view["same"]), (&4.into(), &1.into()));
        assert_eq!((&view["agreement"], &view["streams"]["b"]["agreement"]), (&0.25.into(), &0.0.into()));
        assert_eq!(view["dropped"]["no-scores"], 1);
        let pairs = view["disagreements"].as_array().unwrap();
        assert_eq!(pairs.len(), 2);
        assert_eq!(pairs[0], serde_json::json!({"main": "soccer", "shadow": "other", "seconds": 2}));
    }

    #[test]
    fn a_removed_stream_stays_in_the_totals() {
        let mut agreement = Agreement::default();
        agreement.compared("a", &second("tennis", 0.9), &second("soccer", 0.8));
        agreement.compared("b", &second("tennis", 0.9), &second("tennis", 0.9));
        agreement.forget("a");
        let view = json(&agreement);
        assert_eq!((&view["seconds"], &view["same"]), (&2.into(), &1.into()));
        assert!(view["streams"].get("a").is_none() && view["streams"].get("b").is_some());
    }

    #[test]
    fn a_new_pack_restarts_the_counts() {
        let mut agreement = Agreement::default();
        agreement.compared("a", &second("tennis", 0.9), &second("soccer", 0.8));
        let mut promoted = second("soccer", 0.8);
        promoted.pack = Arc::new(PackStamp { manifest_sha256: "77aa".into(), ..stamp() });
        agreement.compared("a", &promoted, &second("soccer", 0.8));
        let view = json(&agreement);
        assert_eq!((&view["seconds"], &view["agreement"]), (&1.into(), &1.0.into()));
        assert!(view["disagreements"].as_array().unwrap().is_empty());
    }
}
