//! The inference thread: gathers batches of seconds, scores and decides them.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::{Batching, Decided, DecidedItem, EngineSwap, Feeds};
use crate::backlog::{Backlog, QueueId, TakenSeconds};
use crate::frame_share::FrameShareControl;
use crate::metrics::{Metrics, StageThread};
use crate::relief::AutoTiers;
use touchline_compute::infer::Engine;
use touchline_core::clip::{ClipOutput, ClipSecond, Gap, GapReason};
use touchline_core::clock::Clock;
use touchline_core::decision::{SecondOutcome, SecondPrediction};
use touchline_core::observer::{Observer as _, Stage};
use touchline_core::threads::Heartbeat;
use touchline_core::time::{NANOS_PER_SECOND, WallSource, WallTime};

/// The inference thread.
pub(super) struct Infer {
    pub(super) engine: Engine,
    pub(super) swaps: Receiver<EngineSwap>,
    pub(super) feeds: Feeds,
    pub(super) metrics: Metrics,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) beat: Heartbeat,
    pub(super) auto_tiers: AutoTiers,
}

impl Infer {
    pub(super) fn run(mut self, backlog: &Backlog, batching: Batching, to: &Sender<Decided>) {
        let mut control = batching.adaptive.then(|| FrameShareControl::new(self.clock.mono_ns()));
        loop {
            self.beat.beat();
            // Read every time: the pack may have changed, or a GPU may have failed.
            let (max, wait) = batching.resolve(self.engine.is_on_gpu());
            let Some(batch) = backlog.gather(max, wait) else { return };
            // Only here: one pack decides all seconds of a batch.
            if let Ok(EngineSwap { mut engine, replaced }) = self.swaps.try_recv() {
                std::mem::swap(&mut self.engine, &mut engine);
                // The receiver is gone only at shutdown.
                let _ = replaced.send(engine);
            }
            if !self.decide(batch, control.as_mut(), to) {
                return;
            }
        }
    }

    /// Decides a batch and sends the outcomes. Returns false if the receiver is gone.
    fn decide(
        &mut self,
        mut batch: Vec<TakenSeconds>,
        control: Option<&mut FrameShareControl>,
        to: &Sender<Decided>,
    ) -> bool {
        let began_ns = self.clock.mono_ns();
        let work = control.as_ref().map(|control| control.select_frames(&mut batch, began_ns));
        let mut results = {
            let seconds: Vec<_> = batch
                .iter()
                .filter_map(|taken| match taken.items.last() {
                    Some(ClipOutput::Second(second)) => Some(second),
                    _ => None,
                })
                .collect();
            let metrics = self.metrics.clone();
            contained(&seconds, &metrics, &mut |seconds| self.score(seconds)).into_iter()
        };
        if let (Some(control), Some(work)) = (control, work) {
            let before = control.relief();
            let load = work.done(began_ns, self.clock.mono_ns());
            if let Some(relief) = control.note(load, self.auto_tiers.count()) {
                // Also without a change: streams come and go, and the one that is cheapest to lower changes.
                let tiers = self.auto_tiers.assign(relief);
                self.metrics.relief(before.share(), relief.share(), tiers);
                let percent = 100.0 * relief.share().ratio();
                let [_, _, sparse, key] = tiers;
                if relief > before {
                    tracing::warn!(sparse, key, "overload: using {percent:.0} % of the pictures from now on");
                } else if relief < before {
                    tracing::info!(sparse, key, "less load: using {percent:.0} % of the pictures from now on");
                }
            }
        }
        for taken in batch {
            let backlog = taken.backlog;
            for item in taken.items {
                let decided = |outcome: &SecondOutcome| {
                    self.auto_tiers.note(taken.queue, outcome, &self.engine.models().pack().classes);
                };
                let (what, copy) = match item {
                    ClipOutput::Second(second) => {
                        let outcome = results.next().expect("there is a result for every second of the batch");
                        decided(&outcome);
                        let copy = match &outcome {
                            SecondOutcome::Predicted(said) => self.copy(taken.queue, second, said),
                            SecondOutcome::Gap(_) => None,
                        };
                        (DecidedItem::Outcome { outcome, backlog }, copy)
                    }
                    ClipOutput::Gap(gap) => {
                        let outcome = SecondOutcome::Gap(gap);
                        decided(&outcome);
                        (DecidedItem::Outcome { outcome, backlog }, None)
                    }
                    news => (DecidedItem::News(news), None),
                };
                if to.send(Decided { queue: taken.queue, item: what }).is_err() {
                    return false;
                }
                if let (Some(shadow), Some((second, said))) = (&self.feeds.shadow, copy) {
                    shadow.offer(taken.queue, second, said);
                }
            }
        }
        true
    }

