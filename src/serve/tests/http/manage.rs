//! Adding, testing, changing and removing streams: the route of tests, and the dialogs of the page in headless Chromium.

use serde_json::{Value, json};

use crate::access::{ADMIN, JSON, READER, both_tokens, connect, exchange, request};
use crate::desk::{Desk, MISSING, PLAYS, SILENT};
use crate::feed::facts;
use crate::page::{browser, rest, screenshots};
use crate::support::add;
use crate::wait::until;
use crate::wall::prefix_proxy;
use crate::webdriver::Browser;
use touchline_core::item::Tracks;
use touchline_serve::http::access::AccessConfig;
use touchline_serve::record::StreamState;

/// Types `value` into the field of `key`, as a person does.
pub fn enter(browser: &Browser, field: &str, value: &str) {
    let (field, value) = (json!(format!("editor-{field}")), json!(value));
    browser.run(&format!(
        "const field = document.getElementById({field});
         field.value = {value};
         field.dispatchEvent(new Event('input', {{ bubbles: true }}));"
    ));
}

pub fn click(browser: &Browser, id: &str) {
    browser.wait(
        id,
        &format!("const b = document.getElementById('{id}'); return b !== null && b.checkVisibility() && !b.disabled"),
    );
    browser.run(&format!("document.getElementById('{id}').click()"));
}

/// Presses Escape. A dialog closes only for a key with its number.
fn escape(browser: &Browser) {
    for kind in ["keyDown", "keyUp"] {
        let key = json!({"type": kind, "key": "Escape", "code": "Escape", "windowsVirtualKeyCode": 27});
        browser.devtools("Input.dispatchKeyEvent", key);
    }
}

fn hidden(browser: &Browser, id: &str) -> bool {
    browser.run(&format!("return !document.getElementById('{id}').checkVisibility()")) == json!(true)
}

/// Waits until the dialog is open or closed.
pub fn dialog(browser: &Browser, is_open: bool) {
    browser.wait("the dialog", &format!("return (document.querySelector('dialog[open]') !== null) === {is_open}"));
}

/// Tests the address in the dialog, and waits for the result.
pub fn test_address(browser: &Browser, verdict: &str) {
    click(browser, "editor-test");
    browser.wait("the verdict", &format!("return document.querySelector('.verdict')?.textContent === '{verdict}'"));
    rest(browser);
}

/// Takes pictures of the view in both themes and on a phone.
fn pictures(browser: &Browser, name: &str) {
    let folder = screenshots();
    for scheme in ["dark", "light"] {
        browser.prefer(scheme);
        browser.wait("the theme", &format!("return matchMedia('(prefers-color-scheme: {scheme})').matches"));
        rest(browser);
        browser.screenshot(&folder.join(format!("{name}-{scheme}.png")));
    }
    browser.resize(390, 844, true);
    rest(browser);
    browser.screenshot(&folder.join(format!("{name}-phone.png")));
    let width = browser.run("return document.documentElement.scrollWidth").as_u64().unwrap();
    assert!(width <= 390, "{name} is {width} pixels wide, the phone 390");
    browser.resize(1280, 800, false);
}

fn post(desk: &Desk, body: &Value, headers: &[(&str, &str)]) -> (u16, Value, Option<String>) {
    let headers = [&[JSON], headers].concat();
    let answer =
        exchange(connect(&desk.server), &request(&desk.server, "POST", "/api/v1/probe", &headers, &body.to_string()));
    let retry = answer.header("retry-after").map(str::to_owned);
    (answer.status, serde_json::from_str(answer.body()).unwrap(), retry)
}

