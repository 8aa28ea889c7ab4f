//! The wall in headless Chromium.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::feed::facts;
use crate::page::{browser, no_programme, rest, screenshots};
use crate::support::{PastClock, Script, Server, Shot, add, classes, court, feed, feed_script, new_hub, step};
use crate::webdriver::Browser;
use touchline_core::cause::Cause;
use touchline_core::clip::GapReason;
use touchline_core::frame::Frame;
use touchline_core::incident::Incident;
use touchline_core::item::Tracks;
use touchline_core::pool::Pooled;
use touchline_core::signal::Signal;
use touchline_core::time::Pts;
use touchline_serve::hub::{Hub, StreamFacts, StreamHandle};
use touchline_serve::record::StreamState;

const SPORTS: [&str; 8] =
    ["tennis", "soccer", "basketball", "icehockey", "americanfootball", "swimming", "cycling", "volleyball"];

/// Many streams, of which every second is published, and pictures while a browser shows them.
pub struct WallServer {
    hub: Hub,
    clock: Arc<PastClock>,
    channels: Arc<Mutex<Vec<Channel>>>,
    server: Option<Server>,
    is_closed: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Channel {
    stream: StreamHandle,
    script: Script,
    /// What it shows now; `None`: no more seconds.
    shot: Option<Shot>,
}

fn group(n: usize) -> &'static str {
    ["Arena", "Outdoor", "Partner feeds"][n % 3]
}

/// `frame` in other colours, so that tiles differ.
fn tinted(frame: &Frame, n: usize) -> Frame {
    let turn = n % 3;
    let mut data: Vec<u8> = frame.view().data.to_vec();
    data.chunks_exact_mut(3).for_each(|rgb| rgb.rotate_left(turn));
    Frame::new(Pooled::detached(data), frame.width, frame.height, Pts(0), 0)
}

