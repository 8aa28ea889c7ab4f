//! One GPU and the thread that owns its context, features and networks.
//!
//! A batch is brought over in one upload, and one small download returns the logits of all modalities.

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::backend::cpu::stages;
use crate::backend::read;
use crate::features::cuda::{BatchInputs, DeviceFeatures, FeatureStage, OutputTarget, OutputTargets};
use crate::features::is_silent;
use crate::gpu::context::{Gpu, KernelOutput, of_candle, reset};
use crate::gpu::fault::{GpuError, Recovery, with_recovery};
use crate::gpu::launch::{ElementType, Layout};
use crate::models::check_finite;
use crate::models::gpu::GpuNetwork;
use crate::models::pack::Pack;
use touchline_core::clip::{ClipSecond, FlowPair};
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::frame::Frame;
use touchline_core::labels::Modality;
use touchline_core::observer::{DeviceFault, Observer};
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;

/// Seconds that go through a GPU at once, until memory runs out: 64 streams with five pairs each take a few hundred
/// megabytes.
const SECONDS_AT_ONCE: usize = 64;

/// Logits of one second: for each modality one row per frame, pair or second of sound.
pub(super) type SecondLogits = PerModality<Vec<Vec<f32>>>;

/// A GPU, its thread, and its fault history.
pub(super) struct GpuWorker {
    pack: Arc<Pack>,
    ordinal: usize,
    recovery: Recovery,
    /// One thread: cuDNN's handles belong to the thread that made them.
    pool: ThreadPool,
    /// Used on that thread only. `None` after a restart that failed.
    session: Option<Session>,
    warm: bool,
}

/// The data loaded onto a GPU; they last until a fault destroys the context.
struct Session {
    gpu: Gpu,
    features: DeviceFeatures<Gpu>,
    networks: PerModality<Option<GpuNetwork>>,
}

/// How long a batch took, milliseconds.
#[derive(Clone, Debug, Default)]
struct BatchTimes {
    features: PerModality<f32>,
    inference: PerModality<f32>,
}

impl GpuWorker {
    /// Opens the GPU and loads the pack's networks onto it.
    ///
    /// # Errors
    /// [`Error::Pack`] when a file of the pack is not right, [`Error::Device`] when the GPU is not.
    pub fn open(pack: Arc<Pack>, ordinal: usize) -> Result<Self> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(move |_| format!("gpu/{ordinal}"))
            .build()
            .map_err(|e| Error::Internal(format!("cannot start thread gpu/{ordinal}: {e}")))?;
        let session = Some(pool.install(|| Session::open(&pack, ordinal))?);
        Ok(Self { pack, ordinal, recovery: Recovery::new(SECONDS_AT_ONCE), pool, session, warm: false })
    }

    /// Runs every model once, unless that has been done.
    ///
    /// # Errors
    /// As [`super::Backend::warm`].
    pub fn warm(&mut self) -> Result<()> {
        if self.warm {
            return Ok(());
        }
        let Self { pack, pool, session, .. } = self;
        if let Some(session) = session {
            pool.install(|| session.warm(pack))?;
            let info = session.gpu.info();
            let numbers = pack.placement.numbers.name();
            tracing::info!("computing on cuda:{} ({}) in {numbers}", info.ordinal, info.name);
        }
        self.warm = true;
        Ok(())
    }

    /// Why the GPU is out of use, if it is.
    pub fn failure(&self) -> Option<&str> {
        self.recovery.failure()
    }

    /// Computes the logits of `seconds` on the GPU's thread, in smaller batches when memory is short, and again after a
    /// restart of the device.
    ///
    /// # Errors
    /// As [`with_recovery`].
    pub fn run(
        &mut self,
        seconds: &[&ClipSecond],
        logits: &mut [SecondLogits],
        observer: Option<&dyn Observer>,
    ) -> std::result::Result<(), GpuError> {
        let report = |fault: DeviceFault| observer.iter().for_each(|observer| observer.device_fault(fault));
        let Self { pack, ordinal, recovery, pool, session, .. } = self;
        let mut state = (recovery, session);
        pool.install(|| {
            with_recovery(
                &mut state,
                |state| state.0,
                seconds.len(),
                |state, range| {
                    let lost = || GpuError::Device("its context is gone".to_owned());
                    let session = state.1.as_mut().ok_or_else(lost)?;
                    let times = session.compute(&seconds[range.clone()], &mut logits[range.clone()])?;
                    if let Some(observer) = observer {
                        observe(observer, &times, &logits[range]);
                    }
                    Ok(())
                },
                |state| {
                    report(DeviceFault::Restart);
                    tracing::warn!("cuda:{ordinal} failed; restarting it with a new context");
                    if let Some(old) = state.1.take() {
                        old.abandon();
                    }
                    reset(*ordinal)?;
                    let opened = Session::open(pack, *ordinal).and_then(|mut session| {
                        session.warm(pack)?;
                        Ok(session)
                    });
                    *state.1 = Some(opened.map_err(|e| GpuError::Unusable(e.to_string()))?);
                    Ok(())
                },
                |_, limit| {
                    report(DeviceFault::OutOfMemory);
                    tracing::warn!(
                        "cuda:{ordinal} ran out of memory; batches are limited to {limit} seconds from now on"
                    );
                },
            )
        })
        .inspect_err(|e| {
            if matches!(e, GpuError::Device(_)) {
                report(DeviceFault::Lost);
            }
        })
    }
}

