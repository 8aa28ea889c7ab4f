//! Channels: the client joins at the live edge and follows them without losing or repeating a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use touchline_core::cause::Cause;
use touchline_media::supervise::SourceState;

use super::case::{Case, Expect, Site, all, gap, run, secs};
use super::channel::{Channel, Entry, entries};
use super::keys::{KEYS, encrypt};
use super::list::{BREAK, master};
use super::material::{LONG, Mark, WIDE, file, parts};
use super::play::{Next, PlayOptions};
use super::server::{Answer, Body};

/// One-second segments of the long programme with these numbers.
fn long(numbers: std::ops::Range<u64>) -> Vec<Entry> {
    entries("one", "ts", "1.0", numbers, 0)
}

fn site(channel: Channel) -> Site {
    Site::new().on("x.m3u8", move |request| channel.answer(request))
}

/// A channel that is followed to its end from one of its first six seconds, in this number of runs, without reconnects.
fn follow(name: &str, site: Site, runs: usize, seconds: Vec<Option<Mark>>) -> Case {
    Case::new(name, site, Expect::Follows { seconds, join_by: 5, runs: Some(runs) })
        .options(PlayOptions::channel())
        .check(|outcome, _| {
            let other = outcome.failures().into_iter().find(|(kind, _)| *kind != Cause::Ended);
            other.map_or(Ok(()), |(kind, message)| Err(format!("reopened after {kind:?}, {message}")))
        })
}

/// Like [`follow`], with another latest second to join at.
fn join(mut case: Case, join_by: usize, seconds: Vec<Option<Mark>>) -> Case {
    case.expect = Expect::Follows { seconds, join_by, runs: Some(1) };
    case
}

/// The first eighteen seconds without these.
fn but(lost: &[u8]) -> Vec<Option<Mark>> {
    all((0..18).map(|n| if lost.contains(&n) { gap(1) } else { secs(LONG, n..n + 1) }))
}

fn plain() -> Channel {
    Channel::of(long(0..18))
}

#[test]
fn lost_segments_of_channels_are_gaps() {
    let eleventh = "one/s11.ts";
    let lost = |name: &str, answer: Answer| follow(name, site(plain()).answers(eleventh, answer), 1, but(&[11]));
    let with = |name: &str, answers: usize, answer: Answer| {
        let requests = AtomicUsize::new(0);
        let site = site(plain()).on(eleventh, move |_| match requests.fetch_add(1, Ordering::Relaxed) {
            n if n < answers => answer.clone(),
            _ => Answer::bytes(file(eleventh)),
        });
        follow(name, site, 1, but(&[]))
    };
    let marked = |mark: &str| {
        let mut list = long(0..18);
        list[11].before = format!("{mark}\n");
        Channel::of(list)
    };
    let slow = Body::Slow { bytes: file(eleventh), pieces: 10, pause: Duration::from_millis(150) };
    run(vec![
        lost("hangs", Answer::of(Body::Hang)),
        follow("whole", site(plain()), 1, but(&[])),
        lost("404", Answer::status(404)),
        lost("503", Answer::status(503)),
        lost("closed", Answer::of(Body::Close)),
        lost("empty", Answer::bytes(&b""[..])),
        follow("EXT-X-GAP", site(marked("#EXT-X-GAP")).answers(eleventh, Answer::status(404)), 1, but(&[11]))
            .never_requests("one/s11."),
        follow(
            "two in a row",
            site(plain()).answers(eleventh, Answer::status(404)).answers("one/s12.ts", Answer::status(404)),
            1,
            but(&[11, 12]),
        ),
        follow("the last", site(plain()).answers("one/s17.ts", Answer::status(404)), 1, but(&[17])),
        with("404 twice", 2, Answer::status(404)),
        with("reset once", 1, Answer::of(Body::Reset)),
        with("late", usize::MAX, Answer::bytes(file(eleventh)).late(Duration::from_millis(2500))),
        with("in pieces", usize::MAX, Answer::of(slow)),
        follow(
            "404 after a break",
            {
                let mut list = long(0..18);
                list[11].before = format!("{BREAK}\n");
                site(Channel::of(list)).answers(eleventh, Answer::status(404))
            },
            2,
            but(&[11]),
        ),
    ]);
}

