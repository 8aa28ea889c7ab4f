//! A source that reconnects many times leaks nothing: memory, file descriptors, threads and GStreamer's objects stay constant.
//!
//! A child process (this binary again) makes the connections, so that the figures exclude the servers and GStreamer's leaks
//! tracer sees all objects. An ordinary test run makes a few dozen. `TOUCHLINE_RECONNECTS=1000 cargo test --test reconnects --
//! --nocapture` makes that many and prints the figures.
//!
//! This is a binary of its own, because other work at the same time delays the end of pipelines, whose descriptors and objects
//! are counted.
#![cfg(feature = "gst")]

mod common;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::Fixtures;
use common::http::HttpServer;
use common::rtsp::{Media, RtspServer};
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use touchline_core::clip::{PlanSelector, SamplingPlan};
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::error::Result;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, End, MEDIA_CHANNEL_CAPACITY, MediaItem};
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::outlet::Counters;
use touchline_media::supervise::{Policy, SourceObserver, SourceState, Supervisor};
use touchline_media::{Open, Source};

/// The reconnects of an ordinary test run.
const FEW: u32 = 32;

/// Environment variables of the child: URIs, number of reconnects, the tracer's file.
const URIS: &str = "TOUCHLINE_TEST_URIS";
const COUNT: &str = "TOUCHLINE_TEST_COUNT";
const TRACE: &str = "TOUCHLINE_TEST_TRACE";

/// The resources of the process between two connections.
#[derive(Clone, Debug, Default)]
struct Resources {
    connections: u32,
    resident_kb: u64,
    files: usize,
    threads: usize,
    /// GStreamer's objects by type.
    objects: BTreeMap<String, usize>,
}

impl Resources {
    fn now(connections: u32, trace: &Path) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a known field");
            line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).expect("a number")
        };
        let files = std::fs::read_dir("/proc/self/fd").expect("Linux").count();
        Self {
            connections,
            resident_kb: field("VmRSS:"),
            files,
            threads: field("Threads:") as usize,
            objects: live_objects(trace),
        }
    }
}

/// The live objects by type. On SIGUSR1 the leaks tracer lists them in its log.
fn live_objects(trace: &Path) -> BTreeMap<String, usize> {
    let from = std::fs::metadata(trace).map_or(0, |m| m.len()) as usize;
    let pid = std::process::id().to_string();
    assert!(Command::new("kill").args(["-USR1", &pid]).status().expect("kill").success());
    let until = Instant::now() + Duration::from_secs(10);
    let mut length = 0;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let log = std::fs::read(trace).unwrap_or_default();
        let log = String::from_utf8_lossy(&log[from.min(log.len())..]).into_owned();
        // The list is complete when the log no longer grows.
        if length > 0 && log.len() == length {
            let mut objects = BTreeMap::new();
            for line in log.lines().filter(|l| l.contains("object-alive")) {
                let name = line.split("type-name=(string)").nth(1).and_then(|rest| rest.split([',', ';']).next());
                *objects.entry(name.expect("a type").to_owned()).or_insert(0) += 1;
            }
            return objects;
        }
        length = log.len();
        assert!(Instant::now() < until, "the leaks tracer does not answer");
    }
}

/// Opens its URIs in turn and ignores the requested one.
struct InTurn {
    opener: GstOpener,
    uris: Vec<String>,
    next: AtomicU32,
}

impl Open for InTurn {
    fn open(&self, _: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        self.opener.open(&self.uris[turn % self.uris.len()], to)
    }
}

/// The system clock, except that a sleep returns immediately. At its marks a sleep records the resources of the process.
struct Inspect {
    system: SystemClock,
    trace: PathBuf,
    marks: Vec<u32>,
    pauses: AtomicU32,
    resources: Mutex<Vec<Resources>>,
}

impl Clock for Inspect {
    fn mono_ns(&self) -> u64 {
        self.system.mono_ns()
    }

    fn unix_ns(&self) -> i64 {
        self.system.unix_ns()
    }

    fn sleep_until_stopped(&self, _: Duration, _: &Receiver<Infallible>) {
        let pauses = self.pauses.fetch_add(1, Ordering::Relaxed) + 1;
        if self.marks.contains(&pauses) {
            self.resources.lock().push(Resources::now(pauses, &self.trace));
        }
    }
}

struct NoObserver;

impl SourceObserver for NoObserver {
    fn state(&self, _: SourceState) {}

    fn incident(&self, _: Incident) {}
}

