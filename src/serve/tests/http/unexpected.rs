//! Streams that show something unexpected, on the wall and on their page, in headless Chromium.

use crate::page::{browser, rest, screenshots};
use crate::past::{Afternoon, COURT};
use crate::support::Shot;
use crate::wall::{WallServer, ids, open, pictures, tile};
use crate::webdriver::Browser;
use touchline_serve::http::access::AccessConfig;

/// Takes a picture of the page in both themes.
fn in_both_themes(browser: &Browser, name: &str) {
    for theme in ["light", "dark"] {
        browser.prefer(theme);
        browser.wait(theme, &format!("return matchMedia('(prefers-color-scheme: {theme})').matches"));
        rest(browser);
        browser.screenshot(&screenshots().join(format!("{name}-{theme}.png")));
    }
}

#[test]
fn a_stream_with_something_unexpected_is_a_problem_until_it_ends() {
    let Some((_one, browser)) = browser() else { return };
    let wall = WallServer::open(6);
    browser.resize(1920, 1080, false);
    wall.expect(4, &["tennis", "other"]);
    wall.continue_with(4, &[Shot::On("golf", 0.9); 80]);
    open(&browser, wall.url(), 6);
    let flagged =
        |n: u32| format!("return document.querySelector('[data-id=channel-{n}] .flag')?.textContent === 'Unexpected'");
    browser.wait("the flag of the snapshot", &flagged(4));
    // The next one begins while the wall is open.
    wall.expect(6, &["unknown"]);
    wall.continue_with(6, &[Shot::On("soccer", 0.9); 80]);
    browser.wait("the flag of the record", &flagged(6));
    pictures(&browser);
    assert_eq!(ids(&browser)[..3], ["channel-4", "channel-6", "channel-1"], "problems first");
    assert_eq!(browser.text(&tile(4, "strong")), "Golf", "what is on air stays the answer");
    for (n, words) in [
        (4, "Expected Tennis or no known sport, is Golf for 1:"),
        (6, "Expected an unknown programme, is Soccer for 1:"),
    ] {
        let detail = browser.text(&tile(n, ".detail"));
        assert!(detail.starts_with(words), "{detail}");
    }
    assert!(browser.text("#counts").contains("2 unexpected"), "{}", browser.text("#counts"));
    assert_eq!(browser.run("return document.title"), "2 problems – Touchline");
    in_both_themes(&browser, "wall-unexpected");

    browser.go(&format!("{}/?state=unexpected", wall.url()));
    browser.wait("the selection", "return document.querySelectorAll('.tile').length === 2");
    browser.go(&format!("{}/?stream=channel-4", wall.url()));
    let title = "document.getElementById('notice-title').textContent";
    browser
        .wait("the notice", &format!("return {title}.startsWith('Expected Tennis or no known sport, is Golf for 1:')"));
    assert!(browser.text("#notice-text").starts_with("Since "), "{}", browser.text("#notice-text"));
    browser.wait("the picture", "return document.getElementById('stage').dataset.picture === 'there'");
    in_both_themes(&browser, "stream-unexpected");

    wall.continue_with(4, &[Shot::On("tennis", 0.9); 15]);
    browser.wait("the end", "return document.getElementById('notice').hidden");
    browser.go(wall.url());
    browser.wait("the other one", &flagged(6));
    browser.wait("tennis", "return document.querySelector('[data-id=channel-4]').dataset.level === 'calm'");
    wall.continue_with(6, &[Shot::On("soccer", 0.1); 15]);
    browser.wait("an unsure answer", "return document.querySelector('[data-id=channel-6]').dataset.level === 'calm'");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_history_marks_what_was_unexpected() {
    let Some((_one, browser)) = browser() else { return };
    let channels = [("court-1", "Centre court", "tennis", COURT)];
    let afternoon = Afternoon::expecting(AccessConfig::default(), &channels, &["tennis", "unknown"]);
    browser.go(&format!("{}/history?span=3600", afternoon.server.url));
    // Soccer, for 700 and 300 seconds with an outage between them.
    let words = browser.wait(
        "the lane",
        "return document.querySelector('#lanes canvas')?.getAttribute('aria-label')?.match(/Unexpected [0-9]+:[0-9]+/)?.[0] ?? null",
    );
    let minutes: u32 = words.as_str().unwrap()["Unexpected ".len()..].split(':').next().unwrap().parse().unwrap();
    assert!((16..=19).contains(&minutes), "{words}");
    in_both_themes(&browser, "history-unexpected");
    assert_eq!(browser.console(), Vec::<String>::new());
}
