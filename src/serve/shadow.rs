//! A second pack that decides the same seconds beside the running one, to see how far they agree before it is promoted.
//!
//! It has a thread and processors of its own and takes seconds from a bounded queue: what it is too slow for is dropped
//! and counted. The running pack never waits for it; only the processors are shared.

use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::backlog::QueueId;
use crate::metrics::{Metrics, ShadowDrop, ShadowMetrics};
use crate::publish::hub::Hub;
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_core::clip::ClipSecond;
use touchline_core::decision::SecondPrediction;
use touchline_core::error::{Error, Result};
use touchline_core::threads::{own_processors, spawn};

/// Seconds of all streams that wait for the shadow: two rounds of four streams ride out a moment in which the processors
/// are busy. Each holds its pictures, so more would cost memory and only delay the drop.
const QUEUE: usize = 8;

/// A second with what the running pack said of it.
struct ShadowItem {
    stream: Arc<ShadowStream>,
    second: ClipSecond,
    said: SecondPrediction,
}

struct ShadowStream {
    id: String,
    metrics: ShadowMetrics,
}

/// Where the inference thread leaves seconds for the shadow. Cloning shares it.
#[derive(Clone)]
pub struct ShadowFeed {
    to: Sender<ShadowItem>,
    streams: Arc<RwLock<BTreeMap<QueueId, Arc<ShadowStream>>>>,
    hub: Hub,
}

impl ShadowFeed {
    /// A stream begins.
    pub fn add_stream(&self, queue: QueueId, id: &str) {
        let stream = ShadowStream { id: id.to_owned(), metrics: self.hub.metrics().shadow_stream(id) };
        self.streams.write().insert(queue, Arc::new(stream));
    }

    /// A stream is over. What still waits of it is compared.
    pub fn remove_stream(&self, queue: QueueId) {
        self.streams.write().remove(&queue);
    }

    /// Leaves a second that was decided, or drops it when the queue is full. Never waits.
    pub fn offer(&self, queue: QueueId, second: ClipSecond, said: SecondPrediction) {
        let stream = self.streams.read().get(&queue).cloned();
        let Some(stream) = stream else { return };
        // Disconnected: the program ends.
        if let Err(TrySendError::Full(item)) = self.to.try_send(ShadowItem { stream, second, said }) {
            drop_one(&self.hub, &item.stream, ShadowDrop::Overload);
        }
    }
}

fn drop_one(hub: &Hub, stream: &ShadowStream, why: ShadowDrop) {
    stream.metrics.dropped(why);
    hub.pack_status().shadow_dropped(why);
}

/// The shadow's thread. It ends when the last [`ShadowFeed`] is gone; dropping waits for that.
pub struct Shadow {
    thread: Option<JoinHandle<()>>,
}

impl Shadow {
    /// Loads `pack` and waits until it is warm. `running` is the pack it is compared with; `path` is how people would
    /// ask for it.
    ///
    /// # Errors
    /// [`Error::Pack`] when the pack cannot be loaded, or could not take the running pack's place.
    pub fn start(pack: Pack, path: String, running: &Pack, hub: &Hub) -> Result<(Self, ShadowFeed)> {
        pack.can_replace(running).map_err(|cause| {
            let advice = "give --shadow a pack that could take the running one's place";
            Error::pack(&pack.dir, cause, advice)
        })?;
        let pool = own_processors("shadow")?;
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
                            run(engine, &items, &hub);
                        }
                    }
                });
            }
        })?;
        ready.recv().map_err(|_| Error::Internal("the shadow's thread ended while loading".into()))??;
        let feed = ShadowFeed { to, streams: Arc::default(), hub: hub.clone() };
        Ok((Self { thread: Some(thread) }, feed))
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the shadow's thread panicked; its message is above");
        }
    }
}

fn run(mut engine: Engine, items: &Receiver<ShadowItem>, hub: &Hub) {
    // The stages that are exported are the running pack's.
    let unseen = Metrics::new();
    for ShadowItem { stream, second, said } in items {
        let decided = match engine.score(&[&second], &unseen) {
            Ok(mut scored) => scored.pop().and_then(|scored| engine.decide(&second, scored, said.wall)),
            Err(e) => {
                tracing::debug!("the shadow failed on a second of {}: {e}", stream.id);
                drop_one(hub, &stream, ShadowDrop::Compute);
                continue;
            }
        };
        match decided {
            None => drop_one(hub, &stream, ShadowDrop::NoScores),
            // Seconds of a stream that was removed meanwhile are nobody's.
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
