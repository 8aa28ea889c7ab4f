//! Frame selection: which coded pictures are decoded, and which decoded pictures are converted.
//!
//! Scaling and converting a picture costs nearly as much as decoding it, and a second uses a third of its pictures. So the source
//! asks a [`FrameSelector`] about each picture, by its time, before it converts the picture. Pictures that will not be sampled
//! are sent as [`crate::item::MediaItem::Unconverted`], so that the timeline downstream has no hole.
//!
//! Before decoding, it asks about coded pictures to which no other picture refers ([`FrameSelector::may_sample`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::tier::{DecodeTier, SharedTier};
use crate::time::Pts;

/// The source's action for a decoded picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameChoice {
    /// It may be sampled: convert it.
    Keep,
    /// It will not be sampled: send only its time.
    Drop,
    /// The next picture decides: keep it until then.
    Hold,
}

/// The answer of [`FrameSelector::offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameChoices {
    /// Whether to convert the held picture. Without meaning if none is held.
    pub keep_held: bool,
    /// What to do with the offered picture.
    pub this: FrameChoice,
}

/// Decides which pictures of one connection may be sampled, from their times in output order.
///
/// At most one picture is held, always the last. The caller may convert more pictures than required (the held one, when none
/// follows for a while), but not fewer.
pub trait FrameSelector: Send {
    /// Decides about a picture at `pts` and about the held one.
    fn offer(&mut self, pts: Pts) -> FrameChoices;

    /// Whether a picture at `pts` may be sampled if its neighbours are about `interval_ns` away. Called before decoding, in any
    /// order.
    fn may_sample(&self, _pts: Pts, _interval_ns: u64) -> bool {
        true
    }
}

/// Where the decoding of a recording begins, for a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeStart {
    /// With the key picture at this time. Pictures that are shown before it and depend on earlier ones are left out.
    Key(Pts),
    /// Nowhere.
    Never,
}

/// The part of a recording whose pictures are decoded. The first group of pictures always is, because it shows the format. Of pictures that
/// are left out, the times are known, so that the seconds are cut as in the whole recording.
///
/// Codecs whose references are not known are decoded from the beginning.
#[derive(Debug)]
pub struct DecodeWindow {
    start: DecodeStart,
    has_begun: AtomicBool,
    keys: Mutex<Vec<Pts>>,
}

impl DecodeWindow {
    /// A window that begins at `start`.
    pub fn new(start: DecodeStart) -> Self {
        Self { start, has_begun: AtomicBool::new(false), keys: Mutex::default() }
    }

    /// Takes the time of a key picture. Returns whether decoding begins with it.
    pub fn key(&self, pts: Pts) -> bool {
        self.keys.lock().push(pts);
        self.start == DecodeStart::Key(pts) && !self.has_begun.swap(true, Ordering::Relaxed)
    }

    /// Whether decoding has begun. A recording can have one decoder after the other.
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// The times of all key pictures so far, in the order of decoding. Empty for codecs that are decoded from the beginning.
    pub fn keys(&self) -> Vec<Pts> {
        self.keys.lock().clone()
    }
}

/// The frame selection of a stream: makes a [`FrameSelector`] for each connection. Cheap to clone.
#[derive(Clone)]
pub struct FrameSelection {
    make: Arc<dyn Fn(SharedTier) -> Box<dyn FrameSelector> + Send + Sync>,
    tier: SharedTier,
    wanted: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    window: Option<Arc<DecodeWindow>>,
}

impl FrameSelection {
    /// A selection whose selectors come from `make`, which receives the tier of the stream. The tier is [`DecodeTier::Full`].
    pub fn new(make: impl Fn(SharedTier) -> Box<dyn FrameSelector> + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), tier: SharedTier::new(DecodeTier::Full), wanted: None, window: None }
    }

    /// Decodes by `tier`.
    #[must_use]
    pub fn at(self, tier: SharedTier) -> Self {
        Self { tier, ..self }
    }

    /// Decodes only the pictures of `window`.
    #[must_use]
    pub fn within(self, window: Arc<DecodeWindow>) -> Self {
        Self { window: Some(window), ..self }
    }

    /// The part of a recording whose pictures are decoded; `None`: all of it.
    pub fn window(&self) -> Option<&Arc<DecodeWindow>> {
        self.window.as_ref()
    }

    /// The current tier.
    pub fn tier(&self) -> DecodeTier {
        self.tier.get()
    }

    /// Also converts a picture when `wanted` returns true, as a preview needs. `wanted` is called on GStreamer's threads for each
    /// picture and must not block.
    #[must_use]
    pub fn unless(self, wanted: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { wanted: Some(Arc::new(wanted)), ..self }
    }

    /// Returns a selector for a new connection.
    pub fn start(&self) -> Box<dyn FrameSelector> {
        (self.make)(self.tier.clone())
    }

    /// Whether a picture is wanted although it will not be sampled.
    pub fn is_wanted(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted())
    }
}

impl fmt::Debug for FrameSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSelection").finish_non_exhaustive()
    }
}
