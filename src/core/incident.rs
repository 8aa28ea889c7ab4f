//! Events of a source that do not end it.
//!
//! Programs use these types. Texts for people are written where the event is detected.

use serde::{Deserialize, Serialize};

use crate::cause::Cause;
use crate::item::Track;
use crate::signal::Signal;
use crate::time::Pts;

/// An event of a source while it plays or between two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Incident {
    /// One track has brought no data for the stall time while the other continues.
    TrackStalled {
        /// The silent track.
        track: Track,
        /// Time since its last data, ns.
        silent_ns: u64,
    },
    /// A stalled track brings data again.
    TrackRecovered {
        /// The track.
        track: Track,
        /// How long it was silent, ns.
        silent_ns: u64,
    },
    /// The source no longer has this track.
    TrackLost {
        /// The track.
        track: Track,
    },
    /// The source has a track that it did not have before.
    TrackAdded {
        /// The track.
        track: Track,
    },
    /// No media arrived over UDP. TCP is used from now on.
    TcpFallback,
    /// The decoder of a device failed or does not exist. Software decodes from now on.
    DecoderFallback,
    /// The 33-bit clock of the stream wrapped, as it does every 26.5 hours. The run continues.
    ClockWrapped,
    /// An HLS segment could not be fetched. Its seconds are gaps.
    SegmentLost(Cause),
    /// The stream announces the start of an advertisement break.
    AdBreakBegan,
    /// The stream announces the return to the programme.
    AdBreakEnded,
    /// The source's clock is off by days, or jumps. Wall time is arrival time from now on.
    ClockImplausible,
    /// The source's clock has been plausible for a while and is used again.
    ClockPlausible,
    /// The picture size, the sample rate or the channel count changed. The run continues.
    FormatChanged {
        /// The track.
        track: Track,
    },
    /// A new run began in the middle of a connection or after it.
    RunStarted(crate::item::Discontinuity),
    /// A condition of the signal has lasted for its hold time.
    SignalBegan {
        /// The condition.
        signal: Signal,
        /// Position at which it began.
        began: Pts,
        /// How long it has lasted, ns.
        lasted_ns: u64,
    },
    /// A condition of the signal that was reported is over.
    SignalEnded {
        /// The condition.
        signal: Signal,
        /// Position at which it began.
        began: Pts,
        /// How long it lasted, ns.
        lasted_ns: u64,
    },
}

impl Incident {
    /// Every value of [`Incident::as_str`].
    pub const NAMES: [&str; 16] = [
        "track-stalled",
        "track-recovered",
        "track-lost",
        "track-added",
        "tcp-fallback",
        "decoder-fallback",
        "clock-wrapped",
        "segment-lost",
        "ad-break-began",
        "ad-break-ended",
        "clock-implausible",
        "clock-plausible",
        "format-changed",
        "run-started",
        "signal-began",
        "signal-ended",
    ];

    /// The name in records and metric labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Incident::TrackStalled { .. } => "track-stalled",
            Incident::TrackRecovered { .. } => "track-recovered",
            Incident::TrackLost { .. } => "track-lost",
            Incident::TrackAdded { .. } => "track-added",
            Incident::TcpFallback => "tcp-fallback",
            Incident::DecoderFallback => "decoder-fallback",
            Incident::ClockWrapped => "clock-wrapped",
            Incident::SegmentLost(_) => "segment-lost",
            Incident::AdBreakBegan => "ad-break-began",
            Incident::AdBreakEnded => "ad-break-ended",
            Incident::ClockImplausible => "clock-implausible",
            Incident::ClockPlausible => "clock-plausible",
            Incident::FormatChanged { .. } => "format-changed",
            Incident::RunStarted(_) => "run-started",
            Incident::SignalBegan { .. } => "signal-began",
            Incident::SignalEnded { .. } => "signal-ended",
        }
    }

    /// The track concerned, if it is one track.
    pub const fn track(&self) -> Option<Track> {
        match self {
            Incident::TrackStalled { track, .. }
            | Incident::TrackRecovered { track, .. }
            | Incident::TrackLost { track }
            | Incident::TrackAdded { track }
            | Incident::FormatChanged { track } => Some(*track),
            Incident::TcpFallback
            | Incident::DecoderFallback
            | Incident::ClockWrapped
            | Incident::SegmentLost(_)
            | Incident::AdBreakBegan
            | Incident::AdBreakEnded
            | Incident::ClockImplausible
            | Incident::ClockPlausible
            | Incident::RunStarted(_)
            | Incident::SignalBegan { .. }
            | Incident::SignalEnded { .. } => None,
        }
    }

    /// How long the track was silent, ns, for a stall or a recovery.
    pub const fn silent_ns(&self) -> Option<u64> {
        match self {
            Incident::TrackStalled { silent_ns, .. } | Incident::TrackRecovered { silent_ns, .. } => Some(*silent_ns),
            _ => None,
        }
    }

    /// The signal, the position at which it began, and how long it has lasted, ns.
    pub const fn signal(&self) -> Option<(Signal, Pts, u64)> {
        match self {
            Incident::SignalBegan { signal, began, lasted_ns } | Incident::SignalEnded { signal, began, lasted_ns } => {
                Some((*signal, *began, *lasted_ns))
            }
            _ => None,
        }
    }
}
