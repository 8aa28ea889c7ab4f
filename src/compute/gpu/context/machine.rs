//! Lists the GPUs of a machine, checks what they support, and resets one that failed.

use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};

use super::GpuInfo;
use crate::gpu::{GpuError, compile, libraries};

/// The GPUs of this machine; those that cannot be queried are left out.
///
/// # Errors
/// [`GpuError::Unusable`] when there is no driver, or none that works.
pub fn all() -> Result<Vec<GpuInfo>, GpuError> {
    libraries::load()?;
    let count = CudaContext::device_count_checked()?;
    Ok((0..count)
        .filter_map(|ordinal| CudaContext::new(ordinal).and_then(|context| GpuInfo::of(&context)).ok())
        .collect())
}

/// The newest CUDA version that the driver supports, as (major, minor).
///
/// # Errors
/// [`GpuError::Unusable`] when there is no driver.
pub fn driver_version() -> Result<(i32, i32), GpuError> {
    libraries::load()?;
    let mut version = 0;
    // SAFETY: the function writes one integer to the given pointer.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    match status {
        sys::CUresult::CUDA_SUCCESS => Ok((version / 1000, version % 1000 / 10)),
        status => Err(GpuError::at_start(0, &format!("{status:?}"))),
    }
}

/// The version of NVRTC.
///
/// # Errors
/// [`GpuError::Unusable`] when it is not installed.
pub fn compiler_version() -> Result<(i32, i32), GpuError> {
    libraries::load()?;
    compile::version()
}

pub(super) trait DeviceCount {
    fn device_count_checked() -> Result<usize, GpuError>;
}

impl DeviceCount for CudaContext {
    fn device_count_checked() -> Result<usize, GpuError> {
        let count = candle_core::cuda_backend::cudarc::driver::result::init().and_then(|()| Self::device_count());
        match count {
            Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
            Err(e) => Err(GpuError::at_start(0, &format!("{e:?}"))),
        }
    }
}

/// Capability that candle's own kernels were compiled for, from the build environment: 90 for 9.0.
const BUILT_FOR: Option<&str> = option_env!("CUDA_COMPUTE_CAP");

/// Checks that this program has code for a GPU.
///
/// # Errors
/// [`GpuError::Unusable`] saying how to build it for that GPU.
pub fn check_capability(info: &GpuInfo) -> Result<(), GpuError> {
    let Some(built) = BUILT_FOR.and_then(|cap| cap.parse::<i32>().ok()) else { return Ok(()) };
    let (major, minor) = info.capability;
    if major * 10 + minor >= built {
        return Ok(());
    }
    Err(GpuError::Unusable(format!(
        "GPU {} ({}) has compute capability {major}.{minor}, this program was built for {}.{} and newer; build it again with \
         CUDA_COMPUTE_CAP={major}{minor}",
        info.ordinal,
        info.name,
        built / 10,
        built % 10
    )))
}

/// Destroys the context of a failed GPU with everything in it, so that a new one can be created. Other users of the GPU in this
/// process lose it too; their next call fails.
pub(crate) fn reset(ordinal: usize) -> Result<(), GpuError> {
    let ordinal_c = i32::try_from(ordinal).map_err(|_| GpuError::no_such_device(ordinal, 0))?;
    let mut device = 0;
    // SAFETY: `device` receives a handle, which resetting takes; memory and handles of the old context are never given back
    // (their owners were forgotten), so nothing is freed twice.
    let status = unsafe {
        match sys::cuDeviceGet(&mut device, ordinal_c) {
            sys::CUresult::CUDA_SUCCESS => sys::cuDevicePrimaryCtxReset_v2(device),
            other => other,
        }
    };
    match status {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        status => Err(GpuError::at_start(ordinal, &format!("{status:?}"))),
    }
}
