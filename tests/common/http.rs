//! A static HTTP/1.1 server with ranges and 404, with or without TLS, and a live HLS origin on top of it. `/private/` requires a
//! login, `/digest/` a login by RFC 7616 (ann, geheim&mehr). Below `/cookie/`, playlists set a cookie, and other files require it.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Child;
use super::wait::until;

/// Serves the files below a folder.
pub struct HttpServer {
    scheme: &'static str,
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    pub fn start(root: &Path) -> Self {
        Self::launch(root, None)
    }

    /// Uses TLS with this certificate and key.
    pub fn start_tls(root: &Path, config: rustls::ServerConfig) -> Self {
        Self::launch(root, Some(Arc::new(config)))
    }

    fn launch(root: &Path, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let stop = Arc::new(AtomicBool::new(false));
        let (root, stopped) = (root.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(connection), root, tls) = (connection, root.clone(), tls.clone()) else { continue };
                // A client may disconnect in the middle of an answer.
                std::thread::spawn(move || {
                    connection.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
                    match tls {
                        None => serve(connection, &root).ok(),
                        Some(tls) => {
                            let tls = rustls::ServerConnection::new(tls).ok()?;
                            serve(rustls::StreamOwned::new(tls, connection), &root).ok()
                        }
                    }
                });
            }
        });
        Self { scheme, port, stop, thread: Some(thread) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of `path` (without leading slash).
    pub fn url(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}/{path}", self.scheme, self.port)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(connection: impl Read + Write, root: &Path) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let (mut range, mut authorized, mut has_cookie, mut digest) = (None, false, false, None);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            digest = line.trim().strip_prefix("authorization: Digest ").map(str::to_owned).or(digest);
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(spec) = line.strip_prefix("range: bytes=") {
                let (from, to) = spec.split_once('-').unwrap_or((spec, ""));
                range = from.parse::<u64>().ok().map(|from| (from, to.parse::<u64>().ok()));
            }
            authorized |= line.starts_with("authorization: basic ");
            has_cookie |= line == "cookie: seen=1";
        }
        let out = reader.get_mut();
        let mut words = request.split_whitespace();
        let head_only = words.next() == Some("HEAD");
        let path = words.next().unwrap_or("/").split('?').next().unwrap_or("/").replace("%20", " ");
        if path.starts_with("/private/") && !authorized {
            out.write_all(
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"t\"\r\nContent-Length: 0\r\n\r\n",
            )?;
            continue;
        }
        if path.starts_with("/digest/") && !digest.is_some_and(|login| is_valid_digest(&login, &path)) {
            out.write_all(
                b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"t\", nonce=\"n\", qop=\"auth\"\r\n\
                  Content-Length: 0\r\n\r\n",
            )?;
            continue;
        }
        let is_playlist = path.ends_with(".m3u8");
        if path.starts_with("/cookie/") && !has_cookie && !is_playlist {
            out.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        let folders = ["/private/", "/digest/", "/cookie/"];
        let file =
            root.join(if folders.iter().any(|f| path.starts_with(f)) { name } else { path.trim_start_matches('/') });
        let Ok(mut file) = std::fs::File::open(&file)
            .and_then(|f| if f.metadata()?.is_file() { Ok(f) } else { Err(std::io::ErrorKind::NotFound.into()) })
        else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let total = file.metadata()?.len();
        let (from, to) =
            range.map_or((0, total), |(from, to)| (from.min(total), to.map_or(total, |t| (t + 1).min(total))));
        let status = match range {
            Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", to.max(1) - 1),
            None => "200 OK".to_owned(),
        };
        let cookie = if is_playlist { "Set-Cookie: seen=1; Path=/cookie\r\n" } else { "" };
        write!(out, "HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\n{cookie}Content-Length: {}\r\n\r\n", to - from)?;
        if !head_only {
            file.seek(SeekFrom::Start(from))?;
            std::io::copy(&mut file.take(to - from), out)?;
        }
        out.flush()?;
    }
}

/// Whether a digest login is valid for `path`.
fn is_valid_digest(login: &str, path: &str) -> bool {
    let Ok(login) = digest_auth::AuthorizationHeader::parse(&format!("Digest {login}")) else { return false };
    let mut context = digest_auth::AuthContext::new("ann", "geheim&mehr", path);
    let mut expected = login.clone();
    context.set_custom_cnonce(login.cnonce.clone().unwrap_or_default());
    expected.digest(&context);
    (login.response, login.uri.as_str(), login.nonce.as_str()) == (expected.response, path, "n")
}

/// A live HLS origin: ffmpeg writes one-second segments in real time with a window of six, and a server serves them.
pub struct HlsOrigin {
    _encoder: Child,
    server: HttpServer,
    dir: tempfile::TempDir,
}

/// The media of an [`HlsOrigin`].
pub enum HlsMedia {
    /// An endless moving pattern and tone.
    Test,
    /// A recording with H.264 and AAC, once in real time. The playlist has an end mark afterwards.
    File(PathBuf),
}

impl HlsOrigin {
    /// Returns once the playlist holds three segments.
    pub fn start(media: HlsMedia) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let input = match media {
            HlsMedia::Test => "-re -f lavfi -i testsrc2=size=320x180:rate=25 \
                -re -f lavfi -i sine=frequency=440:sample_rate=44100 \
                -c:v libx264 -preset ultrafast -tune zerolatency -pix_fmt yuv420p -g 25 -c:a aac"
                .to_owned(),
            HlsMedia::File(path) => format!("-re -i {} -c copy", path.display()),
        };
        let playlist = dir.path().join("live.m3u8");
        let encoder = Child::ffmpeg(&format!(
            "{input} -f hls -hls_time 1 -hls_list_size 6 -hls_flags delete_segments+program_date_time+temp_file \
             -hls_delete_threshold 3 {}",
            playlist.display()
        ));
        until("the third segment of the encoder", || {
            std::fs::read_to_string(&playlist).is_ok_and(|text| text.matches("#EXTINF").count() >= 3)
        });
        Self { _encoder: encoder, server: HttpServer::start(dir.path()), dir }
    }

    pub fn url(&self) -> String {
        self.server.url("live.m3u8?session=geheim-hls-42")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
