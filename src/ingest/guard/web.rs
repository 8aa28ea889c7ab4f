//! The passage for HTTP: fetches what is asked for, follows redirects, rewrites playlists.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::passage::Shared;
use super::{Refusal, Target, playlist};
use crate::ingest::incident::Cause;

/// Redirects in a row.
const REDIRECTS_MAX: usize = 8;

/// The longest playlist, bytes.
const PLAYLIST_MAX: usize = 4 << 20;

/// The longest address that is asked for.
const ADDRESS_MAX: usize = 8192;

/// How long it may take until an answer is there: redirects followed, playlists and keys whole. GStreamer 1.22's HLS client
/// gives up after 10 s, and then may use memory that another of its threads has freed.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// When the passage drains, whoever waits is answered at once; what is still being sent a moment later is broken off.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Bytes after which it is known whether a body is a playlist: its mark, and blanks before it.
const HEAD: usize = 256;

/// What of a source's answer is passed on.
const PASSED_ON: [header::HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::LAST_MODIFIED,
    header::WWW_AUTHENTICATE,
];

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let is_late = shared.is_draining();
    let passage = shared.clone();
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    // One answer a connection: GStreamer 1.22's HLS client uses memory that it has freed when a connection that it kept is
    // gone, and leaves some behind whenever it stops. A client that goes away in the middle of an answer is its own business.
    let http =
        hyper::server::conn::http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    let cut = async {
        passage.drained().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        _ = http => {}
        () = cut, if !is_late => {}
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Answer {
    if shared.is_draining() {
        return status(StatusCode::GONE);
    }
    let path = request.uri().path();
    let Some(uri) = shared.behind(path) else { return status(StatusCode::NOT_FOUND) };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let fetched = tokio::select! {
        // Hanging up instead is what GStreamer 1.22's HLS client cannot bear while it waits for a playlist: the thread that
        // is told unlocks what the thread that waited has freed by then.
        () = shared.drained() => return status(StatusCode::GONE),
        fetched = timeout(shared.patience, fetch(shared, &uri, request.method(), request.headers())) => fetched,
    };
    match fetched.unwrap_or_else(|_| Err(silent())) {
        Ok(answer) => {
            shared.went_well();
            let is_media = answer.status().is_success();
            answer.map(|body| if is_media { shared.endings.hold(path, body) } else { body })
        }
        Err(refusal) => {
            let code = match refusal.kind {
                Cause::Refused => StatusCode::FORBIDDEN,
                _ => StatusCode::BAD_GATEWAY,
            };
            shared.failed(refusal);
            status(code)
        }
    }
}

fn silent() -> Refusal {
    Refusal::of(Cause::NoAnswer, "the server does not answer", "check that the server is well")
}

fn status(code: StatusCode) -> Answer {
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed());
    *answer.status_mut() = code;
    answer
}

async fn fetch(shared: &Shared, uri: &str, method: &Method, asked: &HeaderMap) -> Result<Answer, Refusal> {
    let mut uri = uri.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let (scheme, _) = uri.split_once(':').unwrap_or_default();
        if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
            // A playlist or a redirect that leads out of the web.
            return Err(Refusal::new(format!("the source leads to the scheme {scheme:?}"), "check the source"));
        }
        if uri.len() > ADDRESS_MAX {
            return Err(Refusal::of(
                Cause::Other,
                "the source leads to an address that is too long",
                "check the server",
            ));
        }
        let target = Target::parse(&uri)?;
        let mut answer = request(shared, &target, method, asked).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && shared.shown().challenged(&target.url, answer.headers()) {
            answer = request(shared, &target, method, asked).await?;
        }
        let location = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        match location.filter(|_| answer.status().is_redirection()) {
            Some(location) => {
                let wrong = |_| Refusal::of(Cause::Other, "the server redirects to no address", "check the server");
                uri = target.url.join(location).map_err(wrong)?.into();
            }
            None => return pass_on(shared, &target.url, method, answer).await,
        }
    }
    Err(Refusal::of(Cause::Other, "the server redirects on and on", "check the server"))
}

/// Asks once, over a connection of its own.
async fn request(
    shared: &Shared,
    target: &Target,
    method: &Method,
    asked: &HeaderMap,
) -> Result<Response<Incoming>, Refusal> {
    let stream = shared.connect(target).await?;
    let handshake = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|_| silent())?;
    // Its error is the answer's, too.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let url = &target.url;
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(&path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "touchline")
        .header(header::ACCEPT, "*/*");
    if let Some(range) = asked.get(header::RANGE) {
        request = request.header(header::RANGE, range);
    }
    for (name, value) in shared.shown().headers(url, method, &path) {
        request = request.header(name, value);
    }
    let request = request.body(Empty::new()).map_err(|_| {
        Refusal::of(Cause::Other, "the address has characters that cannot be sent", "percent-encode them")
    })?;
    let answer = sender.send_request(request).await.map_err(|_| silent())?;
    shared.shown().keep(url, answer.headers());
    Ok(answer)
}

/// Passes an answer on: playlists rewritten, all else as it comes.
async fn pass_on(shared: &Shared, url: &Url, method: &Method, answer: Response<Incoming>) -> Result<Answer, Refusal> {
    let (parts, mut body) = answer.into_parts();
    let late = || Refusal::of(Cause::NoAnswer, "the server does not send what it began", "check the server");
    let mut begun: Vec<u8> = Vec::new();
    while begun.len() < HEAD {
        match body.frame().await {
            Some(Ok(frame)) => begun.extend(frame.into_data().unwrap_or_default()),
            Some(Err(_)) => return Err(late()),
            None => break,
        }
    }
    let mut out = status(parts.status);
    for name in PASSED_ON {
        if let Some(value) = parts.headers.get(&name) {
            out.headers_mut().insert(name, value.clone());
        }
    }
    if playlist::is_playlist(&begun) {
        let room = PLAYLIST_MAX.saturating_sub(begun.len());
        let rest = Limited::new(body, room).collect().await.map_err(|_| late())?;
        begun.extend(rest.to_bytes());
        let text = playlist::rewrite(&String::from_utf8_lossy(&begun), url, &|url| shared.through(url.as_str()));
        let text = text.ok_or_else(|| Refusal::of(Cause::NotMedia, "the playlist is too long", "check the server"))?;
        shared.endings.learn(&text);
        let kind = HeaderValue::from_static("application/vnd.apple.mpegurl");
        out.headers_mut().insert(header::CONTENT_TYPE, kind);
        *out.body_mut() = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
        return Ok(out);
    }
    if let Some(length) = parts.headers.get(header::CONTENT_LENGTH).filter(|_| method == Method::GET) {
        out.headers_mut().insert(header::CONTENT_LENGTH, length.clone());
    }
    *out.body_mut() = joined(begun, body);
    Ok(out)
}

/// What was read already, then the rest.
fn joined(begun: Vec<u8>, rest: Incoming) -> BoxBody<Bytes, hyper::Error> {
    if begun.is_empty() && rest.is_end_stream() {
        return Empty::new().map_err(|never| match never {}).boxed();
    }
    let first = tokio_stream::once(Ok(Frame::data(Bytes::from(begun))));
    let rest = rest.into_data_stream();
    let rest = tokio_stream::StreamExt::map(rest, |data| data.map(Frame::data));
    BodyExt::boxed(StreamBody::new(tokio_stream::StreamExt::chain(first, rest)))
}
