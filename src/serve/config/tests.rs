use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::control::streams::{NewStream, StreamPatch};

fn stream(id: Option<&str>, uri: &str) -> StreamFile {
    StreamFile { id: id.map(Into::into), uri: uri.into(), ..StreamFile::default() }
}

#[test]
fn derived_ids_are_readable_unique_and_without_secrets() {
    let settings = streams(vec![
        stream(None, "/media/Final set.mp4"),
        stream(None, "rtmp://ingest.example/app/STREAMKEY"),
        stream(None, "rtsp://bob:secret@cam.example:554/live"),
        stream(None, "rtsp://cam.example:554/other"),
        stream(Some("court-1"), "testsrc://"),
        stream(None, "testsrc://?audio=0"),
    ])
    .unwrap();
    let ids: Vec<&str> = settings.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["Final-set", "ingest.example", "cam.example-554", "cam.example-554-2", "court-1", "test"]);
    let twice = streams(vec![stream(Some("a"), "x"), stream(Some("a"), "y")]).unwrap_err();
    assert!(twice.to_string().contains("twice"));
    assert!(streams(vec![stream(Some("a b"), "x")]).unwrap_err().to_string().contains("a b"));
}

#[test]
fn each_stream_belongs_to_exactly_one_shard() {
    let shards: Vec<Shard> = (0..3).map(|i| format!("{i}/3").parse().unwrap()).collect();
    let mut shares = [0; 3];
    for n in 0..300 {
        let id = format!("court-{n}");
        let owners: Vec<usize> = (0..3).filter(|i| shards[*i].takes(&id)).collect();
        assert_eq!(owners.len(), 1, "{id}: {owners:?}");
        shares[owners[0]] += 1;
    }
    assert!(shares.iter().all(|share| *share > 60), "{shares:?}");
    // `printf court-1 | sha256sum` begins 31dc795a357f480f, which is odd. Other programs can compute the same shard.
    let (first, second): (Shard, Shard) = ("0/2".parse().unwrap(), "1/2".parse().unwrap());
    assert!(!first.takes("court-1") && second.takes("court-1"));
    for bad in ["", "1", "2/2", "0/0", "-1/2", "a/b", "1/2/3"] {
        assert!(bad.parse::<Shard>().unwrap_err().contains("0/2"), "{bad}");
    }
}

#[test]
fn only_source_settings_require_reopening() {
    let one = streams(vec![stream(Some("a"), "rtsp://h/a")]).unwrap().remove(0);
    let voted = StreamSettings { vote: VoteFile { window: Some(3), ..VoteFile::default() }, ..one.clone() };
    let named = StreamSettings { label: Some("Court".into()), group: Some("A".into()), enabled: false, ..one.clone() };
    assert!(!voted.needs_reopening(&one) && !named.needs_reopening(&one));
    assert!(StreamSettings { latency_ms: 300, ..one.clone() }.needs_reopening(&one));
    let isolated = StreamSettings { isolation: Some(Isolation::Process), ..one.clone() };
    assert!(isolated.needs_reopening(&one));
    assert_eq!((one.isolation(false), one.isolation(true)), (Isolation::None, Isolation::Process));
    assert_eq!((isolated.isolation(false), isolated.isolation(true)), (Isolation::Process, Isolation::Process));
    assert!(!format!("{:?}", StreamSettings { uri: "rtsp://a:pw@h/x".into(), ..one }).contains("pw"));
}

