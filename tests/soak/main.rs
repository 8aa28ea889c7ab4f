//! Eight HLS channels with random faults and two RTSP streams without any, for two minutes or `TOUCHLINE_SOAK_MINUTES`. The test
//! accounts for every second of every stream.
//!
//! `TOUCHLINE_SOAK_MINUTES=30 cargo test --test soak -- --nocapture` prints the report, and `TOUCHLINE_SOAK_REPORT=FILE` also writes
//! it to a file. `TOUCHLINE_SOAK_SEED` selects another sequence of faults. `TOUCHLINE_SOAK_FAULTS=0` disables them, for comparison.
#![cfg(feature = "gst")]

mod account;
mod channel;
#[path = "../common/mod.rs"]
mod common;
mod faults;
#[path = "../media/hls/server.rs"]
mod server;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use account::{Account, Tail};
use common::Fixtures;
use common::live::Live;
use faults::Bench;

/// The resources of the process at one time.
struct Sample {
    at_s: f64,
    resident_kb: f64,
    files: usize,
    threads: usize,
}

impl Sample {
    fn of(pid: u32, began: Instant) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        Some(Self {
            at_s: began.elapsed().as_secs_f64(),
            resident_kb: field("VmRSS:")?,
            files: std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
            threads: field("Threads:")? as usize,
        })
    }
}

/// The growth of memory by least squares, in kB a minute.
fn slope(samples: &[Sample]) -> f64 {
    let n = samples.len() as f64;
    let (x, y) =
        (samples.iter().map(|s| s.at_s).sum::<f64>() / n, samples.iter().map(|s| s.resident_kb).sum::<f64>() / n);
    let above: f64 = samples.iter().map(|s| (s.at_s - x) * (s.resident_kb - y)).sum();
    let below: f64 = samples.iter().map(|s| (s.at_s - x).powi(2)).sum();
    60.0 * above / below.max(1.0)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
}

#[test]
fn every_second_under_random_faults_is_accounted_for() {
    let minutes = number("TOUCHLINE_SOAK_MINUTES").unwrap_or(2);
    let length = Duration::from_secs(60 * minutes);
    // The last fault starts early enough to be detected (10 s) and repaired.
    let calm = Duration::from_secs(45);
    let may_break = number("TOUCHLINE_SOAK_FAULTS") != Some(0);
    let dir = Fixtures::new();
    let mut bench = Bench::start(number("TOUCHLINE_SOAK_SEED").unwrap_or(1));
    // On a machine with few processors, the program should drop pictures before seconds.
    let mut arguments = vec!["--retry".to_owned(), "--adaptive".to_owned()];
    let streams = bench.streams();
    arguments.extend(streams.iter().map(|(id, uri)| format!("{id}={uri}")));
    let mut live = Live::start_with(dir.path(), "127.0.0.1", &arguments);
    let began = Instant::now();
    let tail = Tail::start(live.jsonl.clone(), began);
    let mut samples = Vec::new();
    while began.elapsed() < length {
        assert!(live.is_running(), "the program ended");
        bench.step(may_break && began.elapsed() + calm < length);
        if samples.last().is_none_or(|s: &Sample| began.elapsed().as_secs_f64() - s.at_s > 5.0) {
            samples.extend(Sample::of(live.pid(), began));
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    let faults = bench.log();
    let accounts: Vec<Account> =
        streams.iter().map(|(id, _)| Account::of(id, &tail.records(), length.as_secs_f64())).collect();

    let mut report = format!("{minutes} minutes, ten streams, {} faults\n\n", faults.len());
    report += &Account::table(&accounts);
    let later = &samples[samples.len() / 3..];
    let (files, threads) = (|s: &&Sample| s.files, |s: &&Sample| s.threads);
    let range = |of: &dyn Fn(&&Sample) -> usize| {
        let all = || later.iter().map(|s| of(&s));
        (all().min().unwrap_or(0), all().max().unwrap_or(0), all().next_back().unwrap_or(0))
    };
    let (least, most, last) = range(&files);
    let _ = writeln!(
        report,
        "\n| held by the process, after the first third | least | most | at the end |\n|---|---|---|---|"
    );
    let _ = writeln!(report, "| file descriptors | {least} | {most} | {last} |");
    let (fewest, many, end) = range(&threads);
    let _ = writeln!(report, "| threads | {fewest} | {many} | {end} |");
    let kb = |s: &Sample| s.resident_kb as u64;
    let (low, high) = (later.iter().map(kb).min().unwrap_or(0), later.iter().map(kb).max().unwrap_or(0));
    let _ = writeln!(
        report,
        "| resident memory, MB | {} | {} | {} |",
        low / 1024,
        high / 1024,
        later.last().map_or(0, kb) / 1024
    );
    // The heap keeps its maximum, and the maximum is reached only when several faults coincide, which takes long.
    let half = &samples[samples.len() / 2..];
    let _ = writeln!(
        report,
        "\nMemory grows by {:.0} kB a minute, in the second half by {:.0} (least squares).",
        slope(later),
        slope(half)
    );
    println!("{report}");
    for fault in &faults {
        println!("{fault}");
    }
    if let Ok(path) = std::env::var("TOUCHLINE_SOAK_REPORT") {
        std::fs::write(path, &report).unwrap();
    }
    // The assertions follow the report, so that it is printed when they fail.
    assert_eq!(live.stop(), 0, "SIGTERM ends the program in an orderly way");
    for account in &accounts {
        account.check();
        if bench.clean().contains(&account.id) {
            account.check_clean();
        }
    }
    // Every open connection has descriptors and threads of its own, so the numbers vary by a few dozen.
    assert!(last <= least + 120 && end <= fewest + 120, "{report}");
    if minutes >= 10 {
        assert!(slope(half) < 1_000.0, "{report}");
    }
}
