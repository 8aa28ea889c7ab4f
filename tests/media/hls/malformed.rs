//! Malformed playlists. None of them ends the process, blocks it or fails silently.

use super::case::{Case, Expect, Site, all, any_outcome, counts, damaged, fails, gap, or, run, secs, shows, whole};
use super::list::{plain, segment, segment_of};
use super::lost::noise;
use super::material::{BASE, file};
use super::play::{Next, PlayOptions};
use super::server::Answer;
use touchline_media::supervise::SourceState;

const HEAD: &str = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n";
const END: &str = "#EXT-X-ENDLIST\n";

/// A playlist with this text, and the files that it may refer to.
fn site(text: impl Into<Vec<u8>>) -> Site {
    let text: Vec<u8> = text.into();
    Site::new()
        .on("x.m3u8", move |_| Answer::bytes(text.clone()).with("Content-Type", "application/vnd.apple.mpegurl"))
        .answers("seg.ts", Answer::bytes(file("ts/s0.ts")))
        .answers("short", Answer::bytes(&b"short"[..]))
        .answers("empty.ts", Answer::bytes(&b""[..]))
        .answers("page.ts", Answer::page("<html></html>"))
        .answers("zeros.ts", Answer::bytes(vec![0; 50_000]))
        .answers("noise.ts", Answer::bytes(noise(50_000)))
        .answers("x.vtt", Answer::bytes(&b"WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n"[..]))
        .text("min.m3u8", "#EXTM3U\n")
        .text("live.m3u8", HEAD)
        .text("ok.m3u8", format!("{HEAD}#EXTINF:2,\nseg.ts\n{END}"))
        .text("variant.m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nok.m3u8\n")
}

fn two() -> Expect {
    shows(secs(BASE, 0..2))
}

fn of(name: &str, text: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case::new(name, site(text), expect)
}

/// A recording of one segment with `before` and `extinf`.
fn one(name: &str, before: &str, extinf: &str, expect: Expect) -> Case {
    of(name, format!("{HEAD}{before}{extinf}seg.ts\n{END}"), expect)
}

#[test]
fn missing_required_tags_are_tolerated_or_reported() {
    let nothing = || fails(&["damaged playlist", "empty", "no segments"]);
    run(vec![
        of("a first line and nothing else", "#EXTM3U\n", nothing()),
        of("a first line without its end", "#EXTM3U", nothing()),
        of("an end mark only", "#EXTM3U\n#EXT-X-ENDLIST\n", nothing()),
        of("a recording without segments", format!("{HEAD}{END}"), nothing()),
        // A channel that has not started. The source waits and then fails.
        of("a channel without segments", HEAD, fails(&[""])),
        one("EXTINF without an address", "", "", or(two(), damaged())),
        of("EXTINF and then the end", format!("{HEAD}#EXTINF:2,\n{END}"), damaged()),
        of("no target duration", "#EXTM3U\n#EXTINF:2,\nseg.ts\n#EXT-X-ENDLIST\n", or(two(), damaged())),
        of(
            "no first line",
            format!("#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nseg.ts\n{END}"),
            or(two(), fails(&["playlist"])),
        ),
        of(
            "a first line with a suffix",
            format!("#EXTM3U8\n#EXTINF:2,\nseg.ts\n{END}"),
            or(two(), fails(&["playlist"])),
        ),
    ]);
}

#[test]
fn invalid_numbers_are_tolerated_or_reported() {
    let mut cases = Vec::new();
    for bad in [
        "-2",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "0",
        "-0.0",
        "1e400",
        "1e-300",
        "abc",
        "",
        "2,5",
        "0x2",
        "99999999999999999999",
        "-nan",
        "infinity",
    ] {
        // These may be read as two seconds with a title, or as zero.
        let expect = if bad == "2,5" || bad == "0x2" { or(two(), damaged()) } else { damaged() };
        cases.push(one(&format!("EXTINF:{bad}"), "", &format!("#EXTINF:{bad},\n"), expect));
    }
    for bad in ["-5", "nan", "0", "abc", "", "99999999999999999999", "1e10"] {
        let text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:{bad}\n#EXTINF:2,\nseg.ts\n{END}");
        cases.push(of(&format!("TARGETDURATION:{bad}"), text, or(two(), damaged())));
    }
    for bad in ["18446744073709551615", "18446744073709551616", "-9223372036854775808", "-1", "abc", "", "1.5"] {
        let tag = format!("#EXT-X-MEDIA-SEQUENCE:{bad}\n");
        cases.push(one(&format!("MEDIA-SEQUENCE:{bad}"), &tag, "#EXTINF:2,\n", or(two(), damaged())));
        let tag = format!("#EXT-X-DISCONTINUITY-SEQUENCE:{bad}\n");
        cases.push(one(&format!("DISCONTINUITY-SEQUENCE:{bad}"), &tag, "#EXTINF:2,\n", or(two(), damaged())));
    }
    for bad in
        ["9223372036854775807@9223372036854775807", "-1@-1", "18446744073709551615@1", "abc", "", "10@", "@10", "0@0"]
    {
        let tag = format!("#EXT-X-BYTERANGE:{bad}\n");
        // An invalid range may be ignored, so that the whole file plays.
        cases.push(one(
            &format!("BYTERANGE:{bad}"),
            &tag,
            "#EXTINF:2,\n",
            Expect::OneOf(vec![two(), damaged(), counts(0..=0, 2..=2), fails(&["416", "range", "segment"])]),
        ));
    }
    run(cases);
}

