//! Features of web servers (encodings, redirects, cookies, logins), and answers that are not playlists.

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use parking_lot::Mutex;
use touchline_core::cause::Cause;

use super::case::{Case, Expect, Site, fails, fails_with_cause, from_material, run, whole};
use super::list::{List, plain, segment};
use super::lost::noise;
use super::server::{Answer, Body, Request, Server};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("writing to memory succeeds");
    encoder.finish().expect("writing to memory succeeds")
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("writing to memory succeeds");
    encoder.finish().expect("writing to memory succeeds")
}

/// Brotli without compression (RFC 7932, 9.2): stored blocks and an empty last one.
fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    for (n, block) in bytes.chunks(1 << 16).enumerate() {
        // The first block follows the window size of 64 kB (one bit, 0). Each block: not the last, a length of four nibbles, stored.
        let len = block.len() as u32 - 1;
        let word = (len << 3 | 1 << 19) << u32::from(n == 0);
        out.extend(&word.to_le_bytes()[..3]);
        out.extend(block);
    }
    out.push(3);
    out
}

/// The plain recording with the playlist, the segments or both in this encoding.
fn encoded(name: &'static str, encode: fn(&[u8]) -> Vec<u8>, playlist: bool, segments: bool) -> Site {
    let list = plain().text();
    let answer = move |bytes: &[u8], is_encoded: bool| match is_encoded {
        true => Answer::bytes(encode(bytes)).with("Content-Encoding", name).without_ranges(),
        false => Answer::bytes(bytes),
    };
    Site::new()
        .on("x.m3u8", move |_| answer(list.as_bytes(), playlist))
        .any(move |r| Some(answer(super::material::files().get(r.path())?, segments)))
}

#[test]
fn unrequested_encodings_are_decoded() {
    let mut cases = Vec::new();
    for (name, encode) in
        [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("x-gzip", gzip), ("deflate", deflate), ("br", brotli)]
    {
        for (part, playlist, segments) in [("playlist", true, false), ("segments", false, true), ("both", true, true)] {
            cases.push(Case::new(format!("{name}: {part}"), encoded(name, encode, playlist, segments), whole()));
        }
    }
    let identity = Site::new().answers("x.m3u8", Answer::list(plain().text()).with("Content-Encoding", "identity"));
    cases.push(Case::new("identity", identity, whole()));
    let chunked = Body::Chunked(gzip(plain().text().as_bytes()).into());
    let site = Site::new().answers("x.m3u8", Answer::of(chunked).with("Content-Encoding", "gzip"));
    cases.push(Case::new("gzip in pieces", site, whole()));
    cases.push(Case::new(
        "invalid gzip",
        Site::new().answers("x.m3u8", Answer::bytes(noise(4000)).with("Content-Encoding", "gzip")),
        fails(&[""]),
    ));
    run(cases);
}

