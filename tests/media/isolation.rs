//! Sources in worker processes: they yield the same media, and the death of a worker affects only its source.
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::wait::{LIMIT, until_some};
use crate::common::{Fixtures, program};
use crossbeam_channel::{Receiver, bounded};
use parking_lot::Mutex;
use touchline_core::cause::Cause;
use touchline_core::clip::SamplingPlan;
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::error::{Error, Result};
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, End, MEDIA_CHANNEL_CAPACITY, MediaItem};
use touchline_core::tier::{DecodeTier, SharedTier};
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::outlet::Counters;
use touchline_media::supervise::{Policy, SourceObserver, SourceState, Supervisor};
use touchline_media::worker::WorkerOpener;
use touchline_media::{Open, Source};

/// A small live stream that needs no server.
const LIVE: &str = "testsrc://?width=64&height=48&fps=10";

/// A source id that no other run of these tests uses.
fn id(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

fn options(name: &str) -> GstOptions {
    GstOptions { id: id(name), ..GstOptions::default() }
}

fn worker(options: GstOptions, plan: Option<SamplingPlan>) -> WorkerOpener {
    WorkerOpener::new(options, plan, Arc::new(SystemClock::new())).with_program(program::path().as_ref())
}

fn open(opener: &dyn Open, uri: &str) -> Result<(Box<dyn Source>, Receiver<MediaItem>)> {
    let (to, from) = bounded(MEDIA_CHANNEL_CAPACITY);
    Ok((opener.open(uri, to)?, from))
}

fn next(from: &Receiver<MediaItem>) -> MediaItem {
    from.recv_timeout(LIMIT).expect("an item")
}

/// The folder in /proc of the worker of source `name`, if it runs.
fn process_of(name: &str) -> Option<PathBuf> {
    process_with(&id(name))
}

fn process_with(id: &str) -> Option<PathBuf> {
    let wanted = format!("touchline\0source-worker\0{id}\0");
    let folders = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    folders.into_iter().find(|f| std::fs::read(f.join("cmdline")).is_ok_and(|text| text == wanted.as_bytes()))
}

fn signal(process: &std::path::Path, name: &str) {
    let pid = process.file_name().unwrap();
    assert!(Command::new("kill").arg(format!("-{name}")).arg(pid).status().unwrap().success());
}

/// The pictures (converted or not), the sound and the end of a recording, each track in order.
fn all(from: &Receiver<MediaItem>) -> (Vec<String>, Vec<String>, String) {
    let (mut pictures, mut sound) = (Vec::new(), Vec::new());
    loop {
        match next(from) {
            MediaItem::Frame(f) => pictures.push(format!("{} {}×{} {:x?}", f.pts, f.width, f.height, &f.data[..])),
            MediaItem::Unconverted { pts, .. } => pictures.push(format!("{pts} unconverted")),
            MediaItem::Pcm(c) => sound.push(format!("{} {} {} {:?}", c.pts, c.rate, c.channels, &c.data[..])),
            MediaItem::Ended(end) => return (pictures, sound, format!("{end:?}")),
            _ => {}
        }
    }
}

#[test]
fn a_recording_yields_the_same_in_a_worker() {
    let fixtures = Fixtures::new();
    let clip = fixtures.clip("clip.mp4", 3);
    let uri = clip.to_str().unwrap();
    let plan = SamplingPlan { rgb_frames: 3, flow_pairs: 2, flow_gap_ns: 100_000_000, signal_frames: 0 };
    for plan in [None, Some(plan)] {
        let selection = plan.as_ref().map(touchline_core::clip::PlanSelector::selection);
        let (counters_inside, counters_outside) = (Arc::<Counters>::default(), Arc::<Counters>::default());
        let inside = GstOptions { counters: counters_inside.clone(), selection, ..options("same-inside") };
        let inside = GstOpener::new(inside, Arc::new(SystemClock::new())).unwrap();
        let (_source, from) = open(&inside, uri).unwrap();
        let wanted = all(&from);
        let outside =
            worker(GstOptions { counters: counters_outside.clone(), ..options("same-outside") }, plan.clone());
        let (source, from) = open(&outside, uri).unwrap();
        let got = all(&from);
        assert!(wanted.0.len() > 50 && !wanted.1.is_empty(), "{} {}", wanted.0.len(), wanted.1.len());
        assert!(got == wanted, "{} {} {}", got.0.len(), got.1.len(), got.2);
        let counts = |c: &Counters| (c.frames.load(Ordering::Relaxed), c.samples.load(Ordering::Relaxed));
        assert_eq!(counts(&counters_inside), counts(&counters_outside));
        drop(source);
        assert_eq!(process_of("same-outside"), None, "the process has ended");
    }
}

#[test]
fn the_decode_tier_reaches_the_worker() {
    let fixtures = Fixtures::new();
    let source = "-f lavfi -i testsrc2=size=160x120:rate=25:duration=4 -c:v libx264 -preset ultrafast -g 25";
    let path = fixtures.make("keys.mp4", source);
    let plan = SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000, signal_frames: 0 };
    let tier = SharedTier::new(DecodeTier::Key);
    let selection = touchline_core::clip::PlanSelector::selection(&plan).at(tier);
    let options = GstOptions { selection: Some(selection), ..options("tier") };
    let counters = options.counters.clone();
    let (_source, from) = open(&worker(options, Some(plan)), path.to_str().unwrap()).unwrap();
    let mut pictures = [0, 0];
    let end = std::iter::repeat_with(|| next(&from)).find_map(|item| match item {
        MediaItem::Frame(_) => {
            pictures[0] += 1;
            None
        }
        MediaItem::Unconverted { .. } => {
            pictures[1] += 1;
            None
        }
        MediaItem::Ended(end) => Some(end),
        _ => None,
    });
    assert_eq!((end, pictures), (Some(End::Finished), [4, 96]));
    assert_eq!(counters.left_out.load(Ordering::Relaxed), 96);
}

