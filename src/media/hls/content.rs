//! Detects the content of a web address, and fetches playlists and media over HTTP.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use url::Url;

use super::attributes::{ByteRange, Variables};
use super::container::{self, Container};
use super::fetch::Origin;
use super::playlist::{MediaPlaylist, MultivariantPlaylist, Playlist, is_playlist};
use super::refusals::refusal_of;
use super::sniff;
use crate::guard::{Refusal, SourcePolicy};
use crate::uri::Kind;
use crate::web::{WebClient, WebResponse};
use touchline_core::cause::Cause;

/// The longest playlist, bytes: 24 hours of two-second segments with addresses of 400 bytes are 18 MB.
const PLAYLIST_MAX: usize = 32 << 20;

/// The longest segment, bytes: a minute at 16 Mbit/s.
const SEGMENT_MAX: usize = 128 << 20;

/// Time limit for the first response of a server.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(8);

/// Time limits for a whole playlist and a whole segment, in multiples of the time limit for the head of the response. They stop
/// servers that send a byte at a time.
const PLAYLIST_TIMEOUTS: u32 = 2;
const SEGMENT_TIMEOUTS: u32 = 8;

/// The content of a web address.
pub(super) enum AddressContent {
    /// A list of variants.
    Variants(MultivariantPlaylist),
    Media(Box<MediaPlaylist>, Url),
    Stream(WebResponse, Vec<u8>, Container),
    Recording,
}

impl AddressContent {
    /// The kind of source that plays it.
    pub(super) const fn kind(&self) -> Kind {
        match self {
            AddressContent::Variants(_) | AddressContent::Media(..) => Kind::Hls,
            AddressContent::Stream(..) => Kind::HttpLive,
            AddressContent::Recording => Kind::Http,
        }
    }
}

/// As [`super::classify`].
pub(super) async fn classify(url: &Url, policy: &Arc<SourcePolicy>) -> Option<Kind> {
    Some(inspect(&WebClient::new(policy.clone()), url).await.ok()?.kind())
}

/// Detects the content of `url`.
pub(super) async fn inspect(web: &WebClient, url: &Url) -> Result<AddressContent, Refusal> {
    let mut answer = web.get(url, None, RESPONSE_TIMEOUT).await?;
    let (mut head, mut is_whole) = (Vec::new(), false);
    while head.len() < sniff::HEAD && !is_whole {
        match answer.chunk().await? {
            Some(chunk) => head.extend_from_slice(&chunk),
            None => is_whole = true,
        }
    }
    let is_compressed = answer.headers.contains_key(hyper::header::CONTENT_ENCODING) || head.starts_with(&[0x1f, 0x8b]);
    if is_playlist(&head) || is_compressed {
        return read(answer, head).await;
    }
    if head.is_empty() || sniff::is_utf16(&head) {
        return Err(not_a_playlist(&head));
    }
    let is_endless = answer.length().is_none() && !is_whole;
    let kind = answer.content_type();
    if kind == "multipart/x-mixed-replace" {
        return Ok(AddressContent::Stream(answer, head, Container::MotionJpeg));
    }
    let container = container::inspect(&head, None).map(|opened| opened.container);
    match container {
        Ok(container) if is_endless && container != Container::Mp4 => {
            Ok(AddressContent::Stream(answer, head, container))
        }
        Err(_) if is_text(&head) => Err(not_a_playlist(&head)),
        _ => Ok(AddressContent::Recording),
    }
}

/// Reads the rest of a playlist.
async fn read(answer: WebResponse, head: Vec<u8>) -> Result<AddressContent, Refusal> {
    let url = answer.url.clone();
    let bytes = answer.rest(head, PLAYLIST_MAX).await?;
    let text = String::from_utf8_lossy(&bytes);
    if !is_playlist(&bytes) {
        return if is_text(&bytes[..bytes.len().min(sniff::HEAD)]) {
            Err(refusal_of(&super::playlist::PlaylistError::Other("not a playlist"), &text))
        } else {
            Ok(AddressContent::Recording)
        };
    }
    match Playlist::parse(&text, &url, &Variables::default(), 0) {
        Ok(Playlist::Multivariant(list)) => Ok(AddressContent::Variants(list)),
        Ok(Playlist::Media(media)) => Ok(AddressContent::Media(media, url)),
        Err(trouble) => Err(refusal_of(&trouble, &text)),
    }
}

fn not_a_playlist(head: &[u8]) -> Refusal {
    let cause = format!("not a playlist: {}", sniff::name(head));
    Refusal::of(Cause::NotMedia, cause, "give the address of the stream itself")
}

fn is_text(head: &[u8]) -> bool {
    !head.is_empty()
        && std::str::from_utf8(head).map_or_else(|e| e.valid_up_to() + 4 > head.len(), |_| true)
        && !head.contains(&0)
}

fn too_slow() -> Refusal {
    Refusal::of(Cause::NoAnswer, "the server sends too slowly", "check the server and the network")
}

/// Fetches over HTTP.
pub(super) struct HttpOrigin {
    pub web: Arc<WebClient>,
}

impl Origin for HttpOrigin {
    async fn playlist(&self, url: &Url, response_timeout: Duration) -> Result<(Url, String), Refusal> {
        let loading = async {
            let answer = self.web.get(url, None, response_timeout).await?;
            let base = answer.url.clone();
            let bytes = answer.rest(Vec::new(), PLAYLIST_MAX).await?;
            Ok((base, String::from_utf8_lossy(&bytes).into_owned()))
        };
        timeout(response_timeout * PLAYLIST_TIMEOUTS, loading).await.unwrap_or_else(|_| Err(too_slow()))
    }

    async fn media(&self, url: &Url, range: Option<ByteRange>, response_timeout: Duration) -> Result<Vec<u8>, Refusal> {
        let header = range.map(|range| range.header());
        let loading = async {
            let answer = self.web.get(url, header.as_deref(), response_timeout).await?;
            let is_part = answer.status == hyper::StatusCode::PARTIAL_CONTENT;
            Ok((is_part, answer.rest(Vec::new(), SEGMENT_MAX).await?))
        };
        let loaded = timeout(response_timeout * SEGMENT_TIMEOUTS, loading).await;
        let (is_part, bytes) = loaded.unwrap_or_else(|_| Err(too_slow()))?;
        match range {
            // A server without support for ranges sends the whole file.
            Some(range) if !is_part => {
                let end = range.offset.saturating_add(range.length);
                let part = usize::try_from(range.offset).ok().zip(usize::try_from(end).ok());
                let part = part.and_then(|(from, to)| bytes.get(from..to)).map(<[u8]>::to_vec);
                part.ok_or_else(|| {
                    Refusal::of(Cause::NotFound, "a byte range lies beyond its file", "check the packager")
                })
            }
            _ => Ok(bytes),
        }
    }
}
