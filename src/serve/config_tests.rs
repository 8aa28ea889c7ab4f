use super::*;

fn stream(id: Option<&str>, uri: &str) -> StreamFile {
    StreamFile { id: id.map(Into::into), uri: uri.into(), ..StreamFile::default() }
}

#[test]
fn a_bad_key_is_named_with_its_line() {
    let error = ConfigFile::parse("listen = \"127.0.0.1:1\"\n\n[vote]\nwindwo = 3\n").unwrap_err();
    assert!(error.starts_with("line 4:") && error.contains("windwo"), "{error}");
    let error = ConfigFile::parse("[[stream]]\nuri = 3\n").unwrap_err();
    assert!(error.starts_with("line 2:") && !error.contains('\n'), "{error}");
    assert!(ConfigFile::parse("[[stream]]\nid = \"a\"\n").unwrap_err().contains("uri"));
}

#[test]
fn ids_are_readable_unique_and_give_nothing_away() {
    let made = streams(vec![
        stream(None, "/media/Final set.mp4"),
        stream(None, "rtmp://ingest.example/app/STREAMKEY"),
        stream(None, "rtsp://bob:secret@cam.example:554/live"),
        stream(None, "rtsp://cam.example:554/other"),
        stream(Some("court-1"), "testsrc://"),
        stream(None, "testsrc://?audio=0"),
    ])
    .unwrap();
    let ids: Vec<&str> = made.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["Final-set", "ingest.example", "cam.example-554", "cam.example-554-2", "court-1", "test"]);
    let twice = streams(vec![stream(Some("a"), "x"), stream(Some("a"), "y")]).unwrap_err();
    assert!(twice.to_string().contains("twice"));
    assert!(streams(vec![stream(Some("a b"), "x")]).unwrap_err().to_string().contains("a b"));
}

#[test]
fn every_stream_falls_to_one_part_and_always_to_the_same() {
    let parts: Vec<Shard> = (0..3).map(|i| format!("{i}/3").parse().unwrap()).collect();
    let mut shares = [0; 3];
    for n in 0..300 {
        let id = format!("court-{n}");
        let takers: Vec<usize> = (0..3).filter(|i| parts[*i].takes(&id)).collect();
        assert_eq!(takers.len(), 1, "{id}: {takers:?}");
        shares[takers[0]] += 1;
    }
    assert!(shares.iter().all(|share| *share > 60), "{shares:?}");
    // `printf court-1 | sha256sum` begins 31dc795a357f480f: odd, so that other programs can agree.
    let (first, second): (Shard, Shard) = ("0/2".parse().unwrap(), "1/2".parse().unwrap());
    assert!(!first.takes("court-1") && second.takes("court-1"));
    for bad in ["", "1", "2/2", "0/0", "-1/2", "a/b", "1/2/3"] {
        assert!(bad.parse::<Shard>().unwrap_err().contains("0/2"), "{bad}");
    }
    assert!(ConfigFile::parse("shard = \"3/2\"").unwrap_err().contains("line 1"));
}

#[test]
fn only_what_concerns_the_source_opens_it_anew() {
    let one = streams(vec![stream(Some("a"), "rtsp://h/a")]).unwrap().remove(0);
    let voted = StreamSettings { vote: VoteFile { window: Some(3), ..VoteFile::default() }, ..one.clone() };
    let named = StreamSettings { label: Some("Court".into()), enabled: false, ..one.clone() };
    assert!(!voted.needs_reopening(&one) && !named.needs_reopening(&one));
    assert!(StreamSettings { latency_ms: 300, ..one.clone() }.needs_reopening(&one));
    let apart = StreamSettings { isolation: Some(Isolation::Process), ..one.clone() };
    assert!(apart.needs_reopening(&one));
    assert_eq!((one.isolation(false), one.isolation(true)), (Isolation::None, Isolation::Process));
    assert_eq!((apart.isolation(false), apart.isolation(true)), (Isolation::Process, Isolation::Process));
    assert!(!format!("{:?}", StreamSettings { uri: "rtsp://a:pw@h/x".into(), ..one }).contains("pw"));
}

#[test]
fn the_configurations_that_ship_are_ones() {
    for name in ["container", "systemd", "kubernetes/base"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name).join("touchline.toml");
        ConfigFile::read(&path).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn addresses_are_explained() {
    assert!(listen_address("8080").unwrap_err().to_string().contains("127.0.0.1:8080"));
    assert!(listen_address("[::1]:80").is_ok());
}

#[test]
fn vote_values_go_over_the_defaults() {
    let file = ConfigFile::parse("[vote]\nwindow = 5\n").unwrap();
    let vote = file.vote.settings().unwrap();
    assert_eq!((vote.window, vote.stride), (5, 1));
    let file = ConfigFile::parse("[vote]\noffset = 0.9\n").unwrap();
    assert!(file.vote.settings().unwrap_err().contains("0.9"));
}
