//! From GStreamer's errors to a cause and an advice a person understands, each on one line and redacted.

use std::io::ErrorKind;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use gstreamer as gst;

use crate::ingest::incident::Cause;
use crate::ingest::uri::Kind;
use crate::ingest::{End, Track, plugins};
use crate::redact;

/// How long a probe waits for each address of a host.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn failed(kind: Cause, cause: impl AsRef<str>, advice: impl AsRef<str>) -> End {
    End::Failed { kind, cause: redact::text(cause.as_ref()), advice: redact::text(advice.as_ref()) }
}

/// The source has none of the wanted tracks.
pub(super) fn no_tracks(wanted: &[Track]) -> End {
    match wanted {
        [Track::Video] => failed(Cause::NoTracks, "no video track", "give a source with pictures, or allow sound"),
        [Track::Audio] => failed(Cause::NoTracks, "no audio track", "give a source with sound, or allow pictures"),
        _ => failed(Cause::NoTracks, "no video and no audio", "give a source with pictures or sound"),
    }
}

/// Nothing came within the connect timeout.
pub(super) fn no_data(kind: Kind, timeout: Duration) -> End {
    let advice = match kind {
        Kind::Udp => "check that the sender is on and sends to this address and port, and the firewall",
        Kind::Rtsp => "check that the camera sends; if UDP is blocked, use the RTSP transport tcp",
        _ => "check that the sender is on and that the address is right",
    };
    failed(Cause::NoData, format!("no data within {} s", timeout.as_secs()), advice)
}

/// The time of a recording does not move any more, although everything that came was taken.
pub(super) fn stands_still(seconds: u64) -> End {
    failed(
        Cause::Stalled,
        format!("nothing new for {seconds} s: its time stands still"),
        "check the file with another player, or convert it",
    )
}

/// The state change failed and no message says why.
pub(super) fn refused_to_start() -> End {
    failed(Cause::Other, "the pipeline does not start", "run with RUST_LOG=debug and GST_DEBUG=3 to see why")
}

/// Plugins that GStreamer said it lacks.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// What it is for, as GStreamer says it ("H.265 decoder"), and the packages that have it.
    first: Option<(String, String)>,
}

impl Missing {
    /// Takes note of a `missing-plugin` message; others are ignored.
    pub fn note(&mut self, structure: &gst::StructureRef) {
        if structure.name() != "missing-plugin" {
            return;
        }
        let what = structure.get::<String>("name").unwrap_or_else(|_| "plugin".into());
        let detail = match structure.get::<gst::Caps>("detail") {
            Ok(caps) => caps.structure(0).map_or_else(String::new, |s| s.name().to_string()),
            Err(_) => structure.get::<String>("detail").unwrap_or_default(),
        };
        let packages = plugins::packages_for(&detail).join(" or ");
        tracing::warn!(what, detail, packages, "GStreamer plugin missing");
        self.first.get_or_insert((what, packages));
    }

    /// A missing plugin explains a failure better than what GStreamer reports because of it.
    pub fn instead_of(&self, end: End) -> End {
        match (&self.first, end) {
            (Some((what, packages)), End::Failed { .. }) => failed(
                Cause::MissingPlugin,
                format!("no GStreamer plugin for it: {what}"),
                format!("install {packages}"),
            ),
            (_, end) => end,
        }
    }
}

const HOST_ADVICE: &str = "check the host name and the network";
const PORT_ADVICE: &str = "check the port and that the server is running";

fn tls_failed() -> End {
    failed(
        Cause::TlsFailed,
        "the TLS connection failed",
        "check that the port speaks TLS, the server's certificate (host name, validity, issuer), and that \
         ca-certificates and glib-networking are installed",
    )
}

/// What is wrong with a source that failed without data and without a reason although its port can be reached: with
/// a TLS scheme, the handshake. GStreamer's HTTP and RTSP clients do not say so themselves.
pub(super) fn handshake(uri: &str) -> Option<End> {
    let scheme = uri.split_once("://")?.0.to_ascii_lowercase();
    matches!(scheme.as_str(), "https" | "rtsps" | "rtmps").then(tls_failed)
}

/// Resolves and connects to the host of `uri` and says what is wrong with it; [`None`] if nothing is.
pub(super) fn probe(uri: &str) -> Option<End> {
    let url = url::Url::parse(uri).ok()?;
    let port = url.port_or_known_default().or(match url.scheme() {
        "rtsp" | "rtspt" | "rtspu" => Some(554),
        "rtsps" => Some(322),
        "rtmp" => Some(1935),
        "rtmps" => Some(443),
        _ => None,
    })?;
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    let addresses = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(_) => return Some(failed(Cause::HostNotFound, "host not found", HOST_ADVICE)),
    };
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, PROBE_TIMEOUT) {
            Ok(_) => return None,
            Err(e) => last = Some(e),
        }
    }
    Some(match last?.kind() {
        ErrorKind::ConnectionRefused => failed(Cause::ConnectionRefused, "connection refused", PORT_ADVICE),
        ErrorKind::TimedOut => {
            failed(Cause::HostUnreachable, "the host does not answer", "check the address and the firewall")
        }
        _ => failed(Cause::HostUnreachable, "host unreachable", HOST_ADVICE),
    })
}

