//! The only way out of a guarded stream: a server on the loopback that GStreamer connects to in place of the source.
//!
//! The passage resolves names, checks what they lead to, and connects to the very address that it checked; TLS is spoken here,
//! with the name that was given. For HTTP it follows redirects itself and rewrites playlists, so that every variant,
//! segment and key comes through it (`web`). For RTSP it relays one connection and lets no redirect pass (`relay`).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{aead, hmac};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::ending::Endings;
use super::login::Shown;
use super::{Refusal, SourcePolicy, Target, relay, web};
use crate::ingest::incident::Cause;

/// How long one address may take to answer, and a TLS handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What is done with a refusal: it ends the session.
pub(in crate::ingest) type OnRefusal = Box<dyn Fn(Refusal) + Send + Sync>;

/// A passage that is open until it is dropped.
pub(in crate::ingest) struct Passage {
    address: SocketAddr,
    shared: Arc<Shared>,
    _close: oneshot::Sender<()>,
}

/// What its connections share.
pub(super) struct Shared {
    pub policy: Arc<SourcePolicy>,
    pub address: SocketAddr,
    /// How long a web server's answer may take.
    pub patience: Duration,
    cipher: Cipher,
    /// What web servers gave and asked for.
    shown: Mutex<Shown>,
    on_refusal: Mutex<Option<OnRefusal>>,
    /// True from when the session ends.
    draining: watch::Sender<bool>,
    /// What went wrong last, for when GStreamer reports that something did.
    trouble: Mutex<Option<Refusal>>,
    pub endings: Endings,
}

/// Hides addresses, which hold secrets, in those of the passage, which turn up in GStreamer's errors and logs; and keeps other
/// programs of this machine from asking for anything. One address always becomes the same one: HLS clients know segments
/// by theirs.
struct Cipher {
    key: aead::LessSafeKey,
    nonces: hmac::Key,
}

impl Cipher {
    /// With keys of its own; [`None`] when the system gives no random numbers.
    fn new() -> Option<Self> {
        let (random, mut keys) = (SystemRandom::new(), [[0; 32]; 2]);
        keys.iter_mut().try_for_each(|key| random.fill(key)).ok()?;
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &keys[0]).ok()?);
        Some(Self { key, nonces: hmac::Key::new(hmac::HMAC_SHA256, &keys[1]) })
    }

    fn hide(&self, text: &str) -> String {
        // From the text: a nonce comes twice only with the same text, which says no more than that it is the same.
        let mut nonce = [0; aead::NONCE_LEN];
        nonce.copy_from_slice(&hmac::sign(&self.nonces, text.as_bytes()).as_ref()[..aead::NONCE_LEN]);
        let mut sealed = text.as_bytes().to_vec();
        let unique = aead::Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(unique, aead::Aad::empty(), &mut sealed)
            .expect("only gigabytes of text cannot be sealed");
        BASE64.encode([&nonce[..], &sealed].concat())
    }

    fn show(&self, code: &str) -> Option<String> {
        let mut bytes = BASE64.decode(code).ok()?;
        let (nonce, sealed) = bytes.split_at_mut_checked(aead::NONCE_LEN)?;
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.key.open_in_place(nonce, aead::Aad::empty(), sealed).ok()?;
        String::from_utf8(text.to_vec()).ok()
    }
}

