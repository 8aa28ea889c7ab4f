//! `touchline demo`: drawn channels on the page, classified by the shipped pack.

use std::process::{Command, Stdio};

use crate::common::api::{ask, wait_until_ready};
use crate::common::free_tcp_port;
use crate::common::program::touchline;
use crate::common::wait::until_some;

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
    // The first scene of the channels is tennis and soccer, and at least the tennis court is beyond doubt.
    assert!(notice.contains("draws these scenes itself") && !notice.contains(" 0 of "), "{notice}");
    let streams = ask(&address, "GET", "/api/v1/streams", None, &[]).body;
    assert_eq!(streams["streams"].as_array().unwrap().len(), 2, "{streams}");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(&address) && said.contains("decided Tennis: right") && said.contains("touchline run rtsp"),
        "{said}"
    );
}
