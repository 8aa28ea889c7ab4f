//! The device of a training.

use candle_core::{Device, DeviceLocation};

use touchline_compute::backend::gpu;
use touchline_compute::backend::probe::Unavailable;
use touchline_compute::gpu::placement::DeviceChoice;
use touchline_core::error::{Error, Result};

/// Opens the device that `requested` names. A training uses one device: with [`DeviceChoice::Auto`] the first GPU, or the CPU where no GPU
/// can be used.
///
/// # Errors
/// [`Error::Usage`] for several GPUs, [`Error::Device`] for a GPU that cannot be used.
pub fn open(requested: &DeviceChoice) -> Result<Device> {
    let ordinal = match requested {
        DeviceChoice::Cpu => return Ok(Device::Cpu),
        DeviceChoice::Cuda(ordinals) => match ordinals[..] {
            [ordinal] => ordinal,
            _ => {
                let text = format!("--device {requested}: a training uses one GPU; name one, such as cuda:0");
                return Err(Error::Usage(text));
            }
        },
        DeviceChoice::Auto => match gpu::usable() {
            Ok(ordinals) => ordinals.first().copied().unwrap_or(0),
            Err(Unavailable::NoGpu(_)) => return Ok(Device::Cpu),
            Err(Unavailable::Unused(why)) => {
                tracing::warn!("training on the CPU: {why}");
                return Ok(Device::Cpu);
            }
        },
    };
    gpu::device(ordinal).map_err(Error::Device)
}

/// The name of a device, as `--device` takes it.
pub(super) fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        DeviceLocation::Cpu => "cpu".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_uses_one_device() {
        let device = open(&DeviceChoice::Cpu).unwrap();
        assert_eq!(name(&device), "cpu");
        let Err(Error::Usage(text)) = open(&DeviceChoice::Cuda(vec![0, 1])) else { panic!("two GPUs were accepted") };
        assert!(text.contains("cuda:0,1") && text.contains("name one"), "{text}");
    }

    #[test]
    fn a_gpu_that_is_not_there_is_refused_with_advice() {
        let Err(Error::Device(text)) = open(&DeviceChoice::Cuda(vec![200])) else { panic!("a GPU was opened") };
        assert!(text.contains(';'), "{text}");
    }
}
