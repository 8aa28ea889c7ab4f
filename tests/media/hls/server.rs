//! An HTTP server with answers from the test: keep-alive, ranges, encodings, and the failures of servers.
#![allow(dead_code)] // The soak test and the benchmark use a part of it.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
/// The interval in which a waiting connection checks whether the server stops.
const POLL: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// The path and query as received.
    pub target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        Some(Self { method, target, headers: headers.collect() })
    }

    /// The path without the leading slash.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default().trim_start_matches('/')
    }

    pub fn query(&self, key: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').filter_map(|pair| pair.split_once('=')).find_map(|(k, value)| (k == key).then_some(value))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|(n, value)| (n == name).then_some(value.as_str()))
    }

    /// The first and last byte of the requested range.
    fn range(&self, len: usize) -> Option<(usize, usize)> {
        let (from, to) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let from = from.parse::<usize>().ok()?;
        Some((from, to.parse::<usize>().unwrap_or(usize::MAX).min(len.saturating_sub(1))))
    }
}

type Stream = Arc<dyn Fn(&mut dyn Write) -> io::Result<()> + Send + Sync>;

#[derive(Clone)]
pub enum Body {
    Whole(Arc<[u8]>),
    /// In pieces, without a length.
    Chunked(Arc<[u8]>),
    /// Fewer bytes than the head declares, then the end of the connection. With `hang` the connection stays open.
    Short {
        sent: Arc<[u8]>,
        declared: usize,
        hang: bool,
    },
    /// In this number of pieces with a pause after each.
    Slow {
        bytes: Arc<[u8]>,
        pieces: usize,
        pause: Duration,
    },
    /// Written by a function, without a length, until it returns.
    Stream(Stream),
    /// No answer at all: the connection is closed.
    Close,
    /// The connection is reset.
    Reset,
    /// No answer: the connection stays open.
    Hang,
}

#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
    /// The delay before the answer.
    pub delay: Duration,
    /// Whether range requests are honoured.
    pub ranges: bool,
}

impl Answer {
    pub fn of(body: Body) -> Self {
        Self { status: 200, headers: Vec::new(), body, delay: Duration::ZERO, ranges: true }
    }

    pub fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::of(Body::Whole(bytes.into()))
    }

    pub fn list(text: impl Into<String>) -> Self {
        Self::bytes(text.into().into_bytes()).with("Content-Type", "application/vnd.apple.mpegurl")
    }

    pub fn page(text: &str) -> Self {
        Self::bytes(text.as_bytes()).with("Content-Type", "text/html; charset=utf-8")
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::bytes(&b"no"[..]) }.with("Content-Type", "text/plain")
    }

    pub fn redirect(status: u16, to: impl Into<String>) -> Self {
        Self { status, ..Self::bytes(&b""[..]) }.with("Location", to)
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn late(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub fn without_ranges(mut self) -> Self {
        self.ranges = false;
        self
    }
}

pub type Serve = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

struct Shared {
    serve: Serve,
    stop: AtomicBool,
    requests: Mutex<Vec<Request>>,
}

pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(serve: Serve) -> Self {
        Self::start_at("127.0.0.1", serve)
    }

    /// Listens on another address of this machine.
    pub fn start_at(host: &str, serve: Serve) -> Self {
        Self::listen(TcpListener::bind((host, 0)).expect("a free port"), serve)
    }

    /// Listens where an earlier server did.
    pub fn start_on(address: SocketAddr, serve: Serve) -> Self {
        Self::listen(TcpListener::bind(address).expect("the port is still free"), serve)
    }

    fn listen(listener: TcpListener, serve: Serve) -> Self {
        let shared = Arc::new(Shared { serve, stop: AtomicBool::new(false), requests: Mutex::default() });
        let address = listener.local_addr().expect("a bound listener");
        let serving = shared.clone();
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if serving.stop.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(connection), shared) = (connection, serving.clone()) else { continue };
                // A client may disconnect in the middle of an answer.
                std::thread::spawn(move || serve_connection(&connection, &shared).ok());
            }
        });
        Self { shared, address, thread: Some(thread) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Peeks at the head of the next request and returns it with its length. [`None`] when the client or the server stops.
fn next_request(connection: &TcpStream, shared: &Shared) -> io::Result<Option<(Request, usize)>> {
    let mut buffer = [0u8; 16 * 1024];
    let mut before = 0;
    loop {
        if shared.stop.load(Ordering::Acquire) {
            return Ok(None);
        }
        let len = match connection.peek(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(len) => len,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(e) => return Err(e),
        };
        if let Some(end) = buffer[..len].windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            return Ok(Request::parse(&head).map(|request| (request, end + 4)));
        }
        // The rest of the head has not arrived, and `peek` does not wait for it.
        if len == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        before = len;
    }
}

