//! The registry of sources. [`BUILT_IN`] has one row for each kind that ships; [`register`] adds a source of your own. The properties
//! of a kind are in its [`Spec`]: parsing, supervision, the address policy and the pipeline read it there.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::RwLock;

use super::outlet::Counters;
use super::uri::{Kind, Location};
use super::{Open, Source};
use touchline_core::cause::Cause;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::item::{MediaItem, Pace, Tracks};
use touchline_core::redact;

/// A scheme of a kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// In lower case, without `://`.
    pub name: &'static str,
    /// The port of an address that names none.
    pub port: Option<u16>,
}

impl Scheme {
    /// A scheme whose addresses always name a port, or have none.
    pub const fn new(name: &'static str) -> Self {
        Self { name, port: None }
    }

    /// A scheme with a default port.
    pub const fn with_port(name: &'static str, port: u16) -> Self {
        Self { name, port: Some(port) }
    }
}

/// The properties of a kind of source. Start from [`Spec::LIVE`] or [`Spec::RECORDING`].
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Names the kind in messages.
    pub name: &'static str,
    /// The schemes that name it. A kind without one is detected by its path or by the server's answer.
    pub schemes: &'static [Scheme],
    /// Further schemes that configurations may use. Messages do not list them, and the API refuses them.
    pub aliases: &'static [&'static str],
    /// Whether the source or downstream sets the pace.
    pub pace: Pace,
    /// The maximum delay between a picture being taken and its arrival. 0 for recordings, whose arrival time has no meaning.
    pub delay: Duration,
    /// The jitter buffer (`latency_ms`) adds to `delay`.
    pub has_jitter_buffer: bool,
    /// Data arrive in bursts of several seconds. A live consumer would shed them, so they are handed over by the clock.
    pub is_bursty: bool,
    /// Data come over a network. Their absence for seconds is a failure, and an address given over the API must be allowed.
    pub is_network: bool,
    /// An end of stream is unexpected, so that the supervisor opens the source again.
    pub reopens_on_end: bool,
    /// The cause of a failure because nothing arrives any more.
    pub stall_cause: Cause,
    /// The API may name it when `[sources] schemes` is absent.
    pub is_in_api: bool,
    /// Query parameters that are credentials, besides those whose names say so (`token`, `key`, `passphrase` …).
    pub secret_parameters: &'static [&'static str],
    /// The text of its file in `pipelines/`. A source of your own has none.
    pub template: Option<&'static str>,
}

impl Spec {
    /// A live source on a network.
    pub const LIVE: Spec = Spec {
        name: "",
        schemes: &[],
        aliases: &[],
        pace: Pace::Live,
        delay: Duration::from_secs(2),
        has_jitter_buffer: false,
        is_bursty: false,
        is_network: true,
        reopens_on_end: true,
        stall_cause: Cause::Stalled,
        is_in_api: true,
        secret_parameters: &[],
        template: None,
    };

    /// A recording on this machine.
    pub const RECORDING: Spec =
        Spec { pace: Pace::File, delay: Duration::ZERO, is_network: false, reopens_on_end: false, ..Spec::LIVE };
}

