//! The publishing thread of `touchline run`: opens the streams, and tells every output what was decided.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};

use super::RunArgs;
use crate::app::{Tap, What, Workers};
use crate::backlog::LineId;
use crate::cli::live::LiveStream;
use crate::clip::PlanThinner;
use crate::clock::Clock;
use crate::config::{RtspTransport, StreamSettings};
use crate::error::{Error, Result};
use crate::ingest::gst::{GstOpener, GstOptions};
use crate::ingest::incident::Incident;
use crate::ingest::outlet::Counters;
use crate::ingest::supervise::{Observer, Policy, SourceState, Supervisor, ThreadSleeper};
use crate::ingest::uri::{Location, Pacing};
use crate::ingest::{MediaItem, Open, Pace, Source};
use crate::publish::hub::{Hub, StreamHandle, StreamInfo};
use crate::publish::jsonl::JsonlWriter;
use crate::publish::record::StreamState;
use crate::publish::terminal::Terminal;
use crate::vote::VoteConfig;

/// A stream that runs.
pub(super) struct Running {
    stream: LiveStream,
    source: Box<dyn Source>,
    counters: Arc<Counters>,
    /// Lost buffers when that was last said.
    loss_said: u64,
    /// Reconnects that the hub was told of.
    reconnects_said: u64,
    failed: Option<Error>,
    ended: bool,
}

impl Running {
    /// Tells the hub of reconnects since the last time.
    fn say_reconnects(&mut self) {
        let all = self.counters.reconnects.load(Ordering::Relaxed);
        self.stream.handle().reconnected(all.saturating_sub(self.reconnects_said));
        self.reconnects_said = all;
    }

    /// Says how many buffers could not be used at all, each time their number has doubled.
    fn say_loss(&mut self) {
        let untimed = self.counters.untimed.load(Ordering::Relaxed);
        let undeclared = self.counters.undeclared.load(Ordering::Relaxed);
        if untimed + undeclared > 2 * self.loss_said {
            self.loss_said = untimed + undeclared;
            let id = self.stream.handle().id();
            tracing::warn!(
                "{id}: lost {untimed} buffers without a time stamp and {undeclared} of a track that came late"
            );
        }
    }
}

/// News of a source's supervisor, beside the data.
type News = (LineId, SourceNews);

enum SourceNews {
    State(SourceState),
    Incident(Incident),
}

pub(super) struct Session<'a> {
    pub(super) args: &'a RunArgs,
    pub(super) hub: Hub,
    /// Dropped before `workers`: a clip thread ends when its source lets go of the channel between them.
    pub(super) running: BTreeMap<LineId, Running>,
    pub(super) workers: Workers,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) jsonl: Option<JsonlWriter>,
    pub(super) terminal: Option<Terminal>,
    pub(super) vote: VoteConfig,
    /// The program was asked to stop.
    pub(super) stopped: bool,
}

