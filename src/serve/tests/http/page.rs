//! The page of a stream in headless Chromium.
//!
//! The tests leave screenshots in the folder that `TOUCHLINE_SCREENSHOTS` names, or in the target folder.

use std::path::PathBuf;
use std::sync::Arc;

use crate::studio::Studio;
use crate::support::{Server, Shot, add, afternoon, classes, feed, new_hub, stamp};
use crate::webdriver::Browser;
use parking_lot::{Mutex, MutexGuard};
use touchline_core::clip::{Gap, GapReason};
use touchline_core::decision::{SecondOutcome, WindowEstimate};
use touchline_core::expectation::WatchedSecond;

use touchline_core::cause::Cause;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, Track, Tracks};
use touchline_core::labels::Modality;
use touchline_core::signal::{Signal, Signals};
use touchline_core::tier::DecodeTier;
use touchline_core::time::{Pts, RunId};
use touchline_serve::http::access::{AccessConfig, TokenSource};
use touchline_serve::http::server::Limits;
use touchline_serve::record::{Published, StreamState};

/// One browser at a time: several would starve each other on a small machine.
static ONE: Mutex<()> = Mutex::new(());

/// A second of colour bars.
pub fn no_programme(index: u64) -> Published {
    let signals = Signals::NONE.with(Signal::Bars);
    Published {
        outcome: SecondOutcome::Gap(Gap { signals, ..Gap::new(RunId(0), index, GapReason::NoProgramme) }),
        estimate: WindowEstimate::empty(classes().len()),
        events: Vec::new(),
        segments: Vec::new(),
        watched: WatchedSecond::default(),
        latency_ns: None,
        backlog: 0,
    }
}

pub fn screenshots() -> PathBuf {
    let folder = std::env::var_os("TOUCHLINE_SCREENSHOTS")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("screenshots"), PathBuf::from);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// `None` if no browser is installed.
pub fn browser() -> Option<(MutexGuard<'static, ()>, Browser)> {
    let one = ONE.lock();
    let browser = Browser::start()?;
    browser.resize(1280, 800, false);
    browser.prefer("light");
    Some((one, browser))
}

fn open(browser: &Browser, studio: &Studio) {
    browser.go(&format!("{}/?stream=court-1", studio.server.url));
    browser.wait("the first decision on the page", "return document.getElementById('third-title').textContent !== ''");
}

/// Waits until there is a picture and the page is still.
fn settle(browser: &Browser) {
    browser.wait("the picture", "return document.getElementById('stage').dataset.picture === 'there'");
    rest(browser);
}

/// Waits for the end of the transitions, which last up to 0.7 s.
pub fn rest(browser: &Browser) {
    browser.wait(
        "the end of the transitions",
        "return document.getAnimations().every((a) => a.effect.getTiming().iterations === Infinity)",
    );
}

/// The bar of a class: (value, rank, width of its fill as a share of the track).
fn bar(browser: &Browser, class: &str) -> (f64, f64, f64) {
    let script = format!(
        "const row = document.querySelector('#bars [data-class={class}]');
         const track = row.querySelector('.track').getBoundingClientRect();
         const fill = row.querySelector('.fill i').getBoundingClientRect();
         return [Number(row.style.getPropertyValue('--value')), Number(row.style.getPropertyValue('--rank')),
                 Math.max(0, fill.right - track.left) / track.width];"
    );
    let v = browser.run(&script);
    (v[0].as_f64().unwrap(), v[1].as_f64().unwrap(), v[2].as_f64().unwrap())
}

/// The number of colours in the timeline's band.
const BAND_COLOURS: &str = "
    const c = document.getElementById('timeline');
    const y = Math.round(c.height * 25 / 76);
    const row = c.getContext('2d').getImageData(0, y, c.width, 1).data;
    const seen = new Set();
    for (let i = 0; i < row.length; i += 4) seen.add(row[i] + ',' + row[i + 1] + ',' + row[i + 2]);
    return [...seen].length;";