#[test]
fn short_failures_of_a_playlist_lose_no_second() {
    let whole = plain();
    let cut =
        Body::Short { sent: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MED"[..].into(), declared: 500, hang: false };
    let mut cases = Vec::new();
    for (name, times, answer) in [
        ("hangs", 1, Answer::of(Body::Hang)),
        ("404", 1, Answer::status(404)),
        ("503 three times", 3, Answer::status(503)),
        ("closed twice", 2, Answer::of(Body::Close)),
        ("reset", 1, Answer::of(Body::Reset)),
        ("cut off", 1, Answer::of(cut)),
        ("a page", 1, Answer::page("<html>be right back</html>")),
        ("empty", 1, Answer::list("")),
        ("damaged", 1, Answer::list("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n#EXT-X-ENDLIST\n")),
        (
            "no numbers",
            1,
            Answer::list("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:3\n#EXTINF:nan,\none/s3.ts\n"),
        ),
        ("without segments", 1, Answer::list("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:9\n")),
    ] {
        cases.push(follow(name, site(plain().instead(4..4 + times, &answer)), 1, but(&[])));
    }
    // An old playlist from a cache.
    let stale = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:1\n#EXTINF:1,\none/s1.ts\n#EXTINF:1,\none/s2.ts\n#EXTINF:1,\none/s3.ts\n#EXTINF:1,\none/s4.ts\n#EXTINF:1,\none/s5.ts\n#EXTINF:1,\none/s6.ts\n";
    cases.push(follow("a playlist of two seconds ago", site(whole.instead(4..5, &Answer::list(stale))), 1, but(&[])));
    run(cases);
}

#[test]
fn discontinuities_and_packager_restarts_start_runs() {
    // The segments of the advertisement last two seconds. Its fMP4 starts at decode time 0 with its own initialisation section.
    let advert = |main: &str, folder: &str, extension: &str| {
        let mut list = entries(main, extension, "1.0", 0..8, 0);
        let mut ad = entries(folder, extension, "2.0", 0..2, 8);
        let mut rest = entries(main, extension, "1.0", 8..16, 10);
        ad[0].before = format!("{BREAK}\n");
        rest[0].before = format!("{BREAK}\n");
        list.extend(ad);
        list.extend(rest);
        Channel { target: 2, ..Channel::of(list) }
    };
    let with_advert = || all([secs(LONG, 0..8), secs(WIDE, 0..4), secs(LONG, 8..16)]);
    let restarted = |mark: &str| {
        let mut list = entries("one", "ts", "1.0", 0..10, 100);
        let mut restart = entries("one", "ts", "1.0", 30..42, 0);
        restart[0].is_restart = true;
        restart[0].before = mark.to_owned();
        list.extend(restart);
        Channel::of(list)
    };
    let both = || all([secs(LONG, 0..10), secs(LONG, 30..42)]);
    let dates = {
        let mut list = long(0..18);
        for (n, date) in [(7, "2031-01-01T00:00:00Z"), (8, "1969-12-31T23:59:59Z"), (12, "9999999-99-99T99:99:99Z")] {
            list[n].before = format!("#EXT-X-PROGRAM-DATE-TIME:{date}\n");
        }
        Channel::of(list)
    };
    let each = {
        let mut list = long(0..18);
        list.iter_mut().for_each(|entry| entry.before = format!("{BREAK}\n"));
        Channel::of(list)
    };
    let mut runs_by_join = follow("a break at each segment", site(each), 0, but(&[]));
    runs_by_join.expect = Expect::Follows { seconds: but(&[]), join_by: 5, runs: None };
    run(vec![
        follow("an advertisement, TS", site(advert("one", "tswide", "ts")), 3, with_advert()),
        follow("an advertisement, fMP4", site(advert("onef", "f4wide", "m4s")), 3, with_advert()),
        follow(
            "an advertisement without its second half",
            site(advert("one", "tswide", "ts")).answers("tswide/s1.ts", Answer::status(404)),
            3,
            all([secs(LONG, 0..8), secs(WIDE, 0..2), gap(2), secs(LONG, 8..16)]),
        ),
        follow("a packager that restarts", site(restarted("")), 2, both()),
        follow("a packager that restarts with a discontinuity", site(restarted("#EXT-X-DISCONTINUITY\n")), 2, both()),
        follow("dates that jump", site(dates), 1, but(&[])),
        runs_by_join,
    ]);
}

#[test]
fn windows_of_any_length_are_joined_at_the_live_edge() {
    let near = |case: Case, join_by: usize, seconds| {
        // The join must not be far from the edge.
        join(case, join_by, seconds).check(move |outcome, _| match outcome.seconds.first().and_then(|s| s.mark) {
            Some(Mark(_, second)) if usize::from(second) + 12 < join_by => Err(format!("joined far back, at {second}")),
            _ => Ok(()),
        })
    };
    let windowed =
        |window: usize, head: &str| Channel { first: 40, window, head: head.to_owned(), ..Channel::of(long(0..52)) };
    let fifty_two = || secs(LONG, 0..52);
    let of = |name: &str, channel: Channel| {
        near(follow(name, site(channel), 1, vec![]), 39, fifty_two()).never_requests("one/s20.")
    };
    let small = |window: usize| Channel { first: window, window, ..Channel::of(long(0..14)) };
    // A playlist with a whole day of segments before the edge. Their URIs have 400 bytes, and all of them are missing.
    let day = {
        let filler = |n: u64| Entry {
            sequence: n,
            seconds: "2.0".into(),
            uri: format!("old/{n}/{}.ts", "x".repeat(380)),
            ..Entry::default()
        };
        let mut list: Vec<Entry> = (0..43_200).map(filler).collect();
        list.extend(entries("lts", "ts", "2.0", 0..12, 43_200));
        Channel { first: 43_206, window: 0, target: 2, ..Channel::of(list) }
    };
    run(vec![
        near(follow("a day", site(day), 1, vec![]), 11, secs(LONG, 0..24)).never_requests("old/"),
        of("an event", windowed(0, "#EXT-X-PLAYLIST-TYPE:EVENT\n")),
        of("a growing list", windowed(0, "")),
        of("a window of thirty", windowed(30, "")),
        of("a requested start", windowed(0, "#EXT-X-START:TIME-OFFSET=-3.0,PRECISE=YES\n")),
        near(follow("a window of three", site(small(3)), 1, vec![]), 4, secs(LONG, 0..14)),
        near(follow("a window of two", site(small(2)), 1, vec![]), 3, secs(LONG, 0..14)),
        near(follow("a window of one", site(small(1)), 1, vec![]), 2, secs(LONG, 0..14)),
        near(
            follow("a channel that has just begun", site(Channel { first: 1, ..Channel::of(long(0..14)) }), 1, vec![]),
            2,
            secs(LONG, 0..14),
        ),
    ]);
}

/// A low-latency channel. It publishes the part that a request waits for.
fn low_latency() -> Site {
    let (init, fragments) = parts();
    let fragments = Arc::new(fragments);
    let part = fragments.clone();
    let (first, total) = (6usize, 11usize);
    let published = Arc::new(parking_lot::Mutex::new(first * 5));
    Site::new()
        .on("x.m3u8", move |request| {
            let mut published = published.lock();
            let number = |key: &str| request.query(key).and_then(|n| n.parse::<usize>().ok());
            let wanted = number("_HLS_msn").map(|msn| msn * 5 + number("_HLS_part").unwrap_or(4) + 1);
            // A blocking request publishes the parts up to the requested one, any other request two parts.
            let more = wanted.map_or(2, |wanted| wanted.saturating_sub(*published).min(5));
            *published = (*published + more).min(total * 5);
            let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:2\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.2\n#EXT-X-PART-INF:PART-TARGET=0.4\n");
            let (whole, rest) = (*published / 5, *published % 5);
            let from = whole.saturating_sub(6);
            text += &format!("#EXT-X-MEDIA-SEQUENCE:{from}\n#EXT-X-MAP:URI=\"init.mp4\"\n");
            let part = |n: usize, k: usize| {
                let mark = if k == 0 { ",INDEPENDENT=YES" } else { "" };
                format!("#EXT-X-PART:DURATION=0.4,URI=\"p{n}.{k}.m4s\"{mark}\n")
            };
            for n in from..whole {
                if n + 3 > whole {
                    text += &(0..5).map(|k| part(n, k)).collect::<String>();
                }
                text += &format!("#EXTINF:2.0,\nw{n}.m4s\n");
            }
            if *published == total * 5 {
                text += "#EXT-X-ENDLIST\n";
            } else {
                text += &(0..rest).map(|k| part(whole, k)).collect::<String>();
                text += &format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"p{whole}.{rest}.m4s\"\n");
            }
            Answer::list(text).late(Duration::from_millis(400 * more.min(2) as u64))
        })
        .answers("init.mp4", Answer::bytes(init))
        .any(move |request| {
            let name = request.path().strip_suffix(".m4s")?;
            if let Some(n) = name.strip_prefix('w').and_then(|n| n.parse::<usize>().ok()) {
                return Some(Answer::bytes(part.get(n * 5..n * 5 + 5)?.concat()));
            }
            let (n, k) = name.strip_prefix('p')?.split_once('.')?;
            let n = n.parse::<usize>().ok()? * 5 + k.parse::<usize>().ok()?;
            Some(Answer::bytes(part.get(n)?.clone()))
        })
}

