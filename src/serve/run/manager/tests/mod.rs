//! The stream manager with simulated sources, a simulated clock and a simulated publisher.

mod fleet;
mod later;

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::TryRecvError;
use tokio::sync::oneshot;

use super::shutdown::{CLOSE_MAX_NS, DRAIN_NS, STOP_MAX_NS};
use super::*;
use crate::backlog::Backlog;
use crate::config;
use crate::config::{LatencyMs, StreamFile, VoteFile};
use crate::control::streams::{NewStream, StreamChange, StreamOutcome, StreamPatch, StreamRefusalKind};
use crate::hub::HubInfo;
use crate::metrics::Metrics;
use crate::schedule::Expectations;
use touchline_core::clock::ManualClock;
use touchline_core::decision::PackStamp;
use touchline_core::labels::{ClassSet, Modality};
use touchline_media::Source;

/// A source that reports requests to stop. The test ends it.
struct Simulated {
    stops: Sender<QueueId>,
    queue: QueueId,
}

impl Source for Simulated {
    fn pace(&self) -> Pace {
        Pace::Live
    }

    fn stop(&mut self) {
        self.stops.send(self.queue).unwrap();
    }
}

/// Opens sources immediately, and refuses URIs that contain `refused`.
struct Simulation {
    backlog: Backlog,
    stops: Sender<QueueId>,
    opened: Mutex<Vec<(String, QueueId)>>,
    /// `retry` of each request.
    retries: Mutex<Vec<bool>>,
    removed: Mutex<Vec<QueueId>>,
    sheds: Mutex<u32>,
    /// URIs that contain `hangs` do not open while this is true.
    hangs: AtomicBool,
}

impl Driver for Simulation {
    fn open(&self, request: OpenRequest) -> Result<Opened> {
        request.handle.set_source(&request.settings.uri, Pace::Live);
        if request.settings.uri.contains("refused") {
            return Err(Error::source_error(request.settings.uri, "the element is missing", "install it"));
        }
        while request.settings.uri.contains("hangs") && self.hangs.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let queue = self.backlog.add_queue(Pace::Live);
        self.retries.lock().push(request.retry);
        self.opened.lock().push((request.settings.uri.clone(), queue));
        Ok(Opened { queue, source: Box::new(Simulated { stops: self.stops.clone(), queue }) })
    }

    fn remove_queue(&self, queue: QueueId) {
        self.removed.lock().push(queue);
    }

    fn shed_all(&self) {
        *self.sheds.lock() += 1;
    }
}

/// A stream manager that the test drives step by step.
struct Bench {
    manager: StreamManager<Simulation>,
    driver: Arc<Simulation>,
    hub: Hub,
    clock: Arc<ManualClock>,
    commands: Receiver<PublisherCommand>,
    stops: Receiver<QueueId>,
    /// The votes of received commands.
    votes: Vec<VoteConfig>,
    expectations: Vec<Expectations>,
    into: BTreeMap<QueueId, StreamState>,
    cut: Vec<QueueId>,
    finished: bool,
}

