//! The source policy. `tests/media/ingest/guarded.rs` tests its application to GStreamer.

use std::collections::HashMap;

use super::*;

struct Names(HashMap<&'static str, Vec<&'static str>>);

impl Resolve for Names {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = self.0.get(host).ok_or(io::ErrorKind::NotFound)?;
        Ok(found.iter().map(|text| text.parse().unwrap()).collect())
    }
}

fn policy(allow: &[&str], folders: &[&Path]) -> SourcePolicy {
    let names = Names(HashMap::from([
        ("good.example", vec!["93.184.216.34", "2606:4700::1111"]),
        ("bad.example", vec!["93.184.216.34", "10.0.0.1"]),
        ("meta.example", vec!["169.254.169.254"]),
        ("mapped.example", vec!["::ffff:127.0.0.1"]),
    ]));
    let file = SourcesFile {
        schemes: None,
        allow_addresses: allow.iter().map(|s| (*s).to_owned()).collect(),
        folders: folders.iter().map(|p| (*p).to_owned()).collect(),
    };
    SourcePolicy::new(&file).unwrap().with_resolver(Arc::new(names))
}

#[test]
fn every_notation_of_an_address_is_checked() {
    let policy = policy(&[], &[]);
    for uri in
        ["rtsp://good.example/live", "https://good.example/a.m3u8", "srt://good.example:9000", "testsrc://?seconds=1"]
    {
        assert_eq!(policy.check(uri), Ok(()), "{uri}");
    }
    for uri in [
        "rtsp://127.0.0.1/live",
        "rtsp://ann:s3cretword@10.1.2.3:554/live",
        "rtsp://good.example@127.0.0.1/live",
        "http://2130706433/a.mp4",
        "http://0x7f.1/a.mp4",
        "http://[::1]/a.mp4",
        "http://[::ffff:169.254.169.254]/latest/meta-data/a.m3u8",
        "http://[64:ff9b::a9fe:a9fe]/a.mp4",
        "http://[2002:7f00:1::]/a.mp4",
        "http://bad.example/a.mp4",
        "rtsp://meta.example/a",
        "rtmp://mapped.example/app/key",
        "srt://192.168.0.1:9000",
        "srt://:9000?mode=listener",
        "srt://good.example:9000?mode=listener",
        "srt://good.example:9000?mode=caller&mode=listener",
        "srt://good.example:9000?mode=caller&Mode=listener",
        "srt://good.example:9000?mode=caller&localaddress=0.0.0.0&localport=9000",
        "udp://239.0.0.1:5000",
        "udp://@:5000",
        "udp://0.0.0.0:5000",
        "file:///etc/passwd",
        "/etc/passwd",
        "../../etc/passwd",
        "gopher://good.example/",
        "rtspt://good.example/",
    ] {
        let refusal = policy.check(uri).expect_err(uri);
        assert_eq!(refusal.kind, Cause::Refused, "{uri}: {refusal}");
        assert!(!refusal.to_string().contains("s3cretword") && !refusal.to_string().contains('\n'), "{refusal}");
    }
    assert_eq!(policy.check("http://none.example/a.mp4").unwrap_err().kind, Cause::HostNotFound);
}