#[test]
fn arrival_times_use_the_clock_of_the_program() {
    let clock = Arc::new(SystemClock::new());
    let opener = WorkerOpener::new(options("clock"), None, clock.clone()).with_program(program::path().as_ref());
    let began_ns = clock.mono_ns();
    let (_source, from) = open(&opener, LIVE).unwrap();
    let mut last_ns = began_ns;
    let mut frames = 0;
    while frames < 5 {
        if let MediaItem::Frame(frame) = next(&from) {
            assert!((last_ns..=clock.mono_ns()).contains(&frame.arrived_ns), "{last_ns} {}", frame.arrived_ns);
            last_ns = frame.arrived_ns;
            frames += 1;
        }
    }
    assert!(last_ns > began_ns);
}

#[test]
fn opening_fails_with_the_same_error_as_without_a_worker() {
    let error = |result: Result<(Box<dyn Source>, Receiver<MediaItem>)>| match result {
        Err(e @ (Error::Usage(_) | Error::Source { .. })) => e.to_string(),
        other => panic!("{:?}", other.map(|_| "it opens")),
    };
    let inside = GstOpener::new(options("refused"), Arc::new(SystemClock::new())).unwrap();
    for uri in ["/nowhere/at/all.mp4", "gopher://h/x", "testsrc://?fps=0"] {
        let wanted = error(open(&inside, uri));
        assert_eq!(error(open(&worker(options("refused"), None), uri)), wanted);
    }
}

/// The states that a supervisor reports.
#[derive(Default)]
struct States(Mutex<Vec<SourceState>>);

impl SourceObserver for States {
    fn state(&self, state: SourceState) {
        self.0.lock().push(state);
    }

    fn incident(&self, _: Incident) {}
}

fn supervised(id: &str, states: Arc<States>) -> (Box<dyn Source>, Receiver<MediaItem>) {
    let supervisor = Supervisor {
        inner: Arc::new(worker(options(id), None)),
        policy: Policy { backoff_min: Duration::from_millis(1), ..Policy::default() },
        clock: Arc::new(SystemClock::new()),
        observer: states,
        counters: Arc::default(),
        id: id.into(),
    };
    open(&supervisor, LIVE).unwrap()
}

