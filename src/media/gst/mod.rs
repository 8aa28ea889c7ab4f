//! Sources through GStreamer. Only this module and `plugins` depend on it.
//!
//! [`GstOpener`] renders the template of the URI's kind, parses it, and starts one thread (`bus/<id>`) that owns the
//! pipeline. Decoded media come from appsinks on GStreamer's streaming threads, which copy them into pooled buffers and
//! send them; see `sinks.rs`. `graph.rs` detects the tracks. Inference, cutting and resampling are not done here.

mod bus;
mod caps_facts;
mod causes;
pub mod clips;
mod clocks;
mod coded;
mod conversion;
mod damage;
mod debug;
mod decode_filter;
pub(super) mod decoders;
mod element_setup;
mod feed;
mod formats;
mod frame_gate;
mod graph;
pub(super) mod guarded;
mod left_out;
pub mod output;
mod progress;
mod recording;
mod sinks;
mod start;
mod timecodes;
mod track_sync;
mod wall;
mod warm_up;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::Sender;
use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use clips::ring::RingOptions;
use start::PipelineStart;

use super::facts::SharedFacts;
use super::guard::proxy::LoopbackProxy;
use super::guard::{Refusal, SourcePolicy, digest};
use super::hls;
use super::options::{DecoderChoice, HlsOptions};
use super::outlet::Counters;
use super::registry::{Own, Setup};
use super::source_clock::SourceClock;
use super::uri::{Kind, Location, Pacing};
use super::{Open, Source, template};
use touchline_core::cause::Cause;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::item::{MediaItem, Pace, Tracks};
use touchline_core::selection::FrameSelection;
use touchline_core::{limits, redact};

/// Options of a [`GstOpener`].
///
/// The serialised fields are those that another process needs to open the same source, besides the policy and the sampling plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GstOptions {
    /// Id of the stream, for the thread name (`bus/<id>`) and log lines.
    pub id: String,
    /// Maximum height of pictures, lines. Smaller sources keep theirs; width follows the display aspect.
    pub frame_height: u32,
    /// Whether pictures are wanted.
    pub want_video: bool,
    /// Whether sound is wanted.
    pub want_audio: bool,
    /// How fast media are delivered.
    pub pacing: Pacing,
    /// Jitter buffer of RTSP sources, milliseconds.
    pub latency_ms: u32,
    /// `udp`, `tcp`, `udp-mcast`, `http`, `tls`, or several joined with `+`, tried in that order.
    pub rtsp_transport: String,
    /// The text of a template that replaces the built-in one.
    pub pipeline: Option<String>,
    /// A network source without data for this long after its start has failed.
    pub connect_timeout: Duration,
    /// Counters of the source.
    #[serde(skip)]
    pub counters: Arc<Counters>,
    /// Receives the facts about the source's media.
    #[serde(skip)]
    pub facts: SharedFacts,
    /// The source policy; [`None`] for sources from the command line or the configuration, which are unrestricted. A guarded source
    /// cannot have a template of its own.
    #[serde(skip)]
    pub guard: Option<Arc<SourcePolicy>>,
    /// Which pictures are converted; [`None`]: all.
    #[serde(skip)]
    pub selection: Option<FrameSelection>,
    /// Video decoder.
    #[serde(default)]
    pub decoder: DecoderChoice,
    /// Options of HLS sources.
    pub hls: HlsOptions,
    /// The kind of the source, if it is known better than from its URI.
    pub kind: Option<Kind>,
    /// Where the coded media are recorded.
    pub record: Option<RingOptions>,
}

impl Default for GstOptions {
    fn default() -> Self {
        Self {
            id: "0".into(),
            frame_height: 360,
            want_video: true,
            want_audio: true,
            pacing: Pacing::Auto,
            latency_ms: 200,
            rtsp_transport: "udp+tcp".into(),
            pipeline: None,
            connect_timeout: Duration::from_secs(10),
            counters: Arc::default(),
            facts: SharedFacts::default(),
            guard: None,
            selection: None,
            decoder: DecoderChoice::default(),
            hls: HlsOptions::default(),
            kind: None,
            record: None,
        }
    }
}

