//! The refusals for playlists that cannot be played.

use std::time::Duration;

use url::Url;

use super::attributes::Variables;
use super::playlist::{MediaPlaylist, Playlist, PlaylistError};
use crate::guard::Refusal;
use touchline_core::cause::Cause;

/// Reads `text` as a media playlist.
pub(super) fn read_media(text: &str, base: &Url, variables: &Variables, from: u128) -> Result<MediaPlaylist, Refusal> {
    match Playlist::parse(text, base, variables, from) {
        Ok(Playlist::Media(media)) => Ok(*media),
        Ok(Playlist::Multivariant(_)) => Err(damaged("a variant is another multivariant playlist")),
        Err(trouble) => Err(refusal_of(&trouble, text)),
    }
}

/// The refusal for a text that cannot be played.
pub(super) fn refusal_of(trouble: &PlaylistError, text: &str) -> Refusal {
    match trouble {
        PlaylistError::Damaged(_) if super::sniff::is_channel_list(text) => Refusal::of(
            Cause::NotMedia,
            "not a playlist of one channel: an IPTV list of channels",
            "give the address of one channel out of the list",
        ),
        PlaylistError::Damaged(why) => damaged(why),
        PlaylistError::Protected(name) => drm(name),
        PlaylistError::Other(_) => Refusal::of(
            Cause::NotMedia,
            format!("not a playlist: {}", super::sniff::name(text.as_bytes())),
            "give the address of the playlist itself",
        ),
    }
}

pub(super) fn drm(name: &str) -> Refusal {
    let cause = format!("the media are encrypted with DRM ({name})");
    Refusal::of(Cause::Encrypted, cause, "give a source without DRM")
}

pub(super) fn damaged(why: &str) -> Refusal {
    Refusal::of(Cause::Damaged, format!("damaged playlist: {why}"), "check the encoder or packager that writes it")
}

pub(super) fn gap() -> Refusal {
    Refusal::of(Cause::NotFound, "the playlist marks the segment as missing (EXT-X-GAP)", "check the encoder")
}

pub(super) fn stalled(since: Duration) -> Refusal {
    let cause = format!("the playlist has not been updated for {} s", since.as_secs());
    Refusal::of(Cause::PlaylistStalled, cause, "check the encoder or packager that writes the playlist")
}

/// Whether another try is pointless.
pub(super) fn is_final(refusal: &Refusal) -> bool {
    matches!(refusal.kind, Cause::Refused | Cause::Encrypted)
}

pub(super) fn still_over() -> Refusal {
    let cause = "the playlist marks the channel as ended (EXT-X-ENDLIST)";
    Refusal::of(Cause::Ended, cause, "start the encoder or packager that writes the playlist")
}