#[test]
fn channels_of_every_form_play() {
    let encrypted = {
        let mut list = long(0..18);
        for n in (0..18).step_by(4) {
            list[n].before = format!("#EXT-X-KEY:METHOD=AES-128,URI=\"k{}\"\n", n / 4 % 2);
        }
        // A playlist that starts between two keys has the current one.
        for n in 0..18 {
            if list[n].before.is_empty() {
                list[n].before = list[n - 1].before.clone();
            }
        }
        let keys = |n: usize| Answer::bytes(KEYS[n]);
        site(Channel::of(list)).answers("k0", keys(0)).answers("k1", keys(1)).any(|request| {
            let n: usize = request.path().strip_prefix("one/s")?.strip_suffix(".ts")?.parse().ok()?;
            Some(Answer::bytes(encrypt(&file(request.path()), &KEYS[n / 4 % 2], n as u128)))
        })
    };
    let apart = {
        let channel = Channel { target: 2, first: 4, window: 5, ..Channel::of(entries("la/v", "ts", "2.0", 0..10, 0)) };
        let sound = channel.clone();
        let media = "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"n\",DEFAULT=YES,URI=\"a.m3u8\"\n";
        site(channel)
            .text("m.m3u8", master(media, &[("BANDWIDTH=900000,RESOLUTION=320x240,AUDIO=\"a\"", "x.m3u8")]))
            .on("a.m3u8", move |_| sound.twin(|uri| uri.replace("la/v", "la/a")))
    };
    let moving = {
        let channel = plain();
        let requests = AtomicUsize::new(0);
        Site::new()
            .on("x.m3u8", move |_| {
                let n = requests.fetch_add(1, Ordering::Relaxed);
                Answer::redirect(302, format!("/edge{}/x.m3u8?session={n}", n % 2))
            })
            .any(move |request| match request.path() {
                "edge0/x.m3u8" | "edge1/x.m3u8" => Some(channel.answer(request)),
                path => Some(super::case::from_material(path.strip_prefix("edge0/").or(path.strip_prefix("edge1/"))?)),
            })
    };
    // Two variants of one channel. The selected one dies at its tenth segment.
    let dying = {
        let selected = plain();
        let other = selected.clone();
        let is_dead = Arc::new(AtomicBool::new(false));
        let dead = is_dead.clone();
        Site::new()
            .text(
                "m.m3u8",
                master(
                    "",
                    &[
                        ("BANDWIDTH=900000,RESOLUTION=640x478", "a/x.m3u8"),
                        ("BANDWIDTH=900000,RESOLUTION=640x480", "b/x.m3u8"),
                    ],
                ),
            )
            .on("a/x.m3u8", move |request| {
                if is_dead.load(Ordering::Acquire) { Answer::status(404) } else { selected.answer(request) }
            })
            .on("b/x.m3u8", move |request| other.answer(request))
            .any(move |request| {
                let path = request.path();
                if path == "a/one/s10.ts" {
                    dead.store(true, Ordering::Release);
                }
                if path.starts_with("a/") && dead.load(Ordering::Acquire) {
                    return Some(Answer::status(404));
                }
                Some(super::case::from_material(path.strip_prefix("a/").or(path.strip_prefix("b/"))?))
            })
    };
    let list = |extension: &str, folder: &str| Channel::of(entries(folder, extension, "1.0", 0..18, 0));
    run(vec![
        join(follow("separate sound", apart, 1, vec![]).at("m.m3u8"), 7, secs(LONG, 0..20)),
        join(follow("low latency", low_latency(), 1, vec![]).mute(), 12, secs(LONG, 0..22)),
        follow("fMP4", site(list("m4s", "onef")), 1, but(&[])),
        follow("keys that rotate", encrypted, 1, but(&[])),
        follow("another address each time", moving, 1, but(&[])),
        {
            // The pictures of the two variants are the same, so the number of runs is not checked.
            let mut case = follow("a variant that dies", dying, 1, but(&[])).at("m.m3u8");
            case.expect = Expect::Follows { seconds: but(&[]), join_by: 5, runs: None };
            case
        },
        {
            let channel = plain();
            let site =
                Site::new().on("live.php", move |request| channel.answer(request).with("Content-Type", "text/html"));
            follow("without a name", site, 1, but(&[])).at("live.php")
        },
    ]);
}

