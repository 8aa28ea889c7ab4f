//! The sending end of a source: blocking sends that a stop request interrupts, and counters of all losses.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded, select};
use parking_lot::Mutex;

use touchline_core::item::{End, MediaItem};

/// How often the last send checks for an abandon request while it waits for room.
const POLL: Duration = Duration::from_millis(20);

/// The error of a send after the receiver was dropped or the source was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// Why a picture was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// No key frame has arrived since the source was opened.
    BeforeKeyFrame,
    /// It depends on lost or damaged data, and no key frame has arrived since.
    AfterLoss,
    /// The decoder reports that it is damaged.
    Corrupt,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [DropReason; 3] = [DropReason::BeforeKeyFrame, DropReason::AfterLoss, DropReason::Corrupt];

    /// The value of the metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            DropReason::BeforeKeyFrame => "before-key-frame",
            DropReason::AfterLoss => "after-loss",
            DropReason::Corrupt => "corrupt",
        }
    }
}

/// Counters of one source over all its connections. Every loss is counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Pictures sent downstream.
    pub frames: AtomicU64,
    /// Samples per channel sent downstream.
    pub samples: AtomicU64,
    /// Buffers without a time stamp for which none could be derived.
    pub untimed: AtomicU64,
    /// Buffers of a track that appeared after [`MediaItem::Opened`].
    pub undeclared: AtomicU64,
    /// Dropped pictures, by [`DropReason`].
    pub dropped: [AtomicU64; DropReason::ALL.len()],
    /// Coded pictures that were not decoded because they will not be sampled.
    pub left_out: AtomicU64,
    /// Faults in the data: holes reported by a demuxer, and errors of decoders.
    pub faults: AtomicU64,
    /// Coded pictures and pieces of sound that are missing in the ring, because its disk was too slow.
    pub unrecorded: AtomicU64,
    /// Changes from the decoder of a device to software.
    pub decoder_fallbacks: AtomicU64,
    /// Connections after the first.
    pub reconnects: AtomicU64,
    /// Connections whose pipeline or process did not stop in time and was abandoned.
    pub abandoned: AtomicU64,
    /// HLS: whether the first media playlist of the source was complete (`EXT-X-ENDLIST`). If so, the source is a recording that ends
    /// with its playlist. A channel whose packager stops writes the same tag, but comes back.
    pub on_demand: OnceLock<bool>,
}

/// The values of [`Counters`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterValues {
    /// [`Counters::frames`].
    pub frames: u64,
    /// [`Counters::samples`].
    pub samples: u64,
    /// [`Counters::untimed`].
    pub untimed: u64,
    /// [`Counters::undeclared`].
    pub undeclared: u64,
    /// [`Counters::dropped`].
    pub dropped: [u64; DropReason::ALL.len()],
    /// [`Counters::left_out`].
    pub left_out: u64,
    /// [`Counters::faults`].
    pub faults: u64,
    /// [`Counters::unrecorded`].
    pub unrecorded: u64,
    /// [`Counters::decoder_fallbacks`].
    pub decoder_fallbacks: u64,
    /// [`Counters::reconnects`].
    pub reconnects: u64,
    /// [`Counters::abandoned`].
    pub abandoned: u64,
}

impl Counters {
    /// The current values.
    pub fn values(&self) -> CounterValues {
        // Destructured, so that the compiler reports a new counter that is missing here: all are metrics.
        let Self {
            frames,
            samples,
            untimed,
            undeclared,
            dropped,
            left_out,
            faults,
            unrecorded,
            decoder_fallbacks,
            reconnects,
            abandoned,
            on_demand: _,
        } = self;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterValues {
            frames: get(frames),
            samples: get(samples),
            untimed: get(untimed),
            undeclared: get(undeclared),
            dropped: dropped.each_ref().map(get),
            left_out: get(left_out),
            faults: get(faults),
            unrecorded: get(unrecorded),
            decoder_fallbacks: get(decoder_fallbacks),
            reconnects: get(reconnects),
            abandoned: get(abandoned),
        }
    }

    /// Counts a dropped picture.
    pub fn drop_picture(&self, why: DropReason) {
        self.drop_pictures(why, 1);
    }

