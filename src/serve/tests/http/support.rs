//! A server on a free port with synthetic seconds, for the tests of the API and of the page.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::Receiver;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use touchline_core::clip::{Absent, FrameShare, Gap, GapReason};
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::decision::{
    Decision, DecisionReason, Event, EventKind, ModalityScores, PackStamp, PerModality, SecondOutcome,
    SecondPrediction, WindowEstimate,
};
use touchline_core::expectation::{Expected, Watch};
use touchline_core::frame::Frame;
use touchline_core::item::Pace;
use touchline_core::labels::{ClassId, ClassSet, Modality, STUDY_CLASSES};
use touchline_core::pool::Pooled;
use touchline_core::segment::{RecordedSecond, Segment, SegmentCloser};
use touchline_core::tier::DecodeTier;
use touchline_core::time::{Pts, RunId, WallSource, WallTime};
use touchline_serve::http;
use touchline_serve::http::access::{Access, AccessConfig};
use touchline_serve::http::server::Limits;
use touchline_serve::http::tls::Tls;
use touchline_serve::http::{Serving, StreamAccess};
use touchline_serve::hub::{Hub, HubInfo, PosterBook, StreamHandle, StreamInfo};
use touchline_serve::metrics::Metrics;
use touchline_serve::record::Published;
use touchline_serve::teach::TeachAccess;

/// The system clock, which can be set back to publish seconds in the past.
#[derive(Default)]
pub struct PastClock {
    system: SystemClock,
    back_ns: AtomicI64,
}

impl PastClock {
    pub fn set_back(&self, by: Duration) {
        self.back_ns.store(by.as_nanos() as i64, Ordering::Relaxed);
    }
}

impl Clock for PastClock {
    fn mono_ns(&self) -> u64 {
        self.system.mono_ns()
    }

    fn unix_ns(&self) -> i64 {
        self.system.unix_ns() - self.back_ns.load(Ordering::Relaxed)
    }

    fn sleep_until_stopped(&self, how_long: Duration, stop: &Receiver<Infallible>) {
        self.system.sleep_until_stopped(how_long, stop);
    }
}

/// The study's classes and `other`.
pub fn classes() -> ClassSet {
    ClassSet::new(STUDY_CLASSES.iter().copied().chain(["other"]).map(String::from).collect()).unwrap()
}

/// The pack that decides.
pub fn stamp() -> PackStamp {
    PackStamp {
        name: "compact".into(),
        weights_sha256: "3f7a9c52d1e84b06".into(),
        manifest_sha256: "9d01c7aa40be5512".into(),
    }
}

pub fn new_hub() -> (Hub, Arc<PastClock>) {
    let clock = Arc::new(PastClock::default());
    let info = HubInfo {
        classes: classes(),
        modalities: Modality::ALL.to_vec(),
        pack: stamp(),
        vote_window_s: 10,
        instance: None,
    };
    let hub = Hub::new(info, Metrics::new(), clock.clone());
    hub.set_ready(true);
    (hub, clock)
}

pub fn add(hub: &Hub, id: &str, uri: &str) -> StreamHandle {
    hub.add_stream(StreamInfo { id: id.into(), uri: uri.into(), pace: Pace::Live }).unwrap()
}

/// What can be changed.
#[derive(Default)]
struct Parts {
    streams: Option<StreamAccess>,
    teach: Option<TeachAccess>,
}

/// A running server. Dropping it stops it.
pub struct Server {
    pub url: String,
    pub access: Arc<Access>,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Server {
    pub fn start(hub: Hub) -> Self {
        Self::start_at(hub, "127.0.0.1:0")
    }

    pub fn start_at(hub: Hub, address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let access = AccessConfig::default();
        Self::start_in(runtime, hub, address, (access, Parts::default()), None, Limits::default())
    }

    /// Starts a server with tokens, TLS and limits.
    pub fn start_with(hub: Hub, access: AccessConfig, tls: Option<Arc<Tls>>, limits: Limits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self::start_in(runtime, hub, "127.0.0.1:0", (access, Parts::default()), tls, limits)
    }

    /// Starts a server whose streams can be changed.
    pub fn start_with_streams(hub: Hub, access: AccessConfig, streams: StreamAccess) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let parts = Parts { streams: Some(streams), teach: None };
        Self::start_in(runtime, hub, "127.0.0.1:0", (access, parts), None, Limits::default())
    }

