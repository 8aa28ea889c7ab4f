//! The HTTP client for playlists and media.
//!
//! Each source has one [`WebClient`] with its own cookies and logins; connections are reused. The source policy is applied when a
//! connection is made, so it covers redirects, names and literal addresses. All clients run on the runtime of `guard`.

mod connector;
pub(crate) mod login;

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::time::timeout;
use url::Url;

use super::guard::{Refusal, SourcePolicy};
use connector::Connector;
use login::CredentialJar;
use touchline_core::cause::Cause;

/// The most redirects of one request.
const REDIRECTS_MAX: usize = 8;

/// The longest URL, bytes.
const ADDRESS_MAX: usize = 8192;

/// Time limit for the next bytes of a response.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// How long an idle connection is kept: longer than the distance of most segments.
const IDLE: Duration = Duration::from_secs(30);

/// The client of one source.
pub(crate) struct WebClient {
    client: Client<Connector, Empty<Bytes>>,
    jar: Mutex<CredentialJar>,
}

/// The head of a response, and its unread body.
pub(crate) struct WebResponse {
    /// The URL after redirects.
    pub url: Url,
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
}

impl WebClient {
    pub fn new(policy: Arc<SourcePolicy>) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(4)
            .build(Connector(policy));
        Self { client, jar: Mutex::default() }
    }

    /// Requests `url`, or a `range` of it (the value of the header), follows redirects and answers challenges. `response_timeout`
    /// is the time limit for the head of each response.
    ///
    /// # Errors
    /// When the policy refuses the address, the request fails, or the status is not a success.
    pub async fn get(
        &self,
        url: &Url,
        range: Option<&str>,
        response_timeout: Duration,
    ) -> Result<WebResponse, Refusal> {
        let answer = self.request(url, &Method::GET, range, response_timeout).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(failed_status(answer.status)) }
    }

    /// As [`WebClient::get`], for any method. Also returns responses with an error status.
    ///
    /// # Errors
    /// When the policy refuses the address, or the request fails.
    pub async fn request(
        &self,
        url: &Url,
        method: &Method,
        range: Option<&str>,
        response_timeout: Duration,
    ) -> Result<WebResponse, Refusal> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            if !matches!(url.scheme(), "http" | "https") {
                // A playlist or a redirect to another protocol.
                let cause = format!("the source leads to the scheme {:?}", url.scheme());
                return Err(Refusal::new(cause, "check the source"));
            }
            if url.as_str().len() > ADDRESS_MAX {
                let cause = "the source leads to an address that is too long";
                return Err(Refusal::of(Cause::Other, cause, "check the server"));
            }
            let mut answer = self.once(&url, method, range, response_timeout).await?;
            if answer.status() == StatusCode::UNAUTHORIZED && self.jar.lock().challenged(&url, answer.headers()) {
                answer = self.once(&url, method, range, response_timeout).await?;
            }
            let location = answer.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            match location.filter(|_| answer.status().is_redirection()) {
                Some(location) => {
                    let wrong = |_| {
                        Refusal::of(Cause::Other, "the server redirects without a valid address", "check the server")
                    };
                    url = url.join(location).map_err(wrong)?;
                }
                None => {
                    let (parts, body) = answer.into_parts();
                    return Ok(WebResponse { url, status: parts.status, headers: parts.headers, body });
                }
            }
        }
        Err(Refusal::of(Cause::Other, "the server redirects too often", "check the server"))
    }

    async fn once(
        &self,
        url: &Url,
        method: &Method,
        range: Option<&str>,
        response_timeout: Duration,
    ) -> Result<Response<Incoming>, Refusal> {
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        // The login is removed from the URL and sent with the scheme that the server requires.
        let mut bare = url.clone();
        bare.set_fragment(None);
        // Both fail only for a URL without a host.
        let _ = (bare.set_username(""), bare.set_password(None));
        let mut request = Request::builder()
            .method(method)
            .uri(bare.as_str())
            .header(header::USER_AGENT, "touchline")
            .header(header::ACCEPT, "*/*")
            .header(header::ACCEPT_ENCODING, if range.is_some() { "identity" } else { "gzip, br" });
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        for (name, value) in self.jar.lock().headers(url, method, &path) {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).map_err(|_| {
            Refusal::of(Cause::Other, "the address has characters that cannot be sent", "percent-encode them")
        })?;
        let answer = match timeout(response_timeout, self.client.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => return Err(connector::refusal(&e).unwrap_or_else(hung_up)),
            Err(_) => return Err(silent()),
        };
        self.jar.lock().keep(url, answer.headers());
        Ok(answer)
    }
}

impl WebResponse {
    /// The content type, in lower case without parameters: `application/vnd.apple.mpegurl`.
    pub fn content_type(&self) -> String {
        let value = self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The length of the body in bytes, if the server gives it.
    pub fn length(&self) -> Option<u64> {
        self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// The next bytes; [`None`] at the end.
    ///
    /// # Errors
    /// When the connection breaks or the server stops sending.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            match timeout(SILENCE_MAX, self.body.frame()).await {
                // Trailers are ignored.
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
                Ok(Some(Err(_))) => return Err(broken_off()),
                Ok(None) => return Ok(None),
                Err(_) => return Err(silent_midway()),
            }
        }
    }

    /// The whole body, decoded: `bytes`, which were read already, and the rest. At most `max` bytes.
    ///
    /// # Errors
    /// When the body is longer, incomplete, too slow, or cannot be decoded.
    pub async fn rest(mut self, mut bytes: Vec<u8>, max: usize) -> Result<Vec<u8>, Refusal> {
        bytes.reserve(self.length().map_or(0, |n| n.min(max as u64) as usize).saturating_sub(bytes.len()));
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > max {
                return Err(too_long(max));
            }
            bytes.extend_from_slice(&chunk);
        }
        decode(bytes, self.headers.get(header::CONTENT_ENCODING), max)
    }

    /// The body without decoding.
    pub fn into_body(self) -> Incoming {
        self.body
    }
}

