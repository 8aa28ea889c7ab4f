//! Connects to a source: resolves its name, checks the addresses, and connects to a checked address.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Refusal, SourcePolicy, Target};
use touchline_core::cause::Cause;

/// Time limit for one connection attempt, and for a TLS handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection to a source, with or without TLS.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Connects to `target`.
///
/// # Errors
/// If `policy` rejects the target, or the connection fails.
pub(crate) async fn connect(policy: &Arc<SourcePolicy>, target: &Target) -> Result<Box<dyn Connection>, Refusal> {
    policy.check_scheme(&target.scheme)?;
    let (asked, resolving) = (target.clone(), policy.clone());
    let resolved = tokio::task::spawn_blocking(move || resolving.addresses(&asked)).await;
    let not_found = || Refusal::of(Cause::HostNotFound, "host not found", "check the host name");
    let addresses = resolved.unwrap_or_else(|_| Err(not_found()))?;
    let mut last = None;
    for address in addresses {
        match timeout(CONNECT_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return secure(stream, target).await,
            Ok(Err(e)) => last = Some(e.kind()),
            Err(_) => last = Some(io::ErrorKind::TimedOut),
        }
    }
    Err(match last {
        Some(io::ErrorKind::ConnectionRefused) => {
            let advice = "check the port and that the server is running";
            Refusal::of(Cause::ConnectionRefused, "connection refused", advice)
        }
        _ => {
            let advice = "check the address, the network and the firewall";
            Refusal::of(Cause::HostUnreachable, "the host does not answer", advice)
        }
    })
}

/// Starts TLS if the scheme requires it.
async fn secure(stream: TcpStream, target: &Target) -> Result<Box<dyn Connection>, Refusal> {
    // Media must not be delayed. Fails on a closed connection, which the next read reports.
    let _ = stream.set_nodelay(true);
    if !matches!(target.scheme.as_str(), "https" | "rtsps") {
        return Ok(Box::new(stream));
    }
    let failed = |why: &str| {
        let cause = format!("the TLS connection failed: {why}");
        let advice = "check that the port speaks TLS, and the server's certificate (host name, validity, issuer)";
        Refusal::of(Cause::TlsFailed, cause, advice)
    };
    let name = target.host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(name).map_err(|_| failed("the host is not a valid server name"))?;
    let config =
        client_config().ok_or_else(|| failed("this machine has no trusted certificates; install ca-certificates"))?;
    match timeout(CONNECT_LIMIT, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(e)) => Err(failed(&e.to_string())),
        Err(_) => Err(failed("the server takes too long")),
    }
}

/// The TLS configuration with the system's trusted certificates.
fn client_config() -> Option<Arc<rustls::ClientConfig>> {
    static CONFIG: OnceLock<Option<Arc<rustls::ClientConfig>>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return None;
            }
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            Some(Arc::new(config.ok()?.with_root_certificates(roots).with_no_client_auth()))
        })
        .clone()
}
