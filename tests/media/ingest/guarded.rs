//! Guarded sources: allowed addresses play, and nothing makes GStreamer connect to others. Sources are on 127.0.0.1, which is
//! allowed; the trap is on 127.0.0.2, which is not.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use touchline_core::cause::Cause;
use touchline_core::item::{End, MediaItem};
use touchline_media::gst::GstOptions;
use touchline_media::guard::SourcesFile;
use touchline_media::guard::{Resolve, SourcePolicy};
use touchline_media::uri::Pacing;

use super::{BOTH, LIMIT, all, open, some, text};
use crate::common::http::HttpServer;
use crate::common::rtmp::RtmpServer;
use crate::common::rtsp::{Media, RtspServer};
use crate::common::senders::Sender;
use crate::common::wait::until;
use crate::common::{Fixtures, free_tcp_port};

fn policy(allow: &[&str], folders: &[&Path]) -> SourcePolicy {
    let file = SourcesFile {
        schemes: None,
        allow_addresses: allow.iter().map(|s| (*s).to_owned()).collect(),
        folders: folders.iter().map(|p| (*p).to_owned()).collect(),
    };
    SourcePolicy::new(&file).unwrap()
}

fn guarded(policy: SourcePolicy) -> GstOptions {
    GstOptions {
        guard: Some(Arc::new(policy)),
        pacing: Pacing::Unpaced,
        connect_timeout: Duration::from_secs(5),
        ..GstOptions::default()
    }
}

/// A guard that allows only 127.0.0.1.
pub fn only_localhost() -> GstOptions {
    guarded(policy(&["127.0.0.1"], &[]))
}

/// A server with a prepared answer for each path. It counts connections.
struct Prepared {
    port: u16,
    address: &'static str,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Prepared {
    fn start(address: &'static str, answers: HashMap<String, Vec<u8>>) -> Self {
        Self::start_on(TcpListener::bind((address, 0)).unwrap(), address, answers)
    }

    fn start_on(listener: TcpListener, address: &'static str, answers: HashMap<String, Vec<u8>>) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (connections, requests, stop): (Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>, Arc<AtomicBool>) =
            Default::default();
        let (counter, log, stopped) = (connections.clone(), requests.clone(), stop.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                counter.fetch_add(1, Ordering::AcqRel);
                // A client may disconnect.
                let _ = connection.and_then(|c| serve(&c, &answers, &log));
            }
        });
        Self { port, address, connections, requests, stop }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}:{}/{path}", self.address, self.port)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// Waits until there are more than `before` connections, because the accepting thread may count late.
    #[track_caller]
    fn wait_for_connection(&self, before: usize) {
        until("the connection that a source without a guard makes", || self.connections() > before);
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect((self.address, self.port));
    }
}

fn serve(
    connection: &TcpStream,
    answers: &HashMap<String, Vec<u8>>,
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut reader = BufReader::new(connection);
    // An RTSP client sends several requests on a connection, and not every client connects again when the connection ends.
    while answer(connection, &mut reader, answers, requests)?.ends_with("RTSP/1.0") {}
    Ok(())
}

/// Answers the next request and returns its first line.
fn answer(
    connection: &TcpStream,
    reader: &mut BufReader<&TcpStream>,
    answers: &HashMap<String, Vec<u8>>,
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<String> {
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut cseq = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if line.to_ascii_lowercase().starts_with("cseq") {
            cseq = line;
        }
    }
    let request = request.trim().to_owned();
    requests.lock().push(request.clone());
    let path = request.split_whitespace().nth(1).unwrap_or_default();
    // An RTSP request has a whole URI as its path.
    let path = path.rsplit('/').next().unwrap_or_default();
    let missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec();
    let answer = answers.get(path).unwrap_or(&missing);
    let answer =
        String::from_utf8(answer.clone()).map_or_else(|e| e.into_bytes(), |t| t.replace("CSEQ\r\n", &cseq).into());
    let mut out = connection;
    out.write_all(&answer)?;
    Ok(request)
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

/// A playlist on demand with these tags and URIs.
fn playlist(lines: &str) -> Vec<u8> {
    ok(format!("#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:2\n{lines}\n#EXT-X-ENDLIST\n").as_bytes())
}

/// Plays `uri` and returns how it ends.
pub fn end(uri: &str, options: GstOptions) -> End {
    let (_source, from) = open(uri, options).unwrap_or_else(|e| panic!("{uri}: {e}"));
    let until = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < until, "{uri} does not end");
        if let MediaItem::Ended(end) = from.recv_timeout(LIMIT).unwrap_or_else(|e| panic!("{uri}: {e}")) {
            return end;
        }
    }
}

