//! Which pictures are worth converting, as ingest asks it: the answer comes from who cuts the seconds.
//!
//! Scaling and converting a decoded picture costs nearly what decoding it does, and a second uses a third of its pictures.
//! So a [`FrameSelector`] is asked about each picture by its time alone, before anything is done to it. A picture that nobody will
//! look at goes on as [`crate::item::MediaItem::Unconverted`]: the time line downstream has no hole.

use std::fmt;
use std::sync::Arc;

use crate::time::Pts;

/// What becomes of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameChoice {
    /// It may be chosen: convert it.
    Keep,
    /// It will not be chosen: only its time goes on.
    Drop,
    /// The next picture decides.
    Hold,
}

/// The answer of [`FrameSelector::offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameChoices {
    /// Whether the picture that was held is kept; meaningless when none was.
    pub keep_held: bool,
    pub this: FrameChoice,
}

/// Says which pictures of one connection may be chosen, from their times in the order of decoding.
///
/// At most one picture is held, always the last. Whoever asks may convert more than the answer says (the held picture,
/// when none follows for a while), never less.
pub trait FrameSelector: Send {
    /// A picture at `pts` was decoded.
    fn offer(&mut self, pts: Pts) -> FrameChoices;
}

/// Makes a [`FrameSelector`] for each connection of a stream. Cloning shares what it is made with.
#[derive(Clone)]
pub struct FrameSelection {
    make: Arc<dyn Fn() -> Box<dyn FrameSelector> + Send + Sync>,
    wanted: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl FrameSelection {
    pub fn new(make: impl Fn() -> Box<dyn FrameSelector> + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), wanted: None }
    }

    /// A picture that nobody chooses is converted all the same when `wanted` says so at that moment: a preview wants one.
    /// Called on GStreamer's threads for each picture; must not block.
    #[must_use]
    pub fn unless(self, wanted: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { wanted: Some(Arc::new(wanted)), ..self }
    }

    /// For a new connection.
    pub fn start(&self) -> Box<dyn FrameSelector> {
        (self.make)()
    }

    /// Whether somebody wants a picture that nobody chose.
    pub fn is_wanted(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted())
    }
}

impl fmt::Debug for FrameSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSelection").finish_non_exhaustive()
    }
}
