//! The history: segments, events, seconds and sums from a store, over HTTP and in headless Chromium.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::api::get;
use crate::feed::facts;
use crate::page::{browser, rest, screenshots};
use crate::support::{PastClock, Script, Server, Shot, add, new_hub, step_with_poster};
use crate::wall::{key, prefix_proxy};
use crate::webdriver::Browser;
use touchline_core::clip::GapReason;
use touchline_core::clock::Clock;
use touchline_core::item::Tracks;
use touchline_core::time::RunId;
use touchline_serve::config::HistorySettings;
use touchline_serve::http::access::{AccessConfig, TokenSource};
use touchline_serve::http::server::Limits;
use touchline_serve::hub::{Hub, StreamFacts};
use touchline_serve::record::StreamState;
use touchline_serve::record::format::rfc3339;
use touchline_serve::store::{Store, StoreThread};

/// What a channel of the afternoon shows, and for how many seconds.
pub type Plan = &'static [(Shot, usize)];

pub const COURT: Plan = &[
    (Shot::On("tennis", 0.92), 1900),
    (Shot::On("other", 0.2), 120),
    (Shot::On("soccer", 0.9), 700),
    (Shot::Gap(GapReason::NoMedia), 90),
    (Shot::On("soccer", 0.88), 300),
    (Shot::On("tennis", 0.9), 490),
];
const PITCH: Plan = &[
    (Shot::On("soccer", 0.9), 1000),
    (Shot::Gap(GapReason::NoProgramme), 600),
    (Shot::Sound("badminton", 0.8), 800),
    (Shot::On("americanfootball", 0.93), 1200),
];

/// A server with a store that has an hour of two channels.
pub struct Afternoon {
    pub server: Server,
    _thread: StoreThread,
    _folder: tempfile::TempDir,
}

impl Afternoon {
    pub fn open() -> Self {
        Self::with(
            AccessConfig::default(),
            &[("court-1", "Centre court", "tennis", COURT), ("pitch-3", "Pitch 3", "field", PITCH)],
        )
    }

    pub fn with(access: AccessConfig, channels: &[(&str, &str, &str, Plan)]) -> Self {
        Self::expecting(access, channels, &[])
    }

    /// As [`Afternoon::with`], with what is expected of all channels.
    pub fn expecting(access: AccessConfig, channels: &[(&str, &str, &str, Plan)], expected: &[&str]) -> Self {
        let (hub, clock) = new_hub();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("touchline.db");
        let limits = HistorySettings::default();
        let (store, thread, _) = Store::open(&path, limits, hub.metrics().clone(), clock.clone()).unwrap();
        hub.set_archive(Arc::new(store.clone()));
        for (id, label, group, plan) in channels {
            play(&hub, &clock, &store, (id, label, group), plan, expected);
        }
        assert!(store.flush(Duration::from_secs(60)));
        assert!(hub.metrics().encode().contains("touchline_store_records_lost_total 0"));
        let server = Server::start_with(hub, access, None, Limits::default());
        Self { server, _thread: thread, _folder: folder }
    }