#[test]
fn a_test_reports_what_it_finds() {
    let desk = Desk::open(AccessConfig::default());
    let (status, found, _) = post(&desk, &json!({ "uri": PLAYS, "label": "x" }), &[]);
    assert_eq!((status, &found["reachable"], &found["failure"]), (200, &json!(true), &Value::Null), "{found}");
    assert_eq!(found["kind"], "hls");
    let video = json!({ "codec": "H.264", "width": 1920, "height": 1080, "frame_rate": 25.0, "interlaced": true });
    assert_eq!((&found["video"], &found["audio"]["rate"]), (&video, &json!(48_000)));
    assert_eq!((&found["variants"][0]["chosen"], &found["variants"][1]["chosen"]), (&json!(true), &json!(false)));
    assert!(found["first_picture_ms"].is_u64() && found["opened_ms"].is_u64());
    let picture = found["picture"].as_str().unwrap();
    assert!(picture.starts_with("data:image/jpeg;base64,/9j/") && picture.len() < 100_000, "{}", picture.len());
    let (status, found, _) = post(&desk, &json!({ "uri": MISSING }), &[]);
    let failure = json!({ "kind": "not-found", "cause": "the server has no such stream", "advice": "check the path" });
    assert_eq!((status, &found["failure"], &found["reachable"]), (200, &failure, &json!(false)));
    assert!(desk.hub.metrics().encode().contains("touchline_probes_total{result=\"playable\"} 1\n"));
}

#[test]
fn a_test_needs_what_adding_needs() {
    let desk = Desk::open(both_tokens());
    let (reader, admin) = (format!("Bearer {READER}"), format!("Bearer {ADMIN}"));
    let admin = ("Authorization", admin.as_str());
    for (body, headers, status, word) in [
        (json!({ "uri": PLAYS }), &[][..], 401, "token"),
        (json!({ "uri": PLAYS }), &[("Authorization", reader.as_str())][..], 403, "may only read"),
        (json!({ "uri": PLAYS }), &[admin, ("Sec-Fetch-Site", "cross-site")][..], 403, "another site"),
        (json!({ "uri": "http://169.254.169.254/latest" }), &[admin][..], 403, "169.254.169.254"),
        (json!({ "uri": "file:///etc/passwd" }), &[admin][..], 403, "file"),
        (json!({ "uri": "" }), &[admin][..], 422, "uri"),
        (json!({ "uri": PLAYS, "latency_ms": -1 }), &[admin][..], 422, "latency_ms"),
        (json!({ "uri": PLAYS, "colour": 1 }), &[admin][..], 422, "colour"),
        (json!({ "uri": "x".repeat(5000) }), &[admin][..], 413, "4096"),
    ] {
        let (found, answer, _) = post(&desk, &body, headers);
        assert!(found == status && answer["error"].as_str().unwrap().contains(word), "{found} {answer}");
    }
    desk.hub.set_ready(false);
    assert_eq!(post(&desk, &json!({ "uri": PLAYS }), &[admin]).0, 503);
}

#[test]
fn two_tests_run_at_once_and_a_closed_request_ends_its_test() {
    let desk = Desk::open(AccessConfig::default());
    let body = json!({ "uri": SILENT }).to_string();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = connect(&desk.server);
            let text = request(&desk.server, "POST", "/api/v1/probe", &[JSON], &body);
            std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
            stream
        })
        .collect();
    until("two tests", || desk.probes.running() == 2);
    let (status, answer, retry) = post(&desk, &json!({ "uri": PLAYS }), &[]);
    assert_eq!((status, retry.as_deref()), (429, Some("5")), "{answer}");
    drop(waiting);
    until("the end of the tests", || desk.probes.running() == 0);
    let metrics = desk.hub.metrics().encode();
    for (result, count) in [("cancelled", 2), ("busy", 1)] {
        assert!(metrics.contains(&format!("touchline_probes_total{{result=\"{result}\"}} {count}\n")), "{metrics}");
    }
}

