use std::collections::BTreeSet;

use super::*;
use crate::config::{Keys, STREAM_KEYS};

fn new(text: &str) -> NewStream {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_patch_changes_its_keys_and_null_clears_a_value() {
    let stream = new(r#"{"uri": "rtsp://h/a", "label": "A", "retry": false, "vote": {"window": 5, "onset": 0.7}}"#);
    let settings = stream.settings("a".into(), 200);
    assert_eq!((settings.latency_ms, settings.enabled, settings.isolation), (200, true, None));
    let patch = |text: &str| serde_json::from_str::<StreamPatch>(text).unwrap().apply(&settings);
    assert_eq!(patch("{}"), settings);
    assert_eq!(
        patch(r#"{"label": null, "retry": null}"#),
        StreamSettings { label: None, retry: None, ..settings.clone() }
    );
    assert_eq!(patch(r#"{"group": "Arena"}"#).group.as_deref(), Some("Arena"));
    let expecting = patch(r#"{"expect": ["tennis", "studio"], "expect_for_s": 30}"#);
    assert_eq!(
        (expecting.expect.join(" "), expecting.expect_for_s, settings.expect_for_s),
        ("tennis studio".into(), 30, 60)
    );
    let cleared: StreamPatch = serde_json::from_str(r#"{"expect": null}"#).unwrap();
    assert_eq!(cleared.apply(&expecting), StreamSettings { expect: Vec::new(), ..expecting });
    let inside = patch(r#"{"isolation": "none"}"#);
    assert_eq!(inside.isolation, Some(Isolation::None));
    let cleared: StreamPatch = serde_json::from_str(r#"{"isolation": null}"#).unwrap();
    assert_eq!(cleared.apply(&inside), settings);
    let voted = patch(r#"{"vote": {"window": null, "stride": 2}}"#);
    assert_eq!(voted.vote, VoteFile { window: None, stride: Some(2), onset: Some(0.7), offset: None });
    assert_eq!(patch(r#"{"vote": null}"#).vote, VoteFile::default());
    assert!(serde_json::from_str::<StreamPatch>(r#"{"urk": 1}"#).unwrap_err().to_string().contains("urk"));
}

#[test]
fn the_api_has_the_keys_of_the_file() {
    let paths = |keys: &Keys| -> BTreeSet<String> { keys.keys.iter().map(|key| key.path.clone()).collect() };
    let without = |mut paths: BTreeSet<String>, key: &str| {
        assert!(paths.remove(key), "{key}");
        paths
    };
    let new = paths(&Keys::of_type::<NewStream>());
    assert_eq!(new, ["pipeline", "output", "schedule"].into_iter().fold(paths(&STREAM_KEYS), without));
    assert_eq!(paths(&Keys::of_type::<StreamPatch>()), without(new, "id"));
    for key in ["pipeline", "output", "schedule"] {
        let refused = serde_json::from_str::<NewStream>(&format!(r#"{{"uri": "rtsp://h/a", "{key}": "x"}}"#));
        assert!(refused.unwrap_err().to_string().contains(key), "{key}");
    }
}

#[test]
fn invalid_values_are_named() {
    for (text, word) in [
        (r#"{"uri": ""}"#, "uri"),
        (r#"{"uri": "rtsp://h/\u0000"}"#, "uri"),
        (r#"{"uri": "rtsp://h/a", "id": "a/b"}"#, "a/b"),
        (r#"{"uri": "rtsp://h/a", "label": "two\nlines"}"#, "label"),
        (r#"{"uri": "rtsp://h/a", "group": "a,b"}"#, "group"),
    ] {
        let refused = new(text).check().unwrap_err();
        assert!(refused.kind == StreamRefusalKind::Invalid && refused.error.contains(word), "{refused}");
    }
    assert_eq!(new(r#"{"uri": "rtsp://h/a"}"#).check(), Ok(()));
}

#[test]
fn refusals_contain_no_secrets() {
    let stream = new(r#"{"uri": "rtsp://ann:geheim77@h/a"}"#);
    assert!(!format!("{stream:?}").contains("geheim77"));
    let refused =
        StreamRefusal::new(StreamRefusalKind::Source, "rtsp://ann:geheim77@h/a: no", "look at rtsp://ann:geheim77@h/a");
    assert!(!refused.to_string().contains("geheim77"), "{refused}");
}

#[test]
fn the_control_is_bounded_and_refuses_at_shutdown() {
    let (control, requests) = StreamControl::new();
    let remove = || control.submit(StreamChange::Remove { id: "a".into(), generation: None });
    let waiting: Vec<_> = (0..REQUESTS_MAX).map(|_| remove().unwrap()).collect();
    assert_eq!(remove().unwrap_err().kind, StreamRefusalKind::Busy);
    drop((requests, waiting));
    assert_eq!(remove().unwrap_err().kind, StreamRefusalKind::NotReady);
}
