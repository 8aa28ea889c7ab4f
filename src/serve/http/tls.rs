//! TLS files: a certificate chain and its key, reloadable.

use parking_lot::RwLock;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::access::warn_if_open_to_others;
use touchline_core::error::{Error, Result};

/// The files, PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate of the server, then its intermediates.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// The TLS configuration of connections.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Loads the files.
    ///
    /// # Errors
    /// [`Error::Usage`] with the file that cannot be read or used.
    pub fn open(files: TlsFiles) -> Result<Self> {
        let config = RwLock::new(load(&files)?);
        Ok(Self { files, config })
    }

    /// Reads the files again, for new connections.
    ///
    /// # Errors
    /// As [`Tls::open`]; the previous files stay in use.
    pub fn reload(&self) -> Result<()> {
        let config = load(&self.files)?;
        *self.config.write() = config;
        Ok(())
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.read().clone()
    }
}

fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>> {
    let cert = read(&files.cert)?;
    let chain = CertificateDer::pem_slice_iter(&cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| wrong(&files.cert, &format!("is not a PEM file: {e}")))?;
    if chain.is_empty() {
        return Err(wrong(&files.cert, "contains no certificate"));
    }
    if let Ok(meta) = std::fs::metadata(&files.key) {
        warn_if_open_to_others(&files.key, &meta.permissions());
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|e| wrong(&files.key, &format!("contains no private key: {e}")))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Internal(format!("TLS: {e}")))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| wrong(&files.cert, &format!("and {} do not match: {e}", files.key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| wrong(path, &format!("cannot be read: {e}")))
}

fn wrong(path: &Path, what: &str) -> Error {
    Error::Usage(format!("{} {what}; give PEM files with --tls-cert and --tls-key", path.display()))
}
