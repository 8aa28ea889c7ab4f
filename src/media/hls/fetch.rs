//! Fetches pieces with their keys and initialisation sections, which are cached for the next pieces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::attributes::ByteRange;
use super::cursor::Piece;
use super::playlist::{InitSection, Protection, SegmentKey};
use super::{container, crypt, mp4};
use crate::guard::Refusal;
use touchline_core::cause::Cause;

/// The most cached keys.
const KEYS_MAX: usize = 8;

/// Fetches playlists and media.
pub(super) trait Origin: Send + Sync {
    /// The playlist at `url`, and its URL after redirects.
    fn playlist(
        &self,
        url: &Url,
        response_timeout: Duration,
    ) -> impl Future<Output = Result<(Url, String), Refusal>> + Send;

    /// The bytes at `url`, or a range of them.
    fn media(
        &self,
        url: &Url,
        range: Option<ByteRange>,
        response_timeout: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, Refusal>> + Send;
}

/// A fetched initialisation section (`EXT-X-MAP`).
#[derive(Clone)]
pub(super) struct LoadedInit {
    pub map: Arc<InitSection>,
    pub bytes: Vec<u8>,
    tracks: Option<mp4::Mp4Tracks>,
}

/// A fetched, decrypted and inspected piece.
pub(super) struct FetchedPiece {
    pub bytes: Vec<u8>,
    pub init: Option<LoadedInit>,
    pub info: container::SegmentInfo,
}

/// Fetches the pieces of one player.
pub(super) struct PieceFetcher<O> {
    pub origin: Arc<O>,
    keys: VecDeque<(Url, [u8; 16])>,
    map: Option<LoadedInit>,
}

impl<O: Origin> PieceFetcher<O> {
    pub fn new(origin: Arc<O>) -> Self {
        Self { origin, keys: VecDeque::new(), map: None }
    }

    /// Drops the cached initialisation section when the playlist changes.
    pub fn forget_map(&mut self) {
        self.map = None;
    }

    /// Fetches, decrypts and inspects `piece`. One attempt.
    pub async fn once(&mut self, piece: &Piece, response_timeout: Duration) -> Result<FetchedPiece, Refusal> {
        let map = match &piece.map {
            Some(map) => Some(self.initialisation(map, response_timeout).await?),
            None => None,
        };
        let bytes = self.origin.media(&piece.url, piece.range, response_timeout).await?;
        if bytes.is_empty() {
            return Err(Refusal::of(Cause::NoAnswer, "a segment is empty", "check the output of the packager"));
        }
        let bytes = match &piece.key {
            Some(Protection::Key(key)) => {
                let iv = key.iv.unwrap_or_else(|| piece.sequence.to_be_bytes());
                self.decrypt(key, iv, bytes, response_timeout).await?
            }
            _ => bytes,
        };
        let tracks = map.as_ref().and_then(|init| init.tracks.as_ref());
        let info = container::inspect(&bytes, tracks).map_err(|why| {
            let cause = format!("a segment is not media: {why}");
            Refusal::of(Cause::NotMedia, cause, "check the output of the packager")
        })?;
        Ok(FetchedPiece { bytes, init: map, info })
    }

    async fn initialisation(
        &mut self,
        map: &Arc<InitSection>,
        response_timeout: Duration,
    ) -> Result<LoadedInit, Refusal> {
        if let Some(known) = self.map.as_ref().filter(|known| known.map == *map) {
            return Ok(known.clone());
        }
        let bytes = self.origin.media(&map.url, map.range, response_timeout).await.map_err(|refusal| Refusal {
            cause: format!("the initialisation of the media (EXT-X-MAP): {}", refusal.cause),
            ..refusal
        })?;
        let bytes = match &map.key {
            Some(Protection::Key(key)) => {
                let no_iv =
                    || Refusal::of(Cause::Damaged, "damaged playlist: EXT-X-MAP is encrypted without an IV", "");
                self.decrypt(key, key.iv.ok_or_else(no_iv)?, bytes, response_timeout).await?
            }
            _ => bytes,
        };
        let tracks = mp4::tracks(&bytes);
        let found = LoadedInit { map: map.clone(), bytes, tracks };
        self.map = Some(found.clone());
        Ok(found)
    }

    async fn decrypt(
        &mut self,
        key: &SegmentKey,
        iv: [u8; 16],
        bytes: Vec<u8>,
        response_timeout: Duration,
    ) -> Result<Vec<u8>, Refusal> {
        let advice = "give a source whose keys are accessible";
        let known = self.keys.iter().find(|(url, _)| *url == key.url).map(|(_, secret)| *secret);
        let secret = match known {
            Some(secret) => secret,
            None => {
                let loaded = self.origin.media(&key.url, None, response_timeout).await.map_err(|refusal| {
                    let is_refused = matches!(refusal.kind, Cause::Forbidden | Cause::NotAuthorized | Cause::NotFound);
                    let kind = if is_refused { Cause::Encrypted } else { refusal.kind };
                    Refusal::of(
                        kind,
                        format!("the media are encrypted, and their key cannot be fetched: {}", refusal.cause),
                        advice,
                    )
                })?;
                let length = loaded.len();
                let secret = <[u8; 16]>::try_from(loaded).map_err(|_| {
                    let cause = format!("the media are encrypted, and their key has {length} bytes instead of 16");
                    Refusal::of(Cause::Encrypted, cause, advice)
                })?;
                if self.keys.len() == KEYS_MAX {
                    self.keys.pop_front();
                }
                self.keys.push_back((key.url.clone(), secret));
                secret
            }
        };
        crypt::decrypt(&secret, &iv, bytes).ok_or_else(|| {
            Refusal::of(Cause::Encrypted, "an encrypted segment cannot be decrypted with its key", advice)
        })
    }
}
