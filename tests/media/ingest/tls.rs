//! Sources over TLS whose certificate the system trusts, and others.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use touchline_core::cause::Cause;
use touchline_core::item::End;
use touchline_media::gst::GstOptions;

use super::guarded::{end, here};
use super::{BOTH, all, some};
use crate::common::Fixtures;
use crate::common::http::HttpServer;
use crate::common::rtsp::{Media, RtspServer};

/// What the system trusts in place of its own list; looked at once, at a process's first TLS connection.
const TRUSTED: &str = "SSL_CERT_FILE";

/// In a process of its own, whose environment names what it trusts.
#[test]
fn what_the_system_trusts_plays_and_all_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = crate::common::again(module_path!(), "with_its_own_trust")
        .env(TRUSTED, dir.path().join("trusted.pem"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// A certificate for `name` with its key, as PEM and for a server.
fn certificate(name: &str) -> (String, String, ServerConfig) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
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
#[ignore = "wants an environment of its own: run by what_the_system_trusts_plays_and_all_else_is_refused"]
fn with_its_own_trust() {
    let trusted = std::env::var_os(TRUSTED).expect("the file that is trusted is to be written first");
    let (own, key, config) = certificate("127.0.0.1");
    std::fs::write(trusted, &own).unwrap();
    let (_, _, strangers) = certificate("127.0.0.1");

    let dir = Fixtures::new();
    let clip = dir.clip("vod.mp4", 3);
    dir.playlist("vod.m3u8", &clip);
    let server = HttpServer::start_tls(dir.path(), config);
    let strange = HttpServer::start_tls(dir.path(), strangers);
    // Of an operator, and of somebody who has to be looked at.
    let free = GstOptions { guard: None, ..here() };
    for (options, path) in
        [(&free, "vod.m3u8"), (&free, "vod.mp4"), (&here(), "vod.m3u8"), (&here(), "private/vod.mp4")]
    {
        let url = server.url(path).replace("://", "://ann:geheim%26mehr@");
        let heard = all(&url, options.clone());
        assert_eq!((heard.end.as_ref(), heard.frames.len()), (Some(&End::Finished), 90), "{url}");
        let elsewhere = server.url(path).replace("127.0.0.1", "localhost");
        for url in [strange.url(path), elsewhere] {
            match end(&url, options.clone()) {
                End::Failed { kind: Cause::TlsFailed, .. } => {}
                other => panic!("{url}: {other:?}"),
            }
        }
    }
    let rtsp = RtspServer::start_tls(Media::Test { video: true, audio: true }, &format!("{own}{key}"));
    assert_eq!(some(&rtsp.url(), here(), 30, 1000).tracks, Some(BOTH));
}
