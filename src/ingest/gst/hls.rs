//! Reads an HLS source's playlist beside GStreamer, which tells neither when segments were made nor where they do not go on
//! from each other.
//!
//! GStreamer's second HLS client begins stream time with the first segment of the first playlist that it loads. That
//! playlist is seen on its way into the client; the thread `hls/<id>` loads the ones after it. What they say of a moment is
//! put before the picture or sound of that moment ([`Graph::foretell`]). It also finds out that a playlist does not move, and
//! what the server says instead, which GStreamer's client keeps to itself.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::causes;
use super::graph::{Foretold, Graph};
use crate::ingest::End;
use crate::ingest::incident::Cause;
use crate::ingest::m3u8::{Course, Mark, Media, Playlist};
use crate::ingest::uri::Kind;
use crate::time::{NANOS_PER_SECOND, Pts, WallSource, WallTime};

/// The longest playlist that is read, bytes.
const TEXT_MAX: usize = 1 << 20;

/// How often the playlist is loaded at least and at most; in between, once a target duration.
const EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// How often it is looked whether the pipeline plays, so that what is known can be told.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// How long loading it may take.
const LIMIT: gst::ClockTime = gst::ClockTime::from_seconds(5);

/// A playlist that has not moved for this long, and for this many target durations, has stalled: it should have moved
/// after one and a half (RFC 8216, 6.2.2).
const STALL_MIN: Duration = Duration::from_secs(10);
const STALL_TARGETS: u64 = 3;

/// How far a date may be from the picture that it names, ns: packagers take it from the segment's start, rounded.
const DATE_UNCERTAINTY_NS: u64 = 100_000_000;

/// Begins to read the playlist of `pipeline`, which plays `uri`; the thread ends when the session does.
///
/// # Errors
/// When the system has no thread left.
pub(super) fn follow(pipeline: &gst::Pipeline, uri: &str, graph: &Arc<Graph>, id: &str) -> std::io::Result<()> {
    let first = first_playlist(pipeline);
    let (uri, stopping) = (uri.to_owned(), graph.outlet.stopping().clone());
    let graph = Arc::downgrade(graph);
    std::thread::Builder::new().name(format!("hls/{id}")).spawn(move || {
        let Some(text) = recv(&first, &stopping) else { return };
        let mut reader = Reader::new(uri);
        let mut loaded: Result<String, Option<End>> = Ok(text);
        loop {
            let wait = match loaded.as_deref().map(|text| reader.read(text)) {
                Ok(Turn::Again) => Some(Duration::ZERO),
                Ok(Turn::Over) => None,
                Ok(Turn::Later(wait)) => Some(wait),
                Err(_) => Some(EVERY.0),
            };
            reader.is_over |= wait.is_none();
            {
                let Some(graph) = graph.upgrade() else { return };
                graph.note_trouble(loaded.as_ref().err().cloned().flatten());
                if let Some(is_whole) = reader.begins_whole
                    && !*graph.counters.on_demand.get_or_init(|| is_whole)
                    && is_whole
                {
                    // A channel whose packager has not come back: what is left in the playlist was watched already.
                    return graph.fail(still_over());
                }
                if let Some(end) = reader.stalled() {
                    graph.fail(graph.trouble().unwrap_or(end));
                    return;
                }
            }
            if reader.tell_until(wait.map(|wait| Instant::now() + wait), &graph, &stopping).is_break() || reader.is_over
            {
                return;
            }
            loaded = load(&reader.uri, &stopping);
        }
    })?;
    Ok(())
}

fn recv(first: &Receiver<String>, stopping: &Receiver<Infallible>) -> Option<String> {
    crossbeam_channel::select! {
        recv(first) -> text => text.ok(),
        recv(stopping) -> _ => None,
    }
}

/// What a client has loaded so far, and who waits for it.
struct Collected {
    to: Sender<String>,
    text: Vec<u8>,
}

