//! The proxy for a recording on a web server: asks for it, or for a range of it, and passes the answer on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

use super::proxy::ProxyState;
use touchline_core::cause::Cause;

/// How long it may take until the head of an answer is there.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(8);

/// What of a source's answer is passed on.
const PASSED_ON: [header::HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ACCEPT_RANGES,
    header::LAST_MODIFIED,
    header::WWW_AUTHENTICATE,
];

type ProxyResponse = Response<BoxBody<Bytes, hyper::Error>>;

pub(super) async fn serve(stream: TcpStream, shared: Arc<ProxyState>, url: Url) {
    let service = service_fn(move |request| {
        let (shared, url) = (shared.clone(), url.clone());
        async move { Ok::<_, Infallible>(answer(&shared, &url, request).await) }
    });
    // A client that goes away in the middle of an answer is its own business.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(shared: &ProxyState, url: &Url, request: Request<Incoming>) -> ProxyResponse {
    if request.uri().path() != shared.path {
        return status(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    // Ranges are of what is on the server: it must not be compressed on the way.
    let range = request.headers().get(header::RANGE).and_then(|range| range.to_str().ok()).unwrap_or("bytes=0-");
    match shared.web.request(url, request.method(), Some(range), RESPONSE_TIMEOUT).await {
        Ok(found) => {
            shared.clear_failure();
            let mut out = status(found.status);
            for name in PASSED_ON {
                if let Some(value) = found.headers.get(&name) {
                    out.headers_mut().insert(name, value.clone());
                }
            }
            if request.method() == Method::GET {
                *out.body_mut() = found.into_body().boxed();
            }
            out
        }
        Err(refusal) => {
            let code = match refusal.kind {
                Cause::Refused => StatusCode::FORBIDDEN,
                _ => StatusCode::BAD_GATEWAY,
            };
            shared.record_failure(refusal);
            status(code)
        }
    }
}

fn status(code: StatusCode) -> ProxyResponse {
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed());
    *answer.status_mut() = code;
    answer
}