#[test]
fn incomplete_or_contradictory_tags_are_tolerated_or_reported() {
    let extinf = "#EXTINF:2,\n";
    let map = |rest: &str| format!("#EXT-X-MAP:{rest}\n");
    run(vec![
        one("a map without an address", &map("BYTERANGE=\"1@0\""), extinf, or(two(), damaged())),
        one(
            "a missing map",
            &map("URI=\"nomap\""),
            extinf,
            Expect::OneOf(vec![fails(&["404"]), two(), counts(0..=0, 2..=2)]),
        ),
        one(
            "a map that is a page",
            &map("URI=\"page.ts\""),
            extinf,
            Expect::OneOf(vec![fails(&[""]), two(), counts(0..=0, 2..=2)]),
        ),
        one("attributes cut off", "#EXT-X-KEY:METHOD=AES-128,URI=\"k\n", extinf, damaged()),
        one("a key without attributes", "#EXT-X-KEY:\n", extinf, or(damaged(), two())),
        one(
            "an unknown variable",
            "",
            "#EXTINF:2,\n{$nobody}",
            or(fails(&["damaged playlist", "EXT-X-DEFINE", "variable", "404"]), counts(0..=0, 2..=2)),
        ),
        one(
            "invalid parts",
            "#EXT-X-PART-INF:PART-TARGET=nan\n#EXT-X-PART:DURATION=-1,URI=\"p\"\n",
            extinf,
            or(two(), damaged()),
        ),
        one("skipped segments in the first answer", "#EXT-X-SKIP:SKIPPED-SEGMENTS=3\n", extinf, any_outcome()),
        one("non-ASCII text", "", "#EXTINF:2,caf\u{e9}\n", two()),
        of(
            "UTF-16",
            "#EXTM3U\n#EXT-X-TARGETDURATION:2\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>(),
            fails(&["playlist"]),
        ),
        of(
            "Latin-1",
            [format!("{HEAD}#EXTINF:2,").as_bytes(), b"caf\xe9\xff\xfe\n", b"seg.ts\n", END.as_bytes()].concat(),
            two(),
        ),
        of(
            "zeros between the lines",
            [b"#EXTM3U\n\0\0\0".as_slice(), b"#EXTINF:2,\nseg.ts\n", END.as_bytes()].concat(),
            or(two(), damaged()),
        ),
        of(
            "binary data after the list",
            [format!("{HEAD}#EXTINF:2,\nseg.ts\n{END}").into_bytes(), noise(5_000)].concat(),
            any_outcome(),
        ),
        of(
            "both a master and a media playlist",
            format!("{HEAD}#EXT-X-STREAM-INF:BANDWIDTH=1\nok.m3u8\n#EXTINF:2,\nseg.ts\n{END}"),
            or(two(), damaged()),
        ),
        of(
            "two playlists, one after the other",
            format!("{HEAD}{extinf}seg.ts\n{END}{HEAD}{extinf}seg.ts\n{END}"),
            any_outcome(),
        ),
        of("an invalid address", format!("{HEAD}{extinf}http://[\n{END}"), or(damaged(), counts(0..=0, 2..=2))),
        of(
            "an address of a file",
            format!("{HEAD}{extinf}file:///etc/passwd\n{END}"),
            or(fails(&[""]), counts(0..=0, 2..=2)),
        ),
        of(
            "an address of another scheme",
            format!("{HEAD}{extinf}gopher://127.0.0.1/seg.ts\n{END}"),
            or(fails(&[""]), counts(0..=0, 2..=2)),
        ),
        of(
            "an address that fills a page",
            format!("{HEAD}{extinf}{}\n{END}", "x".repeat(70_000)),
            or(fails(&[""]), counts(0..=0, 2..=2)),
        ),
        one("only a gap", "#EXT-X-GAP\n", extinf, or(fails(&[""]), counts(0..=0, 2..=2))),
        of(
            "ten thousand breaks",
            format!("{HEAD}{}{extinf}seg.ts\n{END}", "#EXT-X-DISCONTINUITY\n".repeat(10_000)),
            two(),
        ),
    ]);
}

