//! Why a source failed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a source failed, ended, or is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The host name does not resolve.
    HostNotFound,
    /// No network route to the host, or no answer to the connection attempt.
    HostUnreachable,
    /// The host refuses the connection: nothing listens on the port.
    ConnectionRefused,
    /// The server accepted the connection but did not answer in time, or broke off.
    NoAnswer,
    /// The TLS handshake failed.
    TlsFailed,
    /// The server rejects the login (401).
    NotAuthorized,
    /// The server forbids access (403), or the file is not readable.
    Forbidden,
    /// The server has no such resource (404), or there is no such file.
    NotFound,
    /// The server reports an error of its own (5xx).
    ServerError,
    /// Connected, but no media arrived within the connect timeout.
    NoData,
    /// The source has none of the wanted tracks.
    NoTracks,
    /// A live source ended.
    Ended,
    /// Neither pictures nor sound arrived for the stall time.
    Stalled,
    /// The HLS playlist has not changed for the stall time.
    PlaylistStalled,
    /// Sound arrives, but pictures have been missing for too long.
    PicturesStalled,
    /// The content is not a media file, stream or playlist.
    NotMedia,
    /// The data are damaged or truncated.
    Damaged,
    /// The media are encrypted, and there is no usable key.
    Encrypted,
    /// A GStreamer plugin for the format is not installed.
    MissingPlugin,
    /// The elements of the pipeline cannot agree on a format, or the format is not supported.
    Format,
    /// The source policy rejects the address, the scheme or the file.
    Refused,
    /// This machine cannot listen on the address of the source.
    CannotListen,
    /// A listening source waits for its first caller. This is not a failure.
    NoCaller,
    /// The source's process died, or the program died while it opened the source.
    Crashed,
    /// A thread of the program failed. This is a bug.
    Internal,
    /// A failure of no other type.
    Other,
}

impl Cause {
    /// All causes, in declaration order.
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

    /// The name in records and metric labels.
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
