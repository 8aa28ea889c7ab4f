//! Segments that are missing, late or incomplete: lost segments are gaps of their length, and the rest plays.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::case::{Case, Expect, Site, all, counts, fails, gap, in_runs, or, run, secs, shows, whole};
use super::list::{List, master, plain};
use super::material::{BASE, file};
use super::server::{Answer, Body};

/// The base programme without these segments of its six.
pub fn without(lost: &[u8]) -> Vec<Option<super::material::Mark>> {
    all((0..6).map(|n| if lost.contains(&n) { gap(2) } else { secs(BASE, 2 * n..2 * n + 2) }))
}

fn lost(name: &str, segment: &str, answer: Answer) -> Case {
    Case::new(name, Site::of(&plain()).answers(segment, answer), shows(without(&[2])))
}

/// Answers `failures` requests with `answer`, and later ones with the file.
fn flaky(
    path: &'static str,
    failures: usize,
    answer: Answer,
) -> impl Fn(&super::server::Request) -> Answer + Send + Sync {
    let requests = Arc::new(AtomicUsize::new(0));
    move |_| match requests.fetch_add(1, Ordering::Relaxed) {
        n if n < failures => answer.clone(),
        _ => Answer::bytes(file(path)),
    }
}

#[test]
fn a_lost_segment_is_a_gap_of_its_length() {
    let third = file("ts/s2.ts");
    let half: Arc<[u8]> = third[..third.len() / 2 / 188 * 188].into();
    let part = |hang| Answer::of(Body::Short { sent: half.clone(), declared: third.len(), hang });
    // The received part may be decided or not; the rest of the two seconds is a gap.
    let partly = || counts(10..=12, 12..=12);
    let mut cases = vec![
        lost("hangs", "ts/s2.ts", Answer::of(Body::Hang)),
        lost("hangs after half", "ts/s2.ts", part(true)).expect(partly()),
    ];
    for status in [400, 403, 404, 410, 429, 451, 500, 502, 503, 504] {
        cases.push(lost(&format!("{status}"), "ts/s2.ts", Answer::status(status)));
    }
    cases.extend([
        lost("closed without an answer", "ts/s2.ts", Answer::of(Body::Close)),
        lost("reset", "ts/s2.ts", Answer::of(Body::Reset)),
        lost("ends after half", "ts/s2.ts", part(false)).expect(partly()),
        lost("half of it, with a matching length", "ts/s2.ts", Answer::bytes(half.clone())).expect(partly()).mute(),
        lost("empty", "ts/s2.ts", Answer::bytes(&b""[..])),
        lost("204", "ts/s2.ts", Answer { status: 204, ..Answer::bytes(&b""[..]) }),
        lost("a page", "ts/s2.ts", Answer::page("<html><body>login please</body></html>")),
        lost("a playlist", "ts/s2.ts", Answer::list(plain().text())),
        lost("zeros", "ts/s2.ts", Answer::bytes(vec![0; 100_000])),
        lost("noise", "ts/s2.ts", Answer::bytes(noise(100_000))),
        lost("redirected endlessly", "ts/s2.ts", Answer::redirect(302, "/ts/s2.ts")),
        lost("redirected to a 404", "ts/s2.ts", Answer::redirect(302, "/nothing.ts")),
    ]);
    run(cases);
}

