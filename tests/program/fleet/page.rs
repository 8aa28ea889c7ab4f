//! The page of a machine shows the streams of all machines, in a browser.

use serde_json::{Value, json};

use super::FleetBench;
use crate::common::alone;
use crate::common::webdriver::Browser;

#[test]
fn each_machine_shows_the_streams_of_all_and_leads_to_their_pages() {
    let _alone = alone();
    let Some(browser) = Browser::start() else { return };
    let Some(bench) = FleetBench::start(&["a", "b"]) else { return };
    bench.add(&["one", "two"]);
    bench.wait_for_seconds(&["one", "two"], 3);
    let (owner, epoch) = bench.owner("one").unwrap();
    let other = if owner == "a" { "b" } else { "a" };
    // Both on one machine, so that the other has none of its own.
    if bench.owner("two").unwrap().0 != owner {
        bench.stream(&["move", "two", &owner]);
        crate::common::wait::until("the move", || bench.owner("two").is_some_and(|(node, _)| node == owner));
    }
    browser.go(&format!("http://{}/", bench.nodes[other].address));
    let tiles = "return [...document.querySelectorAll('.tile')].map((tile) => [tile.dataset.id, tile.querySelector('.node').textContent, tile.querySelector('a').href, tile.dataset.kind]).sort()";
    let shows = |ready: &str| {
        browser.wait(ready, &format!("const tiles = (() => {{ {tiles} }})(); return {ready} ? tiles : null"))
    };
    let decided = "tiles.length === 2 && tiles.every(([, , , kind]) => ['on-air', 'not-sure'].includes(kind))";
    let expected = |id: &str, kind: &Value| {
        json!([id, format!("on {owner}, no picture here"), format!("http://{owner}.example/?stream={id}"), kind])
    };
    let shown = shows(decided);
    assert_eq!(shown[0], expected("one", &shown[0][3]));
    assert_eq!(shown[1], expected("two", &shown[1][3]));
    // The answer of each second arrives.
    let second = |index: u64| {
        let overview = bench.nodes[other].get("/api/v1/overview?fleet=true");
        let overview: Value = serde_json::from_str(&overview).unwrap();
        let rows = overview["elsewhere"].as_array().unwrap().clone();
        rows.iter().any(|row| row["id"] == "one" && row["estimate"]["index"].as_u64() > Some(index))
    };
    crate::common::wait::until("later seconds", || second(5));
    let own: Value = serde_json::from_str(&bench.nodes[other].get("/api/v1/overview")).unwrap();
    assert_eq!(
        (&own["streams"], own.get("elsewhere")),
        (&json!([]), None),
        "streams of other machines are listed only with fleet=true"
    );
    let refused = crate::common::api::ask(&bench.nodes[other].address, "GET", "/api/v1/streams/one", None, &[]);
    assert_eq!(refused.status, 404);
    assert!(refused.text.contains(&format!("http://{owner}.example/")), "{refused:?}");
    // It moves here, and the tile has its page and its picture here.
    bench.stream(&["move", "one", other]);
    crate::common::wait::until("the move", || {
        bench.owner("one").is_some_and(|(node, now)| node == other && now > epoch)
    });
    let here = format!("{decided} && tiles[0][1] === 'on {other}' && !tiles[0][2].includes('.example')");
    let shown = shows(&here);
    assert_eq!(shown[1], expected("two", &shown[1][3]));
    browser.wait("its picture", "return document.querySelector('.tile[data-id=one][data-picture=there]') !== null");
    // And away again.
    bench.stream(&["move", "one", &owner]);
    let shown = shows(&format!("{decided} && tiles[0][1].startsWith('on {owner},')"));
    assert_eq!(shown[0], expected("one", &shown[0][3]));
    assert_eq!(browser.console(), Vec::<String>::new());
    if let Some(path) = std::env::var_os("TOUCHLINE_SCREENSHOTS") {
        browser.screenshot(&std::path::Path::new(&path).join("fleet.png"));
    }
}
