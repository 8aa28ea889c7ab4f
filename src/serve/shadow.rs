//! A second pack that scores the same seconds as the running one. The comparison helps to decide whether to promote it.
//!
//! It has a thread and a thread pool of its own and a bounded queue. Seconds that it is too slow for are dropped and
//! counted. The running pack never waits for it; the two share only the processors.

use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::backlog::QueueId;
use crate::hub::Hub;
use crate::metrics::{Metrics, ShadowDrop, ShadowMetrics, StageThread};
use crate::teach::Memory;
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
    /// Exported from the first shadow on.
    metrics: OnceLock<ShadowMetrics>,
}

impl ShadowStream {
    fn metrics(&self, hub: &Hub) -> &ShadowMetrics {
        self.metrics.get_or_init(|| hub.metrics().shadow_stream(&self.id))
    }
}

/// Queues seconds for the shadow, if there is one. Cloning shares it.
#[derive(Clone)]
pub struct ShadowFeed {
    shared: Arc<FeedShared>,
}

struct FeedShared {
    /// `None`: there is no shadow.
    to: RwLock<Option<Sender<ShadowItem>>>,
    streams: RwLock<BTreeMap<QueueId, Arc<ShadowStream>>>,
    hub: Hub,
    /// Learns what the shadow says.
    memory: Option<Arc<Memory>>,
}

impl ShadowFeed {
    /// Adds a stream.
    pub fn add_stream(&self, queue: QueueId, id: &str) {
        let stream = ShadowStream { id: id.to_owned(), metrics: OnceLock::new() };
        if self.is_on() {
            stream.metrics(&self.shared.hub);
        }
        self.shared.streams.write().insert(queue, Arc::new(stream));
    }

    /// Removes a stream. Its queued seconds are still compared.
    pub fn remove_stream(&self, queue: QueueId) {
        self.shared.streams.write().remove(&queue);
    }

    /// Whether there is a shadow.
    pub fn is_on(&self) -> bool {
        self.shared.to.read().is_some()
    }

    /// Queues a decided second, or drops it if the queue is full. Never waits.
    pub fn offer(&self, queue: QueueId, second: ClipSecond, said: SecondPrediction) {
        let stream = self.shared.streams.read().get(&queue).cloned();
        let (Some(stream), Some(to)) = (stream, &*self.shared.to.read()) else { return };
        // Disconnected: shutdown.
        if let Err(TrySendError::Full(item)) = to.try_send(ShadowItem { stream, second, said }) {
            drop_one(&self.shared.hub, &item.stream, ShadowDrop::Overload);
        }
    }

    /// Sends seconds to a shadow, or to none.
    fn set(&self, to: Option<Sender<ShadowItem>>) {
        if to.is_some() {
            for stream in self.shared.streams.read().values() {
                stream.metrics(&self.shared.hub);
            }
        }
        *self.shared.to.write() = to;
    }
}

fn drop_one(hub: &Hub, stream: &ShadowStream, why: ShadowDrop) {
    stream.metrics(hub).dropped(why);
    hub.pack_status().shadow_dropped(why);
}

/// The place of the shadow, which may be empty. Dropping it ends the shadow.
pub struct Shadow {
    feed: ShadowFeed,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shadow {
    /// A place without a shadow. `memory` learns what a shadow says.
    pub fn new(hub: &Hub, memory: Option<Arc<Memory>>) -> Self {
        let shared = FeedShared { to: RwLock::default(), streams: RwLock::default(), hub: hub.clone(), memory };
        Self { feed: ShadowFeed { shared: Arc::new(shared) }, thread: Mutex::default() }
    }

    /// Queues seconds for it.
    pub fn feed(&self) -> ShadowFeed {
        self.feed.clone()
    }

    /// Loads `pack`, warms it up and lets it score from now on, in place of another shadow. `running` is the pack that it is compared
    /// with; `path` is its path as the API shows it.
    ///
    /// # Errors
    /// [`Error::Pack`] if the pack cannot be loaded, or could not replace the running pack.
    pub fn start(&self, pack: Pack, path: String, running: &Pack) -> Result<()> {
        pack.can_replace(running).map_err(|cause| {
            let advice = "give --shadow a pack with the classes and sampling of the running one";
            Error::pack(&pack.dir, cause, advice)
        })?;
        self.stop();
        let pool = background_pool("shadow")?;
        let (to, items) = bounded(QUEUE);
        let (ready_to, ready) = bounded(1);
        let thread = spawn("shadow", {
            let shared = self.feed.shared.clone();
            move || {
                pool.install(|| match Engine::load(pack) {
                    Err(e) => drop(ready_to.send(Err(e))),
                    Ok(engine) => {
                        shared.hub.metrics().set_shadow(engine.models().stamp());
                        shared.hub.pack_status().set_shadow(engine.models().pack().clone(), path);
                        if ready_to.send(Ok(())).is_ok() {
                            run(decider(engine), &items, &shared);
                        }
                    }
                });
            }
        })?;
        ready.recv().map_err(|_| Error::Internal("the shadow thread ended while loading".into()))??;
        self.feed.set(Some(to));
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends the shadow after the seconds in its queue, if there is one.
    pub fn stop(&self) {
        self.feed.set(None);
        let Some(thread) = self.thread.lock().take() else { return };
        if thread.join().is_err() {
            tracing::error!("the shadow thread panicked; see the panic message above");
        }
        self.feed.shared.hub.metrics().clear_shadow();
        self.feed.shared.hub.pack_status().clear_shadow();
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.stop();
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
    FeedShared { hub, memory, .. }: &FeedShared,
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
                    stream.metrics(hub).compared(same, difference);
                }
                if let Some(memory) = memory {
                    memory.shadow_said(&stream.id, said.run, said.index, shadow.decision.label);
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
        let feed = Shadow::new(&hub, None).feed();
        feed.set(Some(to));
        let queue = Backlog::new().add_queue(Pace::Live);
        feed.add_stream(queue, "a");
        for index in 0..3 {
            let SecondOutcome::Predicted(said) = predicted(index, "tennis", 0.9).outcome else { unreachable!() };
            feed.offer(queue, ClipSecond { index, ..ClipSecond::of_pictures(Vec::new()) }, said);
        }
        feed.set(None);
        let mut tried = Vec::new();
        let decide = |second: &ClipSecond, _: &SecondPrediction| {
            tried.push(second.index);
            assert_ne!(second.index, 1, "the models panic on this one");
            Ok(None)
        };
        run(decide, &items, &feed.shared);
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