fn serve_connection(connection: &TcpStream, shared: &Shared) -> io::Result<()> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(POLL))?;
    while let Some((request, len)) = next_request(connection, shared)? {
        let answer = (shared.serve)(&request);
        shared.requests.lock().push(request.clone());
        if matches!(answer.body, Body::Reset) {
            // The unread request makes the system reset the connection.
            return Ok(());
        }
        io::copy(&mut io::Read::take(connection, len as u64), &mut io::sink())?;
        std::thread::sleep(answer.delay);
        if !respond(connection, &request, &answer, shared)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends the answer. Returns whether the connection stays open.
fn respond(mut out: &TcpStream, request: &Request, answer: &Answer, shared: &Shared) -> io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} Status\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let has_body = request.method != "HEAD";
    match &answer.body {
        Body::Whole(bytes) => {
            let range = request.range(bytes.len()).filter(|_| answer.ranges && answer.status == 200);
            let part = match range {
                None => &bytes[..],
                Some((from, to)) if from <= to && from < bytes.len() => {
                    head = head.replacen(" 200 ", " 206 ", 1);
                    head += &format!("Content-Range: bytes {from}-{to}/{}\r\n", bytes.len());
                    &bytes[from..=to]
                }
                Some(_) => {
                    head = head.replacen(" 200 ", " 416 ", 1);
                    &[]
                }
            };
            write!(out, "{head}Content-Length: {}\r\n\r\n", part.len())?;
            if has_body {
                out.write_all(part)?;
            }
            Ok(true)
        }
        Body::Chunked(bytes) => {
            write!(out, "{head}Transfer-Encoding: chunked\r\n\r\n")?;
            if has_body {
                for piece in bytes.chunks(1500) {
                    write!(out, "{:x}\r\n", piece.len())?;
                    out.write_all(piece)?;
                    out.write_all(b"\r\n")?;
                }
                out.write_all(b"0\r\n\r\n")?;
            }
            Ok(true)
        }
        Body::Short { sent, declared, hang } => {
            write!(out, "{head}Content-Length: {declared}\r\n\r\n")?;
            out.write_all(sent)?;
            if *hang {
                wait_for_end(out, shared);
            }
            Ok(false)
        }
        Body::Slow { bytes, pieces, pause } => {
            write!(out, "{head}Content-Length: {}\r\n\r\n", bytes.len())?;
            for piece in bytes.chunks(bytes.len().div_ceil(*pieces).max(1)) {
                out.write_all(piece)?;
                std::thread::sleep(*pause);
            }
            Ok(true)
        }
        Body::Stream(stream) => {
            write!(out, "{head}Connection: close\r\n\r\n")?;
            stream(&mut out)?;
            Ok(false)
        }
        Body::Hang => {
            wait_for_end(out, shared);
            Ok(false)
        }
        Body::Close | Body::Reset => Ok(false),
    }
}

/// Waits until the client disconnects or the test ends.
fn wait_for_end(connection: &TcpStream, shared: &Shared) {
    while !shared.stop.load(Ordering::Acquire) {
        match connection.peek(&mut [0]) {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Ok(1..) => std::thread::sleep(POLL),
            _ => return,
        }
    }
}