#[test]
fn a_stream_is_tested_added_edited_paused_resumed_and_removed_on_the_page() {
    let Some((_one, browser)) = browser() else { return };
    let desk = Desk::open(AccessConfig::default());
    browser.go(&desk.server.url);
    browser.wait("the empty wall", "return !document.getElementById('nobody').hidden");
    click(&browser, "nobody-add");
    dialog(&browser, true);
    assert_eq!(browser.run("return document.activeElement.id"), "editor-uri");
    enter(&browser, "uri", PLAYS);
    test_address(&browser, "The address works");
    browser.wait("the picture", "return document.querySelector('.probe .first')?.naturalWidth === 640");
    let result = browser.text("#editor-probe");
    for words in
        ["HLS", "H.264, 1920 × 1080, 25 a second, interlaced", "AAC, 48 kHz, stereo", "1080 lines, 6.0 Mbit/s, played"]
    {
        assert!(result.contains(words), "{words}: {result}");
    }
    pictures(&browser, "add-stream-tested");
    enter(&browser, "label", "Centre court");
    enter(&browser, "group", "Arena");
    click(&browser, "editor-save");
    dialog(&browser, false);
    browser.wait("the tile", "return document.querySelector('.tile .name')?.textContent === 'Centre court'");
    assert!(hidden(&browser, "nobody-add") && !hidden(&browser, "add"));

    browser.run("document.querySelector('.tile a').click()");
    browser.wait("the stream", "return document.getElementById('stream-id')?.textContent === 'Centre court'");
    click(&browser, "edit");
    dialog(&browser, true);
    assert_eq!(browser.text("#editor-title"), "Edit Centre court");
    assert_eq!(browser.run("return document.getElementById('editor-uri').value"), PLAYS);
    enter(&browser, "label", "Court 1");
    enter(&browser, "latency_ms", "400");
    pictures(&browser, "edit-stream");
    click(&browser, "editor-save");
    browser.wait("the name", "return document.getElementById('stream-id').textContent === 'Court 1'");
    dialog(&browser, false);
    click(&browser, "pause");
    browser.wait("the pause", "return document.getElementById('pill').textContent === 'Paused'");
    browser.wait("the next action", "return document.getElementById('pause').textContent === 'Resume'");
    pictures(&browser, "stream-paused");
    click(&browser, "pause");
    browser.wait("the stream again", "return document.getElementById('pill').textContent === 'Live'");
    click(&browser, "remove");
    dialog(&browser, true);
    assert_eq!(browser.text("#remove-title"), "Remove Court 1?");
    pictures(&browser, "remove-stream");
    escape(&browser);
    dialog(&browser, false);
    assert_eq!(browser.run("return location.search.startsWith('?stream=')"), true, "Escape closes only the dialog");
    click(&browser, "remove");
    click(&browser, "remove-confirm");
    browser.wait("the empty wall", "return document.getElementById('nobody')?.hidden === false");
    assert!(desk.hub.streams_json().contains("\"streams\":[]"));
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn a_reader_sees_no_buttons_and_a_stream_of_the_file_is_explained() {
    let Some((_one, browser)) = browser() else { return };
    let desk = Desk::open(both_tokens());
    let fixed = add(&desk.hub, "fixed", "rtsp://cam.example/live");
    fixed.set_facts(facts(None));
    fixed.set_tracks(Tracks { video: true, audio: true });
    fixed.set_state(StreamState::Playing);
    for (token, may_change) in [(READER, false), (ADMIN, true)] {
        browser.go(&desk.server.url);
        log_in(&browser, token);
        browser.wait("the tile", "return document.querySelectorAll('.tile').length === 1");
        if may_change {
            browser.wait("the button", "return !document.getElementById('add').hidden");
        }
        browser.go(&format!("{}/?stream=fixed", desk.server.url));
        browser.wait("the stream", "return document.getElementById('stream-id').textContent === 'fixed'");
        if may_change {
            browser.wait("the owner", "return document.getElementById('owner').checkVisibility()");
            assert!(browser.text("#owner").starts_with("Set in the configuration file."));
            browser.screenshot(&screenshots().join("stream-of-the-file.png"));
        }
        browser.wait("the role", "return fetch('api/v1/session').then((answer) => answer.ok)");
        for id in ["edit", "pause", "remove"] {
            assert!(hidden(&browser, id), "{id}");
        }
        assert_eq!(hidden(&browser, "manage"), !may_change);
        let refused =
            browser.run("return fetch('api/v1/streams/fixed', { method: 'DELETE' }).then((answer) => answer.status)");
        assert_eq!(refused, if may_change { 409 } else { 403 });
        browser.go(&desk.server.url);
        browser.wait("the tile", "return document.querySelectorAll('.tile').length === 1");
        assert_eq!(hidden(&browser, "add"), !may_change);
        browser.run("return fetch('api/v1/session', { method: 'DELETE' }).then((answer) => answer.status)");
    }
}

pub fn log_in(browser: &Browser, token: &str) {
    browser.wait("the login", "return document.getElementById('login') !== null");
    browser.run(&format!(
        "document.getElementById('token').value = '{token}';
         document.querySelector('#login button').click();"
    ));
    browser.wait("the wall", "return document.getElementById('tiles') !== null");
}

#[test]
fn what_was_typed_outlives_the_session_and_works_below_a_prefix() {
    let Some((_one, browser)) = browser() else { return };
    let desk = Desk::open(both_tokens());
    let url = prefix_proxy(desk.server.address());
    browser.go(&format!("{url}/"));
    log_in(&browser, ADMIN);
    click(&browser, "nobody-add");
    enter(&browser, "uri", PLAYS);
    test_address(&browser, "The address works");
    enter(&browser, "id", "court-9");
    browser.run("return fetch('api/v1/session', { method: 'DELETE' }).then((answer) => answer.status)");
    click(&browser, "editor-save");
    browser.wait("the login", "return document.getElementById('editor-login').checkVisibility()");
    assert_eq!(browser.run("return document.activeElement.id"), "editor-token");
    // The wall asks for the session every few seconds. Twice refused, it shows that, and it does not load the page again.
    browser.run("window.untouched = true");
    browser.wait("two refused requests of the wall", "return document.body.dataset.server === 'lost'");
    assert_eq!(browser.run("return window.untouched"), true);
    pictures(&browser, "session-ended");
    for (token, is_right) in [("wrong-token-0123456789", false), (ADMIN, true)] {
        enter(&browser, "token", token);
        click(&browser, "editor-log-in");
        browser.wait(
            "the answer",
            &format!("return document.getElementById('editor-problem').checkVisibility() !== {is_right}"),
        );
        assert_eq!(hidden(&browser, "editor-login"), is_right);
    }
    click(&browser, "editor-save");
    browser.wait("the tile", "return document.querySelector('.tile')?.dataset.id === 'court-9'");
    browser.run("document.querySelector('.tile a').click()");
    click(&browser, "remove");
    click(&browser, "remove-confirm");
    browser.wait("the empty wall", "return document.getElementById('nobody')?.hidden === false");
    let foreign = browser.run(
        "return performance.getEntriesByType('resource').map((e) => e.name)
             .filter((name) => !name.startsWith(`${location.origin}/watch/`) && !name.startsWith('data:'))",
    );
    assert_eq!(foreign, json!([]));
    // The browser logs answers with the status 401.
    let own: Vec<_> = browser.console().into_iter().filter(|line| !line.contains("401")).collect();
    assert_eq!(own, Vec::<String>::new());
}

#[test]
fn a_change_of_another_person_is_explained_and_kept() {
    let Some((_one, browser)) = browser() else { return };
    let desk = Desk::open(AccessConfig::default());
    browser.go(&desk.server.url);
    let add = json!({ "id": "court-1", "uri": "rtsp://ann:geheim@127.0.0.1:8554/a", "label": "Court" });
    let send = |method: &str, path: &str, body: &Value| {
        let status = browser.run(&format!(
            "return fetch('api/v1/{path}', {{ method: '{method}', headers: {{ 'Content-Type': 'application/json' }},
                 body: {} }}).then((answer) => answer.status)",
            json!(body.to_string())
        ));
        assert!(status.as_u64().unwrap() < 300, "{status}");
    };
    send("POST", "streams", &add);
    browser.go(&format!("{}/?stream=court-1", desk.server.url));
    click(&browser, "edit");
    dialog(&browser, true);
    assert_eq!(browser.run("return document.getElementById('editor-uri').value"), "rtsp://***@127.0.0.1:8554/a");
    click(&browser, "editor-test");
    let wrong = |field: &str| browser.text(&format!("#editor-{field}-wrong"));
    assert!(wrong("uri").starts_with("Enter the whole address."), "{}", wrong("uri"));
    enter(&browser, "group", "Mine");
    assert!(!wrong("uri").is_empty(), "the error of another field stays");
    send("PATCH", "streams/court-1", &json!({ "label": "Theirs", "latency_ms": 900 }));
    click(&browser, "editor-save");
    browser.wait("the conflict", "return document.getElementById('editor-problem').checkVisibility()");
    assert!(browser.text("#editor-problem").starts_with("Someone else changed this stream"));
    let value = |field: &str| browser.run(&format!("return document.getElementById('editor-{field}').value"));
    assert_eq!((value("label"), value("latency_ms"), value("group")), (json!("Theirs"), json!("900"), json!("Mine")));
    browser.screenshot(&screenshots().join("edit-conflict.png"));
    click(&browser, "editor-save");
    dialog(&browser, false);
    let saved: Value = serde_json::from_str(&desk.hub.summary_json("court-1").unwrap()).unwrap();
    let settings = &saved["settings"];
    assert_eq!((&settings["label"], &settings["group"]), (&json!("Theirs"), &json!("Mine")));
    assert_eq!(saved["uri"], "rtsp://***@127.0.0.1:8554/a", "the address was not sent");
}