impl Session<'_> {
    /// Opens the streams and publishes until the last has ended.
    pub(super) fn watch(&mut self, streams: Vec<StreamSettings>, stop: &Receiver<()>) -> Result<()> {
        // No data, a few messages a reconnect: unbounded, so that a supervisor never waits for an output.
        let (news_to, news) = unbounded::<News>();
        for settings in &streams {
            self.open(settings, &news_to)?;
        }
        let mut stop = stop.clone();
        let decided = self.workers.decided.clone();
        while self.running.values().any(|r| !r.ended) {
            select! {
                recv(decided) -> message => match message {
                    Ok(message) => self.take(message.line, message.what),
                    Err(_) => return Err(Error::Internal("the inference thread ended".into())),
                },
                recv(news) -> message => match message {
                    Ok((line, SourceNews::State(state))) => self.news(line, state),
                    Ok((line, SourceNews::Incident(incident))) => self.incident(line, incident),
                    Err(_) => {}
                },
                recv(stop) -> _ => {
                    tracing::info!("stopping: finishing the seconds that are under way");
                    self.stopped = true;
                    self.running.values_mut().for_each(|r| r.source.stop());
                    stop = never();
                }
            }
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.finish();
        }
        if let Some(jsonl) = &self.jsonl
            && jsonl.lost() > 0
        {
            let place = self.args.jsonl.clone().unwrap_or_default();
            return Err(Error::output(
                place,
                format!("{} records could not be written", jsonl.lost()),
                "free space or choose another --jsonl",
            ));
        }
        match self.running.values_mut().find_map(|r| r.failed.take()) {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    fn open(&mut self, settings: &StreamSettings, news: &Sender<News>) -> Result<()> {
        let location = Location::parse(&settings.uri)?;
        let pacing = if self.args.realtime { Pacing::Realtime } else { Pacing::Auto };
        let pace = location.pace(pacing);
        let info = StreamInfo { id: settings.id.clone(), uri: settings.uri.clone(), pace };
        let handle = self.hub.add_stream(info)?;
        let (line, to) = self.workers.add_stream(
            &settings.id,
            pace,
            location.behind_ns(settings.latency_ms),
            tap(handle.clone()),
        )?;
        let pack = self.workers.pack();
        let counters = Arc::<Counters>::default();
        let pipeline = settings.pipeline.as_deref().map(read_template).transpose()?;
        let options = GstOptions {
            id: settings.id.clone(),
            frame_height: pack.frame_height,
            want_video: pack.wants().video,
            want_audio: pack.wants().audio,
            pacing,
            latency_ms: settings.latency_ms,
            rtsp_transport: match settings.rtsp_transport {
                RtspTransport::Auto => "udp+tcp".into(),
                RtspTransport::Tcp => "tcp".into(),
                RtspTransport::Udp => "udp".into(),
            },
            pipeline,
            counters: counters.clone(),
            // Beside what the plan may choose, what the page's viewers are shown is converted.
            thinning: Some(PlanThinner::thinning(&pack.plan).unless({
                let handle = handle.clone();
                move || handle.preview_wanted()
            })),
            ..GstOptions::default()
        };
        let opener: Arc<dyn Open> = Arc::new(GstOpener::new(options, self.clock.clone())?);
        let source = if pace == Pace::Live {
            let supervisor = Supervisor {
                inner: opener,
                policy: Policy {
                    retry_first: self.args.retry,
                    reopen_on_end: location.kind.reopens_on_end(),
                    stall_cause: location.kind.stall_cause(),
                    ..Policy::default()
                },
                clock: self.clock.clone(),
                sleeper: Arc::new(ThreadSleeper),
                observer: Arc::new(Forward { line, news: news.clone() }),
                counters: counters.clone(),
                id: settings.id.clone(),
            };
            supervisor.open(&settings.uri, to)?
        } else {
            opener.open(&settings.uri, to)?
        };
        let supervised = pace == Pace::Live;
        let stream = LiveStream::new(handle, self.vote, self.workers.pack().classes.len(), supervised);
        self.running.insert(
            line,
            Running { stream, source, counters, loss_said: 0, reconnects_said: 0, failed: None, ended: false },
        );
        Ok(())
    }

    fn take(&mut self, line: LineId, what: What) {
        let Some(running) = self.running.get_mut(&line) else { return };
        running.say_loss();
        let now_ns = self.clock.mono_ns();
        let mut records = Vec::new();
        match what {
            What::Outcome { outcome, backlog } => {
                let published = running.stream.outcome(outcome, backlog, now_ns);
                records = running.stream.handle().publish(&published);
                if let Some(terminal) = &mut self.terminal {
                    terminal.published(running.stream.handle().id(), &published);
                }
            }
            What::News(news) => {
                let state = running.stream.news(news, &mut records);
                if let Some(state) = state {
                    if let StreamState::Failed { cause, advice, .. } = &state {
                        running.failed =
                            Some(Error::source_error(running.stream.handle().uri(), cause.clone(), advice.clone()));
                    }
                    running.ended |= matches!(state, StreamState::Ended | StreamState::Failed { .. });
                    if let Some(terminal) = &mut self.terminal {
                        terminal.state(running.stream.handle().id(), &state);
                    }
                }
            }
        }
        self.write(&records);
    }

    /// A source reconnects or waits. Its end is told in-band, after its last second.
    fn news(&mut self, line: LineId, state: SourceState) {
        let Some(running) = self.running.get_mut(&line).filter(|r| !r.ended) else { return };
        running.say_reconnects();
        let state = match state {
            SourceState::Connecting => StreamState::Connecting,
            SourceState::Playing => StreamState::Playing,
            SourceState::Waiting { attempt, retry_in, kind, cause } => {
                let retry_in_ns = u64::try_from(retry_in.as_nanos()).unwrap_or(u64::MAX);
                StreamState::Waiting { kind, cause, attempt, retry_in_ns }
            }
            SourceState::Ended | SourceState::Failed { .. } => return,
        };
        let record = running.stream.handle().set_state(state.clone());
        if let Some(terminal) = &mut self.terminal {
            terminal.state(running.stream.handle().id(), &state);
        }
        self.write(record.as_slice());
    }

    fn incident(&mut self, line: LineId, incident: Incident) {
        let Some(running) = self.running.get_mut(&line).filter(|r| !r.ended) else { return };
        let record = running.stream.handle().incident(incident);
        self.write(&[record]);
    }

    fn write(&mut self, records: &[Arc<str>]) {
        let Some(jsonl) = &mut self.jsonl else { return };
        let now_ns = self.clock.mono_ns();
        for record in records {
            if !jsonl.write_or_count(record, now_ns) {
                self.hub.metrics().record_lost();
            }
        }
    }
}

/// Sends a supervisor's news to the publishing thread, which alone writes outputs.
struct Forward {
    line: LineId,
    news: Sender<News>,
}

impl Observer for Forward {
    fn state(&self, state: SourceState) {
        // The receiver is gone only when the program ends.
        let _ = self.news.send((self.line, SourceNews::State(state)));
    }

    fn incident(&self, incident: Incident) {
        let _ = self.news.send((self.line, SourceNews::Incident(incident)));
    }
}

/// Counts what comes in and offers pictures to whoever watches.
fn tap(handle: StreamHandle) -> Tap {
    Box::new(move |item| match item {
        MediaItem::Frame(frame) => {
            handle.metrics().frames(1);
            handle.metrics().converted();
            if handle.preview_wanted() {
                handle.offer_preview(frame.clone());
            }
        }
        MediaItem::Thinned { .. } => handle.metrics().frames(1),
        MediaItem::Pcm(chunk) => handle.metrics().samples(chunk.frames() as u64),
        _ => {}
    })
}

fn read_template(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        Error::Usage(format!("--pipeline {}: {e}; pipelines/ has templates to start from", path.display()))
    })
}
