//! The error type of the program. Each message is one line: what failed, where, and what to do next.

use std::path::PathBuf;

use crate::cause::Cause;

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that ends a command. Its `Display` is one line: place, cause, advice.
///
/// Text from outside (URLs, GStreamer messages) must be redacted first: see [`crate::redact`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line, the configuration or a request is invalid.
    #[error("{0}")]
    Usage(String),
    /// A stream or file cannot be opened, read or decoded.
    #[error("{source_name}: {cause}; {advice}")]
    Source {
        /// Type of the failure.
        kind: Cause,
        /// The source, redacted.
        source_name: String,
        /// What failed.
        cause: String,
        /// What to do.
        advice: String,
    },
    /// A model pack is missing, corrupt or does not fit.
    #[error("pack {}: {cause}; {advice}", path.display())]
    Pack {
        /// Folder of the pack.
        path: PathBuf,
        /// What failed.
        cause: String,
        /// What to do.
        advice: String,
    },
    /// An output cannot be written or served.
    #[error("{place}: {cause}; {advice}")]
    Output {
        /// File, address or setting.
        place: String,
        /// What failed.
        cause: String,
        /// What to do.
        advice: String,
    },
    /// Training data are missing or do not fit.
    #[error("data {}: {cause}; {advice}", path.display())]
    Data {
        /// File or folder.
        path: PathBuf,
        /// What failed.
        cause: String,
        /// What to do.
        advice: String,
    },
    /// Some of several inputs failed. Each failure was reported when it happened.
    #[error("{failed} of {total} inputs failed; each is reported above")]
    Partial {
        /// Inputs that failed.
        failed: usize,
        /// All inputs.
        total: usize,
    },
    /// The requested GPU cannot be used, or failed permanently. The text says what is missing and what to install or change.
    #[error("{0}")]
    Device(String),
    /// The tensor library refused an operation: a bug or a machine out of memory.
    #[error("model computation failed: {0}; please report this with the command you ran")]
    Compute(String),
    /// A thread of the program ended unexpectedly, or the system has no resources for one.
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

    /// [`Error::Source`] with [`Cause::Other`].
    pub fn source_error(name: impl Into<String>, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::source_failure(Cause::Other, name, cause, advice)
    }

    /// [`Error::Source`] with the cause `kind`.
    pub fn source_failure(
        kind: Cause,
        name: impl Into<String>,
        cause: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Error::Source { kind, source_name: name.into(), cause: cause.into(), advice: advice.into() }
    }

    /// [`Error::Pack`] for the folder `path`.
    pub fn pack(path: impl Into<PathBuf>, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Pack { path: path.into(), cause: cause.into(), advice: advice.into() }
    }

    /// [`Error::Output`] for `place`.
    pub fn output(place: impl Into<String>, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Output { place: place.into(), cause: cause.into(), advice: advice.into() }
    }

    /// [`Error::Data`] for `path`.
    pub fn data(path: impl Into<PathBuf>, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Error::Data { path: path.into(), cause: cause.into(), advice: advice.into() }
    }
}