    /// Brings a decided second into memory and offers it as a poster, and returns it for the shadow if there is one.
    fn copy(
        &self,
        queue: QueueId,
        second: ClipSecond,
        said: &SecondPrediction,
    ) -> Option<(ClipSecond, SecondPrediction)> {
        if let Some(teach) = &self.feeds.teach {
            teach.offer(queue, &second, said);
        }
        if let Some(posters) = &self.feeds.posters {
            posters.offer(queue, &second, said);
        }
        self.feeds.shadow.as_ref().filter(|shadow| shadow.is_on()).map(|_| (second, said.clone()))
    }

    fn score(&mut self, seconds: &[&ClipSecond]) -> Vec<SecondOutcome> {
        if seconds.is_empty() {
            return Vec::new();
        }
        let (metrics, clock) = (&self.metrics, &*self.clock);
        let began_ns = clock.mono_ns();
        for second in seconds {
            metrics.observe_stage(Stage::DecodeWait, began_ns.saturating_sub(second.arrived_ns));
        }
        match self.engine.score(seconds, metrics) {
            Ok(scored) => seconds
                .iter()
                .zip(scored)
                .map(|(second, scored)| {
                    let began_ns = clock.mono_ns();
                    let decided = self.engine.decide(second, scored, arrival(second, clock));
                    metrics.observe_stage(Stage::Fusion, clock.mono_ns().saturating_sub(began_ns));
                    decided.map_or_else(|| gap(second, GapReason::NoMedia), SecondOutcome::Predicted)
                })
                .collect(),
            Err(e) => {
                let cause = touchline_core::redact::text(&e.to_string());
                tracing::error!("{} seconds could not be classified: {cause}", seconds.len());
                seconds.iter().map(|second| gap(second, GapReason::Compute)).collect()
            }
        }
    }
}

/// Scores `seconds`. If `score` panics over several, each is tried alone, so that only the second that causes the panic
/// becomes a gap.
pub(super) fn contained(
    seconds: &[&ClipSecond],
    metrics: &Metrics,
    score: &mut dyn FnMut(&[&ClipSecond]) -> Vec<SecondOutcome>,
) -> Vec<SecondOutcome> {
    if let Some(outcomes) = metrics.contain(StageThread::Infer, || score(seconds)) {
        return outcomes;
    }
    match seconds {
        [second] => vec![gap(second, GapReason::Compute)],
        _ => seconds.iter().flat_map(|second| contained(&[second], metrics, score)).collect(),
    }
}

pub(super) fn gap(second: &ClipSecond, reason: GapReason) -> SecondOutcome {
    SecondOutcome::Gap(Gap::new(second.run, second.index, reason))
}

/// Wall time of the start of a second by this machine's clock: one second before its last sample arrived.
fn arrival(second: &ClipSecond, clock: &dyn Clock) -> WallTime {
    let age = clock.mono_ns().saturating_sub(second.arrived_ns).saturating_add(NANOS_PER_SECOND);
    WallTime {
        unix_ns: clock.unix_ns() - i64::try_from(age).unwrap_or(0),
        source: WallSource::Arrival,
        uncertainty_ns: second.behind_ns,
    }
}