    fn json(&self, path: &str) -> Value {
        let answer = get(&self.server, path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }
}

/// Publishes a channel whose last second is now, and of which `expected` is expected.
fn play(
    hub: &Hub,
    clock: &PastClock,
    store: &Store,
    (id, label, group): (&str, &str, &str),
    plan: Plan,
    expected: &[&str],
) {
    let total: usize = plan.iter().map(|(_, seconds)| seconds).sum();
    clock.set_back(Duration::from_secs(total as u64));
    let stream = add(hub, id, "testsrc://");
    stream.set_facts(StreamFacts { label: Some(label.into()), ..facts(Some(group)) });
    stream.set_tracks(Tracks { video: true, audio: true });
    stream.set_state(StreamState::Playing);
    stream.run_started(RunId(0), None);
    let mut script = Script::default();
    assert!(expected.iter().all(|name| script.expected.add(name, hub.classes())));
    for (i, shot) in plan.iter().flat_map(|(shot, seconds)| std::iter::repeat_n(*shot, *seconds)).enumerate() {
        clock.set_back(Duration::from_secs((total - i) as u64));
        step_with_poster(hub, &stream, clock, &mut script, shot);
        stream.keep_open_segment(i as u64, || script.open_segment());
        // The store drops what a slow disk cannot take.
        if i % 200 == 0 {
            assert!(store.flush(Duration::from_secs(60)));
        }
    }
    clock.set_back(Duration::ZERO);
}

/// The contents of segments: class or content, and length.
fn contents(answer: &Value) -> Vec<(String, u64)> {
    let segments = answer["segments"].as_array().unwrap().iter().map(|item| &item["segment"]);
    let name = |s: &Value| s["class"].as_str().or(s["content"].as_str()).unwrap().to_owned();
    segments.map(|s| (name(s), s["seconds"].as_u64().unwrap())).collect()
}

#[test]
fn the_api_has_segments_events_seconds_and_sums() {
    let afternoon = Afternoon::open();
    let all = afternoon.json("/api/v1/segments?stream=court-1");
    let [tennis, unknown, soccer, outage, more, last] = contents(&all).try_into().unwrap();
    assert_eq!((tennis, soccer.0.as_str(), outage), (("tennis".into(), 1900), "soccer", ("undecided".into(), 90)));
    assert_eq!((unknown.0.as_str(), unknown.1 + soccer.1), ("unknown", 820));
    assert_eq!((more, last.0.as_str()), (("soccer".into(), 300), "tennis"));
    assert_eq!(all["segments"][5]["open"], true, "the last one has not ended");
    assert_eq!(all["segments"][0]["segment"]["decided_by"]["rgb"], 1900);
    // Each has a picture where something was to be seen.
    let posters: Vec<&Value> = all["segments"].as_array().unwrap().iter().map(|segment| &segment["poster"]).collect();
    assert!(posters[3].is_null() && posters.iter().filter(|poster| poster.is_string()).count() == 5, "{posters:?}");
    let poster = get(&afternoon.server, posters[0].as_str().unwrap());
    assert_eq!((poster.status, poster.header("content-type")), (200, "image/jpeg"));
    let picture = image::load_from_memory(&poster.body).unwrap();
    assert_eq!((picture.width(), picture.height()), (320, 180));
    for path in ["court-1/segments/0/1/poster", "court-1/segments/9/0/poster", "nobody/segments/0/0/poster"] {
        let none = get(&afternoon.server, &format!("/api/v1/streams/{path}"));
        assert!(none.status == 404 && none.json()["advice"].is_string(), "{path}");
    }
    let newest = afternoon.json("/api/v1/segments?order=newest&limit=2&group=field");
    assert_eq!(contents(&newest)[0].0, "americanfootball");
    let next = newest["next"].as_str().unwrap();
    let rest = afternoon.json(&format!("/api/v1/segments?order=newest&group=field&after={next}"));
    assert_eq!((contents(&rest).len(), &rest["next"]), (2, &Value::Null));
    assert_eq!(contents(&afternoon.json("/api/v1/segments?class=badminton")), [("badminton".into(), 800)]);
    assert_eq!(contents(&afternoon.json("/api/v1/segments?content=no-programme")), [("no-programme".into(), 600)]);
    assert_eq!(contents(&afternoon.json("/api/v1/segments?group=nobody")), []);
    let table = get(&afternoon.server, "/api/v1/segments?format=csv&limit=3");
    assert_eq!(
        (table.header("content-type"), table.header("touchline-next").is_empty()),
        ("text/csv; charset=utf-8", false)
    );
    let text = table.text();
    assert!(text.starts_with("stream,class,began,ended,begin_pts_s,") && text.lines().count() == 4, "{text}");
    assert!(text.contains("\npitch-3,soccer,20"), "{text}");

    let events = afternoon.json("/api/v1/events?class=badminton");
    let kinds: Vec<_> = events["events"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["onset", "offset"]);
    let states = afternoon.json("/api/v1/events?type=state&stream=court-1");
    assert_eq!(states["events"].as_array().unwrap().last().unwrap()["state"], "playing");
    let table = get(&afternoon.server, "/api/v1/events?type=event,state&format=csv").text();
    assert!(table.contains(",court-1,event,onset,tennis,0,") && table.contains(",pitch-3,state,playing,,,"), "{table}");

    // Publishing an hour takes some seconds, so it is a little longer than an hour by the clock.
    let from = rfc3339(PastClock::default().unix_ns() - 7_200_000_000_000);
    let seconds = afternoon.json(&format!("/api/v1/history?stream=court-1&step=1&from={from}"));
    let of = |key: &str| seconds[key].as_array().unwrap();
    assert_eq!((seconds["step_s"].as_u64(), of("class").len()), (Some(1), of("gaps").len()));
    let counts = |key: &str| of(key).iter().map(|count| count.as_u64().unwrap()).collect::<Vec<u64>>();
    let (decided, gaps) = (counts("decided"), counts("gaps"));
    assert_eq!((decided.iter().sum::<u64>(), gaps.iter().sum::<u64>()), (3510, 90));
    let is_tennis = |class: &Value| class.as_u64().is_some_and(|at| seconds["classes"][at as usize] == "tennis");
    let tennis = of("class").iter().zip(&decided).filter(|(class, _)| is_tennis(class)).map(|(_, count)| count);
    assert!((2385..=2395).contains(&tennis.sum::<u64>()));
    let steps = afternoon.json(&format!("/api/v1/history?stream=court-1&from={from}"));
    assert_eq!(steps["step_s"], 5);
    assert!((1440..1600).contains(&steps["gaps"].as_array().unwrap().len()));
    let hour = get(&afternoon.server, "/api/v1/history?stream=court-1&step=3600&format=csv").text();
    assert!((2..=3).contains(&hour.lines().count()), "{hour}");

    let sums = afternoon.json("/api/v1/summary?zone=Europe/London");
    let court = &sums["streams"][0];
    assert_eq!((court["label"].as_str(), sums["time_zone"].as_str()), (Some("Centre court"), Some("Europe/London")));
    let total = |key: &str| court["total"][key].as_f64().unwrap();
    assert!((89.9..120.0).contains(&total("undecided_s")) && total("no_programme_s") == 0.0, "{court}");
    assert!(court["total"]["classes"]["soccer"].as_f64().unwrap() > 990.0, "{court}");
    assert!((3590.0..4600.0).contains(&total("expected_s")) && (0.7..0.99).contains(&total("availability")), "{court}");
    assert_eq!(court["days"].as_array().unwrap().len(), 7);
    let table = get(&afternoon.server, "/api/v1/summary?format=csv").text();
    assert!(
        table.starts_with("stream,group,date,content,class,seconds,expected_s,unknown_share,availability\n"),
        "{table}"
    );
    assert!(table.contains("pitch-3,field,20") && table.contains(",class,badminton,8"), "{table}");
}

#[test]
fn a_table_is_chosen_by_accept_and_a_server_without_a_store_says_so() {
    let (hub, clock) = new_hub();
    add(&hub, "cam", "testsrc://");
    let server = Server::start(hub.clone());
    for path in ["segments", "events", "history?stream=cam", "summary"] {
        let answer = get(&server, &format!("/api/v1/{path}"));
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.json()["advice"].as_str().unwrap().contains("--state"), "{path}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("touchline.db");
    let (store, _thread, _) =
        Store::open(&path, HistorySettings::default(), hub.metrics().clone(), clock.clone()).unwrap();
    hub.set_archive(Arc::new(store));
    let mut answer =
        ureq::get(format!("{}/api/v1/summary", server.url)).header("Accept", "text/csv;q=0.9").call().unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    assert!(text.starts_with("stream,group,date,") && text.contains("\ncam,,20"), "{text}");
    assert_eq!(clock.unix_ns() / 1_000_000_000_000_000_000, 1, "the clock is the machine's");
}

fn open(browser: &Browser, url: &str) {
    browser.go(url);
    browser.wait("the segments", "return document.querySelectorAll('#list li button').length > 3");
    rest(browser);
}

/// The length of the time that is shown, seconds.
fn span(browser: &Browser) -> f64 {
    let query = "const p = new URLSearchParams(location.search);
                 return p.has('span') ? Number(p.get('span')) : (Date.parse(p.get('to')) - Date.parse(p.get('from'))) / 1000";
    browser.run(query).as_f64().unwrap()
}

#[test]
fn the_page_zooms_from_a_week_to_seconds_and_shows_segments() {
    let Some((_one, browser)) = browser() else { return };
    let afternoon = Afternoon::open();
    browser.resize(1920, 1080, false);
    open(&browser, &format!("{}/history?span=3600", afternoon.server.url));
    let folder = screenshots();
    browser.wait("the sums", "return document.querySelectorAll('#sums tbody tr').length === 2");
    // The rows keep their places while the pictures load, and so does a row without one.
    let in_view = "[...document.querySelectorAll('#list .picture img')].slice(0, 4)";
    browser.wait(
        "the posters",
        &format!("const all = {in_view}; return all.length === 4 && all.every((image) => image.naturalWidth === 320)"),
    );
    let rows = "return [...document.querySelectorAll('#list .picture')].map((box) => [box.offsetWidth, box.offsetHeight].join())";
    let rows: Vec<String> = serde_json::from_value(browser.run(rows)).unwrap();
    assert!(rows.len() > 8 && rows.iter().all(|size| size == "80,45"), "{rows:?}");
    assert!(browser.run(&format!("return {in_view}[0].alt")).as_str().unwrap().starts_with("A picture of "));
    assert_eq!(browser.run(&format!("return {in_view}[0].loading")), "lazy");
    browser.screenshot(&folder.join("history-hour-light.png"));
    browser.prefer("dark");
    browser.screenshot(&folder.join("history-hour-dark.png"));
    browser.prefer("light");
    browser.run("document.querySelector('[data-span=\"604800\"]').click()");
    browser.wait("a week", "return new URLSearchParams(location.search).get('span') === '604800'");
    browser.screenshot(&folder.join("history-week.png"));
    browser.run("document.querySelector('[data-span=\"300\"]').click()");
    browser.wait("five minutes", "return new URLSearchParams(location.search).get('span') === '300'");
    // By keys, by the wheel.
    browser.run("document.getElementById('lanes-box').focus()");
    key(&browser, "ArrowLeft");
    key(&browser, "-");
    browser.wait("ten minutes, earlier", "return new URLSearchParams(location.search).has('from')");
    assert!((span(&browser) - 600.0).abs() < 1.0, "{}", span(&browser));
    browser.run("document.getElementById('axis').dispatchEvent(new WheelEvent('wheel', { deltaY: -500, clientX: 900, bubbles: true, cancelable: true }))");
    browser.wait("a shorter time", "const p = new URLSearchParams(location.search); return Date.parse(p.get('to')) - Date.parse(p.get('from')) < 300000");
    browser.run("for (let i = 0; i < 12; i++) document.getElementById('in').click()");
    browser.wait("ten seconds", "const p = new URLSearchParams(location.search); return Math.abs(Date.parse(p.get('to')) - Date.parse(p.get('from')) - 10000) < 2");
    browser.wait("the lanes", "return document.querySelectorAll('#lanes canvas').length === 2");
    browser.screenshot(&folder.join("history-seconds.png"));
    key(&browser, "End");
    browser.wait("now", "return document.getElementById('now').getAttribute('aria-pressed') === 'true'");
    // A sport is looked for; its segment is chosen.
    browser.run("document.querySelector('[data-span=\"86400\"]').click()");
    browser.run("const s = document.getElementById('filter-class'); s.value = 'badminton'; s.dispatchEvent(new Event('change'))");
    browser.wait("one segment", "return document.querySelectorAll('#list li button').length === 1");
    browser.run("document.querySelector('#list li button').click()");
    browser.wait("the details", "return document.getElementById('detail-title').textContent === 'Badminton'");
    let facts = browser.text("#detail-body");
    assert!(facts.contains("13:20") && facts.contains("sound 13:20") && facts.contains("Pitch 3"), "{facts}");
    browser.screenshot(&folder.join("history-detail.png"));
    let exports = "return [...document.querySelectorAll('#detail-body .links a')].map((a) => a.href)";
    for link in browser.run(exports).as_array().unwrap() {
        let path = link.as_str().unwrap().strip_prefix(&afternoon.server.url).unwrap();
        assert_eq!(get(&afternoon.server, path).status, 200, "{path}");
    }
    key(&browser, "Escape");
    browser.wait("no details", "return document.getElementById('detail').hidden");
    for by in ["class", "day"] {
        browser.run(&format!("document.querySelector('[data-by={by}]').click()"));
        browser.wait("the table", &format!("return document.getElementById('sums').dataset.by === '{by}'"));
    }
    // Nothing is recorded, so that there are no clips.
    let own: Vec<_> = browser.console().into_iter().filter(|line| !line.contains("404")).collect();
    assert_eq!(own, Vec::<String>::new());
}

#[test]
fn a_phone_shows_the_history_below_a_prefix_to_a_reader() {
    let Some((_one, browser)) = browser() else { return };
    let token = |text| Some(TokenSource::Environment { name: "T", text });
    let access = AccessConfig {
        read_token: token("reader-0123456789abcdef".into()),
        admin_token: token("admin-0123456789abcdef".into()),
        ..AccessConfig::default()
    };
    let afternoon = Afternoon::with(access, &[("court-1", "Centre court", "tennis", COURT)]);
    let url = prefix_proxy(afternoon.server.address());
    browser.resize(390, 844, true);
    browser.go(&format!("{url}/history?span=7200"));
    browser.wait("the login", "return document.getElementById('login') !== null");
    browser.run(
        "document.getElementById('token').value = 'reader-0123456789abcdef';
         document.querySelector('#login button').click();",
    );
    browser.wait("the segments", "return document.querySelectorAll('#list li button').length > 3");
    browser.wait("the sums", "return document.querySelectorAll('#sums tbody tr').length === 1");
    let width = browser.run("return document.documentElement.scrollWidth");
    assert!(width.as_u64().unwrap() <= 390, "the page is {width} pixels wide, the phone 390");
    let folder = screenshots();
    browser.screenshot(&folder.join("history-phone-light.png"));
    browser.prefer("dark");
    browser.run("document.querySelector('#list li button').click()");
    browser.wait("the details", "return !document.getElementById('detail').hidden");
    rest(&browser);
    browser.screenshot(&folder.join("history-phone-dark.png"));
    let foreign = browser.run(
        "return performance.getEntriesByType('resource').map((e) => e.name)
             .filter((name) => !name.startsWith(`${location.origin}/watch/`))",
    );
    assert_eq!(foreign, serde_json::json!([]));
    browser.wait("the log-out button", "return !document.getElementById('log-out').hidden");
    let own: Vec<_> = browser.console().into_iter().filter(|l| !l.contains("401") && !l.contains("404")).collect();
    assert_eq!(own, Vec::<String>::new());
}

#[test]
fn a_history_without_a_store_or_streams_says_what_to_do() {
    let Some((_one, browser)) = browser() else { return };
    let (hub, clock) = new_hub();
    let mut server = Server::start(hub.clone());
    browser.go(&format!("{}/history", server.url));
    browser.wait("the notice", "return document.getElementById('notice-title').textContent === 'There is no history'");
    browser.screenshot(&screenshots().join("history-none.png"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("touchline.db");
    let (store, _thread, _) = Store::open(&path, HistorySettings::default(), hub.metrics().clone(), clock).unwrap();
    hub.set_archive(Arc::new(store));
    browser.go(&format!("{}/history", server.url));
    browser.wait(
        "the notice",
        "return document.getElementById('notice-title').textContent === 'There are no streams yet'",
    );
    browser.wait("the empty list", "return document.querySelector('#list .nothing') !== null");
    browser.screenshot(&screenshots().join("history-empty.png"));
    server.stop();
    browser.run("document.getElementById('earlier').click()");
    browser.wait("the loss", "return document.body.dataset.server === 'lost'");
    assert!(browser.text("#notice-title").contains("No connection"));
}