/// A connection to a source, in the clear or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Passage {
    /// Opens a passage for the stream `id`.
    ///
    /// # Errors
    /// When the system has no port or no thread left.
    fn open(policy: Arc<SourcePolicy>, id: &str, target: Option<Target>, patience: Duration) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let cipher = Cipher::new().ok_or_else(|| io::Error::other("no random numbers"))?;
        let (shown, on_refusal, trouble) = Default::default();
        let (draining, endings) = (watch::Sender::new(false), Endings::new());
        let shared =
            Arc::new(Shared { policy, address, patience, cipher, shown, on_refusal, draining, trouble, endings });
        let (close, closed) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = shared.clone();
        std::thread::Builder::new().name(format!("passage/{id}")).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, serving, target) => {}
                    // The sender going away closes the passage, and with it every connection through it.
                    _ = closed => {}
                }
            });
            // A name that is still being resolved is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { address, shared, _close: close })
    }

    /// For what is on web servers. Returns the passage and what GStreamer opens in place of `uri`.
    ///
    /// # Errors
    /// As [`Passage::open`]; an `uri` that is none is refused by the passage when it is asked for.
    pub fn web(policy: Arc<SourcePolicy>, id: &str, uri: &str) -> io::Result<(Self, String)> {
        let passage = Self::open(policy, id, None, web::ANSWER_LIMIT)?;
        let uri = passage.shared.through(uri);
        Ok((passage, uri))
    }

    /// For an RTSP server.
    ///
    /// # Errors
    /// As [`Passage::open`]; an `uri` that is none.
    pub fn rtsp(policy: Arc<SourcePolicy>, id: &str, uri: &str) -> io::Result<(Self, String)> {
        let target = Target::parse(uri).map_err(|refusal| io::Error::other(refusal.to_string()))?;
        let mut url = target.url.clone();
        let passage = Self::open(policy, id, Some(target), web::ANSWER_LIMIT)?;
        let wrong = |()| io::Error::other("this is no address of a stream");
        url.set_scheme("rtsp").map_err(wrong)?;
        url.set_ip_host(passage.address.ip()).map_err(wrong)?;
        url.set_port(Some(passage.address.port())).map_err(wrong)?;
        Ok((passage, url.into()))
    }

    /// Says whom to tell of a refusal. One that came before is told at once.
    pub fn on_refusal(&self, tell: OnRefusal) {
        let told = self.trouble().filter(|refusal| refusal.kind == Cause::Refused);
        if let Some(refusal) = told {
            tell(refusal);
        }
        *self.shared.on_refusal.lock().unwrap_or_else(|e| e.into_inner()) = Some(tell);
    }

    /// Where to say `true` when GStreamer's HLS client has opened its first output.
    pub fn exposed(&self) -> watch::Sender<bool> {
        self.shared.endings.exposed()
    }

    /// Answers all who wait, and all who come, that there is nothing any more, and breaks off what is being sent: before the
    /// client stops. GStreamer 1.22's HLS client never closes a connection whose answer it still waits for when it stops.
    pub fn drain(&self) {
        self.shared.draining.send_replace(true);
    }

    /// What went wrong last, if it was not made good.
    pub fn trouble(&self) -> Option<Refusal> {
        self.shared.trouble.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Shared {
    /// Completes when the passage drains; at once if it does already.
    pub async fn drained(&self) {
        // The sender is in here: it cannot be gone.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    pub fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The address of `uri` through the passage.
    pub fn through(&self, uri: &str) -> String {
        format!("http://{}/{}", self.address, self.cipher.hide(uri))
    }

    /// What a path of ours stands for.
    pub fn behind(&self, path: &str) -> Option<String> {
        self.cipher.show(path.strip_prefix('/')?)
    }

    /// Takes note of what went wrong; a refusal by the policy is told, and ends the session.
    pub fn failed(&self, refusal: Refusal) {
        *self.trouble.lock().unwrap_or_else(|e| e.into_inner()) = Some(refusal.clone());
        if refusal.kind == Cause::Refused
            && let Some(tell) = self.on_refusal.lock().unwrap_or_else(|e| e.into_inner()).as_ref()
        {
            tell(refusal);
        }
    }

    pub fn went_well(&self) {
        let mut trouble = self.trouble.lock().unwrap_or_else(|e| e.into_inner());
        if trouble.as_ref().is_some_and(|t| t.kind != Cause::Refused) {
            *trouble = None;
        }
    }

    /// As [`connect`].
    ///
    /// # Errors
    /// What may not be, or what is wrong.
    pub async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, Refusal> {
        connect(&self.policy, target).await
    }
}

/// Connects to a target: resolved, checked, and to the very address that was checked.
///
/// # Errors
/// What may not be, or what is wrong.
pub(super) async fn connect(policy: &Arc<SourcePolicy>, target: &Target) -> Result<Box<dyn Stream>, Refusal> {
    policy.check_scheme(&target.scheme)?;
    let (policy, asked) = (policy.clone(), target.clone());
    let resolved = tokio::task::spawn_blocking(move || policy.addresses(&asked)).await;
    let addresses =
        resolved.unwrap_or_else(|_| Err(Refusal::of(Cause::HostNotFound, "host not found", "check the host name")))?;
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

/// Speaks TLS where the scheme says so.
async fn secure(stream: TcpStream, target: &Target) -> Result<Box<dyn Stream>, Refusal> {
    // Pieces of media should go on at once. Fails on a connection that is gone.
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
    let name = ServerName::try_from(name).map_err(|_| failed("this is no name of a server"))?;
    let config =
        client_config().ok_or_else(|| failed("this machine trusts no certificates; install ca-certificates"))?;
    match timeout(CONNECT_LIMIT, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(e)) => Err(failed(&e.to_string())),
        Err(_) => Err(failed("the server takes too long")),
    }
}

/// What the system trusts.
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

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>, target: Option<Target>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                if crate::limits::is_out_of_files(&e) {
                    crate::limits::say_out_of_files();
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (shared, target) = (shared.clone(), target.clone());
        // Ends with the runtime when the passage is closed.
        tokio::spawn(async move {
            match target {
                None => web::serve(stream, shared).await,
                Some(target) => relay::serve(stream, &shared, &target).await,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::mpsc;

    use super::*;

    /// A server that says the same to everybody and then nothing more, without hanging up; it tells of each that it has said it to.
    fn mute(says: Vec<u8>) -> (String, mpsc::Receiver<()>) {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/live.m3u8", listener.local_addr().unwrap());
        let (to, from) = mpsc::channel();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).unwrap() > 0);
                stream.write_all(&says).unwrap();
                kept.push(stream);
                if to.send(()).is_err() {
                    return;
                }
            }
        });
        (url, from)
    }

    fn head(length: usize) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")
    }

    fn open(patience: Duration) -> Passage {
        Passage::open(Arc::new(SourcePolicy::owners()), "cam", None, patience).unwrap()
    }

    fn ask(passage: &Passage, url: &str) -> std::net::TcpStream {
        let mut stream = std::net::TcpStream::connect(passage.address).unwrap();
        let through = passage.shared.through(url);
        let path = through.rsplit_once('/').unwrap().1;
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
        stream
    }

    fn answer(mut stream: std::net::TcpStream) -> String {
        let mut answer = Vec::new();
        // A connection that is broken off has said what it has said.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn a_server_that_does_not_answer_is_answered_for() {
        let playlist = head(900) + "#EXTM3U\n" + &"#\n".repeat(200);
        for says in [String::new(), head(16), playlist] {
            let (url, _said) = mute(says.clone().into());
            let passage = open(Duration::from_millis(50));
            let answer = answer(ask(&passage, &url));
            assert!(answer.starts_with("HTTP/1.1 502 ") && answer.ends_with("\r\n\r\n"), "{says:?}: {answer:?}");
            assert_eq!(passage.trouble().unwrap().kind, Cause::NoAnswer);
        }
    }

    #[test]
    fn who_waits_when_the_passage_drains_gets_an_answer() {
        let (url, said) = mute(Vec::new());
        let passage = open(Duration::MAX);
        let waiting = [ask(&passage, &url), ask(&passage, &url)];
        for _ in &waiting {
            said.recv().unwrap();
        }
        passage.drain();
        for stream in waiting.into_iter().chain([ask(&passage, &url)]) {
            let answer = answer(stream);
            assert!(answer.starts_with("HTTP/1.1 410 ") && answer.ends_with("\r\n\r\n"), "{answer:?}");
        }
        assert!(passage.trouble().is_none());
    }

    #[test]
    fn what_is_being_sent_when_the_passage_drains_is_broken_off() {
        let (url, said) = mute((head(9000) + &"~".repeat(1000)).into());
        let passage = open(Duration::MAX);
        let mut stream = ask(&passage, &url);
        said.recv().unwrap();
        let mut begun = [0; 12];
        stream.read_exact(&mut begun).unwrap();
        assert_eq!(&begun, b"HTTP/1.1 200");
        passage.drain();
        assert!(answer(stream).matches('~').count() <= 1000);
    }

    #[test]
    fn hidden_addresses_are_told_apart_and_cannot_be_made() {
        let (ours, other) = (Cipher::new().unwrap(), Cipher::new().unwrap());
        let uri = "https://ann:s3cretword@h.example/1.ts?key=abc";
        let hidden = ours.hide(uri);
        assert_eq!((ours.hide(uri), ours.show(&hidden)), (hidden.clone(), Some(uri.to_owned())));
        assert_ne!(hidden, ours.hide("https://ann:s3cretword@h.example/2.ts?key=abc"));
        assert_eq!(other.show(&hidden), None);
        for code in ["", "AAAA", &hidden[1..], &hidden[..hidden.len() - 2]] {
            assert_eq!(ours.show(code), None, "{code}");
        }
    }
}
