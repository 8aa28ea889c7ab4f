//! What flows from a source to the clip builder, and how a stream can end.

use serde::{Deserialize, Serialize};

use crate::cause::Cause;
use crate::frame::Frame;
use crate::incident::Incident;
use crate::pcm::PcmChunk;
use crate::time::{Pts, WallTime, samples_to_nanos};

/// Capacity of the channel between a source and the clip builder, items.
///
/// About one second of a stream: 30 pictures and 30 to 50 pieces of sound. Less, and a decoder that works in bursts
/// (a picture group at a time) would wait for a builder that is not behind; more is memory (640×360 RGB: 0.7 MB a
/// picture) that only hides a consumer that is.
pub const MEDIA_CHANNEL_CAPACITY: usize = 64;

/// What a source sends downstream. In-band, in order per track.
#[derive(Debug)]
pub enum MediaItem {
    Frame(Frame),
    /// A picture that was decoded and not converted, because it will not be chosen ([`crate::selection`]).
    Unconverted {
        pts: Pts,
        /// Monotonic clock when the decoder handed the picture over, ns.
        arrived_ns: u64,
    },
    /// A picture that came and cannot be shown, because what it builds on is missing: only its time goes on.
    Lost {
        pts: Pts,
    },
    Pcm(PcmChunk),
    /// The source opened and knows its tracks. Sent once per connection, before any data of it.
    Opened(Tracks),
    /// The track brings no more data in this connection.
    TrackEnded(Track),
    /// Ties a PTS to wall time better than arrival does. One whose source is [`crate::time::WallSource::Arrival`] takes the one
    /// before back.
    Wall {
        pts: Pts,
        wall: WallTime,
    },
    /// There are no media of any track from here to there, and what follows goes on from it: no jump, but a hole.
    Missing {
        from: Pts,
        to: Pts,
    },
    /// What follows is another run: the clip builder closes the one before.
    Discontinuity(Discontinuity),
    /// Something that changes no time line. Told on the way, not to the clip builder.
    Incident(Incident),
    /// The last item, always sent: the stream is over.
    Ended(End),
}

impl MediaItem {
    /// The track of media and the time that they span, ns of PTS; [`None`] for what is no media. A picture spans no time.
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

    /// The track and the time of an item with data.
    pub const fn track_and_pts(&self) -> Option<(Track, Pts)> {
        match self {
            MediaItem::Frame(frame) => Some((Track::Video, frame.pts)),
            MediaItem::Unconverted { pts, .. } | MediaItem::Lost { pts } => Some((Track::Video, *pts)),
            MediaItem::Pcm(chunk) => Some((Track::Audio, chunk.pts)),
            _ => None,
        }
    }
}

/// Which tracks a source has. A source without either is refused before any data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracks {
    pub video: bool,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Track {
    Video,
    Audio,
}

impl Track {
    /// Its place in pairs of both: pictures first.
    pub const fn index(self) -> usize {
        match self {
            Track::Video => 0,
            Track::Audio => 1,
        }
    }

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Track::Video => Track::Audio,
            Track::Audio => Track::Video,
        }
    }
}

/// Why a run ended and another begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discontinuity {
    /// The source was opened again.
    Reconnect,
    /// PTS went forward by more than the clip builder bridges.
    JumpForward,
    /// PTS went back.
    JumpBack,
    /// A track came in.
    Tracks,
    /// The playlist says so (`EXT-X-DISCONTINUITY`): an advertisement begins or ends, mostly.
    Playlist,
}

impl Discontinuity {
    /// Whether PTS begin anew: what tied the old ones to wall time says nothing any more.
    pub const fn starts_new_timeline(self) -> bool {
        matches!(self, Discontinuity::Reconnect | Discontinuity::JumpForward | Discontinuity::JumpBack)
    }

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
    /// End of the file, or the program is shutting down.
    Finished,
    /// The source failed; the texts are redacted and one line each.
    Failed { kind: Cause, cause: String, advice: String },
}

/// What a source promises about its timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// Data come when they come: downstream sheds when behind.
    Live,
    /// Data wait: downstream blocks, nothing is lost.
    File,
}
