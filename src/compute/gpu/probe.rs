//! What this machine and this build have for a GPU, in words for a person.

use super::placement::Wish;

/// Where the NVIDIA kernel module says its version.
const DRIVER: &str = "/proc/driver/nvidia/version";

/// What a build with CUDA needs to run.
pub const NEEDS: &str = "NVIDIA driver 580 or newer, CUDA 13 with cuBLAS, cuRAND and NVRTC, and cuDNN 9";

/// Why no GPU is used where any would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is none.
    NoGpu(String),
    /// There is one, but something is missing.
    Unused(String),
}

/// The NVIDIA kernel module's own line, where it is loaded.
pub fn kernel_module() -> Option<String> {
    let text = std::fs::read_to_string(DRIVER).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

/// What a build without CUDA answers to a wish for a GPU.
pub fn without_cuda(wish: &Wish) -> String {
    let driver = match kernel_module() {
        Some(module) => format!("this machine has a driver ({module})"),
        None => "this machine has no NVIDIA driver either".to_owned(),
    };
    format!(
        "--device {wish}: this touchline was built without CUDA, and {driver}; build it with --features cuda \
         (deploy/cuda-check.sh shows how) and install {NEEDS}, or give --device cpu"
    )
}

/// The GPUs that this build can use.
///
/// # Errors
/// Why there are none.
#[cfg(not(feature = "cuda"))]
pub fn usable() -> Result<Vec<usize>, Why> {
    Err(match kernel_module() {
        Some(module) => Why::Unused(format!(
            "there is a GPU ({module}), but this touchline was built without CUDA; build it with --features cuda to use it"
        )),
        None => Why::NoGpu("no NVIDIA driver is loaded".to_owned()),
    })
}

/// The GPUs that this build can use.
///
/// # Errors
/// Why there are none.
#[cfg(feature = "cuda")]
pub fn usable() -> Result<Vec<usize>, Why> {
    let why = |text: String| if kernel_module().is_some() { Why::Unused(text) } else { Why::NoGpu(text) };
    match super::context::all() {
        Ok(gpus) if gpus.is_empty() => Err(why("the driver finds no GPU".to_owned())),
        Ok(gpus) => {
            let suits = |gpu: &&super::context::GpuInfo| super::context::check_capability(gpu).is_ok();
            let ordinals: Vec<usize> = gpus.iter().filter(suits).map(|gpu| gpu.ordinal).collect();
            match gpus.first().map(super::context::check_capability) {
                // None is suited: the first one's reason stands for all.
                Some(Err(e)) if ordinals.is_empty() => Err(why(e.to_string())),
                _ => Ok(ordinals),
            }
        }
        Err(e) => Err(why(e.to_string())),
    }
}

/// One line of `touchline doctor`: whether it is as it should be, what it is about, and the details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub well: bool,
    pub what: &'static str,
    pub detail: String,
}

fn finding(well: bool, what: &'static str, detail: impl Into<String>) -> Finding {
    Finding { well, what, detail: detail.into() }
}

/// What there is to say of the GPU.
#[cfg(not(feature = "cuda"))]
pub fn findings() -> Vec<Finding> {
    vec![match kernel_module() {
        Some(module) => finding(
            false,
            "GPU",
            format!(
                "{module}; this touchline was built without CUDA and computes on the CPU (--features cuda; needs {NEEDS})"
            ),
        ),
        None => finding(true, "GPU", "none found; touchline computes on the CPU"),
    }]
}

/// What there is to say of the GPU: the driver, the libraries, and every device with what it can do.
#[cfg(feature = "cuda")]
pub fn findings() -> Vec<Finding> {
    use super::context;
    let module = kernel_module();
    let mut findings = Vec::new();
    match context::driver_version() {
        Ok((major, minor)) => {
            let module = module.as_deref().unwrap_or("version unknown");
            findings.push(finding(true, "NVIDIA driver", format!("{module}, for CUDA {major}.{minor} and older")));
        }
        // Whatever else there is, it cannot be asked.
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
        let started = context::Gpu::open(gpu.ordinal).and_then(|mut open| context::check(&mut open));
        findings.push(match started {
            Ok(()) => finding(true, "GPU", format!("{summary}: kernels compile and run, cuDNN starts")),
            Err(e) => finding(false, "GPU", format!("{summary}: {e}")),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_cuda_says_what_to_do() {
        let text = without_cuda(&Wish::Cuda(vec![1]));
        for part in ["--device cuda:1", "--features cuda", "driver 580", "cuDNN 9", "--device cpu"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\n'));
    }

    #[test]
    fn there_is_always_something_to_say() {
        let findings = findings();
        assert!(findings.iter().any(|f| f.what == "GPU"));
        assert!(findings.iter().all(|f| !f.detail.is_empty() && !f.detail.contains('\n')), "{findings:?}");
    }
}
