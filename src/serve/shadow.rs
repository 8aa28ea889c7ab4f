//! A second pack that scores the same seconds as the running one. The comparison helps to decide whether to promote it.
//!
//! It has a thread and a thread pool of its own and a bounded queue. Seconds that it is too slow for are dropped and
//! counted. The running pack never waits for it; the two share only the processors.

use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::backlog::QueueId;
use crate::hub::Hub;
use crate::metrics::{Metrics, ShadowDrop, ShadowMetrics, StageThread};
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_core::clip::ClipSecond;
use touchline_core::decision::SecondPrediction;
use touchline_core::error::{Error, Result};
use touchline_core::threads::{background_pool, spawn};

/// Capacity of the queue, seconds of all streams: two rounds of four streams bridge a short peak. Each second holds its
/// pictures, so more would cost memory and only delay the drop.
const QUEUE: usize = 8;

/// A second with the prediction of the running pack.
struct ShadowItem {
    stream: Arc<ShadowStream>,
    second: ClipSecond,
    said: SecondPrediction,
}

struct ShadowStream {
    id: String,
    metrics: ShadowMetrics,
}

/// Queues seconds for the shadow. Cloning shares it.
#[derive(Clone)]
pub struct ShadowFeed {
    to: Sender<ShadowItem>,
    streams: Arc<RwLock<BTreeMap<QueueId, Arc<ShadowStream>>>>,
    hub: Hub,
}

impl ShadowFeed {
    /// Adds a stream.
    pub fn add_stream(&self, queue: QueueId, id: &str) {
        let stream = ShadowStream { id: id.to_owned(), metrics: self.hub.metrics().shadow_stream(id) };
        self.streams.write().insert(queue, Arc::new(stream));
    }

    /// Removes a stream. Its queued seconds are still compared.
    pub fn remove_stream(&self, queue: QueueId) {
        self.streams.write().remove(&queue);
    }

    /// Queues a decided second, or drops it if the queue is full. Never waits.
    pub fn offer(&self, queue: QueueId, second: ClipSecond, said: SecondPrediction) {
        let stream = self.streams.read().get(&queue).cloned();
        let Some(stream) = stream else { return };
        // Disconnected: shutdown.
        if let Err(TrySendError::Full(item)) = self.to.try_send(ShadowItem { stream, second, said }) {
            drop_one(&self.hub, &item.stream, ShadowDrop::Overload);
        }
    }
}

fn drop_one(hub: &Hub, stream: &ShadowStream, why: ShadowDrop) {
    stream.metrics.dropped(why);
    hub.pack_status().shadow_dropped(why);
}

/// The shadow thread. It ends when the last [`ShadowFeed`] is dropped; dropping this waits for it.
pub struct Shadow {
    thread: Option<JoinHandle<()>>,
}

impl Shadow {
    /// Loads `pack` and warms it up. `running` is the pack that it is compared with; `path` is its path as the API
    /// shows it.
    ///
    /// # Errors
    /// [`Error::Pack`] if the pack cannot be loaded, or could not replace the running pack.
    pub fn start(pack: Pack, path: String, running: &Pack, hub: &Hub) -> Result<(Self, ShadowFeed)> {
        pack.can_replace(running).map_err(|cause| {
            let advice = "give --shadow a pack with the classes and sampling of the running one";
            Error::pack(&pack.dir, cause, advice)
        })?;
        let pool = background_pool("shadow")?;
        let (to, items) = bounded(QUEUE);
        let (ready_to, ready) = bounded(1);
        let thread = spawn("shadow", {
            let hub = hub.clone();
            move || {
                pool.install(|| match Engine::load(pack) {
                    Err(e) => drop(ready_to.send(Err(e))),
                    Ok(engine) => {
                        hub.metrics().set_shadow(engine.models().stamp());
                        hub.pack_status().set_shadow(engine.models().pack().clone(), path);
                        if ready_to.send(Ok(())).is_ok() {
                            run(decider(engine), &items, &hub);
                        }
                    }
                });
            }
        })?;
        ready.recv().map_err(|_| Error::Internal("the shadow thread ended while loading".into()))??;
        let feed = ShadowFeed { to, streams: Arc::default(), hub: hub.clone() };
        Ok((Self { thread: Some(thread) }, feed))
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the shadow thread panicked; see the panic message above");
        }
    }
}

/// What `engine` decides on a second that the running pack has decided.
fn decider(mut engine: Engine) -> impl FnMut(&ClipSecond, &SecondPrediction) -> Result<Option<SecondPrediction>> {
    // The exported stage durations are those of the running pack.
    let unseen = Metrics::new();
    move |second, said| {
        let mut scored = engine.score(&[second], &unseen)?;
        Ok(scored.pop().and_then(|scored| engine.decide(second, scored, said.wall)))
    }
}

fn run(
    mut decide: impl FnMut(&ClipSecond, &SecondPrediction) -> Result<Option<SecondPrediction>>,
    items: &Receiver<ShadowItem>,
    hub: &Hub,
) {
    for ShadowItem { stream, second, said } in items {
        // A panic costs one second, as on the inference thread.
        let decided = hub.metrics().contain(StageThread::Shadow, || decide(&second, &said));
        let decided = match decided.unwrap_or_else(|| Err(Error::Internal("the shadow panicked".into()))) {
            Ok(decided) => decided,
            Err(e) => {
                tracing::debug!("the shadow failed on a second of {}: {e}", stream.id);
                drop_one(hub, &stream, ShadowDrop::Compute);
                continue;
            }
        };
        match decided {
            None => drop_one(hub, &stream, ShadowDrop::NoScores),
            // The stream was removed meanwhile.
            Some(_) if !hub.has_stream(&stream.id) => {}
            Some(shadow) => {
                let same = shadow.decision.label == said.decision.label;
                if let Some(difference) = hub.pack_status().compared(&stream.id, &said, &shadow) {
                    stream.metrics.compared(same, difference);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::Backlog;
    use crate::testing::{self, predicted};
    use touchline_core::clock::ManualClock;
    use touchline_core::decision::SecondOutcome;
    use touchline_core::item::Pace;

    #[test]
    fn a_panic_costs_one_second_and_is_counted() {
        let hub = testing::hub(Arc::new(ManualClock::default()));
        let (to, items) = bounded(QUEUE);
        let feed = ShadowFeed { to, streams: Arc::default(), hub: hub.clone() };
        let queue = Backlog::new().add_queue(Pace::Live);
        feed.add_stream(queue, "a");
        for index in 0..3 {
            let SecondOutcome::Predicted(said) = predicted(index, "tennis", 0.9).outcome else { unreachable!() };
            feed.offer(queue, ClipSecond { index, ..ClipSecond::of_pictures(Vec::new()) }, said);
        }
        drop(feed);
        let mut tried = Vec::new();
        let decide = |second: &ClipSecond, _: &SecondPrediction| {
            tried.push(second.index);
            assert_ne!(second.index, 1, "the models panic on this one");
            Ok(None)
        };
        run(decide, &items, &hub);
        assert_eq!(tried, [0, 1, 2], "the thread continues");
        let text = hub.metrics().encode();
        for line in [
            r#"touchline_stage_panics_total{stage="shadow"} 1"#,
            r#"touchline_shadow_seconds_dropped_total{reason="compute",stream="a"} 1"#,
            r#"touchline_shadow_seconds_dropped_total{reason="no-scores",stream="a"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