    /// Counts `count` dropped pictures.
    pub fn drop_pictures(&self, why: DropReason, count: u64) {
        self.dropped[why as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Pictures dropped because of `why`.
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.dropped[why as usize].load(Ordering::Relaxed)
    }

    /// Number of faults and of pictures dropped because of damage. Pictures before the first key frame do not count.
    pub fn damage(&self) -> u64 {
        self.faults.load(Ordering::Relaxed) + self.dropped(DropReason::AfterLoss) + self.dropped(DropReason::Corrupt)
    }
}

/// Sends the items of one source. Clones share the stop request.
#[derive(Clone, Debug)]
pub struct Outlet {
    to: Sender<MediaItem>,
    flags: Arc<StopFlags>,
}

#[derive(Debug)]
struct StopFlags {
    stop: AtomicBool,
    abandon: AtomicBool,
    /// Dropped on stop, which disconnects [`StopFlags::stopping`] and wakes all threads that wait on it.
    running: Mutex<Option<Sender<Infallible>>>,
    stopping: Receiver<Infallible>,
}

impl StopFlags {
    fn new() -> Self {
        let (running, stopping) = bounded(0);
        Self {
            stop: AtomicBool::new(false),
            abandon: AtomicBool::new(false),
            running: Mutex::new(Some(running)),
            stopping,
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.running.lock().take();
    }
}

impl Outlet {
    /// An outlet that sends to `to`.
    pub fn new(to: Sender<MediaItem>) -> Self {
        Self { to, flags: Arc::new(StopFlags::new()) }
    }

    /// Sends `item`; waits for room until a stop is requested. A dropped receiver is a stop request, so that the errors that follow
    /// from it in the source do not count as faults of the media.
    ///
    /// # Errors
    /// [`Closed`] if neither this item nor a later one can be sent.
    pub fn send(&self, item: MediaItem) -> Result<(), Closed> {
        if self.stopped() {
            return Err(Closed);
        }
        let item = match self.to.try_send(item) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Disconnected(_)) => return Err(self.closed()),
            Err(TrySendError::Full(item)) => item,
        };
        select! {
            send(self.to, item) -> sent => sent.map_err(|_| self.closed()),
            recv(self.flags.stopping) -> _ => Err(Closed),
        }
    }

    fn closed(&self) -> Closed {
        self.stop();
        Closed
    }

    /// Sends the last item. Waits for room even after a stop, because every stream ends in-band, but not after
    /// [`Stopper::abandon`].
    pub fn send_end(&self, end: End) {
        let mut item = MediaItem::Ended(end);
        loop {
            match self.to.send_timeout(item, POLL) {
                Err(SendTimeoutError::Timeout(back)) if !self.flags.abandon.load(Ordering::Acquire) => item = back,
                _ => return,
            }
        }
    }

    /// As [`Stopper::stop`].
    pub fn stop(&self) {
        self.flags.stop();
    }

    /// Whether a stop was requested, or the receiver was found to be dropped.
    pub fn stopped(&self) -> bool {
        self.flags.stop.load(Ordering::Acquire)
    }

    /// A channel without messages that disconnects on stop.
    pub fn stopping(&self) -> &Receiver<Infallible> {
        &self.flags.stopping
    }

    /// A handle that can stop this outlet but does not keep the channel open.
    pub fn stopper(&self) -> Stopper {
        Stopper { flags: self.flags.clone() }
    }
}

/// Stops an [`Outlet`]. Holds no sender, so the channel disconnects when the outlet's threads have ended.
#[derive(Clone, Debug)]
pub struct Stopper {
    flags: Arc<StopFlags>,
}

impl Stopper {
    /// Requests an orderly end: no more data are sent, but the end is.
    pub fn stop(&self) {
        self.flags.stop();
    }

    /// Requests an immediate end, for a receiver that may be gone.
    pub fn abandon(&self) {
        self.flags.abandon.store(true, Ordering::Release);
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchline_core::item::Tracks;

    fn item() -> MediaItem {
        MediaItem::Opened(Tracks { video: true, audio: true })
    }

    #[test]
    fn a_stop_frees_a_sender_that_waits_for_room_and_the_end_still_arrives() {
        let (to, from) = crossbeam_channel::bounded(1);
        let outlet = Outlet::new(to);
        outlet.send(item()).unwrap();
        let sender = outlet.clone();
        let (begun_to, begun) = crossbeam_channel::bounded(0);
        let (result_to, result) = crossbeam_channel::bounded(1);
        let waiting = std::thread::spawn(move || {
            begun_to.send(()).unwrap();
            result_to.send(sender.send(item())).unwrap();
            sender.send_end(End::Finished);
        });
        begun.recv().unwrap();
        outlet.stop();
        // Before there is room.
        assert_eq!(result.recv().unwrap(), Err(Closed));
        assert!(matches!(from.recv(), Ok(MediaItem::Opened(_))));
        assert!(matches!(from.recv(), Ok(MediaItem::Ended(End::Finished))));
        waiting.join().unwrap();
    }

    #[test]
    fn a_dropped_receiver_stops_the_source() {
        let (to, from) = crossbeam_channel::bounded(1);
        let outlet = Outlet::new(to);
        drop(from);
        assert!(!outlet.stopped());
        assert_eq!(outlet.clone().send(item()), Err(Closed));
        assert!(outlet.stopped());
    }

    #[test]
    fn abandoning_needs_no_receiver() {
        let (to, _from) = crossbeam_channel::bounded(1);
        let outlet = Outlet::new(to);
        outlet.send(item()).unwrap();
        outlet.stopper().abandon();
        outlet.send_end(End::Finished);
        assert_eq!(outlet.send(item()), Err(Closed));
    }
}
