//! Valid recordings in every form of HLS, and playlists in every style that occurs in practice.

use super::case::{Case, Site, counts, fails, gap, or, run, secs, shows, whole};
use super::list::{List, master, plain, segment, segment_of};
use super::material::{BASE, file, id3};
use super::play::PlayOptions;
use super::server::Answer;
use crate::common::Fixtures;

fn of(name: &str, list: &List) -> Case {
    Case::new(name, Site::of(list), whole())
}

fn text(name: &str, text: impl Into<String>) -> Case {
    Case::new(name, Site::new().text("x.m3u8", text), whole())
}

#[test]
fn recordings_of_every_form_play_completely() {
    let audio = r#"#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="aud",NAME="English",DEFAULT=YES,AUTOSELECT=YES,URI="a"
"#;
    let separate = |folder: &str| {
        let lines = audio.replace("\"a\"", &format!("\"{folder}/a/index.m3u8\""));
        let variant = format!("{folder}/v/index.m3u8");
        master(
            &lines,
            &[(r#"BANDWIDTH=900000,CODECS="avc1.42c00d,mp4a.40.2",RESOLUTION=320x240,AUDIO="aud""#, &variant)],
        )
    };
    let twelve_seconds = || counts(12..=12, 12..=12);
    let packed = |name: &str| Case::new(name, Site::of(&List::segments(name, name, 0..6)), twelve_seconds());
    let timed = |name: &'static str| {
        let site = Site::of(&List::segments(name, name, 0..6)).any(move |request| {
            let n: u64 = request.path().strip_prefix(name)?.trim_start_matches("/s").split('.').next()?.parse().ok()?;
            let mut bytes = id3((10 + 2 * n) * 90_000);
            bytes.extend(&file(request.path())[..]);
            Some(Answer::bytes(bytes))
        });
        Case::new(format!("{name} with ID3 time"), site, twelve_seconds())
    };
    run(vec![
        of("TS", &plain()),
        Case::new("fMP4", Site::new(), whole()).at("f4/index.m3u8"),
        Case::new("fMP4, byte ranges", Site::new(), whole()).at("br/index.m3u8"),
        Case::new("TS, byte ranges", Site::new(), whole()).at("brts/index.m3u8"),
        Case::new(
            "byte ranges from a server without ranges",
            Site::new()
                .any(|r| r.path().ends_with("all.ts").then(|| Answer::bytes(file("brts/all.ts")).without_ranges())),
            whole(),
        )
        .at("brts/index.m3u8"),
        Case::new("decode times since 1970", Site::new(), whole()).at("epoch/index.m3u8"),
        Case::new("time stamps that wrap", Site::new(), whole()).at("wrap/index.m3u8"),
        Case::new("separate sound, TS", Site::new().text("m.m3u8", separate("av")), whole()).at("m.m3u8"),
        Case::new("separate sound, CMAF", Site::new().text("m.m3u8", separate("cm")), whole()).at("m.m3u8"),
        packed("aac"),
        packed("mp3"),
        packed("ac3"),
        timed("aac"),
        timed("mp3"),
        timed("ac3"),
        Case::new("pictures without sound", Site::new(), whole()).at("av/v/index.m3u8").mute(),
        Case::new("sound without pictures", Site::new(), twelve_seconds()).at("av/a/index.m3u8"),
        Case::new("one segment", Site::of(&List::segments("ts", "ts", 0..1)), shows(secs(BASE, 0..2))),
        Case::new("from the middle on", Site::of(&List::segments("ts", "ts", 3..6)), shows(secs(BASE, 6..12))),
        of("a sequence from a million on", &plain().sequence(1_000_000)),
        of("a sequence near the end of 64 bits", &plain().sequence(u64::MAX - 5)),
    ]);
}

#[test]
fn unusual_styles_of_playlists_are_read() {
    let plain = plain();
    let twelve = plain.text();
    let lines = |from: &str, to: &str| twelve.replace(from, to);
    let define = |line: &str, uri: &str| {
        let entries = (0..6).map(|n| segment(&format!("{uri}/s{n}.ts")));
        List { version: 8, ..List::of(entries) }.head(line)
    };
    let defined = || or(whole(), fails(&["EXT-X-DEFINE"]));
    run(vec![
        text("byte order mark and CRLF", format!("\u{feff}{}", lines("\n", "\r\n"))),
        text("CR and LF, and CRLF mixed", lines("#EXTINF", "\r\n\r\n#EXTINF")),
        text("a blank after the colon", lines("SEQUENCE:0", "SEQUENCE: 5").replace("DURATION:2", "DURATION: 2")),
        text("a blank before EXTINF's number", lines("#EXTINF:", "#EXTINF: ")),
        text("blanks at the ends of lines", lines("\n", "  \t\n")),
        text("empty lines", lines("\n", "\n\n")),
        text("no line end at the end", twelve.trim_end().to_owned()),
        text("EXTINF without a comma", lines("2.000000,", "2")),
        text("EXTINF with a title", lines("2.000000,", "2.0,Goal, again: \"yes\" #1 – Ü")),
        text("durations a little off", lines("2.000000", "1.985")),
        text("unknown tags and comments", lines("#EXTINF", "# a comment\n#EXT-X-NOBODY-KNOWS:A=1,B=\"x\n#EXTINF")),
        text("a line of 100 kB", lines("#EXTINF", &format!("#EXT-X-LONG:{}\n#EXTINF", "x".repeat(100_000)))),
        text("no version", lines("#EXT-X-VERSION:7\n", "")),
        text("a version of the future", lines("VERSION:7", "VERSION:99")),
        text("no sequence", lines("#EXT-X-MEDIA-SEQUENCE:0\n", "")),
        text("the type VOD", lines("#EXTINF:2.000000,\nts/s0", "#EXT-X-PLAYLIST-TYPE:VOD\n#EXTINF:2.000000,\nts/s0")),
        text("tags of the head at the end", {
            let target = "#EXT-X-TARGETDURATION:2\n";
            lines(target, "").replace("#EXT-X-ENDLIST", &format!("{target}#EXT-X-ENDLIST"))
        }),
        text("a comment after the end mark", twelve.clone() + "# made by a packager\n\n"),
        Case::new(
            "no EXTINF",
            Site::new().text(
                "x.m3u8",
                twelve.lines().filter(|l| !l.starts_with("#EXTINF")).map(|l| format!("{l}\n")).collect::<String>(),
            ),
            or(whole(), fails(&["damaged playlist"])),
        ),
        text("addresses from the root", lines("ts/s", "/ts/s")),
        text("addresses with dots", lines("ts/s", "f4/../ts/./s")),
        text("addresses with queries", lines(".ts", ".ts?token=a/b.m3u8&n=1#part")),
        Case::new(
            "addresses with blanks and umlauts",
            Site::new().text("x.m3u8", lines("ts/s", "spiel über alles/s")).any(|request| {
                let path = request.path().replace("spiel%20%C3%BCber%20alles", "ts");
                path.starts_with("ts/").then(|| super::case::from_material(&path))
            }),
            whole(),
        ),
        Case::new(
            "names and types in disguise",
            Site::new().answers("x.m3u8", Answer::list(lines(".ts", ".jpg")).with("Content-Type", "text/html")).any(
                |request| {
                    let file = file(&request.path().strip_suffix(".jpg").map(|name| format!("{name}.ts"))?);
                    Some(Answer::bytes(file).with("Content-Type", "image/jpeg"))
                },
            ),
            whole(),
        ),
        of("dates", &plain.clone().head("#EXT-X-PROGRAM-DATE-TIME:2020-09-13T12:26:40.000Z")),
        of("an invalid date", &plain.clone().head("#EXT-X-PROGRAM-DATE-TIME:9999999-99-99T99:99:99Z")),
        of("a date of the year 9999", &plain.clone().head("#EXT-X-PROGRAM-DATE-TIME:9999-12-31T23:59:60.9+99:99")),
        of("dates that jump", &{
            let mut list = plain.clone();
            for (n, date) in ["2020-01-01T00:00:00Z", "2031-01-01T00:00:00Z", "1969-12-31T23:59:59Z"].iter().enumerate()
            {
                list = list.before(2 * n, &format!("#EXT-X-PROGRAM-DATE-TIME:{date}"));
            }
            list
        }),
        of("date ranges and marks", &{
            let scte = "#EXT-X-DATERANGE:ID=\"ad\",START-DATE=\"2020-09-13T12:26:44Z\",DURATION=4,SCTE35-OUT=0xFC30";
            let cue = "#EXT-X-CUE-OUT:4.000";
            let head = "#EXT-X-PROGRAM-DATE-TIME:2020-09-13T12:26:40Z";
            plain.clone().head(head).before(2, scte).before(2, cue).before(4, "#EXT-X-CUE-IN")
        }),
        of("a start in the middle", &plain.clone().head("#EXT-X-START:TIME-OFFSET=6")),
        Case::new("a variable", Site::of(&define("#EXT-X-DEFINE:NAME=\"p\",VALUE=\"ts\"", "{$p}")), defined()),
        Case::new(
            "a variable of the query",
            Site::of(&define("#EXT-X-DEFINE:QUERYPARAM=\"folder\"", "{$folder}")),
            defined(),
        )
        .at("x.m3u8?folder=ts"),
        Case::new(
            "a variable of the master",
            Site::of(&define("#EXT-X-DEFINE:IMPORT=\"p\"", "{$p}"))
                .text("m.m3u8", master("#EXT-X-DEFINE:NAME=\"p\",VALUE=\"ts\"\n", &[("BANDWIDTH=900000", "x.m3u8")])),
            defined(),
        )
        .at("m.m3u8"),
        text("tags of low latency in a recording", {
            let part = "#EXT-X-PART-INF:PART-TARGET=0.5\n#EXT-X-SERVER-CONTROL:PART-HOLD-BACK=1.5\n";
            lines("#EXT-X-MEDIA", &format!("{part}#EXT-X-MEDIA"))
        }),
        text("a segment of length zero", lines(&segment("ts/s3.ts"), &segment_of("0", "ts/s3.ts"))).expect(or(
            or(whole(), shows(super::case::all([secs(BASE, 0..6), gap(2), secs(BASE, 8..12)]))),
            fails(&["damaged playlist"]),
        )),
    ]);
}

/// A playlist is recognised by its content, independent of its name and content type.
#[test]
fn playlists_are_recognised_by_content() {
    let mut cases = Vec::new();
    for (name, kind) in [
        ("stream.php", "application/vnd.apple.mpegurl"),
        ("stream.php?id=7&fmt=hls", "text/html"),
        ("live", "application/octet-stream"),
        ("watch/", "audio/x-mpegurl"),
        ("index.m3u8.txt", "text/plain"),
    ] {
        let path = name.split('?').next().unwrap_or_default();
        let list = List::of((0..6).map(|n| segment(&format!("/ts/s{n}.ts"))));
        let answer = Answer::bytes(list.text().into_bytes()).with("Content-Type", kind);
        cases.push(Case::new(name, Site::new().answers(path, answer), whole()).at(name));
    }
    let list = List::of((0..6).map(|n| segment(&format!("/ts/s{n}.ts"))));
    cases.push(
        Case::new("no type at all", Site::new().answers("tv", Answer::bytes(list.text().into_bytes())), whole())
            .at("tv"),
    );
    let variants = master("", &[("BANDWIDTH=900000,RESOLUTION=320x240", "/ts/index.m3u8")]);
    cases.push(Case::new("a master without a name", Site::new().text("play.php", variants), whole()).at("play.php"));
    run(cases);
}

/// A paced recording yields the same seconds.
#[test]
fn a_recording_keeps_its_own_pace_and_ends() {
    let channel = PlayOptions { limit: std::time::Duration::from_secs(60), ..PlayOptions::channel() };
    run(vec![of("paced", &List::segments("ts", "ts", 0..2)).expect(shows(secs(BASE, 0..4))).options(channel)]);
    // The material is checked without HLS, so that an error in it is distinguishable.
    let dir = Fixtures::new();
    let path = dir.write("base.mp4", &file("base.mp4"));
    let outcome = super::play::play(path.to_str().expect("a temporary path is UTF-8"), PlayOptions::recording());
    assert_eq!(outcome.marks(), secs(BASE, 0..12), "{outcome:?}");
}
