//! Which device an engine gets: what was asked for, against what this build and this machine have.

use crate::gpu::placement::Wish;
use crate::gpu::probe;
use touchline_core::error::{Error, Result};

/// Where an engine is to compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    Cpu,
    /// These GPUs. `fall_back`: the CPU will do if they do not.
    Gpus {
        ordinals: Vec<usize>,
        fall_back: bool,
    },
}

/// Chooses, and says aloud why a wish for any GPU ends on the CPU.
///
/// # Errors
/// [`Error::Device`] when a GPU was asked for by name and this build has no CUDA.
pub(super) fn choose(wish: &Wish) -> Result<Chosen> {
    match wish {
        Wish::Cpu => Ok(Chosen::Cpu),
        Wish::Cuda(_) if !cfg!(feature = "cuda") => Err(Error::Device(probe::without_cuda(wish))),
        Wish::Cuda(ordinals) => Ok(Chosen::Gpus { ordinals: ordinals.clone(), fall_back: false }),
        Wish::Auto => match probe::usable() {
            Ok(ordinals) => Ok(Chosen::Gpus { ordinals, fall_back: true }),
            Err(why) => {
                match why {
                    // A machine without a GPU is nothing to talk about.
                    probe::Why::NoGpu(why) => tracing::debug!("computing on the CPU: {why}"),
                    probe::Why::Unused(why) => tracing::warn!("computing on the CPU: {why}"),
                }
                Ok(Chosen::Cpu)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there() {
        assert_eq!(choose(&Wish::Cpu).unwrap(), Chosen::Cpu);
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_what_it_would_need() {
        assert_eq!(choose(&Wish::Auto).unwrap(), Chosen::Cpu);
        let error = choose(&Wish::Cuda(vec![0])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("cuda:0") && text.contains("--features cuda") && !text.contains('\n'), "{text}");
        assert_eq!(error.exit_code(), 8);
    }
}
