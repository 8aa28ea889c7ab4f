//! Chooses the device of an engine: the requested one, compared with the devices of this machine.

use super::gpu;
use super::probe::Unavailable;
use crate::gpu::placement::DeviceChoice;

/// The device of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Cpu,
    /// `fall_back`: the CPU takes their place if they fail.
    Gpus {
        ordinals: Vec<usize>,
        fall_back: bool,
    },
}

/// Chooses a device. With `auto` on a machine whose GPU cannot be used, the log gives the reason for choosing the CPU.
pub(super) fn choose(requested: &DeviceChoice) -> Choice {
    match requested {
        DeviceChoice::Cpu => Choice::Cpu,
        DeviceChoice::Cuda(ordinals) => Choice::Gpus { ordinals: ordinals.clone(), fall_back: false },
        DeviceChoice::Auto => match gpu::usable() {
            Ok(ordinals) => Choice::Gpus { ordinals, fall_back: true },
            Err(why) => {
                match why {
                    // The usual case on a machine without a GPU: not worth a warning.
                    Unavailable::NoGpu(why) => tracing::debug!("computing on the CPU: {why}"),
                    Unavailable::Unused(why) => tracing::warn!("computing on the CPU: {why}"),
                }
                Choice::Cpu
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_available() {
        assert_eq!(choose(&DeviceChoice::Cpu), Choice::Cpu);
    }

    #[test]
    fn a_gpu_requested_by_number_has_no_fallback() {
        assert_eq!(choose(&DeviceChoice::Cuda(vec![1])), Choice::Gpus { ordinals: vec![1], fall_back: false });
    }
}
