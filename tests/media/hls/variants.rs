//! The choice of variant and rendition, and the fallback when one is dead or dies.

use touchline_core::cause::Cause;

use super::case::{Case, Expect, Site, counts, fails, from_material, or, run, secs, shows, whole};
use super::list::{List, master, plain};
use super::material::{BASE, BIG, Mark};
use super::play::PlayOptions;
use super::server::{Answer, Body};

const SMALL: &str = "BANDWIDTH=300000,RESOLUTION=320x240";
const LARGE: &str = "BANDWIDTH=900000,RESOLUTION=640x480";

fn of(name: &str, text: impl Into<String>, expect: Expect) -> Case {
    Case::new(name, Site::new().text("m.m3u8", text), expect).at("m.m3u8")
}

fn big() -> Expect {
    shows(secs(BIG, 0..12))
}

fn height(case: Case, frame_height: u32) -> Case {
    case.options(PlayOptions { frame_height, ..PlayOptions::recording() })
}

#[test]
fn the_smallest_sufficient_variant_is_selected() {
    let (small, large) = ((SMALL, "ts/index.m3u8"), (LARGE, "tsbig/index.m3u8"));
    let radio = ("BANDWIDTH=64000,CODECS=\"mp4a.40.2\"", "av/a/index.m3u8");
    let both = master("", &[small, large]);
    let reversed = master("", &[large, small]);
    let plain = ("BANDWIDTH=300000", "ts/index.m3u8");
    run(vec![
        height(of("240 lines", both.clone(), whole()), 240).never_requests("tsbig/"),
        height(of("240 lines, the other way round", reversed.clone(), whole()), 240).never_requests("tsbig/"),
        height(of("fewer than any variant", both.clone(), whole()), 100).never_requests("tsbig/"),
        height(of("between the two", both.clone(), big()), 360).never_requests("ts/"),
        height(of("480 lines", reversed, big()), 480).never_requests("ts/"),
        height(of("more than any variant", both, big()), 1080).never_requests("ts/"),
        of("sound only comes second", master("", &[plain, radio]), whole()),
        of("sound only comes first", master("", &[radio, plain]), whole()),
        of(
            "sound only comes first, by its codecs",
            master("", &[radio, ("BANDWIDTH=900000,CODECS=\"avc1.42c00d,mp4a.40.2\"", "ts/index.m3u8")]),
            whole(),
        ),
        of(
            "without sizes",
            master("", &[("BANDWIDTH=300000", "ts/index.m3u8"), ("BANDWIDTH=900000", "tsbig/index.m3u8")]),
            Expect::OneOf(vec![whole(), big()]),
        ),
        of("invalid sizes", master("", &[("RESOLUTION=axb,CODECS=\",\"", "ts/index.m3u8")]), whole()),
        of("only sound", master("", &[radio]), counts(12..=12, 12..=12)),
        of(
            "the same size twice",
            master("", &[small, ("BANDWIDTH=200000,RESOLUTION=320x240", "ts/index.m3u8")]),
            whole(),
        ),
        of("a master without attributes of its variant", "#EXTM3U\n#EXT-X-STREAM-INF:\nts/index.m3u8\n", whole()),
        of(
            "a variant with an unknown codec",
            master("", &[("BANDWIDTH=1,RESOLUTION=320x240,CODECS=\"xyz1.1\"", "none/index.m3u8"), small]),
            whole(),
        ),
        of(
            "only I-frame variants",
            "#EXTM3U\n#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"ts/index.m3u8\"\n",
            Expect::OneOf(vec![fails(&[""]), whole()]),
        ),
        of(
            "a variant that is a master",
            master("", &[("BANDWIDTH=1", "again.m3u8")]),
            Expect::OneOf(vec![fails(&["damaged playlist", "master"])]),
        ),
    ]
    .into_iter()
    .map(|case| {
        if case.name == "a variant that is a master" {
            Case { serve: Site::new().text("m.m3u8", master("", &[("BANDWIDTH=1", "m.m3u8")])).serve(), ..case }
        } else {
            case
        }
    })
    .collect());
}