/// Bytes without meaning, the same each time.
pub fn noise(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_add(77).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn lost_segments_at_any_position_are_gaps() {
    let mut cases = Vec::new();
    for missing in
        [&[0u8][..], &[5], &[2, 3], &[0, 1], &[4, 5], &[1, 3, 5], &[0, 2, 4], &[0, 1, 2, 3, 4], &[1, 2, 3, 4, 5]]
    {
        let mut site = Site::of(&plain());
        let mut list = plain();
        for n in missing {
            site = site.answers(&format!("ts/s{n}.ts"), Answer::status(404));
            list = list.replace(usize::from(*n), format!("#EXT-X-GAP\n#EXTINF:2.0,\nmissing{n}.ts"));
        }
        cases.push(Case::new(format!("404: {missing:?}"), site, shows(without(missing))));
        let gaps = Case::new(format!("EXT-X-GAP: {missing:?}"), Site::of(&list), shows(without(missing)));
        cases.push(gaps.never_requests("missing"));
    }
    let fmp4 = || List::segments("f4", "m4s", 0..6).head("#EXT-X-MAP:URI=\"f4/init.mp4\"");
    let site = |list: &List, lost: &str| Site::of(list).answers(lost, Answer::status(404));
    cases.push(Case::new("fMP4 without its third", site(&fmp4(), "f4/s2.m4s"), shows(without(&[2]))));
    cases.push(Case::new("fMP4 without its first", site(&fmp4(), "f4/s0.m4s"), shows(without(&[0]))));
    let whole_file = file("brts/index.m3u8");
    let ranges = String::from_utf8_lossy(&whole_file).into_owned();
    let holes = Site::new().any(move |request| {
        let from = request.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok()?;
        // The third range starts at the end of the first two.
        let third = ranges.lines().filter_map(|l| l.strip_prefix("#EXT-X-BYTERANGE:")).nth(2)?.split_once('@')?.1;
        (third.parse::<usize>() == Ok(from)).then(|| Answer::status(404))
    });
    cases.push(Case::new("a byte range", holes, shows(without(&[2]))).at("brts/index.m3u8"));
    cases.push(Case::new(
        "all of them",
        (0..6).fold(Site::of(&plain()), |site, n| site.answers(&format!("ts/s{n}.ts"), Answer::status(404))),
        or(fails(&["404"]), counts(0..=0, 12..=12)),
    ));
    cases.push(
        Case::new(
            "a gap after a break",
            {
                let list = plain()
                    .before(3, "#EXT-X-DISCONTINUITY")
                    .replace(3, "#EXT-X-DISCONTINUITY\n#EXT-X-GAP\n#EXTINF:2.0,\nno.ts");
                Site::of(&list)
            },
            in_runs(2, without(&[3])),
        )
        .never_requests("no.ts"),
    );
    run(cases);
}

/// A segment that arrives at the second or third request is not lost.
#[test]
fn late_segments_are_not_lost() {
    let third = "ts/s2.ts";
    let with = |name: &str, site: Site| Case::new(name, site, whole());
    let slow = Body::Slow { bytes: file(third), pieces: 10, pause: Duration::from_millis(200) };
    run(vec![
        with(
            "late by three seconds",
            Site::of(&plain()).answers(third, Answer::bytes(file(third)).late(Duration::from_secs(3))),
        ),
        with("in pieces", Site::of(&plain()).answers(third, Answer::of(slow))),
        with("404 twice", Site::of(&plain()).on(third, flaky(third, 2, Answer::status(404)))),
        with("503 twice", Site::of(&plain()).on(third, flaky(third, 2, Answer::status(503)))),
        with("503 once, with a time to wait", {
            Site::of(&plain()).on(third, flaky(third, 1, Answer::status(503).with("Retry-After", "1")))
        }),
        with("closed once", Site::of(&plain()).on(third, flaky(third, 1, Answer::of(Body::Close)))),
        with("reset twice", Site::of(&plain()).on(third, flaky(third, 2, Answer::of(Body::Reset)))),
        with("cut once", {
            let cut = Body::Short { sent: file(third)[..1000].into(), declared: file(third).len(), hang: false };
            Site::of(&plain()).on(third, flaky(third, 1, Answer::of(cut)))
        }),
        with("empty once", Site::of(&plain()).on(third, flaky(third, 1, Answer::bytes(&b""[..])))),
        with("first segment 503 once", Site::of(&plain()).on("ts/s0.ts", flaky("ts/s0.ts", 1, Answer::status(503)))),
        with("last segment 503 once", Site::of(&plain()).on("ts/s5.ts", flaky("ts/s5.ts", 1, Answer::status(503)))),
        with("the connection ends after each answer", {
            Site::of(&plain()).any(|r| {
                let bytes = if r.path() == "x.m3u8" { plain().text().into_bytes() } else { file(r.path()).to_vec() };
                let declared = bytes.len();
                Some(Answer::of(Body::Short { sent: bytes.into(), declared, hang: false }))
            })
        }),
        with("without lengths", {
            Site::of(&plain()).any(|r| r.path().ends_with(".ts").then(|| Answer::of(Body::Chunked(file(r.path())))))
        }),
    ]);
}

/// With separate renditions of sound and pictures, one of them is enough to decide a second.
#[test]
fn seconds_are_decided_with_one_of_two_renditions() {
    let sound = "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"n\",DEFAULT=YES,URI=\"av/a/index.m3u8\"\n";
    let text = master(sound, &[("BANDWIDTH=900000,RESOLUTION=320x240,AUDIO=\"a\"", "av/v/index.m3u8")]);
    let site = |lost: &[&str]| {
        let site = Site::new().text("m.m3u8", text.clone());
        lost.iter().fold(site, |site, path| site.answers(path, Answer::status(404)))
    };
    let pictures: Expect = whole();
    let sound_only = "a segment of pictures";
    run(vec![
        Case::new("a segment of sound", site(&["av/a/s2.ts"]), pictures.clone()).at("m.m3u8").mute(),
        Case::new(sound_only, site(&["av/v/s2.ts"]), counts(10..=12, 12..=12)).at("m.m3u8"),
        Case::new("the same segment of both", site(&["av/a/s2.ts", "av/v/s2.ts"]), shows(without(&[2]))).at("m.m3u8"),
        Case::new("the playlist of the sound", site(&["av/a/index.m3u8"]), pictures).at("m.m3u8").mute(),
    ]);
}