/// The settings of a file, overridden by variables and flags.
fn resolved(text: &str, environment: &[(&str, Value)], flags: &[(&str, Value)]) -> Result<Settings, Vec<String>> {
    let layer = |values: &[(&str, Value)], place: fn(String) -> ValueOrigin| -> Layer {
        let entry = |(key, value): &(&str, Value)| {
            ((*key).to_owned(), Entry { value: value.clone(), place: place((*key).to_owned()) })
        };
        values.iter().map(entry).collect()
    };
    let sources = SettingSources {
        file: ConfigFile::parse(text, "t.toml"),
        environment: layer(environment, ValueOrigin::Environment),
        flags: layer(flags, ValueOrigin::Flag),
        ..SettingSources::default()
    };
    resolve(sources).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn flags_override_the_environment_the_file_and_the_defaults() {
    let file = "max_streams = 2\njsonl = \"file\"\nretry = true\nadaptive = true\n";
    let settings = resolved(
        file,
        &[("max_streams", json!(3)), ("jsonl", json!("variable")), ("retry", json!(false))],
        &[("max_streams", json!(4))],
    )
    .unwrap();
    assert_eq!((settings.max_streams.get(), settings.jsonl.as_deref()), (4, Some("variable")));
    assert_eq!((settings.retry, settings.adaptive, settings.linger), (false, true, false));
    let place = |key: &str| settings.values[key].place.to_string();
    assert_eq!(
        ["max_streams", "jsonl", "adaptive", "linger"].map(place),
        ["max_streams", "jsonl", "t.toml:4", "default"]
    );
    assert_eq!((settings.listen.to_string(), settings.latency_ms.get()), ("127.0.0.1:8080".to_owned(), 200));
}

#[test]
fn a_stream_inherits_settings_of_the_run_and_flags_override_them() {
    let file = "latency_ms = 300\nmax_height = 720\n[[stream]]\nuri = \"rtsp://h/a\"\nlatency_ms = 400\n\
                [[stream]]\nuri = \"rtsp://h/b\"\n";
    let latencies_and_heights = |settings: &Settings| -> Vec<(u32, Option<u32>)> {
        settings.streams.iter().map(|s| (s.settings.latency_ms, s.settings.hls.max_height)).collect()
    };
    assert_eq!(latencies_and_heights(&resolved(file, &[], &[]).unwrap()), [(400, Some(720)), (300, Some(720))]);
    let overridden = resolved(file, &[("max_height", json!(360))], &[("latency_ms", json!(0))]).unwrap();
    assert_eq!(latencies_and_heights(&overridden), [(0, Some(360)), (0, Some(360))]);
    assert_eq!(resolved("[[stream]]\nuri = \"a\"\n", &[], &[]).unwrap().streams[0].settings.isolation, None);
}

#[test]
fn conflicts_between_keys_are_reported_with_their_lines() {
    let text = "[tls]\ncert = \"x\"\n[vote]\noffset = 0.9\n[[stream]]\nid = \"a\"\nuri = \"x\"\n[[stream]]\nid = \"a\"\n\
                uri = \"y\"\nlabel = \"\"\nvote = { window = 0 }\n[[stream]]\nid = \"b c\"\nuri = \"z\"\ngroup = \"a,b\"\n";
    let problems = resolved(text, &[], &[]).unwrap_err();
    let expected = [
        ("t.toml:4: vote: ", "0.9"),
        ("t.toml:2: tls: ", "key"),
        ("t.toml:9: id: ", "twice"),
        ("t.toml:11: label: ", "120"),
        ("t.toml:12: vote: ", "1 to 600"),
        ("t.toml:14: id: ", "b c"),
        ("t.toml:16: group: ", "commas"),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, (place, word)) in problems.iter().zip(expected) {
        assert!(problem.starts_with(place) && problem.contains(word), "{problem}");
    }
    let zone = resolved("time_zone = \"Europe London\"\n", &[], &[]).unwrap_err();
    assert!(zone.len() == 1 && zone[0].starts_with("t.toml:1: time_zone: ") && zone[0].contains("UTC"), "{zone:?}");
    let zone = resolved("", &[], &[("time_zone", json!("Europe/London"))]).unwrap().time_zone;
    assert_eq!(zone.as_deref(), Some("Europe/London"));
    let flag = resolved("[vote]\nwindow = 5\n", &[], &[("vote.stride", json!(7))]).unwrap_err();
    assert!(flag[0].starts_with("vote.stride: "), "{flag:?}");
}

#[test]
fn problems_of_a_start_are_found_before_it() {
    let text = "max_streams = 1\n[sources]\nschemes = [\"gopher\"]\n[[stream]]\nuri = \"rtsp://u:secretpw@h/a\"\n\
                [[stream]]\nuri = \"gopher://u:secretpw@h\"\n";
    let problems: Vec<String> =
        resolved(text, &[], &[]).unwrap().problems_at_start().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    for (problem, place) in problems.iter().zip(["t.toml:7: uri: ", "t.toml:3: sources: ", "t.toml:1: max_streams: "]) {
        assert!(problem.starts_with(place) && !problem.contains("secretpw"), "{problem}");
    }
}

#[test]
fn the_shipped_configurations_are_valid() {
    for name in ["container", "systemd", "kubernetes/base"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name).join("touchline.toml");
        let file = ConfigFile::read(&path).unwrap();
        let settings =
            resolve(SettingSources { file, ..SettingSources::default() }).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(settings.problems_at_start(), [], "{name}");
    }
}

#[test]
fn the_error_names_the_first_problem_and_counts_the_others() {
    let problem =
        |text: &str| Problem { place: ValueOrigin::Flag("--x".into()), key: String::new(), text: text.into() };
    assert_eq!(refused(&[problem("bad")]).to_string(), "--x: bad");
    assert!(refused(&[problem("bad"), problem("worse")]).to_string().contains("--x: bad (and 1 more; "));
}

#[test]
fn fixed_keys_are_distinguished_from_reloadable_keys() {
    let fixed = resolved("retry = true\nadaptive = true\n[vote]\nwindow = 5\n", &[], &[]).unwrap().fixed();
    assert_eq!(fixed["adaptive"], "true");
    assert!(fixed.contains_key("listen") && !fixed.contains_key("vote.window") && !fixed.contains_key("retry"));
}