    /// Starts a server whose seconds can be corrected.
    pub fn start_with_teach(hub: Hub, access: AccessConfig, teach: TeachAccess) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let parts = Parts { streams: None, teach: Some(teach) };
        Self::start_in(runtime, hub, "127.0.0.1:0", (access, parts), None, Limits::default())
    }

    fn start_in(
        runtime: Runtime,
        hub: Hub,
        address: &str,
        (access, Parts { streams, teach }): (AccessConfig, Parts),
        tls: Option<Arc<Tls>>,
        limits: Limits,
    ) -> Self {
        let listener = runtime.block_on(http::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("{}://{address}", if tls.is_some() { "https" } else { "http" });
        let access = Arc::new(Access::new(access, address, hub.clock().clone(), hub.metrics().clone()).unwrap());
        let (stop, stopped) = oneshot::channel();
        let serving = Serving { packs: None, streams, clips: None, teach, access: access.clone(), tls, limits };
        let task = runtime.spawn(http::serve_with(listener, hub, serving, async {
            let _ = stopped.await;
        }));
        Self { url, access, runtime: Some(runtime), stop: Some(stop), task: Some(task) }
    }

    /// `127.0.0.1:port`
    pub fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    /// Stops the server as the program does. Panics if the server's task failed.
    pub fn stop(&mut self) {
        let _ = self.stop.take().expect("stopped once").send(());
        let task = self.task.take().unwrap();
        self.runtime.as_ref().unwrap().block_on(task).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.stop.is_some() {
            self.stop();
        }
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// One second of a script.
#[derive(Clone, Copy)]
pub enum Shot {
    /// A class, and its probability.
    On(&'static str, f32),
    /// The same, decided by sound.
    Sound(&'static str, f32),
    /// The same, from a stream without sound.
    Silent(&'static str, f32),
    Gap(GapReason),
    /// The stream is opened again; the next second begins a run.
    Reconnect,
}

/// Generates seconds, estimates over ten seconds, and events, as the decision chain does.
pub struct Script {
    classes: ClassSet,
    run: u32,
    index: u64,
    window: VecDeque<Option<(ClassId, Vec<f32>)>>,
    on: Option<ClassId>,
    noise: u32,
    pub pack: Arc<PackStamp>,
    closer: SegmentCloser,
    watch: Watch,
    /// What is expected, with a patience of 60 s.
    pub expected: Expected,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            classes: classes(),
            run: 0,
            index: 0,
            window: VecDeque::new(),
            on: None,
            noise: 9,
            pack: Arc::new(stamp()),
            closer: SegmentCloser::default(),
            watch: Watch::default(),
            expected: Expected::default(),
        }
    }
}

impl Script {
    /// The next second; `None` for a reconnect.
    pub fn next(&mut self, shot: Shot, unix_ns: i64) -> Option<Published> {
        let (name, sure, by) = match shot {
            Shot::On(name, sure) => (name, sure, Modality::Rgb),
            Shot::Sound(name, sure) => (name, sure, Modality::Audio),
            Shot::Silent(name, sure) => (name, sure, Modality::Rgb),
            Shot::Reconnect => {
                (self.run, self.index) = (self.run + 1, 0);
                return None;
            }
            Shot::Gap(reason) => {
                let outcome = SecondOutcome::Gap(Gap::new(RunId(self.run), self.index, reason));
                return Some(self.publish(outcome, None, if reason == GapReason::Overload { 2 } else { 0 }, unix_ns));
            }
        };
        let label = self.classes.id(name).expect("a class of the study");
        let mut modality = |sure: f32, voters: u32| {
            // Every class has a few rivals of its own, which share most of the remaining probability.
            let mut rivals = u32::from(label.0) * 7919;
            let mut scores: Vec<f32> = (0..self.classes.len())
                .map(|_| 0.002 + next_noise(&mut rivals).powi(9) * (0.3 + next_noise(&mut self.noise)))
                .collect();
            scores[label.index()] = 0.0;
            let rest: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|s| *s *= (1.0 - sure) / rest);
            scores[label.index()] = sure;
            let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
            let votes = ((scores[best] * voters as f32).round() as u32).clamp(1, voters);
            ModalityScores { scores, label: ClassId(best as u16), votes, voters }
        };
        let wobble = |sure: f32, noise: f32| (sure + (noise - 0.5) * 0.08).clamp(0.02, 0.995);
        let rgb = modality(wobble(sure, 0.7), 5);
        let flow = modality(wobble(sure * 0.72, 0.2), 4);
        let audio = modality(wobble(if by == Modality::Audio { sure } else { sure * 0.6 }, 0.4), 1);
        let probabilities = if by == Modality::Audio { audio.scores.clone() } else { rgb.scores.clone() };
        let silent = matches!(shot, Shot::Silent(..));
        let second = SecondPrediction {
            run: RunId(self.run),
            index: self.index,
            scores: PerModality { rgb: Some(rgb), flow: Some(flow), audio: (!silent).then_some(audio) },
            absent: PerModality { audio: silent.then_some(Absent::NoTrack), ..PerModality::default() },
            decision: Decision {
                label,
                probability: probabilities[label.index()],
                modality: by,
                why: if by == Modality::Audio { DecisionReason::Table } else { DecisionReason::Default },
                probabilities,
            },
            known_from: 0.0,
            frame_share: FrameShare::ALL,
            tier: DecodeTier::Full,
            pack: self.pack.clone(),
            wall: WallTime { unix_ns, source: WallSource::Arrival, uncertainty_ns: 0 },
            timecode: None,
            arrived_ns: 0,
        };
        let latency_ns = 540_000_000 + (next_noise(&mut self.noise) * 2e8) as u64;
        Some(self.publish(SecondOutcome::Predicted(second), Some(latency_ns), 0, unix_ns))
    }

    /// The segment that is not closed.
    pub fn open_segment(&self) -> Option<Segment> {
        self.closer.open()
    }

    fn publish(&mut self, outcome: SecondOutcome, latency_ns: Option<u64>, backlog: u32, unix_ns: i64) -> Published {
        self.window.push_back(match &outcome {
            SecondOutcome::Predicted(s) => Some((s.decision.label, s.decision.probabilities.clone())),
            SecondOutcome::Gap(_) => None,
        });
        if self.window.len() > 10 {
            self.window.pop_front();
        }
        let seconds: Vec<_> = self.window.iter().flatten().collect();
        let n = seconds.len();
        let (mut share, mut mean) = (vec![0.0; self.classes.len()], vec![0.0; self.classes.len()]);
        for (label, probabilities) in &seconds {
            share[label.index()] += 1.0 / n as f32;
            for (sum, p) in mean.iter_mut().zip(probabilities) {
                *sum += p / n as f32;
            }
        }
        let best = |a: &usize, b: &usize| share[*a].total_cmp(&share[*b]).then(mean[*a].total_cmp(&mean[*b]));
        let label = ClassId((0..share.len()).max_by(best).unwrap() as u16);
        let (run, index) = (outcome.run(), outcome.index());
        let event = |kind, class: ClassId, mean: &[f32]| Event {
            kind,
            class,
            run,
            index,
            probability: mean[class.index()],
            reason: None,
        };
        let mut events = Vec::new();
        if let Some(on) = self.on.filter(|on| mean[on.index()] < 0.35) {
            events.push(event(EventKind::Offset, on, &mean));
            self.on = None;
        }
        if self.on.is_none() && mean[label.index()] > 0.6 && self.classes.name(label) != "other" {
            events.push(event(EventKind::Onset, label, &mean));
            self.on = Some(label);
        }
        self.index += 1;
        let (seconds, gaps) = (n as u32, (self.window.len() - n) as u32);
        let estimate = WindowEstimate { share, mean, label, seconds, gaps, known_from: 0.3 };
        let watched = self.watch.take(self.expected.clone(), 60, (&outcome, &estimate), self.on.into_iter());
        let segments = Vec::new();
        let mut published = Published { outcome, estimate, events, segments, watched, latency_ns, backlog };
        let second = RecordedSecond { wall_ns: Some(unix_ns), ..published.recorded() };
        published.segments = self.closer.push(second, seconds + gaps);
        published.events.iter().for_each(|event| self.closer.event(event));
        published
    }
}

/// 0..1, from a linear congruential generator: the same noise in every run.
fn next_noise(state: &mut u32) -> f32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 8) as f32 / (1 << 24) as f32
}

