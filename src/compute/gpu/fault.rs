//! Faults of a GPU, and recovery from them.

use std::ops::Range;

/// A call to a GPU failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// A smaller batch may still fit.
    #[error("out of device memory ({0})")]
    OutOfMemory(String),
    /// The device or its driver failed; its context accepts no more calls.
    #[error("device failure: {0}")]
    Device(String),
    /// The device cannot be used at all; the message says what is missing and what to install or change.
    #[error("{0}")]
    Unusable(String),
    /// A request that no device can meet.
    #[error("{0}")]
    Refused(String),
}

/// Part of a driver's or library's error text, its meaning, and advice.
const ADVICE: [(&str, &str, &str); 13] = [
    ("NO_DEVICE", "the driver finds no GPU", "check that one is visible (nvidia-smi, CUDA_VISIBLE_DEVICES)"),
    ("INVALID_DEVICE", "there is no such GPU", "choose one that nvidia-smi lists"),
    ("INSUFFICIENT_DRIVER", "the NVIDIA driver is too old for this program", "install driver 580 or newer"),
    ("UNSUPPORTED_PTX", "the NVIDIA driver is too old for this program", "install driver 580 or newer"),
    (
        "DRIVER_MISMATCH",
        "the driver library and the kernel module have different versions",
        "reboot, or reload the module",
    ),
    ("STUB_LIBRARY", "libcuda.so.1 is the toolkit's stub, not the driver", "remove the stubs from LD_LIBRARY_PATH"),
    (
        "DEVICE_UNAVAILABLE",
        "the GPU is in exclusive use by another program",
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
    /// Classifies the error text of candle, cudarc or a library. Only its first line is kept.
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

    /// An error while GPU `ordinal` is opened, with its meaning and advice.
    pub fn at_start(ordinal: usize, text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default().trim();
        GpuError::Unusable(match ADVICE.iter().find(|(word, _, _)| text.contains(word)) {
            Some((_, what, advice)) => format!("GPU {ordinal}: {what} ({line}); {advice}"),
            None => format!(
                "GPU {ordinal} cannot be opened ({line}); check that nvidia-smi works, and look for driver messages in dmesg"
            ),
        })
    }

    /// GPU `ordinal` was asked for and there are only `count`.
    pub fn no_such_device(ordinal: usize, count: usize) -> Self {
        let there = match count {
            0 => "the driver finds no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES".to_owned(),
            1 => "there is one; give cuda:0".to_owned(),
            n => format!("there are {n}; give cuda:0 to cuda:{}", n - 1),
        };
        GpuError::Unusable(format!("GPU {ordinal}: {there}"))
    }
}

/// Decides what to do after a fault. The caller acts on the decision.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The largest batch, seconds.
    limit: usize,
    /// Whether the only restart has been used.
    restarted: bool,
    failed: Option<String>,
}

/// The next step after a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try the same seconds again in batches of at most [`Recovery::limit`].
    Smaller,
    /// Restart the device with a new context and try again.
    Restart,
    /// Give up, with this message.
    Fail(String),
}

impl Recovery {
    /// `limit` is the initial limit of a batch, seconds; at least 1.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), restarted: false, failed: None }
    }

    /// The largest batch, seconds.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Why the device is out of use, if it is.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Decides after a fault of a batch of `seconds`.
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
            // A single second does not fit, or the request is invalid: the device itself works.
            GpuError::OutOfMemory(_) | GpuError::Unusable(_) | GpuError::Refused(_) => Next::Fail(fault.to_string()),
        }
    }

    /// Records that the restart failed.
    pub fn gave_up(&mut self, cause: String) {
        self.failed = Some(cause);
    }
}

/// Runs `all` seconds through `run` in batches that `recovery` allows, and retries after faults. `restart` restarts the device
/// with a new context; `smaller` receives the new limit after a batch that did not fit.
///
/// # Errors
/// The last fault, when nothing is left to try. Once the device has been given up, every call fails at once with the same
/// message.
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
        /// The results of the next runs.
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

    fn run(fake: &mut Fake, all: usize) -> Result<(), GpuError> {
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
    fn faults_are_classified_by_their_text() {
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
    fn every_fault_at_the_start_has_advice() {
        for (word, _, advice) in ADVICE {
            let error = GpuError::at_start(1, &format!("DriverError(CUDA_ERROR_{word}, \"x\")\nmore")).to_string();
            assert!(error.starts_with("GPU 1: ") && error.ends_with(advice) && !error.contains('\n'), "{error}");
        }
        assert!(GpuError::at_start(0, "CUDA_ERROR_SOMETHING_ELSE").to_string().contains("nvidia-smi"));
        assert!(GpuError::no_such_device(3, 2).to_string().contains("cuda:1"));
    }

    #[test]
    fn running_out_of_memory_lowers_the_batch_and_loses_nothing() {
        let mut f = fake(8, &[memory(), memory(), None]);
        assert_eq!(run(&mut f, 8), Ok(()));
        assert_eq!(f.ran, [0..8, 0..4, 0..2, 2..4, 4..6, 6..8]);
        assert_eq!((f.limits.as_slice(), f.restarts), (&[4, 2][..], 0));
        f.ran.clear();
        assert_eq!(run(&mut f, 3), Ok(()));
        assert_eq!(f.ran, [0..2, 2..3], "the limit stays");
    }

    #[test]
    fn one_second_that_does_not_fit_is_lost_and_the_device_is_kept() {
        let mut f = fake(1, &[memory()]);
        assert!(matches!(run(&mut f, 1), Err(GpuError::OutOfMemory(_))));
        assert_eq!(f.recovery.failure(), None);
        assert_eq!(run(&mut f, 1), Ok(()));
    }

    #[test]
    fn a_device_is_restarted_once_and_then_abandoned() {
        let mut f = fake(4, &[None, device(), None]);
        assert_eq!(run(&mut f, 8), Ok(()));
        assert_eq!((f.ran.as_slice(), f.restarts), (&[0..4, 4..8, 4..8][..], 1));
        f.faults = vec![device()];
        let error = run(&mut f, 1).unwrap_err().to_string();
        assert!(error.contains("again after its restart") && error.contains("illegal address"), "{error}");
        f.ran.clear();
        assert!(matches!(run(&mut f, 1), Err(GpuError::Device(_))));
        assert!(f.ran.is_empty() && f.restarts == 1, "the device is not used again");
    }

    #[test]
    fn a_failed_restart_abandons_the_device() {
        let mut f = fake(4, &[device()]);
        f.restart_works = false;
        assert!(run(&mut f, 2).is_err());
        assert!(f.recovery.failure().is_some_and(|cause| cause.contains("gone") && cause.contains("illegal")));
    }
}
