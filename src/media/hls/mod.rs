//! The HLS client: reads playlists, fetches segments, and passes containers to a demuxer.
//!
//! ```text
//!  runtime "web"                                             thread hls/<id>
//!  session ─► player (main playlist)  ─ bytes ─► demuxer, decoders ─► relay ─► outlet
//!          └► player (audio rendition)  ─ bytes ─► demuxer, decoders ─┘  merges and paces
//! ```
//!
//! `content` inspects the address, `playlist` and `playlist_reader` parse, `variant` chooses, `cursor` selects the next piece (a
//! segment or a part of one), `timeline` places it, `fetch` loads it, `player` drives all of that for one playlist,
//! `demuxer_feed` passes bytes to demuxers, and `relay` merges the players and paces them. `splice`, `id3`, `breaks` and
//! `splice_monitor` read announcements of advertisement breaks. Each stretch of continuous media has its own demuxer, so
//! GStreamer never sees a discontinuity, a hole or a change of format. Source: RFC 8216bis.

mod attributes;
mod breaks;
mod container;
mod content;
mod crypt;
mod cursor;
mod date;
mod demuxer_feed;
mod fetch;
mod id3;
mod input;
mod mp4;
mod pacer;
mod player;
mod playlist;
mod playlist_reader;
mod refusals;
mod relay;
mod session;
mod sniff;
mod splice;
mod splice_monitor;
mod timeline;
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
pub(super) use cursor::{PlaylistMemory, StoredPosition};
pub(super) use input::DemuxerIntake;
pub(super) use player::DemuxerStart;
pub(super) use splice_monitor::SpliceMonitor;

/// Demuxes containers and decodes them.
pub(super) trait Decoder: Send + Sync {
    /// Starts a demuxer that sends decoded media to `to`, with times on the stream's timeline. It notifies `intake` when it has room.
    ///
    /// # Errors
    /// When the pipeline cannot be made.
    fn begin(
        &self,
        beginning: &DemuxerStart,
        wants: Tracks,
        intake: Arc<DemuxerIntake>,
        to: Sender<MediaItem>,
    ) -> Result<(Box<dyn Source>, Box<dyn DemuxerInput>)>;

    /// Opens a recording on a web server by its address: a file that is not a playlist.
    ///
    /// # Errors
    /// As [`super::Open::open`].
    fn recording(&self, to: Sender<MediaItem>) -> Result<Box<dyn Source>>;
}

/// The input of a demuxer.
pub(super) trait DemuxerInput: Send + Sync {
    /// Adds any number of bytes. Returns `false` when the demuxer takes no more.
    fn push(&self, bytes: Vec<u8>) -> bool;

    /// Whether enough bytes are queued.
    fn is_full(&self) -> bool;

    /// Marks the end of the bytes.
    fn end(&self);
}

/// The parameters of a source.
pub(super) struct HlsRequest {
    /// Names the threads.
    pub id: String,
    pub url: Url,
    pub options: HlsOptions,
    /// Picture height that the pack uses, lines.
    pub frame_height: u32,
    pub wants: Tracks,
    pub policy: Arc<SourcePolicy>,
    pub decoder: Arc<dyn Decoder>,
    pub counters: Arc<Counters>,
    pub memory: PlaylistMemory,
    pub clock: Arc<dyn Clock>,
    pub pace: Pace,
    /// Media are sent at the stream's own pace.
    pub is_paced: bool,
}

/// Opens a web address: a playlist, an endless stream, or a recording.
///
/// # Errors
/// [`Error::Internal`] when the system has no threads left.
pub(super) fn open(request: HlsRequest, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
    let failed = |e: std::io::Error| Error::Internal(format!("cannot start the thread of a source: {e}"));
    let runtime = super::guard::runtime().map_err(failed)?;
    let outlet = Outlet::new(to);
    let (pace, stopper) = (request.pace, outlet.stopper());
    let thread = std::thread::Builder::new()
        .name(format!("hls/{}", request.id))
        .spawn(move || session::run(&request, runtime, &outlet))
        .map_err(failed)?;
    Ok(Box::new(HlsSource { pace, stopper, thread: Some(thread) }))
}

/// Asks the server what `url` is: [`Kind::Hls`], [`Kind::HttpLive`] or [`Kind::Http`] (a recording); [`None`] when the server
/// does not say. Waits for the server for some seconds.
pub(super) fn classify(url: &Url, policy: &Arc<SourcePolicy>) -> Option<Kind> {
    super::guard::runtime().ok()?.block_on(content::classify(url, policy))
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

/// For the fuzz targets: reads two successive playlists of a channel and moves a cursor through them.
#[cfg(fuzzing)]
pub fn fuzz(first: &str, second: &str) {
    let base = Url::parse("https://h.example/a/live.m3u8?tok=1").expect("a constant");
    let mut cursor = cursor::PlaylistCursor::default();
    for text in [first, second] {
        let from = cursor.wants_from();
        if let Ok(playlist::Playlist::Media(media)) = playlist::Playlist::parse(text, &base, &Default::default(), from)
        {
            cursor.update(&media);
            while cursor.next(&media).is_some() {}
        }
        let _ = container::inspect(text.as_bytes(), None);
        let _ = mp4::tracks(text.as_bytes());
    }
}