/// Opens any URI: those of registered sources by their registration, all others through GStreamer.
#[derive(Clone)]
pub struct GstOpener {
    options: GstOptions,
    clock: Arc<dyn Clock>,
    /// RTSP media arrived over TCP only, so the next connection does not try UDP first.
    over_tcp: Arc<AtomicBool>,
    /// A device failed to decode, so the next connection decodes in software.
    device_failed: Arc<AtomicBool>,
    /// How far an HLS channel was played.
    memory: hls::PlaylistMemory,
    /// Judges the source's wall-clock time, over all connections.
    source_clock: Arc<Mutex<SourceClock>>,
    needs_relay: OnceLock<bool>,
}

impl GstOpener {
    /// An opener with `options`. Initialises GStreamer.
    ///
    /// # Errors
    /// [`Error::Internal`] if GStreamer cannot be initialised.
    pub fn new(options: GstOptions, clock: Arc<dyn Clock>) -> Result<Self> {
        init()?;
        Ok(Self {
            options,
            clock,
            over_tcp: Arc::default(),
            device_failed: Arc::default(),
            memory: hls::PlaylistMemory::default(),
            source_clock: Arc::default(),
            needs_relay: OnceLock::new(),
        })
    }

    /// The options of this opener.
    pub fn options(&self) -> &GstOptions {
        &self.options
    }

    /// The hints about the source from connections so far.
    pub(super) fn hints(&self) -> ConnectionHints {
        ConnectionHints {
            over_tcp: self.over_tcp.load(Ordering::Relaxed),
            device_failed: self.device_failed.load(Ordering::Relaxed),
            needs_relay: self.needs_relay.get().copied(),
            source_clock: self.source_clock.lock().clone(),
            hls: self.memory.stored(),
        }
    }

    /// Takes over the hints of another opener.
    pub(super) fn apply_hints(&self, hints: ConnectionHints) {
        self.over_tcp.store(hints.over_tcp, Ordering::Relaxed);
        self.device_failed.store(hints.device_failed, Ordering::Relaxed);
        if let Some(needs_relay) = hints.needs_relay {
            self.needs_relay.get_or_init(|| needs_relay);
        }
        *self.source_clock.lock() = hints.source_clock;
        self.memory.restore(hints.hls);
    }

    /// Whether the source is an RTSP server whose digest challenge GStreamer cannot answer. Asks the server until it answers once.
    fn needs_relay(&self, location: &Location) -> bool {
        if location.kind != Kind::Rtsp {
            return false;
        }
        if let Some(known) = self.needs_relay.get() {
            return *known;
        }
        let found = digest::needs_relay(&location.uri);
        // A concurrent call may have stored the same answer.
        found.is_some_and(|found| *self.needs_relay.get_or_init(|| found))
    }
}

/// Facts about a source that one connection learns for the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ConnectionHints {
    over_tcp: bool,
    device_failed: bool,
    needs_relay: Option<bool>,
    source_clock: SourceClock,
    hls: hls::StoredPosition,
}

/// Asks the server for the kind of content at `location`; [`None`] if it does not answer.
pub fn classify(location: &Location, guard: Option<&Arc<SourcePolicy>>) -> Option<Kind> {
    let url = url::Url::parse(&location.uri).ok()?;
    hls::classify(&url, &guard.cloned().unwrap_or_else(|| Arc::new(SourcePolicy::unrestricted())))
}

/// Initialises GStreamer, once.
///
/// # Errors
/// [`Error::Internal`] with GStreamer's text.
pub fn init() -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| {
        gst::init()
            .map(|()| {
                debug::limit_glib_warnings();
                debug::connect();
                element_setup::forbid_libav_demuxers();
            })
            .map_err(|e| e.to_string())
    })
    .clone()
    .map_err(|e| Error::Internal(format!("GStreamer does not start: {e}")))
}

