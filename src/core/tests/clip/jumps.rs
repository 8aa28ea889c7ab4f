//! Breaks of timelines: jumps of PTS, in every order of the tracks, and reconnects.

use touchline_core::clip::ClipOutput;
use touchline_core::item::{Discontinuity, MediaItem, Pace, Track};

use crate::support::*;

fn summary_of_pictures(frames: Vec<MediaItem>) -> String {
    let out = build(config(Pace::Live), stream(video_only(), frames));
    check_invariants(&out, &config(Pace::Live));
    summary(&out)
}

#[test]
fn a_single_track_jumps_immediately() {
    let from =
        |first: u64, then: u64| video(25, 1, first, 2 * S).into_iter().chain(video(25, 1, then, 2 * S)).collect();
    assert_eq!(summary_of_pictures(from(0, 100 * S)), "run0 0.0 0.1 run1:forward 1.100 1.101");
    assert_eq!(summary_of_pictures(from(100 * S, 0)), "run0 0.100 0.101 run1:back 1.0 1.1");
    // 2 s forward from the expected frame is a hole, a little more is a jump.
    assert_eq!(summary_of_pictures(from(0, 4 * S)), "run0 0.0 0.1 gap0.2 gap0.3 0.4 0.5");
    assert_eq!(summary_of_pictures(from(0, 4 * S + 1)), "run0 0.0 0.1 run1:forward 1.4 1.5");
    // 0.5 s back from the last frame is disorder, more is a jump.
    assert_eq!(summary_of_pictures(from(100 * S, 101_460 * MS)), "run0 0.100 0.101 0.102 0.103");
    assert_eq!(summary_of_pictures(from(100 * S, 101_420 * MS)), "run0 0.100 0.101 run1:back 1.101 1.102 1.103");
    // A distant time stamp does not create millions of gaps.
    assert_eq!(
        summary_of_pictures(vec![frame(0), frame(1 << 61), frame(0)]),
        "run0 0.0 run1:forward 1.2305843009 run2:back 2.0"
    );
    // An impossible time stamp is discarded.
    assert_eq!(summary_of_pictures(vec![frame(0), frame(u64::MAX), frame(40 * MS)]), "run0 -video*1 0.0");
}

#[test]
fn sound_alone_jumps_too() {
    let mut items = audio(48_000, 0, 2 * S);
    items.extend(audio(48_000, 50 * S, 2 * S));
    items.extend(audio(48_000, 10 * S, 2 * S));
    let out = build(config(Pace::Live), stream(audio_only(), items));
    assert_eq!(summary(&out), "run0 0.0 0.1 run1:forward 1.50 1.51 run2:back 2.10 2.11");
    assert!(seconds(&out).iter().all(|s| s.audio_missing == 0));
}

/// Both tracks jump from `from` to `to` after 4 s. The sound is sent `late` ns after the pictures.
fn both_jump(from: u64, to: u64, late: i64, sound_to: u64) -> Vec<ClipOutput> {
    let later = |mut items: Vec<Timed>, start: u64, at: u64| {
        items.iter_mut().for_each(|t| t.at = t.at.wrapping_sub(start).wrapping_add(at));
        items
    };
    let mut v = later(timed(video(25, 1, from, 4 * S), 0), from, 10 * S);
    v.extend(later(timed(video(25, 1, to, 4 * S), 0), to, 14 * S));
    let mut a = later(timed(audio(48_000, from, 4 * S), late), from, 10 * S);
    a.extend(later(timed(audio(48_000, sound_to, 4 * S), late), sound_to, 14 * S));
    let out = build(config(Pace::Live), stream(both(), in_order(v, a)));
    check_invariants(&out, &config(Pace::Live));
    out
}

