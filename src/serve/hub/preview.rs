//! The preview of a stream: JPEG pictures, encoded once for all watchers and only while there are any.
//!
//! The clip thread offers frames. A task of the HTTP server encodes the newest on a blocking thread and sends it to every
//! watcher. A slow watcher misses pictures. Nothing is queued.
//!
//! Walls poll thumbnails of many streams. A thumbnail is encoded when a wall requests it, once for all walls, and at most once
//! in [`THUMBNAIL_INTERVAL_NS`] and width: the number of viewers does not change the cost.

use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::body::Bytes;
use tokio::sync::{Notify, watch};

use touchline_core::clock::Clock;
use touchline_core::frame::Frame;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::jpeg;

/// At most this many pictures a second: enough to follow play, cheap enough to leave open all day.
const PICTURES_PER_SECOND: u64 = 12;

/// Longer side of a preview picture, pixels; larger frames are scaled down to it.
const LONGER_SIDE: u32 = 960;

/// JPEG quality: no visible artefacts at the size of the page's picture.
const QUALITY: u8 = 80;

/// Widths of thumbnails, pixels: these serve every tile.
pub(crate) const THUMBNAIL_WIDTHS: [u32; 4] = [160, 320, 640, 960];

/// Least time between two thumbnails of a stream, nanoseconds.
const THUMBNAIL_INTERVAL_NS: u64 = NANOS_PER_SECOND;

/// The same for each thumbnail that a client requests at once, nanoseconds: nine tenths of the time after which a page requests so many
/// again. However many walls poll, and whenever they do, each tile is encoded once in that time, and each wall gets a new picture every time.
const INTERVAL_PER_TILE_NS: u64 = 67_500_000;

/// How long a poll requests frames: three polls of the slowest wall, and no more after the last has closed.
const POLL_LEASE_NS: u64 = 15 * NANOS_PER_SECOND;

/// JPEG quality of thumbnails: their pixels are small on every screen.
const THUMBNAIL_QUALITY: u8 = 70;

/// The preview of one stream.
pub(crate) struct Preview {
    clock: Arc<dyn Clock>,
    /// Whether there are watchers. Outside `inner`, so that reading needs no lock.
    watched: AtomicBool,
    /// The stream is removed: watchers must end.
    closed: AtomicBool,
    /// When the next picture is due, monotonic clock, ns.
    due_ns: AtomicU64,
    /// Until when walls want frames, monotonic clock, ns.
    polled_until_ns: AtomicU64,
    inner: Mutex<PreviewState>,
    /// Locked while one is encoded, so that two walls do not encode the same.
    thumbnails: Mutex<[Option<Thumbnail>; THUMBNAIL_WIDTHS.len()]>,
    fresh: Notify,
    pictures: watch::Sender<Option<Bytes>>,
}

#[derive(Default)]
struct PreviewState {
    /// The newest frame.
    frame: Option<Frame>,
    /// Number of frames that were offered.
    offered: u64,
    /// When the last was, monotonic clock, ns.
    offered_ns: u64,
    /// `offered` at the time of the last picture.
    encoded: u64,
    watchers: usize,
    /// A task encodes. Under one lock with `watchers`: a task without watchers ends, and the next watcher starts a new
    /// one, so there are never two.
    encoding: bool,
}

/// A small picture of a stream.
#[derive(Clone)]
pub(crate) struct Thumbnail {
    /// Number of its frame.
    offered: u64,
    encoded_ns: u64,
    /// How old its frame is when it is read, nanoseconds.
    pub(crate) age_ns: u64,
    /// Whether this call encoded it.
    pub(crate) is_new: bool,
    pub(crate) jpeg: Bytes,
}

/// A watcher, until it is dropped.
pub(crate) struct Watcher {
    preview: Arc<Preview>,
    /// The newest picture.
    pub(crate) pictures: watch::Receiver<Option<Bytes>>,
}

