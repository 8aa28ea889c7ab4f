//! The HLS client: reads playlists, fetches segments, and gives a decoder containers to take apart.
//!
//! ```text
//!  runtime "web"                                             thread hls/<id>
//!  session ─► lane (main playlist)  ─ bytes ─► demuxer, decoders ─► relay ─► outlet
//!          └► lane (sound of its own) ─ bytes ─► demuxer, decoders ─┘  order of the line, pace
//! ```
//!
//! `playlist` reads text, `variant` chooses, `follow` says which piece comes next, `place` puts it on the line of the stream,
//! `lane` fetches and hands on, `relay` merges and paces. Every stretch of media that go on from each other has a demuxer of its
//! own, so that GStreamer never sees a break, a hole or another format. Source: RFC 8216bis.

mod attributes;
mod container;
mod crypt;
mod date;
mod follow;
mod lane;
mod mp4;
mod pacer;
mod place;
mod playlist;
mod relay;
mod session;
mod sniff;
mod ts;
mod variant;

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use url::Url;

use super::guard::SourcePolicy;
use super::options::HlsOptions;
use super::outlet::{Counters, Outlet, Stopper};
use super::uri::Kind;
use super::{MediaItem, Pace, Source, Tracks};
use crate::clock::Clock;
use crate::error::{Error, Result};

pub(super) use container::Container;
pub(super) use follow::{Memory, Remembered};
pub(super) use lane::Beginning;
pub(super) use relay::Broken;

/// Takes containers apart and decodes them.
pub(super) trait Decoder: Send + Sync {
    /// Begins a demuxer that sends what it decodes to `to`, in times of the stream's line. `state` is told when there is room.
    ///
    /// # Errors
    /// When the pipeline cannot be made.
    fn begin(
        &self,
        beginning: &Beginning,
        wants: Tracks,
        state: Arc<Broken>,
        to: Sender<MediaItem>,
    ) -> Result<(Box<dyn Source>, Box<dyn Input>)>;

    /// Opens a recording on a web server by its address: what is no playlist and has an end.
    ///
    /// # Errors
    /// As [`super::Open::open`].
    fn recording(&self, to: Sender<MediaItem>) -> Result<Box<dyn Source>>;
}

/// The way into a demuxer.
pub(super) trait Input: Send + Sync {
    /// Adds bytes, however many there are. `false`: nobody takes them any more.
    fn push(&self, bytes: Vec<u8>) -> bool;

    /// Whether what was added suffices for now.
    fn is_full(&self) -> bool;

    /// Nothing more comes.
    fn end(&self);
}

/// What a source is made from.
pub(super) struct Request {
    /// Names the threads.
    pub id: String,
    pub url: Url,
    pub options: HlsOptions,
    /// Lines of pictures that are looked at.
    pub frame_height: u32,
    pub wants: Tracks,
    pub policy: Arc<SourcePolicy>,
    pub decoder: Arc<dyn Decoder>,
    pub counters: Arc<Counters>,
    pub memory: Memory,
    pub clock: Arc<dyn Clock>,
    pub pace: Pace,
    /// Segments are handed on at the stream's own pace.
    pub is_paced: bool,
}

/// Opens what is at an address of the web: a playlist, an endless stream, or a recording.
///
/// # Errors
/// [`Error::Internal`] when the system has no threads left.
pub(super) fn open(request: Request, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
    let failed = |e: std::io::Error| Error::Internal(format!("cannot start the thread of a source: {e}"));
    let runtime = super::web::runtime().map_err(failed)?;
    let outlet = Outlet::new(to);
    let (pace, stopper) = (request.pace, outlet.stopper());
    let thread = std::thread::Builder::new()
        .name(format!("hls/{}", request.id))
        .spawn(move || session::run(&request, runtime, &outlet))
        .map_err(failed)?;
    Ok(Box::new(HlsSource { pace, stopper, thread: Some(thread) }))
}

/// What is at `url`, by asking: [`Kind::Hls`], [`Kind::HttpLive`] or [`Kind::Http`], a recording; [`None`] when it cannot be found
/// out. Waits for the server, for some seconds.
pub(super) fn classify(url: &Url, policy: &Arc<SourcePolicy>) -> Option<Kind> {
    super::web::runtime().ok()?.block_on(session::classify(url, policy))
}

struct HlsSource {
    pace: Pace,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Source for HlsSource {
    fn pace(&self) -> Pace {
        self.pace
    }

    fn stop(&mut self) {
        self.stopper.stop();
    }
}

impl Drop for HlsSource {
    fn drop(&mut self) {
        self.stopper.abandon();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread was printed where it happened; there is no one to hand it to here.
            let _ = thread.join();
        }
    }
}

/// For the fuzz targets: reads a playlist twice, as it came and as a later one of the same channel, and follows it.
#[cfg(fuzzing)]
pub fn fuzz(first: &str, second: &str) {
    let base = Url::parse("https://h.example/a/live.m3u8?tok=1").expect("a constant");
    let mut follower = follow::Follower::default();
    for text in [first, second] {
        let from = follower.wants_from();
        if let Ok(playlist::Playlist::Media(media)) = playlist::Playlist::parse(text, &base, &Default::default(), from)
        {
            follower.update(&media);
            while follower.next(&media).is_some() {}
        }
        let _ = container::look(text.as_bytes(), None);
        let _ = mp4::tracks(text.as_bytes());
    }
}
