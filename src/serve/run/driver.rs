//! Opens the sources of streams. The stream manager calls it on a thread per opening: reading templates, loading
//! plugins and looking up names may take seconds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::crash_guard::{MarkingOpener, OpeningMark};
use super::publisher::{News, PublisherCommand, SourceNews, StreamStart};
use crate::backlog::QueueId;
use crate::config::{RtspTransport, StreamSettings};
use crate::control::probes::ProbeOpener;
use crate::hub::StreamHandle;
use crate::schedule::Expectations;
use crate::workers::{Intake, Tap};
use touchline_compute::models::pack::Pack;
use touchline_core::clip::{ClipConfig, LagLimits, PlanSelector};
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};
use touchline_core::incident::Incident;
use touchline_core::item::{End, MediaItem, Pace};
use touchline_core::tier::SharedTier;
use touchline_core::vote::VoteConfig;
use touchline_media::facts::SharedFacts;
use touchline_media::gst::clips::ring::RingOptions;
use touchline_media::gst::{GstOpener, GstOptions, classify};
use touchline_media::guard::SourcePolicy;
use touchline_media::options::{Isolation, SourceKind};
use touchline_media::outlet::Counters;
use touchline_media::supervise::{Policy, SourceObserver, SourceState, Supervisor};
use touchline_media::uri::{Kind, Location, Pacing};
use touchline_media::worker::WorkerOpener;
use touchline_media::{Open, Source};

/// A network source that is tested and sends nothing for this long has failed: before the test is over, so that the cause is known.
const PROBE_CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// A request to open the source of a stream.
pub(super) struct OpenRequest {
    pub(super) settings: StreamSettings,
    pub(super) handle: StreamHandle,
    pub(super) vote: VoteConfig,
    pub(super) expectations: Expectations,
    /// Retry if the first attempt fails.
    pub(super) retry: bool,
    /// The API added the stream: the source policy applies.
    pub(super) guarded: bool,
    /// Marks the stream in the store while its source is being opened.
    pub(super) mark: Option<OpeningMark>,
}

/// The source of a stream, opened.
pub(super) struct Opened {
    pub(super) queue: QueueId,
    pub(super) source: Box<dyn Source>,
}

/// The actions of the stream manager that touch sources. Its tests simulate them.
pub(super) trait Driver: Send + Sync {
    /// Opens a source. May take seconds.
    ///
    /// # Errors
    /// The cause, if the source cannot be opened.
    fn open(&self, request: OpenRequest) -> Result<Opened>;

    /// Removes the queue of a stream that has ended or was abandoned.
    fn remove_queue(&self, queue: QueueId);

    /// Turns all seconds that wait for inference into gaps.
    fn shed_all(&self);
}

/// Opens sources with GStreamer.
pub(super) struct GstDriver {
    pub(super) intake: Intake,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) policy: Arc<SourcePolicy>,
    pub(super) commands: Sender<PublisherCommand>,
    pub(super) news: Sender<News>,
    pub(super) pacing: Pacing,
    /// Where the media are recorded.
    pub(super) record: Option<RingOptions>,
}

impl Driver for GstDriver {
    fn open(&self, request: OpenRequest) -> Result<Opened> {
        let OpenRequest { settings, handle, vote, expectations, .. } = &request;
        let location = self.locate(&request)?;
        let pipeline = settings.pipeline.as_deref().map(read_template).transpose()?;
        let pace = location.pace(self.pacing);
        handle.set_source(&settings.uri, pace);
        let tier = SharedTier::new(settings.tier.fixed().unwrap_or_default());
        let counters = Arc::<Counters>::default();
        let (queue, to) = self.intake.add_stream(
            &settings.id,
            pace,
            location.behind_ns(settings.latency_ms),
            handle.reserve_run(),
            tier.clone(),
            tap(handle.clone(), request.mark.clone()),
        )?;
        // The decisions of a recording do not depend on the load.
        if settings.tier.fixed().is_none() && pace == Pace::Live {
            self.intake.auto_tiers().add(queue, tier.clone());
        }
        // Sent before any media can arrive: the publisher drops decisions of queues that it does not know.
        let begin = StreamStart {
            queue,
            handle: handle.clone(),
            vote: *vote,
            expectations: expectations.clone(),
            supervised: pace == Pace::Live,
            counters: counters.clone(),
        };
        let _ = self.commands.send(PublisherCommand::Begin(Box::new(begin)));
        // Keeps the channel open until the queue is removed: closing it would count as the end of the source.
        let hold = to.clone();
        let opened = self.source(&request, &location, SourceParts { pipeline, queue, counters, tier }, to);
        match opened {
            Ok(source) => Ok(Opened { queue, source }),
            Err(e) => {
                self.intake.remove_queue(queue);
                let _ = self.commands.send(PublisherCommand::Forget(queue));
                drop(hold);
                Err(e)
            }
        }
    }