#[test]
fn the_page_follows_the_stream() {
    let Some((_one, browser)) = browser() else { return };
    let mut studio = Studio::open();
    open(&browser, &studio);
    assert_eq!(browser.text("#third-title"), "Tennis");
    assert_eq!(browser.text("#pill"), "Live");
    assert_eq!(browser.text("#stream-uri"), "rtsp://***@cam.example:554/live/court-1", "no secrets");
    assert!(browser.text("#latency").ends_with(" s") && browser.text("#backlog") == "0 s");
    assert!(browser.text("#legend").contains("Badminton") && browser.text("#legend").contains("no decision"));
    assert!(browser.text("#events").contains("Basketball off"), "{}", browser.text("#events"));
    let colours = browser.run(BAND_COLOURS).as_u64().unwrap();
    assert!(colours >= 6, "soccer, other, badminton, basketball, tennis and the hatching, not {colours}");
    settle(&browser);
    let (value, rank, width) = bar(&browser, "tennis");
    assert!(value > 0.8 && rank == 0.0 && (width - value).abs() < 0.02, "{value} {rank} {width}");
    let folder = screenshots();
    let light = browser.screenshot(&folder.join("desktop-light.png"));
    browser.prefer("dark");
    browser.wait("the dark theme", "return matchMedia('(prefers-color-scheme: dark)').matches");
    rest(&browser);
    let dark = browser.screenshot(&folder.join("desktop-dark.png"));
    let mean = |png: &[u8]| {
        let pixels = image::load_from_memory(png).unwrap().to_luma8();
        pixels.iter().map(|p| f64::from(*p)).sum::<f64>() / pixels.len() as f64
    };
    assert!(mean(&light) > 150.0 && mean(&dark) < 80.0, "light {} dark {}", mean(&light), mean(&dark));
    browser.prefer("light");

    for _ in 0..8 {
        studio.shot(Shot::Sound("badminton", 0.9));
    }
    browser.wait("badminton", "return document.getElementById('third-title').textContent === 'Badminton'");
    browser.wait("the title", "return document.title.startsWith('Badminton ')");
    assert_eq!(browser.run("return document.querySelector('[data-decided=true]').id"), "modality-audio");
    assert_eq!(browser.text("#why"), "sound decides: the table assigns Badminton to it");
    assert_eq!(browser.text("#spoken"), "Badminton on court-1", "the change must be announced");
    settle(&browser);
    let ((new, first, width), (old, second, _)) = (bar(&browser, "badminton"), bar(&browser, "tennis"));
    assert!(first == 0.0 && second > 0.0 && new > 0.5 && old < value, "{new} {first} {old} {second}");
    assert!((width - new).abs() < 0.02, "the bar's length differs from its value: {width} {new}");
    assert!(browser.text("#events li").contains("Badminton on"), "{}", browser.text("#events"));

    studio.shot(Shot::Silent("badminton", 0.9));
    browser.wait(
        "the missing sound",
        "const card = document.getElementById('modality-audio');
         return card.dataset.missing === 'true' && card.textContent.includes('No such track')",
    );
    assert_eq!(browser.run("return document.querySelector('[data-decided=true]').id"), "modality-rgb");

    studio.shot(Shot::Gap(GapReason::Overload));
    browser.wait("the gap", "return document.getElementById('third-sub').textContent.includes('machine overloaded')");
    assert_eq!(browser.text("#backlog"), "2 s");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_motion_view_names_the_tier_that_leaves_it_out() {
    let Some((_one, browser)) = browser() else { return };
    let mut studio = Studio::open();
    open(&browser, &studio);
    let motion = |tier: &str| {
        let condition = format!(
            "const card = document.getElementById('modality-flow');
             const label = card.querySelector('strong');
             return card.dataset.missing === 'true' && label.textContent === 'Not computed'
               && card.querySelector('.votes').textContent === 'tier {tier} leaves it out'
               && label.scrollWidth <= label.clientWidth && card.querySelector('.score').textContent === '';"
        );
        browser.wait(tier, &condition);
    };
    assert_eq!(browser.run("return document.getElementById('modality-flow').dataset.missing"), "false");
    studio.shot_without_flow(Shot::On("tennis", 0.9), DecodeTier::Sparse);
    motion("sparse");
    settle(&browser);
    browser.screenshot(&screenshots().join("tier-sparse.png"));
    studio.shot_without_flow(Shot::On("tennis", 0.9), DecodeTier::Key);
    motion("key");
    studio.shot_without_flow(Shot::Gap(GapReason::NotDecoded), DecodeTier::Key);
    browser.wait("the gap", "return document.getElementById('why').textContent.startsWith('no decision')");
    motion("key");
    studio.shot(Shot::On("tennis", 0.9));
    browser.wait("motion", "return document.getElementById('modality-flow').dataset.missing === 'false'");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_timeline_shows_a_tooltip_for_pointer_and_keys() {
    let Some((_one, browser)) = browser() else { return };
    let studio = Studio::open();
    open(&browser, &studio);
    settle(&browser);
    browser.run(
        "const c = document.getElementById('timeline'), box = c.getBoundingClientRect();
         c.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width * 0.5, clientY: box.top + 30}));",
    );
    let tip = browser.text("#tip");
    assert!(tip.contains("Badminton") && tip.contains("by sound"), "{tip}");
    browser.screenshot(&screenshots().join("timeline-tip.png"));
    browser.run("document.getElementById('timeline').dispatchEvent(new PointerEvent('pointerleave'))");
    assert_eq!(browser.run("return document.getElementById('tip').hidden"), true);
    browser.run(
        "const c = document.getElementById('timeline');
         c.focus();
         for (const key of ['ArrowRight', 'ArrowLeft']) c.dispatchEvent(new KeyboardEvent('keydown', {key}));",
    );
    let tip = browser.text("#tip");
    assert!(tip.contains("Tennis"), "{tip}");
    assert!(
        browser.run("return document.getElementById('timeline').ariaLabel").as_str().unwrap().contains("Soccer 3:")
    );
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn a_phone_shows_the_page_without_horizontal_scrolling() {
    let Some((_one, browser)) = browser() else { return };
    let mut studio = Studio::open();
    browser.resize(390, 844, true);
    open(&browser, &studio);
    settle(&browser);
    let width = browser.run("return document.documentElement.scrollWidth");
    assert!(width.as_u64().unwrap() <= 390, "the page is {width} pixels wide, the phone 390");
    let folder = screenshots();
    browser.screenshot(&folder.join("phone-light.png"));
    browser.prefer("dark");
    rest(&browser);
    browser.screenshot(&folder.join("phone-dark.png"));
    browser.run("window.scrollTo(0, 760)");
    rest(&browser);
    browser.screenshot(&folder.join("phone-dark-below.png"));
    // A long name, a gap and the list of all classes must not widen the page.
    for _ in 0..10 {
        studio.shot(Shot::On("americanfootball", 0.9));
    }
    studio.shot(Shot::Gap(GapReason::NoMedia));
    browser.run("document.getElementById('bars-more').click()");
    browser.wait("the gap", "return document.getElementById('third').dataset.gap === 'true'");
    let width = browser.run("return document.documentElement.scrollWidth");
    assert!(width.as_u64().unwrap() <= 390, "the page is {width} pixels wide, the phone 390");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn problems_are_shown_with_advice() {
    let Some((_one, browser)) = browser() else { return };
    let (hub, clock) = new_hub();
    let mut server = Server::start(hub.clone());
    let address = server.address().to_owned();
    browser.go(&format!("{}/?stream=court-1", server.url));
    browser.wait(
        "the empty page",
        "return document.getElementById('notice-title').textContent === 'No streams are running'",
    );

    let cam = add(&hub, "court-1", "rtsp://cam.example/live");
    browser.wait("the stream", "return document.getElementById('pill').textContent === 'Connecting'");
    assert!(browser.text("#empty-text").contains("Connecting"));
    browser.screenshot(&screenshots().join("no-data.png"));

    cam.set_state(StreamState::Playing);
    feed(&cam, &clock, &afternoon());
    browser.wait("a decision", "return document.getElementById('third-title').textContent === 'Tennis'");
    let (track, silent_ns) = (Track::Audio, 65_000_000_000);
    cam.incident(Incident::TrackStalled { track, silent_ns });
    browser
        .wait("the stall", "return document.getElementById('notice-title').textContent.startsWith('No sound since ')");
    assert_eq!(browser.text("#notice-text"), "Decisions continue from its pictures.");
    assert_eq!(browser.text("#events li .what"), "No sound");
    assert_eq!(browser.text("#events li .how"), "1:05");
    cam.incident(Incident::TrackRecovered { track, silent_ns });
    browser.wait("the end of the stall", "return document.getElementById('notice').hidden");
    let (began, lasted_ns) = (Pts(0), 125_000_000_000);
    cam.incident(Incident::SignalBegan { signal: Signal::Silence, began, lasted_ns });
    browser
        .wait("the silence", "return document.getElementById('notice-title').textContent.startsWith('Silence since ')");
    cam.incident(Incident::SignalEnded { signal: Signal::Silence, began, lasted_ns });
    browser.wait("sound", "return document.getElementById('notice').hidden");
    cam.incident(Incident::SignalBegan { signal: Signal::Bars, began, lasted_ns });
    cam.publish(&no_programme(700));
    browser.wait("the bars", "return document.getElementById('third-title').textContent === 'No programme'");
    assert!(browser.text("#third-sub").starts_with("Colour bars since "), "{}", browser.text("#third-sub"));
    assert_eq!(browser.text("#why"), "no decision: no programme: colour bars");
    assert_eq!(browser.text("#events li .what"), "Colour bars began");
    browser.wait("the title", "return document.title.startsWith('No programme · court-1')");
    browser.screenshot(&screenshots().join("no-programme.png"));
    cam.incident(Incident::SignalEnded { signal: Signal::Bars, began, lasted_ns });
    feed(&cam, &clock, &afternoon()[..2]);
    browser.wait("a programme", "return document.getElementById('third-title').textContent === 'Soccer'");
    assert_eq!(browser.text("#events li .what"), "Colour bars ended");
    feed(&cam, &clock, &[Shot::On("golf", 0.15), Shot::On("golf", 0.15)]);
    browser.wait("doubt", "return document.getElementById('third-title').textContent === 'Not sure'");
    assert_eq!(browser.text("#third-sub"), "Best guess: Golf, over the last 2 s");
    browser.wait("the title", "return document.title.startsWith('Not sure ')");
    rest(&browser);
    browser.screenshot(&screenshots().join("not-sure.png"));
    cam.run_started(RunId(1), Some(Discontinuity::Playlist));
    browser
        .wait("the break", "return document.querySelector('#events li .what').textContent === 'Break in the playlist'");
    browser.screenshot(&screenshots().join("incidents.png"));

    cam.set_state(StreamState::Waiting {
        kind: Cause::HostUnreachable,
        cause: "no route to host".into(),
        attempt: 2,
        retry_in_ns: 30_000_000_000,
    });
    browser.wait("waiting", "return document.getElementById('notice-text').textContent.startsWith('Next attempt in ')");
    assert_eq!(browser.text("#pill"), "Waiting");
    assert!(browser.text("#notice-title").contains("no route to host"));
    assert!(browser.text("#notice-text").contains("(attempt 2); down since "));
    browser.screenshot(&screenshots().join("waiting.png"));

    cam.set_state(StreamState::Failed {
        kind: Cause::Other,
        cause: "the server answered 401 Unauthorized".into(),
        advice: "check the user and the password in the URL".into(),
    });
    browser.wait("the failure", "return document.getElementById('pill').textContent === 'Failed'");
    assert!(browser.text("#notice-title").contains("401 Unauthorized"));
    assert_eq!(browser.text("#notice-text"), "Check the user and the password in the URL");
    rest(&browser);
    browser.screenshot(&screenshots().join("failed.png"));
    assert_eq!(browser.console(), Vec::<String>::new());

    server.stop();
    drop(server);
    browser.wait("the loss of the connection", "return document.body.dataset.server === 'lost'");
    assert_eq!(browser.text("#pill"), "Offline");
    assert!(browser.text("#notice-title").contains("No connection"));
    rest(&browser);
    browser.screenshot(&screenshots().join("offline.png"));
    let _server = Server::start_at(hub, &address);
    browser.wait("the reconnection", "return document.getElementById('pill').textContent === 'Failed'");
    assert_eq!(browser.run("return document.body.dataset.server"), "open");
    // The browser logs every refused connection. The page itself must log nothing.
    let own: Vec<_> = browser.console().into_iter().filter(|l| !l.contains("ERR_")).collect();
    assert_eq!(own, Vec::<String>::new());
}

#[test]
fn a_browser_logs_in_with_a_token_and_logs_out() {
    let Some((_one, browser)) = browser() else { return };
    let mut studio = Studio::open();
    let token = TokenSource::Environment { name: "T", text: "reader-0123456789abcdef".into() };
    let access = AccessConfig { read_token: Some(token), ..AccessConfig::default() };
    studio.server = Server::start_with(studio.hub.clone(), access, None, Limits::default());
    let log_in = |token: &str| {
        browser.run(&format!(
            "document.getElementById('token').value = '{token}';
             document.querySelector('#login button').click();"
        ));
    };
    browser.go(&format!("{}/?stream=court-1", studio.server.url));
    browser.wait("the login", "return document.getElementById('login') !== null");
    browser.screenshot(&screenshots().join("login.png"));
    log_in("wrong");
    browser.wait("the refusal", "return !document.getElementById('problem').hidden");
    assert_eq!(browser.text("#problem"), "The token is wrong.");
    log_in("reader-0123456789abcdef");
    browser.wait("the page", "return document.getElementById('third-title')?.textContent === 'Tennis'");
    browser.wait("the picture", "return document.getElementById('stage').dataset.picture === 'there'");
    assert_eq!(browser.run("return document.cookie"), "", "scripts can read the session cookie");
    browser.wait("the log-out button", "return !document.getElementById('log-out').hidden");
    browser.run("document.getElementById('log-out').click()");
    browser.wait("the login again", "return document.getElementById('login') !== null");
    // The browser logs every 401. The page itself must log nothing.
    let own: Vec<_> = browser.console().into_iter().filter(|l| !l.contains("401")).collect();
    assert_eq!(own, Vec::<String>::new());
}

#[test]
fn one_of_several_streams_can_be_selected() {
    let Some((_one, browser)) = browser() else { return };
    let studio = Studio::open();
    let arena = add(&studio.hub, "arena-north", "srt://10.0.0.8:9000?passphrase=longsecret");
    arena.set_tracks(Tracks { video: false, audio: true });
    arena.set_state(StreamState::Playing);
    feed(&arena, &studio.clock, &[Shot::On("basketball", 0.8); 90]);
    let away = add(&studio.hub, "pitch-3", "https://cdn.example/pitch3.m3u8");
    feed(&away, &studio.clock, &[Shot::On("rugby", 0.7); 30]);
    away.set_state(StreamState::Waiting {
        kind: Cause::NotFound,
        cause: "404 Not Found".into(),
        attempt: 1,
        retry_in_ns: 8_000_000_000,
    });
    let rally = add(&studio.hub, "stage-2", "rtmp://in.example/live/stage2");
    rally.set_state(StreamState::Failed {
        kind: Cause::MissingPlugin,
        cause: "codec not supported".into(),
        advice: "run touchline doctor".into(),
    });
    open(&browser, &studio);
    settle(&browser);
    assert_eq!(browser.run("return document.querySelectorAll('#streams a').length"), 4);
    assert!(browser.text("#streams [aria-current=true]").contains("court-1"));
    assert!(browser.text("#streams a:nth-child(2)").contains("Basketball"));
    browser.screenshot(&screenshots().join("streams.png"));
    browser.run("document.querySelector('#streams a:nth-child(2)').click()");
    browser.wait("the other stream", "return document.getElementById('third-title')?.textContent === 'Basketball'");
    assert_eq!(browser.text("#stream-id"), "arena-north");
    assert_eq!(browser.text("#empty-text"), "This stream has audio only");
    assert!(!browser.run("return document.body.innerText").as_str().unwrap().contains("longsecret"));
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_page_follows_added_and_removed_streams() {
    let Some((_one, browser)) = browser() else { return };
    let studio = Studio::open();
    let arena = add(&studio.hub, "arena-north", "testsrc://");
    arena.set_state(StreamState::Playing);
    feed(&arena, &studio.clock, &[Shot::On("basketball", 0.8); 90]);
    open(&browser, &studio);
    browser.run("window.untouched = true");
    assert_eq!(browser.text("#stream-id"), "court-1");

    // The shown stream is removed: the page shows the other one and does not report the server as lost.
    studio.cam.set_state(StreamState::Removed);
    assert!(studio.hub.remove_stream("court-1"));
    browser.wait("the other stream", "return document.getElementById('stream-id').textContent === 'arena-north'");
    browser.wait("its decisions", "return document.getElementById('third-title').textContent === 'Basketball'");
    assert_eq!(browser.run("return document.getElementById('streams').hidden"), true, "one stream needs no list");
    assert_eq!(browser.run("return document.body.dataset.server"), "open");

    let paused = StreamState::Paused;
    arena.set_state(paused);
    browser.wait("the pause", "return document.getElementById('pill').textContent === 'Paused'");
    assert_eq!(browser.text("#notice-title"), "The stream is paused");
    assert_eq!(browser.text("#third-sub"), "before the stream was paused");

    // The last stream is removed: the page looks as it did before the first one.
    arena.set_state(StreamState::Removed);
    studio.hub.remove_stream("arena-north");
    browser.wait(
        "the empty page",
        "return document.getElementById('notice-title').textContent === 'No streams are running'",
    );
    assert_eq!(browser.run("return document.getElementById('third').hidden"), true);
    assert_eq!(browser.run("return document.title"), "Touchline");
    browser.screenshot(&screenshots().join("nobody.png"));

    let again = add(&studio.hub, "court-1", "testsrc://");
    again.set_state(StreamState::Playing);
    feed(&again, &studio.clock, &[Shot::On("soccer", 0.9); 20]);
    browser.wait("the new stream", "return document.getElementById('third-title').textContent === 'Soccer'");
    assert_eq!(browser.text("#stream-id"), "court-1");
    assert_eq!(browser.run("return window.untouched"), true, "the page was loaded again");
    // The browser may log the end of the stream of pictures.
    let own: Vec<_> = browser.console().into_iter().filter(|l| !l.contains("ERR_") && !l.contains("404")).collect();
    assert_eq!(own, Vec::<String>::new());
}

#[test]
fn a_new_pack_is_shown_without_a_reload() {
    let Some((_one, browser)) = browser() else { return };
    let mut studio = Studio::open();
    open(&browser, &studio);
    browser.run("window.untouched = true");
    assert!(browser.text("#build").contains("pack compact · 26 classes · weights 3f7a9c52d1e8 · table 9d01c7aa40be"));
    let mut other = stamp();
    other.name = "final-week".into();
    let other = Arc::new(other);
    studio.hub.set_pack(other.clone(), vec![Modality::Rgb]);
    studio.script.pack = other;
    studio.shot(Shot::On("tennis", 0.9));
    browser.wait("the pack", "return document.getElementById('build').textContent.includes('pack final-week')");
    assert_eq!(browser.text("#spoken"), "Pack final-week is in use");
    assert_eq!(browser.run("return window.untouched"), true, "the page was loaded again");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn class_colours_are_distinct_and_have_enough_contrast() {
    let Some((_one, browser)) = browser() else { return };
    let (hub, _) = new_hub();
    let server = Server::start(hub);
    browser.go(&server.url);
    let script = "return (async () => {
        const { colourOf } = await import('/assets/colours.js');
        const { classes } = await (await fetch('/api/v1/info')).json();
        const linear = (v) => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const luminance = (hex) => [1, 3, 5].map((i) => linear(parseInt(hex.slice(i, i + 2), 16)))
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const contrast = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort(); return (y + 0.05) / (x + 0.05); };
        const bad = [];
        for (const [theme, card] of [['light', '#ffffff'], ['dark', '#14191f']]) {
            const fills = classes.map((c) => colourOf(c.id, theme));
            if (new Set(fills.map((f) => f.fill)).size !== classes.length) bad.push(theme + ': two classes share a colour');
            fills.forEach((f, i) => {
                if (contrast(f.fill, card) < 3) bad.push(`${theme} ${classes[i].id} on the card ${contrast(f.fill, card)}`);
                if (contrast(f.fill, f.ink) < 4.5) bad.push(`${theme} ${classes[i].id} text ${contrast(f.fill, f.ink)}`);
            });
        }
        return bad;
    })()";
    assert_eq!(browser.run(script), serde_json::json!([]));
}
