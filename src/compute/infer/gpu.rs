//! The engine's GPUs: seconds in, logits out. Each GPU has a thread of its own, which owns its context, its features and its
//! networks; a batch is divided among them.
//!
//! A batch goes over in one upload, and one small download brings the logits of all modalities back.

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::is_silent;
use crate::features::cuda::{DeviceFeatures, Part, Target, Targets, Work};
use crate::gpu::context::{Gpu, GpuInfo, Output, of_candle, reset};
use crate::gpu::fault::{GpuError, Recovery, with_recovery};
use crate::gpu::launch::{Layout, Numbers};
use crate::models::pack::Pack;
use crate::models::{Network, Runs, check_finite};
use touchline_core::clip::{ClipSecond, FlowPair};
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::frame::Frame;
use touchline_core::labels::Modality;
use touchline_core::observer::{DeviceFault, Observer, Stage};
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;

/// Seconds that go through a GPU at once, to begin with: 64 streams with five pairs each are a few hundred megabytes.
const SECONDS_AT_ONCE: usize = 64;

/// Rows of logits of one second.
pub(super) type Rows = PerModality<Vec<Vec<f32>>>;

/// All GPUs of an engine.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
}

/// One GPU.
struct Lane {
    pack: Arc<Pack>,
    numbers: Numbers,
    ordinal: usize,
    recovery: Recovery,
    /// A thread for the GPU: cuDNN's handles belong to one.
    pool: ThreadPool,
    /// Touched on that thread only. `None` after a restart that failed.
    inner: Option<Inner>,
}

struct Inner {
    gpu: Gpu,
    features: DeviceFeatures<Gpu>,
    networks: PerModality<Option<Network>>,
}

/// How long a batch took, milliseconds.
#[derive(Clone, Debug, Default)]
struct Took {
    features: PerModality<f32>,
    inference: PerModality<f32>,
}

impl Lanes {
    /// Takes the GPUs into use, loads the pack's networks onto each, and runs each once.
    ///
    /// # Errors
    /// [`Error::Pack`] when a file of the pack is not right, [`Error::Device`] when a GPU is not.
    pub fn open(pack: &Arc<Pack>, ordinals: &[usize], numbers: Numbers) -> Result<Self> {
        let lanes = ordinals.iter().map(|o| Lane::open(pack.clone(), *o, numbers)).collect::<Result<Vec<_>>>()?;
        for lane in &lanes {
            if let Some(info) = lane.info() {
                tracing::info!("computing on cuda:{} ({}) in {}", info.ordinal, info.name, numbers.name());
            }
        }
        Ok(Self { lanes })
    }

    /// Logits of a batch of seconds, in order.
    ///
    /// # Errors
    /// [`GpuError::Device`] when the last GPU has failed for good; other faults when these seconds cannot be computed.
    pub fn rows(
        &mut self,
        seconds: &[&ClipSecond],
        observer: Option<&dyn Observer>,
    ) -> std::result::Result<Vec<Rows>, GpuError> {
        let mut rows: Vec<Rows> = vec![Rows::default(); seconds.len()];
        let mut pending: Vec<(&[&ClipSecond], &mut [Rows])> = vec![(seconds, &mut rows)];
        loop {
            let alive = self.lanes.iter().filter(|lane| lane.recovery.failure().is_none()).count();
            if alive == 0 {
                let cause = self.lanes.iter().find_map(|lane| lane.recovery.failure()).unwrap_or("no GPU is left");
                return Err(GpuError::Device(cause.to_owned()));
            }
            let mut tasks = Vec::new();
            for (seconds, rows) in pending.drain(..) {
                let each = seconds.len().div_ceil(alive).max(1);
                tasks.extend(seconds.chunks(each).zip(rows.chunks_mut(each)));
            }
            let mut lanes = self.lanes.iter_mut().filter(|lane| lane.recovery.failure().is_none()).collect::<Vec<_>>();
            let outcomes = run_all(&mut lanes, tasks, observer);
            for (seconds, rows, outcome) in outcomes {
                match outcome {
                    Ok(()) => {}
                    // The GPU is gone: another one takes its part.
                    Err(GpuError::Device(_)) => pending.push((seconds, rows)),
                    Err(other) => return Err(other),
                }
            }
            if pending.is_empty() {
                return Ok(rows);
            }
        }
    }
}