    fn remove_queue(&self, queue: QueueId) {
        self.intake.remove_queue(queue);
    }

    fn shed_all(&self) {
        self.intake.shed_all();
    }
}

impl GstDriver {
    /// Location and kind of the source. If the address does not show whether it is live, the server is asked.
    fn locate(&self, request: &OpenRequest) -> Result<Location> {
        let OpenRequest { settings, retry, guarded, .. } = request;
        let location = Location::parse(&settings.uri)?;
        let kind = match (location.kind, settings.kind) {
            (Kind::Http, Some(SourceKind::Hls)) => Kind::Hls,
            (Kind::Http, None) if settings.pipeline.is_none() => {
                let found = classify(&location, guarded.then_some(&self.policy));
                // The server does not answer. A source that is retried is more likely a live channel than a file.
                found.unwrap_or(if *retry { Kind::HttpLive } else { Kind::Http })
            }
            (kind, _) => kind,
        };
        Ok(Location { kind, ..location })
    }

    /// The options that the settings of a stream determine.
    fn options(&self, settings: &StreamSettings, kind: Kind, guarded: bool) -> GstOptions {
        let pack = self.intake.pack();
        GstOptions {
            id: settings.id.clone(),
            frame_height: pack.frame_height,
            want_video: pack.wants().video,
            want_audio: pack.wants().audio,
            pacing: self.pacing,
            latency_ms: settings.latency_ms,
            rtsp_transport: match settings.rtsp_transport {
                RtspTransport::Auto => "udp+tcp".into(),
                RtspTransport::Tcp => "tcp".into(),
                RtspTransport::Udp => "udp".into(),
            },
            guard: guarded.then(|| self.policy.clone()),
            decoder: settings.decoder,
            hls: settings.hls.clone(),
            kind: Some(kind),
            ..GstOptions::default()
        }
    }

    fn source(
        &self,
        request: &OpenRequest,
        location: &Location,
        parts: SourceParts,
        to: Sender<MediaItem>,
    ) -> Result<Box<dyn Source>> {
        let OpenRequest { settings, handle, retry, guarded, .. } = request;
        let SourceParts { pipeline, queue, counters, tier } = parts;
        let pack = self.intake.pack();
        let options = GstOptions {
            pipeline,
            counters: counters.clone(),
            record: self.record.clone().filter(|_| settings.record),
            // Convert the pictures that the plan may choose, and those for viewers of the preview.
            selection: Some(PlanSelector::selection(&pack.plan).at(tier).unless({
                let handle = handle.clone();
                move || handle.preview_wanted()
            })),
            ..self.options(settings, location.kind, *guarded)
        };
        let mut opener: Arc<dyn Open> = match settings.isolation(*guarded) {
            Isolation::None => Arc::new(GstOpener::new(options, self.clock.clone())?),
            Isolation::Process => Arc::new(WorkerOpener::new(options, Some(pack.plan.clone()), self.clock.clone())),
        };
        // A listener counts as being opened until a caller connects, so a mark would mean nothing.
        if let Some(mark) = request.mark.as_ref().filter(|_| !location.listens()) {
            opener = Arc::new(MarkingOpener { inner: opener, mark: mark.clone() });
        }
        if location.pace(self.pacing) != Pace::Live {
            return opener.open(&settings.uri, to);
        }
        let supervisor = Supervisor {
            inner: opener,
            policy: Policy {
                retry_first: *retry,
                reopen_on_end: location.kind.reopens_on_end(),
                stall_cause: location.kind.stall_cause(),
                ..if location.listens() { Policy::listening() } else { Policy::default() }
            },
            clock: self.clock.clone(),
            observer: Arc::new(Forward { queue, news: self.news.clone(), mark: request.mark.clone() }),
            counters,
            id: settings.id.clone(),
        };
        supervisor.open(&settings.uri, to)
    }
}

