//! Translates GStreamer's errors to a cause and an advice, each redacted and on one line.
//!
//! The translation uses types: the kind of source, the class of the element that posted the message, domain and code of the error,
//! and the message's details (server statuses, flow returns). It uses texts only where no type helps ([`PHRASES`]), because texts
//! change with GStreamer's version and the user's language, and quote file names.

use std::io::ErrorKind;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::plugins;
use crate::uri::Kind;
use touchline_core::cause::Cause;
use touchline_core::item::{End, Track};
use touchline_core::redact;

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

/// No data arrived within the connect timeout.
pub(super) fn no_data(kind: Kind, timeout: Duration) -> End {
    let advice = match kind {
        Kind::Udp => "check that the sender is running and sends to this address and port; check the firewall",
        Kind::Rtsp => "check that the camera sends; if UDP is blocked, use the RTSP transport tcp",
        _ => "check that the sender is running and that the address is right",
    };
    failed(Cause::NoData, format!("no data within {} s", timeout.as_secs()), advice)
}

/// The media time of a recording no longer moves, although downstream takes its data.
pub(super) fn stands_still(seconds: u64) -> End {
    failed(
        Cause::Stalled,
        format!("no progress: the media time has not advanced for {seconds} s"),
        "check the file with another player, or convert it",
    )
}

/// The state change failed and no message gives the reason.
pub(super) fn refused_to_start() -> End {
    failed(Cause::Other, "the pipeline does not start", "run with RUST_LOG=debug and GST_DEBUG=3 to see why")
}

/// Plugins that GStreamer reported as missing.
#[derive(Debug, Default)]
pub(super) struct MissingPlugins {
    /// GStreamer's description of the first ("H.265 decoder"), and the packages that have it.
    first: Option<(String, String)>,
}

impl MissingPlugins {
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

    /// The missing plugin, if there is one, as the reason for `end`.
    pub fn instead_of(&self, end: End) -> End {
        match (&self.first, end) {
            (Some((what, packages)), End::Failed { .. }) => failed(
                Cause::MissingPlugin,
                format!("a GStreamer plugin is missing: {what}"),
                format!("install {packages}"),
            ),
            (_, end) => end,
        }
    }
}

const HOST_ADVICE: &str = "check the host name and the network";
const PORT_ADVICE: &str = "check the port and that the server is running";
const LOGIN_ADVICE: &str = "check user and password in the URL";

fn tls_failed() -> End {
    failed(
        Cause::TlsFailed,
        "the TLS connection failed",
        "check that the port speaks TLS, the server's certificate (host name, validity, issuer), and that \
         ca-certificates and glib-networking are installed",
    )
}

/// The failure of a source with a TLS scheme whose port can be reached but that brought no data: the handshake failed. GStreamer's
/// HTTP and RTSP clients do not report that.
pub(super) fn handshake(uri: &str) -> Option<End> {
    let scheme = uri.split_once("://")?.0.to_ascii_lowercase();
    matches!(scheme.as_str(), "https" | "rtsps" | "rtmps").then(tls_failed)
}

/// Resolves the host of `uri` and connects to it; [`None`] if that works.
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

/// An error message of a pipeline, reduced to its typed parts.
#[derive(Debug)]
pub(super) struct PipelineError<'a> {
    kind: Kind,
    /// The class of the element that posted it.
    by: ElementClass,
    error: &'a gst::glib::Error,
    debug: &'a str,
    /// Status of the HTTP or RTSP server's answer.
    status: Option<u32>,
    flow: Option<gst::FlowError>,
}

/// The class of the element that posted a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ElementClass {
    Source,
    Parser,
    Other,
}

impl<'a> PipelineError<'a> {
    /// From an error message of a source of `kind`. `error` and `debug` belong to `message`.
    pub fn new(kind: Kind, message: &gst::message::Error, error: &'a gst::glib::Error, debug: &'a str) -> Self {
        let element = message.src().and_then(|src| src.downcast_ref::<gst::Element>());
        let class = element.and_then(|e| e.metadata("klass")).unwrap_or_default();
        let by = match class {
            class if class.contains("Source") => ElementClass::Source,
            class if class.contains("Parser") => ElementClass::Parser,
            _ => ElementClass::Other,
        };
        let details = message.details();
        let number = |name: &str| details.and_then(|d| d.get::<u32>(name).ok());
        let flow = details.and_then(|d| d.get::<i32>("flow-return").ok()).and_then(flow_error);
        let status = number("http-status-code").or_else(|| number("rtsp-status-code"));
        Self { kind, by, error, debug, status, flow }
    }