#[test]
fn a_killed_worker_affects_only_its_source() {
    let states = [Arc::<States>::default(), Arc::<States>::default()];
    let (_one, killed) = supervised("killed", states[0].clone());
    let (_two, other) = supervised("other", states[1].clone());
    // Another thread reads the other stream, which must not be affected.
    let (stop, stopped) = bounded::<()>(0);
    let reading = std::thread::spawn(move || {
        let mut times = Vec::new();
        while stopped.try_recv() != Err(crossbeam_channel::TryRecvError::Disconnected) || times.len() < 20 {
            match next(&other) {
                MediaItem::Frame(frame) => times.push(frame.pts.0),
                MediaItem::Discontinuity(reason) => panic!("{reason:?}"),
                MediaItem::Ended(end) => panic!("{end:?}"),
                _ => {}
            }
        }
        times
    });
    while !matches!(next(&killed), MediaItem::Frame(_)) {}
    // Not SEGV: Rust's handler ignores the first one without a memory fault.
    for name in ["KILL", "ABRT"] {
        let process = until_some("process", || process_of("killed"));
        signal(&process, name);
        while !matches!(next(&killed), MediaItem::Discontinuity(Discontinuity::Reconnect)) {}
        while !matches!(next(&killed), MediaItem::Frame(_)) {}
        assert_ne!(process_of("killed"), Some(process));
    }
    drop(stop);
    let times = reading.join().unwrap();
    for pair in times.windows(2) {
        assert_eq!(pair[1] - pair[0], 100_000_000, "no picture is missing");
    }
    let crashes: Vec<String> = states[0]
        .0
        .lock()
        .iter()
        .filter_map(|state| match state {
            SourceState::Waiting { kind: Cause::Crashed, cause, .. } => Some(cause.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(crashes, ["the source's process died (SIGKILL)", "the source's process died (SIGABRT)"]);
    assert!(!states[1].0.lock().iter().any(|s| matches!(s, SourceState::Waiting { .. })));
}

#[test]
fn stopping_or_dropping_a_source_ends_its_worker() {
    for case in ["stop", "drop", "full", "hangs"] {
        let name = format!("end-{case}");
        let (mut source, from) = open(&worker(options(&name), None), LIVE).unwrap();
        while !matches!(next(&from), MediaItem::Frame(_)) {}
        let process = process_of(&name).expect("it runs");
        match case {
            "stop" => {
                source.stop();
                let end = std::iter::repeat_with(|| next(&from)).find_map(|item| match item {
                    MediaItem::Ended(end) => Some(end),
                    _ => None,
                });
                assert_eq!(end, Some(End::Finished));
            }
            // Without a consumer, the source waits for room in the channel when it is dropped.
            "full" => until_some("full channel", || from.is_full().then_some(())),
            // A stopped process ignores all commands.
            "hangs" => signal(&process, "STOP"),
            _ => {}
        }
        drop(source);
        assert_eq!(process_of(&name), None, "{case}");
    }
}

/// A script in place of the worker program.
fn impostor(fixtures: &Fixtures, name: &str, script: &str) -> WorkerOpener {
    let path = fixtures.write(name, format!("#!/bin/sh\n{script}\n").as_bytes());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    WorkerOpener::new(options(name), None, Arc::new(SystemClock::new())).with_program(&path)
}

#[test]
fn an_invalid_worker_ends_the_source_with_an_error() {
    let fixtures = Fixtures::new();
    // The standard input of the script is the socket. The script first reads the beginning of the request.
    let read = "head -c 200 >/dev/null;";
    for (name, script, wanted) in [
        ("exits", "exit 3", "ended (exit code 3)"),
        ("dies", "kill -ABRT $$", "died (SIGABRT)"),
        ("garbage", "printf '\\377\\377\\377\\377 and more' >&0; sleep 60", "sent an invalid message"),
        ("nonsense", "printf '\\007\\000\\000\\000nonsense' >&0; sleep 60", "sent an invalid message"),
        ("too-early", "printf '\\007\\000\\000\\000\"Alive\"' >&0; sleep 60", "sent an invalid message"),
    ] {
        let opener = impostor(&fixtures, name, &format!("{read} {script}"));
        // Another test may be starting a process, which holds the script open for writing until it executes its own program.
        let (_source, first) = until_some("script that can be run", || {
            let (source, from) = open(&opener, LIVE).ok()?;
            let first = next(&from);
            let is_busy =
                matches!(&first, MediaItem::Ended(End::Failed { cause, .. }) if cause.contains("Text file busy"));
            (!is_busy).then_some((source, first))
        });
        match first {
            MediaItem::Ended(End::Failed { kind: Cause::Crashed, cause, .. }) => {
                assert!(cause.contains(wanted), "{name}: {cause}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn command_line_and_environment_of_a_worker_have_no_secrets() {
    let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let uri = format!("rtsp://ann:pl4nt-pass@127.0.0.1:{port}/live?key=pl4nt-key");
    let opening = std::thread::spawn(move || open(&worker(options("secret"), None), &uri).map(drop));
    // The worker connects, so it has received the URI.
    let (client, _) = server.accept().unwrap();
    let process = process_of("secret").expect("it runs");
    for file in ["cmdline", "environ"] {
        let text = String::from_utf8_lossy(&std::fs::read(process.join(file)).unwrap()).into_owned();
        assert!(!text.contains("pl4nt") && !text.contains("rtsp:"), "{file}: {text}");
        assert!(!text.contains("TOUCHLINE_ADMIN_TOKEN"), "{file}");
    }
    drop((client, server));
    opening.join().unwrap().unwrap();
}

/// The process that [`workers_end_when_the_program_is_killed`] kills.
#[test]
#[ignore = "run and killed by workers_end_when_the_program_is_killed"]
fn program_with_a_worker() {
    let (_source, from) = open(&worker(options("orphan"), None), LIVE).unwrap();
    while !matches!(next(&from), MediaItem::Frame(_)) {}
    println!("\nplaying");
    // Without a consumer, the worker blocks in the middle of a message.
    std::thread::sleep(LIMIT);
}

#[test]
fn workers_end_when_the_program_is_killed() {
    let mut program = crate::common::again(module_path!(), "program_with_a_worker")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(program.stdout.take().unwrap());
    assert!(output.lines().map_while(std::result::Result::ok).any(|line| line == "playing"), "it plays");
    let id = format!("orphan-{}", program.id());
    assert!(process_with(&id).is_some());
    program.kill().unwrap();
    program.wait().unwrap();
    until_some("end of the process", || process_with(&id).is_none().then_some(()));
}
