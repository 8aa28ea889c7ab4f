//! Teaching in headless Chromium: the queue, the panel that learns, and corrections on the page of a stream.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::page::{browser, rest, screenshots};
use crate::teach::{School, well};
use crate::wait::until;
use crate::wall::key;
use crate::webdriver::Browser;
use touchline_serve::config::HistorySettings;
use touchline_serve::http::access::AccessConfig;
use touchline_serve::store::Store;

fn open(browser: &Browser, school: &School) {
    browser.go(&format!("{}/teach", school.server.url));
    browser.wait(
        "a question",
        "const p = document.getElementById('question-picture'); return p.complete && p.naturalWidth > 0",
    );
}

fn shown(browser: &Browser, name: &str) {
    rest(browser);
    browser.screenshot(&screenshots().join(name));
}

fn total(school: &School) -> u64 {
    school.json("/api/v1/corrections")["total"].as_u64().unwrap()
}

/// Waits until the page has sent its answers.
fn answered(browser: &Browser, school: &School, count: u64) {
    until("the answers", || total(school) == count);
    let text = if count == 0 { "none yet".to_owned() } else { format!("{count} · ") };
    browser.wait("the list", &format!("return document.getElementById('kept-sub').textContent.startsWith('{text}')"));
}

#[test]
fn a_queue_is_answered_with_keys() {
    let Some((_one, browser)) = browser() else { return };
    let mut school = School::open(AccessConfig::default(), &well());
    let doubtful: Vec<f32> = (0..120).map(|i| if i % 10 == 3 { 0.3 + i as f32 / 1000.0 } else { 0.97 }).collect();
    school.hold(&doubtful);
    open(&browser, &school);
    browser.wait("the queue", "return document.querySelectorAll('#next li').length === 8");
    assert!(browser.text("#question-said").starts_with("Touchline says Tennis, "));
    assert_eq!(browser.text("#session"), "0 answered · 12 in the queue");
    shown(&browser, "teach-light.png");
    let second = browser.run("return document.querySelectorAll('#likely button')[1].textContent.slice(1)");
    let first = school.json("/api/v1/suggestions?limit=1")["suggestions"][0]["index"].clone();
    key(&browser, "2");
    answered(&browser, &school, 1);
    let kept = school.json("/api/v1/corrections")["corrections"][0].clone();
    assert_eq!((&kept["answer"], &kept["from"]), (&json!("class"), &first));
    assert_eq!(browser.text("#session"), "1 answered · 11 in the queue");
    assert!(second.as_str().unwrap().starts_with(&browser.text("#kept li b")), "{second}");
    key(&browser, " ");
    answered(&browser, &school, 2);
    assert_eq!(school.json("/api/v1/corrections")["corrections"][0]["class"], "tennis");
    key(&browser, "u");
    answered(&browser, &school, 3);
    assert_eq!(school.json("/api/v1/corrections")["corrections"][0]["answer"], "unsure");
    key(&browser, "z");
    answered(&browser, &school, 2);
    assert_eq!(browser.text("#session"), "2 answered · 10 in the queue");
    // Letters go into the field for other classes.
    browser.devtools("Input.dispatchKeyEvent", json!({"type": "keyDown", "key": "b", "code": "KeyB", "text": "b"}));
    browser.devtools("Input.insertText", json!({"text": "adm"}));
    browser.wait("the class", "return document.querySelector('.meant').textContent === 'Badminton'");
    browser.devtools(
        "Input.dispatchKeyEvent",
        json!({"type": "keyDown", "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}),
    );
    answered(&browser, &school, 3);
    assert_eq!(school.json("/api/v1/corrections")["corrections"][0]["class"], "badminton");
    assert_eq!(browser.run("return document.activeElement === document.body"), true, "keys are answers again");
    for count in 4..=12 {
        key(&browser, "1");
        answered(&browser, &school, count);
    }
    browser.wait("the end of the queue", "return !document.getElementById('question-none').hidden");
    browser.run("document.querySelector('#kept .button').click()");
    answered(&browser, &school, 11);
    browser.prefer("dark");
    shown(&browser, "teach-dark.png");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_panel_shows_before_and_after_and_swaps() {
    let Some((_one, browser)) = browser() else { return };
    let mut school = School::open(AccessConfig::default(), &well());
    school.hold(&[0.3; 12]);
    open(&browser, &school);
    assert!(browser.run("return document.getElementById('learn-start').disabled").as_bool().unwrap());
    key(&browser, "2");
    answered(&browser, &school, 1);
    let click = |id: &str| {
        browser
            .wait(id, &format!("const b = document.getElementById('{id}'); return b.checkVisibility() && !b.disabled"));
        browser.run(&format!("document.getElementById('{id}').click()"));
    };
    click("learn-start");
    browser.wait("the figures", "return document.querySelectorAll('#learn-rows tr').length === 3");
    assert_eq!(browser.text("#learn-rows tr"), "Soccer25 %90 %40correction");
    assert_eq!(browser.text("#learn-swap"), "Use compact-taught-1");
    shown(&browser, "teach-learned.png");
    browser.resize(390, 844, true);
    shown(&browser, "teach-phone.png");
    let width = browser.run("return document.documentElement.scrollWidth");
    assert!(width.as_u64().unwrap() <= 390, "the page is {width} pixels wide, the phone 390");
    browser.run("document.getElementById('learn').scrollIntoView()");
    shown(&browser, "teach-phone-learn.png");
    browser.resize(1280, 800, false);
    click("learn-swap");
    browser.wait("the swap", "return document.getElementById('learn-stage').textContent === 'The new pack is in use.'");
    click("learn-back");
    browser.wait("the way back", "return document.getElementById('learn').dataset.stage === 'rolled-back'");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn seconds_are_corrected_on_the_page_of_their_stream() {
    let Some((_one, browser)) = browser() else { return };
    let mut school = School::open(AccessConfig::default(), &well());
    school.hold(&[0.9; 20]);
    browser.go(&format!("{}/?stream=court-1", school.server.url));
    browser.wait("the button", "return document.getElementById('correct-now').checkVisibility()");
    browser.run("document.getElementById('correct-now').click()");
    browser.wait(
        "the picture",
        "const p = document.querySelector('.correct .seen'); return !p.hidden && p.naturalWidth > 0",
    );
    assert!(browser.text(".correct .what").starts_with("0:05 from "), "{}", browser.text(".correct .what"));
    let answer = |text: &str| {
        browser.run(&format!(
            "const field = document.getElementById('stream-class'); field.value = '{text}';
             field.dispatchEvent(new Event('input', {{ bubbles: true }})); field.form.requestSubmit();"
        ));
    };
    answer("soc");
    browser.wait(
        "the answer",
        "return document.querySelector('.correct [role=status]').textContent === 'Kept as Soccer: 5 s.'",
    );
    browser.run("document.getElementById('correct').scrollIntoView({ block: 'end' })");
    shown(&browser, "correct-light.png");
    let kept = school.json("/api/v1/corrections")["corrections"][0].clone();
    assert_eq!((&kept["from"], &kept["to"], &kept["class"]), (&json!(15), &json!(19), &json!("soccer")));
    browser.run("[...document.querySelectorAll('.correct button')].find((b) => b.textContent === 'Undo').click()");
    until("the removal", || total(&school) == 0);
    // With keys: from the last second on, three more.
    browser.run("document.getElementById('timeline').focus()");
    for code in ["ArrowLeft", "ArrowLeft", "Enter"] {
        browser.devtools("Input.dispatchKeyEvent", json!({"type": "keyDown", "key": code, "code": code}));
    }
    for _ in 0..3 {
        browser.devtools(
            "Input.dispatchKeyEvent",
            json!({"type": "keyDown", "key": "ArrowLeft", "code": "ArrowLeft", "modifiers": 8}),
        );
    }
    browser
        .wait("the selection", "return document.querySelector('.correct .what').textContent.startsWith('0:04 from ')");
    browser.prefer("dark");
    shown(&browser, "correct-dark.png");
    browser.run(
        "[...document.querySelectorAll('.correct button')].find((b) => b.textContent === 'Confirm Tennis').click()",
    );
    until("the answer", || total(&school) == 1);
    let kept = school.json("/api/v1/corrections")["corrections"][0].clone();
    assert_eq!((&kept["answer"], &kept["class"], &kept["seconds"]), (&json!("confirm"), &json!("tennis"), &json!(4)));
    assert_eq!(kept["to"].as_u64().unwrap() - kept["from"].as_u64().unwrap(), 3);
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn a_part_of_a_segment_is_corrected_in_the_history() {
    let Some((_one, browser)) = browser() else { return };
    let mut school = School::open(AccessConfig::default(), &well());
    let (hub, clock) = (school.studio.hub.clone(), school.studio.clock.clone());
    let path = school.folder.path().join("touchline.db");
    let limits = HistorySettings::default();
    let (store, _thread, _) = Store::open(&path, limits, hub.metrics().clone(), clock.clone()).unwrap();
    hub.set_archive(Arc::new(store.clone()));
    let began_ns = hub.clock().unix_ns();
    for left in (1..=60).rev() {
        // Holding takes time, and the seconds follow one another exactly.
        clock.set_back(Duration::ZERO);
        let passed = Duration::from_nanos(hub.clock().unix_ns().abs_diff(began_ns));
        clock.set_back(passed + Duration::from_secs(left));
        school.hold(&[0.9]);
    }
    clock.set_back(Duration::ZERO);
    school.studio.cam.keep_open_segment(0, || school.studio.script.open_segment());
    assert!(store.flush(Duration::from_secs(60)));
    browser.resize(1280, 900, false);
    // The time follows now, and a busy machine takes minutes until the drag.
    browser.go(&format!("{}/history?span=600", school.server.url));
    browser.wait("the segment", "return document.querySelectorAll('#list li button').length === 1");
    browser.run("document.querySelector('#list li button').click()");
    // Its last seconds are not settled yet.
    let length = school.json("/api/v1/segments")["segments"][0]["segment"]["seconds"].as_u64().unwrap();
    let all = format!("These 0:{length}");
    let what = |text: &str| {
        browser.wait(text, &format!("return document.querySelector('.correct .what')?.textContent === '{text}'"));
    };
    what(&all);
    let part = |from: u32, to: u32| {
        browser.run(&format!(
            "const [from, to] = document.querySelectorAll('.part input');
             [to, from].forEach((input, i) => {{
                 input.value = [{to}, {from}][i];
                 input.dispatchEvent(new Event('change', {{ bubbles: true }}));
             }})"
        ));
    };
    part(11, 14);
    what("These 0:04");
    rest(&browser);
    browser.screenshot(&screenshots().join("history-part-light.png"));
    let answer = |text: &str| {
        browser.run(&format!(
            "const field = document.getElementById('segment-class'); field.value = '{text}';
             field.dispatchEvent(new Event('input', {{ bubbles: true }})); field.form.requestSubmit();"
        ));
    };
    answer("soccer");
    until("the correction", || total(&school) == 1);
    let kept = school.json("/api/v1/corrections")["corrections"][0].clone();
    assert_eq!((&kept["from"], &kept["to"], &kept["class"]), (&json!(10), &json!(13), &json!("soccer")));
    part(21, 21);
    what("This second");
    // The last second follows the first one.
    browser.run(
        "const from = document.querySelector('.part input'); from.value = 30;
         from.dispatchEvent(new Event('change', { bubbles: true }))",
    );
    assert_eq!(browser.run("return document.querySelectorAll('.part input')[1].value"), "30");
    // Shift and a drag over the lane, from ten seconds before the end of the segment to beyond it.
    let place = browser.run(
        "const box = document.querySelector('#lanes canvas').getBoundingClientRect();
         return [box.left, box.width, box.top + 8]",
    );
    let [left, width, y] = [0, 1, 2].map(|i| place[i].as_f64().unwrap());
    let mouse = |kind: &str, x: f64| {
        let pressed =
            json!({"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "modifiers": 8, "clickCount": 1});
        browser.devtools("Input.dispatchMouseEvent", pressed);
    };
    let end = browser.run(
        "return fetch('api/v1/segments').then((a) => a.json()).then(({ segments }) => {
             const p = new URLSearchParams(location.search);
             return (Date.now() - Date.parse(segments[0].segment.ended)) / (Number(p.get('span')) * 1000); })",
    );
    let x = |before_s: f64| left + width * (1.0 - end.as_f64().unwrap() - before_s / 600.0);
    mouse("mousePressed", x(12.0));
    mouse("mouseMoved", x(6.0));
    mouse("mouseMoved", x(1.0));
    mouse("mouseReleased", x(1.0));
    browser.wait(
        "the marked part",
        "const [from, to] = [...document.querySelectorAll('.part input')].map((input) => Number(input.value));
         return to - from >= 8 && to - from <= 14 && from > 20",
    );
    browser.prefer("dark");
    browser.screenshot(&screenshots().join("history-part-dark.png"));
    browser.run("[...document.querySelectorAll('.part button')].find((b) => b.textContent === 'All').click()");
    what(&all);
    browser.resize(390, 844, true);
    browser.run("document.querySelector('.part').scrollIntoView()");
    browser.screenshot(&screenshots().join("history-part-phone.png"));
    let width = browser.run("return document.documentElement.scrollWidth");
    assert!(width.as_u64().unwrap() <= 390, "the page is {width} pixels wide, the phone 390");
    let own: Vec<_> = browser.console().into_iter().filter(|line| !line.contains("404")).collect();
    assert_eq!(own, Vec::<String>::new());
}
