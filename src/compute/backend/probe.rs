//! Reports which devices this machine and this build have, in words for a person.

pub use super::gpu::{findings, usable};
use crate::gpu::placement::DeviceChoice;

/// Where the NVIDIA kernel module reports its version.
const DRIVER: &str = "/proc/driver/nvidia/version";

/// The parts that a build with CUDA needs to run.
pub const NEEDS: &str = "NVIDIA driver 580 or newer, CUDA 13 with cuBLAS, cuRAND and NVRTC, and cuDNN 9";

/// Why `--device auto` uses no GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The machine has none.
    NoGpu(String),
    /// There is one, but something is missing.
    Unused(String),
}

/// One line of `touchline doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is as it should be.
    pub is_ok: bool,
    /// The part that was looked at, as "GPU" or "NVRTC".
    pub what: &'static str,
    /// Details, on one line.
    pub detail: String,
}

pub(super) fn finding(is_ok: bool, what: &'static str, detail: impl Into<String>) -> Finding {
    Finding { is_ok, what, detail: detail.into() }
}

/// The first line of the NVIDIA kernel module's version, if the module is loaded.
pub fn kernel_module() -> Option<String> {
    let text = std::fs::read_to_string(DRIVER).ok()?;
    Some(text.lines().next()?.trim().to_owned())
}

/// The error of a build without CUDA that was asked for a GPU.
pub fn without_cuda(requested: &DeviceChoice) -> String {
    let driver = match kernel_module() {
        Some(module) => format!("this machine has a driver ({module})"),
        None => "this machine has no NVIDIA driver either".to_owned(),
    };
    format!(
        "--device {requested}: this touchline was built without CUDA, and {driver}; build it with --features cuda \
         (deploy/cuda-check.sh shows how) and install {NEEDS}, or give --device cpu"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_cuda_gives_advice() {
        let text = without_cuda(&DeviceChoice::Cuda(vec![1]));
        for part in ["--device cuda:1", "--features cuda", "driver 580", "cuDNN 9", "--device cpu"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\n'));
    }

    #[test]
    fn findings_are_single_lines_and_name_the_gpu() {
        let findings = findings();
        assert!(findings.iter().any(|f| f.what == "GPU"));
        assert!(findings.iter().all(|f| !f.detail.is_empty() && !f.detail.contains('\n')), "{findings:?}");
    }
}