/// Answers are limited in size, also after decompression.
#[test]
fn endless_answers_are_cut_off() {
    let bomb: Arc<[u8]> = gzip(&vec![b'\n'; 256 << 20]).into();
    let playlist = Answer::bytes(bomb.clone()).with("Content-Encoding", "gzip");
    let endless = Answer::of(Body::Stream(Arc::new(|out| {
        out.write_all(b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n")?;
        loop {
            out.write_all(&[b'#'; 65536])?;
        }
    })));
    let segment = Answer::of(Body::Stream(Arc::new(|out| {
        loop {
            out.write_all(&[0; 65536])?;
        }
    })));
    run(vec![
        Case::new("a playlist that decompresses to 256 MB", Site::new().answers("x.m3u8", playlist), fails(&[""])),
        Case::new("a playlist without end", Site::new().answers("x.m3u8", endless), fails(&[""])),
        Case::new(
            "a segment without end",
            Site::of(&plain()).answers("ts/s2.ts", segment),
            super::case::shows(super::lost::without(&[2])),
        ),
    ]);
}

#[test]
fn redirects_and_cookies_are_followed() {
    let list = || List::of((0..6).map(|n| segment(&format!("s{n}.ts?tok=abc&n={n}"))));
    let inner = |request: &Request| -> Option<Answer> {
        let name = request.path().strip_prefix("real/path/")?;
        if request.query("tok") != Some("abc") {
            return Some(Answer::status(403));
        }
        Some(from_material(&format!("ts/{name}")))
    };
    let redirected = |status: u16, to: &'static str| {
        let text = list().text();
        Site::new()
            .answers("live.m3u8", Answer::redirect(status, to))
            .on("real/path/x.m3u8", move |r| match r.query("tok") {
                Some("abc") => Answer::list(text.clone()),
                _ => Answer::status(403),
            })
            .any(inner)
    };
    let at = |name: String, site: Site| Case::new(name, site, whole()).at("live.m3u8");
    let mut cases: Vec<Case> = [301, 302, 303, 307, 308]
        .into_iter()
        .map(|status| at(format!("{status}"), redirected(status, "/real/path/x.m3u8?tok=abc")))
        .collect();
    cases.push(at("relative".into(), redirected(302, "real/path/x.m3u8?tok=abc")));
    cases.push(at("three in a row".into(), {
        let site = redirected(302, "/two");
        site.answers("two", Answer::redirect(301, "/three"))
            .answers("three", Answer::redirect(307, "/real/path/x.m3u8?tok=abc"))
    }));
    cases.push(at("segments, too".into(), {
        Site::new().text("live.m3u8", plain().text()).any(|r| {
            let name = r.path().strip_prefix("ts/")?;
            match r.query("cdn") {
                Some(_) => None,
                None => Some(Answer::redirect(302, format!("/ts/{name}?cdn=1"))),
            }
        })
    }));
    // The playlist and each segment require the cookie of the redirect.
    let has = |request: &Request, word: &str| request.header("cookie").is_some_and(|cookie| cookie.contains(word));
    cases.push(at("a cookie of the redirect".into(), {
        let text = plain().text();
        Site::new()
            .answers("live.m3u8", Answer::redirect(302, "/x.m3u8").with("Set-Cookie", "sid=42; Path=/; HttpOnly"))
            .on("x.m3u8", move |r| if has(r, "sid=42") { Answer::list(text.clone()) } else { Answer::status(403) })
            .any(move |r| (r.path().starts_with("ts/") && !has(r, "sid=42")).then(|| Answer::status(403)))
    }));
    cases.push(at("a cookie of the playlist, two of them".into(), {
        let answer = Answer::list(plain().text()).with("Set-Cookie", "a=1").with("Set-Cookie", "b=2; Path=/ts");
        Site::new().answers("live.m3u8", answer).any(move |r| {
            (r.path().starts_with("ts/") && !(has(r, "a=1") && has(r, "b=2"))).then(|| Answer::status(403))
        })
    }));
    cases.push(at("a cookie for another path is not sent".into(), {
        let answer = Answer::list(plain().text()).with("Set-Cookie", "a=1; Path=/elsewhere");
        Site::new().answers("live.m3u8", answer).any(move |r| has(r, "a=1").then(|| Answer::status(400)))
    }));
    cases.push(at("a cookie that changes with each segment".into(), {
        let last = Arc::new(Mutex::new(0u32));
        Site::new().answers("live.m3u8", Answer::list(plain().text()).with("Set-Cookie", "n=0; Path=/")).any(move |r| {
            if !r.path().starts_with("ts/") {
                return None;
            }
            let mut last = last.lock();
            if !has(r, "n=") {
                return Some(Answer::status(403));
            }
            *last += 1;
            Some(from_material(r.path()).with("Set-Cookie", format!("n={last}; Path=/")))
        })
    }));
    let loops = |name: &str, site: Site| Case::new(name, site, fails(&["redirect"])).at("live.m3u8");
    cases.push(loops("a loop", Site::new().answers("live.m3u8", Answer::redirect(302, "/live.m3u8"))));
    cases.push(loops("a loop of two", {
        Site::new()
            .answers("live.m3u8", Answer::redirect(302, "/b.m3u8"))
            .answers("b.m3u8", Answer::redirect(302, "/live.m3u8"))
    }));
    cases.push(loops("an endless chain", {
        Site::new().any(|r| {
            let n = r.query("n").and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
            Some(Answer::redirect(302, format!("/live.m3u8?n={}", n + 1)))
        })
    }));
    cases.push(
        Case::new(
            "a redirect to nowhere",
            Site::new().answers("live.m3u8", Answer { status: 302, ..Answer::bytes(&b""[..]) }),
            fails(&["redirect", "302"]),
        )
        .at("live.m3u8"),
    );
    run(cases);
}

