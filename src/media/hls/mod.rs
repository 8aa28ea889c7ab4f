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

use self::fetch::Origin;
use super::Source;
use super::facts::SharedFacts;
use super::guard::{Refusal, SourcePolicy};
use super::options::HlsOptions;
use super::outlet::{Counters, Outlet, Stopper};
use super::uri::Kind;
use super::web::WebClient;
use touchline_core::cause::Cause;
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
    pub facts: SharedFacts,
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

/// Fetches the media playlist at a web address. Its addresses are absolute in the result, so that a copy plays from any place. `policy`
/// applies to every connection; without one, all addresses are allowed. Waits for the server for some seconds, and must not be called on
/// a thread of a runtime.
///
/// # Errors
/// When the address or a redirect is refused, or the server sends no playlist.
pub fn fetch_playlist(url: &Url, policy: Option<&Arc<SourcePolicy>>) -> std::result::Result<String, Refusal> {
    let failed = |e: std::io::Error| Refusal::of(Cause::Other, format!("cannot start the network: {e}"), "try again");
    let runtime = super::guard::runtime().map_err(failed)?;
    let policy = policy.cloned().unwrap_or_else(|| Arc::new(SourcePolicy::unrestricted()));
    let origin = content::HttpOrigin { web: Arc::new(WebClient::new(policy)) };
    let (base, text) = runtime.block_on(origin.playlist(url, content::RESPONSE_TIMEOUT))?;
    Ok(with_absolute_addresses(&text, &base))
}

/// `playlist` with absolute addresses of segments, keys and the like.
fn with_absolute_addresses(playlist: &str, base: &Url) -> String {
    const ATTRIBUTE: &str = "URI=\"";
    let absolute = |address: &str| base.join(address).map_or_else(|_| address.to_owned(), String::from);
    let mut out = String::with_capacity(2 * playlist.len());
    for line in playlist.split_inclusive('\n') {
        let text = line.trim_end();
        let tag = text.split_once(ATTRIBUTE).and_then(|(before, rest)| Some((before, rest.split_once('"')?)));
        match tag {
            Some((before, (address, after))) if text.starts_with('#') => {
                out.extend([before, ATTRIBUTE, &absolute(address), "\"", after]);
            }
            None if !text.is_empty() && !text.starts_with('#') => out.push_str(&absolute(text)),
            _ => out.push_str(text),
        }
        out.push_str(&line[text.len()..]);
    }
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_playlist_become_absolute() {
        let base = Url::parse("https://h.example/live/court/video.m3u8?token=x").unwrap();
        let text = "#EXTM3U\r\n#EXT-X-MAP:URI=\"init.mp4\",BYTERANGE=\"9@0\"\r\n#EXTINF:4,\r\n../a 1.ts\r\n#EXTINF:4,\r\nhttps://cdn.example/b.ts\n/c.ts";
        assert_eq!(
            with_absolute_addresses(text, &base),
            "#EXTM3U\r\n#EXT-X-MAP:URI=\"https://h.example/live/court/init.mp4\",BYTERANGE=\"9@0\"\r\n#EXTINF:4,\r\n\
             https://h.example/live/a%201.ts\r\n#EXTINF:4,\r\nhttps://cdn.example/b.ts\nhttps://h.example/c.ts"
        );
    }
}
