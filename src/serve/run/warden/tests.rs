//! The warden with simulated sources, a simulated clock and a simulated publishing thread.

mod later;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::TryRecvError;
use tokio::sync::oneshot;

use super::ending::{CLOSE_MAX_NS, DRAIN_NS, STOP_MAX_NS};
use super::*;
use crate::backlog::Backlog;
use crate::config;
use crate::config::{StreamFile, VoteFile};
use crate::metrics::Metrics;
use crate::publish::hub::HubInfo;
use crate::publish::streams::{NewStream, Outcome, RefusedKind, StreamPatch, Wanted};
use touchline_core::clock::ManualClock;
use touchline_core::decision::PackStamp;
use touchline_core::labels::{ClassSet, Modality};
use touchline_media::Source;

/// A source that ends when it is told to by the test.
struct Simulated {
    stops: Sender<LineId>,
    line: LineId,
}

impl Source for Simulated {
    fn pace(&self) -> Pace {
        Pace::Live
    }

    fn stop(&mut self) {
        self.stops.send(self.line).unwrap();
    }
}

/// Opens at once, or refuses what is called `refused`.
struct Simulation {
    backlog: Backlog,
    stops: Sender<LineId>,
    opened: Mutex<Vec<(String, LineId)>>,
    /// Whether each was to be tried again after a first attempt that fails.
    retries: Mutex<Vec<bool>>,
    removed: Mutex<Vec<LineId>>,
    sheds: Mutex<u32>,
    /// What is called `hangs` is not opened as long as this is true.
    hangs: AtomicBool,
}

impl Hands for Simulation {
    fn open(&self, order: Order) -> Result<Opened> {
        order.handle.set_source(&order.settings.uri, Pace::Live);
        if order.settings.uri.contains("refused") {
            return Err(Error::source_error(order.settings.uri, "the element is missing", "install it"));
        }
        while order.settings.uri.contains("hangs") && self.hangs.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let line = self.backlog.add_line(Pace::Live);
        self.retries.lock().unwrap().push(order.retry);
        self.opened.lock().unwrap().push((order.settings.uri.clone(), line));
        Ok(Opened { line, source: Box::new(Simulated { stops: self.stops.clone(), line }) })
    }

    fn remove_line(&self, line: LineId) {
        self.removed.lock().unwrap().push(line);
    }

    fn shed_all(&self) {
        *self.sheds.lock().unwrap() += 1;
    }
}

/// A warden whose every step the test takes.
struct Bench {
    warden: Warden<Simulation>,
    hands: Arc<Simulation>,
    hub: Hub,
    clock: Arc<ManualClock>,
    commands: Receiver<Command>,
    stops: Receiver<LineId>,
    /// Commands that were no stops.
    votes: Vec<VoteConfig>,
    into: BTreeMap<LineId, StreamState>,
    cut: Vec<LineId>,
    finished: bool,
}

fn rules() -> Rules {
    Rules { max_streams: 3, retry: false, latency_ms: 200, is_service: false, lingers: false }
}

impl Bench {
    fn new(rules: Rules) -> Self {
        let clock = Arc::new(ManualClock::default());
        let classes = ClassSet::new(["tennis", "other"].map(String::from).to_vec()).unwrap();
        let pack = PackStamp { name: "p".into(), weights_sha256: "a".into(), manifest_sha256: "b".into() };
        let info = HubInfo { classes, modalities: vec![Modality::Rgb], pack, vote_window_s: 10 };
        let hub = Hub::new(info, Metrics::new(), clock.clone());
        let (stops_to, stops) = unbounded();
        let hands = Arc::new(Simulation {
            backlog: Backlog::new(),
            stops: stops_to,
            opened: Mutex::default(),
            retries: Mutex::default(),
            removed: Mutex::default(),
            sheds: Mutex::default(),
            hangs: AtomicBool::new(true),
        });
        let (commands_to, commands) = unbounded();
        let tools = Tools {
            hands: hands.clone(),
            hub: hub.clone(),
            clock: clock.clone(),
            commands: commands_to,
            store: None,
            desk: StreamDesk::new().0,
            read: None,
            manager: Manager::none(),
        };
        let warden = Warden::new(tools, rules, VoteConfig::default(), Fixed::default());
        let (votes, into, cut) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { warden, hands, hub, clock, commands, stops, votes, into, cut, finished: false }
    }