/// Whether the digest login of a request is valid, according to `digest_auth`.
fn is_valid_digest(request: &Request, password: &str) -> bool {
    let Some(login) = request.header("authorization").filter(|login| login.starts_with("Digest ")) else {
        return false;
    };
    let Ok(login) = digest_auth::AuthorizationHeader::parse(login) else { return false };
    let mut context = digest_auth::AuthContext::new("ann", password, request.target.as_str());
    let mut expected = login.clone();
    context.set_custom_cnonce(login.cnonce.clone().unwrap_or_default());
    expected.digest(&context);
    login.response == expected.response && login.uri == request.target && login.nonce == "n42"
}

const PASSWORD: &str = "geheim&mehr#1";
const LOGIN: &str = "ann:geheim%26mehr%231@";

#[test]
fn logins_are_sent_only_to_the_server_that_requires_them() {
    let guarded = |challenge: &'static str, is_authorized: fn(&Request) -> bool| {
        let text = plain().text();
        let refuse = move || Answer::status(401).with("WWW-Authenticate", challenge);
        Site::new().any(move |r| match is_authorized(r) {
            false => Some(refuse()),
            true if r.path() == "x.m3u8" => Some(Answer::list(text.clone())),
            true => None,
        })
    };
    let basic: fn(&Request) -> bool =
        |r| r.header("authorization") == Some(&format!("Basic {}", STANDARD.encode(format!("ann:{PASSWORD}"))));
    let digest: fn(&Request) -> bool = |r| is_valid_digest(r, PASSWORD);
    let challenges = [
        ("basic", "Basic realm=\"tv\"", basic),
        ("basic with a charset", "Basic realm=\"tv\", charset=\"UTF-8\"", basic),
        ("digest", "Digest realm=\"tv\", nonce=\"n42\", qop=\"auth\"", digest),
        ("digest without qop", "Digest realm=\"tv\", nonce=\"n42\"", digest),
        ("digest with SHA-256", "Digest realm=\"tv\", nonce=\"n42\", qop=\"auth\", algorithm=SHA-256", digest),
    ];
    let mut cases = Vec::new();
    for (name, challenge, is_authorized) in challenges {
        cases.push(Case::new(name, guarded(challenge, is_authorized), whole()).login(LOGIN));
        let wrong = fails_with_cause(&[Cause::NotAuthorized], &["401", "password", "log in", "login", "authori"]);
        cases.push(
            Case::new(format!("{name}, wrong password"), guarded(challenge, is_authorized), wrong.clone())
                .login("ann:falsch@"),
        );
        cases.push(Case::new(format!("{name}, no login"), guarded(challenge, is_authorized), wrong));
    }
    // Segments on another host: it must not receive the login and the cookies of the first.
    let other = Server::start_at("127.0.0.2", Site::new().serve());
    let list = List::of((0..6).map(|n| segment(&other.url(&format!("ts/s{n}.ts")))));
    let text = list.text();
    let site = Site::new().on("x.m3u8", move |r| match basic(r) {
        true => Answer::list(text.clone()).with("Set-Cookie", "sid=42; Path=/"),
        false => Answer::status(401).with("WWW-Authenticate", "Basic realm=\"tv\""),
    });
    cases.push(Case::new("segments of another host", site, whole()).login(LOGIN));
    run(cases);
    for request in other.requests() {
        assert_eq!((request.header("authorization"), request.header("cookie")), (None, None), "{}", request.target);
    }
}

