//! Random recordings, compared with a model of the expected seconds.
//!
//! `TOUCHLINE_HLS_SEED` is the first seed, `TOUCHLINE_HLS_CASES` the number of cases. A failed case names its seed. To play it alone:
//! `TOUCHLINE_HLS_SEED=SEED TOUCHLINE_HLS_CASES=1`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::case::{Case, Expect, Site, all, gap, run, secs};
use super::keys::{KEYS, encrypt};
use super::list::{BREAK, List, segment_of};
use super::lost::noise;
use super::material::{BASE, BIG, LONG, LONG_S, Mark, WIDE, file};
use super::server::{Answer, Body};

/// Folder, extension, programme, and the number of two-second segments.
const PROGRAMMES: [(&str, &str, u8, u64); 7] = [
    ("ts", "ts", BASE, 6),
    ("tsbig", "ts", BIG, 6),
    ("tswide", "ts", WIDE, 6),
    ("f4", "m4s", BASE, 6),
    ("f4wide", "m4s", WIDE, 6),
    ("lts", "ts", LONG, LONG_S as u64 / 2),
    ("lf4", "m4s", LONG, LONG_S as u64 / 2),
];

/// Lines without effect, or with invalid content.
const LINES: [&str; 12] = [
    "",
    "   ",
    "# a comment",
    "#EXT-X-NOBODY-KNOWS:1,2,\"",
    "#EXT-X-PROGRAM-DATE-TIME:yesterday",
    "#EXT-X-PROGRAM-DATE-TIME:2031-02-03T04:05:06.789+01:00",
    "#EXT-X-DATERANGE:ID=\"x\",START-DATE=\"never\"",
    "#EXT-X-BITRATE:-1",
    "#EXTVLCOPT:network-caching=1000",
    "#EXT-X-CUE-OUT:ELAPSED=nan",
    "#EXT-OATCLS-SCTE35:/DA==",
    "\t#\u{fffd}\u{feff}",
];

fn failure(random: &mut SmallRng) -> Answer {
    match random.random_range(0..11) {
        0..4 => Answer::status(404),
        4 => Answer::status(403),
        5 => Answer::status(410),
        6 => Answer::status(503),
        7 => Answer::of(Body::Close),
        8 => Answer::of(Body::Reset),
        9 => Answer::bytes(&b""[..]),
        _ => Answer::page("<html>gone</html>"),
    }
}

/// A random recording: its site, the expected seconds and number of runs, and its playlist.
fn recording(seed: u64) -> (Site, Vec<Option<Mark>>, Option<usize>, String) {
    let mut random = SmallRng::seed_from_u64(seed);
    let sequence = [0, 1, 77, 1_000_000][random.random_range(0..4)];
    let (mut list, mut site) = (List::of([]).sequence(sequence), Site::new());
    let (mut seconds, mut runs, mut good_ones) = (Vec::new(), Some(0), 0);
    let parts = random.random_range(1..=4);
    for part in 0..parts {
        let (folder, extension, programme, length) = PROGRAMMES[random.random_range(0..PROGRAMMES.len())];
        let count = random.random_range(1..=4).min(length);
        let first = random.random_range(0..=length - count);
        let is_last_part = part + 1 == parts;
        let mut before = String::new();
        if part > 0 {
            before += &format!("{BREAK}\n");
        }
        if extension == "m4s" {
            before += &format!("#EXT-X-KEY:METHOD=NONE\n#EXT-X-MAP:URI=\"{folder}/init.mp4\"\n");
        }
        // Only TS is encrypted here.
        let key = (extension == "ts" && random.random_bool(0.3)).then(|| random.random_range(0..2usize));
        let iv = random.random_bool(0.5).then(|| random.random::<u128>());
        if extension == "ts" {
            before += &match (key, iv) {
                (None, _) => "#EXT-X-KEY:METHOD=NONE\n".to_owned(),
                (Some(key), None) => format!("#EXT-X-KEY:METHOD=AES-128,URI=\"k{key}\"\n"),
                (Some(key), Some(iv)) => format!("#EXT-X-KEY:METHOD=AES-128,URI=\"k{key}\",IV=0x{iv:032x}\n"),
            };
        }
        let mut has_good = false;
        for n in first..first + count {
            let index = list.entries.len();
            let uri = format!("{index}.{extension}");
            let bytes = file(&format!("{folder}/s{n}.{extension}"));
            let bytes = match key {
                Some(key) => encrypt(&bytes, &KEYS[key], iv.unwrap_or(u128::from(sequence) + index as u128)),
                None => bytes,
            };
            let whole = Answer::bytes(bytes);
            let must_be_good = is_last_part && n + 1 == first + count && good_ones == 0;
            let mut tag = "";
            let is_good = match random.random_range(0..100) {
                _ if must_be_good => {
                    site = site.answers(&uri, whole);
                    true
                }
                0..8 => {
                    tag = "#EXT-X-GAP\n";
                    site = site.answers(&uri, Answer::status(500));
                    false
                }
                8..18 => {
                    site = site.answers(&uri, failure(&mut random));
                    false
                }
                18..20 if key.is_none() => {
                    site = site.answers(&uri, Answer::bytes(noise(30_000)));
                    false
                }
                20..28 => {
                    let (times, answer) = (random.random_range(1..=2), failure(&mut random));
                    let requests = Arc::new(AtomicUsize::new(0));
                    site = site.on(&uri, move |_| match requests.fetch_add(1, Ordering::Relaxed) {
                        n if n < times => answer.clone(),
                        _ => whole.clone(),
                    });
                    true
                }
                _ => {
                    site = site.answers(&uri, whole);
                    true
                }
            };
            if random.random_bool(0.2) {
                before += LINES[random.random_range(0..LINES.len())];
                before.push('\n');
            }
            let duration = ["2", "2.0", "2.000000", "2.00"][random.random_range(0..4)];
            list.entries.push(format!("{before}{tag}{}", segment_of(duration, &uri)));
            before.clear();
            seconds.push(if is_good { secs(programme, [2 * n as u8, 2 * n as u8 + 1]) } else { gap(2) });
            has_good |= is_good;
            good_ones += usize::from(is_good);
        }
        // A part without any good segment may be a run of gaps, or gaps of the previous run.
        runs = runs.filter(|_| has_good).map(|runs| runs + 1);
    }
    let text = list.text();
    let site = site.answers("k0", Answer::bytes(KEYS[0])).answers("k1", Answer::bytes(KEYS[1]));
    (site.text("x.m3u8", text.clone()), all(seconds), runs, text)
}

#[test]
fn random_recordings_match_the_model() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
    };
    let (first, count) = (number("TOUCHLINE_HLS_SEED", 1), number("TOUCHLINE_HLS_CASES", 36));
    run((first..first + count)
        .map(|seed| {
            let (site, seconds, runs, text) = recording(seed);
            Case::new(format!("seed {seed}"), site, Expect::Shows { seconds, runs }).explained(text)
        })
        .collect());
}
