//! Why a source failed.

use serde::{Deserialize, Serialize};

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
