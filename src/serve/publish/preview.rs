//! The preview of a stream: JPEG pictures, encoded once for all watchers and only while there are any.
//!
//! The clip thread offers frames. A task of the HTTP server takes the newest, encodes it on a blocking thread and sends
//! it to every watcher. A slow watcher misses pictures. Nothing is queued.

use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::body::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{ExtendedColorType, ImageBuffer, ImageEncoder, Rgb};
use tokio::sync::{Notify, watch};

use touchline_core::clock::Clock;
use touchline_core::frame::Frame;
use touchline_core::time::NANOS_PER_SECOND;

/// At most this many pictures a second: enough to follow play, cheap enough to leave open all day.
const PICTURES_PER_SECOND: u64 = 12;

/// Longer side of a preview picture, pixels; larger frames are scaled down to it.
const LONGER_SIDE: u32 = 960;

/// JPEG quality: no visible artefacts at the size of the page's picture.
const QUALITY: u8 = 80;

/// The preview of one stream.
pub(super) struct Preview {
    clock: Arc<dyn Clock>,
    /// Whether there are watchers. Outside `inner`, so that reading needs no lock.
    watched: AtomicBool,
    /// The stream is removed: watchers must end.
    closed: AtomicBool,
    /// When the next picture is due, monotonic clock, ns.
    due_ns: AtomicU64,
    inner: Mutex<PreviewState>,
    fresh: Notify,
    pictures: watch::Sender<Option<Bytes>>,
}

#[derive(Default)]
struct PreviewState {
    /// The newest frame, not encoded yet.
    frame: Option<Frame>,
    watchers: usize,
    /// A task encodes. Under one lock with `watchers`: a task without watchers ends, and the next watcher starts a new
    /// one, so there are never two.
    encoding: bool,
}

/// A watcher, until it is dropped.
pub(super) struct Watcher {
    preview: Arc<Preview>,
    /// The newest picture.
    pub(super) pictures: watch::Receiver<Option<Bytes>>,
}

impl Preview {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            watched: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            due_ns: AtomicU64::new(0),
            inner: Mutex::default(),
            fresh: Notify::new(),
            pictures: watch::Sender::new(None),
        }
    }

    /// Whether there are watchers and the next picture is due.
    pub(super) fn wanted(&self) -> bool {
        self.watched.load(Ordering::Relaxed) && self.clock.mono_ns() >= self.due_ns.load(Ordering::Relaxed)
    }

    /// Keeps `frame` as the newest, even without watchers: the first watcher of a paused or ended stream sees its last
    /// picture.
    pub(super) fn offer(&self, frame: Frame) {
        let due_ns = self.clock.mono_ns() + NANOS_PER_SECOND / PICTURES_PER_SECOND;
        self.due_ns.store(due_ns, Ordering::Relaxed);
        // Frees the old frame after the lock.
        let _old = self.inner().frame.replace(frame);
        self.fresh.notify_one();
    }

    /// Ends all watchers: the stream is removed.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.inner().frame = None;
        self.pictures.send_replace(None);
    }

    /// Adds a watcher. Must be called within a tokio runtime, which encodes.
    pub(super) fn watch(self: &Arc<Self>) -> Watcher {
        let mut inner = self.inner();
        inner.watchers += 1;
        self.watched.store(true, Ordering::Relaxed);
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
                inner.frame.take()
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
    pub(super) fn is_over(&self) -> bool {
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

/// `frame` as a JPEG whose longer side is at most [`LONGER_SIDE`].
fn encode(frame: &Frame) -> io::Result<Bytes> {
    let view = frame.view();
    let picture: ImageBuffer<Rgb<u8>, &[u8]> = ImageBuffer::from_raw(frame.width, frame.height, view.data)
        .ok_or_else(|| io::Error::other("the frame has less data than its size requires"))?;
    let mut jpeg = Vec::with_capacity(64 * 1024);
    let encoder = JpegEncoder::new_with_quality(&mut jpeg, QUALITY);
    let longer = frame.width.max(frame.height);
    let written = if longer > LONGER_SIDE {
        let scaled = |side: u32| (u64::from(side) * u64::from(LONGER_SIDE) / u64::from(longer)).max(1) as u32;
        let (width, height) = (scaled(frame.width), scaled(frame.height));
        let small = image::imageops::resize(&picture, width, height, FilterType::Triangle);
        encoder.write_image(small.as_raw(), width, height, ExtendedColorType::Rgb8)
    } else {
        encoder.write_image(view.data, frame.width, frame.height, ExtendedColorType::Rgb8)
    };
    written.map_err(io::Error::other)?;
    Ok(jpeg.into())
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
        assert_eq!(pool.idle(), 2);
    }
}
