//! The GPU backend: a batch is divided among GPUs by seconds, and each GPU has a thread of its own.
//!
//! Seconds are independent, so a GPU that fails loses no stream: another one computes its share. When the last one has failed,
//! [`BackendError::DeviceLost`] tells the engine.

mod probe;
mod worker;

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Backend, BackendError, LoadRequest, Loaded, Logits};
use crate::gpu::GpuError;
use crate::gpu::context::Gpu;
use crate::gpu::launch::KernelModule;
pub use probe::{check, findings, usable};
use touchline_core::clip::ClipSecond;
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;
use touchline_core::observer::Observer;
use worker::{GpuWorker, SecondLogits};

/// All kernels that run on a GPU.
pub const MODULES: [KernelModule; 2] = [crate::features::cuda::MODULE, crate::nn::cuda::MODULE];

/// Opens a GPU that can launch all kernels.
///
/// # Errors
/// As [`Gpu::open`].
pub fn open(ordinal: usize) -> std::result::Result<Gpu, GpuError> {
    Gpu::open(ordinal, &MODULES)
}

/// Opens a GPU for candle alone, for training.
///
/// # Errors
/// What is wrong, with advice.
pub fn device(ordinal: usize) -> std::result::Result<candle_core::Device, String> {
    open(ordinal).map(|gpu| gpu.device()).map_err(|e| e.to_string())
}

/// Features and networks on one or more GPUs.
#[derive(Debug)]
pub struct GpuBackend {
    workers: SharedWorkers,
}

/// The GPUs in use. Engines whose packs have the same networks share them.
#[derive(Clone)]
pub struct SharedWorkers(Arc<Mutex<Vec<GpuWorker>>>);

impl std::fmt::Debug for SharedWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedWorkers").finish_non_exhaustive()
    }
}

impl Backend for GpuBackend {
    fn load(request: &LoadRequest<'_>) -> Result<Self> {
        let LoadRequest { pack, gpus, running } = *request;
        // Packs with the same networks differ only in table and temperatures, which are the engine's.
        let shared = running
            .filter(|(own, _)| own.placement == pack.placement && own.same_networks(pack))
            .and_then(|(_, loaded)| loaded.gpus.clone());
        if let Some(workers) = shared {
            return Ok(Self { workers });
        }
        let workers = gpus.iter().map(|ordinal| GpuWorker::open(pack.clone(), *ordinal)).collect::<Result<Vec<_>>>()?;
        Ok(Self { workers: SharedWorkers(Arc::new(Mutex::new(workers))) })
    }

    fn warm(&mut self) -> Result<()> {
        let mut workers = self.workers.0.lock();
        workers.iter_mut().try_for_each(GpuWorker::warm)
    }

    fn score(
        &mut self,
        seconds: &[&ClipSecond],
        logits: &mut PerModality<Logits>,
        observer: Option<&dyn Observer>,
    ) -> std::result::Result<(), BackendError> {
        // A panic during another engine's batch leaves the workers intact: a batch writes only into memory of its own.
        let mut workers = self.workers.0.lock();
        let computed = compute(&mut workers, seconds, observer).map_err(|e| match e {
            GpuError::Device(cause) => BackendError::DeviceLost(cause),
            other => BackendError::Batch(Error::Device(other.to_string())),
        })?;
        for modality in Modality::ALL {
            let Logits { rows, values } = logits.get_mut(modality);
            rows.clear();
            values.clear();
            for second in &computed {
                let own = second.get(modality);
                rows.push(own.len());
                own.iter().for_each(|row| values.extend_from_slice(row));
            }
        }
        Ok(())
    }

    fn loaded(&self) -> Loaded {
        Loaded { networks: PerModality::default(), gpus: Some(self.workers.clone()) }
    }

    fn is_gpu(&self) -> bool {
        true
    }
}

/// A part of a batch: seconds, and where their logits go.
type Share<'a, 'b> = (&'a [&'a ClipSecond], &'b mut [SecondLogits]);

/// Computes the logits of a batch of seconds, in order.
///
/// # Errors
/// [`GpuError::Device`] when the last GPU has failed for good; other errors when these seconds cannot be computed.
fn compute(
    workers: &mut [GpuWorker],
    seconds: &[&ClipSecond],
    observer: Option<&dyn Observer>,
) -> std::result::Result<Vec<SecondLogits>, GpuError> {
    let mut logits = vec![SecondLogits::default(); seconds.len()];
    let mut pending: Vec<Share<'_, '_>> = vec![(seconds, &mut logits)];
    loop {
        let alive = workers.iter().filter(|worker| worker.failure().is_none()).count();
        if alive == 0 {
            let cause = workers.iter().find_map(GpuWorker::failure).unwrap_or("no GPU is left");
            return Err(GpuError::Device(cause.to_owned()));
        }
        let mut shares = Vec::new();
        for (seconds, logits) in pending.drain(..) {
            let each = seconds.len().div_ceil(alive).max(1);
            shares.extend(seconds.chunks(each).zip(logits.chunks_mut(each)));
        }
        let mut healthy = workers.iter_mut().filter(|worker| worker.failure().is_none()).collect::<Vec<_>>();
        for (seconds, logits, outcome) in run_all(&mut healthy, shares, observer) {
            match outcome {
                Ok(()) => {}
                // The GPU is gone: another one computes its share in the next round.
                Err(GpuError::Device(_)) => pending.push((seconds, logits)),
                Err(other) => return Err(other),
            }
        }
        if pending.is_empty() {
            return Ok(logits);
        }
    }
}

/// A share after its computation.
type Outcome<'a, 'b> = (&'a [&'a ClipSecond], &'b mut [SecondLogits], std::result::Result<(), GpuError>);

/// Runs share i on worker i modulo their number; several workers run at the same time.
fn run_all<'a, 'b>(
    workers: &mut [&mut GpuWorker],
    shares: Vec<Share<'a, 'b>>,
    observer: Option<&dyn Observer>,
) -> Vec<Outcome<'a, 'b>> {
    let count = workers.len();
    let mut queues: Vec<Vec<Share<'a, 'b>>> = (0..count).map(|_| Vec::new()).collect();
    for (i, share) in shares.into_iter().enumerate() {
        queues[i % count].push(share);
    }
    let run = |worker: &mut GpuWorker, queue: Vec<Share<'a, 'b>>| -> Vec<Outcome<'a, 'b>> {
        let mut done = Vec::with_capacity(queue.len());
        for (seconds, logits) in queue {
            let outcome = worker.run(seconds, logits, observer);
            done.push((seconds, logits, outcome));
        }
        done
    };
    if let [worker] = workers {
        return run(worker, queues.pop().unwrap_or_default());
    }
    std::thread::scope(|scope| {
        let running: Vec<_> =
            workers.iter_mut().zip(queues).map(|(worker, queue)| scope.spawn(move || run(worker, queue))).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a GPU worker does not panic")).collect()
    })
}
