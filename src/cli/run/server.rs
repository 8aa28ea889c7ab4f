//! What `touchline run` listens to: the address of its page, and signals.

use std::fs::File;
use std::net::SocketAddr;

use crossbeam_channel::{Receiver, bounded};

use crate::config;
use crate::error::Result;
use crate::publish::http::{self, PackAccess, StreamAccess};
use crate::publish::hub::Hub;
use crate::publish::packs::PackDesk;
use crate::publish::streams::StreamDesk;

/// Where the server's clients ask for changes.
pub(super) struct Desks {
    pub(super) packs: PackDesk,
    pub(super) streams: StreamDesk,
}

/// The HTTP server, if one is wanted.
pub(super) struct Server {
    pub(super) address: Option<SocketAddr>,
    shutdown: Option<tokio::sync::oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<Result<()>>>,
}

impl Server {
    /// Listens. Over an address of other machines the desks are closed; that of the packs unless `allow_pack_updates`.
    pub(super) fn start(
        runtime: &tokio::runtime::Runtime,
        listen: Option<&str>,
        hub: &Hub,
        desks: Desks,
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
        let packs = PackAccess { desk: desks.packs, open: local || allow_pack_updates };
        let streams = StreamAccess { desk: desks.streams, open: local };
        let (shutdown, stopped) = tokio::sync::oneshot::channel::<()>();
        let shut_down = async move {
            // The sender going away is a shutdown as well.
            let _ = stopped.await;
        };
        let task = runtime.spawn(http::serve_with(listener, hub.clone(), Some(packs), Some(streams), shut_down));
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

/// A message on the first SIGINT or SIGTERM, after `on_stop`; the second ends the program at once. SIGHUP calls
/// `on_hang_up`; when it says that the terminal is gone it stops the program, as it does any other.
pub(super) fn catch_signals(
    runtime: &tokio::runtime::Runtime,
    on_hang_up: impl Fn() + Send + Sync + 'static,
    on_stop: impl Fn() + Send + Sync + 'static,
) -> Receiver<()> {
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
                    on_hang_up();
                    continue;
                },
            }
            if stops > 0 {
                std::process::exit(130);
            }
            stops += 1;
            on_stop();
            let _ = to.send(());
        }
    });
    stop
}

/// Whether a terminal controls the process: once it has hung up, the device cannot be opened any more.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}