type Done<'a, 'b> = (&'a [&'a ClipSecond], &'b mut [Rows], std::result::Result<(), GpuError>);

/// Runs tasks on lanes, task i on lane i modulo their number; several lanes at the same time.
fn run_all<'a, 'b>(
    lanes: &mut [&mut Lane],
    tasks: Vec<(&'a [&'a ClipSecond], &'b mut [Rows])>,
    observer: Option<&dyn Observer>,
) -> Vec<Done<'a, 'b>> {
    let count = lanes.len();
    let mut shares: Vec<Vec<(&'a [&'a ClipSecond], &'b mut [Rows])>> = (0..count).map(|_| Vec::new()).collect();
    for (i, task) in tasks.into_iter().enumerate() {
        shares[i % count].push(task);
    }
    let work = |lane: &mut Lane, share: Vec<(&'a [&'a ClipSecond], &'b mut [Rows])>| -> Vec<Done<'a, 'b>> {
        let mut done = Vec::with_capacity(share.len());
        for (seconds, rows) in share {
            let outcome = lane.run(seconds, rows, observer);
            done.push((seconds, rows, outcome));
        }
        done
    };
    if let [lane] = lanes {
        return work(lane, shares.pop().unwrap_or_default());
    }
    std::thread::scope(|scope| {
        let running: Vec<_> =
            lanes.iter_mut().zip(shares).map(|(lane, share)| scope.spawn(move || work(lane, share))).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("a lane does not panic")).collect()
    })
}

impl Lane {
    fn open(pack: Arc<Pack>, ordinal: usize, numbers: Numbers) -> Result<Self> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(move |_| format!("gpu/{ordinal}"))
            .build()
            .map_err(|e| Error::Internal(format!("cannot start thread gpu/{ordinal}: {e}")))?;
        let inner = Some(pool.install(|| Inner::open(&pack, ordinal, numbers))?);
        Ok(Self { pack, numbers, ordinal, recovery: Recovery::new(SECONDS_AT_ONCE), pool, inner })
    }

    fn info(&self) -> Option<GpuInfo> {
        self.inner.as_ref().map(|inner| inner.gpu.info().clone())
    }

    fn run(
        &mut self,
        seconds: &[&ClipSecond],
        rows: &mut [Rows],
        observer: Option<&dyn Observer>,
    ) -> std::result::Result<(), GpuError> {
        let told = |fault: DeviceFault| observer.iter().for_each(|observer| observer.device_fault(fault));
        let Self { pack, numbers, ordinal, recovery, pool, inner } = self;
        let mut state = (recovery, inner);
        pool.install(|| {
            with_recovery(
                &mut state,
                |state| state.0,
                seconds.len(),
                |state, range| {
                    let lost = || GpuError::Device("its context is gone".to_owned());
                    let inner = state.1.as_mut().ok_or_else(lost)?;
                    let took = inner.rows(&seconds[range.clone()], &mut rows[range.clone()])?;
                    if let Some(observer) = observer {
                        observe(observer, &took, &rows[range]);
                    }
                    Ok(())
                },
                |state| {
                    told(DeviceFault::Restart);
                    tracing::warn!("cuda:{ordinal} failed; its context is made anew");
                    if let Some(old) = state.1.take() {
                        old.abandon();
                    }
                    reset(*ordinal)?;
                    let opened = Inner::open(pack, *ordinal, *numbers);
                    *state.1 = Some(opened.map_err(|e| GpuError::Unusable(e.to_string()))?);
                    Ok(())
                },
                |_, limit| {
                    told(DeviceFault::OutOfMemory);
                    tracing::warn!("cuda:{ordinal} has too little memory: {limit} seconds at once from now on");
                },
            )
        })
        .inspect_err(|e| {
            if matches!(e, GpuError::Device(_)) {
                told(DeviceFault::Lost);
            }
        })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let inner = self.inner.take();
        match self.recovery.failure() {
            // A broken context cannot be asked to take anything back.
            Some(_) => inner.into_iter().for_each(Inner::abandon),
            // Where it lived: cuDNN's handle is that thread's.
            None => self.pool.install(|| drop(inner)),
        }
    }
}