#[test]
fn two_tracks_jump_in_every_order() {
    let delays = [0, 300 * MS as i64, -(300 * MS as i64), 900 * MS as i64, -(900 * MS as i64)];
    for late in delays {
        for (from, to, expected) in [
            (0, 1000 * S, "run0 0.0 0.1 0.2 0.3 run1:forward 1.1000 1.1001 1.1002 1.1003"),
            (1000 * S, 0, "run0 0.1000 0.1001 0.1002 0.1003 run1:back 1.0 1.1 1.2 1.3"),
            // Small jumps: 5 s forward, 1 s back.
            (0, 9 * S, "run0 0.0 0.1 0.2 0.3 run1:forward 1.9 1.10 1.11 1.12"),
            (10 * S, 13 * S, "run0 0.10 0.11 0.12 0.13 run1:back 1.13 1.14 1.15 1.16"),
        ] {
            let out = both_jump(from, to, late, to);
            assert_eq!(summary(&out), expected, "{late}");
            assert!(seconds(&out).iter().all(|s| s.frames_seen == 25 && s.audio_missing == 0), "{late}");
        }
    }
}

#[test]
fn tracks_that_jump_to_different_times_keep_their_distance() {
    // Sound jumps to 0.4 s after the pictures: the run begins with the pictures.
    for late in [0, 300 * MS as i64, -(300 * MS as i64)] {
        let out = both_jump(0, 1000 * S, late, 1000 * S + 400 * MS);
        assert_eq!(summary(&out), "run0 0.0 0.1 0.2 0.3 run1:forward 1.1000 1.1001 1.1002 1.1003 -audio*19200");
        assert_eq!(seconds(&out)[4].audio_missing, 6_400);
    }
}

#[test]
fn late_sound_of_the_old_timeline_does_not_restore_it() {
    // Pictures jump. Sound continues on the old timeline for longer than the lag limit, then follows.
    let (mut v, mut a) = (timed(video(25, 1, 100 * S, 4 * S), 0), timed(audio(48_000, 100 * S, 8 * S), 0));
    v.extend(timed(video(25, 1, 0, 8 * S), 104 * S as i64));
    a.extend(timed(audio(48_000, 4 * S, 4 * S), 104 * S as i64));
    let out = build(config(Pace::Live), stream(both(), in_order(v, a)));
    check_invariants(&out, &config(Pace::Live));
    let runs: Vec<_> = words(&out).into_iter().filter(|w| w.starts_with("run")).collect();
    assert_eq!(runs, ["run0", "run1:back"]);
    let new: Vec<_> = seconds(&out).into_iter().filter(|s| s.run.0 == 1).collect();
    assert_eq!(
        new.iter().map(|s| (s.index, s.frames_seen)).collect::<Vec<_>>(),
        (0..8).map(|i| (i, 25)).collect::<Vec<_>>()
    );
    assert!(new[4..].iter().all(|s| s.audio_missing == 0) && new[..4].iter().all(|s| s.audio.is_none()));
    // 4 s of sound arrive after the jump: 1.5 s of it while the old run is still open, of which the last half second is
    // discarded as its tail. All discarded sound is counted.
    let lost: u64 = out.iter().map(|o| if let ClipOutput::Discarded { count, .. } = o { *count } else { 0 }).sum();
    assert!((143_000..146_000).contains(&lost), "{lost}");
}

#[test]
fn wrong_time_stamps_of_sound_alone_do_not_end_the_run() {
    // Sound jumps to another timeline permanently, and then for 3 s.
    for back_at in [20 * S, 9 * S] {
        let v = timed(video(25, 1, 0, 16 * S), 0);
        let mut a = timed(audio(48_000, 0, 6 * S), 0);
        a.extend(timed(audio(48_000, 500 * S, back_at.min(16 * S) - 6 * S), -(494 * S as i64)));
        a.extend(timed(audio(48_000, back_at.min(16 * S), 16 * S - back_at.min(16 * S)), 0));
        let out = build(config(Pace::Live), stream(both(), in_order(v, a)));
        check_invariants(&out, &config(Pace::Live));
        let pictures: Vec<_> = seconds(&out).into_iter().filter(|s| s.frames_seen > 0).collect();
        assert_eq!(pictures.len(), 16);
        assert!(pictures.iter().all(|s| s.run.0 == 0 && s.frames_seen == 25));
        for second in pictures {
            let is_lost = (6 * S..back_at.min(16 * S)).contains(&(second.index * S));
            assert_eq!(second.audio.is_none(), is_lost, "{}", second.index);
        }
    }
}

