//! The thread that makes pictures for segments from the frames of decided seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::RwLock;

use crate::backlog::QueueId;
use crate::hub::{Hub, PosterBook};
use crate::metrics::{Metrics, StageThread};
use touchline_core::clip::ClipSecond;
use touchline_core::decision::SecondPrediction;
use touchline_core::error::Result;
use touchline_core::frame::Frame;
use touchline_core::threads::spawn;

/// Capacity of the queue, seconds of all streams. Each holds one frame.
const QUEUE: usize = 8;

/// A picture to make.
struct WantedPoster {
    book: Arc<PosterBook>,
    frame: Frame,
    said: SecondPrediction,
}

/// Queues frames for pictures. Cloning shares it.
#[derive(Clone)]
pub struct PosterFeed {
    hub: Hub,
    /// `None`: the thread has ended or is about to.
    to: Arc<RwLock<Option<Sender<WantedPoster>>>>,
    books: Arc<RwLock<BTreeMap<QueueId, Arc<PosterBook>>>>,
}

impl PosterFeed {
    /// Adds a stream of the hub.
    pub fn add_stream(&self, queue: QueueId, id: &str) {
        if let Some(book) = self.hub.posters(id) {
            self.books.write().insert(queue, book);
        }
    }

    /// Removes a stream.
    pub fn remove_stream(&self, queue: QueueId) {
        self.books.write().remove(&queue);
    }

    /// Queues the middle frame of a decided second if it may become a poster, or drops and counts it if the queue is full. Never waits.
    pub fn offer(&self, queue: QueueId, second: &ClipSecond, said: &SecondPrediction) {
        let Some(book) = self.books.read().get(&queue).cloned() else { return };
        let Some(frame) = second.frames.get(second.frames.len() / 2) else { return };
        if !book.wants(said) {
            return;
        }
        let wanted = WantedPoster { book, frame: frame.clone(), said: said.clone() };
        if let Some(to) = &*self.to.read()
            && to.try_send(wanted).is_err()
        {
            self.hub.metrics().poster_dropped();
        }
    }
}

/// The thread. Dropping this ends it.
pub struct PosterThread {
    feed: PosterFeed,
    thread: Option<JoinHandle<()>>,
}

impl PosterThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses to start a thread.
    pub fn start(hub: &Hub) -> Result<(Self, PosterFeed)> {
        let (to, wanted) = bounded(QUEUE);
        let feed = PosterFeed { hub: hub.clone(), to: Arc::new(RwLock::new(Some(to))), books: Arc::default() };
        let metrics = hub.metrics().clone();
        let thread = spawn("posters", move || run(&wanted, &metrics))?;
        Ok((Self { feed: feed.clone(), thread: Some(thread) }, feed))
    }
}

impl Drop for PosterThread {
    fn drop(&mut self) {
        *self.feed.to.write() = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the posters thread panicked; see the panic message above");
        }
    }
}

fn run(wanted: &Receiver<WantedPoster>, metrics: &Metrics) {
    for WantedPoster { book, frame, said } in wanted {
        // A panic costs one picture.
        match metrics.contain(StageThread::Posters, || PosterBook::picture(&frame)) {
            Some(Ok(jpeg)) => book.put(&said, jpeg),
            Some(Err(e)) => {
                tracing::debug!("a poster cannot be encoded: {e}");
                metrics.poster_dropped();
            }
            None => metrics.poster_dropped(),
        }
    }
}