#[test]
fn other_formats_are_named() {
    let html = |text: &str| Answer::page(text);
    let iptv = "#EXTM3U url-tvg=\"http://127.0.0.1/guide.xml\"\n\
        #EXTINF:-1 tvg-id=\"one\" tvg-logo=\"http://127.0.0.1/1.png\" group-title=\"News\",Channel One\n\
        http://127.0.0.1:9/one.m3u8\n#EXTINF:-1 tvg-id=\"two\",Channel Two\nhttp://127.0.0.1:9/two.ts\n";
    let dash =
        "<?xml version=\"1.0\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\"><Period/></MPD>\n";
    let of = |name: &str, answer: Answer, words: &[&'static str]| {
        Case::new(name, Site::new().answers("x.m3u8", answer), fails(words))
    };
    let mut cases = vec![
        of("a login page", html("<html><body>login please</body></html>"), &["a web page"]),
        of(
            "a page with a declaration",
            html("\n\n  <!DOCTYPE html>\n<HTML lang=de><head></head></HTML>"),
            &["a web page"],
        ),
        of("a page after a comment", html("<!-- hello --><html></html>"), &["a web page"]),
        of("a page with the type of a playlist", Answer::list("<!doctype html><p>no</p>"), &["a web page"]),
        of(
            "JSON",
            Answer::bytes(&b"{\"error\": \"geo-blocked\"}"[..]).with("Content-Type", "application/json"),
            &["not a playlist", "playlist"],
        ),
        of(
            "a word",
            Answer::bytes(&b"not found"[..]).with("Content-Type", "text/plain"),
            &["not a playlist", "playlist"],
        ),
        of("nothing", Answer::bytes(&b""[..]), &["empty", "playlist"]),
        of("noise", Answer::bytes(noise(50_000)), &["playlist", "not a media"]),
        of("a list of channels", Answer::list(iptv), &["IPTV"]),
        of("a DASH manifest", Answer::bytes(dash.as_bytes()).with("Content-Type", "application/dash+xml"), &["DASH"]),
        of("a DASH manifest in disguise", Answer::list(dash), &["DASH"]),
    ];
    for (name, path, answer, word) in [
        ("a list of channels elsewhere", "tv.php", Answer::list(iptv), "IPTV"),
        ("a DASH manifest by its name", "m.mpd", Answer::bytes(dash.as_bytes()), "DASH"),
        ("a page elsewhere", "watch", html("<!DOCTYPE html><title>TV</title>"), "a web page"),
    ] {
        cases.push(Case::new(name, Site::new().answers(path, answer), fails(&[word])).at(path));
    }
    for (status, kind) in [
        (401, Cause::NotAuthorized),
        (403, Cause::Forbidden),
        (404, Cause::NotFound),
        (500, Cause::ServerError),
        (502, Cause::ServerError),
        (503, Cause::ServerError),
        (504, Cause::ServerError),
    ] {
        let case = of(&format!("{status}"), Answer::status(status), &[""]);
        let words: &[&'static str] = match status {
            401 => &["401", "password", "log in", "login", "authori"],
            403 => &["403"],
            404 => &["404"],
            _ => &["50"],
        };
        cases.push(case.expect(fails_with_cause(&[kind], words)));
    }
    for (name, body) in [("closed", Body::Close), ("reset", Body::Reset), ("hangs", Body::Hang)] {
        cases.push(of(name, Answer::of(body), &[""]));
    }
    let cut = plain().text();
    cases.push(of(
        "cut off",
        Answer::of(Body::Short { sent: cut.as_bytes()[..120].into(), declared: cut.len(), hang: false }),
        &[""],
    ));
    let gone: Expect = fails_with_cause(&[Cause::NotFound, Cause::Other, Cause::NotMedia], &["410"]);
    cases.push(of("410", Answer::status(410), &[""]).expect(gone));
    run(cases);
}
