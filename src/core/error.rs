//! The errors a person meets: each names what failed, where, and what to do next, on one line.

use std::path::PathBuf;

use crate::cause::Cause;

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that ends a command. Its `Display` is one line: cause, place, what to do.
///
/// Text that comes from outside (URLs, GStreamer messages) must be redacted before it goes in: see
/// [`crate::redact`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the configuration file asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// A stream or file cannot be opened, read or decoded.
    #[error("{source_name}: {cause}; {advice}")]
    Source { kind: Cause, source_name: String, cause: String, advice: String },
    /// A model pack is missing, corrupt or does not fit.
    #[error("pack {}: {cause}; {advice}", path.display())]
    Pack { path: PathBuf, cause: String, advice: String },
    /// Something cannot be written or served.
    #[error("{place}: {cause}; {advice}")]
    Output { place: String, cause: String, advice: String },
    /// Training data are missing or do not fit.
    #[error("data {}: {cause}; {advice}", path.display())]
    Data { path: PathBuf, cause: String, advice: String },
    /// Several inputs were processed and some failed; each was reported when it happened.
    #[error("{failed} of {total} inputs failed; each is reported above")]
    Partial { failed: usize, total: usize },
    /// The GPU that was asked for cannot be used, or has failed for good: what lacks, and what to install or change.
    #[error("{0}")]
    Device(String),
    /// The tensor library refused an operation: a bug or a machine out of memory.
    #[error("model computation failed: {0}; please report this with the command you ran")]
    Compute(String),
    /// A thread of the program ended that should not have.
    #[error("internal failure: {0}; please report this with the command you ran")]
    Internal(String),
}

#[cfg(feature = "candle")]
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Compute(error.to_string())
    }
}

impl Error {
    /// The exit code of the process, as documented in `touchline --help`.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Source { .. } => 3,
            Error::Pack { .. } => 4,
            Error::Output { .. } => 5,
            Error::Data { .. } => 6,
            Error::Partial { .. } => 7,
            Error::Device(_) => 8,
            Error::Compute(_) | Error::Internal(_) => 1,
        }
    }

    /// A failure that no type is known for.
    pub fn source_error(name: impl Into<String>, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::source_failure(Cause::Other, name, cause, advice)
    }

    /// A failure of the type `kind`.
    pub fn source_failure(
        kind: Cause,
        name: impl Into<String>,
        cause: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Error::Source { kind, source_name: name.into(), cause: cause.into(), advice: advice.into() }
    }

    pub fn pack(path: impl Into<PathBuf>, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Pack { path: path.into(), cause: cause.into(), advice: advice.into() }
    }

    pub fn output(place: impl Into<String>, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Output { place: place.into(), cause: cause.into(), advice: advice.into() }
    }

    pub fn data(path: impl Into<PathBuf>, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Data { path: path.into(), cause: cause.into(), advice: advice.into() }
    }
}
