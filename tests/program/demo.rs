//! `touchline demo`: drawn channels on the page, classified by the shipped pack.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::common::api::{ask, wait_until_ready};
use crate::common::free_tcp_port;
use crate::common::program::touchline;
use crate::common::wait::until_some;
use crate::common::webdriver::Browser;

#[test]
fn drawn_scenes_are_decided_and_counted_on_the_page() {
    let _one = crate::common::alone();
    let address = format!("127.0.0.1:{}", free_tcp_port());
    let child =
        touchline().args(["demo", "--listen", &address]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    wait_until_ready(&address);
    let notice = until_some("the end of the first scene", || {
        let info = ask(&address, "GET", "/api/v1/info", None, &[]).body;
        info["notice"].as_str().filter(|text| text.contains("scenes were classified correctly")).map(str::to_owned)
    });
    // Whether the decision is right is not asked here: a machine with other work may drop seconds.
    assert!(notice.contains("draws these scenes itself"), "{notice}");
    let streams = ask(&address, "GET", "/api/v1/streams", None, &[]).body;
    assert_eq!(streams["streams"].as_array().unwrap().len(), 2, "{streams}");
    look(&address, &notice);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(&address) && said.contains("drawn Tennis, classified as ") && said.contains("touchline run rtsp"),
        "{said}"
    );
}

/// Screenshots of the wall and of a stream, in the folder that `TOUCHLINE_SCREENSHOTS` names, or in the target folder.
fn look(address: &str, notice: &str) {
    let Some(browser) = Browser::start() else { return };
    let folder = std::env::var_os("TOUCHLINE_SCREENSHOTS")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("screenshots"), PathBuf::from);
    std::fs::create_dir_all(&folder).unwrap();
    browser.resize(1280, 800, false);
    browser.go(&format!("http://{address}/"));
    let shown = browser.wait("the notice", "return document.querySelector('.remark')?.textContent ?? false");
    assert!(shown.as_str().unwrap().starts_with(&notice[..40]), "{shown}");
    let pictures = "return document.querySelectorAll('.tile[data-picture=there]').length >= 2";
    browser.wait("pictures of both channels", pictures);
    browser.screenshot(&folder.join("demo-wall.png"));
    browser.go(&format!("http://{address}/?stream=drawn-1"));
    browser.wait("the picture", "return document.getElementById('picture').naturalWidth > 0");
    browser.wait("an answer", "return document.getElementById('third-title')?.textContent !== ''");
    let is_still = "return document.getAnimations().every((a) => a.effect.getTiming().iterations === Infinity)";
    browser.wait("the end of movements", is_still);
    browser.screenshot(&folder.join("demo-stream.png"));
}