impl Inner {
    fn open(pack: &Pack, ordinal: usize, numbers: Numbers) -> Result<Self> {
        let device_error = |e: GpuError| Error::Device(e.to_string());
        let mut gpu = Gpu::open(ordinal).map_err(device_error)?;
        let features = DeviceFeatures::new(
            &mut gpu,
            pack.rgb.as_ref().map(|p| &p.input),
            pack.flow.as_ref().map(|p| &p.input),
            pack.audio.as_ref().map(|p| &p.input),
        )
        .map_err(|e| match e {
            GpuError::Refused(cause) => Error::pack(&pack.dir, cause, "correct the key named"),
            other => Error::Device(other.to_string()),
        })?;
        let mut networks = PerModality::default();
        for modality in Modality::ALL {
            let Some(model) = pack.model(modality) else { continue };
            let runs = Runs::Gpu(gpu.device(), numbers);
            let loaded = super::read(model)
                .and_then(|(tensors, _)| {
                    check_finite(&tensors)?;
                    Network::load_to_run(model.architecture, &tensors, Some(model.outputs.len()), runs)
                })
                .map_err(|e| Error::pack(&pack.dir, format!("{modality} model: {e}"), e.advice()))?;
            *networks.get_mut(modality) = Some(loaded);
        }
        let mut inner = Self { gpu, features, networks };
        inner.warm(pack)?;
        Ok(inner)
    }

    /// Leaves everything where it is: a device that has failed takes nothing back, and asking it would end the program.
    fn abandon(self) {
        if let candle_core::Device::Cuda(device) = self.gpu.device() {
            crate::nn::cuda::abandon(device.id());
        }
        std::mem::forget(self);
    }

    /// Runs a second of every kind once: kernels are compiled, algorithms chosen and memory taken before the first real one.
    fn warm(&mut self, pack: &Pack) -> Result<()> {
        let frame = |t: u32| {
            let (w, h) = (pack.frame_height * 16 / 9, pack.frame_height);
            let pixel = |i: u32| (((i % (3 * w) + 5 * t) as f32 * 0.02).sin() * 90.0 + 128.0) as u8;
            Frame::new(Pooled::detached((0..3 * w * h).map(pixel).collect()), w, h, Pts(0), 0)
        };
        let mut second = ClipSecond::of_pictures(vec![frame(0), frame(1)]);
        second.pairs = vec![FlowPair { first: 0, second: 1, gap_ns: 40_000_000 }];
        second.audio = pack.sample_rate().map(|rate| (0..rate).map(|i| (i as f32 * 0.1).sin() * 0.3).collect());
        let mut rows = [Rows::default()];
        // Twice: the second run shows what the first one cost.
        for _ in 0..2 {
            self.rows(&[&second], &mut rows)
                .map_err(|e| Error::Device(format!("the GPU fails at its first second: {e}")))?;
        }
        let finite = |modality: &Modality| rows[0].get(*modality).iter().flatten().all(|logit| logit.is_finite());
        match Modality::ALL.iter().find(|modality| !finite(modality)) {
            Some(modality) => Err(Error::pack(
                &pack.dir,
                format!("{modality} model: its outputs are no numbers"),
                "give --precision f32, or take the pack again",
            )),
            None => Ok(()),
        }
    }