/// Ten minutes of an afternoon of sport, ending in tennis.
pub fn afternoon() -> Vec<Shot> {
    let mut shots = Vec::new();
    let mut add = |shot: Shot, seconds: usize| shots.extend(std::iter::repeat_n(shot, seconds));
    add(Shot::On("soccer", 0.9), 96);
    add(Shot::On("other", 0.7), 24);
    add(Shot::On("soccer", 0.87), 58);
    add(Shot::Gap(GapReason::Overload), 6);
    add(Shot::On("soccer", 0.8), 24);
    add(Shot::On("other", 0.66), 17);
    add(Shot::Sound("badminton", 0.82), 85);
    add(Shot::On("tabletennis", 0.58), 4);
    add(Shot::Sound("badminton", 0.79), 22);
    add(Shot::Gap(GapReason::NoMedia), 9);
    add(Shot::Reconnect, 1);
    add(Shot::On("other", 0.6), 15);
    add(Shot::On("basketball", 0.85), 74);
    add(Shot::On("volleyball", 0.5), 5);
    add(Shot::On("basketball", 0.83), 38);
    add(Shot::On("other", 0.71), 20);
    add(Shot::On("tennis", 0.86), 60);
    add(Shot::On("tabletennis", 0.52), 3);
    add(Shot::On("tennis", 0.89), 41);
    shots
}

