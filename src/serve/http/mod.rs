//! The HTTP server: the overlay page, the API, the live records, the preview, the metrics and the probes.
//!
//! The description of every route is at the route. `/api/v1/openapi.json` is made from them.
//!
//! `access` checks permissions, `server` limits connections. `live_routes` has the live records, `preview_routes` the
//! pictures; `pack_routes` changes the pack, `stream_routes` the streams; `probe_routes` tests an address. `teach_routes` has the
//! corrections, and `learn_routes` what a pack learns from them.

pub mod access;
mod answer;
mod app_state;
mod clip_routes;
mod export_routes;
mod extract;
mod learn_routes;
mod live_routes;
mod openapi;
mod pack_routes;
mod page;
mod past;
mod preview_routes;
mod probe_routes;
pub mod server;
mod stream_routes;
mod teach_routes;
pub mod tls;

use std::future::Future;
use std::io::ErrorKind;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::access::{Access, AccessConfig, login};
use self::answer::{json, not_found, problem};
use self::app_state::AppState;
pub use self::app_state::{PackAccess, StreamAccess};
use self::extract::Parameters;
use self::server::Limits;
use self::tls::Tls;
use crate::clips::ClipAccess;
use crate::hub::Hub;
use crate::metrics;
use crate::record::SCHEMA;
use crate::teach::TeachAccess;
use touchline_core::error::{Error, Result};

/// How long open answers may take to end when the server stops. Live answers end at once; this is for clients that do
/// not read.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Forbids foreign scripts, images and frames.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The OpenAPI 3.1 document, made from the routes.
pub static OPENAPI: LazyLock<String> = LazyLock::new(|| openapi::document(routes().into_openapi()));

/// Listens on `address`, as in `127.0.0.1:8080`; port 0 selects a free port.
///
/// # Errors
/// [`Error::Output`] if the address is in use, belongs to another machine, or is not permitted.
pub async fn bind(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let (cause, advice) = match e.kind() {
            ErrorKind::AddrInUse => {
                ("the port is in use", "stop the program that uses it, or choose another port with --listen HOST:PORT")
            }
            ErrorKind::AddrNotAvailable => {
                ("this machine does not have that address", "choose another address with --listen HOST:PORT")
            }
            ErrorKind::PermissionDenied => {
                ("this user may not listen on that port", "choose a port above 1023 with --listen HOST:PORT")
            }
            ErrorKind::InvalidInput => ("this is not an address", "write it as --listen 127.0.0.1:8080"),
            _ => ("the server cannot listen on it", "choose another address with --listen HOST:PORT"),
        };
        Error::output(address, cause, advice)
    })
}

/// Settings of a server.
pub struct Serving {
    /// `None`: the pack cannot be changed.
    pub packs: Option<PackAccess>,
    /// `None`: the streams cannot be changed.
    pub streams: Option<StreamAccess>,
    /// `None`: nothing is recorded.
    pub clips: Option<ClipAccess>,
    /// `None`: nothing can be corrected.
    pub teach: Option<TeachAccess>,
    /// Checks permissions.
    pub access: Arc<Access>,
    /// `None`: plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// Limits of connections.
    pub limits: Limits,
}

/// Serves `hub` on `listener`, a loopback address, without login or TLS. When `shutdown` completes it ends all answers
/// and returns within two seconds.
///
/// # Errors
/// [`Error::Usage`] if other machines reach the address.
pub async fn serve(listener: TcpListener, hub: Hub, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let address = listener.local_addr().map_err(|e| Error::Internal(format!("the listener has no address: {e}")))?;
    let access = Access::new(AccessConfig::default(), address, hub.clock().clone(), hub.metrics().clone())?;
    let serving = Serving {
        packs: None,
        streams: None,
        clips: None,
        teach: None,
        access: Arc::new(access),
        tls: None,
        limits: Limits::default(),
    };
    serve_with(listener, hub, serving, shutdown).await;
    Ok(())
}

/// As [`serve()`], on any address.
pub async fn serve_with(
    listener: TcpListener,
    hub: Hub,
    serving: Serving,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let (close, closing) = watch::channel(false);
    let Serving { packs, streams, clips, teach, access, tls, limits } = serving;
    let metrics = hub.metrics().clone();
    let app = router(AppState { hub, packs, streams, clips, teach, access, closing: closing.clone() });
    let server = server::run(listener, app, tls, limits, metrics, closing);
    let overdue = async move {
        shutdown.await;
        close.send_replace(true);
        tokio::time::sleep(CLOSE_TIMEOUT).await;
    };
    tokio::select! {
        () = server => {}
        () = overdue => {}
    }
}

fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::Api::openapi())
        .routes(routes!(page))
        .routes(routes!(asset))
        .routes(routes!(info))
        .routes(routes!(pack_routes::get, pack_routes::post))
        .routes(routes!(login::get, login::post, login::delete))
        .routes(routes!(schema))
        .routes(routes!(document))
        .routes(routes!(stream_routes::config))
        .routes(routes!(stream_routes::sinks))
        .routes(routes!(stream_routes::fleet))
        .routes(routes!(stream_routes::list, stream_routes::post))
        .routes(routes!(stream_routes::get, stream_routes::patch, stream_routes::delete))
        .routes(routes!(probe_routes::post))
        .routes(routes!(clip_routes::list))
        .routes(routes!(clip_routes::get, clip_routes::delete))
        .routes(routes!(clip_routes::file))
        .routes(routes!(clip_routes::post))
        .routes(routes!(live_routes::stream))
        .routes(routes!(live_routes::streams))
        .routes(routes!(live_routes::overview))
        .routes(routes!(preview_routes::stream))
        .routes(routes!(preview_routes::thumbnails))
        .routes(routes!(export_routes::get))
        .routes(routes!(past::poster))
        .routes(routes!(past::segments))
        .routes(routes!(past::events))
        .routes(routes!(past::history))
        .routes(routes!(past::summary))
        .routes(routes!(teach_routes::suggestions))
        .routes(routes!(teach_routes::second))
        .routes(routes!(teach_routes::picture))
        .routes(routes!(teach_routes::list))
        .routes(routes!(teach_routes::post))
        .routes(routes!(teach_routes::delete))
        .routes(routes!(learn_routes::get, learn_routes::post, learn_routes::delete))
        .routes(routes!(learn_routes::swap))
        .routes(routes!(learn_routes::roll_back))
        .routes(routes!(teach_routes::page))
        .routes(routes!(history_page))
        .routes(routes!(prometheus))
        .routes(routes!(health))
        .routes(routes!(ready))
}

