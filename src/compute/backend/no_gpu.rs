//! Stands in for [`gpu`](super::gpu) in builds without the feature `cuda`: loading fails with advice.

use super::probe::{Finding, NEEDS, Unavailable, finding, kernel_module, without_cuda};
use super::{Backend, BackendError, LoadRequest, Loaded, Logits};
use touchline_core::clip::ClipSecond;
use touchline_core::decision::PerModality;
use touchline_core::error::{Error, Result};
use touchline_core::observer::Observer;

/// A backend that no build without CUDA has.
#[derive(Debug)]
pub enum GpuBackend {}

/// Workers that no build without CUDA has.
#[derive(Clone, Debug)]
pub enum SharedWorkers {}

impl Backend for GpuBackend {
    fn load(request: &LoadRequest<'_>) -> Result<Self> {
        if let Some((_, Loaded { gpus: Some(workers), .. })) = request.running {
            match *workers {}
        }
        Err(Error::Device(without_cuda(&request.pack.placement.requested)))
    }

    fn warm(&mut self) -> Result<()> {
        match *self {}
    }

    fn score(
        &mut self,
        _seconds: &[&ClipSecond],
        _logits: &mut PerModality<Logits>,
        _observer: Option<&dyn Observer>,
    ) -> std::result::Result<(), BackendError> {
        match *self {}
    }

    fn loaded(&self) -> Loaded {
        match *self {}
    }

    fn is_gpu(&self) -> bool {
        match *self {}
    }
}

/// No GPU can be opened.
///
/// # Errors
/// Always, with advice.
pub fn device(ordinal: usize) -> std::result::Result<candle_core::Device, String> {
    Err(without_cuda(&crate::gpu::placement::DeviceChoice::Cuda(vec![ordinal])))
}

/// The GPUs that this build can use: none.
///
/// # Errors
/// Always: why no GPU is used.
pub fn usable() -> std::result::Result<Vec<usize>, Unavailable> {
    Err(match kernel_module() {
        Some(module) => Unavailable::Unused(format!(
            "there is a GPU ({module}), but this touchline was built without CUDA; build it with --features cuda to use it"
        )),
        None => Unavailable::NoGpu("no NVIDIA driver is loaded".to_owned()),
    })
}

/// The GPU section of `touchline doctor`.
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use crate::gpu::placement::DeviceChoice;
    use crate::models::pack::Pack;

    #[test]
    fn a_gpu_requested_by_number_is_an_error_with_advice() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/compact");
        let mut pack = Pack::open(&dir).unwrap();
        pack.placement.requested = DeviceChoice::Cuda(vec![0]);
        let error = crate::backend::open(&Arc::new(pack), None).err().expect("this build has no CUDA");
        let text = error.to_string();
        assert!(text.contains("cuda:0") && text.contains("--features cuda") && !text.contains('\n'), "{text}");
        assert_eq!(error.exit_code(), 8);
    }
}