impl Open for GstOpener {
    /// # Errors
    /// [`Error::Usage`] for an unknown scheme, an invalid template or invalid options; [`Error::Source`] for a missing or unreadable
    /// file, and for a missing plugin.
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let o = &self.options;
        let location = Location::parse(uri)?;
        let location = Location { kind: o.kind.unwrap_or(location.kind), ..location };
        if !limits::has_room_for_source(location.kind.is_network()) {
            limits::log_out_of_files();
            let refusal =
                Refusal { kind: Cause::Other, cause: limits::OUT_OF_FILES.into(), advice: limits::ADVICE.into() };
            return Ok(guarded::refused(refusal, location.pace(o.pacing), to));
        }
        if o.guard.is_some() && o.pipeline.is_some() {
            return Err(Error::Usage("a guarded source takes no pipeline of its own".into()));
        }
        if let Kind::Own(own) = location.kind {
            return self.open_own(own, uri, location.pace(o.pacing), to);
        }
        if matches!(location.kind, Kind::Hls | Kind::Http | Kind::HttpLive) && o.pipeline.is_none() {
            return self.open_web(uri, &location, to);
        }
        let needs_relay = o.pipeline.is_none() && o.guard.is_none() && self.needs_relay(&location);
        let policy = o.guard.clone().or_else(|| needs_relay.then(|| Arc::new(SourcePolicy::unrestricted())));
        let routed = match &policy {
            None => (location, None),
            Some(policy) => {
                let pace = location.pace(o.pacing);
                match guarded::route(policy, &o.id, uri, location) {
                    Ok(routed) => routed,
                    Err(refusal) => return Ok(guarded::refused(refusal, pace, to)),
                }
            }
        };
        if routed.0.kind == Kind::File && o.pipeline.is_none() {
            recording::check(uri, &routed.0)?;
        }
        self.open_routed(uri, routed, to)
    }
}

impl GstOpener {
    /// Opens a registered source.
    fn open_own(&self, own: &Own, uri: &str, pace: Pace, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let o = &self.options;
        if o.pipeline.is_some() {
            let name = own.spec.name;
            return Err(Error::Usage(format!("a source of the kind {name} takes no pipeline; remove the template")));
        }
        if let Some(Err(refusal)) = o.guard.as_ref().map(|policy| policy.check(uri)) {
            return Ok(guarded::refused(refusal, pace, to));
        }
        let setup = Setup {
            id: o.id.clone(),
            wants: Tracks { video: o.want_video, audio: o.want_audio },
            frame_height: o.frame_height,
            clock: self.clock.clone(),
            counters: o.counters.clone(),
        };
        own.open(uri, &setup, to)
    }

    /// Opens a web address. Touchline's own client finds out the kind of content.
    fn open_web(&self, uri: &str, location: &Location, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let o = &self.options;
        let url = url::Url::parse(&location.uri).map_err(|e| Error::Usage(format!("{}: {e}", redact::uri(uri))))?;
        let request = hls::HlsRequest {
            id: o.id.clone(),
            url,
            options: o.hls.clone(),
            frame_height: o.frame_height,
            wants: Tracks { video: o.want_video, audio: o.want_audio },
            policy: o.guard.clone().unwrap_or_else(|| Arc::new(SourcePolicy::unrestricted())),
            decoder: Arc::new(feed::FeedDecoder { opener: self.clone(), uri: uri.to_owned() }),
            counters: o.counters.clone(),
            facts: o.facts.clone(),
            memory: self.memory.clone(),
            clock: self.clock.clone(),
            pace: location.pace(o.pacing),
            is_paced: location.sync(o.pacing),
        };
        hls::open(request, to)
    }

    /// Opens a recording on a web server with GStreamer's HTTP client, which can seek in it, through the loopback proxy.
    pub(super) fn open_recording(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let o = &self.options;
        let location = Location { kind: Kind::Http, ..Location::parse(uri)? };
        let pace = location.pace(o.pacing);
        let policy = o.guard.clone().unwrap_or_else(|| Arc::new(SourcePolicy::unrestricted()));
        match guarded::route(&policy, &o.id, uri, location) {
            Ok(routed) => self.open_routed(uri, routed, to),
            Err(refusal) => Ok(guarded::refused(refusal, pace, to)),
        }
    }