/// Publishes `shots` as the most recent seconds. Returns the script, with which the test can continue.
pub fn feed(stream: &StreamHandle, clock: &PastClock, shots: &[Shot]) -> Script {
    feed_script(stream, clock, shots, Script::default())
}

/// As [`feed`], with the seconds of `script`.
pub fn feed_script(stream: &StreamHandle, clock: &PastClock, shots: &[Shot], mut script: Script) -> Script {
    for (i, shot) in shots.iter().enumerate() {
        clock.set_back(Duration::from_secs((shots.len() - i) as u64));
        step(stream, clock, &mut script, *shot);
    }
    clock.set_back(Duration::ZERO);
    script
}

/// Publishes one second.
pub fn step(stream: &StreamHandle, clock: &PastClock, script: &mut Script, shot: Shot) {
    if let Some(published) = script.next(shot, clock.unix_ns() - 1_000_000_000) {
        stream.publish(&published);
    }
}

/// As [`step`], and offers a picture of the second for the segments.
pub fn step_with_poster(hub: &Hub, stream: &StreamHandle, clock: &PastClock, script: &mut Script, shot: Shot) {
    let Some(published) = script.next(shot, clock.unix_ns() - 1_000_000_000) else { return };
    let book = hub.posters(stream.id()).unwrap();
    if let SecondOutcome::Predicted(second) = &published.outcome
        && book.wants(second)
    {
        let t = (second.index % 37) as f32 / 37.0;
        book.put(second, PosterBook::picture(&court(t)).unwrap());
    }
    stream.publish(&published);
}

