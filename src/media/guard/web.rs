//! The HTTP part of the proxy: requests a recording, or a range of it, and passes the response on.

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

/// Time limit for the head of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(8);

/// The headers of the source's response that are passed on.
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
    // Fails if the client closes the connection in the middle of a response, which needs no action.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(shared: &ProxyState, url: &Url, request: Request<Incoming>) -> ProxyResponse {
    if request.uri().path() != shared.path {
        return status(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    // A range, so that the response is not compressed: offsets refer to the file on the server.
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
