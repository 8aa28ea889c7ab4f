//! Starts the HTTP server and handles signals.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::clips::ClipAccess;
use crate::config::{ADMIN_TOKEN, Listen, READ_TOKEN, TlsFile};
use crate::control::packs::PackControl;
use crate::control::probes::ProbeControl;
use crate::control::streams::StreamControl;
use crate::fleet::FleetDrain;
use crate::http;
use crate::http::access::{Access, AccessConfig, LogOuts, SessionArchive, TokenSource};
use crate::http::server::Limits;
use crate::http::tls::{Tls, TlsFiles};
use crate::http::{PackAccess, Serving, StreamAccess};
use crate::hub::Hub;
use crate::teach::TeachAccess;
use touchline_core::error::{Error, Result};
use touchline_media::guard::SourcePolicy;

/// Tokens, anonymous access and TLS of the HTTP server.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// File with the admin token (read and change). Without it, the variable `TOUCHLINE_ADMIN_TOKEN`.
    pub admin_token_file: Option<PathBuf>,
    /// File with the read token. Without it, the variable `TOUCHLINE_READ_TOKEN`.
    pub read_token_file: Option<PathBuf>,
    /// Everyone may read without a token.
    pub allow_anonymous: bool,
    /// Everyone may change the pack without a token, unless an admin token is set.
    pub allow_pack_updates: bool,
    /// Certificate and key; `None` serves plain HTTP.
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

/// The file overrides the environment.
fn token(file: Option<&PathBuf>, name: &'static str) -> Result<Option<TokenSource>> {
    if let Some(path) = file {
        return Ok(Some(TokenSource::File(path.clone())));
    }
    match std::env::var(name) {
        Ok(text) => Ok(Some(TokenSource::Environment { name, text })),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::Usage(format!(
            "the variable {name} is not valid UTF-8; create a token with `openssl rand -hex 32`"
        ))),
    }
}

/// Reloads tokens and TLS files on SIGHUP.
#[derive(Clone, Default)]
pub(super) struct Reload {
    access: Option<Arc<Access>>,
    tls: Option<Arc<Tls>>,
}

impl Reload {
    /// Reads tokens and TLS files again. A file that cannot be used is logged, and the old value stays.
    pub(super) fn reload(&self) {
        for outcome in [self.access.as_ref().map(|a| a.reload()), self.tls.as_ref().map(|t| t.reload())] {
            if let Some(Err(e)) = outcome {
                tracing::error!("{e}; the previous one stays in use");
            }
        }
    }
}

/// How handlers change packs and streams.
pub(super) struct Controls {
    pub(super) packs: PackControl,
    pub(super) streams: StreamControl,
    pub(super) policy: Arc<SourcePolicy>,
    pub(super) clips: Option<ClipAccess>,
    pub(super) teach: Option<TeachAccess>,
}

impl Controls {
    pub(super) fn new(
        packs: &PackControl,
        streams: &StreamControl,
        policy: &Arc<SourcePolicy>,
        (clips, teach): (Option<ClipAccess>, Option<TeachAccess>),
    ) -> Self {
        let (packs, streams, policy) = (packs.clone(), streams.clone(), policy.clone());
        Self { packs, streams, policy, clips, teach }
    }
}

/// The HTTP server, or nothing with `--listen off`.
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
    /// [`Error::Usage`] for tokens and TLS files that cannot be used, and for an address that other machines reach
    /// without any access rule; [`Error::Output`] for an address that cannot be listened on.
    pub(super) fn start(
        runtime: &tokio::runtime::Runtime,
        listen: Listen,
        hub: &Hub,
        (controls, probes): (Controls, ProbeControl),
        args: &AccessSettings,
        sessions: Option<(Arc<dyn SessionArchive>, LogOuts)>,
    ) -> Result<Self> {
        let Listen::At(wanted) = listen else {
            return Ok(Self { address: None, scheme: "", reload: Reload::default(), shutdown: None, task: None });
        };
        let listen = wanted.to_string();
        let metrics = hub.metrics().clone();
        // Checked before anything listens: the address must not be open without its rules, even for a moment.
        let tls = args.tls()?;
        Access::new(args.config()?, wanted, hub.clock().clone(), metrics.clone())?;
        let listener = runtime.block_on(http::bind(&listen))?;
        let address = listener.local_addr().map_err(|e| Error::Internal(format!("no address to listen on: {e}")))?;
        // Created again with the port that the system chose.
        let access = Access::new(args.config()?, address, hub.clock().clone(), metrics)?;
        let access = Arc::new(match sessions {
            Some((archive, kept)) => access.with_archive(archive, kept),
            None => access,
        });
        if let Some(summary) = access.summary() {
            tracing::warn!("{listen}: {summary}");
        }
        if !address.ip().is_loopback() && tls.is_none() {
            tracing::warn!("{listen}: no TLS: others on the network can read tokens and pictures; see --tls-cert");
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let reload = Reload { access: Some(access.clone()), tls: tls.clone() };
        let Controls { packs, streams, policy, clips, teach } = controls;
        let packs = Some(PackAccess { control: packs, open: access.takes_packs() });
        let streams = Some(StreamAccess { control: streams, policy, probes });
        let serving = Serving { packs, streams, clips, teach, access, tls, limits: Limits::default() };
        let (shutdown, stopped) = tokio::sync::oneshot::channel::<()>();
        let task = runtime.spawn(http::serve_with(listener, hub.clone(), serving, async move {
            // A dropped sender is a shutdown, too.
            let _ = stopped.await;
        }));
        Ok(Self { address: Some(address), scheme, reload, shutdown: Some(shutdown), task: Some(task) })
    }

    pub(super) fn stop(self, runtime: tokio::runtime::Runtime) {
        drop(self.shutdown);
        if let Some(task) = self.task {
            // The panic message was printed by the task.
            let _ = runtime.block_on(task);
        }
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    }
}

/// What happens before the program stops: the streams of a fleet are handed over, for a limited time.
pub(super) type HandOver = Option<(FleetDrain, Duration)>;

/// The first SIGINT or SIGTERM hands streams over, calls `on_stop` and sends a message; the second exits at once. SIGHUP calls
/// `on_hang_up`, unless the controlling terminal is gone: then it stops the program, as it does by default.
pub(super) fn catch_signals(
    runtime: &tokio::runtime::Runtime,
    on_hang_up: impl Fn() + Send + Sync + 'static,
    on_stop: impl Fn() + Send + Sync + 'static,
    hand_over: HandOver,
) -> Receiver<()> {
    let (to, stop) = bounded(2);
    let on_stop = Arc::new(on_stop);
    runtime.spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hang_up)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        else {
            tracing::warn!("cannot install signal handlers; an interrupt ends the program at once");
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
            let (to, on_stop, hand_over) = (to.clone(), on_stop.clone(), hand_over.clone());
            // Aside, so that a second signal still ends the program at once.
            tokio::spawn(async move {
                if let Some((fleet, limit)) = hand_over
                    && tokio::time::timeout(limit, fleet.drain()).await.is_err()
                {
                    tracing::warn!("not all streams are handed over after {} s; the program stops", limit.as_secs());
                }
                on_stop();
                let _ = to.send(());
            });
        }
    });
    stop
}

/// Whether the process has a controlling terminal. After a hang-up the device cannot be opened.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}
