//! Discontinuities in recordings: each starts one run, which has all its seconds and no extra gaps.

use super::case::{Case, Site, all, counts, fails, gap, in_runs, or, run, secs};
use super::list::{BREAK, List, plain, segment};
use super::material::{BASE, BIG, LONG, WIDE};
use super::server::Answer;

fn ts(folder: &str, numbers: std::ops::Range<u64>) -> List {
    List::segments(folder, "ts", numbers)
}

fn fmp4(folder: &str, numbers: std::ops::Range<u64>) -> List {
    List::segments(folder, "m4s", numbers).before(0, &format!("#EXT-X-MAP:URI=\"{folder}/init.mp4\""))
}

/// The parts with a discontinuity between each two.
fn broken(parts: impl IntoIterator<Item = List>) -> List {
    let mut parts = parts.into_iter();
    let first = parts.next().expect("one part at least");
    parts.fold(first, |list, part| list.then(part.before(0, BREAK)))
}

#[test]
fn each_discontinuity_starts_one_run() {
    let of = |name: &str, list: List, runs: usize, seconds| Case::new(name, Site::of(&list), in_runs(runs, seconds));
    let base = |seconds: std::ops::Range<u8>| secs(BASE, seconds);
    run(vec![
        of(
            "another size in between",
            broken([ts("ts", 0..3), ts("tswide", 0..2), ts("ts", 3..6)]),
            3,
            all([base(0..6), secs(WIDE, 0..4), base(6..12)]),
        ),
        of("a larger size", broken([ts("ts", 0..6), ts("tsbig", 0..6)]), 2, all([base(0..12), secs(BIG, 0..12)])),
        of(
            "fMP4, another size in between",
            broken([fmp4("f4", 0..3), fmp4("f4wide", 0..2), fmp4("f4", 3..6)]),
            3,
            all([base(0..6), secs(WIDE, 0..4), base(6..12)]),
        ),
        of("fMP4, the same again", broken([fmp4("f4", 0..6), fmp4("f4", 0..2)]), 2, all([base(0..12), base(0..4)])),
        of("TS, then fMP4", broken([ts("ts", 0..3), fmp4("f4wide", 0..3)]), 2, all([base(0..6), secs(WIDE, 0..6)])),
        of("fMP4, then TS", broken([fmp4("f4", 0..3), ts("tswide", 0..3)]), 2, all([base(0..6), secs(WIDE, 0..6)])),
        of("time stamps that start over", broken([ts("ts", 0..3), ts("ts", 0..3)]), 2, all([base(0..6), base(0..6)])),
        of("time stamps that continue", broken([ts("ts", 0..3), ts("ts", 3..6)]), 2, base(0..12)),
        of("time stamps that jump far", broken([ts("ts", 0..3), ts("wrap", 3..6)]), 2, all([base(0..6), base(6..12)])),
        of("a break at each segment", broken((0..6).map(|n| ts("ts", n..n + 1))), 6, base(0..12)),
        of("a break before the first", plain().before(0, BREAK), 1, base(0..12)),
        of("two breaks in one place", plain().before(3, BREAK).before(3, BREAK), 2, base(0..12)),
        of(
            "a break after the last",
            {
                let last = format!("{}\n{BREAK}", segment("ts/s5.ts"));
                plain().replace(5, last)
            },
            1,
            base(0..12),
        ),
        of(
            "a long programme cut at random",
            broken([ts("lts", 11..14), ts("lts", 2..5)]),
            2,
            all([secs(LONG, 22..28), secs(LONG, 4..10)]),
        ),
        Case::new(
            "pictures without sound in between",
            Site::of(&broken([ts("ts", 0..3), ts("av/v", 0..2), ts("ts", 3..6)])),
            in_runs(3, all([base(0..6), base(0..4), base(6..12)])),
        )
        .mute(),
        Case::new(
            "sound without pictures in between",
            Site::of(&broken([ts("ts", 0..3), ts("av/a", 0..2), ts("ts", 3..6)])),
            counts(16..=16, 16..=16),
        ),
    ]);
}

#[test]
fn lost_segments_next_to_discontinuities_are_gaps() {
    let lost = |list: &List, path: &str| Site::of(list).answers(path, Answer::status(404));
    let two = broken([ts("ts", 0..3), ts("tswide", 0..3)]);
    let maps = broken([fmp4("f4", 0..3), fmp4("f4wide", 0..3)]);
    let half = secs(BASE, 0..6);
    run(vec![
        Case::new(
            "the first after a break",
            lost(&two, "tswide/s0.ts"),
            in_runs(2, all([half.clone(), gap(2), secs(WIDE, 2..6)])),
        ),
        Case::new(
            "the last before a break",
            lost(&two, "ts/s2.ts"),
            in_runs(2, all([secs(BASE, 0..4), gap(2), secs(WIDE, 0..6)])),
        ),
        Case::new(
            "both sides of a break",
            lost(&two, "ts/s2.ts").answers("tswide/s0.ts", Answer::status(503)),
            in_runs(2, all([secs(BASE, 0..4), gap(4), secs(WIDE, 2..6)])),
        ),
        Case::new(
            "the initialisation after a break",
            lost(&maps, "f4wide/init.mp4"),
            or(super::case::Expect::Shows { seconds: all([half.clone(), gap(6)]), runs: None }, fails(&["404"])),
        ),
        Case::new(
            "the initialisation",
            lost(&fmp4("f4", 0..6), "f4/init.mp4"),
            or(fails(&["404"]), counts(0..=0, 12..=12)),
        ),
        // A part without any segment may be a run of gaps, or gaps of another run. Its seconds count in both cases.
        Case::new(
            "a whole part",
            (0..2).fold(Site::of(&broken([ts("ts", 0..3), ts("tswide", 0..2), ts("ts", 3..6)])), |site, n| {
                site.answers(&format!("tswide/s{n}.ts"), Answer::status(404))
            }),
            super::case::Expect::Shows { seconds: all([half, gap(4), secs(BASE, 6..12)]), runs: None },
        ),
        // No tag announces the change, but all seconds are decided.
        Case::new(
            "another initialisation without a break",
            Site::of(&fmp4("f4", 0..3).then(fmp4("f4wide", 3..6))),
            counts(12..=12, 12..=12),
        ),
    ]);
}
