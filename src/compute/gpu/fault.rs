//! What goes wrong on a device, and what is done about it.

use std::ops::Range;

/// A device did not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// Fewer seconds at once may still fit.
    #[error("out of device memory ({0})")]
    OutOfMemory(String),
    /// The device or its driver failed; its context is of no use any more.
    #[error("device failure: {0}")]
    Device(String),
    /// The device cannot be used at all: what lacks, and what to install or change.
    #[error("{0}")]
    Unusable(String),
    /// A request that no device could meet.
    #[error("{0}")]
    Refused(String),
}

/// What a driver or library says, by a part of its words, and what a person can do about it.
const ADVICE: [(&str, &str, &str); 13] = [
    ("NO_DEVICE", "the driver finds no GPU", "check that one is there and visible (nvidia-smi, CUDA_VISIBLE_DEVICES)"),
    ("INVALID_DEVICE", "there is no such GPU", "choose one that nvidia-smi lists"),
    ("INSUFFICIENT_DRIVER", "the NVIDIA driver is too old for this program", "install driver 580 or newer"),
    ("UNSUPPORTED_PTX", "the NVIDIA driver is too old for this program", "install driver 580 or newer"),
    (
        "DRIVER_MISMATCH",
        "the driver's library and its kernel module are of two versions",
        "reboot, or reload the module",
    ),
    ("STUB_LIBRARY", "libcuda.so.1 is the toolkit's stub and no driver", "take the stubs out of LD_LIBRARY_PATH"),
    (
        "DEVICE_UNAVAILABLE",
        "the GPU is busy: another program has it to itself",
        "end that program, or set its compute mode to Default",
    ),
    (
        "OUT_OF_MEMORY",
        "the GPU has no memory left for a context",
        "end other programs on it (nvidia-smi lists them), or choose another GPU",
    ),
    (
        "NO_BINARY_FOR_GPU",
        "this program has no code for the GPU",
        "build it again with CUDA_COMPUTE_CAP set to the GPU's compute capability",
    ),
    ("SYSTEM_NOT_READY", "the system's GPU services are not ready", "start nvidia-fabricmanager, then this again"),
    (
        "COMPAT_NOT_SUPPORTED",
        "the driver cannot run this CUDA version on this GPU",
        "install driver 580 or newer, without a compatibility package",
    ),
    ("CUDNN_STATUS", "cuDNN does not start", "install cuDNN 9 for this CUDA version, all of its libraries"),
    ("CUBLAS_STATUS", "cuBLAS does not start", "install cuBLAS of the CUDA version this program was built with"),
];

impl GpuError {
    /// A fault by what candle, cudarc or a library says of it; only its first line is kept.
    pub fn of_text(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default().trim().to_owned();
        if ["OUT_OF_MEMORY", "ALLOC_FAILED"].iter().any(|word| text.contains(word)) {
            GpuError::OutOfMemory(line)
        } else if ["CUDA_ERROR_", "CUBLAS_STATUS", "CUDNN_STATUS", "CURAND_STATUS"].iter().any(|w| text.contains(w)) {
            GpuError::Device(line)
        } else {
            GpuError::Refused(line)
        }
    }

    /// A fault while GPU `ordinal` is taken into use: what it means and what to do.
    pub fn at_start(ordinal: usize, text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default().trim();
        GpuError::Unusable(match ADVICE.iter().find(|(word, _, _)| text.contains(word)) {
            Some((_, what, advice)) => format!("GPU {ordinal}: {what} ({line}); {advice}"),
            None => format!(
                "GPU {ordinal} does not start ({line}); see whether nvidia-smi works, and dmesg for what the driver says"
            ),
        })
    }

    /// A GPU that is not there.
    pub fn no_such_device(ordinal: usize, count: usize) -> Self {
        let there = match count {
            0 => "the driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES".to_owned(),
            1 => "there is one; give cuda:0".to_owned(),
            n => format!("there are {n}; give cuda:0 to cuda:{}", n - 1),
        };
        GpuError::Unusable(format!("GPU {ordinal}: {there}"))
    }
}