/// Undoes a content encoding.
fn decode(bytes: Vec<u8>, encoding: Option<&HeaderValue>, max: usize) -> Result<Vec<u8>, Refusal> {
    use std::io::Read;
    let name = encoding.and_then(|e| e.to_str().ok()).unwrap_or_default().trim().to_ascii_lowercase();
    let is_gzip = bytes.starts_with(&[0x1f, 0x8b]);
    let mut reader: Box<dyn Read + '_> = match name.as_str() {
        // Some servers send gzip without declaring it. No playlist and no container begins with these bytes.
        _ if is_gzip => Box::new(flate2::read::MultiGzDecoder::new(&bytes[..])),
        "deflate" => Box::new(flate2::read::ZlibDecoder::new(&bytes[..])),
        "br" => Box::new(brotli::Decompressor::new(&bytes[..], 4096)),
        _ => return Ok(bytes),
    };
    let mut out = Vec::new();
    let read = reader.by_ref().take(max as u64 + 1).read_to_end(&mut out);
    let wrong = |_| Refusal::of(Cause::Damaged, format!("the server's {name} data are damaged"), "check the server");
    read.map_err(wrong)?;
    if out.len() > max { Err(too_long(max)) } else { Ok(out) }
}

/// The refusal for a status that is not a success.
pub(super) fn failed_status(status: StatusCode) -> Refusal {
    let code = status.as_u16();
    let of = |kind, cause: String, advice| Refusal::of(kind, cause, advice);
    match code {
        401 => of(Cause::NotAuthorized, "not authorized (401)".into(), "check user and password in the URL"),
        403 => of(Cause::Forbidden, "access forbidden (403)".into(), "check user, password and token in the URL"),
        404 | 410 => of(Cause::NotFound, format!("not found ({code})"), "check the path of the URL"),
        500..=599 => of(
            Cause::ServerError,
            format!("the server failed ({code})"),
            "it may recover by itself; otherwise check the server's log",
        ),
        _ => of(Cause::Other, format!("the server answers with status {code}"), "check the URL in a browser"),
    }
}

fn silent() -> Refusal {
    Refusal::of(Cause::NoAnswer, "the server does not answer", "check the server")
}

fn hung_up() -> Refusal {
    Refusal::of(Cause::NoAnswer, "the server closed the connection without an answer", "check the server")
}

fn broken_off() -> Refusal {
    Refusal::of(Cause::NoAnswer, "the server closed the connection in the middle of its answer", "check the server")
}

fn silent_midway() -> Refusal {
    Refusal::of(Cause::NoAnswer, "the server stopped sending in the middle of its answer", "check the server")
}

fn too_long(max: usize) -> Refusal {
    let cause = format!("the answer is longer than {} MiB", max >> 20);
    Refusal::of(Cause::NotMedia, cause, "check the server's answer")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn encodings_are_decoded_up_to_a_limit() {
        let plain = b"#EXTM3U\n".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let named = |name| HeaderValue::from_static(name);
        assert_eq!(decode(gzip.clone(), Some(&named("gzip")), 1 << 20).unwrap(), plain);
        assert_eq!(decode(gzip.clone(), None, 1 << 20).unwrap(), plain, "no Content-Encoding header");
        assert_eq!(decode(plain.clone(), None, 1 << 20).unwrap(), plain);
        assert_eq!(decode(plain.clone(), Some(&named("identity")), 1 << 20).unwrap(), plain);
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&plain).unwrap();
        assert_eq!(decode(zlib.finish().unwrap(), Some(&named("deflate")), 1 << 20).unwrap(), plain);
        let mut br = Vec::new();
        brotli::CompressorWriter::new(&mut br, 4096, 4, 22).write_all(&plain).unwrap();
        assert_eq!(decode(br, Some(&named("br")), 1 << 20).unwrap(), plain);
        assert!(decode(gzip.clone(), None, 1000).is_err(), "the content exceeds the limit");
        assert!(decode(gzip[..gzip.len() / 2].to_vec(), None, 1 << 20).is_err(), "truncated");
    }

    #[test]
    fn statuses_map_to_causes() {
        for (code, kind) in [
            (401, Cause::NotAuthorized),
            (403, Cause::Forbidden),
            (404, Cause::NotFound),
            (410, Cause::NotFound),
            (503, Cause::ServerError),
            (509, Cause::ServerError),
            (418, Cause::Other),
        ] {
            let refusal = failed_status(StatusCode::from_u16(code).unwrap());
            assert_eq!(refusal.kind, kind, "{code}");
            assert!(refusal.cause.contains(&code.to_string()), "{}", refusal.cause);
        }
    }
}
