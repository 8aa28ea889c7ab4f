//! WCAG 2.2, levels A and AA, as axe-core (<https://github.com/dequelabs/axe-core>) checks it, on every view of the page.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::desk::{Desk, MISSING, PLAYS};
use crate::manage::{click, dialog, enter, test_address};
use crate::page::{browser, rest};
use crate::past::Afternoon;
use crate::skip::{Lacks, skip};
use crate::studio::Studio;
use crate::support::Shot;
use crate::teach::{School, well};
use crate::wall::{WallServer, open, pictures};
use crate::webdriver::Browser;
use touchline_core::clip::GapReason;
use touchline_serve::http::access::{AccessConfig, TokenSource};

/// axe-core, as a Python package of `deploy/test.sh` contains it.
fn axe() -> Option<String> {
    let python = std::env::var_os("TOUCHLINE_TEST_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-python/bin/python"),
        PathBuf::from,
    );
    let find =
        "from importlib.util import find_spec as f; print(f('axe_playwright_python').submodule_search_locations[0])";
    let found = Command::new(python).args(["-c", find]).output().ok().filter(|output| output.status.success());
    let Some(found) = found else {
        skip(Lacks::Tool, "no axe-core (tests/requirements-bare.txt); deploy/test.sh installs it");
        return None;
    };
    let folder = String::from_utf8(found.stdout).unwrap();
    Some(std::fs::read_to_string(Path::new(folder.trim()).join("axe.min.js")).unwrap())
}

/// The rules that the page violates, each with the elements.
fn violations(browser: &Browser, axe: &str) -> serde_json::Value {
    browser.run(axe);
    browser.run(
        "return axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }).then(({ violations, passes }) =>
             passes.length < 10 ? 'axe checked nothing' : violations.map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])]))",
    )
}

fn check(browser: &Browser, axe: &str, view: &str) {
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        browser.wait("the theme", &format!("return matchMedia('(prefers-color-scheme: {scheme})').matches"));
        rest(browser);
        assert_eq!(violations(browser, axe), serde_json::json!([]), "{view}, {scheme}");
    }
}

#[test]
fn every_view_passes_axe() {
    let Some(axe) = axe() else { return };
    let Some((_one, browser)) = browser() else { return };
    let wall = WallServer::open(8);
    open(&browser, wall.url(), 8);
    pictures(&browser);
    wall.down(2);
    wall.bars(3);
    wall.show(4, &[Shot::On("golf", 0.15); 3]);
    wall.show(5, &[Shot::Gap(GapReason::Overload); 5]);
    browser.wait("the problems", "return document.title === '3 problems – Touchline'");
    check(&browser, &axe, "the wall");
    browser.resize(390, 844, true);
    check(&browser, &axe, "the wall on a phone");
    browser.resize(1280, 800, false);
    browser.go(&format!("{}/?state=off", wall.url()));
    browser.wait("nothing to show", "return !document.getElementById('nobody').hidden");
    check(&browser, &axe, "a wall without tiles");

    let studio = Studio::open();
    browser.go(&format!("{}/?stream=court-1", studio.server.url));
    browser.wait("the stream", "return document.getElementById('third-title').textContent === 'Tennis'");
    check(&browser, &axe, "a stream");
    let token = TokenSource::Environment { name: "T", text: "reader-0123456789abcdef".into() };
    let access = AccessConfig { read_token: Some(token), ..AccessConfig::default() };
    let server = crate::support::Server::start_with(studio.hub.clone(), access, None, Default::default());
    browser.go(&server.url);
    browser.wait("the login", "return document.getElementById('login') !== null");
    check(&browser, &axe, "the login");
}

#[test]
fn the_dialogs_pass_axe() {
    let Some(axe) = axe() else { return };
    let Some((_one, browser)) = browser() else { return };
    let desk = Desk::open(AccessConfig::default());
    browser.go(&desk.server.url);
    click(&browser, "nobody-add");
    browser.run("document.getElementById('editor-details').open = true");
    check(&browser, &axe, "the dialog of a new stream");
    enter(&browser, "uri", MISSING);
    test_address(&browser, "The test failed");
    check(&browser, &axe, "a failed test");
    enter(&browser, "uri", PLAYS);
    test_address(&browser, "The address works");
    enter(&browser, "vote-onset", "7");
    click(&browser, "editor-save");
    browser.wait("the error", "return document.querySelector('[aria-invalid=true]') !== null");
    browser.run("document.getElementById('editor-login').hidden = false");
    check(&browser, &axe, "a test, an error at a field, and the login");
    browser.resize(390, 844, true);
    check(&browser, &axe, "the dialog on a phone");
    enter(&browser, "vote-onset", "");
    click(&browser, "editor-save");
    browser.wait("the tile", "return document.querySelectorAll('.tile').length === 1");
    check(&browser, &axe, "the wall of one stream on a phone");
    browser.resize(1280, 800, false);
    browser.run("document.querySelector('.tile a').click()");
    click(&browser, "pause");
    browser.wait("the pause", "return document.getElementById('pause').textContent === 'Resume'");
    check(&browser, &axe, "a stream that can be changed");
    click(&browser, "remove");
    dialog(&browser, true);
    check(&browser, &axe, "the question before a stream is removed");
}

#[test]
fn the_history_passes_axe() {
    let Some(axe) = axe() else { return };
    let Some((_one, browser)) = browser() else { return };
    let afternoon = Afternoon::open();
    browser.go(&format!("{}/history?span=3600", afternoon.server.url));
    browser.wait("the segments", "return document.querySelectorAll('#list li button').length > 3");
    browser.wait("the sums", "return document.querySelectorAll('#sums tbody tr').length === 2");
    check(&browser, &axe, "the history");
    browser.run("document.querySelector('#list li button').click()");
    browser.wait("the details", "return document.querySelector('#detail-body dl') !== null");
    check(&browser, &axe, "a segment");
    browser.resize(390, 844, true);
    check(&browser, &axe, "the history on a phone");
    browser.run("document.querySelector('[data-by=class]').click()");
    check(&browser, &axe, "hours by sport");
}

#[test]
fn teaching_passes_axe() {
    let Some(axe) = axe() else { return };
    let Some((_one, browser)) = browser() else { return };
    let mut school = School::open(AccessConfig::default(), &well());
    browser.go(&format!("{}/teach", school.server.url));
    browser.wait("the page", "return document.getElementById('learn-pack').textContent !== ''");
    check(&browser, &axe, "no question");
    school.hold(&[0.3; 40]);
    browser.wait("a question", "return document.querySelectorAll('#next li').length === 3");
    check(&browser, &axe, "a question");
    click(&browser, "confirm");
    browser.wait("the correction", "return document.querySelectorAll('#kept li').length === 1");
    click(&browser, "learn-start");
    browser.wait("the figures", "return document.querySelectorAll('#learn-rows tr').length === 3");
    check(&browser, &axe, "a pack that has learned");
    browser.resize(390, 844, true);
    check(&browser, &axe, "teaching on a phone");
    browser.resize(1280, 800, false);
    browser.go(&format!("{}/?stream=court-1", school.server.url));
    click(&browser, "correct-now");
    browser.wait("the form", "return document.querySelector('.correct').checkVisibility()");
    check(&browser, &axe, "corrections on the page of a stream");
}