/// What to do next after a fault, and what has been lost to faults so far. It decides and counts; acting is the engine's.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Seconds that go through at once, at most.
    limit: usize,
    /// Whether the one restart there is has been used.
    restarted: bool,
    failed: Option<String>,
}

/// What to do after a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try the same seconds again, at most [`Recovery::limit`] at once.
    Smaller,
    /// Make the device's context anew and try again.
    Restart,
    /// Give up, with what to say.
    Fail(String),
}

impl Recovery {
    /// `limit`: seconds at once to begin with, at least 1.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), restarted: false, failed: None }
    }

    /// Seconds that may go through at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Why the device is out of use, if it is.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// After a fault with `seconds` at once.
    pub fn after(&mut self, fault: &GpuError, seconds: usize) -> Next {
        match fault {
            GpuError::OutOfMemory(_) if seconds > 1 => {
                self.limit = (seconds / 2).max(1);
                Next::Smaller
            }
            GpuError::Device(_) if !self.restarted => {
                self.restarted = true;
                Next::Restart
            }
            GpuError::Device(cause) => {
                let cause = format!("the device failed again after its restart: {cause}");
                self.failed = Some(cause.clone());
                Next::Fail(cause)
            }
            // One second does not fit, or a request cannot be met: the device itself is well.
            GpuError::OutOfMemory(_) | GpuError::Unusable(_) | GpuError::Refused(_) => Next::Fail(fault.to_string()),
        }
    }

    /// A restart that did not work.
    pub fn gave_up(&mut self, cause: String) {
        self.failed = Some(cause);
    }
}

