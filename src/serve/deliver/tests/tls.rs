//! Own authorities and client certificates, with each kind of receiver.

use std::convert::Infallible;
use std::process::Command;

use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::servers::{Process, free_port, installed, mosquitto};
use super::*;
use crate::config::sink::{ClientTls, MqttSettings, MqttVersion, NatsSettings};

/// The files of an authority, and of a server and a client with certificates from it.
pub(super) struct Authority(tempfile::TempDir);

impl Authority {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        for name in ["server", "client"] {
            let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            std::fs::write(folder.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self(folder)
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    pub(super) fn client(&self) -> ClientTls {
        ClientTls {
            ca: Some(self.file("ca.pem").into()),
            identity: Some((self.file("client.pem").into(), self.file("client.key").into())),
        }
    }

    /// For a server that only accepts clients with a certificate of the authority.
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let chain = vec![CertificateDer::from_pem_file(self.file("server.pem")).unwrap()];
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(self.file("server.key")).unwrap())
            .unwrap();
        Arc::new(config)
    }
}

/// A web server that only serves clients with a certificate of the authority. Returns its port.
fn web_server(runtime: &tokio::runtime::Runtime, authority: &Authority) -> u16 {
    let acceptor = TlsAcceptor::from(authority.server());
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let answer = service_fn(|_| async { Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new())) });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    port
}

/// Delivers a record with the client's certificate, and not without it.
fn delivers_with_a_certificate(receiver: &Receiver, authority: &Authority) {
    for (tls, delivers) in [
        (authority.client(), true),
        (ClientTls { identity: None, ..authority.client() }, false),
        (ClientTls { ca: None, ..authority.client() }, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (mut sink, hub) = open_one(SinkSettings { tls, ..settings(folder.path().into(), receiver.clone()) });
        sink.take(&item("court", "event", 0));
        let count = |metric: &str| value(&hub, &format!("touchline_sink_{metric}_total{{sink=\"desk\"}}")).unwrap();
        let kind = receiver.kind();
        until(&format!("the outcome of {kind:?}"), || count("sent_records") + count("failures") > 0.0);
        assert_eq!(count("sent_records") > 0.0, delivers, "{kind:?}: {}", hub.deliveries().json());
        sink.finish();
    }
}

#[test]
fn receivers_and_sinks_know_each_other_by_certificates() {
    let authority = Authority::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let port = web_server(&runtime, &authority);
    let address = |scheme: &str, port: u16| format!("{scheme}://127.0.0.1:{port}").parse::<url::Url>().unwrap();
    delivers_with_a_certificate(&Receiver::Webhook { url: address("https", port) }, &authority);

    let Some(program) = installed("mosquitto") else { return };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(|name| authority.file(name));
    let lines = format!("cafile {ca}\ncertfile {cert}\nkeyfile {key}\nrequire_certificate true\nallow_anonymous true");
    let _broker = mosquitto(&program, folder.path(), port, &lines);
    for version in [MqttVersion::V3, MqttVersion::V5] {
        let mqtt = MqttSettings { topic: "t/{stream}/{kind}".into(), version, home_assistant: false };
        delivers_with_a_certificate(&Receiver::Mqtt { url: address("mqtts", port), mqtt }, &authority);
    }

    let Some(program) = installed("nats-server") else { return };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut command = Command::new(program);
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(folder.path().join("jetstream"));
    command.args(["--tlsverify", "--tlscert", &cert, "--tlskey", &key, "--tlscacert", &ca]);
    let _server = Process::start(&mut command, port);
    let nats = NatsSettings { subject: "t.{stream}.{kind}".into(), create_stream: Some("T".into()), keep: None };
    delivers_with_a_certificate(&Receiver::Nats { url: address("tls", port), nats }, &authority);
}
