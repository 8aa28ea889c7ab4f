//! How many live streams one GPU can watch: seconds of N streams arrive spread over each second and go through a queue and
//! the engine. Decoding is not included.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use touchline_compute::gpu::ElementType;
use touchline_compute::gpu::placement::{DeviceChoice, Placement};
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_core::clip::ClipSecond;

use crate::material::{arriving_at, second};
use crate::queue::Queue;
use crate::{Outcome, Unobserved};

/// The largest p95 latency that passes, milliseconds.
const LATENCY_MS: f64 = 250.0;

/// Length of a trial and of its warm-up, which is not measured, in seconds.
const TRIAL_S: u64 = 12;
const WARM_S: u64 = 3;

/// Batches as `touchline run` makes them on a GPU.
const BATCH_MAX: usize = 64;
const BATCH_WAIT: Duration = Duration::from_millis(20);

/// Different seconds, which the streams repeat.
const DIFFERENT: u32 = 16;

/// The figures of a trial.
struct Trial {
    p50_ms: f64,
    p95_ms: f64,
    shed: usize,
    batch: f64,
}

pub fn run(device: usize, packs: &[PathBuf]) -> Outcome<()> {
    println!("### Streams per GPU, p95 of a second's last sample to its decision below {LATENCY_MS:.0} ms\n");
    println!("| pack | streams | p50 ms | p95 ms | seconds shed | seconds per batch | kept |");
    println!("|---|---|---|---|---|---|---|");
    for dir in packs {
        let mut kept = 0;
        let mut streams = 50;
        let mut step = 50;
        // Double the streams until a trial fails, then bisect.
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
    pack.placement = Placement { requested: DeviceChoice::Cuda(vec![device]), numbers: ElementType::F16 };
    let seconds: Arc<Vec<ClipSecond>> = Arc::new((0..DIFFERENT).map(|seed| second(&pack, seed)).collect());
    let mut engine = Engine::load(pack)?;
    let queue = Arc::new(Queue::default());
    let began = Instant::now();
    let feeder = std::thread::spawn({
        let (queue, seconds) = (Arc::clone(&queue), Arc::clone(&seconds));
        move || {
            for second in 0..TRIAL_S {
                for i in 0..streams {
                    // The streams end their seconds at evenly spread times.
                    let phase_ns = i as u64 * 1_000_000_000 / streams as u64;
                    let due = Duration::from_nanos(second * 1_000_000_000 + phase_ns);
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                    let arrived_ns = due.as_nanos() as u64;
                    let original = &seconds[(i + second as usize) % seconds.len()];
                    queue.push(i, arriving_at(original, arrived_ns));
                }
            }
            // Leave the engine time to empty the queue.
            std::thread::sleep(Duration::from_millis(500));
            queue.close();
        }
    });
    let (mut latencies, mut batches) = (Vec::new(), 0usize);
    while let Some(batch) = queue.gather(BATCH_MAX, BATCH_WAIT) {
        let seconds: Vec<&ClipSecond> = batch.iter().collect();
        engine.score(&seconds, &Unobserved)?;
        let now_ns = began.elapsed().as_nanos() as u64;
        batches += 1;
        let counted = seconds.iter().filter(|second| second.arrived_ns >= WARM_S * 1_000_000_000);
        latencies.extend(counted.map(|second| (now_ns.saturating_sub(second.arrived_ns)) as f64 / 1e6));
    }
    feeder.join().map_err(|_| "the feeder ended early")?;
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(f64::INFINITY);
    let taken = latencies.len() as f64 * TRIAL_S as f64 / (TRIAL_S - WARM_S) as f64;
    Ok(Trial { p50_ms: at(0.5), p95_ms: at(0.95), shed: queue.shed(), batch: taken / batches.max(1) as f64 })
}