fn rules() -> Rules {
    Rules { max_streams: 3, is_in_fleet: false, retry: false, latency_ms: 200, is_service: false, lingers: false }
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let clock = Arc::new(ManualClock::default());
        let classes = ClassSet::new(["tennis", "other"].map(String::from).to_vec()).unwrap();
        let pack = PackStamp { name: "p".into(), weights_sha256: "a".into(), manifest_sha256: "b".into() };
        let info = HubInfo { classes, modalities: vec![Modality::Rgb], pack, vote_window_s: 10, instance: None };
        let hub = Hub::new(info, Metrics::new(), clock.clone());
        let (stops_to, stops) = unbounded();
        let driver = Arc::new(Simulation {
            backlog: Backlog::new(),
            stops: stops_to,
            opened: Mutex::default(),
            retries: Mutex::default(),
            removed: Mutex::default(),
            sheds: Mutex::default(),
            hangs: AtomicBool::new(true),
        });
        let (commands_to, commands) = unbounded();
        let tools = ManagerDependencies {
            driver: driver.clone(),
            hub: hub.clone(),
            clock: clock.clone(),
            commands: commands_to,
            store: None,
            control: StreamControl::new().0,
            read: None,
            service_manager: ServiceManager::none(),
        };
        let manager = StreamManager::new(tools, rules, VoteConfig::default(), Fixed::default());
        let (votes, expectations, into, cut) = (Vec::new(), Vec::new(), BTreeMap::new(), Vec::new());
        Self { manager, driver, hub, clock, commands, stops, votes, expectations, into, cut, finished: false }
    }

    fn start(&mut self, streams: &[(&str, &str)]) -> Result<()> {
        self.start_with(settings(streams))
    }

    fn start_with(&mut self, streams: Vec<StreamSettings>) -> Result<()> {
        let initial = streams.into_iter().map(|settings| InitialStream {
            settings,
            origin: StreamOwner::Config,
            generation: None,
            restored: Restored::default(),
        });
        self.manager.add_initial(initial.collect())?;
        for id in std::mem::take(&mut self.manager.ids) {
            self.manager.reconcile(&id);
        }
        self.settle();
        Ok(())
    }

    /// Handles all available results of threads and commands for the publisher.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let mut is_quiet = true;
            while let Ok(done) = self.manager.done.try_recv() {
                self.manager.done(done);
                is_quiet = false;
            }
            while let Ok(command) = self.commands.try_recv() {
                is_quiet = false;
                self.execute(command);
            }
            // An opening thread may not have started yet.
            let opening = self.manager.entries.values().any(|e| matches!(e.phase, Phase::Opening { .. }));
            if is_quiet && !opening {
                quiet += 1;
            } else {
                std::thread::yield_now();
            }
        }
    }

    fn execute(&mut self, command: PublisherCommand) {
        match command {
            PublisherCommand::SetState(handle, state) => drop(handle.set_state(state)),
            PublisherCommand::EndsInto(queue, into) => drop(self.into.insert(queue, into)),
            PublisherCommand::Vote(_, vote) => self.votes.push(vote),
            PublisherCommand::Expect(_, expectations) => self.expectations.push(*expectations),
            PublisherCommand::Cut(queue) => self.cut.push(queue),
            PublisherCommand::Remove(handle) => {
                handle.set_state(StreamState::Removed);
                self.hub.remove_stream(handle.id());
                self.manager.gone(handle.id());
            }
            PublisherCommand::Finish => self.finished = true,
            PublisherCommand::Begin(_) | PublisherCommand::Forget(_) | PublisherCommand::Wake => {}
        }
    }

    /// Ends the sources that received a request to stop.
    fn end_stopped(&mut self) {
        while let Ok(queue) = self.stops.try_recv() {
            self.manager.over(queue, None);
        }
        self.settle();
    }

    fn submit(&mut self, wanted: StreamChange) -> oneshot::Receiver<StreamOutcome> {
        let outcome = self.send(wanted);
        self.settle();
        outcome
    }

    /// Sends a request without waiting for threads.
    fn send(&mut self, wanted: StreamChange) -> oneshot::Receiver<StreamOutcome> {
        let (answer, outcome) = oneshot::channel();
        self.manager.handle_request(StreamRequest { change: wanted, answer });
        outcome
    }

    /// Sends a request and waits for its outcome.
    fn outcome(&mut self, wanted: StreamChange) -> StreamOutcome {
        let mut outcome = self.submit(wanted);
        self.end_stopped();
        outcome.try_recv().expect("the request has an outcome")
    }

    fn refusal_kind(&mut self, wanted: StreamChange) -> StreamRefusalKind {
        self.outcome(wanted).expect_err("the request is refused").kind
    }

    fn opened(&self) -> Vec<String> {
        self.driver.opened.lock().iter().map(|(uri, _)| uri.clone()).collect()
    }

    fn queue(&self, id: &str) -> QueueId {
        self.manager.entries[id].phase.queue().expect("the stream runs")
    }

    fn state(&self, id: &str) -> StreamState {
        self.manager.entries[id].handle.state()
    }

    fn generation(&self, id: &str) -> u64 {
        self.hub.generation(id).unwrap()
    }

    fn reload(&mut self, streams: &[(&str, &str)]) {
        self.reload_settings(settings(streams));
    }

    fn reload_settings(&mut self, streams: Vec<StreamSettings>) {
        let reading =
            Reading { streams, vote: VoteConfig::default(), latency_ms: 200, retry: false, fixed: Fixed::default() };
        self.manager.read_done(Ok(reading));
        self.settle();
    }

    fn config(&self) -> serde_json::Value {
        serde_json::from_str(&self.manager.tools.control.config().json()).unwrap()
    }
}