/// The kinds that ship, in the order in which messages list their schemes.
///
/// RTSP, SRT, RTMP and UDP senders cannot say that a programme is over in a way that differs from a restart. HLS can
/// (`EXT-X-ENDLIST`), but packagers write that tag whenever they stop, also to start again. Only a playlist that was complete from
/// the beginning is over at its end ([`Counters::on_demand`]).
pub static BUILT_IN: [(Kind, Spec); 9] = [
    (
        Kind::Rtsp,
        Spec {
            name: "rtsp",
            schemes: &[Scheme::with_port("rtsp", 554), Scheme::with_port("rtsps", 322)],
            aliases: &["rtspu", "rtspt"],
            delay: Duration::from_secs(1),
            has_jitter_buffer: true,
            template: Some(include_str!("../../pipelines/rtsp.gst")),
            ..Spec::LIVE
        },
    ),
    (
        Kind::Http,
        Spec {
            name: "http",
            schemes: &[Scheme::with_port("http", 80), Scheme::with_port("https", 443)],
            is_network: true,
            template: Some(include_str!("../../pipelines/http.gst")),
            ..Spec::RECORDING
        },
    ),
    // An address of `http` whose path ends like a playlist's, or whose server answers with one.
    (
        Kind::Hls,
        Spec {
            name: "hls",
            // Three segments of six seconds behind the edge, and one that was being written.
            delay: Duration::from_secs(24),
            is_bursty: true,
            stall_cause: Cause::PlaylistStalled,
            template: Some(include_str!("../../pipelines/hls.gst")),
            ..Spec::LIVE
        },
    ),
    // An address of `http` whose server answers with a stream. It is handed over as it arrives; a playlist that turns up there is
    // paced.
    (
        Kind::HttpLive,
        Spec {
            name: "http-live",
            is_bursty: true,
            template: Some(include_str!("../../pipelines/hls.gst")),
            ..Spec::LIVE
        },
    ),
    (
        Kind::Srt,
        Spec {
            name: "srt",
            schemes: &[Scheme::new("srt")],
            template: Some(include_str!("../../pipelines/srt.gst")),
            ..Spec::LIVE
        },
    ),
    (
        Kind::Rtmp,
        Spec {
            name: "rtmp",
            schemes: &[Scheme::with_port("rtmp", 1935), Scheme::with_port("rtmps", 443)],
            aliases: &["rtmpt"],
            delay: Duration::from_secs(5),
            template: Some(include_str!("../../pipelines/rtmp.gst")),
            ..Spec::LIVE
        },
    ),
    (
        Kind::Udp,
        Spec {
            name: "udp",
            schemes: &[Scheme::new("udp")],
            template: Some(include_str!("../../pipelines/udp.gst")),
            ..Spec::LIVE
        },
    ),
    // Over the API only below one of `[sources] folders`.
    (
        Kind::File,
        Spec {
            name: "file",
            schemes: &[Scheme::new("file")],
            template: Some(include_str!("../../pipelines/file.gst")),
            ..Spec::RECORDING
        },
    ),
    // Live unless its options say otherwise ([`Location::pace`]).
    (
        Kind::TestSrc,
        Spec {
            name: "testsrc",
            schemes: &[Scheme::new("testsrc")],
            pace: Pace::Live,
            delay: Duration::from_millis(50),
            template: Some(include_str!("../../pipelines/testsrc.gst")),
            ..Spec::RECORDING
        },
    ),
];

/// The settings of the stream that a registered source is opened for.
#[derive(Clone)]
pub struct Setup {
    /// Names the stream's threads.
    pub id: String,
    /// The tracks that are decided on. A source need not send others.
    pub wants: Tracks,
    /// Maximum useful height of pictures, lines.
    pub frame_height: u32,
    /// The clock of arrival times.
    pub clock: Arc<dyn Clock>,
    /// Counters of the stream over all its connections. They are its metrics.
    pub counters: Arc<Counters>,
}

type Make = dyn Fn(&Setup) -> Result<Arc<dyn Open>> + Send + Sync;

/// A source that was registered.
pub struct Own {
    /// Its properties.
    pub spec: Spec,
    make: Box<Make>,
}

impl Own {
    pub(crate) fn open(&self, uri: &str, setup: &Setup, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        (self.make)(setup)?.open(uri, to)
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("spec", &self.spec).finish_non_exhaustive()
    }
}

// Names are unique.
impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        self.spec.name == other.spec.name
    }
}

impl Eq for Own {}

impl Hash for Own {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spec.name.hash(state);
    }
}

/// The sources of your own. They stay for as long as the process runs.
static OWN: RwLock<Vec<&'static Own>> = RwLock::new(Vec::new());