#[test]
#[ignore = "run by `reconnects_leak_nothing`"]
fn child() {
    let (Ok(uris), Ok(count)) = (std::env::var(URIS), std::env::var(COUNT)) else { return };
    let (uris, count): (Vec<String>, u32) = (uris.split(' ').map(Into::into).collect(), count.parse().unwrap());
    let plan = SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000, signal_frames: 0 };
    let options = GstOptions {
        rtsp_transport: "tcp".into(),
        selection: Some(PlanSelector::selection(&plan)),
        ..GstOptions::default()
    };
    // The supervisor has counters of its own, so that it does not see that one source is a recording, which it would not reopen.
    let counters = Arc::<Counters>::default();
    let inspect = Arc::new(Inspect {
        system: SystemClock::new(),
        trace: std::env::var(TRACE).unwrap().into(),
        // The first quarter fills pools, caches and the registry of types.
        marks: (1..=4).map(|quarter| count * quarter / 4).collect(),
        pauses: AtomicU32::new(0),
        resources: Mutex::default(),
    });
    let supervisor = Supervisor {
        inner: Arc::new(InTurn {
            opener: GstOpener::new(options, inspect.clone()).unwrap(),
            uris,
            next: AtomicU32::new(0),
        }),
        policy: Policy { reopen_on_end: true, ..Policy::default() },
        clock: inspect.clone(),
        observer: Arc::new(NoObserver),
        counters: counters.clone(),
        id: "again".into(),
    };
    let (to, from) = bounded(MEDIA_CHANNEL_CAPACITY);
    let mut source = supervisor.open("in-turn", to).unwrap();
    let (mut pictures, mut runs_with_pictures, mut reconnects) = (0u32, 0u32, 0);
    while reconnects <= count {
        match from.recv_timeout(Duration::from_secs(30)).expect("an item") {
            MediaItem::Frame(_) | MediaItem::Unconverted { .. } => {
                runs_with_pictures += u32::from(pictures == 0);
                pictures += 1;
            }
            MediaItem::Discontinuity(Discontinuity::Reconnect) => (reconnects, pictures) = (reconnects + 1, 0),
            MediaItem::Ended(end) => panic!("{end:?}"),
            _ => {}
        }
    }
    source.stop();
    assert!(from.iter().any(|item| matches!(item, MediaItem::Ended(End::Finished))));
    drop(source);
    // The supervisor may have reconnected once more before it stopped.
    let made = counters.reconnects.load(Ordering::Relaxed);
    assert!((u64::from(count)..=u64::from(count) + 1).contains(&made), "{made}");
    assert!(runs_with_pictures >= count, "{runs_with_pictures} of {count} connections brought pictures");
    let resources = inspect.resources.lock();
    println!(
        "| reconnects | resident memory, kB | file descriptors | threads | GStreamer objects |\n|---|---|---|---|---|"
    );
    for r in resources.iter() {
        let objects: usize = r.objects.values().sum();
        println!("| {} | {} | {} | {} | {objects} |", r.connections, r.resident_kb, r.files, r.threads);
    }
    let [first, .., last] = &resources[..] else { panic!("four marks") };
    assert_eq!(first.files, last.files, "file descriptors");
    // GStreamer's thread pool keeps one or two threads for a while.
    assert!(last.threads <= first.threads + 2, "{} threads, then {}", first.threads, last.threads);
    for (name, count) in &last.objects {
        // GStreamer's pool threads may still hold the objects of one connection.
        let before = first.objects.get(name).copied().unwrap_or(0);
        assert!(*count <= before + 2, "{name}: {before}, then {count}");
    }
    // Allocators keep freed memory, more of it with more threads. A leak of one decoded picture would be 86 kB per connection, and
    // of one converted picture 173 kB.
    let grown = last.resident_kb.saturating_sub(first.resident_kb);
    assert!(grown <= 16_000, "{grown} kB in {} connections", last.connections - first.connections);
}

#[test]
fn reconnects_leak_nothing() {
    let count = std::env::var("TOUCHLINE_RECONNECTS").ok().map_or(FEW, |n| n.parse().expect("a number"));
    let dir = Fixtures::new();
    let clip = dir.make(
        "short.mp4",
        "-f lavfi -i testsrc2=size=320x180:rate=30:duration=0.3 -f lavfi -i sine=frequency=440:duration=0.3 \
         -c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac -movflags +faststart",
    );
    dir.make("short.m3u8", &format!("-i {} -c copy -f hls -hls_list_size 0", clip.display()));
    let http = HttpServer::start(dir.path());
    let rtsp = RtspServer::start(Media::File { path: clip, plays: 1 });
    let trace = dir.path().join("trace.log");
    let output = common::again(module_path!(), "child")
        .env(URIS, format!("{} {} {}", http.url("short.mp4"), rtsp.url(), http.url("short.m3u8")))
        .env(COUNT, count.to_string())
        .env(TRACE, &trace)
        .env("GST_TRACERS", "leaks")
        .env("GST_LEAKS_TRACER_SIG", "1")
        .env("GST_DEBUG", "GST_TRACER:7")
        .env("GST_DEBUG_NO_COLOR", "1")
        .env("GST_DEBUG_FILE", &trace)
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{stdout}");
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
}
