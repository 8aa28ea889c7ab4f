//! Access over HTTP: roles, tokens, sessions, and the middleware that every request passes.
//!
//! | credential | reads | changes |
//! |---|---|---|
//! | admin token, or a session from it | yes | yes |
//! | read token, or a session from it | yes | no |
//! | none; loopback address, `Host` is an address or localhost, no token configured | yes | yes, but not from another site's page |
//! | none; `--allow-anonymous` | yes | no |
//! | none, otherwise | no | no |
//!
//! The probes (`/healthz`, `/readyz`), the files of the page and the login are public. Every method but GET, HEAD and OPTIONS
//! is a change. Routes find the [`Caller`] in the extensions of the request.

pub(super) mod login;
mod origin;
mod sessions;
mod throttle;
mod tokens;

use parking_lot::RwLock;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::http::answer::problem;
use crate::http::page;
use crate::metrics::{HttpRefusal, Metrics};
use sessions::Sessions;
use throttle::Throttle;
pub(super) use throttle::subscriber;
use tokens::Tokens;
pub(crate) use tokens::warn_if_open_to_others;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};

pub use login::parse_login;
pub use sessions::{LogOuts, NONCE, RevokedSession, SessionArchive};
pub use tokens::TokenSource;

/// Longest body of a request, bytes. A stream with a long URI and a label fits.
pub const BODY_MAX: usize = 4096;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Permissions of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May read.
    Read,
    /// May read and change.
    Admin,
}

impl Role {
    /// In the order of the variants.
    pub const ALL: [Role; 2] = [Role::Read, Role::Admin];

    /// The name in JSON and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Admin => "admin",
        }
    }
}

/// How a caller got its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthMethod {
    /// No credential was needed.
    Nothing,
    /// A bearer token.
    Token,
    /// A session cookie.
    Session,
}

impl AuthMethod {
    /// The name in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            AuthMethod::Nothing => "nothing",
            AuthMethod::Token => "token",
            AuthMethod::Session => "session",
        }
    }
}

/// The caller of a request.
// In the extensions of every request except those to public paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Caller {
    /// Its permissions.
    pub role: Role,
    /// How it got them.
    pub by: AuthMethod,
}

/// The peer of a connection, in the extensions of its requests.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The connection uses TLS.
    pub tls: bool,
}

/// Settings of [`Access`].
#[derive(Clone, Debug, Default)]
pub struct AccessConfig {
    /// The admin token.
    pub admin_token: Option<TokenSource>,
    /// The read token.
    pub read_token: Option<TokenSource>,
    /// Everyone may read without a token.
    pub allow_anonymous: bool,
    /// Everyone may change the pack without a token, unless an admin token is set.
    pub allow_pack_updates: bool,
}

/// Checks permissions. Shared by all requests.
pub struct Access {
    config: AccessConfig,
    /// The server listens on a loopback address.
    local: bool,
    port: u16,
    tokens: RwLock<Arc<Tokens>>,
    sessions: Sessions,
    throttle: Throttle,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    /// It has no credential.
    NeedsToken,
    WrongToken,
    /// Too many wrong tokens; retry after these seconds.
    Wait(u64),
    NeedsAdmin,
    /// Changes are disabled: no admin token is configured.
    NoAdmin,
    ForeignSite,
    /// No token is configured, and `Host` is a name.
    UnknownName,
}