impl Preview {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            watched: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            due_ns: AtomicU64::new(0),
            polled_until_ns: AtomicU64::new(0),
            inner: Mutex::default(),
            thumbnails: Mutex::default(),
            fresh: Notify::new(),
            pictures: watch::Sender::new(None),
        }
    }

    /// Whether there are watchers and the next picture is due.
    pub(crate) fn wanted(&self) -> bool {
        let now_ns = self.clock.mono_ns();
        (self.watched.load(Ordering::Relaxed) || now_ns < self.polled_until_ns.load(Ordering::Relaxed))
            && now_ns >= self.due_ns.load(Ordering::Relaxed)
    }

    /// Keeps `frame` as the newest, even without watchers: the first watcher of a paused or ended stream sees its last
    /// picture.
    pub(crate) fn offer(&self, frame: Frame) {
        let now_ns = self.clock.mono_ns();
        let pause_ns = if self.watched.load(Ordering::Relaxed) {
            NANOS_PER_SECOND / PICTURES_PER_SECOND
        } else {
            THUMBNAIL_INTERVAL_NS
        };
        self.due_ns.store(now_ns + pause_ns, Ordering::Relaxed);
        let mut inner = self.inner();
        inner.offered += 1;
        inner.offered_ns = now_ns;
        let old = inner.frame.replace(frame);
        drop(inner);
        // Frees the old frame after the lock.
        drop(old);
        self.fresh.notify_one();
    }

    /// Requests frames for thumbnails for a while.
    pub(crate) fn poll(&self) {
        self.polled_until_ns.store(self.clock.mono_ns() + POLL_LEASE_NS, Ordering::Relaxed);
    }

    /// The newest thumbnail of the width `THUMBNAIL_WIDTHS[size]`, one of `requested` at once; `None` without a frame. May encode it:
    /// blocks for a millisecond.
    pub(crate) fn thumbnail(&self, size: usize, requested: usize) -> Option<Thumbnail> {
        let mut thumbnails = self.thumbnails.lock();
        let now_ns = self.clock.mono_ns();
        let (frame, offered, offered_ns) = {
            let inner = self.inner();
            (inner.frame.clone()?, inner.offered, inner.offered_ns)
        };
        let age_ns = now_ns.saturating_sub(offered_ns);
        let interval_ns = THUMBNAIL_INTERVAL_NS.max(requested as u64 * INTERVAL_PER_TILE_NS);
        if let Some(last) = &thumbnails[size]
            && (last.offered == offered || now_ns.saturating_sub(last.encoded_ns) < interval_ns)
        {
            return Some(Thumbnail { age_ns, is_new: false, ..last.clone() });
        }
        match encode_thumbnail(&frame, THUMBNAIL_WIDTHS[size]) {
            Ok(jpeg) => {
                let new = Thumbnail { offered, encoded_ns: now_ns, age_ns, is_new: true, jpeg };
                thumbnails[size] = Some(new.clone());
                Some(new)
            }
            Err(error) => {
                tracing::warn!("cannot encode a thumbnail: {error}");
                None
            }
        }
    }

    /// Ends all watchers: the stream is removed.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.inner().frame = None;
        *self.thumbnails.lock() = Default::default();
        self.pictures.send_replace(None);
    }

    /// Adds a watcher. Must be called within a tokio runtime, which encodes.
    pub(crate) fn watch(self: &Arc<Self>) -> Watcher {
        let mut inner = self.inner();
        inner.watchers += 1;
        if !self.watched.swap(true, Ordering::Relaxed) {
            // Not after the pause that walls need.
            self.due_ns.store(0, Ordering::Relaxed);
        }
        if !std::mem::replace(&mut inner.encoding, true) {
            tokio::spawn(self.clone().encode_while_watched());
        }
        Watcher { preview: self.clone(), pictures: self.pictures.subscribe() }
    }

    async fn encode_while_watched(self: Arc<Self>) {
        loop {
            let frame = {
                let mut inner = self.inner();
                if inner.watchers == 0 {
                    inner.encoding = false;
                    return;
                }
                let is_new = inner.encoded != inner.offered;
                inner.encoded = inner.offered;
                inner.frame.clone().filter(|_| is_new)
            };
            let Some(frame) = frame else {
                self.fresh.notified().await;
                continue;
            };
            match tokio::task::spawn_blocking(move || encode(&frame)).await {
                Ok(Ok(jpeg)) => {
                    self.pictures.send_replace(Some(jpeg));
                }
                Ok(Err(error)) => tracing::warn!("cannot encode a preview picture: {error}"),
                Err(error) => tracing::warn!("cannot encode a preview picture: {error}"),
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, PreviewState> {
        self.inner.lock()
    }

    #[cfg(test)]
    fn encoding(&self) -> bool {
        self.inner().encoding
    }
}

impl Watcher {
    /// The stream is removed; no picture follows.
    pub(crate) fn is_over(&self) -> bool {
        self.preview.closed.load(Ordering::Acquire)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut inner = self.preview.inner();
        inner.watchers -= 1;
        if inner.watchers == 0 {
            self.preview.watched.store(false, Ordering::Relaxed);
            self.preview.fresh.notify_one();
        }
    }
}

/// `frame` as a JPEG that is at most `width` wide.
pub(crate) fn encode_thumbnail(frame: &Frame, width: u32) -> io::Result<Bytes> {
    jpeg::encode_thumbnail(frame, width, THUMBNAIL_QUALITY).map(Bytes::from)
}

/// `frame` as a JPEG whose longer side is at most [`LONGER_SIDE`].
fn encode(frame: &Frame) -> io::Result<Bytes> {
    jpeg::encode_within(frame, (LONGER_SIDE, LONGER_SIDE), QUALITY).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use touchline_core::clock::ManualClock;
    use touchline_core::pool::{Pool, Pooled};
    use touchline_core::time::Pts;

    fn frame(width: u32, height: u32, grey: u8) -> Frame {
        let data = Pooled::detached(vec![grey; (width * height * 3) as usize]);
        Frame::new(data, width, height, Pts(0), 0)
    }

    fn preview() -> (Arc<Preview>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (Arc::new(Preview::new(clock.clone())), clock)
    }

    fn size(jpeg: &[u8]) -> (u32, u32) {
        let picture = image::load_from_memory(jpeg).unwrap();
        (picture.width(), picture.height())
    }

    #[test]
    fn pictures_are_jpegs_of_a_bounded_size() {
        assert_eq!(size(&encode(&frame(33, 17, 90)).unwrap()), (33, 17), "including odd sizes");
        assert_eq!(size(&encode(&frame(1920, 1080, 90)).unwrap()), (960, 540));
        assert_eq!(size(&encode(&frame(3, 3000, 90)).unwrap()), (1, 960));
    }

    #[tokio::test]
    async fn frames_are_wanted_only_for_watchers_and_at_a_limited_rate() {
        let (preview, clock) = preview();
        assert!(!preview.wanted(), "nobody watches");
        let watcher = preview.watch();
        assert!(preview.wanted());
        preview.offer(frame(8, 8, 1));
        assert!(!preview.wanted(), "too soon");
        clock.advance(NANOS_PER_SECOND / PICTURES_PER_SECOND);
        assert!(preview.wanted());
        drop(watcher);
        assert!(!preview.wanted());
    }

    #[tokio::test]
    async fn watchers_share_an_encoder_that_ends_with_the_last() {
        let (preview, _) = preview();
        let (mut a, mut b) = (preview.watch(), preview.watch());
        preview.offer(frame(16, 9, 200));
        a.pictures.changed().await.unwrap();
        b.pictures.changed().await.unwrap();
        let picture_of = |w: &Watcher| w.pictures.borrow().clone().unwrap();
        assert_eq!(picture_of(&a).as_ptr(), picture_of(&b).as_ptr(), "encoded once");
        drop(a);
        assert!(preview.encoding());
        drop(b);
        for _ in 0..200 {
            if !preview.encoding() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!preview.encoding(), "the encoder ends with the last watcher");
        let mut c = preview.watch();
        preview.offer(frame(16, 9, 10));
        c.pictures.changed().await.unwrap();
    }

    #[tokio::test]
    async fn watchers_end_when_the_stream_is_removed() {
        let (preview, _) = preview();
        let mut watcher = preview.watch();
        preview.offer(frame(8, 8, 1));
        watcher.pictures.changed().await.unwrap();
        assert!(!watcher.is_over());
        watcher.pictures.mark_unchanged();
        preview.close();
        watcher.pictures.changed().await.unwrap();
        assert!(watcher.is_over());
    }

    #[tokio::test]
    async fn a_late_watcher_receives_the_last_picture_and_buffers_are_returned() {
        let (preview, _) = preview();
        let pool = Pool::new(4);
        for grey in [1, 2] {
            let mut data = pool.take();
            data.resize(8 * 8 * 3, grey);
            preview.offer(Frame::new(data, 8, 8, Pts(0), 0));
        }
        assert_eq!(pool.idle(), 1, "only the newest is kept");
        let mut watcher = preview.watch();
        watcher.pictures.changed().await.unwrap();
        assert_eq!(size(&watcher.pictures.borrow().clone().unwrap()), (8, 8));
        drop(watcher);
        assert_eq!(pool.idle(), 1, "the newest stays for the next watcher");
        let mut late = preview.watch();
        late.pictures.wait_for(Option::is_some).await.unwrap();
    }

    #[test]
    fn thumbnails_are_encoded_once_a_second_for_all_walls() {
        let (preview, clock) = preview();
        assert!(!preview.wanted() && preview.thumbnail(0, 1).is_none());
        preview.poll();
        assert!(preview.wanted());
        preview.offer(frame(1920, 1080, 9));
        assert!(!preview.wanted(), "a thumbnail a second is enough");
        let first = preview.thumbnail(0, 1).unwrap();
        assert_eq!((size(&first.jpeg), first.is_new), ((160, 90), true));
        assert!(!preview.thumbnail(0, 1).unwrap().is_new);
        assert_eq!(size(&preview.thumbnail(2, 1).unwrap().jpeg), (640, 360));
        preview.offer(frame(1920, 1080, 200));
        assert!(!preview.thumbnail(0, 1).unwrap().is_new, "too soon");
        clock.advance(NANOS_PER_SECOND);
        assert!(preview.wanted());
        let second = preview.thumbnail(0, 1).unwrap();
        assert!(second.is_new && second.jpeg != first.jpeg);
        clock.advance(NANOS_PER_SECOND);
        preview.offer(frame(1920, 1080, 90));
        assert!(!preview.thumbnail(0, 64).unwrap().is_new, "a wall of 64 tiles sees each change rarely");
        assert!(preview.thumbnail(0, 14).unwrap().is_new);
        clock.advance(POLL_LEASE_NS);
        assert!(!preview.wanted(), "no wall polls any more");
        let old = preview.thumbnail(0, 1).unwrap();
        assert_eq!((old.is_new, old.age_ns), (false, POLL_LEASE_NS), "the last picture stays");
        preview.close();
        assert!(preview.thumbnail(0, 1).is_none());
    }

    #[test]
    fn thumbnails_of_odd_frames_are_bounded() {
        let size_of = |width, height| size(&encode_thumbnail(&frame(width, height, 1), 160).unwrap());
        assert_eq!(size_of(33, 17), (33, 17), "never larger than the frame");
        assert_eq!(size_of(3, 3000), (3, 12));
        assert_eq!(size_of(4000, 1), (160, 1));
    }
}