impl WallServer {
    fn empty() -> Self {
        let (hub, clock) = new_hub();
        let channels = Arc::<Mutex<Vec<Channel>>>::default();
        let is_closed = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (channels, clock, is_closed) = (channels.clone(), clock.clone(), is_closed.clone());
            move || {
                let frames: Vec<_> = (0..6).map(|n| tinted(&court(n as f32 / 6.0), n)).collect();
                for tick in 0_u64.. {
                    if is_closed.load(Ordering::Relaxed) {
                        return;
                    }
                    for (n, Channel { stream, script, shot }) in channels.lock().iter_mut().enumerate() {
                        if stream.preview_wanted() {
                            stream.offer_preview(frames[n % frames.len()].clone());
                        }
                        if let Some(shot) = shot.filter(|_| tick % 10 == 9) {
                            step(stream, &clock, script, shot);
                        }
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        });
        let server = Some(Server::start(hub.clone()));
        Self { hub, clock, channels, server, is_closed, thread: Some(thread) }
    }

    /// `count` streams that play, with ten minutes behind them.
    pub fn open(count: usize) -> Self {
        let wall = Self::empty();
        for n in 0..count {
            let stream = add(&wall.hub, &format!("channel-{}", n + 1), "rtsp://cam.example/live");
            let label = Some(format!("{} {}", ["Court", "Pitch", "Hall", "Stage"][n % 4], n + 1));
            stream.set_facts(StreamFacts { label, ..facts(Some(group(n))) });
            stream.set_tracks(Tracks { video: true, audio: true });
            stream.set_state(StreamState::Playing);
            let (before, now) = (SPORTS[(n + 3) % 8], SPORTS[n % 8]);
            let mut shots = vec![Shot::On(before, 0.88); 40 + n * 37 % 300];
            shots.extend([Shot::On("other", 0.7); 20]);
            shots.extend([Shot::On(now, 0.2); 6]);
            shots.extend(vec![Shot::On(now, 0.66 + (n % 4) as f32 * 0.09); 60 + n * 53 % 200]);
            wall.play(stream, &shots);
        }
        wall
    }

    pub fn url(&self) -> &str {
        &self.server.as_ref().expect("it is open").url
    }

    /// Adds a channel that has shown `shots`, and continues with the last.
    fn play(&self, stream: StreamHandle, shots: &[Shot]) {
        let mut channels = self.channels.lock();
        let script = feed(&stream, &self.clock, shots);
        channels.push(Channel { stream, script, shot: shots.last().copied() });
    }

    /// Channel `n` (from 1) has shown `shots`, and continues with the last.
    pub fn show(&self, n: usize, shots: &[Shot]) {
        self.expect(n, &[]);
        self.continue_with(n, shots);
    }

    /// What channel `n` (from 1) shows from now on is compared with `names`.
    pub fn expect(&self, n: usize, names: &[&str]) {
        let mut script = Script::default();
        assert!(names.iter().all(|name| script.expected.add(name, &classes())));
        self.channels.lock()[n - 1].script = script;
    }

    /// As [`WallServer::show`], with the same expectation as before.
    pub fn continue_with(&self, n: usize, shots: &[Shot]) {
        let mut channels = self.channels.lock();
        let Channel { stream, script, shot } = &mut channels[n - 1];
        *script = feed_script(stream, &self.clock, shots, std::mem::take(script));
        *shot = shots.last().copied();
    }

    /// Channel `n` (from 1), which publishes no more seconds.
    fn stop(&self, n: usize) -> StreamHandle {
        let mut channels = self.channels.lock();
        channels[n - 1].shot = None;
        channels[n - 1].stream.clone()
    }

    pub fn down(&self, n: usize) {
        self.stop(n).set_state(StreamState::Waiting {
            kind: Cause::HostUnreachable,
            cause: "no route to host".into(),
            attempt: 3,
            retry_in_ns: 30_000_000_000,
        });
    }

    pub fn bars(&self, n: usize) {
        let stream = self.stop(n);
        let (signal, began, lasted_ns) = (Signal::Bars, Pts(0), 125_000_000_000);
        stream.incident(Incident::SignalBegan { signal, began, lasted_ns });
        stream.publish(&no_programme(700));
    }
}

impl Drop for WallServer {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Opens the wall and waits for its tiles and their pictures.
pub fn open(browser: &Browser, url: &str, tiles: usize) {
    browser.go(url);
    browser.wait("the tiles", &format!("return document.querySelectorAll('.tile').length === {tiles}"));
}

pub fn pictures(browser: &Browser) {
    browser.wait(
        "the pictures of the tiles in view",
        "return [...document.querySelectorAll('.tile[data-kind=on-air], .tile[data-kind=not-sure]')]
             .filter((t) => t.getBoundingClientRect().top < innerHeight - 20)
             .every((t) => t.dataset.picture === 'there')",
    );
    rest(browser);
}

pub fn tile(id: usize, part: &str) -> String {
    format!(".tile[data-id=channel-{id}] {part}")
}

pub fn ids(browser: &Browser) -> Vec<String> {
    let ids = browser.run("return [...document.querySelectorAll('.tile')].map((t) => t.dataset.id)");
    ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

pub fn key(browser: &Browser, key: &str) {
    browser.devtools("Input.dispatchKeyEvent", serde_json::json!({"type": "keyDown", "key": key, "code": key}));
    browser.devtools("Input.dispatchKeyEvent", serde_json::json!({"type": "keyUp", "key": key, "code": key}));
}

#[test]
fn the_wall_shows_all_streams_and_problems_first() {
    let Some((_one, browser)) = browser() else { return };
    let wall = WallServer::open(12);
    browser.resize(1920, 1080, false);
    open(&browser, wall.url(), 12);
    pictures(&browser);
    assert_eq!(ids(&browser)[0], "channel-1", "in the order of the configuration");
    assert_eq!(browser.text(&tile(1, "strong")), "Tennis");
    assert_eq!(browser.text(&tile(1, ".name")), "Court 1");
    assert!(browser.text(&tile(1, "em")).ends_with(" %"));
    assert_eq!(browser.text("#counts"), "12 streams12 on air");
    assert!(browser.run("return document.documentElement.scrollHeight <= innerHeight").as_bool().unwrap());
    let folder = screenshots();
    browser.screenshot(&folder.join("wall-12-light.png"));

    wall.down(8);
    wall.bars(5);
    wall.show(3, &[Shot::On("golf", 0.15); 3]);
    wall.stop(10).set_state(StreamState::Ended);
    wall.show(11, &[Shot::Gap(GapReason::Overload); 5]);
    browser.wait("the outage", "return document.querySelector('.tile').dataset.id === 'channel-8'");
    browser
        .wait("the bars", "return document.querySelector('[data-id=channel-5] strong').textContent === 'No programme'");
    browser.wait("doubt", "return document.querySelector('[data-id=channel-3] strong').textContent === 'Not sure'");
    browser
        .wait("overload", "return document.querySelector('[data-id=channel-11] strong').textContent === 'Overloaded'");
    assert_eq!(ids(&browser)[..4], ["channel-8", "channel-5", "channel-11", "channel-1"], "the worst first");
    assert_eq!(browser.text(&tile(8, "strong")), "Down");
    let detail = browser.text(&tile(8, ".detail"));
    assert!(detail.starts_with("Since ") && detail.ends_with(". No route to host"), "{detail}");
    let sign = browser.run("return document.querySelector('[data-id=channel-8] em use').getAttribute('href')");
    assert_eq!(sign, "#icon-down", "not by colour alone");
    assert!(browser.text(&tile(5, ".detail")).starts_with("Colour bars since "));
    assert_eq!(browser.text(&tile(3, ".detail")), "Best guess: Golf");
    assert_eq!(browser.text(&tile(10, "strong")), "Ended");
    let counts = browser.text("#counts");
    assert_eq!(counts, "12 streams7 on air1 down1 no programme1 without decisions1 not sure");
    assert_eq!(browser.run("return document.title"), "3 problems – Touchline");
    assert!(browser.text("#spoken").contains(": "), "{}", browser.text("#spoken"));
    pictures(&browser);
    browser.screenshot(&folder.join("wall-problems-light.png"));
    browser.prefer("dark");
    browser.wait("the dark theme", "return matchMedia('(prefers-color-scheme: dark)').matches");
    browser.screenshot(&folder.join("wall-problems-dark.png"));
    browser.resize(3840, 2160, false);
    pictures(&browser);
    browser.screenshot(&folder.join("wall-12-4k.png"));
    browser.resize(390, 844, true);
    pictures(&browser);
    browser.screenshot(&folder.join("wall-12-phone.png"));
    let width = browser.run("return document.documentElement.scrollWidth");
    assert!(width.as_u64().unwrap() <= 390, "the wall is {width} pixels wide, the phone 390");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_wall_takes_one_to_sixty_four_streams() {
    let Some((_one, browser)) = browser() else { return };
    let folder = screenshots();
    browser.prefer("dark");
    for (count, width, height) in [(1, 1920, 1080), (4, 1920, 1080), (64, 1920, 1080), (64, 3840, 2160)] {
        let wall = WallServer::open(count);
        browser.resize(width, height, false);
        open(&browser, wall.url(), count);
        pictures(&browser);
        browser.screenshot(&folder.join(format!("wall-{count}-{width}.png")));
        let overflow = browser.run(
            "return [...document.querySelectorAll('.tile strong')]
                 .filter((t) => t.scrollWidth > t.clientWidth + 1).map((t) => t.textContent)",
        );
        assert_eq!(overflow, serde_json::json!([]), "labels are cut off");
        let fits = "return document.documentElement.scrollHeight <= innerHeight";
        assert!(browser.run(fits).as_bool().unwrap(), "{count} tiles at {width} × {height} scroll");
        assert_eq!(browser.console(), Vec::<String>::new());
        // Before the server stops: the browser logs every refused connection.
        browser.go("about:blank");
        browser.console();
    }
}

#[test]
fn tiles_are_selected_by_address_form_and_keys() {
    let Some((_one, browser)) = browser() else { return };
    let wall = WallServer::open(12);
    open(&browser, &format!("{}/?group=Arena", wall.url()), 4);
    assert_eq!(ids(&browser), ["channel-1", "channel-4", "channel-7", "channel-10"]);
    let choose = |name: &str, value: &str| {
        browser.run(&format!(
            "const s = document.getElementById('filter-{name}'); s.value = '{value}';
             s.dispatchEvent(new Event('change', {{ bubbles: true }}));"
        ));
    };
    choose("group", "");
    browser.wait("all tiles", "return document.querySelectorAll('.tile').length === 12");
    choose("label", "tennis");
    browser.wait("tennis", "return document.querySelectorAll('.tile').length === 2");
    assert_eq!(browser.run("return location.search"), "?label=tennis", "the address can be shared");
    choose("state", "problem");
    browser.wait("no problem", "return document.getElementById('nobody-title').textContent === 'No problems'");
    assert_eq!(browser.text("#nobody-text"), "All 12 streams are running normally.");
    browser.run("document.getElementById('nobody-all').click()");
    browser.wait("all tiles", "return document.querySelectorAll('.tile').length === 12");
    choose("sort", "label");
    let titles = browser.run("return [...document.querySelectorAll('.tile strong')].map((t) => t.textContent)");
    let titles: Vec<_> = titles.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    assert!(titles.is_sorted(), "{titles:?}");
    choose("sort", "");

    let focused = "return document.activeElement.closest('.tile')?.dataset.id ?? null";
    for (pressed, id) in [
        ("ArrowRight", "channel-1"),
        ("ArrowRight", "channel-2"),
        ("End", "channel-12"),
        ("ArrowRight", "channel-12"),
        ("Home", "channel-1"),
        ("ArrowDown", "channel-5"),
        ("ArrowUp", "channel-1"),
        ("ArrowRight", "channel-2"),
    ] {
        key(&browser, pressed);
        assert_eq!(browser.run(focused), id, "{pressed}");
    }
    // A tile opens the page of its stream, and Escape leads back to the wall as it was.
    choose("group", "Outdoor");
    browser.wait("the group", "return document.querySelectorAll('.tile').length === 4");
    browser.run("document.querySelector('.tile a').click()");
    browser.wait("the stream", "return document.getElementById('stream-id')?.textContent === 'Pitch 2'");
    assert_eq!(browser.run("return location.search"), "?stream=channel-2");
    key(&browser, "Escape");
    browser.wait("the wall", "return document.querySelectorAll('.tile').length === 4");
    assert_eq!(browser.run("return location.search"), "?group=Outdoor");
    // The address of a stream was another one.
    browser.go(&format!("{}/#/channel-3", wall.url()));
    browser.wait("the stream", "return document.getElementById('stream-id')?.textContent === 'Hall 3'");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn a_kiosk_rotates_through_the_groups() {
    let Some((_one, browser)) = browser() else { return };
    let wall = WallServer::open(9);
    browser.go(&format!("{}/?rotate=1&tiles=9", wall.url()));
    for n in [1, 2, 3, 1] {
        let page = format!(
            "return document.getElementById('page-of').textContent.endsWith('· {n} of 3')
                 && document.querySelectorAll('.tile').length === 3"
        );
        browser.wait("the page", &page);
    }
    assert_eq!(browser.run("return getComputedStyle(document.getElementById('filters')).display"), "none");
    browser.go(&format!("{}/?rotate=1&group=Arena&tiles=2", wall.url()));
    for (n, tiles) in [(1, 2), (2, 1)] {
        let page = format!(
            "return document.getElementById('page-of').textContent === '{n} of 2'
                 && document.querySelectorAll('.tile').length === {tiles}"
        );
        browser.wait("the page of the group", &page);
    }
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_wall_follows_changes_over_one_connection_and_survives_a_restart() {
    let Some((_one, browser)) = browser() else { return };
    let mut wall = WallServer::empty();
    browser.go(wall.url());
    browser.wait(
        "the empty wall",
        "return document.getElementById('nobody-title').textContent === 'No streams are running'",
    );
    assert!(browser.text("#nobody-lines").contains("touchline run rtsp://camera.example/live"));
    browser.screenshot(&screenshots().join("wall-empty.png"));
    browser.run("window.untouched = true");
    let cam = add(&wall.hub, "court-1", "testsrc://");
    browser.wait("the stream", "return document.querySelector('.tile strong')?.textContent === 'Connecting'");
    cam.set_state(StreamState::Playing);
    wall.play(cam.clone(), &[Shot::On("tennis", 0.9); 20]);
    browser.wait("its answer", "return document.querySelector('.tile strong').textContent === 'Tennis'");
    browser.wait("the title", "return /^Tennis · court-1/.test(document.title)");
    cam.set_facts(StreamFacts { label: Some("Centre court".into()), ..facts(Some("A")) });
    browser.wait("the label", "return document.querySelector('.tile .name').textContent === 'Centre court'");
    let metrics = wall.hub.metrics().encode();
    assert!(metrics.contains("touchline_viewers{kind=\"live\"} 1\n"), "one connection for all streams");

    let address = wall.server.as_ref().unwrap().address().to_owned();
    wall.server.take().unwrap().stop();
    browser.wait("the loss of the connection", "return document.body.dataset.server === 'lost'");
    assert_eq!(browser.text("#notice-title"), "No connection to Touchline");
    browser.wait("the title", "return document.title === 'Offline – Touchline'");
    wall.show(1, &[Shot::On("soccer", 0.95); 20]);
    wall.server = Some(Server::start_at(wall.hub.clone(), &address));
    browser.wait("the reconnection", "return document.body.dataset.server === 'open'");
    browser.wait("the next answer", "return document.querySelector('.tile strong').textContent === 'Soccer'");
    wall.stop(1).set_state(StreamState::Removed);
    assert!(wall.hub.remove_stream("court-1"));
    browser.wait("the removal", "return document.querySelectorAll('.tile').length === 0");
    assert_eq!(browser.run("return window.untouched"), true, "the page was loaded again");
    // The browser logs every refused connection. The page itself must log nothing.
    let own: Vec<_> = browser.console().into_iter().filter(|l| !l.contains("ERR_")).collect();
    assert_eq!(own, Vec::<String>::new());
}

/// A proxy that serves `to` below `/watch/`, as nginx does, one request a connection.
pub fn prefix_proxy(to: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let to = to.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let to = to.clone();
            std::thread::spawn(move || forward(client, &to));
        }
    });
    format!("http://{address}/watch")
}

fn forward(mut client: TcpStream, to: &str) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let (method, rest) = head.split_once(' ')?;
    let Some(path) = rest.strip_prefix("/watch/") else {
        client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
        return None;
    };
    let mut server = TcpStream::connect(to).ok()?;
    write!(server, "{method} /{}", path.replacen("\r\n", "\r\nConnection: close\r\n", 1)).ok()?;
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    server.write_all(&body).ok()?;
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = server.read(&mut buffer).ok().filter(|read| *read > 0)?;
        client.write_all(&buffer[..read]).ok()?;
    }
}

#[test]
fn the_page_works_below_a_prefix_and_requests_nothing_else() {
    let Some((_one, browser)) = browser() else { return };
    let wall = WallServer::open(3);
    let url = prefix_proxy(wall.server.as_ref().unwrap().address());
    open(&browser, &format!("{url}/"), 3);
    pictures(&browser);
    browser.run("document.querySelector('.tile a').click()");
    browser.wait("the stream", "return document.getElementById('third-title')?.textContent === 'Tennis'");
    browser.wait("its picture", "return document.getElementById('stage').dataset.picture === 'there'");
    let foreign = browser.run(
        "return performance.getEntriesByType('resource').map((e) => e.name)
             .filter((name) => !name.startsWith(`${location.origin}/watch/`))",
    );
    assert_eq!(foreign, serde_json::json!([]));
    key(&browser, "Escape");
    browser.wait("the wall", "return document.querySelectorAll('.tile').length === 3");
    assert_eq!(browser.console(), Vec::<String>::new());
}