/// The credential of a request.
enum Credential<'a> {
    None,
    Token(&'a str),
    Session(&'a str),
    /// An `Authorization` header without a bearer token.
    Unknown,
}

impl Access {
    /// For a server that listens on `address`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a token that cannot be read or used, and for an address that other machines reach without
    /// any access rule.
    pub fn new(config: AccessConfig, address: SocketAddr, clock: Arc<dyn Clock>, metrics: Metrics) -> Result<Self> {
        let tokens = Tokens::read(config.admin_token.as_ref(), config.read_token.as_ref())?;
        let local = address.ip().to_canonical().is_loopback();
        if !local && !tokens.any() && !config.allow_anonymous {
            return Err(Error::Usage(format!(
                "--listen {address} is open to other machines without an access rule; give --admin-token-file or \
                 --read-token-file, or --allow-anonymous to let everyone read"
            )));
        }
        let tokens = RwLock::new(Arc::new(tokens));
        let (sessions, throttle) = (Sessions::new(), Throttle::default());
        Ok(Self { config, local, port: address.port(), tokens, sessions, throttle, clock, metrics })
    }

    /// Makes sessions and log-outs outlive the process; `kept` are the stored log-outs. Call it before the first login.
    #[must_use]
    pub fn with_archive(mut self, archive: Arc<dyn SessionArchive>, kept: LogOuts) -> Self {
        self.sessions = Sessions::with_archive(archive, kept);
        self
    }

    /// Reads the tokens again. Sessions from a changed token end; answers in progress do not.
    ///
    /// # Errors
    /// As [`Access::new`]; the tokens stay as they were.
    pub fn reload(&self) -> Result<()> {
        let tokens = Tokens::read(self.config.admin_token.as_ref(), self.config.read_token.as_ref())?;
        *self.tokens.write() = Arc::new(tokens);
        Ok(())
    }

    /// Whether any caller may change the pack.
    pub fn takes_packs(&self) -> bool {
        let tokens = self.tokens();
        tokens.has_admin() || self.config.allow_pack_updates || self.local && !tokens.any()
    }

    /// One line for the log about unusual permissions.
    pub fn summary(&self) -> Option<String> {
        let tokens = self.tokens();
        let changes = if tokens.has_admin() {
            "changes need the admin token"
        } else if self.config.allow_pack_updates && !self.local {
            "everyone may change the pack without a token"
        } else {
            "changes are disabled"
        };
        match (self.local, tokens.any(), self.config.allow_anonymous) {
            (_, true, false) => None,
            (true, false, false) => None,
            _ => Some(format!("everyone may read without a token; {changes}")),
        }
    }

    fn tokens(&self) -> Arc<Tokens> {
        self.tokens.read().clone()
    }

    fn now_s(&self) -> u64 {
        u64::try_from(self.clock.unix_ns()).unwrap_or(0) / 1_000_000_000
    }

    /// Name of the session cookie. It contains the port, because browsers share cookies between ports.
    fn cookie(&self) -> String {
        format!("touchline_{}", self.port)
    }

    fn credential<'a>(&self, headers: &'a HeaderMap) -> Credential<'a> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(|value| value.split_once(' '));
            return match token {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Credential::Token(token.trim()),
                _ => Credential::Unknown,
            };
        }
        let name = self.cookie();
        let pairs = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
        let session =
            pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(n, _)| *n == name).map(|(_, value)| value);
        session.map_or(Credential::None, Credential::Session)
    }

    /// The role of `token`, sent from `address`.
    fn check_token(&self, address: IpAddr, token: &str) -> Result<Role, Denied> {
        let now_ns = self.clock.mono_ns();
        // Not compared while waiting: otherwise the answer would reveal a hit.
        let wait_s = self.throttle.wait_s(address, now_ns);
        if wait_s > 0 {
            return Err(Denied::Wait(wait_s));
        }
        self.tokens().role(token).ok_or_else(|| {
            let wait_s = self.throttle.failed(address, now_ns);
            if wait_s > 0 {
                // Logged once per wait.
                tracing::warn!("wrong tokens from {address}: its tokens are ignored for {wait_s} s");
            }
            Denied::WrongToken
        })
    }

    /// The caller of a request, or why it is refused.
    fn decide(&self, peer: IpAddr, method: &Method, path: &str, headers: &HeaderMap) -> Result<Caller, Denied> {
        let caller = match self.credential(headers) {
            Credential::Token(token) => Caller { role: self.check_token(peer, token)?, by: AuthMethod::Token },
            Credential::Unknown => return Err(Denied::WrongToken),
            Credential::Session(value) => match self.sessions.role(&self.tokens(), value, self.now_s()) {
                Some(role) => Caller { role, by: AuthMethod::Session },
                None => self.anonymous(method, path, headers)?,
            },
            Credential::None => self.anonymous(method, path, headers)?,
        };
        if !is_change(method) {
            return Ok(caller);
        }
        if !origin::is_own(headers, caller.by == AuthMethod::Nothing) {
            return Err(Denied::ForeignSite);
        }
        if caller.role < Role::Admin {
            return Err(if self.tokens().has_admin() { Denied::NeedsAdmin } else { Denied::NoAdmin });
        }
        Ok(caller)
    }

    fn anonymous(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Caller, Denied> {
        let tokens = self.tokens();
        let is_open_here = !tokens.any() && self.local;
        if is_open_here && !self.config.allow_anonymous && !origin::is_asked_by_address(headers) {
            // DNS rebinding: a foreign page whose name resolves to this machine could read everything.
            return Err(Denied::UnknownName);
        }
        let is_pack = self.config.allow_pack_updates && path == "/api/v1/pack";
        let role = if is_open_here || is_pack && !tokens.has_admin() && is_change(method) {
            Role::Admin
        } else if self.config.allow_anonymous {
            Role::Read
        } else {
            return Err(Denied::NeedsToken);
        };
        // An anonymous reader may still have a token for changes.
        if is_change(method) && role < Role::Admin && tokens.has_admin() {
            return Err(Denied::NeedsToken);
        }
        Ok(Caller { role, by: AuthMethod::Nothing })
    }

    fn count(&self, refusal: HttpRefusal) {
        self.metrics.http_refused(refusal);
    }

    fn refuse(&self, denied: Denied, path: &str) -> Response {
        self.count(match denied {
            Denied::NeedsToken | Denied::WrongToken => HttpRefusal::Unauthorized,
            Denied::Wait(_) => HttpRefusal::Throttled,
            Denied::NeedsAdmin | Denied::NoAdmin | Denied::ForeignSite | Denied::UnknownName => HttpRefusal::Forbidden,
        });
        if matches!(path, "/" | "/history" | "/teach") && matches!(denied, Denied::NeedsToken) {
            // A browser: show the login page.
            let (kind, body) = page::asset("login.html").expect("the login page is in the binary");
            return (StatusCode::UNAUTHORIZED, [(header::CONTENT_TYPE, kind)], body).into_response();
        }
        let (status, error, advice) = match denied {
            Denied::NeedsToken => (
                StatusCode::UNAUTHORIZED,
                "this needs a token",
                "send -H \"Authorization: Bearer TOKEN\", or log in on the page at /",
            ),
            Denied::WrongToken => {
                (StatusCode::UNAUTHORIZED, "the token is wrong", "ask the operator of the server for a token")
            }
            Denied::Wait(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "too many wrong tokens from this address",
                "retry after the seconds in Retry-After",
            ),
            Denied::NeedsAdmin => (StatusCode::FORBIDDEN, "this token may only read", "use the admin token"),
            Denied::NoAdmin => (
                StatusCode::FORBIDDEN,
                "changes are disabled on this address",
                "start the program with --admin-token-file, with --allow-pack-updates for packs only, or with --listen 127.0.0.1:8080",
            ),
            Denied::UnknownName => (
                StatusCode::FORBIDDEN,
                "without tokens this server accepts addresses and localhost in Host, not names",
                "use 127.0.0.1 or localhost; behind a proxy, set Host to localhost, or start the program with tokens or --allow-anonymous",
            ),
            Denied::ForeignSite => (
                StatusCode::FORBIDDEN,
                "the request comes from another site's page",
                "use a program such as curl, or this server's own page",
            ),
        };
        let mut answer = problem(status, error, advice);
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"touchline\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Denied::Wait(seconds) = denied {
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        answer
    }
}

