//! Teaching from the page: a stream that is labelled wrong, corrections in Chromium, a pack that learns from them beside the stream,
//! the shadow, the swap, and the way back.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::api::{ask, wait_until_ready};
use crate::common::live::Live;
use crate::common::program::touchline;
use crate::common::training::{CLASSES, first_weights, make_stills, run};
use crate::common::wait::until;
use crate::common::webdriver::Browser;
use crate::common::{Fixtures, alone};

/// Yellow that moves: no class of the pack looks like it, and blue least of all.
const STRANGE: &str = "-f lavfi -i testsrc2=size=160x120:rate=25:duration=8 \
    -vf hue=s=0,colorchannelmixer=rr=1:rg=0:rb=0:gg=0.9:gr=0:gb=0:bb=0.1:br=0:bg=0 \
    -c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 25 -bf 0";

/// A pack of three classes that differ in colour, in `DIR/packs/first`.
fn first_pack(dir: &Path) -> PathBuf {
    (0..3).for_each(|class| make_stills(&dir.join("stills"), class, 24));
    run(dir, "dataset build stills -o set").well();
    run(dir, "dataset split set").well();
    run(dir, &format!("train rgb set -o trained --init {} --unfreeze 0 --still-views 0", first_weights())).well();
    run(dir, "pack build trained --dataset set -o packs/first --name first").well();
    dir.join("packs/first")
}

/// The class of the newest decision, and the number of its second.
fn newest(live: &Live) -> (String, u64) {
    let last = ask(&live.address, "GET", "/api/v1/streams/court", None, &[]).body["last"].clone();
    (last["label"].as_str().unwrap_or_default().to_owned(), last["index"].as_u64().unwrap_or(0))
}

fn learning(live: &Live) -> Value {
    ask(&live.address, "GET", "/api/v1/learn", None, &[]).body
}

#[test]
fn corrections_on_the_page_make_a_better_pack() {
    let Some(browser) = Browser::start() else { return };
    let fixtures = Fixtures::new();
    let dir = fixtures.path();
    first_pack(dir);
    let piece = fixtures.make("piece.mp4", STRANGE);
    let clip = fixtures.make("clip.mp4", &format!("-stream_loop 40 -i {} -c copy", piece.display()));
    let _one = alone();
    let arguments = [
        format!("court={}", clip.display()),
        "--realtime".into(),
        "--pack=packs/first".into(),
        "--teach-dir=corrections".into(),
        "--vote-window=2".into(),
        "--vote-onset=0.3".into(),
        "--vote-offset=0.2".into(),
    ];
    let mut command = touchline();
    command.current_dir(dir);
    let live = Live::start_by(command, dir, "127.0.0.1", &arguments);
    wait_until_ready(&live.address);
    let page = |path: &str| browser.go(&format!("http://{}/{path}", live.address));
    page("?stream=court");
    browser.wait("a decision", "return document.getElementById('third-title').textContent !== ''");
    // What is yellow is taken for red or green.
    let right = CLASSES[2];
    assert_ne!(newest(&live).0, right);

    let click = |id: &str| {
        browser
            .wait(id, &format!("const b = document.getElementById('{id}'); return b.checkVisibility() && !b.disabled"));
        browser.run(&format!("document.getElementById('{id}').click()"));
    };

    // What the pack says is wrong. Two corrections, so that each can be held out.
    let mut from = 0;
    for count in 1..=2 {
        until("five more seconds", || newest(&live).1 >= from + 5);
        from = newest(&live).1;
        let answer = || {
            click("correct-now");
            browser.wait("the question", "return document.querySelector('.correct').checkVisibility()");
            browser.run(&format!(
                "const field = document.getElementById('stream-class'); field.value = '{right}';
                 field.dispatchEvent(new Event('input', {{ bubbles: true }})); field.form.requestSubmit();"
            ));
        };
        answer();
        until("the correction", || {
            let is_made = learning(&live)["corrections"] == count;
            // A page that is behind asks for seconds of the correction before.
            if !is_made && browser.run("return document.querySelector('.correct .wrong') !== null") == true {
                answer();
            }
            is_made
        });
    }
    // The browser logs refusals and pictures that have left the memory.
    let own = || -> Vec<String> {
        browser.console().into_iter().filter(|line| !["ERR_", "409", "404"].iter().any(|e| line.contains(e))).collect()
    };
    assert_eq!(own(), Vec::<String>::new());
    // Other programs read the folder as it is.
    let stats = run(dir, "dataset build corrections -o cut").well();
    assert!(stats.contains('2'), "{stats}");

    page("teach");
    let stage = |name: &str| {
        browser.wait(
            name,
            &format!("return ['{name}', 'failed'].includes(document.getElementById('learn').dataset.stage)"),
        );
        let learning = learning(&live);
        assert_eq!(learning["stage"], name, "{learning:#}");
        learning
    };
    click("learn-start");
    let learned = stage("compared");
    let report = &learned["report"]["channel"];
    assert!(report["before"] == 0.0 && report["after"].as_f64() > Some(0.9), "{learned:#}");
    assert!(dir.join("packs/first-taught-1/pack.toml").is_file());
    browser.wait(
        "a comparison",
        "return document.getElementById('learn-shadow').textContent.startsWith('Same decision in 0 %')",
    );
    assert_ne!(newest(&live).0, right, "the shadow changes no decision");
    click("learn-swap");
    stage("in-use");
    let title = |title: &str, is_shown: bool| {
        let shown = "document.getElementById('third-title').textContent";
        browser.wait(title, &format!("return {shown} !== '' && ({shown} === '{title}') === {is_shown}"));
    };
    page("?stream=court");
    title("Tennis", true);
    page("teach");
    click("learn-back");
    stage("rolled-back");
    page("?stream=court");
    title("Tennis", false);
    assert_eq!(own(), Vec::<String>::new());
    assert_eq!(live.stop(), 0);
}
