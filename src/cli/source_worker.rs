//! `touchline source-worker`: the process of one source. Started by the program itself, not by people.

use std::os::unix::net::UnixStream;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use touchline_core::error::{Error, Result};
use touchline_media::worker;

#[derive(Debug, Args)]
pub struct SourceWorkerArgs {
    /// Id of the stream, shown in the list of processes.
    id: String,
}

pub fn source_worker(args: &SourceWorkerArgs) -> Result<()> {
    let broken = |what: &dyn std::fmt::Display| Error::Internal(format!("the process of {}: {what}", args.id));
    let socket = rustix::stdio::stdin().try_clone_to_owned().map_err(|e| broken(&e))?;
    // A manager tells all processes of a unit to end at once. This one ends when the program says so, or ends itself.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|e| broken(&e))?;
    let _entered = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        drop(signal(kind).map_err(|e| broken(&e))?);
    }
    worker::serve(UnixStream::from(socket))
}