/// A drawing of a tennis court from the stand, with two players and a ball that moves with `t` (0..1).
pub fn court(t: f32) -> Frame {
    let (width, height) = (768_usize, 432_usize);
    let at = |x: usize, y: usize| (x as f32 / width as f32, y as f32 / height as f32);
    // Everything but the ball, drawn once.
    static COURT: OnceLock<Vec<u8>> = OnceLock::new();
    let court = COURT.get_or_init(|| {
        let pixel = |i: usize| at(i % width, i / width);
        (0..width * height).map(pixel).flat_map(|(u, v)| court_pixel(u, v)).collect()
    });
    let mut data = court.clone();
    let ball = (0.5 + 0.2 * (t * 6.0).sin(), 0.46 + 0.28 * (t * 9.0).cos().abs());
    let radius = (0.006, 0.0107);
    let span = |centre: f32, radius: f32, size: usize| {
        ((centre - radius) * size as f32) as usize..=((centre + radius) * size as f32) as usize
    };
    for y in span(ball.1, radius.1, height) {
        for x in span(ball.0, radius.0, width) {
            let (u, v) = at(x, y);
            if ((u - ball.0) / radius.0).powi(2) + ((v - ball.1) / radius.1).powi(2) < 1.0 {
                data[(y * width + x) * 3..][..3].copy_from_slice(&[225, 240, 70]);
            }
        }
    }
    Frame::new(Pooled::detached(data), width as u32, height as u32, Pts(0), 0)
}

fn court_pixel(u: f32, v: f32) -> [u8; 3] {
    let shade = |c: [f32; 3], f: f32| c.map(|x| (x * f).clamp(0.0, 255.0) as u8);
    let inside = |cx: f32, cy: f32, rx: f32, ry: f32| ((u - cx) / rx).powi(2) + ((v - cy) / ry).powi(2) < 1.0;
    let horizon = 0.2;
    for (cx, cy, size, shirt) in [(0.44, 0.27, 0.55, [235.0, 235.0, 240.0]), (0.6, 0.8, 1.0, [200.0, 60.0, 50.0])] {
        if inside(cx, cy - 0.07 * size, 0.011 * size, 0.021 * size) {
            return [205, 165, 135];
        }
        if inside(cx, cy, 0.02 * size, 0.052 * size) {
            return shade(shirt, 1.0);
        }
        if inside(cx, cy + 0.065 * size, 0.015 * size, 0.045 * size) {
            return [40, 44, 60];
        }
    }
    if v < horizon {
        // The crowd, out of focus.
        let grain = ((u * 173.0).sin() * (v * 311.0).cos() * 18.0).abs();
        return shade([52.0 + grain, 60.0 + grain, 78.0 + grain], 0.55 + v * 1.6);
    }
    // Coordinates on the court: depth 0 at the near edge, 1 at the far one.
    let depth = (1.0 - v) / (1.0 - horizon);
    let reach = 0.46 - 0.24 * depth;
    let across = (u - 0.5) / reach;
    let line = |at: f32, half: f32| (across - at).abs() < half / reach;
    let far = 0.86;
    let near = 0.08;
    let on_court = across.abs() <= 0.94 && (near..far).contains(&depth);
    let horizontal = [near, 0.3, 0.68, far].iter().any(|d| (depth - d).abs() < 0.006) && across.abs() < 0.94;
    let vertical = on_court && (line(0.94, 0.0028) || line(-0.94, 0.0028) || line(0.7, 0.0025) || line(-0.7, 0.0025));
    let middle = line(0.0, 0.002) && (0.3..0.68).contains(&depth);
    if (depth - 0.5).abs() < 0.018 && across.abs() < 1.04 {
        return [216, 221, 228];
    }
    if horizontal || vertical || middle {
        return [238, 242, 246];
    }
    let light = 0.82 + 0.25 * v;
    if on_court { shade([52.0, 104.0, 168.0], light) } else { shade([46.0, 118.0, 92.0], light) }
}
