//! The HLS client: reads playlists, fetches segments, and gives a decoder containers to take apart.
//!
//! ```text
//!  runtime "web"                                             thread hls/<id>
//!  session ─► lane (main playlist)  ─ bytes ─► demuxer, decoders ─► relay ─► outlet
//!          └► lane (sound of its own) ─ bytes ─► demuxer, decoders ─┘  order of the line, pace
//! ```
//!
//! `find` looks at the address, `playlist` and `reader` parse, `variant` chooses, `follow` selects the next piece, `place` puts it on the
//! stream's timeline, `fetch` loads it, `lane` drives all of that for one playlist, `feeder` passes bytes to demuxers, and `relay` merges
//! the lanes and paces them. `splice`, `id3`, `breaks` and `splice_watch` read announcements of advertisement breaks. Each stretch of
//! continuous media has its own demuxer, so GStreamer never sees a discontinuity, a hole or a change of format. Source: RFC 8216bis.

mod attributes;
mod breaks;
mod container;
mod crypt;
mod date;
mod feeder;
mod fetch;
mod find;
mod follow;
mod id3;
mod input;
mod lane;
mod mp4;
mod pacer;
mod place;
mod playlist;
mod reader;
mod refusals;
mod relay;
mod session;
mod sniff;
mod splice;
mod splice_watch;
mod ts;
mod variant;

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use url::Url;

use super::Source;
use super::guard::SourcePolicy;
use super::options::HlsOptions;
use super::outlet::{Counters, Outlet, Stopper};
use super::uri::Kind;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::item::{MediaItem, Pace, Tracks};

pub(super) use container::Container;
pub(super) use follow::{Memory, Remembered};
pub(super) use input::Intake;
pub(super) use lane::Beginning;
pub(super) use splice_watch::SpliceWatch;

/// Demuxes containers and decodes them.
pub(super) trait Decoder: Send + Sync {
    /// Starts a demuxer that sends decoded media to `to`, with times on the stream's timeline. It notifies `intake` when it has room.
    ///
    /// # Errors
    /// When the pipeline cannot be made.
    fn begin(
        &self,
        beginning: &Beginning,
        wants: Tracks,
        intake: Arc<Intake>,
        to: Sender<MediaItem>,
    ) -> Result<(Box<dyn Source>, Box<dyn Input>)>;

    /// Opens a recording on a web server by its address: a file that is not a playlist.
    ///
    /// # Errors
    /// As [`super::Open::open`].
    fn recording(&self, to: Sender<MediaItem>) -> Result<Box<dyn Source>>;
}

/// The way into a demuxer.
pub(super) trait Input: Send + Sync {
    /// Adds any number of bytes. Returns `false` when the demuxer takes no more.
    fn push(&self, bytes: Vec<u8>) -> bool;

    /// Whether enough bytes are queued for now.
    fn is_full(&self) -> bool;

    /// Marks the end of the bytes.
    fn end(&self);
}

/// The parameters of a source.
pub(super) struct Request {
    /// Names the threads.
    pub id: String,
    pub url: Url,
    pub options: HlsOptions,
    /// Lines of the pictures that the pack looks at.
    pub frame_height: u32,
    pub wants: Tracks,
    pub policy: Arc<SourcePolicy>,
    pub decoder: Arc<dyn Decoder>,
    pub counters: Arc<Counters>,
    pub memory: Memory,
    pub clock: Arc<dyn Clock>,
    pub pace: Pace,
    /// Media are sent at the stream's own pace.
    pub is_paced: bool,
}

/// Opens a web address: a playlist, an endless stream, or a recording.
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

/// Asks the server what `url` is: [`Kind::Hls`], [`Kind::HttpLive`] or [`Kind::Http`] (a recording); [`None`] when the server does not
/// say. Waits for the server for some seconds.
pub(super) fn classify(url: &Url, policy: &Arc<SourcePolicy>) -> Option<Kind> {
    super::web::runtime().ok()?.block_on(find::classify(url, policy))
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
            // The panic hook has already printed a panic of the thread.
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
