//! TLS of connections to receivers: own authorities and client certificates.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::read_pem;
use crate::config::sink::ClientTls;

/// The TLS configuration of a sink.
///
/// # Errors
/// Cause and advice.
pub(crate) fn client(tls: &ClientTls) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(path) => {
            let text = read_pem(path)?;
            for certificate in certificates(&text).map_err(|e| format!("{}: {e}", path.display()))? {
                roots.add(certificate).map_err(|e| format!("{}: not a usable authority: {e}", path.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_root_certificates(roots);
    let Some((cert, key)) = &tls.identity else { return Ok(config.with_no_client_auth()) };
    let chain = certificates(&read_pem(cert)?).map_err(|e| format!("{}: {e}", cert.display()))?;
    let private = PrivateKeyDer::from_pem_slice(read_pem(key)?.as_bytes())
        .map_err(|e| format!("{} contains no private key: {e}; give its PEM file", key.display()))?;
    config
        .with_client_auth_cert(chain, private)
        .map_err(|e| format!("{} and {} do not match: {e}; give a pair", cert.display(), key.display()))
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|e| format!("not a PEM file: {e}; give a PEM file"))?;
    if all.is_empty() { Err("contains no certificate; give a PEM file".to_owned()) } else { Ok(all) }
}