/// Runs `all` seconds through `run`, as many at once as `recovery` allows, and again where a fault leaves hope. `restart`
/// makes the device's context anew; `smaller` is told of every batch that did not fit.
///
/// # Errors
/// The last fault, when nothing is left to try; and at once, with what it said then, after the device has been given up.
pub fn with_recovery<S>(
    state: &mut S,
    recovery: impl Fn(&mut S) -> &mut Recovery,
    all: usize,
    mut run: impl FnMut(&mut S, Range<usize>) -> Result<(), GpuError>,
    mut restart: impl FnMut(&mut S) -> Result<(), GpuError>,
    mut smaller: impl FnMut(&mut S, usize),
) -> Result<(), GpuError> {
    if let Some(cause) = recovery(state).failure() {
        return Err(GpuError::Device(cause.to_owned()));
    }
    let mut done = 0;
    while done < all {
        let count = recovery(state).limit().min(all - done);
        match run(state, done..done + count) {
            Ok(()) => done += count,
            Err(fault) => match recovery(state).after(&fault, count) {
                Next::Smaller => {
                    let limit = recovery(state).limit();
                    smaller(state, limit);
                }
                Next::Restart => {
                    if let Err(e) = restart(state) {
                        recovery(state).gave_up(format!("{fault}; it could not be restarted: {e}"));
                        return Err(fault);
                    }
                }
                Next::Fail(cause) => {
                    return Err(match fault {
                        GpuError::Device(_) => GpuError::Device(cause),
                        other => other,
                    });
                }
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        recovery: Recovery,
        /// What the next runs give.
        faults: Vec<Option<GpuError>>,
        ran: Vec<Range<usize>>,
        restarts: usize,
        limits: Vec<usize>,
        restart_works: bool,
    }

    fn fake(limit: usize, faults: &[Option<GpuError>]) -> Fake {
        Fake {
            recovery: Recovery::new(limit),
            faults: faults.iter().rev().cloned().collect(),
            ran: Vec::new(),
            restarts: 0,
            limits: Vec::new(),
            restart_works: true,
        }
    }

    fn go(fake: &mut Fake, all: usize) -> Result<(), GpuError> {
        with_recovery(
            fake,
            |f| &mut f.recovery,
            all,
            |f, range| {
                f.ran.push(range);
                f.faults.pop().flatten().map_or(Ok(()), Err)
            },
            |f| {
                f.restarts += 1;
                if f.restart_works { Ok(()) } else { Err(GpuError::Unusable("gone".into())) }
            },
            |f, limit| f.limits.push(limit),
        )
    }

    fn memory() -> Option<GpuError> {
        Some(GpuError::OutOfMemory("no room".into()))
    }

    fn device() -> Option<GpuError> {
        Some(GpuError::Device("illegal address".into()))
    }

    #[test]
    fn faults_are_told_apart_by_their_words() {
        let text = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")\n   0: candle_core::...";
        let fault = GpuError::of_text(text);
        assert!(matches!(&fault, GpuError::OutOfMemory(line) if !line.contains('\n')), "{fault}");
        assert!(matches!(GpuError::of_text("CublasError(CUBLAS_STATUS_ALLOC_FAILED)"), GpuError::OutOfMemory(_)));
        for text in ["DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"\")", "CudnnError(CUDNN_STATUS_EXECUTION_FAILED)"] {
            assert!(matches!(GpuError::of_text(text), GpuError::Device(_)), "{text}");
        }
        assert!(matches!(GpuError::of_text("shape mismatch in matmul"), GpuError::Refused(_)));
    }

    #[test]
    fn every_fault_at_the_start_says_what_to_do() {
        for (word, _, advice) in ADVICE {
            let error = GpuError::at_start(1, &format!("DriverError(CUDA_ERROR_{word}, \"x\")\nmore")).to_string();
            assert!(error.starts_with("GPU 1: ") && error.ends_with(advice) && !error.contains('\n'), "{error}");
        }
        assert!(GpuError::at_start(0, "CUDA_ERROR_SOMETHING_ELSE").to_string().contains("nvidia-smi"));
        assert!(GpuError::no_such_device(3, 2).to_string().contains("cuda:1"));
    }

    #[test]
    fn memory_that_runs_out_lowers_the_batch_and_nothing_is_lost() {
        let mut f = fake(8, &[memory(), memory(), None]);
        assert_eq!(go(&mut f, 8), Ok(()));
        assert_eq!(f.ran, [0..8, 0..4, 0..2, 2..4, 4..6, 6..8]);
        assert_eq!((f.limits.as_slice(), f.restarts), (&[4, 2][..], 0));
        f.ran.clear();
        assert_eq!(go(&mut f, 3), Ok(()));
        assert_eq!(f.ran, [0..2, 2..3], "the limit stays");
    }

    #[test]
    fn one_second_that_does_not_fit_is_lost_and_the_device_stays() {
        let mut f = fake(1, &[memory()]);
        assert!(matches!(go(&mut f, 1), Err(GpuError::OutOfMemory(_))));
        assert_eq!(f.recovery.failure(), None);
        assert_eq!(go(&mut f, 1), Ok(()));
    }

    #[test]
    fn a_device_is_restarted_once_and_then_given_up() {
        let mut f = fake(4, &[None, device(), None]);
        assert_eq!(go(&mut f, 8), Ok(()));
        assert_eq!((f.ran.as_slice(), f.restarts), (&[0..4, 4..8, 4..8][..], 1));
        f.faults = vec![device()];
        let error = go(&mut f, 1).unwrap_err().to_string();
        assert!(error.contains("again after its restart") && error.contains("illegal address"), "{error}");
        f.ran.clear();
        assert!(matches!(go(&mut f, 1), Err(GpuError::Device(_))));
        assert!(f.ran.is_empty() && f.restarts == 1, "it is not asked again");
    }

    #[test]
    fn a_restart_that_fails_gives_the_device_up() {
        let mut f = fake(4, &[device()]);
        f.restart_works = false;
        assert!(go(&mut f, 2).is_err());
        assert!(f.recovery.failure().is_some_and(|cause| cause.contains("gone") && cause.contains("illegal")));
    }
}