#[test]
fn the_next_variant_replaces_a_dead_one() {
    let mut cases = Vec::new();
    for (name, answer) in [
        ("hangs", Answer::of(Body::Hang)),
        ("404", Answer::status(404)),
        ("403", Answer::status(403)),
        ("503", Answer::status(503)),
        ("closed", Answer::of(Body::Close)),
        ("reset", Answer::of(Body::Reset)),
        ("a page", Answer::page("<!DOCTYPE html><title>no</title>")),
        ("empty", Answer::list("")),
        ("damaged", Answer::list("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n#EXT-X-ENDLIST\n")),
        ("without segments", Answer::list("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-ENDLIST\n")),
    ] {
        for first in [true, false] {
            let (dead, alive) = ((SMALL, "dead/index.m3u8"), ("BANDWIDTH=900000,RESOLUTION=320x240", "ts/index.m3u8"));
            let text = master("", &if first { [dead, alive] } else { [alive, dead] });
            let site = Site::new().text("m.m3u8", text).answers("dead/index.m3u8", answer.clone());
            let order = if first { "first" } else { "second" };
            cases.push(Case::new(format!("{name}, {order}"), site, whole()).at("m.m3u8"));
        }
    }
    let twice = |answer: Answer| {
        let text = master("", &[(SMALL, "a/index.m3u8"), (LARGE, "b/index.m3u8")]);
        Site::new().text("m.m3u8", text).answers("a/index.m3u8", answer.clone()).answers("b/index.m3u8", answer)
    };
    cases.push(
        Case::new(
            "all are 404",
            twice(Answer::status(404)),
            super::case::fails_with_cause(&[Cause::NotFound], &["404"]),
        )
        .at("m.m3u8"),
    );
    cases.push(
        Case::new(
            "all are 503",
            twice(Answer::status(503)),
            super::case::fails_with_cause(&[Cause::ServerError], &["503"]),
        )
        .at("m.m3u8"),
    );
    cases.push(Case::new("all are pages", twice(Answer::page("<html></html>")), fails(&["a web page"])).at("m.m3u8"));
    cases.push(
        Case::new(
            "all are DRM",
            {
                let list = plain().head("#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"k\"");
                twice(Answer::list(list.text()))
            },
            super::case::fails_with_cause(&[Cause::Encrypted], &["encrypted", "DRM"]),
        )
        .at("m.m3u8"),
    );
    // The segments of the first variant are missing from the middle on, those of the other are not.
    let text = master(
        "",
        &[
            ("BANDWIDTH=900000,RESOLUTION=320x240", "a/index.m3u8"),
            ("BANDWIDTH=300000,RESOLUTION=320x240", "b/index.m3u8"),
        ],
    );
    let dying = Site::new().text("m.m3u8", text).any(|request| {
        let path = request.path();
        if path.starts_with("a/s") && path >= "a/s3" {
            return Some(Answer::status(404));
        }
        let rest = path.strip_prefix("a/").or(path.strip_prefix("b/"))?;
        Some(from_material(&format!("ts/{rest}")))
    });
    let marked = Case::new("its segments end in the middle", dying, counts(6..=12, 12..=12)).at("m.m3u8");
    cases.push(marked.check(|outcome, _| {
        let wrong = |(n, second): (usize, &super::play::Second)| {
            (!second.is_gap && second.mark != Some(Mark(BASE, n as u8))).then_some(n)
        };
        match outcome.seconds.iter().enumerate().find_map(wrong) {
            None => Ok(()),
            Some(n) => Err(format!("second {n} shows {:?}", outcome.seconds[n].mark)),
        }
    }));
    run(cases);
}