#[track_caller]
fn refusal(uri: &str, options: GstOptions) -> String {
    match end(uri, options) {
        End::Failed { kind: Cause::Refused, cause, advice } => {
            assert!(!advice.is_empty() && !cause.contains("s3cret"), "{cause}; {advice}");
            cause
        }
        other => panic!("{uri}: {other:?}"),
    }
}

#[test]
fn allowed_sources_play() {
    let dir = Fixtures::new();
    let clip = dir.clip("vod.mp4", 3);
    dir.playlist("vod.m3u8", &clip);
    let server = HttpServer::start(dir.path());
    let login = |url: String| url.replace("://", "://ann:geheim-hls@");
    for url in [server.url("vod.m3u8"), login(server.url("private/vod.m3u8")), login(server.url("private/vod.mp4"))] {
        let received = all(&url, only_localhost());
        assert_eq!((received.end.as_ref(), received.frames.len()), (Some(&End::Finished), 90), "{url}");
        received.assert_in_order(60);
    }
    let file = guarded(policy(&[], &[dir.path()]));
    assert_eq!(all(text(&clip), file).frames.len(), 90);

    let rtsp = RtspServer::start_with_password(Media::Test { video: true, audio: true }, "ann", "geheim-rtsp");
    let received = some(&rtsp.url().replace("rtsp://", "rtsp://ann:geheim-rtsp@"), only_localhost(), 30, 1000);
    assert_eq!(received.tracks, Some(BOTH));
    let (srt, udp, rtmp) = (Sender::srt(), Sender::udp(), RtmpServer::start());
    for url in [srt.url(), udp.url(), &rtmp.url()] {
        assert_eq!(some(url, only_localhost(), 25, 500).tracks, Some(BOTH), "{url}");
    }
}

#[test]
fn failures_are_the_same_as_without_a_guard() {
    let dir = Fixtures::new();
    let server = HttpServer::start(dir.path());
    dir.write("a.mp4", b"no media");
    let closed = free_tcp_port();
    for (uri, kind) in [
        (server.url("none.m3u8"), Cause::NotFound),
        (server.url("none.mp4"), Cause::NotFound),
        (server.url("private/a.mp4"), Cause::NotAuthorized),
        (server.url("a.mp4"), Cause::NotMedia),
        (format!("http://127.0.0.1:{closed}/a.m3u8"), Cause::ConnectionRefused),
        (format!("rtsp://127.0.0.1:{closed}/a"), Cause::ConnectionRefused),
        ("http://host.invalid/a.mp4".into(), Cause::HostNotFound),
        ("srt://host.invalid:9000".into(), Cause::HostNotFound),
        (format!("https://127.0.0.1:{}/a.mp4", server.port()), Cause::TlsFailed),
        (format!("rtsps://127.0.0.1:{}/a", server.port()), Cause::TlsFailed),
    ] {
        match end(&uri, only_localhost()) {
            End::Failed { kind: found, cause, .. } => assert_eq!(found, kind, "{uri}: {cause}"),
            other => panic!("{uri}: {other:?}"),
        }
    }
}