/// The text of the first thing that an HTTP client in `pipeline` loads.
fn first_playlist(pipeline: &gst::Pipeline) -> Receiver<String> {
    let (to, from) = bounded(1);
    let collected = Arc::new(Mutex::new(Some(Collected { to, text: Vec::new() })));
    pipeline.connect("deep-element-added", false, move |args| {
        let element = args.get(2).and_then(|v| v.get::<gst::Element>().ok())?;
        let pad = element.static_pad("src").filter(|_| element.factory().is_some_and(|f| f.name() == "souphttpsrc"))?;
        let collected = collected.clone();
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            let mut collected = collected.lock().unwrap_or_else(|e| e.into_inner());
            let Some(Collected { to, text }) = collected.as_mut() else { return gst::PadProbeReturn::Remove };
            match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => {
                    if let Ok(map) = buffer.map_readable() {
                        text.extend_from_slice(&map[..map.len().min(TEXT_MAX - text.len().min(TEXT_MAX))]);
                    }
                }
                Some(gst::PadProbeData::Event(event)) if event.type_() == gst::EventType::Eos => {
                    // Fails when the session is over already.
                    let _ = to.send(String::from_utf8_lossy(text).into_owned());
                    *collected = None;
                    return gst::PadProbeReturn::Remove;
                }
                _ => {}
            }
            gst::PadProbeReturn::Ok
        });
        None
    });
    from
}

/// Loads a playlist.
///
/// # Errors
/// What is wrong, if the server said it.
fn load(uri: &str, stopping: &Receiver<Infallible>) -> Result<String, Option<End>> {
    let source = gst::ElementFactory::make("souphttpsrc").property("location", uri).build().map_err(|_| None)?;
    source.set_property_from_str("user-agent", "touchline");
    source.set_property("retries", 0i32);
    if uri.starts_with("http://127.0.0.1:") {
        // The passage, which no proxy of the environment can reach.
        source.set_property("proxy", "");
    }
    let sink = gst_app::AppSink::builder().sync(false).build();
    let pipeline = gst::Pipeline::new();
    pipeline.add_many([&source, sink.upcast_ref()]).map_err(|_| None)?;
    source.link(&sink).map_err(|_| None)?;
    let mut text = Vec::new();
    if pipeline.set_state(gst::State::Playing).is_ok() {
        while let Some(sample) = sink.try_pull_sample(LIMIT) {
            if let Some(Ok(map)) = sample.buffer().map(|buffer| buffer.map_readable()) {
                text.extend_from_slice(&map);
            }
            let is_stopped = stopping.try_recv() == Err(crossbeam_channel::TryRecvError::Disconnected);
            if text.len() > TEXT_MAX || is_stopped {
                text.clear();
                break;
            }
        }
    }
    let is_whole = sink.is_eos() && !text.is_empty();
    let error = pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
    // Whether it went well is known by now.
    let _ = pipeline.set_state(gst::State::Null);
    match error.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Error(e)) => {
            let known = causes::Told::new(Kind::Hls, e, &e.error(), &e.debug().unwrap_or_default()).end();
            Err(Some(known.unwrap_or_else(|| causes::no_playlist(&e.error()))))
        }
        _ if is_whole => Ok(String::from_utf8_lossy(&text).into_owned()),
        _ => Err(None),
    }
}

enum Turn {
    /// At once: it was only the way to another playlist.
    Again,
    Later(Duration),
    Over,
}

struct Reader {
    uri: String,
    course: Course,
    /// How far stream time may be off, ns: not at all when the first playlist that GStreamer loaded was seen.
    slack_ns: u64,
    /// What cannot be told before the pipeline has a segment.
    pending: Vec<Mark>,
    /// The last number of a segment that was seen, and when it came.
    newest: (u64, Instant),
    target_ns: u64,
    is_over: bool,
    /// Whether the first playlist of media was whole already.
    begins_whole: Option<bool>,
}

