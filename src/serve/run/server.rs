//! What `touchline run` listens to: the address of its page, and signals.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use crate::config::{Listen, TlsFile};
use crate::publish::access::{Access, AccessConfig, LogOuts, SessionArchive, TokenSource};
use crate::publish::http;
use crate::publish::http::{PackAccess, Serving, StreamAccess};
use crate::publish::hub::Hub;
use crate::publish::packs::PackDesk;
use crate::publish::serve::Limits;
use crate::publish::streams::StreamDesk;
use crate::publish::tls::{Tls, TlsFiles};
use touchline_core::error::{Error, Result};
use touchline_media::guard::SourcePolicy;

/// The variables that a token may come from. A flag would show it to everyone who lists processes.
const ADMIN_TOKEN: &str = "TOUCHLINE_ADMIN_TOKEN";
const READ_TOKEN: &str = "TOUCHLINE_READ_TOKEN";

/// Who may do what over HTTP.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// Bearer token of those who may read and change; without a file, the variable `TOUCHLINE_ADMIN_TOKEN`.
    pub admin_token_file: Option<PathBuf>,
    /// Bearer token of those who may only read; without a file, the variable `TOUCHLINE_READ_TOKEN`.
    pub read_token_file: Option<PathBuf>,
    /// Everyone who reaches the server may read.
    pub allow_anonymous: bool,
    /// Everyone who reaches the server may change the pack, where no admin token is set.
    pub allow_pack_updates: bool,
    pub tls: Option<TlsFile>,
}

impl AccessSettings {
    fn config(&self) -> Result<AccessConfig> {
        Ok(AccessConfig {
            admin_token: token(self.admin_token_file.as_ref(), ADMIN_TOKEN)?,
            read_token: token(self.read_token_file.as_ref(), READ_TOKEN)?,
            allow_anonymous: self.allow_anonymous,
            allow_pack_updates: self.allow_pack_updates,
        })
    }

    fn tls(&self) -> Result<Option<Arc<Tls>>> {
        let Some(TlsFile { cert, key }) = &self.tls else { return Ok(None) };
        Tls::open(TlsFiles { cert: cert.clone(), key: key.clone() }).map(|tls| Some(Arc::new(tls)))
    }
}

/// The file goes over the environment.
fn token(file: Option<&PathBuf>, name: &'static str) -> Result<Option<TokenSource>> {
    if let Some(path) = file {
        return Ok(Some(TokenSource::File(path.clone())));
    }
    match std::env::var(name) {
        Ok(text) => Ok(Some(TokenSource::Environment { name, text })),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Error::Usage(format!("the variable {name} is no text; make a token with `openssl rand -hex 32`")))
        }
    }
}

/// What the server reads again on SIGHUP.
#[derive(Clone, Default)]
pub(super) struct Reload {
    access: Option<Arc<Access>>,
    tls: Option<Arc<Tls>>,
}

impl Reload {
    /// Reads tokens and TLS files. What cannot be used is said, and stays as it was.
    pub(super) fn reload(&self) {
        for outcome in [self.access.as_ref().map(|a| a.reload()), self.tls.as_ref().map(|t| t.reload())] {
            if let Some(Err(e)) = outcome {
                tracing::error!("{e}; the old one stays in use");
            }
        }
    }
}

/// Where the server's clients ask for changes, and what they may ask for.
pub(super) struct Desks {
    pub(super) packs: PackDesk,
    pub(super) streams: StreamDesk,
    pub(super) policy: Arc<SourcePolicy>,
}

/// The HTTP server, if one is wanted.
pub(super) struct Server {
    pub(super) address: Option<SocketAddr>,
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    pub(super) reload: Reload,
    shutdown: Option<tokio::sync::oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Server {
    /// # Errors
    /// [`Error::Usage`] for tokens and TLS files that cannot be used, and for an address of other machines while nothing says
    /// who may do what; [`Error::Output`] for an address that cannot be listened on.
    pub(super) fn start(
        runtime: &tokio::runtime::Runtime,
        listen: Listen,
        hub: &Hub,
        desks: Desks,
        args: &AccessSettings,
        sessions: Option<(Arc<dyn SessionArchive>, LogOuts)>,
    ) -> Result<Self> {
        let Listen::At(wanted) = listen else {
            return Ok(Self { address: None, scheme: "", reload: Reload::default(), shutdown: None, task: None });
        };
        let listen = wanted.to_string();
        let metrics = hub.metrics().clone();
        // Before anything listens: an address must not be open for a moment without its rules.
        let tls = args.tls()?;
        Access::new(args.config()?, wanted, hub.clock().clone(), metrics.clone())?;
        let listener = runtime.block_on(http::bind(&listen))?;
        let address = listener.local_addr().map_err(|e| Error::Internal(format!("no address to listen on: {e}")))?;
        // Again with the port that the system chose.
        let access = Access::new(args.config()?, address, hub.clock().clone(), metrics)?;
        let access = Arc::new(match sessions {
            Some((archive, kept)) => access.with_archive(archive, kept),
            None => access,
        });
        if let Some(summary) = access.summary() {
            tracing::warn!("{listen}: {summary}");
        }
        if !address.ip().is_loopback() && tls.is_none() {
            tracing::warn!("{listen}: without TLS, tokens and pictures can be read on the way; see --tls-cert");
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let reload = Reload { access: Some(access.clone()), tls: tls.clone() };
        let packs = Some(PackAccess { desk: desks.packs, open: access.takes_packs() });
        let streams = Some(StreamAccess { desk: desks.streams, policy: desks.policy });
        let serving = Serving { packs, streams, access, tls, limits: Limits::default() };
        let (shutdown, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = runtime.spawn(http::serve_with(listener, hub.clone(), serving, async move {
            // The sender going away is a shutdown as well.
            let _ = stopped.await;
        }));
        Ok(Self { address: Some(address), scheme, reload, shutdown: Some(shutdown), task: Some(task) })
    }

    pub(super) fn stop(self, runtime: tokio::runtime::Runtime) {
        drop(self.shutdown);
        if let Some(task) = self.task {
            // A panic in it was printed where it happened.
            let _ = runtime.block_on(task);
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
