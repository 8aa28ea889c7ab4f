//! How many live streams one GPU watches: seconds of N streams arrive at their own times, as they would, and go through the
//! queue and the engine of the product. Decoding is not part of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use touchline_compute::gpu::Numbers;
use touchline_compute::gpu::placement::{Placement, Wish};
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_core::clip::{ClipOutput, ClipSecond};
use touchline_core::item::Pace;
use touchline_serve::backlog::Backlog;
use touchline_serve::metrics::Metrics;

use crate::Outcome;
use crate::material::{again, second};

/// The latency that has to be kept, milliseconds.
const LATENCY_MS: f64 = 250.0;

/// Seconds of a trial, and of those the first that do not count.
const TRIAL_S: u64 = 12;
const WARM_S: u64 = 3;

/// Batches as `touchline run` makes them on a GPU.
const BATCH_MAX: usize = 64;
const BATCH_WAIT: Duration = Duration::from_millis(20);

/// Different seconds that streams show by turns.
const DIFFERENT: u32 = 16;

/// What a trial showed.
struct Trial {
    p50_ms: f64,
    p95_ms: f64,
    shed: usize,
    batch: f64,
}

pub fn run(device: usize, packs: &[PathBuf]) -> Outcome<()> {
    println!("### Streams per GPU, p95 of a second's last sample to its decision below {LATENCY_MS:.0} ms\n");
    println!("| pack | streams | p50 ms | p95 ms | seconds shed | seconds a batch | kept |");
    println!("|---|---|---|---|---|---|---|");
    for dir in packs {
        let mut kept = 0;
        let mut streams = 50;
        let mut step = 50;
        // Doubling until it breaks, then closing in.
        let mut broken: Option<usize> = None;
        while step >= 10 {
            let trial = trial(dir, device, streams)?;
            let keeps = trial.p95_ms < LATENCY_MS && trial.shed == 0;
            println!(
                "| {} | {streams} | {:.1} | {:.1} | {} | {:.1} | {} |",
                dir.file_name().unwrap_or_default().to_string_lossy(),
                trial.p50_ms,
                trial.p95_ms,
                trial.shed,
                trial.batch,
                if keeps { "yes" } else { "no" }
            );
            if keeps {
                kept = streams;
            } else {
                broken = Some(streams);
            }
            (streams, step) = match broken {
                None => (2 * streams, streams),
                Some(broken) => ((kept + broken) / 2, (broken - kept) / 2),
            };
        }
        println!("\n**{}: {kept} streams.**\n", dir.file_name().unwrap_or_default().to_string_lossy());
    }
    Ok(())
}

fn trial(dir: &Path, device: usize, streams: usize) -> Outcome<Trial> {
    let mut pack = Pack::open(dir)?;
    pack.placement = Placement { wish: Wish::Cuda(vec![device]), numbers: Numbers::F16 };
    let seconds: Arc<Vec<ClipSecond>> = Arc::new((0..DIFFERENT).map(|seed| second(&pack, seed)).collect());
    let mut engine = Engine::load(pack)?;
    let backlog = Arc::new(Backlog::new());
    let queues: Vec<_> = (0..streams).map(|_| backlog.add_queue(Pace::Live)).collect();
    let began = Instant::now();
    let feeder = std::thread::spawn({
        let (backlog, seconds) = (Arc::clone(&backlog), Arc::clone(&seconds));
        move || {
            for second in 0..TRIAL_S {
                for (i, queue) in queues.iter().enumerate() {
                    // Streams begin at any time: their seconds are spread evenly over one.
                    let phase_ns = i as u64 * 1_000_000_000 / streams as u64;
                    let due = Duration::from_nanos(second * 1_000_000_000 + phase_ns);
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                    let arrived_ns = due.as_nanos() as u64;
                    let shown = &seconds[(i + second as usize) % seconds.len()];
                    backlog.push(*queue, ClipOutput::Second(again(shown, arrived_ns)));
                }
            }
            // What is under way is finished.
            std::thread::sleep(Duration::from_millis(500));
            backlog.close();
        }
    });
    let metrics = Metrics::new();
    let (mut latencies, mut shed, mut batches) = (Vec::new(), 0, 0usize);
    while let Some(batch) = backlog.gather(BATCH_MAX, BATCH_WAIT) {
        shed += batch.iter().flat_map(|t| &t.items).filter(|item| matches!(item, ClipOutput::Gap(_))).count();
        let seconds: Vec<&ClipSecond> = batch
            .iter()
            .filter_map(|taken| match taken.items.last() {
                Some(ClipOutput::Second(second)) => Some(second),
                _ => None,
            })
            .collect();
        engine.score(&seconds, &metrics)?;
        let now_ns = began.elapsed().as_nanos() as u64;
        batches += 1;
        let counted = seconds.iter().filter(|second| second.arrived_ns >= WARM_S * 1_000_000_000);
        latencies.extend(counted.map(|second| (now_ns.saturating_sub(second.arrived_ns)) as f64 / 1e6));
    }
    feeder.join().map_err(|_| "the feeder ended early")?;
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(f64::INFINITY);
    let taken = latencies.len() as f64 * TRIAL_S as f64 / (TRIAL_S - WARM_S) as f64;
    Ok(Trial { p50_ms: at(0.5), p95_ms: at(0.95), shed, batch: taken / batches.max(1) as f64 })
}
