//! What `touchline run` listens to: the address of its page, and signals.

use std::fs::File;
use std::net::SocketAddr;

use crossbeam_channel::{Receiver, bounded};

use crate::config;
use crate::error::Result;
use crate::publish::http::{self, PackAccess};
use crate::publish::hub::Hub;
use crate::publish::packs::PackDesk;

/// The HTTP server, if one is wanted.
pub(super) struct Server {
    pub(super) address: Option<SocketAddr>,
    shutdown: Option<tokio::sync::oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<Result<()>>>,
}

impl Server {
    /// Listens. Over an address of other machines `desk` is closed, unless `allow_pack_updates`.
    pub(super) fn start(
        runtime: &tokio::runtime::Runtime,
        listen: Option<&str>,
        hub: &Hub,
        desk: PackDesk,
        allow_pack_updates: bool,
    ) -> Result<Self> {
        let listen = listen.unwrap_or(config::DEFAULT_LISTEN);
        if listen == "off" {
            return Ok(Self { address: None, shutdown: None, task: None });
        }
        config::listen_address(listen)?;
        let listener = runtime.block_on(http::bind(listen))?;
        let address = listener.local_addr().ok();
        let local = address.is_some_and(|a| a.ip().is_loopback());
        if !local {
            let may = if allow_pack_updates { "sees the streams and may change the pack" } else { "sees the streams" };
            tracing::warn!("{listen} is open to other machines, without login: anyone who reaches it {may}");
        }
        let access = PackAccess { desk, open: local || allow_pack_updates };
        let (shutdown, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = runtime.spawn(http::serve_with_packs(listener, hub.clone(), Some(access), async move {
            // The sender going away is a shutdown as well.
            let _ = stopped.await;
        }));
        Ok(Self { address, shutdown: Some(shutdown), task: Some(task) })
    }

    pub(super) fn stop(self, runtime: tokio::runtime::Runtime) {
        drop(self.shutdown);
        if let Some(task) = self.task
            && let Ok(Err(e)) = runtime.block_on(task)
        {
            tracing::error!("{e}");
        }
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    }
}

/// A message on the first SIGINT or SIGTERM; the second ends the program at once. SIGHUP asks `desk` to read the pack's
/// directory again; when it says that the terminal is gone it stops the program, as it does any other.
pub(super) fn catch_signals(runtime: &tokio::runtime::Runtime, desk: PackDesk) -> Receiver<()> {
    let (to, stop) = bounded(2);
    runtime.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        else {
            tracing::warn!("signals cannot be caught; an interrupt ends the program at once");
            return;
        };
        let had_terminal = has_terminal();
        let mut stops = 0;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => if !had_terminal || has_terminal() {
                    desk.hang_up();
                    continue;
                },
            }
            if stops > 0 {
                std::process::exit(130);
            }
            stops += 1;
            let _ = to.send(());
        }
    });
    stop
}

/// Whether a terminal controls the process: once it has hung up, the device cannot be opened any more.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}