    fn start(&mut self, streams: &[(&str, &str)]) -> Result<()> {
        self.start_with(settings(streams))
    }

    fn start_with(&mut self, streams: Vec<StreamSettings>) -> Result<()> {
        let initial = streams.into_iter().map(|settings| Initial {
            settings,
            origin: Origin::Config,
            generation: None,
            restored: Restored::default(),
        });
        self.warden.take_up(initial.collect())?;
        for id in std::mem::take(&mut self.warden.ids) {
            self.warden.reconcile(&id);
        }
        self.settle();
        Ok(())
    }

    /// Lets everything happen that needs nobody else: threads finish, the publishing thread does as it is told.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            let mut is_quiet = true;
            while let Ok(done) = self.warden.done.try_recv() {
                self.warden.done(done);
                is_quiet = false;
            }
            while let Ok(command) = self.commands.try_recv() {
                is_quiet = false;
                self.obey(command);
            }
            // A thread that opens may not have begun.
            let opening = self.warden.entries.values().any(|e| matches!(e.phase, Phase::Opening { .. }));
            if is_quiet && !opening {
                quiet += 1;
            } else {
                std::thread::yield_now();
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Say(handle, state) => drop(handle.set_state(state)),
            Command::EndsInto(line, into) => drop(self.into.insert(line, into)),
            Command::Vote(_, vote) => self.votes.push(vote),
            Command::Cut(line) => self.cut.push(line),
            Command::Remove(handle) => {
                handle.set_state(StreamState::Removed);
                self.hub.remove_stream(handle.id());
                self.warden.gone(handle.id());
            }
            Command::Finish => self.finished = true,
            Command::Begin(_) | Command::Forget(_) | Command::Turn => {}
        }
    }

    /// The sources that were told to stop come to their ends.
    fn end_stopped(&mut self) {
        while let Ok(line) = self.stops.try_recv() {
            self.warden.over(line, None);
        }
        self.settle();
    }

    fn ask(&mut self, wanted: Wanted) -> oneshot::Receiver<Outcome> {
        let outcome = self.begin(wanted);
        self.settle();
        outcome
    }

    /// Asks; whatever takes a thread has not happened yet.
    fn begin(&mut self, wanted: Wanted) -> oneshot::Receiver<Outcome> {
        let (answer, outcome) = oneshot::channel();
        self.warden.asked(StreamAsk { wanted, answer });
        outcome
    }

    /// Asks and lets everything happen.
    fn outcome(&mut self, wanted: Wanted) -> Outcome {
        let mut outcome = self.ask(wanted);
        self.end_stopped();
        outcome.try_recv().expect("it is answered")
    }

    fn kind(&mut self, wanted: Wanted) -> RefusedKind {
        self.outcome(wanted).expect_err("it is refused").kind
    }

    fn opened(&self) -> Vec<String> {
        self.hands.opened.lock().unwrap().iter().map(|(uri, _)| uri.clone()).collect()
    }

    fn line(&self, id: &str) -> LineId {
        self.warden.entries[id].phase.line().expect("it runs")
    }

    fn state(&self, id: &str) -> StreamState {
        self.warden.entries[id].handle.state()
    }

    fn generation(&self, id: &str) -> u64 {
        self.hub.generation(id).unwrap()
    }

    fn read(&mut self, streams: &[(&str, &str)]) {
        self.read_settings(settings(streams));
    }

    fn read_settings(&mut self, streams: Vec<StreamSettings>) {
        let reading =
            Reading { streams, vote: VoteConfig::default(), latency_ms: 200, retry: false, fixed: Fixed::default() };
        self.warden.has_read(Ok(reading));
        self.settle();
    }

    fn config(&self) -> serde_json::Value {
        serde_json::from_str(&self.warden.tools.desk.config().json()).unwrap()
    }
}