/// Registers a source of your own, before anything reads a URI of it. `make` gives the [`Open`] of one connection; what must outlive a
/// connection belongs to `make`. The process of a source (`isolation = "process"`) is the same program and must register it, too:
/// register at the beginning of `main`.
///
/// # Errors
/// [`Error::Usage`] for a spec without name or scheme, and for a name or scheme that is taken or not valid.
pub fn register(spec: Spec, make: impl Fn(&Setup) -> Result<Arc<dyn Open>> + Send + Sync + 'static) -> Result<()> {
    let wrong = |what: String| Err(Error::Usage(format!("cannot register the source {:?}: {what}", spec.name)));
    if spec.name.is_empty() || spec.schemes.is_empty() {
        return wrong("a source needs a name and a scheme".into());
    }
    let mut all = OWN.write();
    let known: Vec<&Spec> = built_in().chain(all.iter().map(|own| &own.spec)).collect();
    if known.iter().any(|other| other.name == spec.name) {
        return wrong("the name is taken; choose another".into());
    }
    for scheme in schemes_of(&spec) {
        let mut chars = scheme.chars();
        let is_valid = chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
        if !is_valid {
            return wrong(format!("{scheme:?} is not a scheme; use lower-case letters, digits, +, - and ."));
        }
        if known.iter().any(|other| schemes_of(other).any(|taken| taken == scheme)) {
            return wrong(format!("the scheme {scheme} is taken; choose another"));
        }
    }
    redact::add_credential_parameters(spec.secret_parameters);
    // Leaked once for each source that a program registers, so that a kind stays a plain value.
    all.push(Box::leak(Box::new(Own { spec, make: Box::new(make) })));
    Ok(())
}

fn built_in() -> impl Iterator<Item = &'static Spec> {
    BUILT_IN.iter().map(|(_, spec)| spec)
}

fn own() -> Vec<&'static Own> {
    OWN.read().clone()
}

fn schemes_of(spec: &Spec) -> impl Iterator<Item = &'static str> {
    spec.schemes.iter().map(|scheme| scheme.name).chain(spec.aliases.iter().copied())
}

/// All kinds: those that ship, then those that were registered.
pub fn kinds() -> impl Iterator<Item = Kind> {
    BUILT_IN.iter().map(|(kind, _)| *kind).chain(own().into_iter().map(Kind::Own))
}

/// The kind that `scheme`, in lower case, names.
pub fn by_scheme(scheme: &str) -> Option<Kind> {
    kinds().find(|kind| schemes_of(kind.spec()).any(|name| name == scheme))
}

/// The port of addresses of `scheme` that name none.
pub fn default_port(scheme: &str) -> Option<u16> {
    kinds().flat_map(|kind| kind.spec().schemes).find(|known| known.name == scheme)?.port
}

/// The schemes that the program knows, as messages list them.
pub fn schemes() -> Vec<&'static str> {
    kinds().flat_map(|kind| kind.spec().schemes).map(|scheme| scheme.name).collect()
}

/// The schemes that the API may name when nothing else is configured.
pub fn api_schemes() -> Vec<&'static str> {
    let allowed = kinds().filter(|kind| kind.spec().is_in_api);
    allowed.flat_map(|kind| kind.spec().schemes).map(|scheme| scheme.name).collect()
}

/// Opens registered sources, and only those. With the feature `gst`, `gst::GstOpener` opens them as well as those that ship.
pub struct OwnOpener(pub Setup);

impl Open for OwnOpener {
    /// # Errors
    /// [`Error::Usage`] when the scheme of `uri` was not registered; otherwise those of the source.
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        match Location::parse(uri)?.kind {
            Kind::Own(own) => own.open(uri, &self.0, to),
            kind => Err(Error::Usage(format!(
                "{}: sources of the kind {} are opened through GStreamer; use GstOpener",
                redact::uri(uri),
                kind.name()
            ))),
        }
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
