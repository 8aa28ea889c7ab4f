//! What goes wrong with a source, in types: why it failed, and what happens to it while it plays.
//!
//! Words for people come beside these, where the trouble was seen; programs go by the types.

use serde::{Deserialize, Serialize};

use super::Track;

/// Why a source failed, ended, or is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    HostNotFound,
    HostUnreachable,
    ConnectionRefused,
    /// Connected, and no answer or none in time.
    NoAnswer,
    TlsFailed,
    /// 401.
    NotAuthorized,
    /// 403, or a file that may not be read.
    Forbidden,
    /// 404, or no such file.
    NotFound,
    /// 5xx.
    ServerError,
    /// Connected, and no media within the connect timeout.
    NoData,
    NoTracks,
    /// A live source came to its end.
    Ended,
    /// No picture and no sound for the stall time.
    Stalled,
    /// The same of an HLS source: its playlist brings nothing new.
    PlaylistStalled,
    /// Sound goes on and pictures do not come back.
    PicturesStalled,
    NotMedia,
    Damaged,
    Encrypted,
    MissingPlugin,
    /// The elements of the pipeline cannot agree.
    Format,
    /// The policy for sources refuses where it leads.
    Refused,
    /// This machine cannot listen where the source says.
    CannotListen,
    /// It listens, and nobody has called. No failure: it goes on listening.
    NoCaller,
    /// The process that it runs in died: the source's own, or the program while it was being opened.
    Crashed,
    /// A thread of the program that works for this stream failed: a bug to report.
    Internal,
    Other,
}

impl Cause {
    pub const ALL: [Cause; 26] = [
        Cause::HostNotFound,
        Cause::HostUnreachable,
        Cause::ConnectionRefused,
        Cause::NoAnswer,
        Cause::TlsFailed,
        Cause::NotAuthorized,
        Cause::Forbidden,
        Cause::NotFound,
        Cause::ServerError,
        Cause::NoData,
        Cause::NoTracks,
        Cause::Ended,
        Cause::Stalled,
        Cause::PlaylistStalled,
        Cause::PicturesStalled,
        Cause::NotMedia,
        Cause::Damaged,
        Cause::Encrypted,
        Cause::MissingPlugin,
        Cause::Format,
        Cause::Refused,
        Cause::CannotListen,
        Cause::NoCaller,
        Cause::Crashed,
        Cause::Internal,
        Cause::Other,
    ];

    /// As records and metric labels say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Cause::HostNotFound => "host-not-found",
            Cause::HostUnreachable => "host-unreachable",
            Cause::ConnectionRefused => "connection-refused",
            Cause::NoAnswer => "no-answer",
            Cause::TlsFailed => "tls-failed",
            Cause::NotAuthorized => "not-authorized",
            Cause::Forbidden => "forbidden",
            Cause::NotFound => "not-found",
            Cause::ServerError => "server-error",
            Cause::NoData => "no-data",
            Cause::NoTracks => "no-tracks",
            Cause::Ended => "ended",
            Cause::Stalled => "stalled",
            Cause::PlaylistStalled => "playlist-stalled",
            Cause::PicturesStalled => "pictures-stalled",
            Cause::NotMedia => "not-media",
            Cause::Damaged => "damaged",
            Cause::Encrypted => "encrypted",
            Cause::MissingPlugin => "missing-plugin",
            Cause::Format => "format",
            Cause::Refused => "refused",
            Cause::CannotListen => "cannot-listen",
            Cause::NoCaller => "no-caller",
            Cause::Crashed => "crashed",
            Cause::Internal => "internal",
            Cause::Other => "other",
        }
    }
}

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
    RunStarted(super::Discontinuity),
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