impl Drop for GpuWorker {
    fn drop(&mut self) {
        let session = self.session.take();
        match self.recovery.failure() {
            // A broken context accepts no calls, not even to free memory.
            Some(_) => session.into_iter().for_each(Session::abandon),
            // On the thread that owns cuDNN's handle.
            None => self.pool.install(|| drop(session)),
        }
    }
}

impl Session {
    fn open(pack: &Pack, ordinal: usize) -> Result<Self> {
        let numbers = pack.placement.numbers;
        let device_error = |e: GpuError| Error::Device(e.to_string());
        let mut gpu = super::open(ordinal).map_err(device_error)?;
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
            let classes = model.outputs.len();
            let loaded = read(model)
                .and_then(|(tensors, _)| {
                    check_finite(&tensors)?;
                    GpuNetwork::load(model.architecture, &tensors, classes, &gpu.device(), numbers)
                })
                .map_err(|e| Error::pack(&pack.dir, format!("{modality} model: {e}"), e.advice()))?;
            *networks.get_mut(modality) = Some(loaded);
        }
        Ok(Self { gpu, features, networks })
    }

    /// Frees nothing: calls into the context of a failed device would end the program.
    fn abandon(self) {
        if let candle_core::Device::Cuda(device) = self.gpu.device() {
            crate::nn::cuda::abandon(device.id());
        }
        std::mem::forget(self);
    }

    /// Runs a synthetic second: compiles kernels, chooses algorithms and allocates memory before the first real one.
    fn warm(&mut self, pack: &Pack) -> Result<()> {
        let frame = |t: u32| {
            let (w, h) = (pack.frame_height * 16 / 9, pack.frame_height);
            let pixel = |i: u32| (((i % (3 * w) + 5 * t) as f32 * 0.02).sin() * 90.0 + 128.0) as u8;
            Frame::new(Pooled::detached((0..3 * w * h).map(pixel).collect()), w, h, Pts(0), 0)
        };
        let mut second = ClipSecond::of_pictures(vec![frame(0), frame(1)]);
        second.pairs = vec![FlowPair { first: 0, second: 1, gap_ns: 40_000_000 }];
        second.audio = pack.sample_rate().map(|rate| (0..rate).map(|i| (i as f32 * 0.1).sin() * 0.3).collect());
        let mut logits = [SecondLogits::default()];
        // Twice: algorithms that the first run chose are used by the second.
        for _ in 0..2 {
            self.compute(&[&second], &mut logits)
                .map_err(|e| Error::Device(format!("the GPU failed on its first batch: {e}")))?;
        }
        let finite = |modality: &Modality| logits[0].get(*modality).iter().flatten().all(|logit| logit.is_finite());
        match Modality::ALL.iter().find(|modality| !finite(modality)) {
            Some(modality) => Err(Error::pack(
                &pack.dir,
                format!("{modality} model: output is NaN or infinite"),
                "give --precision f32, or fetch the pack again",
            )),
            None => Ok(()),
        }
    }

    /// Computes the logits of one batch.
    fn compute(
        &mut self,
        seconds: &[&ClipSecond],
        logits: &mut [SecondLogits],
    ) -> std::result::Result<BatchTimes, GpuError> {
        let there = |modality: Modality| self.networks.get(modality).is_some();
        let (work, counts) = BatchInputs::of(seconds, PerModality::of(there), |second| !is_silent(second));
        let total = PerModality::of(|m| counts.iter().map(|c| *c.get(m)).sum::<usize>());
        let mut outputs = PerModality::<Option<KernelOutput>>::default();
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
            outputs.get(modality).as_ref().map(|o| OutputTarget {
                out: o.pointer(),
                numbers,
                layout: Layout::Interleaved,
            })
        };
        let targets = OutputTargets {
            pictures: target(Modality::Rgb),
            flows: target(Modality::Flow),
            sounds: target(Modality::Audio),
        };
        // Events between the stages on the stream, read after the last one.
        let mut marks: Vec<(Option<(Modality, bool)>, CudaEvent)> = vec![(None, self.gpu.mark()?)];
        let mut failed = Ok(());
        self.features.run(&mut self.gpu, &work, &targets, &mut |gpu, part| {
            let modality = match part {
                FeatureStage::Upload => return,
                FeatureStage::Pictures => Modality::Rgb,
                FeatureStage::Flows => Modality::Flow,
                FeatureStage::Sounds => Modality::Audio,
            };
            match gpu.mark() {
                Ok(mark) => marks.push((Some((modality, true)), mark)),
                Err(e) => failed = Err(e),
            }
        })?;
        failed?;
        let mut flat = Vec::new();
        let mut shapes = Vec::new();
        for modality in Modality::ALL {
            let (Some(output), Some(network)) = (outputs.get_mut(modality).take(), self.networks.get(modality)) else {
                continue;
            };
            let out = network.forward(&output.tensor()).map_err(of_candle)?;
            shapes.push((modality, out.dim(1).map_err(of_candle)?));
            flat.push(out.flatten_all().map_err(of_candle)?);
            marks.push((Some((modality, false)), self.gpu.mark()?));
        }
        // One download, which waits for everything.
        let values = match flat.is_empty() {
            true => Vec::new(),
            false => Tensor::cat(&flat, 0).and_then(|all| all.to_vec1::<f32>()).map_err(of_candle)?,
        };
        let mut values = &values[..];
        for (modality, classes) in shapes {
            for (second, count) in logits.iter_mut().zip(&counts) {
                let (own, rest) = values.split_at(count.get(modality) * classes);
                *second.get_mut(modality) = own.chunks(classes).map(<[f32]>::to_vec).collect();
                values = rest;
            }
        }
        let mut times = BatchTimes::default();
        for pair in marks.windows(2) {
            let ms = pair[0].1.elapsed_ms(&pair[1].1).unwrap_or(0.0);
            match pair[1].0 {
                Some((modality, true)) => *times.features.get_mut(modality) += ms,
                Some((modality, false)) => *times.inference.get_mut(modality) += ms,
                None => {}
            }
        }
        Ok(times)
    }

    fn input_size(&self, modality: Modality) -> Option<(usize, usize)> {
        match modality {
            Modality::Rgb => self.features.pictures.as_ref().map(|f| f.size()),
            Modality::Flow => self.features.flows.as_ref().map(|f| f.size()),
            Modality::Audio => self.features.sounds.as_ref().map(|f| f.size()),
        }
    }

    /// Element type of the input of a modality's network.
    fn numbers(&self, modality: Modality) -> ElementType {
        self.networks.get(modality).as_ref().map_or(ElementType::F32, GpuNetwork::numbers)
    }
}

/// Reports each second's share of the time of a batch.
fn observe(observer: &dyn Observer, times: &BatchTimes, logits: &[SecondLogits]) {
    for modality in Modality::ALL {
        let with = logits.iter().filter(|second| !second.get(modality).is_empty()).count();
        let (features, inference) = stages(modality);
        let share = |ms: &f32| (f64::from(*ms) * 1e6) as u64 / with.max(1) as u64;
        for _ in 0..with {
            observer.observe_stage(features, share(times.features.get(modality)));
            observer.observe_stage(inference, share(times.inference.get(modality)));
        }
    }
}