#[test]
fn the_schema_has_every_default_and_bound() {
    let schema = schema();
    let properties = &schema["properties"];
    assert_eq!(
        (&properties["max_streams"]["minimum"], &properties["max_streams"]["maximum"]),
        (&json!(1), &json!(4096))
    );
    assert_eq!(properties["max_streams"]["default"], 64);
    assert_eq!(properties["vote"]["properties"]["onset"]["default"], json!(0.6));
    assert_eq!(properties["rtsp_transport"]["default"], "auto");
    assert_eq!(properties["stream"]["items"]["required"], json!(["uri"]));
    let sink = &properties["sink"]["items"]["properties"];
    assert_eq!((&sink["spool_max_mb"]["default"], &sink["timeout_s"]["default"]), (&json!(256), &json!(10)));
    assert_eq!(properties["stream"]["items"]["properties"]["latency_ms"]["maximum"], 60_000);
    let text = schema.to_string();
    assert!(!text.contains("null") && !text.contains("$ref"), "{text}");
}

/// Each key of `schema`, with its type and bounds.
fn bounds_of(schema: &Value, prefix: &str, found: &mut BTreeMap<String, Value>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        if property["properties"].is_object() {
            bounds_of(property, &format!("{path}."), found);
        } else {
            let mut bounds = property.clone();
            bounds.as_object_mut().unwrap().retain(|name, _| name != "description" && name != "default");
            found.insert(path, bounds);
        }
    }
}

#[test]
fn a_key_has_the_same_bounds_for_the_run_for_a_stream_and_in_the_api() {
    let bounds = |schema: &Value| {
        let mut found = BTreeMap::new();
        bounds_of(schema, "", &mut found);
        found
    };
    let schema = schema();
    let stream = bounds(&schema["properties"]["stream"]["items"]);
    for (source, other, shared) in [
        ("run", bounds(&schema), 17),
        // Neither has files: pipeline, output and schedule.
        ("POST", bounds(&raw::plain_schema::<NewStream>()), stream.len() - 3),
        ("PATCH", bounds(&raw::plain_schema::<StreamPatch>()), stream.len() - 4),
    ] {
        let both: Vec<&String> = stream.keys().filter(|key| other.contains_key(*key)).collect();
        assert_eq!(both.len(), shared, "{source}: {both:?}");
        // The API limits the length of a URI as well.
        for key in both.into_iter().filter(|key| *key != "uri") {
            assert_eq!(stream[key], other[key], "{source}: {key}");
        }
    }
}

#[test]
fn numbers_out_of_bounds_are_refused_in_every_source() {
    let mut bounds = BTreeMap::new();
    bounds_of(&schema(), "", &mut bounds);
    bounds.retain(|_, bounds| bounds["maximum"].is_number());
    for key in ["latency_ms", "max_height", "signal.freeze_db", "vote.window"] {
        assert!(bounds.contains_key(key), "{key}");
    }
    for (path, bounds) in bounds {
        let is_whole = bounds["type"] == "integer";
        let step = if is_whole { 1.0 } else { 0.1 };
        let (least, most) = (bounds["minimum"].as_f64().unwrap(), bounds["maximum"].as_f64().unwrap());
        for (number, fits) in [(least - step, false), (least, true), (most, true), (most + step, false)] {
            // Other keys of the vote and of the recording limit them more.
            if fits && (path.starts_with("vote.") || path.starts_with("record.")) {
                continue;
            }
            let value = if is_whole { json!(number as i64) } else { json!(number) };
            let variable = RUN_KEYS.find(&path).unwrap().variable();
            let (layer, problems) = environment(|name| (name == variable).then(|| value.to_string().into()), |_| true);
            let from_environment =
                resolve(SettingSources { environment: layer, problems, ..SettingSources::default() });
            for (source, settings) in [
                ("file", resolved(&format!("{path} = {value}\n"), &[], &[]).is_ok()),
                ("environment", from_environment.is_ok()),
                ("flags", resolved("", &[], &[(&path, value.clone())]).is_ok()),
            ] {
                assert_eq!(settings, fits, "{source}: {path} = {value}");
            }
        }
    }
}

#[test]
fn each_key_has_its_own_flag_and_variable() {
    let flags: HashSet<String> = RUN_KEYS.keys.iter().map(Key::flag).collect();
    let variables: HashSet<String> = RUN_KEYS.keys.iter().map(Key::variable).collect();
    assert_eq!((flags.len(), variables.len()), (RUN_KEYS.keys.len(), RUN_KEYS.keys.len()));
    for secret in ["TOUCHLINE_ADMIN_TOKEN", "TOUCHLINE_READ_TOKEN"] {
        assert!(!variables.contains(secret), "{secret} contains a token and must not be a key");
    }
}

#[test]
fn invalid_addresses_are_explained() {
    assert!("8080".parse::<Listen>().unwrap_err().contains("127.0.0.1:8080"));
    assert_eq!(("[::1]:80".parse::<Listen>().is_ok(), "off".parse::<Listen>()), (true, Ok(Listen::Off)));
}

#[test]
fn labels_and_groups_show_what_they_contain() {
    for text in ["Court \u{202e}1", "a\u{200b}b", "a\u{2066}b", "a\nb", "\u{feff}a"] {
        assert!(stream_label(text).is_err() && stream_group(text).is_err(), "{text:?}");
    }
    for text in ["Fußball – 決勝", "👩\u{200d}🏫 1"] {
        assert!(stream_label(text).is_ok() && stream_group(text).is_ok(), "{text:?}");
    }
}