/// The end for an error message of the pipeline, if the message says what it is.
pub(super) fn failure(kind: Kind, error: &gst::glib::Error, debug: &str) -> Option<End> {
    let all = format!("{} {debug}", error.message());
    let lower = all.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| lower.contains(w));

    if says(&["could not resolve", "name or service not known", "error resolving", "resolving “", "no such host"])
        || lower.contains("temporary failure in name resolution")
    {
        return Some(failed(Cause::HostNotFound, "host not found", HOST_ADVICE));
    }
    if says(&["connection refused", "could not connect to server (connection refused)"]) {
        return Some(failed(Cause::ConnectionRefused, "connection refused", PORT_ADVICE));
    }
    if says(&["no route to host", "network is unreachable", "host is unreachable"]) {
        return Some(failed(Cause::HostUnreachable, "host unreachable", HOST_ADVICE));
    }
    if error.matches(gst::ResourceError::NotAuthorized) || says(&["unauthorized", "(401)", "forbidden", "(403)"]) {
        let (kind, cause) = if says(&["(403)", "forbidden"]) {
            (Cause::Forbidden, "access forbidden (403)")
        } else {
            (Cause::NotAuthorized, "not authorized (401)")
        };
        return Some(failed(kind, cause, "check user and password in the URL"));
    }
    if says(&["tls", "certificate", "ssl"]) {
        return Some(tls_failed());
    }
    if says(&["not found (404)", "(404)", "404 not found"]) {
        return Some(failed(Cause::NotFound, "not found (404)", "check the path of the URL"));
    }
    if let Some(status) = server_error(&lower) {
        return Some(failed(
            Cause::ServerError,
            format!("the server failed ({status})"),
            "it may recover by itself; else look at the server's log",
        ));
    }
    if kind == Kind::File && error.matches(gst::ResourceError::NotFound) {
        return Some(failed(Cause::NotFound, "no such file", "check the path"));
    }
    if says(&["on srt socket"]) {
        // It says no more than that; a sender that ends in order is an end of stream.
        return Some(failed(
            Cause::NoAnswer,
            "the SRT connection broke: the other side does not answer",
            "check that the sender still sends, and the network to it",
        ));
    }
    if says(&["timed out", "timeout"]) {
        return Some(failed(Cause::NoAnswer, "the server does not answer", HOST_ADVICE));
    }
    if error.matches(gst::StreamError::TypeNotFound)
        || error.matches(gst::StreamError::WrongType)
        || says(&["text file", "could not determine type of stream", "can't typefind"])
    {
        return Some(failed(
            Cause::NotMedia,
            "not a media file",
            "check what the file or URL holds; `ffprobe` can tell",
        ));
    }
    if error.matches(gst::CoreError::MissingPlugin) || error.matches(gst::StreamError::CodecNotFound) {
        return Some(failed(
            Cause::MissingPlugin,
            "no GStreamer plugin can decode it",
            "run `touchline doctor` to see which are missing",
        ));
    }
    if error.matches(gst::StreamError::Demux) || error.matches(gst::StreamError::Decode) {
        return Some(failed(
            Cause::Damaged,
            format!("the data are damaged or cut off: {}", first_sentence(error.message())),
            "check how the recording was made or copied",
        ));
    }
    if error.matches(gst::StreamError::Decrypt) || error.matches(gst::StreamError::DecryptNokey) {
        return Some(failed(Cause::Encrypted, "the media are encrypted", "give a source without DRM"));
    }
    if error.matches(gst::CoreError::Negotiation) || says(&["not-negotiated"]) {
        return Some(failed(
            Cause::Format,
            "the pipeline's elements cannot agree on a format",
            "check the caps in the pipeline template; without --pipeline, please report this",
        ));
    }
    None
}

/// The 5xx status in GStreamer's words about an HTTP or RTSP server, as in "Internal Server Error (500)".
fn server_error(text: &str) -> Option<&str> {
    text.match_indices("(5").find_map(|(at, _)| {
        let status = text.get(at + 1..at + 4)?;
        let is_status = status.bytes().all(|b| b.is_ascii_digit()) && text[at + 4..].starts_with([')', ',', ' ']);
        is_status.then_some(status)
    })
}

/// The end for an error nothing better is known about: GStreamer's own words.
pub(super) fn unexplained(kind: Kind, error: &gst::glib::Error, debug: &str) -> End {
    let cause = format!("{} ({})", first_sentence(error.message()), detail(debug));
    let advice = match kind {
        Kind::File => "check the file with another player",
        _ => "check the address with another player; RUST_LOG=debug shows more",
    };
    failed(Cause::Other, cause, advice)
}

/// The end for a playlist that cannot be loaded, when the server does not say why.
pub(super) fn no_playlist(error: &gst::glib::Error) -> End {
    let cause = format!("the playlist cannot be loaded: {}", first_sentence(error.message()));
    failed(Cause::NoAnswer, cause, "check that the server is well")
}

/// The text up to its first full stop.
pub(super) fn first_sentence(text: &str) -> &str {
    text.split_once(". ").map_or(text, |(first, _)| first).trim_end_matches('.')
}

/// The last line of a debug text: GStreamer puts the place in its source first, the detail last.
fn detail(debug: &str) -> &str {
    debug.lines().rev().map(str::trim).find(|l| !l.is_empty()).unwrap_or("no detail")
}
