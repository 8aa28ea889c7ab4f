//! The loopback proxy of a guarded stream: a server that GStreamer connects to instead of the source.
//!
//! The proxy resolves names, checks the addresses, connects to a checked address, and does TLS with the original name. For a
//! recording on a web server it follows redirects itself (`web`). For RTSP it relays one connection and rejects redirects
//! (`relay`). HLS does not need it, because Touchline has its own HLS client.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use url::Url;

use super::connect::{Connection, connect};
use super::{Refusal, SourcePolicy, Target, relay, web};
use crate::web::WebClient;
use touchline_core::cause::Cause;

/// The callback for refusals, which ends the session.
pub(crate) type OnRefusal = Box<dyn Fn(Refusal) + Send + Sync>;

/// A proxy that runs until it is dropped.
pub(crate) struct LoopbackProxy {
    address: SocketAddr,
    shared: Arc<ProxyState>,
    _close: oneshot::Sender<()>,
}

/// The destination of a proxy.
#[derive(Clone)]
enum ProxyTarget {
    /// A recording on a web server.
    Web(Url),
    /// An RTSP server.
    Rtsp(Target),
}

/// The state that its connections share.
pub(super) struct ProxyState {
    policy: Arc<SourcePolicy>,
    /// The secret path of a recording. It replaces the address in GStreamer's errors and logs, and keeps other programs on this
    /// machine out.
    pub path: String,
    pub web: WebClient,
    on_refusal: Mutex<Option<OnRefusal>>,
    /// The last failure, which explains an error that GStreamer reports.
    failure: Mutex<Option<Refusal>>,
}

impl LoopbackProxy {
    /// Opens a proxy for the stream `id`.
    ///
    /// # Errors
    /// When the system has no port or no thread left.
    fn open(policy: Arc<SourcePolicy>, id: &str, target: ProxyTarget) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut secret = [0; 16];
        SystemRandom::new().fill(&mut secret).map_err(|_| io::Error::other("no random numbers"))?;
        let (path, web) = (format!("/{}", BASE64.encode(secret)), WebClient::new(policy.clone()));
        let (on_refusal, failure) = Default::default();
        let shared = Arc::new(ProxyState { policy, path, web, on_refusal, failure });
        let (close, closed) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = shared.clone();
        std::thread::Builder::new().name(format!("proxy/{id}")).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, serving, target) => {}
                    // Dropping the sender closes the proxy and all its connections.
                    _ = closed => {}
                }
            });
            // Does not wait for a name that is still being resolved.
            runtime.shutdown_background();
        })?;
        Ok(Self { address, shared, _close: close })
    }

    /// Opens a proxy for a recording on a web server. Returns it with the URI that GStreamer opens instead of `uri`.
    ///
    /// # Errors
    /// As [`LoopbackProxy::open`], or if `uri` is invalid.
    pub fn web(policy: Arc<SourcePolicy>, id: &str, uri: &str) -> io::Result<(Self, String)> {
        let url = Url::parse(uri).map_err(|_| io::Error::other("this is not a valid address of a recording"))?;
        let proxy = Self::open(policy, id, ProxyTarget::Web(url))?;
        let uri = format!("http://{}{}", proxy.address, proxy.shared.path);
        Ok((proxy, uri))
    }

    /// As [`LoopbackProxy::web`], for an RTSP server.
    ///
    /// # Errors
    /// As [`LoopbackProxy::open`], or if `uri` is invalid.
    pub fn rtsp(policy: Arc<SourcePolicy>, id: &str, uri: &str) -> io::Result<(Self, String)> {
        let target = Target::parse(uri).map_err(|refusal| io::Error::other(refusal.to_string()))?;
        let mut url = target.url.clone();
        let proxy = Self::open(policy, id, ProxyTarget::Rtsp(target))?;
        let wrong = |()| io::Error::other("this is not a valid stream address");
        url.set_scheme("rtsp").map_err(wrong)?;
        url.set_ip_host(proxy.address.ip()).map_err(wrong)?;
        url.set_port(Some(proxy.address.port())).map_err(wrong)?;
        Ok((proxy, url.into()))
    }

    /// Sets the callback for refusals. Calls it at once if there was a refusal before.
    pub fn on_refusal(&self, callback: OnRefusal) {
        let refused = self.last_failure().filter(|refusal| refusal.kind == Cause::Refused);
        if let Some(refusal) = refused {
            callback(refusal);
        }
        *self.shared.on_refusal.lock() = Some(callback);
    }

    /// The last failure, unless a later connection succeeded.
    pub fn last_failure(&self) -> Option<Refusal> {
        self.shared.failure.lock().clone()
    }
}

impl ProxyState {
    /// Stores a failure. A refusal by the policy ends the session.
    pub fn record_failure(&self, refusal: Refusal) {
        *self.failure.lock() = Some(refusal.clone());
        if refusal.kind == Cause::Refused
            && let Some(callback) = self.on_refusal.lock().as_ref()
        {
            callback(refusal);
        }
    }

    /// Clears a failure after a successful connection.
    pub fn clear_failure(&self) {
        let mut failure = self.failure.lock();
        if failure.as_ref().is_some_and(|t| t.kind != Cause::Refused) {
            *failure = None;
        }
    }

    /// Connects to a target if the policy allows it.
    ///
    /// # Errors
    /// If the policy rejects the target, or the connection fails.
    pub async fn connect(&self, target: &Target) -> Result<Box<dyn Connection>, Refusal> {
        connect(&self.policy, target).await
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<ProxyState>, target: ProxyTarget) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                if touchline_core::limits::is_out_of_files(&e) {
                    touchline_core::limits::log_out_of_files();
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (shared, target) = (shared.clone(), target.clone());
        // Ends with the runtime when the proxy is closed.
        tokio::spawn(async move {
            match target {
                ProxyTarget::Web(url) => web::serve(stream, shared, url).await,
                ProxyTarget::Rtsp(target) => relay::serve(stream, &shared, &target).await,
            }
        });
    }
}