pub(super) fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether the path is public.
pub(super) fn is_open(method: &Method, path: &str) -> bool {
    match path {
        "/healthz" | "/readyz" => !is_change(method),
        "/api/v1/session" => true,
        _ => path.starts_with("/assets/") && !is_change(method),
    }
}

/// The client's address. Only tests serve without connections.
fn address(extensions: &Extensions) -> IpAddr {
    extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.address.ip())
}

/// Middleware: checks the caller, reads the body, and passes the request to its route or refuses it. Writes the audit log.
pub(super) async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let peer = address(request.extensions());
    let decided =
        if is_open(&method, &path) { None } else { Some(access.decide(peer, &method, &path, request.headers())) };
    let response = match decided {
        Some(Err(denied)) => access.refuse(denied, &path),
        Some(Ok(caller)) => {
            request.extensions_mut().insert(caller);
            pass(&access, request, next).await
        }
        None => pass(&access, request, next).await,
    };
    if is_change(&method) {
        let by = decided.and_then(Result::ok).map(|caller| caller.by.as_str());
        tracing::info!(target: "touchline::audit", %peer, by, %method, path, status = response.status().as_u16(), "change over HTTP");
    }
    response
}

/// Reads the body of a change, and passes the request to its route.
async fn pass(access: &Access, request: Request, next: Next) -> Response {
    if !is_change(request.method()) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_MAX)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Err(_)) => {
            access.count(HttpRefusal::Body);
            let error = format!("the body is longer than {BODY_MAX} bytes or did not arrive");
            problem(StatusCode::PAYLOAD_TOO_LARGE, &error, "send a shorter body")
        }
        Err(_) => {
            access.count(HttpRefusal::Body);
            problem(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time", "send the request again")
        }
    }
}

/// For the fuzz targets.
#[cfg(fuzzing)]
pub(super) fn fuzz_origin(headers: &HeaderMap) {
    let (named, anonymous) = (origin::is_own(headers, false), origin::is_own(headers, true));
    assert!(named || !anonymous, "a request without a token must not be allowed more than one with a token");
}