    fn open_routed(
        &self,
        uri: &str,
        (location, proxy): (Location, Option<LoopbackProxy>),
        to: Sender<MediaItem>,
    ) -> Result<Box<dyn Source>> {
        let o = &self.options;
        let mut wanted = Tracks { video: o.want_video, audio: o.want_audio };
        if let Some(test) = &location.test {
            wanted = Tracks { video: wanted.video && test.video, audio: wanted.audio && test.audio };
        }
        if location.kind.is_network() {
            warm_up::network();
        }
        let pipeline = self.pipeline(&redact::uri(uri), &location, wanted, location.sync(o.pacing), proxy.is_some())?;
        self.start(PipelineStart { uri, location, pipeline, wanted, proxy, map: None }, to)
    }

    /// The pipeline of `location`, stopped.
    fn pipeline(
        &self,
        name: &str,
        location: &Location,
        wanted: Tracks,
        sync: bool,
        tcp_only: bool,
    ) -> Result<gst::Pipeline> {
        let o = &self.options;
        let timeout_s = u32::try_from(o.connect_timeout.as_secs()).unwrap_or(u32::MAX).clamp(1, 3600);
        let keys = template::Keys {
            location,
            frame_height: o.frame_height.max(1),
            sync,
            latency_ms: o.latency_ms,
            // The RTSP proxy supports only TCP.
            rtsp_transport: if tcp_only || self.over_tcp.load(Ordering::Relaxed) { "tcp" } else { &o.rtsp_transport },
            timeout_s,
        };
        let text = o.pipeline.as_deref().or(location.kind.spec().template);
        let text = text.ok_or_else(|| Error::Internal(format!("{name}: no template for {}", location.kind.name())))?;
        parse(&template::render(text, &keys, wanted)?, name)
    }

    /// The pipeline for media that Touchline fetches, stopped.
    fn feed_pipeline(&self, uri: &str, wanted: Tracks) -> Result<gst::Pipeline> {
        let location = Location { kind: Kind::Hls, ..Location::parse(uri)? };
        self.pipeline(&redact::uri(uri), &location, wanted, false, false)
    }

    /// Starts a pipeline of [`GstOpener::feed_pipeline`].
    fn start_feed(
        &self,
        uri: &str,
        pipeline: gst::Pipeline,
        wanted: Tracks,
        map: Arc<feed::TimelineMap>,
        to: Sender<MediaItem>,
    ) -> Result<Box<dyn Source>> {
        let location = Location { kind: Kind::Hls, ..Location::parse(uri)? };
        self.start(PipelineStart { uri, location, pipeline, wanted, proxy: None, map: Some(map) }, to)
    }
}

/// Parses a rendered template into a pipeline.
fn parse(text: &str, name: &str) -> Result<gst::Pipeline> {
    let mut context = gst::ParseContext::new();
    let parsed = gst::parse::launch_full(text, Some(&mut context), gst::ParseFlags::FATAL_ERRORS);
    let element = parsed.map_err(|e| {
        let missing = context.missing_elements();
        if missing.is_empty() {
            Error::Usage(format!("pipeline: {}; see the comments in the template", redact::text(e.message())))
        } else {
            let missing: Vec<&str> = missing.iter().map(|m| m.as_str()).collect();
            Error::source_failure(
                Cause::MissingPlugin,
                name,
                format!("the GStreamer element {} is missing", missing.join(", ")),
                format!("install {}", super::plugins::packages_of(&missing).join(" ")),
            )
        }
    })?;
    // A description of a single element parses to that element, which cannot be a source with an appsink.
    let pipeline = element
        .downcast::<gst::Pipeline>()
        .map_err(|e| Error::Usage(format!("pipeline: only the element {} is in it; add an appsink", e.name())))?;
    // The clock of a live source may disappear with it; the system clock does not.
    pipeline.use_clock(Some(&gst::SystemClock::obtain()));
    Ok(pipeline)
}