fn router(server: AppState) -> Router {
    let access = server.access.clone();
    Router::from(routes())
        .fallback(|| async { not_found("there is nothing at this path", "see / and /api/v1/openapi.json") })
        .with_state(server)
        .layer(from_fn_with_state(access, access::guard))
        .layer(map_response(protect))
}

/// Adds the headers of every answer.
async fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert("permissions-policy", HeaderValue::from_static("camera=(), microphone=(), geolocation=()"));
    // `frame-ancestors` for clients that do not know it.
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// What the page shows.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    /// Id of the stream that is shown alone. Without it the wall, whose other parameters the page reads.
    stream: Option<String>,
}

/// Returns the page: the wall of all streams, or one stream.
#[utoipa::path(get, path = "/", operation_id = "page", params(PageQuery), responses(
    (status = 200, description = "The page.", body = String, content_type = "text/html"),
    (status = 401, description = "The request has no token (the login page), or a wrong one.",
        content((String = "text/html"), (ref("#/components/schemas/Problem") = "application/json"))),
))]
async fn page(Parameters(query): Parameters<PageQuery>) -> Response {
    file(if query.stream.is_some() { "stream.html" } else { "wall.html" })
}

/// Returns the history page: timelines, segments and totals. The page itself reads the parameters.
#[utoipa::path(get, path = "/history", operation_id = "historyPage", responses(
    (status = 200, description = "The page.", body = String, content_type = "text/html"),
    (status = 401, description = "The request has no token (the login page), or a wrong one.",
        content((String = "text/html"), (ref("#/components/schemas/Problem") = "application/json"))),
))]
async fn history_page() -> Response {
    file("history.html")
}

/// Returns a file of the page.
#[utoipa::path(get, path = "/assets/{name}", operation_id = "asset", params(("name" = String, Path)), responses(
    (status = 200, description = "The file."),
    (status = 404, description = "There is no such file."),
))]
async fn asset(Path(name): Path<String>) -> Response {
    file(&name)
}

/// Returns version, pack, classes and vote window.
#[utoipa::path(get, path = "/api/v1/info", operation_id = "info", responses(
    (status = 200, description = "Facts about the server.", body = ref("#/components/schemas/Info")),
))]
async fn info(State(server): State<AppState>) -> Response {
    json(server.hub.info_json())
}

/// Returns the JSON Schema of the records.
#[utoipa::path(get, path = "/api/v1/schema", operation_id = "schema", responses(
    (status = 200, description = "The schema.", body = Object, content_type = "application/schema+json"),
))]
async fn schema() -> Response {
    ([(header::CONTENT_TYPE, "application/schema+json")], SCHEMA.as_str()).into_response()
}

/// Returns this document.
#[utoipa::path(get, path = "/api/v1/openapi.json", operation_id = "openapi", responses(
    (status = 200, description = "The document.", body = Object, content_type = "application/json"),
))]
async fn document() -> Response {
    json(OPENAPI.clone())
}

fn file(name: &str) -> Response {
    match page::asset(name) {
        // A new build has new files under the same names: clients must revalidate.
        Some((kind, body)) => {
            ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], body).into_response()
        }
        None => not_found("there is no such file", "see / for the page"),
    }
}

/// Returns Prometheus metrics.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", responses(
    (status = 200, description = "Prometheus' text format.", body = String),
))]
async fn prometheus(State(server): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], server.hub.metrics().encode()).into_response()
}

/// Returns 200 while the process serves.
#[utoipa::path(get, path = "/healthz", operation_id = "healthz", responses((status = 200, description = "ok", body = String)))]
async fn health() -> &'static str {
    "ok\n"
}

/// Returns 200 when the models are warm.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", responses(
    (status = 200, description = "ready", body = String),
    (status = 503, description = "Not ready, with the reason."),
))]
async fn ready(State(server): State<AppState>) -> Response {
    match server.hub.not_ready() {
        None => "ready\n".into_response(),
        Some(why) => problem(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {why}"), "retry in a second"),
    }
}

/// For the fuzz targets: reads a request as the routes do, headers first.
#[cfg(fuzzing)]
pub fn fuzz_request(kind: &str, origin: &str, host: &str, body: &[u8]) {
    use axum::http::HeaderMap;
    let mut headers = HeaderMap::new();
    for (name, text) in
        [(header::CONTENT_TYPE, kind), (header::ORIGIN, origin), (header::HOST, host), (header::IF_MATCH, host)]
    {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    access::fuzz_origin(&headers);
    let _ = access::parse_login(body);
    pack_routes::fuzz_wanted(&headers, body);
    stream_routes::fuzz_parse(&headers, body);
}