    fn is(&self, error: impl gst::glib::error::ErrorDomain) -> bool {
        self.error.matches(error)
    }

    /// The end for the error, if its types identify one.
    pub fn end(&self) -> Option<End> {
        // A status is meaningful only for network sources.
        if let Some(status) = self.status.filter(|_| self.kind.is_network()) {
            return Some(answered(status));
        }
        self.by_source().or_else(|| self.by_media()).or_else(|| self.by_text())
    }

    /// Errors of the source element.
    fn by_source(&self) -> Option<End> {
        if self.by != ElementClass::Source {
            return None;
        }
        match self.kind {
            Kind::File if self.is(gst::ResourceError::NotFound) => {
                Some(failed(Cause::NotFound, "no such file", "check the path"))
            }
            Kind::File if self.is(gst::ResourceError::OpenRead) || self.is(gst::ResourceError::Read) => Some(failed(
                Cause::Other,
                format!("the file cannot be read: {}", detail(self.debug)),
                "check its permissions and the disk",
            )),
            Kind::Rtmp => self.by_rtmp(),
            // The element reports no reason. An orderly end of the sender is an end of stream.
            Kind::Srt if self.is(gst::ResourceError::Read) => Some(failed(
                Cause::NoAnswer,
                "the SRT connection broke: the other side does not answer",
                "check that the sender still sends, and the network to it",
            )),
            Kind::Udp if self.is(gst::ResourceError::Settings) || self.is(gst::ResourceError::OpenRead) => {
                Some(cannot_listen())
            }
            // The connection was open before, and no answer gives a reason.
            Kind::Rtsp | Kind::Http | Kind::Hls if self.is(gst::ResourceError::Read) => Some(failed(
                Cause::NoAnswer,
                "the server ended the connection",
                "check that the port is right; check the server's log",
            )),
            _ if self.kind.is_network() && self.is(gst::ResourceError::NotAuthorized) => Some(answered(401)),
            _ => None,
        }
    }

    /// `rtmp2src` has its own codes for some errors, and puts GIO's domain and code into the text of the others.
    fn by_rtmp(&self) -> Option<End> {
        /// `GIOErrorEnum`.
        const TIMED_OUT: u32 = 24;
        const HOST_UNREACHABLE: u32 = 37;
        const NETWORK_UNREACHABLE: u32 = 38;
        if self.is(gst::ResourceError::OpenRead) {
            return Some(failed(Cause::ConnectionRefused, "connection refused", PORT_ADVICE));
        }
        if self.is(gst::ResourceError::NotFound) {
            return Some(failed(Cause::NotFound, "the server has no such stream", "check the path of the URL"));
        }
        if self.is(gst::ResourceError::NotAuthorized) {
            return Some(failed(Cause::NotAuthorized, "not authorized", LOGIN_ADVICE));
        }
        let (domain, code) = detail(self.debug).strip_prefix("domain ")?.split_once(", code ")?;
        Some(match (domain, code.parse().ok()?) {
            ("g-resolver-error-quark", _) => failed(Cause::HostNotFound, "host not found", HOST_ADVICE),
            ("g-tls-error-quark", _) => tls_failed(),
            ("g-io-error-quark", HOST_UNREACHABLE | NETWORK_UNREACHABLE) => {
                failed(Cause::HostUnreachable, "host unreachable", HOST_ADVICE)
            }
            ("g-io-error-quark", TIMED_OUT) => failed(Cause::NoAnswer, "the server does not answer", HOST_ADVICE),
            ("g-io-error-quark", _) => failed(
                Cause::NoAnswer,
                "the server ended the connection",
                "check that the port is that of an RTMP server; check the server's log",
            ),
            _ => return None,
        })
    }

