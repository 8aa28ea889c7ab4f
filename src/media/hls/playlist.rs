//! Reads HLS playlists: text in, segments and variants out.
//!
//! Source: RFC 8216bis, *HTTP Live Streaming 2nd Edition*, section 4. The only playlist parser in the program. Playlists are
//! untrusted input: every length is bounded, nothing panics, and an unusable playlist is an error that names the line.

use std::sync::Arc;

use url::Url;

use super::attributes::{ByteRange, Variables};
use super::playlist_reader::PlaylistReader;

/// A parsed playlist.
#[derive(Clone, Debug)]
pub(super) enum Playlist {
    Multivariant(MultivariantPlaylist),
    Media(Box<MediaPlaylist>),
}

/// A list of playlists to choose from.
#[derive(Clone, Debug, Default)]
pub(super) struct MultivariantPlaylist {
    pub variants: Vec<Variant>,
    /// Audio renditions. Those of video and subtitles are ignored.
    pub renditions: Vec<AudioRendition>,
    pub variables: Variables,
}

/// `EXT-X-STREAM-INF`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    pub url: Url,
    /// Bits per second; 0 if not stated.
    pub bandwidth: u64,
    /// Picture height, lines.
    pub height: Option<u32>,
    pub codecs: Option<String>,
    /// The group of its audio renditions.
    pub sound_group: Option<String>,
}

/// `EXT-X-MEDIA` of type `AUDIO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AudioRendition {
    pub group: String,
    pub language: Option<String>,
    pub is_default: bool,
    /// [`None`]: the sound is in the variant itself.
    pub url: Option<Url>,
}

/// A list of segments.
#[derive(Clone, Debug, Default)]
pub(super) struct MediaPlaylist {
    /// Sequence number of the first segment.
    pub sequence: u128,
    pub target_ns: u64,
    pub segments: Vec<Segment>,
    /// The segment that is still being written, with its available parts. Its duration is unknown.
    pub unfinished: Option<Segment>,
    /// `EXT-X-ENDLIST`: the playlist is complete.
    pub is_over: bool,
    /// Least distance of playback from the end of the playlist, ns.
    pub hold_back_ns: Option<u64>,
    pub part_hold_back_ns: Option<u64>,
    pub part_target_ns: Option<u64>,
    /// The server supports blocking reloads: it answers when the requested segment or part is available.
    pub can_block: bool,
    /// Dated begins and ends of advertisement breaks: id, date in ns since 1970, begin or end.
    pub dated_breaks: Vec<(String, i64, AdBreakEdge)>,
}

/// A segment and everything needed to fetch it.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub url: Url,
    pub range: Option<ByteRange>,
    pub duration_ns: u64,
    /// It does not continue the previous one (`EXT-X-DISCONTINUITY`).
    pub is_break: bool,
    /// `EXT-X-GAP`: the segment is missing.
    pub is_gap: bool,
    /// When its first picture was taken, ns since 1970-01-01 UTC.
    pub made_ns: Option<i64>,
    pub key: Option<Protection>,
    pub map: Option<Arc<InitSection>>,
    pub parts: Vec<PartialSegment>,
    /// An advertisement break begins or ends here.
    pub ad: Option<AdBreakEdge>,
}

/// `EXT-X-PART`: a part of a segment, for low latency.
#[derive(Clone, Debug)]
pub(super) struct PartialSegment {
    pub url: Url,
    pub range: Option<ByteRange>,
    pub duration_ns: u64,
    pub is_gap: bool,
}

/// `EXT-X-MAP`: the initialisation section that a demuxer needs before the first segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InitSection {
    pub url: Url,
    pub range: Option<ByteRange>,
    pub key: Option<Protection>,
}

/// How media are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    Key(Arc<SegmentKey>),
    /// By an unsupported method, with its name.
    Drm(&'static str),
}

/// `EXT-X-KEY` with method `AES-128`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentKey {
    pub url: Url,
    /// [`None`]: the sequence number is used.
    pub iv: Option<[u8; 16]>,
}

/// Which end of an advertisement break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdBreakEdge {
    /// The programme is left.
    Out,
    /// The programme is back.
    In,
}

/// Why a playlist cannot be played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PlaylistError {
    /// Invalid, with the reason on one line.
    Damaged(String),
    /// Protected by an unsupported method, with its name.
    Protected(String),
    /// Not a playlist, with a description.
    Other(&'static str),
}

/// Whether `bytes` begin like a playlist, after an optional byte order mark and white space.
pub(super) fn is_playlist(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.trim_ascii_start().starts_with(b"#EXTM3U")
}

impl Playlist {
    /// Reads `text`, which came from `base`. `imported`: the variables of the multivariant playlist that led here. Segments with
    /// sequence numbers below `from` are counted but not kept: of a window of 24 hours only the end is new.
    ///
    /// # Errors
    /// Why the playlist cannot be played.
    pub fn parse(text: &str, base: &Url, imported: &Variables, from: u128) -> Result<Self, PlaylistError> {
        if !is_playlist(text.as_bytes()) {
            return Err(PlaylistError::Other("not a playlist"));
        }
        if text.contains('\0') {
            return Err(PlaylistError::Damaged("it holds NUL bytes".into()));
        }
        let mut reader = PlaylistReader::new(base, imported, from);
        for (number, line) in text.trim_start_matches('\u{feff}').split(['\n', '\r']).map(str::trim).enumerate() {
            // Lines are counted as in editors: CR LF is one line end.
            if !line.is_empty() {
                let read = if line.contains("{$") {
                    reader.variables.fill(line).map_err(PlaylistError::Damaged).and_then(|line| reader.line(&line))
                } else {
                    reader.line(line)
                };
                read.map_err(|trouble| match trouble {
                    PlaylistError::Damaged(why) => {
                        PlaylistError::Damaged(format!("line {}: {why}", line_number(text, number)))
                    }
                    other => other,
                })?;
            }
        }
        reader.finish()
    }
}

/// The line number, from 1, of part `index` of `text` split at each carriage return and line feed.
fn line_number(text: &str, index: usize) -> usize {
    let pairs = text.split(['\n', '\r']).take(index).map(str::len).fold((0, 0), |(at, pairs), length| {
        let end = at + length;
        (end + 1, pairs + usize::from(text.get(end..end + 2) == Some("\r\n")))
    });
    index + 1 - pairs.1
}

#[cfg(test)]
#[path = "playlist_tests.rs"]
mod tests;
