//! The items that a source sends to the clip builder, and how a stream ends.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cause::Cause;
use crate::frame::Frame;
use crate::incident::Incident;
use crate::pcm::PcmChunk;
use crate::time::{Pts, WallTime, samples_to_nanos};
use crate::timecode::TimecodeMark;

/// Capacity of the channel between a source and the clip builder, items.
///
/// About one second of a stream: 30 pictures and 30 to 50 chunks of sound. With less, a decoder that works in bursts (a
/// picture group at a time) would wait although the builder keeps up. More costs memory (640×360 RGB: 0.7 MB per picture)
/// and only hides a slow consumer.
pub const MEDIA_CHANNEL_CAPACITY: usize = 64;

/// An item from a source. Items are in order per track.
#[derive(Debug)]
pub enum MediaItem {
    /// A decoded and converted picture.
    Frame(Frame),
    /// A picture that was decoded but not converted, because it will not be sampled ([`crate::selection`]).
    Unconverted {
        /// Presentation time.
        pts: Pts,
        /// Monotonic clock when the decoder handed the picture over, ns.
        arrived_ns: u64,
    },
    /// A picture that cannot be decoded, because a picture it depends on is missing. Only its time is known.
    Lost {
        /// Presentation time.
        pts: Pts,
    },
    /// A chunk of sound.
    Pcm(PcmChunk),
    /// The source is open and its tracks are known. Sent once per connection, before its data.
    Opened(Tracks),
    /// The track has no more data in this connection.
    TrackEnded(Track),
    /// The wall time of a PTS. One whose source is [`crate::time::WallSource::Arrival`] revokes the one before.
    Wall {
        /// Presentation time.
        pts: Pts,
        /// Its wall time.
        wall: WallTime,
    },
    /// The timecode of a picture, for about one picture a second and for those where it does not count on. It comes before or after the
    /// picture.
    Timecode(TimecodeMark),
    /// No track has media in this interval, and the run continues after it.
    Missing {
        /// Start of the interval.
        from: Pts,
        /// End of the interval, exclusive.
        to: Pts,
    },
    /// A new run begins: the clip builder closes the current one.
    Discontinuity(Discontinuity),
    /// An event that does not affect the timeline. The supervisor reports it and does not pass it on.
    Incident(Incident),
    /// The stream is over. Always the last item.
    Ended(End),
}

impl MediaItem {
    /// Track, start and end of an item with data, ns of PTS; [`None`] for other items. A picture has no duration.
    pub fn span(&self) -> Option<(Track, u64, u64)> {
        match self {
            MediaItem::Frame(frame) => Some((Track::Video, frame.pts.0, frame.pts.0)),
            MediaItem::Unconverted { pts, .. } | MediaItem::Lost { pts } => Some((Track::Video, pts.0, pts.0)),
            MediaItem::Pcm(chunk) => {
                let length_ns = samples_to_nanos(chunk.frames() as u64, chunk.rate.max(1));
                Some((Track::Audio, chunk.pts.0, chunk.pts.0.saturating_add(length_ns)))
            }
            _ => None,
        }
    }

    /// Track and PTS of an item with data.
    pub const fn track_and_pts(&self) -> Option<(Track, Pts)> {
        match self {
            MediaItem::Frame(frame) => Some((Track::Video, frame.pts)),
            MediaItem::Unconverted { pts, .. } | MediaItem::Lost { pts } => Some((Track::Video, *pts)),
            MediaItem::Pcm(chunk) => Some((Track::Audio, chunk.pts)),
            _ => None,
        }
    }
}

/// The tracks of a source. A source without tracks is rejected before any data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tracks {
    /// Whether there are pictures.
    pub video: bool,
    /// Whether there is sound.
    pub audio: bool,
}

impl Tracks {
    /// Whether `track` is among them.
    pub const fn has(self, track: Track) -> bool {
        match track {
            Track::Video => self.video,
            Track::Audio => self.audio,
        }
    }
}

/// One of the two kinds of track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Track {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
}

impl Track {
    /// Index in arrays with one value per track: 0 for video, 1 for audio.
    pub const fn index(self) -> usize {
        match self {
            Track::Video => 0,
            Track::Audio => 1,
        }
    }

    /// The other track.
    pub const fn other(self) -> Self {
        match self {
            Track::Video => Track::Audio,
            Track::Audio => Track::Video,
        }
    }
}

/// Why a new run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Discontinuity {
    /// The source was opened again.
    Reconnect,
    /// PTS jumped forward by more than the clip builder bridges.
    JumpForward,
    /// PTS jumped back.
    JumpBack,
    /// A track was added.
    Tracks,
    /// The playlist has an `EXT-X-DISCONTINUITY`, usually at the start or end of an advertisement.
    Playlist,
}

impl Discontinuity {
    /// Whether PTS start over, so that earlier wall-time references no longer apply.
    pub const fn starts_new_timeline(self) -> bool {
        matches!(self, Discontinuity::Reconnect | Discontinuity::JumpForward | Discontinuity::JumpBack)
    }

    /// All values.
    pub const ALL: [Discontinuity; 5] = [
        Discontinuity::Reconnect,
        Discontinuity::JumpForward,
        Discontinuity::JumpBack,
        Discontinuity::Tracks,
        Discontinuity::Playlist,
    ];
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The file ended, or the program is shutting down.
    Finished,
    /// The source failed. The texts are redacted, one line each.
    Failed {
        /// Type of the failure.
        kind: Cause,
        /// What failed.
        cause: String,
        /// What to do.
        advice: String,
    },
}

/// Whether the source sets the pace or downstream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// The source sets the pace: downstream sheds seconds when it is behind.
    Live,
    /// Downstream sets the pace: the source waits, and nothing is lost.
    File,
}