    /// Errors of elements that process the data.
    fn by_media(&self) -> Option<End> {
        use gst::StreamError as Stream;
        let damaged = || {
            failed(
                Cause::Damaged,
                format!("the data are damaged or cut off: {}", first_sentence(self.error.message())),
                "check how the recording was made or copied",
            )
        };
        // A parser is plugged in only after the type was found.
        if self.by == ElementClass::Parser && self.is(Stream::WrongType) {
            return Some(damaged());
        }
        if self.is(Stream::TypeNotFound) || self.is(Stream::WrongType) {
            return Some(failed(
                Cause::NotMedia,
                "not a media file",
                "check the content of the file or URL, for example with `ffprobe`",
            ));
        }
        if self.is(gst::CoreError::MissingPlugin) || self.is(Stream::CodecNotFound) {
            return Some(failed(
                Cause::MissingPlugin,
                "no GStreamer plugin can decode it",
                "run `touchline doctor` to see which are missing",
            ));
        }
        if self.is(Stream::Decrypt) || self.is(Stream::DecryptNokey) {
            return Some(failed(Cause::Encrypted, "the media are encrypted", "give a source without DRM"));
        }
        if self.is(gst::CoreError::Negotiation) || self.flow == Some(gst::FlowError::NotNegotiated) {
            return Some(failed(
                Cause::Format,
                "the pipeline's elements cannot agree on a format",
                "check the caps in the pipeline template; without --pipeline, please report this",
            ));
        }
        if self.by_text().is_none() && (self.is(Stream::Demux) || self.is(Stream::Decode)) {
            return Some(damaged());
        }
        None
    }

    /// Errors without a type, by their texts in GStreamer 1.22, for the kinds of source that have them.
    fn by_text(&self) -> Option<End> {
        let says = |words: &str| self.error.message().contains(words) || self.debug.contains(words);
        let phrase = PHRASES.iter().find(|phrase| phrase.kinds.contains(&self.kind) && says(phrase.words))?;
        Some((phrase.end)())
    }
}

/// An error that only its text identifies.
struct Phrase {
    kinds: &'static [Kind],
    words: &'static str,
    end: fn() -> End,
}

/// Each with its location in GStreamer's source. Add an entry only for errors without a code or detail of their own.
const PHRASES: [Phrase; 3] = [
    // ext/srt/gstsrtobject.c: all failures before a connection are OPEN_READ.
    Phrase {
        kinds: &[Kind::Srt],
        words: "Failed to resolve host",
        end: || failed(Cause::HostNotFound, "host not found", HOST_ADVICE),
    },
    Phrase { kinds: &[Kind::Srt], words: "Cannot bind to", end: cannot_listen },
    // gst/isomp4/qtdemux.c: DEMUX, like damage.
    Phrase {
        kinds: &[Kind::File, Kind::Http, Kind::Hls],
        words: "contains no playable streams",
        end: || {
            let advice = "check its content with `ffprobe`; still pictures in HEIC or AVIF are not supported";
            failed(Cause::NoTracks, "the file has no playable track", advice)
        },
    },
];

/// The end for an HTTP or RTSP status.
fn answered(status: u32) -> End {
    match status {
        401 => failed(Cause::NotAuthorized, "not authorized (401)", LOGIN_ADVICE),
        403 => failed(Cause::Forbidden, "access forbidden (403)", LOGIN_ADVICE),
        404 | 410 => failed(Cause::NotFound, format!("not found ({status})"), "check the path of the URL"),
        461 => failed(
            Cause::Other,
            "the server does not support the requested transport (461)",
            "try the RTSP transport tcp, or udp",
        ),
        500..600 => failed(
            Cause::ServerError,
            format!("the server failed ({status})"),
            "it may recover by itself; otherwise check the server's log",
        ),
        _ => failed(
            Cause::Other,
            format!("the server refuses the request ({status})"),
            "check the server's log; other clients may use all its connections",
        ),
    }
}

fn cannot_listen() -> End {
    failed(
        Cause::CannotListen,
        "this machine cannot listen on the address",
        "check that the address is one of this machine's, and that no other program has the port",
    )
}

fn flow_error(code: i32) -> Option<gst::FlowError> {
    // GST_FLOW_NOT_NEGOTIATED. The others add nothing to the message.
    (code == -4).then_some(gst::FlowError::NotNegotiated)
}

/// The end for an unknown error, with GStreamer's text.
pub(super) fn unexplained(kind: Kind, error: &gst::glib::Error, debug: &str) -> End {
    let cause = format!("{} ({})", first_sentence(error.message()), detail(debug));
    let advice = match kind {
        Kind::File => "check the file with another player",
        _ => "check the address with another player; RUST_LOG=debug shows more",
    };
    failed(Cause::Other, cause, advice)
}

/// The text up to its first full stop.
pub(super) fn first_sentence(text: &str) -> &str {
    text.split_once(". ").map_or(text, |(first, _)| first).trim_end_matches('.')
}

/// The last line of a debug text: GStreamer puts the source location first and the detail last.
fn detail(debug: &str) -> &str {
    debug.lines().rev().map(str::trim).find(|l| !l.is_empty()).unwrap_or("no detail")
}

#[cfg(test)]
#[path = "causes_tests.rs"]
mod tests;
