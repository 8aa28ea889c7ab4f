//! The server over TLS.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use crate::access::{ADMIN, Answer, JSON, bearer, both_tokens, connect, exchange, hub, refused, request};
use crate::support::Server;
use crate::wait::until;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use touchline_serve::http::server::Limits;
use touchline_serve::http::tls::{Tls, TlsFiles};

/// Writes a certificate for 127.0.0.1 and its key to files in `dir`. Returns the certificate for the client to trust.
fn certificate(dir: &Path) -> CertificateDer<'static> {
    let generated = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    std::fs::write(dir.join("cert.pem"), generated.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), generated.signing_key.serialize_pem()).unwrap();
    CertificateDer::from_pem_slice(generated.cert.pem().as_bytes()).unwrap()
}

fn ask_tls(server: &Server, trusted: &CertificateDer<'static>, request: &str) -> std::io::Result<Answer> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(client, connect(server));
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(exchange(stream, request))
}

#[test]
fn tls_files_can_be_reloaded() {
    let dir = tempfile::tempdir().unwrap();
    let first = certificate(dir.path());
    let files = TlsFiles { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    let tls = Arc::new(Tls::open(files.clone()).unwrap());
    let hub = hub();
    let server = Server::start_with(hub.clone(), both_tokens(), Some(tls.clone()), Limits::default());
    let admin = bearer(ADMIN);
    let get = request(&server, "GET", "/api/v1/streams", &[("Authorization", &admin)], "");
    assert_eq!(ask_tls(&server, &first, &get).unwrap().status, 200);
    let login = request(&server, "POST", "/api/v1/session", &[JSON], &format!("{{\"token\":\"{ADMIN}\"}}"));
    let cookie = ask_tls(&server, &first, &login).unwrap();
    assert!(cookie.header("set-cookie").unwrap().ends_with("; Secure"), "{cookie:?}");

    std::fs::write(&files.key, "half a key").unwrap();
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains("key.pem") && error.contains("--tls-key") && !error.contains('\n'), "{error}");
    assert_eq!(ask_tls(&server, &first, &get).unwrap().status, 200, "the old certificate must stay in use");
    let second = certificate(dir.path());
    tls.reload().unwrap();
    assert_eq!(ask_tls(&server, &second, &get).unwrap().status, 200);
    assert!(ask_tls(&server, &first, &get).is_err(), "the old certificate is still in use");

    // Plain HTTP to a TLS port.
    let mut plain = connect(&server);
    plain.write_all(get.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"));
    until("the refusal", || refused(&hub, "tls") >= 1);
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    std::fs::write(&files.key, other.signing_key.serialize_pem()).unwrap();
    let error = Tls::open(files).unwrap_err().to_string();
    assert!(error.contains("do not match"), "{error}");
}
