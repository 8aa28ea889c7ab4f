//! Sources over TLS with certificates that the system trusts, and with others.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use touchline_core::cause::Cause;
use touchline_core::item::End;
use touchline_media::gst::GstOptions;

use super::guarded::{end, only_localhost};
use super::{BOTH, all, some};
use crate::common::Fixtures;
use crate::common::http::HttpServer;
use crate::common::rtsp::{Media, RtspServer};

/// The file of trusted certificates that replaces the system's. A process reads it once, at its first TLS connection.
const TRUSTED: &str = "SSL_CERT_FILE";

/// Runs the test in a process of its own, whose environment names the trusted certificates.
#[test]
fn trusted_certificates_are_accepted_and_others_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = crate::common::again(module_path!(), "with_trusted_certificate")
        .env(TRUSTED, dir.path().join("trusted.pem"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A certificate for `name` with its key, as PEM and for a server.
fn certificate(name: &str) -> (String, String, ServerConfig) {
    let generated = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let (certificate, key) = (generated.cert.pem(), generated.signing_key.serialize_pem());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    (certificate, key, config)
}

#[test]
#[ignore = "needs an environment of its own: run by trusted_certificates_are_accepted_and_others_refused"]
fn with_trusted_certificate() {
    let trusted = std::env::var_os(TRUSTED).expect("the parent test sets it");
    let (own, key, config) = certificate("127.0.0.1");
    std::fs::write(trusted, &own).unwrap();
    let (_, _, untrusted) = certificate("127.0.0.1");

    let dir = Fixtures::new();
    let clip = dir.clip("vod.mp4", 3);
    dir.playlist("vod.m3u8", &clip);
    let server = HttpServer::start_tls(dir.path(), config);
    let untrusted = HttpServer::start_tls(dir.path(), untrusted);
    // Without and with a guard.
    let free = GstOptions { guard: None, ..only_localhost() };
    for (options, path) in [
        (&free, "vod.m3u8"),
        (&free, "vod.mp4"),
        (&only_localhost(), "vod.m3u8"),
        (&only_localhost(), "private/vod.mp4"),
    ] {
        let url = server.url(path).replace("://", "://ann:geheim%26mehr@");
        let received = all(&url, options.clone());
        assert_eq!((received.end.as_ref(), received.frames.len()), (Some(&End::Finished), 90), "{url}");
        let other_host = server.url(path).replace("127.0.0.1", "localhost");
        for url in [untrusted.url(path), other_host] {
            match end(&url, options.clone()) {
                End::Failed { kind: Cause::TlsFailed, .. } => {}
                other => panic!("{url}: {other:?}"),
            }
        }
    }
    let rtsp = RtspServer::start_tls(Media::Test { video: true, audio: true }, &format!("{own}{key}"));
    assert_eq!(some(&rtsp.url(), only_localhost(), 30, 1000).tracks, Some(BOTH));
}
