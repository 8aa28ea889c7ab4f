//! Accepts and limits connections. The routes answer the requests.
//!
//! axum's own loop has no limits. This one closes and counts idle connections, slow requests, clients that do not read,
//! and connections above the limit. The length of an answer is not limited: live records and pictures do not end.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use super::access::{Peer, subscriber};
use super::answer::problem;
use super::tls::Tls;
use crate::metrics::{HttpRefusal, Metrics};

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections. A page uses up to four.
    pub connections: usize,
    /// Open connections per address, so that one client cannot shut out the others. Behind a proxy all clients share an
    /// address.
    pub per_address: usize,
    /// Additional connections that answer `PROBES` only, so that monitoring works when the server is full. One address
    /// may use half of them.
    pub reserve: usize,
    /// Timeout from one request to the headers of the next.
    pub header: Duration,
    /// How long a client may read nothing.
    pub write: Duration,
    /// Timeout of the TLS handshake.
    pub handshake: Duration,
}

/// Connections of a server, if the limit of open files permits.
const CONNECTIONS_MAX: usize = 512;

impl Limits {
    /// The limits of a server with this number of connections.
    fn of(connections: usize) -> Self {
        Self {
            connections,
            per_address: (connections * 3 / 4).max(1),
            reserve: 16,
            header: Duration::from_secs(20),
            write: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(touchline_core::limits::connections(CONNECTIONS_MAX))
    }
}

/// Paths that a reserved connection answers.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Timeout for the request on a reserved connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Most headers of a request, and most bytes of them.
const HEADERS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Pause after a failure to accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections until `closing`, then waits until all are served. The caller limits that wait.
pub(crate) async fn run(
    listener: TcpListener,
    app: Router,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    metrics: Metrics,
    mut closing: watch::Receiver<bool>,
) {
    let slots = ConnectionSlots::new(limits);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // The connection broke, or no file descriptor is free: the next attempt may succeed.
                if touchline_core::limits::is_out_of_files(&e) {
                    touchline_core::limits::log_out_of_files();
                }
                tracing::debug!("a connection was not accepted: {e}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(slot) = slots.acquire(address.ip()) else {
            metrics.http_refused(HttpRefusal::Connections);
            continue;
        };
        let (app, tls, metrics, closing) = (app.clone(), tls.clone(), metrics.clone(), closing.clone());
        let limits = if slot.is_reserve {
            Limits {
                header: limits.header.min(PROBE_TIMEOUT),
                handshake: limits.handshake.min(PROBE_TIMEOUT),
                ..limits
            }
        } else {
            limits
        };
        let app = if slot.is_reserve { probes_only(app, metrics.clone()) } else { app };
        tokio::spawn(async move {
            let _open = ConnectionGauge::new(&metrics);
            connection(stream, address, app, tls, limits, &metrics, closing).await;
            drop(slot);
        });
    }
    drop(listener);
    slots.wait_until_free().await;
}

/// The free connections.
struct ConnectionSlots {
    limits: Limits,
    common: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    taken: Arc<Mutex<HashMap<(IpAddr, bool), usize>>>,
}

/// The slot of a connection. Dropping it frees the slot.
struct ConnectionSlot {
    is_reserve: bool,
    address: IpAddr,
    taken: Arc<Mutex<HashMap<(IpAddr, bool), usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionSlots {
    fn new(limits: Limits) -> Self {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        Self {
            limits,
            common: semaphore(limits.connections),
            reserve: semaphore(limits.reserve),
            taken: Arc::default(),
        }
    }

    /// A slot for a connection from `address`; a reserved one if no other is free.
    fn acquire(&self, address: IpAddr) -> Option<ConnectionSlot> {
        let address = subscriber(address);
        let (common, reserve) = (self.limits.per_address, self.limits.reserve.div_ceil(2));
        [(&self.common, false, common), (&self.reserve, true, reserve)].into_iter().find_map(
            |(room, is_reserve, most)| {
                let mut taken = self.taken.lock();
                let count = taken.entry((address, is_reserve)).or_default();
                let permit = if *count < most { room.clone().try_acquire_owned().ok() } else { None };
                let Some(permit) = permit else {
                    taken.retain(|_, count| *count > 0);
                    return None;
                };
                *count += 1;
                Some(ConnectionSlot { is_reserve, address, taken: self.taken.clone(), _permit: permit })
            },
        )
    }

    /// Waits until all slots are free.
    async fn wait_until_free(&self) {
        for (room, places) in [(&self.common, self.limits.connections), (&self.reserve, self.limits.reserve)] {
            // Fails only when the semaphore is closed, which it never is.
            let _ = room.acquire_many(u32::try_from(places).unwrap_or(u32::MAX)).await;
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&(self.address, self.is_reserve)) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&(self.address, self.is_reserve));
            }
        }
    }
}

/// `app` for a reserved connection: answers one request, and only a probe.
fn probes_only(app: Router, metrics: Metrics) -> Router {
    app.layer(middleware::from_fn(move |request: axum::extract::Request, next: Next| {
        let metrics = metrics.clone();
        async move {
            let mut answer = if PROBES.contains(&request.uri().path()) {
                next.run(request).await
            } else {
                metrics.http_refused(HttpRefusal::Connections);
                let advice = "close connections or retry later; probes are still answered";
                problem(StatusCode::SERVICE_UNAVAILABLE, "too many connections", advice)
            };
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            answer
        }
    }))
}

/// Counts a connection for as long as it lives.
struct ConnectionGauge<'a>(&'a Metrics);

impl<'a> ConnectionGauge<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.http_connections(1);
        Self(metrics)
    }
}

impl Drop for ConnectionGauge<'_> {
    fn drop(&mut self) {
        self.0.http_connections(-1);
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    app: Router,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    metrics: &Metrics,
    closing: watch::Receiver<bool>,
) {
    // Records are small and urgent. Fails if the connection is closed.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write));
    let stream = Box::pin(stream);
    let peer = Peer { address, tls: tls.is_some() };
    let ended = match tls {
        None => http(stream, peer, app, limits, closing).await,
        Some(tls) => match timeout(limits.handshake, TlsAcceptor::from(tls.config()).accept(stream)).await {
            Ok(Ok(stream)) => http(stream, peer, app, limits, closing).await,
            Ok(Err(_)) | Err(_) => {
                metrics.http_refused(HttpRefusal::Tls);
                return;
            }
        },
    };
    match ended {
        Ok(()) => {}
        Err(e) if e.is_timeout() => metrics.http_refused(HttpRefusal::SlowRequest),
        Err(e) if is_write_timeout(&e) => metrics.http_refused(HttpRefusal::SlowReader),
        // The client disconnected, or does not speak HTTP.
        Err(e) => tracing::trace!("a connection ended: {e}"),
    }
}

fn is_write_timeout(e: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(e);
    while let Some(cause) = source {
        if cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        source = cause.source();
    }
    false
}

async fn http<T>(
    stream: T,
    peer: Peer,
    app: Router,
    limits: Limits,
    mut closing: watch::Receiver<bool>,
) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        // A router is always ready.
        let answer = app.clone().call(request.map(Body::new));
        async move { answer.await as Result<Response, Infallible> }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => return ended,
        _ = closing.wait_for(|closing| *closing) => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_connections() {
        let limits = Limits::of(CONNECTIONS_MAX);
        assert_eq!((limits.connections, limits.per_address, limits.reserve), (512, 384, 16));
        let few = Limits::of(1);
        assert_eq!((few.connections, few.per_address, few.reserve), (1, 1, 16), "a small limit of open files");
        assert!(Limits::default().connections <= 512);
    }
}
