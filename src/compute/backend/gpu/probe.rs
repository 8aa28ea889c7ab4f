//! Examines the driver, the libraries and every GPU.

use super::open;
use crate::backend::probe::{Finding, Unavailable, finding, kernel_module};
use crate::gpu::GpuError;
use crate::gpu::context::{self, Gpu};
use crate::gpu::launch::{Launcher, Shape};
use crate::nn::cuda::start_cudnn;

/// The driver's numbers of the GPUs that this build can use.
///
/// # Errors
/// Why there are none.
pub fn usable() -> Result<Vec<usize>, Unavailable> {
    let why =
        |text: String| if kernel_module().is_some() { Unavailable::Unused(text) } else { Unavailable::NoGpu(text) };
    match context::all() {
        Ok(gpus) if gpus.is_empty() => Err(why("the driver finds no GPU".to_owned())),
        Ok(gpus) => {
            let suits = |gpu: &&context::GpuInfo| context::check_capability(gpu).is_ok();
            let ordinals: Vec<usize> = gpus.iter().filter(suits).map(|gpu| gpu.ordinal).collect();
            match gpus.first().map(context::check_capability) {
                // No GPU is suitable: the reason of the first one is reported.
                Some(Err(e)) if ordinals.is_empty() => Err(why(e.to_string())),
                _ => Ok(ordinals),
            }
        }
        Err(e) => Err(why(e.to_string())),
    }
}

/// The GPU section of `touchline doctor`: the driver, the libraries, and every device with its abilities.
pub fn findings() -> Vec<Finding> {
    let module = kernel_module();
    let mut findings = Vec::new();
    match context::driver_version() {
        Ok((major, minor)) => {
            let module = module.as_deref().unwrap_or("version unknown");
            findings.push(finding(true, "NVIDIA driver", format!("{module}, for CUDA {major}.{minor} and older")));
        }
        // Without the driver nothing else can be asked.
        Err(e) => return vec![finding(false, "GPU", format!("{e}; touchline computes on the CPU"))],
    }
    match context::compiler_version() {
        Ok((major, minor)) => findings.push(finding(true, "NVRTC", format!("{major}.{minor}"))),
        Err(e) => findings.push(finding(false, "NVRTC", e.to_string())),
    }
    let gpus = context::all().unwrap_or_default();
    if gpus.is_empty() {
        findings.push(finding(false, "GPU", "the driver finds none; touchline computes on the CPU"));
    }
    for gpu in gpus {
        let (major, minor) = gpu.capability;
        let summary = format!(
            "cuda:{} {}, compute capability {major}.{minor}, {:.0} GiB",
            gpu.ordinal,
            gpu.name,
            gpu.memory as f64 / f64::from(1 << 30)
        );
        let started = open(gpu.ordinal).and_then(|mut open| check(&mut open));
        findings.push(match started {
            Ok(()) => finding(true, "GPU", format!("{summary}: kernels compile and run, cuDNN starts")),
            Err(e) => finding(false, "GPU", format!("{summary}: {e}")),
        });
    }
    findings
}

/// Checks that a GPU can compute: compiles and loads all kernels, starts cuDNN, and runs one kernel.
///
/// # Errors
/// [`GpuError::Unusable`] naming what is missing and what to install or change.
pub fn check(gpu: &mut Gpu) -> Result<(), GpuError> {
    let ordinal = gpu.info().ordinal;
    let unusable = |e: GpuError| match e {
        GpuError::Unusable(_) => e,
        other => GpuError::at_start(ordinal, &other.to_string()),
    };
    gpu.load_kernels()?;
    start_cudnn(gpu.cuda_device()).map_err(|e| GpuError::at_start(ordinal, &e.to_string()))?;
    let one = gpu.memory(size_of::<f32>()).map_err(unusable)?;
    let at = gpu.pointer(&one);
    let arguments = [at.into(), 1i32.into(), 1f32.into(), (-1f32).into()];
    Launcher::launch(gpu, "mel_decibels", Shape::new([1, 1, 1], 256), &arguments).map_err(unusable)?;
    gpu.wait().map_err(unusable)
}