#[test]
fn no_content_leads_to_an_address_that_is_not_allowed() {
    let trap = Prepared::start("127.0.0.2", HashMap::new());
    let media = Fixtures::new();
    let ts = std::fs::read(media.make(
        "1.ts",
        "-f lavfi -i testsrc2=size=320x180:rate=25:duration=2 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    ))
    .unwrap();
    let (bad, metadata) = (trap.url("1.ts"), "http://169.254.169.254/latest/meta-data/");
    let good = "#EXTINF:2.0,\n1.ts\n";
    let mpd = format!(
        "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\" \
         profiles=\"urn:mpeg:dash:profile:isoff-on-demand:2011\" mediaPresentationDuration=\"PT4S\" minBufferTime=\"PT1S\">\
         <Period><AdaptationSet mimeType=\"video/mp4\"><Representation id=\"1\" bandwidth=\"1000\" codecs=\"avc1.4d401e\">\
         <BaseURL>{bad}</BaseURL><SegmentBase indexRange=\"0-99\"/></Representation></AdaptationSet></Period></MPD>"
    );
    let answers: Vec<(&str, Vec<u8>)> = vec![
        ("1.ts", ok(&ts)),
        ("fine.m3u8", playlist(good)),
        ("redirect.mp4", redirect(&bad)),
        ("redirect.m3u8", redirect(&trap.url("live.m3u8"))),
        ("twice.m3u8", redirect("redirect.m3u8")),
        ("metadata.m3u8", redirect(metadata)),
        ("metadata.mp4", redirect("http://[::ffff:a9fe:a9fe]/")),
        ("file.mp4", redirect("file:///etc/passwd")),
        ("master.m3u8", ok(format!("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\n{}\n", trap.url("v.m3u8")).as_bytes())),
        ("segment.m3u8", playlist(&format!("{good}#EXTINF:2.0,\n{bad}"))),
        ("away.ts", redirect(&bad)),
        ("moved.m3u8", playlist("#EXTINF:2.0,\naway.ts")),
        ("local.m3u8", playlist("#EXTINF:2.0,\nfile:///etc/passwd")),
        ("key.m3u8", playlist(&format!("#EXT-X-KEY:METHOD=AES-128,URI=\"{}\"\n{good}", trap.url("key")))),
        ("map.m3u8", playlist(&format!("#EXT-X-MAP:URI={}\n{good}", trap.url("init.mp4")))),
    ];
    let fetched: Vec<String> = answers.iter().map(|(path, _)| (*path).to_owned()).collect();
    let mut answers: HashMap<String, Vec<u8>> = answers.into_iter().map(|(p, a)| (p.to_owned(), a)).collect();
    let hidden = format!("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{bad}\n#EXT-X-ENDLIST\n");
    let tagged = ok(&[b"ID3\x03\0\0\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0", hidden.as_bytes()].concat());
    let body = format!("--b\r\nContent-Type: application/x-hls\r\n\r\n{hidden}\r\n--b--\r\n");
    let wrapped = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=b\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    for kind in ["mp4", "m3u8"] {
        answers.insert(format!("dash.{kind}"), ok(mpd.as_bytes()));
        answers.insert(format!("tagged.{kind}"), tagged.clone());
        answers.insert(format!("wrapped.{kind}"), wrapped.clone().into_bytes());
    }
    answers.insert("inside.m3u8".into(), playlist("#EXTINF:2.0,\ntagged.mp4"));
    let server = Prepared::start("127.0.0.1", answers);
    assert_eq!(end(&server.url("fine.m3u8"), only_localhost()), End::Finished, "an allowed playlist plays");
    for path in fetched.iter().filter(|p| !matches!(p.as_str(), "1.ts" | "fine.m3u8" | "away.ts")) {
        let cause = refusal(&server.url(path), only_localhost());
        println!("{path}: {cause}");
        assert_eq!(trap.connections(), 0, "{path}");
    }
    for uri in [trap.url("a.m3u8"), trap.url("a.mp4"), format!("rtsp://127.0.0.2:{}/a", trap.port)] {
        refusal(&uri, only_localhost());
    }
    for uri in
        ["rtmp://127.0.0.2/a/key-s3cret", "srt://127.0.0.2:9000?passphrase=s3cret-s3cret", "udp://127.0.0.2:5000"]
    {
        refusal(uri, only_localhost());
    }
    // A DASH manifest also names URIs. It is not media here, under any name. Neither is a playlist after an ID3 tag or in a
    // multipart envelope, which GStreamer would open.
    for path in ["dash.mp4", "dash.m3u8", "tagged.mp4", "tagged.m3u8", "wrapped.mp4", "wrapped.m3u8", "inside.m3u8"] {
        let found = end(&server.url(path), only_localhost());
        assert!(matches!(found, End::Failed { .. }), "{path}: {found:?}");
        assert_eq!(trap.connections(), 0, "{path}");
    }
    // A playlist where a recording is expected.
    let disguised =
        media.write("disguised.mp4", format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{bad}\n").as_bytes());
    let from_folder = guarded(policy(&["127.0.0.1"], &[media.path()]));
    let cause = refusal(text(&disguised), from_folder);
    assert!(cause.contains("list of addresses"), "{cause}");
    assert_eq!(trap.connections(), 0, "{:?}", trap.requests.lock());

    // Without a guard the trap is reached, so the checks above mean something.
    let free = GstOptions { guard: None, ..only_localhost() };
    for path in ["segment.m3u8", "redirect.mp4", "key.m3u8"] {
        let before = trap.connections();
        end(&server.url(path), free.clone());
        trap.wait_for_connection(before);
    }
    let before = trap.connections();
    let (_source, _from) = open(text(&disguised), free).unwrap();
    trap.wait_for_connection(before);
}

#[test]
fn an_rtsp_server_cannot_redirect_elsewhere() {
    let trap = Prepared::start("127.0.0.2", HashMap::new());
    let moved = format!(
        "RTSP/1.0 302 Moved Temporarily\r\nCSEQ\r\nLocation: rtsp://127.0.0.2:{}/live\r\nContent-Length: 0\r\n\r\n",
        trap.port
    );
    let server = Prepared::start("127.0.0.1", HashMap::from([("live".to_owned(), moved.into_bytes())]));
    let url = format!("rtsp://127.0.0.1:{}/live", server.port);
    let cause = refusal(&url, only_localhost());
    assert!(cause.contains("redirects to another address"), "{cause}");
    assert_eq!(trap.connections(), 0);
    end(&url, GstOptions { guard: None, rtsp_transport: "tcp".into(), ..only_localhost() });
    trap.wait_for_connection(0);
}

/// A resolver that returns 127.0.0.1 once and then 127.0.0.2.
struct Rebinding {
    requests: AtomicUsize,
}

impl Resolve for Rebinding {
    fn resolve(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        let first = self.requests.fetch_add(1, Ordering::AcqRel) == 0;
        Ok(vec![if first { [127, 0, 0, 1] } else { [127, 0, 0, 2] }.into()])
    }
}

#[test]
fn every_resolution_of_a_host_name_is_checked() {
    // The same port on both addresses.
    let (listener, trap) = loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        if let Ok(trap) = TcpListener::bind(("127.0.0.2", listener.local_addr().unwrap().port())) {
            break (listener, trap);
        }
    };
    let trap = Prepared::start_on(trap, "127.0.0.2", HashMap::new());
    let answers = HashMap::from([("live.m3u8".to_owned(), playlist("#EXTINF:2.0,\n1.ts"))]);
    let server = Prepared::start_on(listener, "127.0.0.1", answers);
    let rebinding = policy(&["127.0.0.1"], &[]).with_resolver(Arc::new(Rebinding { requests: AtomicUsize::new(0) }));
    let uri = format!("http://rebinding.example:{}/live.m3u8", server.port);
    let cause = refusal(&uri, guarded(rebinding));
    assert!(cause.contains("rebinding.example resolves to 127.0.0.2"), "{cause}");
    assert_eq!((server.connections(), trap.connections()), (1, 0), "only the playlist is fetched");
}