    fn rows(&mut self, seconds: &[&ClipSecond], rows: &mut [Rows]) -> std::result::Result<Took, GpuError> {
        let there = |modality: Modality| self.networks.get(modality).is_some();
        let (work, counts) = Work::of(seconds, PerModality::of(there), |second| !is_silent(second));
        let total = PerModality::of(|m| counts.iter().map(|c| *c.get(m)).sum::<usize>());
        let mut outputs = PerModality::<Option<Output>>::default();
        for modality in Modality::ALL {
            let count = *total.get(modality);
            if count > 0
                && let Some((width, height)) = self.input_size(modality)
            {
                *outputs.get_mut(modality) = Some(self.gpu.output((count, height, width, 3), self.numbers(modality))?);
            }
        }
        let target = |modality: Modality| {
            let numbers = self.numbers(modality);
            outputs.get(modality).as_ref().map(|o| Target { out: o.pointer(), numbers, layout: Layout::Interleaved })
        };
        let targets =
            Targets { pictures: target(Modality::Rgb), flows: target(Modality::Flow), sounds: target(Modality::Audio) };
        // Where the time goes: marks in the stream's order, read when all is over.
        let mut marks: Vec<(Option<(Modality, bool)>, CudaEvent)> = vec![(None, self.gpu.mark()?)];
        let mut failed = Ok(());
        self.features.run(&mut self.gpu, &work, &targets, &mut |gpu, part| {
            let modality = match part {
                Part::Upload => return,
                Part::Pictures => Modality::Rgb,
                Part::Flows => Modality::Flow,
                Part::Sounds => Modality::Audio,
            };
            match gpu.mark() {
                Ok(mark) => marks.push((Some((modality, true)), mark)),
                Err(e) => failed = Err(e),
            }
        })?;
        failed?;
        let mut logits = Vec::new();
        let mut shapes = Vec::new();
        for modality in Modality::ALL {
            let (Some(output), Some(network)) = (outputs.get_mut(modality).take(), self.networks.get(modality)) else {
                continue;
            };
            let out = network.forward(&output.tensor()).map_err(of_candle)?;
            shapes.push((modality, out.dim(1).map_err(of_candle)?));
            logits.push(out.flatten_all().map_err(of_candle)?);
            marks.push((Some((modality, false)), self.gpu.mark()?));
        }
        // One download, which waits for everything.
        let values = match logits.is_empty() {
            true => Vec::new(),
            false => Tensor::cat(&logits, 0).and_then(|all| all.to_vec1::<f32>()).map_err(of_candle)?,
        };
        let mut values = &values[..];
        for (modality, classes) in shapes {
            for (rows, count) in rows.iter_mut().zip(&counts) {
                let (own, rest) = values.split_at(count.get(modality) * classes);
                *rows.get_mut(modality) = own.chunks(classes).map(<[f32]>::to_vec).collect();
                values = rest;
            }
        }
        let mut took = Took::default();
        for pair in marks.windows(2) {
            let ms = pair[0].1.elapsed_ms(&pair[1].1).unwrap_or(0.0);
            match pair[1].0 {
                Some((modality, true)) => *took.features.get_mut(modality) += ms,
                Some((modality, false)) => *took.inference.get_mut(modality) += ms,
                None => {}
            }
        }
        Ok(took)
    }

    fn input_size(&self, modality: Modality) -> Option<(usize, usize)> {
        match modality {
            Modality::Rgb => self.features.pictures.as_ref().map(|f| f.size()),
            Modality::Flow => self.features.flows.as_ref().map(|f| f.size()),
            Modality::Audio => self.features.sounds.as_ref().map(|f| f.size()),
        }
    }

    /// What a modality's network takes.
    fn numbers(&self, modality: Modality) -> Numbers {
        self.networks.get(modality).as_ref().and_then(Network::gpu_numbers).unwrap_or(Numbers::F32)
    }
}

/// Tells each second's share of what a batch took.
fn observe(observer: &dyn Observer, took: &Took, rows: &[Rows]) {
    for modality in Modality::ALL {
        let with = rows.iter().filter(|rows| !rows.get(modality).is_empty()).count();
        let (features, inference) = match modality {
            Modality::Rgb => (Stage::FeaturesRgb, Stage::InferRgb),
            Modality::Flow => (Stage::FeaturesFlow, Stage::InferFlow),
            Modality::Audio => (Stage::FeaturesAudio, Stage::InferAudio),
        };
        let share = |ms: &f32| (f64::from(*ms) * 1e6) as u64 / with.max(1) as u64;
        for _ in 0..with {
            observer.observe_stage(features, share(took.features.get(modality)));
            observer.observe_stage(inference, share(took.inference.get(modality)));
        }
    }
}
