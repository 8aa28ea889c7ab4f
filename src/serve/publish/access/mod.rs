//! Who may do what over HTTP: roles, tokens, sessions, and the one place that every request passes.
//!
//! | who | reads | changes |
//! |---|---|---|
//! | shows the admin token, or a session made from it | yes | yes |
//! | shows the read token, or a session made from it | yes | no |
//! | shows nothing; on an address of this machine, asked for by it or as localhost, no token set | yes | yes, but not for another site's page |
//! | shows nothing; `--allow-anonymous` | yes | no |
//! | shows nothing, else | no | no |
//!
//! The probes (`/healthz`, `/readyz`), the page's files and the login are open to all: nothing in them is a secret. What
//! changes is every method but GET, HEAD and OPTIONS. Routes learn who requests from the [`Caller`] in the request's
//! extensions.

mod login;
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
use serde::Serialize;

use super::answer::problem;
use super::page;
use crate::metrics::{HttpRefusal, Metrics};
use sessions::Sessions;
use throttle::Throttle;
pub(super) use throttle::subscriber;
use tokens::Tokens;
pub(in crate::publish) use tokens::warn_if_open_to_others;
use touchline_core::clock::Clock;
use touchline_core::error::{Error, Result};

pub use login::parse_login;
pub(super) use login::{delete as log_out, get as who, post as log_in};
pub use sessions::{LogOuts, LoggedOut, NONCE, SessionArchive};
pub use tokens::TokenSource;

/// Longest body of a request, bytes. A stream with a long URI and a label fits.
pub const BODY_MAX: usize = 4096;

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Read,
    Admin,
}

impl Role {
    pub const ALL: [Role; 2] = [Role::Read, Role::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Admin => "admin",
        }
    }
}

/// How a caller got its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMethod {
    /// Nothing was shown, and nothing was needed.
    Nothing,
    Token,
    Session,
}

/// Who sends a request. Every request that reaches a route has one in its extensions, but for those to open paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Caller {
    pub role: Role,
    pub by: AuthMethod,
}

/// Where a request comes from, in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// It came over TLS.
    pub tls: bool,
}

/// What [`Access`] is made from.
#[derive(Clone, Debug, Default)]
pub struct AccessConfig {
    pub admin_token: Option<TokenSource>,
    pub read_token: Option<TokenSource>,
    /// Everyone may read.
    pub allow_anonymous: bool,
    /// Everyone may change the pack, where no admin token is set.
    pub allow_pack_updates: bool,
}

/// Decides who may do what. Shared by all requests.
pub struct Access {
    config: AccessConfig,
    /// The server listens on an address of this machine only.
    local: bool,
    port: u16,
    tokens: RwLock<Arc<Tokens>>,
    sessions: Sessions,
    throttle: Throttle,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

/// Why a request is not listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    /// Nothing was shown.
    NeedsToken,
    WrongToken,
    /// A wrong token too many; again after these seconds.
    Wait(u64),
    NeedsAdmin,
    /// Nobody may change anything: there is no admin token.
    NoAdmin,
    ForeignSite,
    /// Nobody needs a token, and the server was asked for by a name.
    UnknownName,
}