fn settings(streams: &[(&str, &str)]) -> Vec<StreamSettings> {
    let file =
        |(id, uri): &(&str, &str)| StreamFile { id: Some((*id).into()), uri: (*uri).into(), ..StreamFile::default() };
    config::streams(streams.iter().map(file).collect()).unwrap()
}

fn add(text: &str) -> StreamChange {
    StreamChange::Add(Box::new(serde_json::from_str::<NewStream>(text).unwrap()))
}

fn change(id: &str, text: &str) -> StreamChange {
    StreamChange::Change {
        id: id.into(),
        patch: Box::new(serde_json::from_str::<StreamPatch>(text).unwrap()),
        generation: None,
    }
}

fn remove(id: &str) -> StreamChange {
    StreamChange::Remove { id: id.into(), generation: None }
}

#[test]
fn streams_are_added_and_removed_and_their_ids_can_be_reused() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    assert_eq!(bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)), Ok("b".into()));
    assert_eq!(bench.outcome(add(r#"{"uri": "rtsp://cam.example/c"}"#)), Ok("cam.example".into()));
    assert_eq!(bench.opened(), ["rtsp://h/a", "rtsp://h/b", "rtsp://cam.example/c"]);
    assert_eq!(bench.refusal_kind(add(r#"{"uri": "rtsp://h/d"}"#)), StreamRefusalKind::Limit);
    let queue = bench.queue("b");
    assert_eq!(bench.outcome(remove("b")), Ok("b".into()));
    assert_eq!(bench.into.get(&queue), Some(&StreamState::Removed));
    assert_eq!(*bench.driver.removed.lock(), [queue]);
    assert!(!bench.hub.has_stream("b") && bench.hub.has_stream("a"));
    assert_eq!(bench.refusal_kind(remove("b")), StreamRefusalKind::Unknown);
    assert_eq!(bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b2"}"#)), Ok("b".into()));
    assert_eq!(bench.opened().last().unwrap(), "rtsp://h/b2");
}

#[test]
fn invalid_requests_are_refused_and_change_nothing() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    for (wanted, kind) in [
        (add(r#"{"id": "b", "uri": "rtsp://h/x"}"#), StreamRefusalKind::Duplicate),
        (add(r#"{"id": "a", "uri": "rtsp://h/x"}"#), StreamRefusalKind::Duplicate),
        (add(r#"{"id": "c", "uri": "gopher://h/x"}"#), StreamRefusalKind::Invalid),
        (add(r#"{"id": "c", "uri": "rtsp://h/x", "vote": {"window": 0}}"#), StreamRefusalKind::Invalid),
        (add(r#"{"id": "c", "uri": "rtsp://h/x", "vote": {"stride": 11}}"#), StreamRefusalKind::Invalid),
        (add(r#"{"id": "c", "uri": "rtsp://h/refused"}"#), StreamRefusalKind::Source),
        (change("a", r#"{"label": "A"}"#), StreamRefusalKind::NotOwned),
        (remove("a"), StreamRefusalKind::NotOwned),
        (change("x", "{}"), StreamRefusalKind::Unknown),
    ] {
        let text = format!("{wanted:?}");
        assert_eq!(bench.refusal_kind(wanted), kind, "{text}");
    }
    assert_eq!(bench.manager.entries.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(!bench.hub.has_stream("c"), "a stream that could not be opened is removed");
}

#[test]
fn only_source_settings_reopen_the_source() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    let (queue, generation) = (bench.queue("b"), bench.generation("b"));
    bench.outcome(change("b", r#"{"label": "Court", "vote": {"window": 4}}"#)).unwrap();
    assert_eq!((bench.queue("b"), bench.votes.last().unwrap().window), (queue, 4));
    assert!(bench.generation("b") > generation, "the version changes");
    bench.outcome(change("b", r#"{"vote": null}"#)).unwrap();
    assert_eq!(bench.votes.last().unwrap().window, 10);
    bench.outcome(change("b", r#"{"latency_ms": 500}"#)).unwrap();
    assert_eq!(bench.into.get(&queue), Some(&StreamState::Connecting));
    assert_ne!(bench.queue("b"), queue);
    let shown: serde_json::Value = serde_json::from_str(&bench.hub.summary_json("b").unwrap()).unwrap();
    assert_eq!((&shown["settings"]["label"], &shown["settings"]["latency_ms"]), (&"Court".into(), &500.into()));
    assert_eq!((&shown["settings"]["origin"], &shown["settings"]["retry"]), (&"api".into(), &true.into()));
}

#[test]
fn two_operators_do_not_overwrite_each_other() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    let version = Some(bench.generation("b"));
    let patch = Box::new(StreamPatch { latency_ms: Some(LatencyMs::of::<300>()), ..StreamPatch::default() });
    let mine = StreamChange::Change { id: "b".into(), patch: patch.clone(), generation: version };
    assert_eq!(bench.outcome(mine), Ok("b".into()));
    let yours = StreamChange::Change { id: "b".into(), patch, generation: version };
    assert_eq!(bench.refusal_kind(yours), StreamRefusalKind::Outdated);
    assert_eq!(
        bench.refusal_kind(StreamChange::Remove { id: "b".into(), generation: version }),
        StreamRefusalKind::Outdated
    );
    // A second change is refused while one is in progress.
    let mut first = bench.submit(change("b", r#"{"latency_ms": 400}"#));
    assert_eq!(bench.manager.entries["b"].settings.latency_ms, 400);
    let mut second = bench.submit(remove("b"));
    assert_eq!(second.try_recv().unwrap().unwrap_err().kind, StreamRefusalKind::Busy);
    assert!(first.try_recv().is_err(), "it waits for the source's end");
    bench.end_stopped();
    assert_eq!(first.try_recv().unwrap(), Ok("b".into()));
}

#[test]
fn a_source_that_cannot_be_opened_is_replaced_by_the_previous_one() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    assert_eq!(bench.refusal_kind(change("b", r#"{"uri": "rtsp://h/refused"}"#)), StreamRefusalKind::Source);
    assert_eq!(bench.opened(), ["rtsp://h/b", "rtsp://h/b"], "the previous source is reopened");
    assert_eq!(bench.manager.entries["b"].settings.uri, "rtsp://h/b");
    bench.queue("b");
}

#[test]
fn a_stream_can_be_paused_and_resumed() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b", "enabled": false}"#)).unwrap();
    assert_eq!((bench.state("b"), bench.opened().len()), (StreamState::Paused, 0));
    bench.outcome(change("b", r#"{"enabled": true}"#)).unwrap();
    let queue = bench.queue("b");
    bench.outcome(change("b", r#"{"enabled": false}"#)).unwrap();
    assert_eq!((bench.into.get(&queue), bench.opened().len()), (Some(&StreamState::Paused), 1));
    bench.outcome(change("b", r#"{"uri": "rtsp://h/other"}"#)).unwrap();
    assert_eq!(bench.opened().len(), 1, "it is still paused");
    bench.outcome(change("b", r#"{"enabled": true}"#)).unwrap();
    assert_eq!(bench.opened().last().unwrap(), "rtsp://h/other");
    // A source that has ended is reopened only on request.
    let queue = bench.queue("b");
    bench.manager.over(queue, None);
    bench.settle();
    bench.outcome(change("b", r#"{"label": "B"}"#)).unwrap();
    assert_eq!(bench.opened().len(), 2);
    bench.outcome(change("b", r#"{"enabled": true}"#)).unwrap();
    assert_eq!(bench.opened().len(), 3);
}

#[test]
fn a_source_that_does_not_end_is_cut_off() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    let queue = bench.queue("b");
    let mut outcome = bench.submit(remove("b"));
    bench.clock.advance(CLOSE_MAX_NS - 1);
    bench.manager.check_deadlines();
    bench.settle();
    assert!(outcome.try_recv().is_err() && bench.cut.is_empty());
    bench.clock.advance(1);
    bench.manager.check_deadlines();
    bench.settle();
    assert_eq!((outcome.try_recv().unwrap(), &bench.cut), (Ok("b".into()), &vec![queue]));
    assert!(!bench.hub.has_stream("b"));
    // A late report is ignored.
    bench.manager.over(queue, None);
}

#[test]
fn the_program_ends_with_its_streams_unless_it_is_a_service() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "x.mp4"), ("b", "y.mp4")]).unwrap();
    let (a, b) = (bench.queue("a"), bench.queue("b"));
    bench.manager.over(a, Some(Error::source_error("x.mp4", "cut off", "copy it again")));
    assert!(bench.manager.ended().is_none(), "one stream still runs");
    bench.manager.over(b, None);
    let ended = bench.manager.ended().unwrap();
    assert!(!ended.stopped && ended.result.unwrap_err().to_string().contains("cut off"));
    bench.settle();
    assert!(bench.finished);

    let mut service = Bench::new(Rules { is_service: true, ..rules() });
    service.start(&[]).unwrap();
    assert!(service.manager.ended().is_none(), "streams may be added");
    let mut file = Bench::new(rules());
    file.start(&[("a", "x.mp4")]).unwrap();
    file.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    file.outcome(remove("b")).unwrap();
    let a = file.queue("a");
    file.manager.over(a, None);
    assert!(file.manager.ended().is_none(), "an operator who added one may add another");
}

#[test]
fn a_source_that_cannot_be_opened_at_the_start_ends_the_program() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a"), ("b", "rtsp://h/refused")]).unwrap();
    assert!(bench.manager.ended().is_none(), "the other stream is stopped first");
    bench.end_stopped();
    let ended = bench.manager.ended().unwrap();
    assert!(!ended.stopped && ended.result.unwrap_err().to_string().contains("element is missing"));
    let many = [("a", "rtsp://h/a"), ("b", "rtsp://h/b"), ("c", "rtsp://h/c"), ("d", "rtsp://h/d")];
    assert!(Bench::new(rules()).start(&many).unwrap_err().to_string().contains("--max-streams 3"));
}

#[test]
fn a_source_that_ends_while_it_is_opened_has_ended() {
    let mut bench = Bench::new(rules());
    let initial = settings(&[("a", "x.mp4")]).into_iter().map(|settings| InitialStream {
        settings,
        origin: StreamOwner::CommandLine,
        generation: None,
        restored: Restored::default(),
    });
    bench.manager.add_initial(initial.collect()).unwrap();
    bench.manager.reconcile("a");
    // The publisher reports before the opening thread.
    while bench.driver.opened.lock().is_empty() {
        std::thread::yield_now();
    }
    let queue = bench.driver.opened.lock()[0].1;
    bench.manager.over(queue, None);
    assert!(bench.manager.ended().is_none());
    bench.settle();
    assert!(bench.manager.ended().is_some_and(|ended| ended.result.is_ok()));
}

#[test]
fn all_sources_are_stopped_before_any_is_waited_for() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a"), ("b", "rtsp://h/b"), ("c", "rtsp://h/c")]).unwrap();
    bench.manager.stop(None);
    assert_eq!(bench.stops.len(), 3);
    let mut late = bench.submit(add(r#"{"uri": "rtsp://h/d"}"#));
    assert_eq!(late.try_recv().unwrap().unwrap_err().kind, StreamRefusalKind::NotReady);
    let a = bench.queue("a");
    bench.manager.over(a, None);
    bench.clock.advance(DRAIN_NS);
    bench.manager.check_deadlines();
    bench.manager.check_deadlines();
    assert_eq!(*bench.driver.sheds.lock(), 1, "waiting seconds become gaps once");
    assert!(bench.manager.ended().is_none(), "two sources have not ended");
    bench.clock.advance(STOP_MAX_NS - DRAIN_NS);
    bench.manager.check_deadlines();
    bench.settle();
    let ended = bench.manager.ended().expect("no source is waited for any longer");
    assert!(ended.stopped && ended.result.is_ok());
    bench.settle();
    assert!(bench.finished && matches!(bench.commands.try_recv(), Err(TryRecvError::Empty)));
}