impl Reader {
    fn new(uri: String) -> Self {
        let newest = (0, Instant::now());
        Self {
            uri,
            course: Course::default(),
            slack_ns: 0,
            pending: Vec::new(),
            newest,
            target_ns: 0,
            is_over: false,
            begins_whole: None,
        }
    }

    /// The failure that it is when the playlist has not moved for too long, whether it could be loaded or not.
    fn stalled(&self) -> Option<End> {
        let limit = STALL_MIN.max(Duration::from_nanos(STALL_TARGETS * self.target_ns));
        let stands = self.newest.1.elapsed();
        (!self.is_over && stands > limit).then(|| {
            let cause = format!("the playlist has not moved for {} s", stands.as_secs());
            causes::failed(Cause::PlaylistStalled, cause, "check the encoder or packager that writes the playlist")
        })
    }

    fn read(&mut self, text: &str) -> Turn {
        match Playlist::parse(text) {
            Some(Playlist::Master(variant)) => {
                let Ok(uri) = url::Url::parse(&self.uri).and_then(|base| base.join(&variant)) else {
                    return Turn::Over;
                };
                // A variant that names another playlist of variants would lead on and on.
                if self.slack_ns > 0 {
                    return Turn::Over;
                }
                self.uri = uri.into();
                // What GStreamer loaded may have been one segment older or newer.
                self.slack_ns = 1;
                Turn::Again
            }
            Some(Playlist::Media(media)) => {
                self.begins_whole.get_or_insert(media.is_over);
                self.pending.extend(self.course.follow(&media));
                let newest = media.sequence.saturating_add(media.segments.len() as u64);
                if newest != self.newest.0 {
                    self.newest = (newest, Instant::now());
                }
                self.target_ns = media.target_ns;
                if self.slack_ns > 0 {
                    self.slack_ns = media.target_ns.max(NANOS_PER_SECOND);
                }
                if media.is_over { Turn::Over } else { Turn::Later(interval(&media)) }
            }
            // An error page, or half of a playlist: the next one may be better.
            None => Turn::Later(EVERY.0),
        }
    }

    /// Tells what is pending as soon as it can be told, until `due`; of a playlist that is over, until all is told. Breaks off
    /// when the session is over.
    fn tell_until(
        &mut self,
        due: Option<Instant>,
        graph: &Weak<Graph>,
        stopping: &Receiver<Infallible>,
    ) -> ControlFlow<()> {
        loop {
            let Some(graph) = graph.upgrade() else { return ControlFlow::Break(()) };
            self.tell(&graph);
            drop(graph);
            let left = due.map_or(EVERY.1, |due| due.saturating_duration_since(Instant::now()));
            let is_told = self.pending.is_empty();
            if left.is_zero() || (due.is_none() && is_told) {
                return ControlFlow::Continue(());
            }
            let wait = if is_told { left } else { left.min(TELL_EVERY) };
            if stopping.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return ControlFlow::Break(());
            }
        }
    }

    fn tell(&mut self, graph: &Graph) {
        self.pending.retain(|mark| {
            let Some(running_ns) = graph.running_ns(mark.stream_ns) else { return true };
            // What lies before the start is not played.
            if let Ok(ns) = u64::try_from(running_ns) {
                let wall = mark.made_ns.map(|unix_ns| WallTime {
                    unix_ns,
                    source: WallSource::HlsProgramDateTime,
                    uncertainty_ns: DATE_UNCERTAINTY_NS.saturating_add(self.slack_ns),
                });
                graph.foretell(Foretold { pts: Pts(ns), is_break: mark.is_break, wall });
            }
            false
        });
    }
}

fn still_over() -> End {
    let cause = "the playlist says that the channel is over (EXT-X-ENDLIST)";
    causes::failed(Cause::Ended, cause, "start the encoder or packager that writes the playlist")
}

fn interval(media: &Media) -> Duration {
    Duration::from_nanos(media.target_ns).clamp(EVERY.0, EVERY.1)
}
