//! What goes wrong with a source, in types: why it failed, and what happens to it while it plays.
//!
//! Words for people come beside these, where the trouble was seen; programs go by the types.

use serde::{Deserialize, Serialize};

use crate::cause::Cause;
use crate::item::Track;

/// What happens to a source that plays, or from one connection to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Incident {
    /// The track has brought nothing for the stall time, while the other goes on.
    TrackStalled { track: Track, silent_ns: u64 },
    /// It brings data again.
    TrackRecovered { track: Track, silent_ns: u64 },
    /// The source had this track and has it no more.
    TrackLost { track: Track },
    /// The source has this track and had it not before.
    TrackAdded { track: Track },
    /// No media came over UDP: they are taken over TCP from now on.
    TcpFallback,
    /// The 33 bits of the stream's clock were full. Nothing else changes: they begin anew every 26 and a half hours.
    ClockWrapped,
    /// An HLS segment could not be had: its seconds are gaps.
    SegmentLost(Cause),
    /// The stream says that an advertisement break begins.
    AdBreakBegan,
    /// The stream says that the programme is back.
    AdBreakEnded,
    /// What the source says of the time cannot be: it is off by days, or jumps. Wall time is that of arrival from now on.
    ClockImplausible,
    /// The source's clock has been plausible for a while, and counts again.
    ClockPlausible,
    /// The pictures changed their size, or the sound its rate or channels. The run goes on.
    FormatChanged { track: Track },
    /// A new run began in the middle of a connection or after it.
    RunStarted(crate::item::Discontinuity),
}

impl Incident {
    /// Every value of [`Incident::as_str`].
    pub const NAMES: [&str; 13] = [
        "track-stalled",
        "track-recovered",
        "track-lost",
        "track-added",
        "tcp-fallback",
        "clock-wrapped",
        "segment-lost",
        "ad-break-began",
        "ad-break-ended",
        "clock-implausible",
        "clock-plausible",
        "format-changed",
        "run-started",
    ];

    /// As records and metric labels say it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Incident::TrackStalled { .. } => "track-stalled",
            Incident::TrackRecovered { .. } => "track-recovered",
            Incident::TrackLost { .. } => "track-lost",
            Incident::TrackAdded { .. } => "track-added",
            Incident::TcpFallback => "tcp-fallback",
            Incident::ClockWrapped => "clock-wrapped",
            Incident::SegmentLost(_) => "segment-lost",
            Incident::AdBreakBegan => "ad-break-began",
            Incident::AdBreakEnded => "ad-break-ended",
            Incident::ClockImplausible => "clock-implausible",
            Incident::ClockPlausible => "clock-plausible",
            Incident::FormatChanged { .. } => "format-changed",
            Incident::RunStarted(_) => "run-started",
        }
    }

    pub const fn track(&self) -> Option<Track> {
        match self {
            Incident::TrackStalled { track, .. }
            | Incident::TrackRecovered { track, .. }
            | Incident::TrackLost { track }
            | Incident::TrackAdded { track }
            | Incident::FormatChanged { track } => Some(*track),
            Incident::TcpFallback
            | Incident::ClockWrapped
            | Incident::SegmentLost(_)
            | Incident::AdBreakBegan
            | Incident::AdBreakEnded
            | Incident::ClockImplausible
            | Incident::ClockPlausible
            | Incident::RunStarted(_) => None,
        }
    }

    /// For how long the track had brought nothing, ns.
    pub const fn silent_ns(&self) -> Option<u64> {
        match self {
            Incident::TrackStalled { silent_ns, .. } | Incident::TrackRecovered { silent_ns, .. } => Some(*silent_ns),
            _ => None,
        }
    }
}