#[test]
fn a_single_wrong_time_stamp_starts_no_run() {
    // A frame with a wrong PTS in a stream with sound.
    let mut v = timed(video(25, 1, 0, 6 * S), 0);
    v.insert(60, Timed { at: 59 * 40 * MS, item: frame(7777 * S) });
    let out = build(config(Pace::Live), stream(both(), in_order(v, timed(audio(48_000, 0, 6 * S), 0))));
    assert_eq!(summary(&out), "run0 0.0 0.1 -video*1 0.2 0.3 0.4 0.5");
    assert!(seconds(&out).iter().all(|s| s.frames_seen == 25 && s.audio_missing == 0));
}

#[test]
fn sound_that_repeats_a_second_continues_when_it_has_caught_up() {
    // Only sound repeats its last second. The pictures continue.
    let v = timed(video(25, 1, 0, 12 * S), 0);
    let mut a = timed(audio(48_000, 0, 5 * S), 0);
    a.extend(timed(audio(48_000, 4 * S, 8 * S), 0).into_iter().map(|mut t| {
        t.at = t.at.max(5 * S);
        t
    }));
    let out = build(config(Pace::File), stream(both(), in_order(v, a)));
    check_invariants(&out, &config(Pace::File));
    assert_eq!(words(&out).iter().filter(|w| w.starts_with("run")).count(), 1);
    assert!(seconds(&out).iter().all(|s| s.frames_seen == 25 && s.audio_missing == 0));
    let lost: u64 = out.iter().map(|o| if let ClipOutput::Discarded { count, .. } = o { *count } else { 0 }).sum();
    assert_eq!(lost, 48_000);
}

#[test]
fn a_reconnect_ends_the_run_and_is_the_cause_of_the_next() {
    let mut items = in_order(timed(video(25, 1, 0, 2_100 * MS), 0), timed(audio(48_000, 0, 2_100 * MS), 0));
    items.push(MediaItem::Discontinuity(Discontinuity::Reconnect));
    // A connection without data.
    items.push(both());
    items.push(MediaItem::TrackEnded(Track::Video));
    items.push(MediaItem::Discontinuity(Discontinuity::Reconnect));
    // The same PTS again, and no sound this time.
    items.push(video_only());
    items.extend(video(25, 1, 0, S));
    let out = build(config(Pace::Live), stream(both(), items));
    check_invariants(&out, &config(Pace::Live));
    assert_eq!(words(&out).join(" "), "opened run0 0.0 0.1 0.2 opened end-video opened run1:reconnect 1.0 over");
    assert_eq!(seconds(&out)[3].audio_absent, Some(touchline_core::clip::Absent::NoTrack));
}

#[test]
fn a_connection_without_data_is_not_a_run() {
    let items = vec![MediaItem::Discontinuity(Discontinuity::Reconnect), video_only(), frame(0)];
    assert_eq!(summary(&build(config(Pace::Live), stream(both(), items))), "run0 0.0");
    assert_eq!(words(&build(config(Pace::Live), stream(both(), Vec::new()))), ["opened", "over"]);
}

#[test]
fn sound_of_the_old_timeline_is_not_taken_for_the_new_run() {
    // A file whose pictures jump back 5 s, and whose sound follows 6 s later. Meanwhile the pictures come within 2 s of the
    // sound, which is still on the old timeline. It is not sound of the new run that starts late.
    let (mut v, mut a) = (timed(video(25, 1, 90 * S, 10 * S), 0), timed(audio(48_000, 90 * S, 16 * S), 0));
    v.extend(timed(video(25, 1, 95 * S, 10 * S), 5 * S as i64));
    a.extend(timed(audio(48_000, 101 * S, 4 * S), 5 * S as i64));
    let out = build(config(Pace::File), stream(both(), in_order(v, a)));
    check_invariants(&out, &config(Pace::File));
    let runs: Vec<_> = words(&out).into_iter().filter(|w| w.starts_with("run")).collect();
    assert_eq!(runs, ["run0", "run1:back"]);
    for second in seconds(&out).into_iter().filter(|s| s.run.0 == 1) {
        assert_eq!(second.frames_seen, 25);
        assert_eq!(second.audio_missing, if second.index < 101 { RATE } else { 0 }, "second {}", second.index);
    }
}