fn settings(streams: &[(&str, &str)]) -> Vec<StreamSettings> {
    let file =
        |(id, uri): &(&str, &str)| StreamFile { id: Some((*id).into()), uri: (*uri).into(), ..StreamFile::default() };
    config::streams(streams.iter().map(file).collect()).unwrap()
}

fn add(text: &str) -> Wanted {
    Wanted::Add(serde_json::from_str::<NewStream>(text).unwrap())
}

fn change(id: &str, text: &str) -> Wanted {
    Wanted::Change {
        id: id.into(),
        patch: Box::new(serde_json::from_str::<StreamPatch>(text).unwrap()),
        generation: None,
    }
}

fn remove(id: &str) -> Wanted {
    Wanted::Remove { id: id.into(), generation: None }
}

#[test]
fn streams_come_and_go_and_their_names_are_free_again() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    assert_eq!(bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)), Ok("b".into()));
    assert_eq!(bench.outcome(add(r#"{"uri": "rtsp://cam.example/c"}"#)), Ok("cam.example".into()));
    assert_eq!(bench.opened(), ["rtsp://h/a", "rtsp://h/b", "rtsp://cam.example/c"]);
    assert_eq!(bench.kind(add(r#"{"uri": "rtsp://h/d"}"#)), RefusedKind::Limit);
    let line = bench.line("b");
    assert_eq!(bench.outcome(remove("b")), Ok("b".into()));
    assert_eq!(bench.into.get(&line), Some(&StreamState::Removed));
    assert_eq!(*bench.hands.removed.lock().unwrap(), [line]);
    assert!(!bench.hub.has_stream("b") && bench.hub.has_stream("a"));
    assert_eq!(bench.kind(remove("b")), RefusedKind::Unknown);
    assert_eq!(bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b2"}"#)), Ok("b".into()));
    assert_eq!(bench.opened().last().unwrap(), "rtsp://h/b2");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a")]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    for (wanted, kind) in [
        (add(r#"{"id": "b", "uri": "rtsp://h/x"}"#), RefusedKind::Duplicate),
        (add(r#"{"id": "a", "uri": "rtsp://h/x"}"#), RefusedKind::Duplicate),
        (add(r#"{"id": "c", "uri": "gopher://h/x"}"#), RefusedKind::Invalid),
        (add(r#"{"id": "c", "uri": "rtsp://h/x", "vote": {"window": 0}}"#), RefusedKind::Invalid),
        (add(r#"{"id": "c", "uri": "rtsp://h/x", "vote": {"stride": 11}}"#), RefusedKind::Invalid),
        (add(r#"{"id": "c", "uri": "rtsp://h/refused"}"#), RefusedKind::Source),
        (change("a", r#"{"label": "A"}"#), RefusedKind::NotOwned),
        (remove("a"), RefusedKind::NotOwned),
        (change("x", "{}"), RefusedKind::Unknown),
    ] {
        let said = format!("{wanted:?}");
        assert_eq!(bench.kind(wanted), kind, "{said}");
    }
    assert_eq!(bench.warden.entries.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert!(!bench.hub.has_stream("c"), "a stream that could not be opened leaves nothing behind");
}

#[test]
fn only_what_concerns_the_source_opens_it_anew() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    let (line, generation) = (bench.line("b"), bench.generation("b"));
    bench.outcome(change("b", r#"{"label": "Court", "vote": {"window": 4}}"#)).unwrap();
    assert_eq!((bench.line("b"), bench.votes.last().unwrap().window), (line, 4));
    assert!(bench.generation("b") > generation, "another version");
    bench.outcome(change("b", r#"{"vote": null}"#)).unwrap();
    assert_eq!(bench.votes.last().unwrap().window, 10);
    bench.outcome(change("b", r#"{"latency_ms": 500}"#)).unwrap();
    assert_eq!(bench.into.get(&line), Some(&StreamState::Connecting));
    assert_ne!(bench.line("b"), line);
    let shown: serde_json::Value = serde_json::from_str(&bench.hub.summary_json("b").unwrap()).unwrap();
    assert_eq!((&shown["settings"]["label"], &shown["settings"]["latency_ms"]), (&"Court".into(), &500.into()));
    assert_eq!((&shown["settings"]["origin"], &shown["settings"]["retry"]), (&"api".into(), &true.into()));
}

#[test]
fn two_operators_do_not_overwrite_each_other() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    let seen = Some(bench.generation("b"));
    let patch = Box::new(StreamPatch { latency_ms: Some(300), ..StreamPatch::default() });
    let mine = Wanted::Change { id: "b".into(), patch: patch.clone(), generation: seen };
    assert_eq!(bench.outcome(mine), Ok("b".into()));
    let yours = Wanted::Change { id: "b".into(), patch, generation: seen };
    assert_eq!(bench.kind(yours), RefusedKind::Outdated);
    assert_eq!(bench.kind(Wanted::Remove { id: "b".into(), generation: seen }), RefusedKind::Outdated);
    // While a change is under way there is no second one.
    let mut first = bench.ask(change("b", r#"{"latency_ms": 400}"#));
    assert_eq!(bench.warden.entries["b"].settings.latency_ms, 400);
    let mut second = bench.ask(remove("b"));
    assert_eq!(second.try_recv().unwrap().unwrap_err().kind, RefusedKind::Busy);
    assert!(first.try_recv().is_err(), "it waits for the source's end");
    bench.end_stopped();
    assert_eq!(first.try_recv().unwrap(), Ok("b".into()));
}

#[test]
fn a_source_that_cannot_be_opened_gives_way_to_the_one_before() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    assert_eq!(bench.kind(change("b", r#"{"uri": "rtsp://h/refused"}"#)), RefusedKind::Source);
    assert_eq!(bench.opened(), ["rtsp://h/b", "rtsp://h/b"], "the old one runs again");
    assert_eq!(bench.warden.entries["b"].settings.uri, "rtsp://h/b");
    bench.line("b");
}

#[test]
fn a_stream_can_be_paused_and_taken_up_again() {
    let mut bench = Bench::new(rules());
    bench.start(&[]).unwrap();
    bench.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b", "enabled": false}"#)).unwrap();
    assert_eq!((bench.state("b"), bench.opened().len()), (StreamState::Paused, 0));
    bench.outcome(change("b", r#"{"enabled": true}"#)).unwrap();
    let line = bench.line("b");
    bench.outcome(change("b", r#"{"enabled": false}"#)).unwrap();
    assert_eq!((bench.into.get(&line), bench.opened().len()), (Some(&StreamState::Paused), 1));
    bench.outcome(change("b", r#"{"uri": "rtsp://h/other"}"#)).unwrap();
    assert_eq!(bench.opened().len(), 1, "it is still paused");
    bench.outcome(change("b", r#"{"enabled": true}"#)).unwrap();
    assert_eq!(bench.opened().last().unwrap(), "rtsp://h/other");
    // A source that came to its end by itself is opened by name only.
    let line = bench.line("b");
    bench.warden.over(line, None);
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
    let line = bench.line("b");
    let mut outcome = bench.ask(remove("b"));
    bench.clock.advance(CLOSE_MAX_NS - 1);
    bench.warden.look();
    bench.settle();
    assert!(outcome.try_recv().is_err() && bench.cut.is_empty());
    bench.clock.advance(1);
    bench.warden.look();
    bench.settle();
    assert_eq!((outcome.try_recv().unwrap(), &bench.cut), (Ok("b".into()), &vec![line]));
    assert!(!bench.hub.has_stream("b"));
    // What it says after all is nobody's.
    bench.warden.over(line, None);
}

#[test]
fn it_ends_with_its_streams_unless_somebody_counts_on_it() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "x.mp4"), ("b", "y.mp4")]).unwrap();
    let (a, b) = (bench.line("a"), bench.line("b"));
    bench.warden.over(a, Some(Error::source_error("x.mp4", "cut off", "copy it again")));
    assert!(bench.warden.ended().is_none(), "one still runs");
    bench.warden.over(b, None);
    let ended = bench.warden.ended().unwrap();
    assert!(!ended.stopped && ended.result.unwrap_err().to_string().contains("cut off"));
    bench.settle();
    assert!(bench.finished);

    let mut service = Bench::new(Rules { is_service: true, ..rules() });
    service.start(&[]).unwrap();
    assert!(service.warden.ended().is_none(), "streams may come");
    let mut file = Bench::new(rules());
    file.start(&[("a", "x.mp4")]).unwrap();
    file.outcome(add(r#"{"id": "b", "uri": "rtsp://h/b"}"#)).unwrap();
    file.outcome(remove("b")).unwrap();
    let a = file.line("a");
    file.warden.over(a, None);
    assert!(file.warden.ended().is_none(), "whoever added one may add another");
}

#[test]
fn what_cannot_be_opened_at_the_start_ends_the_program() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a"), ("b", "rtsp://h/refused")]).unwrap();
    assert!(bench.warden.ended().is_none(), "the other one is stopped first");
    bench.end_stopped();
    let ended = bench.warden.ended().unwrap();
    assert!(!ended.stopped && ended.result.unwrap_err().to_string().contains("element is missing"));
    let many = [("a", "rtsp://h/a"), ("b", "rtsp://h/b"), ("c", "rtsp://h/c"), ("d", "rtsp://h/d")];
    assert!(Bench::new(rules()).start(&many).unwrap_err().to_string().contains("--max-streams 3"));
}

#[test]
fn a_source_that_ends_at_once_is_at_its_end() {
    let mut bench = Bench::new(rules());
    let initial = settings(&[("a", "x.mp4")]).into_iter().map(|settings| Initial {
        settings,
        origin: Origin::CommandLine,
        generation: None,
        restored: Restored::default(),
    });
    bench.warden.take_up(initial.collect()).unwrap();
    bench.warden.reconcile("a");
    // Told by the publishing thread before the thread that opened it is through.
    while bench.hands.opened.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    let line = bench.hands.opened.lock().unwrap()[0].1;
    bench.warden.over(line, None);
    assert!(bench.warden.ended().is_none());
    bench.settle();
    assert!(bench.warden.ended().is_some_and(|ended| ended.result.is_ok()));
}

#[test]
fn all_sources_are_told_to_stop_before_any_is_waited_for() {
    let mut bench = Bench::new(rules());
    bench.start(&[("a", "rtsp://h/a"), ("b", "rtsp://h/b"), ("c", "rtsp://h/c")]).unwrap();
    bench.warden.stop(None);
    assert_eq!(bench.stops.len(), 3);
    let mut late = bench.ask(add(r#"{"uri": "rtsp://h/d"}"#));
    assert_eq!(late.try_recv().unwrap().unwrap_err().kind, RefusedKind::NotReady);
    let a = bench.line("a");
    bench.warden.over(a, None);
    bench.clock.advance(DRAIN_NS);
    bench.warden.look();
    bench.warden.look();
    assert_eq!(*bench.hands.sheds.lock().unwrap(), 1, "what waits becomes gaps, once");
    assert!(bench.warden.ended().is_none(), "two are not at their ends");
    bench.clock.advance(STOP_MAX_NS - DRAIN_NS);
    bench.warden.look();
    bench.settle();
    let ended = bench.warden.ended().expect("nobody is waited for any longer");
    assert!(ended.stopped && ended.result.is_ok());
    bench.settle();
    assert!(bench.finished && matches!(bench.commands.try_recv(), Err(TryRecvError::Empty)));
}