#[test]
fn segments_that_are_not_media_are_gaps_or_failures() {
    let mut cases = Vec::new();
    for name in ["nothing.ts", "empty.ts", "page.ts", "zeros.ts", "noise.ts", "min.m3u8", "ok.m3u8", "x.vtt", "short"] {
        let text = format!("{HEAD}#EXTINF:2,\n{name}\n{END}");
        cases.push(of(&format!("only {name}"), text, or(fails(&[""]), counts(0..=0, 2..=2))));
        let site = site(plain().replace(2, segment(name)).text());
        cases.push(Case::new(format!("{name} in the middle"), site, shows(super::lost::without(&[2]))));
    }
    run(cases);
}

#[test]
fn broken_masters_play_or_fail() {
    let to = |uri: &str| format!("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{uri}\n");
    let sound = |rest: &str| {
        format!(
            "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"n\",DEFAULT=YES{rest}\n#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"a\"\nok.m3u8\n"
        )
    };
    run(vec![
        of("to nothing", to("nope.m3u8"), fails(&["404"])),
        of("to an empty list", to("min.m3u8"), fails(&["damaged playlist", "empty", "no segments"])),
        of("to a channel without segments", to("live.m3u8"), fails(&[""])),
        of("to a page", to("page.ts"), fails(&["a web page"])),
        of("to a master", to("variant.m3u8"), or(two(), fails(&["damaged playlist", "master"]))),
        of("to itself", to("x.m3u8"), fails(&["damaged playlist", "master"])),
        of("without an address", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n", damaged()),
        of("to a segment", to("seg.ts"), or(two(), fails(&["playlist"]))),
        of("sound from an empty list", sound(",URI=\"min.m3u8\""), two()),
        of("sound from nowhere", sound(",URI=\"nope.m3u8\""), two()),
        of("sound from a page", sound(",URI=\"page.ts\""), two()),
        of("sound from itself", sound(",URI=\"x.m3u8\""), two()),
        of("garbage after it", format!("{}\0\u{1}#EXT-X-{{{{\n<html>\n", to("ok.m3u8")), or(two(), damaged())),
        of(
            "one good line among bad ones",
            "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=abc,RESOLUTION=1x\nok.m3u8\n#EXT-X-STREAM-INF\n",
            or(two(), damaged()),
        ),
        of(
            "a thousand dead variants",
            format!(
                "#EXTM3U\n{}",
                (0..1000).map(|n| format!("#EXT-X-STREAM-INF:BANDWIDTH={n}\nnope{n}.m3u8\n")).collect::<String>()
            ),
            fails(&["404"]),
        ),
    ]
    .into_iter()
    .map(Case::mute)
    .collect());
}

/// A bad line either costs at most its segment, or the playlist is damaged.
#[test]
fn one_bad_line_costs_at_most_its_segment() {
    let around = || {
        Expect::OneOf(vec![
            whole(),
            shows(super::lost::without(&[3])),
            shows(all([secs(BASE, 0..6), secs(BASE, 8..12)])),
            damaged(),
            shows(all([secs(BASE, 0..6), gap(1), secs(BASE, 8..12)])),
        ])
    };
    let mut cases = Vec::new();
    for bad in ["nan", "0", "-2", "abc", "1e300"] {
        let text = plain().replace(3, segment_of(bad, "ts/s3.ts")).text();
        cases.push(Case::new(format!("EXTINF:{bad} in the middle"), Site::new().text("x.m3u8", text), around()));
    }
    let text = plain().replace(3, "#EXTINF:2.0,").text();
    cases.push(Case::new("no address in the middle", Site::new().text("x.m3u8", text), around()));
    let text = plain().replace(3, "ts/s3.ts").text();
    cases.push(Case::new("no EXTINF in the middle", Site::new().text("x.m3u8", text), around()));
    run(cases);
}

/// A damaged playlist is requested again.
#[test]
fn a_playlist_plays_once_it_is_repaired() {
    let mut cases = Vec::new();
    for (name, bad) in [
        ("damaged", format!("{HEAD}#EXTINF:2,\n{END}")),
        ("empty", String::new()),
        ("a page", "<html>try again</html>".to_owned()),
        ("cut off", plain().text()[..60].to_owned()),
    ] {
        let requests = std::sync::atomic::AtomicUsize::new(0);
        let site =
            Site::new().on("x.m3u8", move |_| match requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0..3 => Answer::list(bad.clone()),
                _ => Answer::list(plain().text()),
            });
        let on_state = |state: &SourceState| match state {
            SourceState::Ended | SourceState::Failed { .. } => Next::Stop,
            _ => Next::Continue,
        };
        let options = PlayOptions { on_state: Box::new(on_state), ..PlayOptions::recording() };
        cases.push(
            Case::new(name, site, Expect::Follows { seconds: secs(BASE, 0..12), join_by: 0, runs: None })
                .options(options),
        );
    }
    run(cases);
}