#[test]
fn what_is_wrong_is_shown_at_its_field_with_advice() {
    let Some((_one, browser)) = browser() else { return };
    let desk = Desk::open(AccessConfig::default());
    browser.go(&desk.server.url);
    click(&browser, "nobody-add");
    let wrong = |field: &str| {
        let invalid =
            format!("return document.querySelector('#editor-{field}').getAttribute('aria-invalid') === 'true'");
        browser.wait(field, &invalid);
        assert_eq!(browser.run("return document.activeElement.id"), format!("editor-{field}"));
        browser.text(&format!("#editor-{field}-wrong"))
    };
    click(&browser, "editor-save");
    assert!(wrong("uri").starts_with("Enter an address"));
    enter(&browser, "uri", "http://169.254.169.254/live.m3u8");
    click(&browser, "editor-test");
    let refused = wrong("uri");
    assert!(refused.contains("169.254.169.254") && refused.contains("allow_addresses"), "{refused}");
    pictures(&browser, "address-refused");
    enter(&browser, "uri", PLAYS);
    assert_eq!(browser.run("return document.getElementById('editor-uri').hasAttribute('aria-invalid')"), false);
    enter(&browser, "vote-onset", "7");
    click(&browser, "editor-save");
    let onset = wrong("vote-onset");
    assert!(onset.to_lowercase().contains("onset"), "{onset}");
    assert_eq!(browser.run("return document.getElementById('editor-details').open"), true);
    enter(&browser, "vote-onset", "");
    enter(&browser, "uri", MISSING);
    test_address(&browser, "The test failed");
    assert!(browser.text("#editor-probe").contains("The server has no such stream. Check the path."));
    pictures(&browser, "test-failed");
    // A test can be stopped, and ends with the dialog.
    enter(&browser, "uri", SILENT);
    for close in [false, true] {
        click(&browser, "editor-test");
        until("the test", || desk.probes.running() == 1);
        assert_eq!(browser.text("#editor-test"), "Stop test");
        if close {
            escape(&browser);
            dialog(&browser, false);
        } else {
            click(&browser, "editor-test");
        }
        until("the end of the test", || desk.probes.running() == 0);
    }
    // What was typed is there again.
    click(&browser, "nobody-add");
    assert_eq!(browser.run("return document.getElementById('editor-uri').value"), SILENT);
    click(&browser, "editor-cancel");
    click(&browser, "nobody-add");
    assert_eq!(browser.run("return document.getElementById('editor-uri').value"), "");
}

