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

/// What to do next after a fault, and what has been lost to faults so far. It decides and counts; acting is the engine's.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Seconds that go through at once, at most.
    limit: usize,
    /// Whether the one restart there is has been used since the device last worked.
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
