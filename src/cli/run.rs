//! `touchline run`: watch streams.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Args;
use crossbeam_channel::{Receiver, Sender, bounded, never, select, unbounded};

use super::live::LiveStream;
use crate::app::{Tap, What, Workers};
use crate::backlog::LineId;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, ConfigFile, RtspTransport, StreamFile, StreamSettings};
use crate::error::{Error, Result};
use crate::ingest::gst::{GstOpener, GstOptions};
use crate::ingest::outlet::Counters;
use crate::ingest::supervise::{Observer, Policy, SourceState, Supervisor, ThreadSleeper};
use crate::ingest::uri::{Location, Pacing};
use crate::ingest::{MediaItem, Open, Pace, Source};
use crate::metrics::Metrics;
use crate::models::pack::Pack;
use crate::publish::http;
use crate::publish::hub::{Hub, HubInfo, StreamHandle, StreamInfo};
use crate::publish::jsonl::JsonlWriter;
use crate::publish::record::StreamState;
use crate::publish::terminal::Terminal;
use crate::vote::VoteConfig;

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Streams or files to watch: rtsp, rtsps, http(s) .m3u8, srt, rtmp, udp, testsrc URIs or paths. NAME=URI names one.
    #[arg(value_name = "[NAME=]URI")]
    uris: Vec<String>,
    /// Configuration file (TOML); the command line goes over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the model pack [default: weights/compact].
    #[arg(long, value_name = "DIR", env = "TOUCHLINE_PACK")]
    pack: Option<PathBuf>,
    /// Address of the page, the API and the metrics, or "off" [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Append one JSON object per second and per event to a file; "-" is standard output.
    #[arg(long, value_name = "FILE|-")]
    jsonl: Option<String>,
    /// GStreamer pipeline template in place of the built-in one (see pipelines/).
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// Play files at their own speed instead of as fast as the machine allows.
    #[arg(long)]
    realtime: bool,
    /// Keep opening a stream that cannot be opened at the start, instead of failing.
    #[arg(long)]
    retry: bool,
    /// Keep serving the page after the last stream has ended.
    #[arg(long)]
    linger: bool,
    /// Jitter buffer of RTSP sources, milliseconds [default: 200].
    #[arg(long, value_name = "MS")]
    latency_ms: Option<u32>,
    /// How RTP comes from RTSP servers [default: auto].
    #[arg(long, value_enum)]
    rtsp_transport: Option<RtspTransport>,
    /// Seconds of the sliding vote [default: 10].
    #[arg(long, value_name = "SECONDS")]
    vote_window: Option<u32>,
    /// Seconds between two votes [default: 1].
    #[arg(long, value_name = "SECONDS")]
    vote_stride: Option<u32>,
    /// Seconds of different streams that go through a model at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    batch_max: u16,
    /// No line per second on the terminal.
    #[arg(short, long)]
    quiet: bool,
}

/// A stream that runs.
struct Running {
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
type News = (LineId, SourceState);

pub fn run(args: RunArgs) -> Result<()> {
    let (args, streams, vote) = settle(args)?;
    let pack = Pack::open(&config::find_pack(args.pack.as_deref())?)?;
    let jsonl = args.jsonl.as_deref().map(|path| JsonlWriter::append(Path::new(path))).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tokio")
        .enable_all()
        .build()
        .map_err(|e| Error::Internal(format!("the asynchronous runtime does not start: {e}")))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::new();
    let weights_sha256 = pack.weights_sha256();
    metrics.set_pack(&pack.name, &weights_sha256);
    let info = HubInfo {
        classes: pack.classes.clone(),
        modalities: pack.fusion.order().to_vec(),
        pack_name: pack.name.clone(),
        weights_sha256,
        vote_window_s: vote.window,
    };
    let hub = Hub::new(info, metrics.clone(), clock.clone());
    let server = Server::start(&runtime, args.listen.as_deref(), &hub)?;
    hub.set_starting("warming up the models");
    let workers = Workers::start(pack, usize::from(args.batch_max), metrics, clock.clone())?;
    hub.set_ready(true);
    if let Some(address) = server.address {
        eprintln!("watching on http://{address}  (metrics: /metrics, API: /api/v1/streams)");
    }
    let stop = stop_signal(&runtime);
    let terminal = (!args.quiet)
        .then(|| Terminal::new(&workers.pack().classes, streams.len(), args.jsonl.as_deref() == Some("-")));
    let mut session =
        Session { args: &args, hub, workers, clock, jsonl, terminal, running: BTreeMap::new(), vote, stopped: false };
    let outcome = session.watch(streams, &stop);
    if outcome.is_ok() && !session.stopped && args.linger && server.address.is_some() {
        eprintln!("every stream has ended; the page stays until Ctrl-C");
        let _ = stop.recv();
    }
    drop(session);
    server.stop(runtime);
    outcome
}

/// Command line over configuration file.
fn settle(mut args: RunArgs) -> Result<(RunArgs, Vec<StreamSettings>, VoteConfig)> {
    let file = args.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    let mut vote = file.vote;
    vote.window = args.vote_window.or(vote.window);
    vote.stride = args.vote_stride.or(vote.stride);
    let vote = vote.settings().map_err(Error::Usage)?;
    args.pack = args.pack.or(file.pack);
    args.listen = args.listen.or(file.listen);
    args.jsonl = args.jsonl.or(file.jsonl);
    let mut wanted = file.stream;
    wanted.extend(args.uris.iter().map(|given| {
        let (id, uri) = split_name(given);
        StreamFile { id: id.map(Into::into), uri: uri.to_owned(), ..StreamFile::default() }
    }));
    for stream in &mut wanted {
        crate::redact::remember(&stream.uri);
        stream.pipeline = args.pipeline.clone().or(stream.pipeline.take());
        stream.latency_ms = args.latency_ms.or(stream.latency_ms);
        stream.rtsp_transport = args.rtsp_transport.or(stream.rtsp_transport);
    }
    if wanted.is_empty() {
        let how = "give a URI or a path, as in `touchline run rtsp://camera.example/live`, or --config FILE";
        return Err(Error::Usage(format!("nothing to watch; {how}")));
    }
    Ok((args, config::streams(wanted)?, vote))
}

/// `NAME=URI` → both; a `=` behind a `/`, `:` or `?` belongs to the URI, and so does one in the name of a file.
fn split_name(given: &str) -> (Option<&str>, &str) {
    match given.split_once('=') {
        Some((name, uri)) if !name.contains(['/', ':', '?']) && !Path::new(given).exists() => (Some(name), uri),
        _ => (None, given),
    }
}

/// The HTTP server, if one is wanted.
struct Server {
    address: Option<SocketAddr>,
    shutdown: Option<tokio::sync::oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<Result<()>>>,
}

impl Server {
    fn start(runtime: &tokio::runtime::Runtime, listen: Option<&str>, hub: &Hub) -> Result<Self> {
        let listen = listen.unwrap_or(config::DEFAULT_LISTEN);
        if listen == "off" {
            return Ok(Self { address: None, shutdown: None, task: None });
        }
        config::listen_address(listen)?;
        let listener = runtime.block_on(http::bind(listen))?;
        let address = listener.local_addr().ok();
        if address.is_some_and(|a| !a.ip().is_loopback()) {
            tracing::warn!("{listen} is open to other machines, without login: anyone who reaches it sees the streams");
        }
        let (shutdown, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = runtime.spawn(http::serve(listener, hub.clone(), async move {
            // The sender going away is a shutdown as well.
            let _ = stopped.await;
        }));
        Ok(Self { address, shutdown: Some(shutdown), task: Some(task) })
    }

    fn stop(self, runtime: tokio::runtime::Runtime) {
        drop(self.shutdown);
        if let Some(task) = self.task
            && let Ok(Err(e)) = runtime.block_on(task)
        {
            tracing::error!("{e}");
        }
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    }
}

/// A message on the first SIGINT or SIGTERM; the second ends the program at once.
fn stop_signal(runtime: &tokio::runtime::Runtime) -> Receiver<()> {
    let (to, stop) = bounded(2);
    runtime.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            tracing::warn!("signals cannot be caught; an interrupt ends the program at once");
            return;
        };
        for nth in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if nth > 0 {
                std::process::exit(130);
            }
            let _ = to.send(());
        }
    });
    stop
}