#[test]
fn the_wall_of_a_fleet_names_the_command_that_adds_a_stream() {
    let Some((_one, browser)) = browser() else { return };
    for name in ["main", "sports"] {
        let desk = Desk::open(AccessConfig::default());
        desk.hub.join_fleet(name);
        browser.go(&desk.server.url);
        browser.wait("the empty wall", "return !document.getElementById('nobody').hidden");
        browser.wait("the role", "return fetch('api/v1/session').then((answer) => answer.ok)");
        let lines = browser.text("#nobody-lines");
        assert!(lines.starts_with("touchline stream add court1=rtsp://"), "{lines}");
        assert_eq!(lines.contains("--fleet-name sports"), name == "sports", "{lines}");
        assert!(browser.text("#nobody-text").contains(&format!("fleet {name}")));
        browser.screenshot(&screenshots().join("wall-fleet-empty.png"));
        let fixed = add(&desk.hub, "court1", "rtsp://cam.example/live");
        fixed.set_facts(facts(None));
        fixed.set_state(StreamState::Playing);
        browser.wait("the tile", "return document.querySelectorAll('.tile').length === 1");
        for id in ["add", "nobody-add"] {
            assert!(hidden(&browser, id), "{id}: the server would refuse it");
        }
        assert_eq!(browser.console(), Vec::<String>::new());
    }
}