impl ProbeOpener for GstDriver {
    fn open(&self, settings: &StreamSettings, facts: SharedFacts, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let kind = match (Location::parse(&settings.uri)?.kind, settings.kind) {
            (Kind::Http, Some(SourceKind::Hls)) => Kind::Hls,
            // The source asks the server for its content, and a failure to answer has a cause.
            (Kind::Http, None) => Kind::HttpLive,
            (kind, _) => kind,
        };
        // All pictures: the first is shown, and their distance may be measured.
        let options =
            GstOptions { facts, connect_timeout: PROBE_CONNECT_TIMEOUT, ..self.options(settings, kind, true) };
        match settings.isolation(true) {
            Isolation::None => GstOpener::new(options, self.clock.clone())?.open(&settings.uri, to),
            Isolation::Process => WorkerOpener::new(options, None, self.clock.clone()).open(&settings.uri, to),
        }
    }
}

/// Opens recorded media to see them as the models did. A process of its own decodes them: a decoder that crashes must not end the streams.
pub(super) fn recorded(pack: &Pack, clock: &Arc<dyn Clock>) -> (Arc<dyn Open>, ClipConfig) {
    let options = GstOptions {
        id: "recorded".into(),
        frame_height: pack.frame_height,
        want_video: pack.wants().video,
        want_audio: pack.wants().audio,
        ..GstOptions::default()
    };
    let config = ClipConfig {
        sample_rate: pack.sample_rate(),
        plan: pack.plan.clone(),
        lag: LagLimits::for_pace(Pace::File),
        behind_ns: 0,
    };
    (Arc::new(WorkerOpener::new(options, None, clock.clone())), config)
}

/// What belongs to one opening of a source.
struct SourceParts {
    pipeline: Option<String>,
    queue: QueueId,
    counters: Arc<Counters>,
    tier: SharedTier,
}

/// Forwards the news of a supervisor to the publisher, which alone writes outputs.
struct Forward {
    queue: QueueId,
    news: Sender<News>,
    mark: Option<OpeningMark>,
}

impl SourceObserver for Forward {
    fn state(&self, state: SourceState) {
        if let Some(mark) =
            self.mark.as_ref().filter(|_| !matches!(state, SourceState::Connecting | SourceState::Playing))
        {
            mark.clear(false);
        }
        // The receiver is gone only at shutdown.
        let _ = self.news.send((self.queue, SourceNews::State(state)));
    }

    fn incident(&self, incident: Incident) {
        let _ = self.news.send((self.queue, SourceNews::Incident(incident)));
    }
}

/// Counts converted frames and offers them to the preview.
fn tap(handle: StreamHandle, mark: Option<OpeningMark>) -> Tap {
    let marked = move |item: &MediaItem| match (&mark, item) {
        (Some(mark), MediaItem::Frame(_) | MediaItem::Unconverted { .. } | MediaItem::Pcm(_)) => mark.media(),
        (Some(mark), MediaItem::Ended(end)) => mark.clear(*end == End::Finished),
        _ => {}
    };
    Box::new(move |item| {
        marked(item);
        if let MediaItem::Frame(frame) = item {
            handle.metrics().converted();
            if handle.preview_wanted() {
                handle.offer_preview(frame.clone());
            }
        }
    })
}

fn read_template(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        Error::Usage(format!("--pipeline {}: {e}; pipelines/ has templates to start from", path.display()))
    })
}