struct Session<'a> {
    args: &'a RunArgs,
    hub: Hub,
    /// Dropped before `workers`: a clip thread ends when its source lets go of the channel between them.
    running: BTreeMap<LineId, Running>,
    workers: Workers,
    clock: Arc<dyn Clock>,
    jsonl: Option<JsonlWriter>,
    terminal: Option<Terminal>,
    vote: VoteConfig,
    /// The program was asked to stop.
    stopped: bool,
}

impl Session<'_> {
    /// Opens the streams and publishes until the last has ended.
    fn watch(&mut self, streams: Vec<StreamSettings>, stop: &Receiver<()>) -> Result<()> {
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
                recv(news) -> message => if let Ok((line, state)) = message { self.news(line, state) },
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
        let (line, to) = self.workers.add_stream(&settings.id, pace, tap(handle.clone()))?;
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
            ..GstOptions::default()
        };
        let opener: Arc<dyn Open> = Arc::new(GstOpener::new(options, self.clock.clone())?);
        let source = if pace == Pace::Live {
            let supervisor = Supervisor {
                inner: opener,
                policy: Policy {
                    retry_first: self.args.retry,
                    reopen_on_end: location.kind.reopens_on_end(),
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
                    if let StreamState::Failed { cause, advice } = &state {
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
            SourceState::Waiting { retry_in, cause, .. } => {
                StreamState::Waiting { cause, retry_in_ns: u64::try_from(retry_in.as_nanos()).unwrap_or(u64::MAX) }
            }
            SourceState::Ended | SourceState::Failed { .. } => return,
        };
        let record = running.stream.handle().set_state(state.clone());
        if let Some(terminal) = &mut self.terminal {
            terminal.state(running.stream.handle().id(), &state);
        }
        self.write(record.as_slice());
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
        let _ = self.news.send((self.line, state));
    }
}

/// Counts what comes in and offers pictures to whoever watches.
fn tap(handle: StreamHandle) -> Tap {
    Box::new(move |item| match item {
        MediaItem::Frame(frame) => {
            handle.metrics().frames(1);
            if handle.preview_wanted() {
                handle.offer_preview(frame.clone());
            }
        }
        MediaItem::Pcm(chunk) => handle.metrics().samples(chunk.frames() as u64),
        _ => {}
    })
}

fn read_template(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        Error::Usage(format!("--pipeline {}: {e}; pipelines/ has templates to start from", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_uris() {
        for (given, name, uri) in [
            ("court=rtsp://cam/live?a=b", Some("court"), "rtsp://cam/live?a=b"),
            ("rtsp://cam/live?a=b", None, "rtsp://cam/live?a=b"),
            ("srt://:9000?mode=listener", None, "srt://:9000?mode=listener"),
            ("testsrc://?seconds=3", None, "testsrc://?seconds=3"),
            ("a=b.mp4", Some("a"), "b.mp4"),
            ("dir/a=b.mp4", None, "dir/a=b.mp4"),
        ] {
            assert_eq!(split_name(given), (name, uri), "{given}");
        }
    }
}