/// A packager stops with `EXT-X-ENDLIST` and returns: the source retries, and no second is decided twice.
#[test]
fn a_channel_with_an_end_mark_is_retried() {
    let back = Arc::new(AtomicBool::new(false));
    let (is_back, set_back) = (back.clone(), back);
    let before = plain();
    let mut rest = long(0..30);
    rest.drain(..12);
    let after = Channel { first: 7, ..Channel::of(rest) };
    let site = Site::new().on("x.m3u8", move |request| match is_back.load(Ordering::Acquire) {
        true => after.answer(request),
        false => before.answer(request),
    });
    let mut ends = 0;
    let on_state = move |state: &SourceState| match state {
        SourceState::Ended | SourceState::Failed { .. } => Next::Stop,
        SourceState::Waiting { kind: Cause::Ended, .. } => {
            ends += 1;
            // The packager returns after the third end mark.
            set_back.store(ends >= 3, Ordering::Release);
            Next::Continue
        }
        _ => Next::Continue,
    };
    let mut plays = 0;
    let mut on_state_inner = on_state;
    let on_state = move |state: &SourceState| {
        plays += usize::from(*state == SourceState::Playing);
        match (plays, state) {
            (2.., SourceState::Waiting { kind: Cause::Ended, .. }) => Next::Stop,
            _ => on_state_inner(state),
        }
    };
    let options = PlayOptions { on_state: Box::new(on_state), ..PlayOptions::channel() };
    let case = follow("stops and comes back", site, 2, secs(LONG, 0..30)).options(options);
    run(vec![case]);
}