#[test]
fn listed_addresses_are_allowed_and_metadata_addresses_only_by_their_own_entry() {
    let some = policy(&["127.0.0.1", "10.0.0.0/8", "239.1.0.0/16", "169.254.0.0/16"], &[]);
    for uri in ["rtsp://127.0.0.1/a", "http://bad.example/a.mp4", "udp://239.1.2.3:5000", "http://mapped.example/a.mp4"]
    {
        assert_eq!(some.check(uri), Ok(()), "{uri}");
    }
    for uri in ["rtsp://127.0.0.2/a", "http://meta.example/a.mp4", "udp://239.2.0.1:5000", "srt://:9000"] {
        assert_eq!(some.check(uri).expect_err(uri).kind, Cause::Refused, "{uri}");
    }
    assert_eq!(policy(&["169.254.169.254/32"], &[]).check("http://meta.example/a.mp4"), Ok(()));
    assert_eq!(policy(&["0.0.0.0/32"], &[]).check("srt://:9000?mode=listener"), Ok(()));
    let only_rtsp = SourcesFile { schemes: Some(vec!["rtsp".into()]), ..SourcesFile::default() };
    assert!(SourcePolicy::new(&only_rtsp).unwrap().check("testsrc://").is_err());
    for file in [
        SourcesFile { schemes: Some(vec!["gopher".into()]), ..SourcesFile::default() },
        SourcesFile { allow_addresses: vec!["10.0.0.0/99".into()], ..SourcesFile::default() },
        SourcesFile { folders: vec!["/no/such/folder".into()], ..SourcesFile::default() },
    ] {
        assert!(matches!(SourcePolicy::new(&file), Err(Error::Usage(text)) if text.contains("[sources]")));
    }
}

#[test]
fn only_files_in_the_folders_are_allowed() {
    let root = tempfile::tempdir().unwrap();
    let (inside, outside) = (root.path().join("in"), root.path().join("outside"));
    std::fs::create_dir_all(inside.join("deep")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    // Its path has the folder's path as a prefix.
    std::fs::create_dir(root.path().join("in-not")).unwrap();
    for file in [inside.join("deep/a b.mp4"), outside.join("x.mp4"), root.path().join("in-not/x.mp4")] {
        std::fs::write(file, "x").unwrap();
    }
    std::os::unix::fs::symlink(outside.join("x.mp4"), inside.join("link.mp4")).unwrap();
    std::os::unix::fs::symlink(&outside, inside.join("way")).unwrap();
    let policy = policy(&[], &[&inside]);
    let inside = inside.display();
    assert_eq!(policy.check(&format!("file://{inside}/deep/a%20b.mp4")), Ok(()));
    assert_eq!(policy.check(&format!("{inside}/deep/../deep/a b.mp4")), Ok(()));
    for path in ["link.mp4", "way/x.mp4", "../outside/x.mp4", "../in-not/x.mp4", "way/none.mp4", "../none.mp4"] {
        for uri in [format!("{inside}/{path}"), format!("file://{inside}/{path}")] {
            let refusal = policy.check(&uri).expect_err(&uri);
            assert_eq!(refusal.cause, "this file is not allowed here", "{uri}");
        }
    }
    assert_eq!(policy.check(&format!("{inside}/deep/none.mp4")).unwrap_err().kind, Cause::NotFound);
}

/// Records the names that it resolves.
#[derive(Default)]
struct RecordingResolver(std::sync::Mutex<Vec<String>>);

impl Resolve for RecordingResolver {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.0.lock().unwrap().push(host.to_owned());
        Ok(vec![Ipv4Addr::new(93, 184, 216, 34).into()])
    }
}

#[test]
fn no_part_of_a_password_is_resolved() {
    let resolver = Arc::new(RecordingResolver::default());
    let policy = policy(&[], &[]).with_resolver(resolver.clone());
    for password in [
        "pa@ss",
        "pa/ss",
        "p@ss/word",
        "p@ss#1/x?:é",
        "1234/56",
        "p@ss?x",
        "12:34@56",
        "a#b@c",
        "@",
        ":@:",
        "x@1/y@2#z",
    ] {
        for host in ["cam", "cam.example:554"] {
            let uri = format!("rtsp://ann:{password}@{host}/live");
            let result = policy.check(&uri);
            assert!(result.as_ref().err().is_none_or(|e| e.advice.contains("%40")), "{uri}: {result:?}");
            let _ = policy.pinned_uri(&uri);
        }
    }
    let resolved = resolver.0.lock().unwrap();
    assert!(resolved.len() > 8 && resolved.iter().all(|host| host == "cam" || host == "cam.example"), "{resolved:?}");
}
