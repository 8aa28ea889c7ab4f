//! The thread that brings decided seconds into memory: it encodes their pictures.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::RwLock;

use super::memory::{HeldSecond, Memory};
use crate::backlog::QueueId;
use crate::metrics::{Metrics, StageThread};
use touchline_core::clip::ClipSecond;
use touchline_core::clock::Clock;
use touchline_core::decision::SecondPrediction;
use touchline_core::error::Result;
use touchline_core::frame::Frame;
use touchline_core::threads::spawn;
use touchline_core::time::Pts;
use touchline_media::gst::clips::{SeenPicture, SeenSecond};
use touchline_media::jpeg;

/// Capacity of the queue, seconds of all streams. As many as the shadow's: each holds its pictures.
const QUEUE: usize = 8;

/// JPEG quality: models must not notice that the picture was coded again.
const QUALITY: u8 = 90;

/// A decided second.
struct TeachItem {
    stream: Arc<str>,
    frames: Vec<Frame>,
    sound: Vec<f32>,
    said: SecondPrediction,
}

/// Queues decided seconds. Cloning shares it.
#[derive(Clone)]
pub struct TeachFeed {
    /// `None`: the thread has ended or is about to.
    to: Arc<RwLock<Option<Sender<TeachItem>>>>,
    streams: Arc<RwLock<BTreeMap<QueueId, Arc<str>>>>,
    metrics: Metrics,
}

impl TeachFeed {
    /// Adds a stream.
    pub fn add_stream(&self, queue: QueueId, id: &str) {
        self.streams.write().insert(queue, id.into());
    }

    /// Removes a stream. Its seconds stay in memory.
    pub fn remove_stream(&self, queue: QueueId) {
        self.streams.write().remove(&queue);
    }

    /// Queues a decided second, or drops and counts it if the queue is full. Never waits.
    pub fn offer(&self, queue: QueueId, second: &ClipSecond, said: &SecondPrediction) {
        let Some(stream) = self.streams.read().get(&queue).cloned() else { return };
        // Frames are shared.
        let (frames, sound) = (second.frames.clone(), second.audio.clone().unwrap_or_default());
        let item = TeachItem { stream, frames, sound, said: said.clone() };
        if let Some(to) = &*self.to.read()
            && to.try_send(item).is_err()
        {
            self.metrics.teach_second_dropped();
        }
    }
}

/// The thread. Dropping this ends it.
pub struct TeachThread {
    feed: TeachFeed,
    thread: Option<JoinHandle<()>>,
}

impl TeachThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses to start a thread.
    pub fn start(memory: Arc<Memory>, metrics: Metrics, clock: Arc<dyn Clock>) -> Result<(Self, TeachFeed)> {
        let (to, items) = bounded(QUEUE);
        let to = Arc::new(RwLock::new(Some(to)));
        let feed = TeachFeed { to, streams: Arc::default(), metrics: metrics.clone() };
        let thread = spawn("teach", move || run(&items, &memory, &metrics, &*clock))?;
        Ok((Self { feed: feed.clone(), thread: Some(thread) }, feed))
    }
}

impl Drop for TeachThread {
    fn drop(&mut self) {
        *self.feed.to.write() = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the teach thread panicked; see the panic message above");
        }
    }
}

fn run(items: &Receiver<TeachItem>, memory: &Memory, metrics: &Metrics, clock: &dyn Clock) {
    for TeachItem { stream, frames, sound, said } in items {
        // A panic costs one second.
        let seen = metrics.contain(StageThread::Teach, || see(&frames, &sound, Pts::from_second(said.index)));
        match seen {
            Some(Ok(seen)) => {
                memory.hold(HeldSecond::new(stream, &said, seen, clock.mono_ns()));
                metrics.teach_memory(memory.bytes());
            }
            Some(Err(e)) => {
                tracing::debug!("{stream}: a second cannot be held: {e}");
                metrics.teach_second_dropped();
            }
            None => metrics.teach_second_dropped(),
        }
    }
}

/// The second from `start` on, in the form in which it is held.
///
/// # Errors
/// A picture that cannot be encoded.
pub fn see(frames: &[Frame], sound: &[f32], start: Pts) -> io::Result<SeenSecond> {
    let picture = |frame: &Frame| {
        let jpeg = jpeg::encode(frame, QUALITY)?;
        let offset_ns = frame.pts.0.saturating_sub(start.0);
        Ok(SeenPicture { offset_ns, width: frame.width, height: frame.height, jpeg })
    };
    let pictures = frames.iter().map(picture).collect::<io::Result<Vec<_>>>()?;
    #[allow(clippy::cast_possible_truncation, reason = "the value is clamped")]
    let sample = |sample: &f32| (sample * 32_767.0).clamp(-32_768.0, 32_767.0) as i16;
    Ok(SeenSecond { pictures, sound: sound.iter().map(sample).collect() })
}