/// What a request shows.
enum Credential<'a> {
    None,
    Token(&'a str),
    Session(&'a str),
    /// An `Authorization` that is no bearer token.
    Unknown,
}

impl Access {
    /// For a server that listens on `address`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a token that cannot be read or used, and for an address that others reach while nothing says who
    /// may do what.
    pub fn new(config: AccessConfig, address: SocketAddr, clock: Arc<dyn Clock>, metrics: Metrics) -> Result<Self> {
        let tokens = Tokens::read(config.admin_token.as_ref(), config.read_token.as_ref())?;
        let local = address.ip().to_canonical().is_loopback();
        if !local && !tokens.any() && !config.allow_anonymous {
            return Err(Error::Usage(format!(
                "--listen {address} is open to other machines and nothing says who may do what; give --admin-token-file \
                 or --read-token-file, or --allow-anonymous to let everyone read"
            )));
        }
        let tokens = RwLock::new(Arc::new(tokens));
        let (sessions, throttle) = (Sessions::new(), Throttle::default());
        Ok(Self { config, local, port: address.port(), tokens, sessions, throttle, clock, metrics })
    }

    /// Sessions and log-outs outlive the process from now on; `kept` is what was kept before. Call it before anybody logs in.
    #[must_use]
    pub fn with_archive(mut self, archive: Arc<dyn SessionArchive>, kept: LogOuts) -> Self {
        self.sessions = Sessions::with_archive(archive, kept);
        self
    }

    /// Reads the tokens again. Sessions made from a token that has changed end; answers that are under way do not.
    ///
    /// # Errors
    /// As [`Access::new`]; the tokens stay as they were.
    pub fn reload(&self) -> Result<()> {
        let tokens = Tokens::read(self.config.admin_token.as_ref(), self.config.read_token.as_ref())?;
        *self.tokens.write() = Arc::new(tokens);
        Ok(())
    }

    /// Somebody may change the pack.
    pub fn takes_packs(&self) -> bool {
        let tokens = self.tokens();
        tokens.has_admin() || self.config.allow_pack_updates || self.local && !tokens.any()
    }

    /// One line for the log: who may do what, where that is less than obvious.
    pub fn summary(&self) -> Option<String> {
        let tokens = self.tokens();
        let changes = if tokens.has_admin() {
            "changes need the admin token"
        } else if self.config.allow_pack_updates && !self.local {
            "everyone who reaches it may change the pack"
        } else {
            "nobody may change anything"
        };
        match (self.local, tokens.any(), self.config.allow_anonymous) {
            (_, true, false) => None,
            (true, false, false) => None,
            _ => Some(format!("everyone who reaches the server may read; {changes}")),
        }
    }

    fn tokens(&self) -> Arc<Tokens> {
        self.tokens.read().clone()
    }

    fn now_s(&self) -> u64 {
        u64::try_from(self.clock.unix_ns()).unwrap_or(0) / 1_000_000_000
    }

    /// The session's cookie. Browsers do not tell ports apart, so the name does.
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

    /// The role of whoever shows `token` from `address`.
    fn check_token(&self, address: IpAddr, token: &str) -> Result<Role, Denied> {
        let now_ns = self.clock.mono_ns();
        // Not even looked at while waiting: else a guess would be told from a hit.
        let wait_s = self.throttle.wait_s(address, now_ns);
        if wait_s > 0 {
            return Err(Denied::Wait(wait_s));
        }
        self.tokens().role(token).ok_or_else(|| {
            let wait_s = self.throttle.failed(address, now_ns);
            if wait_s > 0 {
                // As seldom as the waits let it.
                tracing::warn!("wrong tokens from {address}: none of it is looked at for {wait_s} s");
            }
            Denied::WrongToken
        })
    }

    /// Who sends a request, if it may be listened to.
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
            // A page of somebody else, whose name was pointed at this machine, could read all there is.
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
        // Who may read without a token may still have one for changes.
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
        if path == "/" && matches!(denied, Denied::NeedsToken) {
            // A person in front of a browser.
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
                (StatusCode::UNAUTHORIZED, "the token is not one of this server's", "ask who runs the server for one")
            }
            Denied::Wait(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens from this address", "try again later")
            }
            Denied::NeedsAdmin => (StatusCode::FORBIDDEN, "this token may only read", "use the admin token"),
            Denied::NoAdmin => (
                StatusCode::FORBIDDEN,
                "nothing can be changed over this address",
                "start the program with --admin-token-file, or with --allow-pack-updates for packs, or listen on 127.0.0.1",
            ),
            Denied::UnknownName => (
                StatusCode::FORBIDDEN,
                "without tokens this server answers to its address only, not to a name",
                "ask for 127.0.0.1 or localhost; behind a proxy send that as Host, or start with tokens or --allow-anonymous",
            ),
            Denied::ForeignSite => (
                StatusCode::FORBIDDEN,
                "the request comes from another site's page",
                "ask with a program such as curl, or from this server's own page under its address",
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

fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// What everyone may have: nothing there is a secret.
fn is_open(method: &Method, path: &str) -> bool {
    match path {
        "/healthz" | "/readyz" => !is_change(method),
        "/api/v1/session" => true,
        _ => path.starts_with("/assets/") && !is_change(method),
    }
}

/// The address that a request came from. Only tests serve without connections.
fn address(extensions: &Extensions) -> IpAddr {
    extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.address.ip())
}

/// Lets requests through to the routes, or answers in their place.
pub(super) async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if !is_open(&method, &path) {
        match access.decide(address(request.extensions()), &method, &path, request.headers()) {
            Ok(caller) => request.extensions_mut().insert(caller),
            Err(denied) => return access.refuse(denied, &path),
        };
    }
    if !is_change(&method) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(BODY_LIMIT, to_bytes(body, BODY_MAX)).await {
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
    assert!(named || !anonymous, "who shows nothing may not more than who shows a token");
}
