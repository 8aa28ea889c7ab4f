//! Permissions and limits of clients, against real servers over TCP and TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Server, add, new_hub};
use crate::wait::until;
use touchline_core::clock::SystemClock;
use touchline_serve::http::access::{Access, AccessConfig, BODY_MAX, TokenSource};
use touchline_serve::http::server::Limits;
use touchline_serve::hub::Hub;
use touchline_serve::metrics::Metrics;
use touchline_serve::record::StreamState;

pub const ADMIN: &str = "admin-token-0123456789";
pub const READER: &str = "reader-token-0123456789";

fn text(token: &str) -> Option<TokenSource> {
    Some(TokenSource::Environment { name: "TOKEN", text: token.into() })
}

pub fn both_tokens() -> AccessConfig {
    AccessConfig { admin_token: text(ADMIN), read_token: text(READER), ..AccessConfig::default() }
}

pub fn hub() -> Hub {
    let (hub, _) = new_hub();
    add(&hub, "court-1", "testsrc://").set_state(StreamState::Playing);
    hub
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    body: String,
}

impl Answer {
    pub fn body(&self) -> &str {
        &self.body
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

pub fn exchange(mut stream: impl Read + Write, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // A server that closes the connection without a TLS closure alert has still sent the whole answer.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

pub fn request(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", server.address());
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    format!("{text}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    exchange(connect(server), &request(server, method, path, headers, body))
}

pub fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

pub fn refused(hub: &Hub, reason: &str) -> u64 {
    let name = format!("touchline_http_refused_total{{reason=\"{reason}\"}} ");
    let text = hub.metrics().encode();
    text.lines().find_map(|line| line.strip_prefix(&name)).expect("the counter exists from the start").parse().unwrap()
}

pub const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn each_role_has_its_permissions() {
    let hub = hub();
    let server = Server::start_with(hub.clone(), both_tokens(), None, Limits::default());
    let (admin, reader, wrong) = (bearer(ADMIN), bearer(READER), bearer("wrong-token-0123456789"));
    let reads = ["/", "/api/v1/info", "/api/v1/streams", "/api/v1/pack", "/metrics", "/api/v1/schema", "/nowhere"];
    for path in reads {
        let status = |headers: &[(&str, &str)]| ask(&server, "GET", path, headers, "").status;
        let found = if path == "/nowhere" { 404 } else { 200 };
        assert_eq!(status(&[("Authorization", &admin)]), found, "{path}");
        assert_eq!(status(&[("Authorization", &reader)]), found, "{path}");
        let nothing = ask(&server, "GET", path, &[], "");
        assert_eq!(nothing.status, 401, "{path}");
        assert!(nothing.head.contains("content-security-policy"), "{path}: a refusal lacks the security headers");
        assert!(!nothing.body.contains("court-1"), "{path}");
    }
    for path in ["/healthz", "/readyz", "/assets/login.js", "/assets/style.css"] {
        assert_eq!(ask(&server, "GET", path, &[], "").status, 200, "{path}");
    }
    let denied = ask(&server, "GET", "/api/v1/streams", &[("Authorization", &wrong)], "");
    assert_eq!((denied.status, denied.header("www-authenticate")), (401, Some("Bearer realm=\"touchline\"")));
    let basic = ("Authorization", "Basic YWRtaW46YWRtaW4=");
    assert_eq!(ask(&server, "GET", "/api/v1/streams", &[basic], "").status, 401);

    let post = |headers: &[(&str, &str)]| {
        let answer = ask(&server, "POST", "/api/v1/pack", &[headers, &[JSON]].concat(), "{}");
        (answer.status, answer.body)
    };
    assert_eq!(post(&[]).0, 401);
    let (status, body) = post(&[("Authorization", &reader)]);
    assert!(status == 403 && body.contains("may only read"), "{status} {body}");
    // Access is granted, but this server has no pack to change.
    let (status, body) = post(&[("Authorization", &admin)]);
    assert!(status == 403 && body.contains("the pack of this server"), "{status} {body}");
    let (status, body) = post(&[("Authorization", &admin), ("Origin", "https://evil.example")]);
    assert!(status == 403 && body.contains("another site"), "{status} {body}");
    for method in ["PUT", "PATCH", "DELETE"] {
        let status = ask(&server, method, "/api/v1/streams", &[("Authorization", &reader)], "").status;
        assert_eq!(status, 403, "{method}: a reader may not use a changing method, even where no route exists");
    }
    assert!(refused(&hub, "unauthorized") >= 10 && refused(&hub, "forbidden") >= 5);
}

#[test]
fn without_tokens_loopback_clients_are_admins_and_other_addresses_need_permission() {
    let open = Server::start_with(hub(), AccessConfig::default(), None, Limits::default());
    assert_eq!(ask(&open, "GET", "/api/v1/streams", &[], "").status, 200);
    assert!(ask(&open, "POST", "/api/v1/pack", &[JSON], "{}").body.contains("the pack of this server"));
    assert_eq!(ask(&open, "GET", "/api/v1/session", &[], "").body, r#"{"role":"admin","by":"nothing"}"#);

    // DNS rebinding: a page whose name resolves to this machine sends that name as the host. Probes are public.
    let by_name = |server: &Server, path: &str| {
        let text = request(server, "GET", path, &[], "").replace(&server.address().to_string(), "evil.example:8080");
        exchange(connect(server), &text)
    };
    for path in ["/", "/api/v1/streams", "/metrics"] {
        let answer = by_name(&open, path);
        assert!(answer.status == 403 && answer.body.contains("localhost"), "{path}: {answer:?}");
    }
    assert_eq!(by_name(&open, "/healthz").status, 200);

    let anonymous = AccessConfig { admin_token: text(ADMIN), allow_anonymous: true, ..AccessConfig::default() };
    let server = Server::start_with(hub(), anonymous, None, Limits::default());
    assert_eq!(ask(&server, "GET", "/", &[], "").status, 200);
    assert_eq!(by_name(&server, "/api/v1/streams").status, 200, "anonymous clients may read");
    assert_eq!(ask(&server, "POST", "/api/v1/pack", &[JSON], "{}").status, 401);
    let admin = bearer(ADMIN);
    let answer = ask(&server, "POST", "/api/v1/pack", &[JSON, ("Authorization", &admin)], "{}");
    assert!(answer.body.contains("the pack of this server"), "{answer:?}");

    let new = |config: AccessConfig, address: &str| {
        Access::new(config, address.parse().unwrap(), Arc::new(SystemClock::new()), Metrics::new())
    };
    let error = new(AccessConfig::default(), "0.0.0.0:1").err().unwrap();
    assert!(error.exit_code() == 2 && error.to_string().contains("--allow-anonymous"), "{error}");
    assert!(new(AccessConfig::default(), "[::1]:1").is_ok());
    assert!(new(AccessConfig::default(), "[::ffff:127.0.0.1]:1").is_ok());
    assert!(new(AccessConfig { read_token: text(READER), ..AccessConfig::default() }, "0.0.0.0:1").is_ok());
    assert!(new(AccessConfig { allow_anonymous: true, ..AccessConfig::default() }, "[::]:1").is_ok());
}

#[test]
fn tokens_are_checked_and_can_be_reloaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.token");
    let write = |token: &str| std::fs::write(&path, token).unwrap();
    let config = || AccessConfig { admin_token: Some(TokenSource::File(path.clone())), ..AccessConfig::default() };
    let new = |config: AccessConfig| {
        Access::new(config, "0.0.0.0:1".parse().unwrap(), Arc::new(SystemClock::new()), Metrics::new())
    };
    for (token, message) in [
        ("tiny-one\n", "shorter than 16"),
        ("sixteen letters, but spaces", "other than printable"),
        (&"x".repeat(5000), "longer than"),
    ] {
        write(token);
        let error = new(config()).err().unwrap().to_string();
        assert!(error.contains(message) && error.contains("admin.token") && !error.contains(token.trim()), "{error}");
    }
    assert!(
        new(AccessConfig { read_token: text(ADMIN), admin_token: text(ADMIN), ..config() }).is_err(),
        "equal tokens"
    );
    std::fs::remove_file(&path).unwrap();
    assert!(new(config()).err().unwrap().to_string().contains("cannot read"));

    write(&format!("{ADMIN}\n"));
    let server = Server::start_with(hub(), config(), None, Limits::default());
    let status = |token: &str| ask(&server, "GET", "/metrics", &[("Authorization", &bearer(token))], "").status;
    assert_eq!(status(ADMIN), 200);
    let cookie = log_in(&server, ADMIN);
    assert_eq!(ask(&server, "GET", "/metrics", &[("Cookie", &cookie)], "").status, 200);
    write("bad");
    assert!(server.access.reload().is_err());
    assert_eq!(status(ADMIN), 200, "the old token must stay valid");
    write("another-token-0123456789");
    server.access.reload().unwrap();
    assert_eq!((status(ADMIN), status("another-token-0123456789")), (401, 200));
    assert_eq!(
        ask(&server, "GET", "/metrics", &[("Cookie", &cookie)], "").status,
        401,
        "a session must end with its token"
    );
}

fn log_in(server: &Server, token: &str) -> String {
    let answer = ask(server, "POST", "/api/v1/session", &[JSON], &format!("{{\"token\":\"{token}\"}}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
    assert_eq!(cookie.contains("; Secure"), server.url.starts_with("https"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

#[test]
fn sessions_begin_with_a_login_and_end_with_logout_or_age() {
    let (hub, clock) = new_hub();
    let server = Server::start_with(hub, both_tokens(), None, Limits::default());
    let (reader, admin) = (log_in(&server, READER), log_in(&server, ADMIN));
    let get = |cookie: &str| ask(&server, "GET", "/api/v1/session", &[("Cookie", cookie)], "");
    assert_eq!(get(&reader).body, r#"{"role":"read","by":"session"}"#);
    assert_eq!(get(&format!("theme=dark; {admin}")).body, r#"{"role":"admin","by":"session"}"#);
    let post = |cookie: &str, more: &[(&str, &str)]| {
        ask(&server, "POST", "/api/v1/pack", &[more, &[JSON, ("Cookie", cookie)]].concat(), "{}").body
    };
    assert!(post(&reader, &[]).contains("may only read"));
    assert!(post(&admin, &[]).contains("the pack of this server"));
    // Browsers do not send the cookie for other sites. The server refuses it if one does.
    for foreign in [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
        assert!(post(&admin, &[foreign]).contains("another site"), "{foreign:?}");
        let body = format!("{{\"token\":\"{ADMIN}\"}}");
        assert_eq!(ask(&server, "POST", "/api/v1/session", &[JSON, foreign], &body).status, 403);
    }
    // A cookie with one changed letter, and a cookie of another server.
    let (name, value) = reader.split_once('=').unwrap();
    let mut forged = value.as_bytes().to_vec();
    for place in [0, 10, 30, value.len() - 1] {
        let original = forged[place];
        forged[place] = if original == b'x' { b'y' } else { b'x' };
        assert_eq!(get(&format!("{name}={}", std::str::from_utf8(&forged).unwrap())).status, 401, "{place}");
        forged[place] = original;
    }
    let other = AccessConfig { read_token: text("other-token-0123456789"), ..AccessConfig::default() };
    let other = Server::start_with(self::hub(), other, None, Limits::default());
    let foreign = log_in(&other, "other-token-0123456789");
    assert_eq!(get(&format!("{name}={}", foreign.split_once('=').unwrap().1)).status, 401);

    let logout = ask(&server, "DELETE", "/api/v1/session", &[("Cookie", &reader)], "");
    assert!(logout.status == 204 && logout.header("set-cookie").unwrap().contains("Max-Age=0"), "{logout:?}");
    assert_eq!(get(&reader).status, 401, "a copy of the cookie must be invalid");
    assert_eq!(get(&admin).status, 200);
    // The test's clock can only be set back, so the session begins in the past and the clock returns to the present.
    clock.set_back(Duration::from_secs(40 * 24 * 3600));
    let old = log_in(&server, ADMIN);
    assert_eq!(get(&old).status, 200);
    clock.set_back(Duration::ZERO);
    assert_eq!(get(&old).status, 401, "an old session must end");
    for (body, kind, status) in [
        ("token=x", "application/x-www-form-urlencoded", 415),
        ("{\"token\":", "application/json", 400),
        ("{\"token\":\"x\",\"role\":\"admin\"}", "application/json", 400),
        ("{\"token\":\"wrong-secret-1234567\"}", "application/json", 401),
    ] {
        let answer = ask(&server, "POST", "/api/v1/session", &[("Content-Type", kind)], body);
        assert_eq!(answer.status, status, "{body}");
        assert!(!answer.body.contains("wrong-secret"), "{answer:?}");
    }
}

#[test]
fn wrong_tokens_are_throttled() {
    let hub = hub();
    let server = Server::start_with(hub.clone(), both_tokens(), None, Limits::default());
    let session = log_in(&server, READER);
    let get = |token: &str| ask(&server, "GET", "/metrics", &[("Authorization", &bearer(token))], "");
    for n in 0..6 {
        assert_eq!(get(&format!("guess-0123456789-{n}")).status, 401);
    }
    let denied = get(ADMIN);
    assert_eq!((denied.status, denied.header("retry-after")), (429, Some("1")), "even the right token must wait");
    let login = ask(&server, "POST", "/api/v1/session", &[JSON], &format!("{{\"token\":\"{ADMIN}\"}}"));
    assert_eq!(login.status, 429);
    assert_eq!(
        ask(&server, "GET", "/metrics", &[("Cookie", &session)], "").status,
        200,
        "an existing session must stay valid"
    );
    assert_eq!(ask(&server, "GET", "/healthz", &[], "").status, 200);
    assert_eq!(refused(&hub, "throttled"), 2);
    std::thread::sleep(Duration::from_millis(1_050));
    assert_eq!(get(ADMIN).status, 200);
}

#[test]
fn clients_that_exceed_a_limit_are_disconnected() {
    let limits = Limits {
        connections: 4,
        header: Duration::from_millis(700),
        write: Duration::from_millis(700),
        ..Limits::default()
    };
    let (hub, clock) = new_hub();
    let cam = add(&hub, "court-1", "testsrc://");
    let server = Server::start_with(hub.clone(), AccessConfig::default(), None, limits);

    // A client that sends its headers slowly.
    let mut loris = connect(&server);
    loris.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n").unwrap();
    until("the end of the connection", || loris.write_all(b"X-A: b\r\n").is_err());
    until("the refusal", || refused(&hub, "slow_request") >= 1);

    // Too many headers, a header that is too long, and a body that is too long.
    let mut many = request(&server, "GET", "/", &[], "");
    many.insert_str(many.len() - 2, &"X-A: b\r\n".repeat(100));
    assert_eq!(exchange(connect(&server), &many).status, 431);
    let mut long = request(&server, "GET", "/", &[], "");
    long.insert_str(long.len() - 2, &format!("X-A: {}\r\n", "b".repeat(40_000)));
    assert_eq!(exchange(connect(&server), &long).status, 431);
    let answer = ask(&server, "POST", "/api/v1/pack", &[JSON], &" ".repeat(BODY_MAX + 1));
    assert_eq!(answer.status, 413, "{answer:?}");
    assert_eq!(refused(&hub, "body"), 1);

    // A client that does not read its answer, which is far more than fits in the buffers of the sockets.
    let mut idle = connect(&server);
    write!(idle, "GET /api/v1/streams/court-1/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    let mut script = crate::support::Script::default();
    until("the viewer", || hub.metrics().encode().contains("touchline_viewers{kind=\"live\"} 1"));
    until("the refusal of the slow reader", || {
        for _ in 0..500 {
            crate::support::step(&cam, &clock, &mut script, crate::support::Shot::On("tennis", 0.9));
        }
        refused(&hub, "slow_reader") == 1
    });
    until("the disconnection of the viewer", || hub.metrics().encode().contains("touchline_viewers{kind=\"live\"} 0"));

    until("the end of all connections", || hub.metrics().encode().contains("touchline_http_connections 0"));
    let held: Vec<TcpStream> = (0..4).map(|_| connect(&server)).collect();
    until("four connections", || hub.metrics().encode().contains("touchline_http_connections 4"));
    let full = ask(&server, "GET", "/api/v1/info", &[], "");
    assert_eq!((full.status, refused(&hub, "connections")), (503, 1), "{full:?}");
    for probe in ["/healthz", "/metrics"] {
        assert_eq!(ask(&server, "GET", probe, &[], "").status, 200, "{probe}");
    }
    drop(held);
    until("the end of all connections", || hub.metrics().encode().contains("touchline_http_connections 0"));
    assert_eq!(ask(&server, "GET", "/healthz", &[], "").status, 200);
}

#[test]
fn an_address_at_its_limit_does_not_block_other_addresses() {
    let limits = Limits { connections: 8, per_address: 4, reserve: 4, ..Limits::default() };
    let (hub, _) = new_hub();
    let server = Server::start_with(hub.clone(), AccessConfig::default(), None, limits);
    let open = || {
        let text = hub.metrics().encode();
        let count = text.lines().find_map(|line| line.strip_prefix("touchline_http_connections ")).unwrap();
        count.parse::<usize>().unwrap()
    };
    let hold = |n: usize| {
        let before = open();
        let held: Vec<TcpStream> = (0..n).map(|_| connect(&server)).collect();
        until("connections", || open() == before + n);
        held
    };
    let held = hold(4);
    assert_eq!(ask(&server, "GET", "/api/v1/info", &[], "").status, 503, "the address is at its limit");
    for probe in ["/healthz", "/readyz", "/metrics"] {
        assert_ne!(ask(&server, "GET", probe, &[], "").status, 0, "{probe} has no answer");
    }
    until("the end of the probes", || open() == 4);
    // The address may also use half of the reserve. The server closes further connections.
    let probes = hold(2);
    let mut nothing = Vec::new();
    let _ = connect(&server).read_to_end(&mut nothing);
    assert!(nothing.is_empty());
    // Another address can still connect. Linux uses all of 127.0.0.0/8 for the loopback interface.
    let target: std::net::SocketAddr = server.address().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let from = |host: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{host}:0").parse().unwrap()).unwrap();
        let stream = runtime.block_on(socket.connect(target)).unwrap().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let text = request(&server, "GET", "/api/v1/info", &[], "");
    assert_eq!(exchange(from("127.0.0.2"), &text).status, 200);
    drop((held, probes));
    until("the end of all connections", || open() == 0);
    assert_eq!(ask(&server, "GET", "/api/v1/info", &[], "").status, 200);
}

#[test]
fn the_document_declares_every_refusal() {
    let server = Server::start_with(hub(), both_tokens(), None, Limits::default());
    let (admin, reader, wrong) = (bearer(ADMIN), bearer(READER), bearer("wrong-token-0123456789"));
    let document = ask(&server, "GET", "/api/v1/openapi.json", &[("Authorization", &admin)], "").body;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let operations: Vec<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| (path.clone(), method.clone())))
        .filter(|(_, method)| method != "parameters")
        .collect();
    assert!(operations.len() >= 19, "{operations:?}");
    let is_declared = |(path, method): &(String, String), status: u16| {
        document["paths"][path][method]["responses"][status.to_string()].is_object()
    };
    let is_change = |method: &str| method != "get";
    let is_public = |path: &str| path.starts_with("/assets/") || path.ends_with("z") || path == "/api/v1/session";
    let send = |(path, method): &(String, String), headers: &[(&str, &str)], body: &str| {
        // The stream does not exist, so that its endless answers end at once.
        let path =
            path.replace("{id}", "none").replace("{name}", "wall.js").replace("{run}", "0").replace("{index}", "0");
        ask(&server, &method.to_uppercase(), &path, headers, body)
    };
    for operation in &operations {
        let (path, method) = operation;
        let answer = send(operation, &[JSON], "");
        assert!(is_declared(operation, answer.status), "{operation:?}: {answer:?}");
        assert_eq!(
            answer.status == 401,
            !is_public(path) || path.ends_with("session") && method == "get",
            "{operation:?}"
        );
        if !is_change(method) {
            continue;
        }
        let long = " ".repeat(BODY_MAX + 1);
        let answer = send(operation, &[JSON, ("Authorization", &admin)], &long);
        assert!(answer.status == 413 && is_declared(operation, 413), "{operation:?}: {answer:?}");
        assert!(is_declared(operation, 408), "{operation:?}");
        let foreign = send(operation, &[JSON, ("Authorization", &admin), ("Sec-Fetch-Site", "cross-site")], "");
        assert!(foreign.status == 403 && is_declared(operation, 403), "{operation:?}: {foreign:?}");
        if !is_public(path) {
            let reads = send(operation, &[JSON, ("Authorization", &reader)], "");
            assert_eq!(reads.status, 403, "{operation:?}: {reads:?}");
        }
    }
    for operation in operations.iter().filter(|(path, _)| !is_public(path)) {
        // The first wrong tokens are free. Each further one starts a wait of a second or more.
        while send(operation, &[JSON, ("Authorization", &wrong)], "").status != 429 {}
        assert!(is_declared(operation, 429), "{operation:?}");
    }
    for (path, method) in [("/api/v1/pack", "post"), ("/api/v1/streams", "post"), ("/api/v1/streams/{id}", "patch")] {
        assert!(is_declared(&(path.into(), method.into()), 409), "{method} {path}");
    }
}