#[test]
fn renditions_are_chosen_and_subtitles_and_iframes_are_ignored() {
    let media = |kind: &str, rest: &str| format!("#EXT-X-MEDIA:TYPE={kind},{rest}\n");
    let subtitles = media(
        "SUBTITLES",
        "GROUP-ID=\"s\",NAME=\"English\",LANGUAGE=\"en\",DEFAULT=YES,AUTOSELECT=YES,URI=\"sub/index.m3u8\"",
    );
    let captions = media("CLOSED-CAPTIONS", "GROUP-ID=\"c\",NAME=\"CC1\",INSTREAM-ID=\"CC1\"");
    let other = media(
        "AUDIO",
        "GROUP-ID=\"a\",NAME=\"Commentary\",LANGUAGE=\"en\",DEFAULT=NO,AUTOSELECT=NO,URI=\"other/index.m3u8\"",
    );
    let default = media(
        "AUDIO",
        "GROUP-ID=\"a\",NAME=\"Stadium\",LANGUAGE=\"de\",DEFAULT=YES,AUTOSELECT=YES,URI=\"av/a/index.m3u8\"",
    );
    let within = media("AUDIO", "GROUP-ID=\"a\",NAME=\"Stadium\",DEFAULT=YES,AUTOSELECT=YES");
    let video = media("VIDEO", "GROUP-ID=\"v\",NAME=\"Main\",DEFAULT=YES");
    let tricks = "#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=100000,RESOLUTION=320x240,URI=\"if/index.m3u8\"\n";
    let all = format!("{subtitles}{captions}{other}{default}{tricks}");
    let apart = |rest: &str| format!("BANDWIDTH=900000,CODECS=\"avc1.42c00d,mp4a.40.2\",RESOLUTION=320x240{rest}");
    let pictures = "av/v/index.m3u8";
    let one = |lines: &str, rest: &str, uri: &str| master(lines, &[(&apart(rest), uri)]);
    let subs = |name: &str, text: String| {
        of(name, text, whole()).never_requests("sub/").never_requests("if/").never_requests("other/")
    };
    run(vec![
        subs("everything", one(&all, ",AUDIO=\"a\",SUBTITLES=\"s\",CLOSED-CAPTIONS=\"c\"", pictures)),
        subs("subtitles", one(&subtitles, ",SUBTITLES=\"s\"", "ts/index.m3u8")),
        subs("two sound renditions", one(&format!("{other}{default}"), ",AUDIO=\"a\"", pictures)),
        subs("the default comes first", one(&format!("{default}{other}"), ",AUDIO=\"a\"", pictures)),
        subs("I-frame variants", one(tricks, "", "ts/index.m3u8")),
        subs("no captions at all", one("", ",CLOSED-CAPTIONS=NONE", "ts/index.m3u8")),
        subs("sound in the variant itself", one(&format!("{within}{other}"), ",AUDIO=\"a\"", "ts/index.m3u8")),
        of("no default", one(&other.replace("other/", "av/a/"), ",AUDIO=\"a\"", pictures), whole()),
        of("a missing group", one("", ",AUDIO=\"zz\"", "ts/index.m3u8"), whole()),
        of("a video group", one(&video, ",VIDEO=\"v\"", "ts/index.m3u8"), whole()),
        of(
            "renditions without names",
            one("#EXT-X-MEDIA:TYPE=AUDIO\n", "", "ts/index.m3u8"),
            or(whole(), fails(&["damaged playlist"])),
        ),
    ]);
}

/// The playlists and segments of a recording are not requested repeatedly.
#[test]
fn a_recording_requests_each_resource_once() {
    let text = master("", &[(SMALL, "ts/index.m3u8")]);
    let case = of("the master is requested at most twice", text, whole()).check(|_, requests| {
        match requests.iter().filter(|r| r.path() == "m.m3u8").count() {
            1..=2 => Ok(()),
            n => Err(format!("the master was requested {n} times")),
        }
    });
    let segments = Case::new("each segment is requested once", Site::of(&List::segments("ts", "ts", 0..6)), whole())
        .check(|_, requests| {
            let twice = (0..6).find(|n| requests.iter().filter(|r| r.path() == format!("ts/s{n}.ts")).count() != 1);
            twice.map_or(Ok(()), |n| Err(format!("segment {n} was not requested exactly once")))
        });
    run(vec![case, segments]);
}
