//! Two tracks of one run: how they wait for each other, and the seconds and gaps when one is missing.

use touchline_core::clip::{Absent, ClipBuilder, ClipOutput};
use touchline_core::item::{Discontinuity, End, MediaItem, Pace, Track};
use touchline_core::time::{Pts, WallSource, WallTime};

use crate::support::*;

#[test]
fn two_whole_tracks_give_whole_seconds() {
    let out = file(video(25, 1, 0, 5 * S), audio(44_100, 0, 5 * S));
    check_invariants(&out, &config(Pace::File));
    assert_eq!(words(&out).join(" "), "opened run0 0.0 0.1 0.2 0.3 0.4 over");
    for second in seconds(&out) {
        assert_eq!((second.frames_seen, second.audio_missing), (25, 0));
        assert_eq!((second.rgb_absent, second.flow_absent, second.audio_absent), (None, None, None));
        // The last chunk with a sample of the second begins in its last 20 ms. The last frame is at 960 ms.
        let end = (second.index + 1) * S;
        assert!((end - 20 * MS..end).contains(&(second.arrived_ns - 9 * MS)), "{}", second.arrived_ns);
    }
}

#[test]
fn one_track_alone_works() {
    let pictures = build(config(Pace::Live), stream(video_only(), video(50, 1, 0, 3 * S)));
    assert_eq!(summary(&pictures), "run0 0.0 0.1 0.2");
    assert!(seconds(&pictures).iter().all(|s| s.audio_absent == Some(Absent::NoTrack) && s.audio_missing == RATE));
    let sound = build(config(Pace::Live), stream(audio_only(), audio(48_000, 0, 3 * S)));
    assert_eq!(summary(&sound), "run0 0.0 0.1 0.2");
    for second in seconds(&sound) {
        assert_eq!((second.rgb_absent, second.flow_absent), (Some(Absent::NoTrack), Some(Absent::NoTrack)));
        assert!(second.frames.is_empty() && second.audio.is_some());
    }
}

#[test]
fn seconds_are_output_as_soon_as_both_tracks_have_passed() {
    let (mut builder, mut out) = (ClipBuilder::new(config(Pace::Live)), Vec::new());
    builder.push(both(), &mut out);
    for item in in_order(timed(video(25, 1, 0, 10 * S), 0), timed(audio(48_000, 0, 10 * S), 300 * MS as i64)) {
        let at = pts(&item);
        let is_sound = matches!(item, MediaItem::Pcm(_));
        builder.push(item, &mut out);
        if is_sound {
            // The output lags behind the sound by the filter and one chunk.
            let due = (at + 20 * MS).saturating_sub(60 * MS) / S;
            assert!(seconds(&out).len() as u64 >= due, "{at}: {}", summary(&out));
        }
    }
}

#[test]
fn sound_may_start_late_and_end_early() {
    let out = file(video(25, 1, 0, 8 * S), audio(44_100, 2_250 * MS, 3_450 * MS));
    assert_eq!(summary(&out), "run0 0.0 0.1 0.2 0.3 0.4 0.5 0.6 0.7");
    let sound: Vec<_> = seconds(&out).iter().map(|s| (s.audio.is_some(), s.audio_missing)).collect();
    assert_eq!(
        sound,
        [
            (false, 16_000),
            (false, 16_000),
            (true, 4_000),
            (true, 0),
            (true, 0),
            (true, 4_800),
            (false, 16_000),
            (false, 16_000)
        ]
    );
    assert!(seconds(&out).iter().all(|s| s.frames_seen == 25 && s.audio.is_some() == s.audio_absent.is_none()));
}

#[test]
fn sound_that_starts_minutes_late_is_not_a_jump() {
    for lead in [false, true] {
        let (v, a) = (timed(video(5, 1, 0, 130 * S), 0), timed(audio(48_000, 120 * S, 10 * S), 0));
        // Once in order, once with the first second of sound before everything.
        let a = a.into_iter().map(|mut t| {
            t.at = if lead && t.at < 121 * S { 0 } else { t.at };
            t
        });
        let out = build(config(Pace::File), stream(both(), in_order(v, a.collect())));
        assert_eq!(seconds(&out).len(), 130);
        assert!(out.iter().all(|o| !matches!(o, ClipOutput::Gap(_) | ClipOutput::Discarded { .. })));
        assert!(seconds(&out).iter().all(|s| s.audio.is_some() == (s.index >= 120)));
        assert_eq!(words(&out).iter().filter(|w| w.starts_with("run")).count(), 1);
    }
}

#[test]
fn pictures_may_stop_for_half_a_minute() {
    for pace in [Pace::File, Pace::Live] {
        let mut v = video(25, 1, 0, 5 * S);
        v.extend(video(25, 1, 35 * S, 5 * S));
        let items = in_order(timed(v, 0), timed(audio(48_000, 0, 40 * S), 0));
        let out = build(config(pace), stream(both(), items));
        check_invariants(&out, &config(pace));
        assert_eq!(seconds(&out).len(), 40);
        assert!(out.iter().all(|o| !matches!(o, ClipOutput::Discarded { .. })));
        for second in seconds(&out) {
            let has_pictures = !(5..35).contains(&second.index);
            assert_eq!(second.rgb_absent, (!has_pictures).then_some(Absent::NoData), "{pace:?} {}", second.index);
            assert_eq!(second.audio_missing, 0);
        }
    }
}

#[test]
fn a_lost_track_is_waited_for_once() {
    // Live. Sound stops at 5 s without an end.
    let (mut builder, mut out) = (ClipBuilder::new(config(Pace::Live)), Vec::new());
    builder.push(both(), &mut out);
    let mut output_at = Vec::new();
    for item in in_order(timed(video(25, 1, 0, 10 * S), 0), timed(audio(48_000, 0, 5_100 * MS), 0)) {
        let at = pts(&item);
        builder.push(item, &mut out);
        output_at.resize(seconds(&out).len(), at);
    }
    // Second 4 is complete. Second 5 waits until the pictures are 1.5 s ahead. Later seconds do not wait.
    assert_eq!(output_at.len(), 9);
    assert!(output_at[4].abs_diff(5 * S) <= 60 * MS, "{output_at:?}");
    assert!(output_at[5].abs_diff(6_560 * MS) <= 60 * MS, "{output_at:?}");
    assert_eq!(output_at[6..], [7 * S, 8 * S, 9 * S]);
    // Sound returns at 9.5 s, and the run continues with it.
    for item in in_order(timed(video(25, 1, 10 * S, 3 * S), 0), timed(audio(48_000, 9_500 * MS, 3_500 * MS), 0)) {
        builder.push(item, &mut out);
    }
    builder.push(MediaItem::Ended(End::Finished), &mut out);
    assert_eq!(summary(&out), "run0 0.0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 0.10 0.11 0.12");
    let sound: Vec<u64> = seconds(&out).iter().filter(|s| s.audio.is_some()).map(|s| s.index).collect();
    assert_eq!(sound, [0, 1, 2, 3, 4, 9, 10, 11, 12]);
    assert!(seconds(&out).iter().all(|s| s.frames_seen == 25));
    assert_eq!(seconds(&out)[7].audio_absent, Some(Absent::NoData));
}

#[test]
fn a_track_that_ends_is_not_waited_for() {
    let v = timed(video(25, 1, 0, 8 * S), 0);
    let a = ended(timed(audio(48_000, 0, 3_500 * MS), 0), Track::Audio);
    let (mut builder, mut out) = (ClipBuilder::new(config(Pace::File)), Vec::new());
    builder.push(both(), &mut out);
    for item in in_order(v, a) {
        builder.push(item, &mut out);
    }
    assert_eq!(summary(&out), "run0 0.0 0.1 0.2 0.3 end-audio 0.4 0.5 0.6");
    builder.push(MediaItem::TrackEnded(Track::Video), &mut out);
    assert_eq!(summary(&out), "run0 0.0 0.1 0.2 0.3 end-audio 0.4 0.5 0.6 0.7 end-video");
    assert_eq!(seconds(&out)[3].audio_missing, 8_000);
    builder.push(frame(8 * S), &mut out);
    builder.push(MediaItem::Ended(End::Finished), &mut out);
    assert!(summary(&out).ends_with("end-video -video*1"), "no data after the end: {}", summary(&out));
    builder.push(frame(9 * S), &mut out);
    builder.push(MediaItem::Ended(End::Finished), &mut out);
    assert!(words(&out).ends_with(&["over".into(), "-video*1".into()]), "no data after the end of the stream");
}

#[test]
fn a_track_that_never_starts_is_waited_for_within_the_lag_limits() {
    for (pace, due) in [(Pace::Live, 1_500 * MS), (Pace::File, 30 * S)] {
        let (mut builder, mut out) = (ClipBuilder::new(config(pace)), Vec::new());
        builder.push(both(), &mut out);
        let mut first_at = None;
        for item in video(25, 1, 0, due + 5 * S) {
            let at = pts(&item);
            builder.push(item, &mut out);
            if first_at.is_none() && !seconds(&out).is_empty() {
                first_at = Some(at);
            }
        }
        assert!(first_at.is_some_and(|at| at.abs_diff(due) <= 40 * MS), "{pace:?}: {first_at:?}");
        assert_eq!(
            seconds(&out).len() as u64,
            (due + 5 * S - 40 * MS) / S,
            "all seconds that the pictures have passed"
        );
        assert!(seconds(&out).iter().all(|s| s.audio_absent == Some(Absent::NoData)));
    }
}

#[test]
fn a_file_whose_sound_is_decoded_first_loses_no_picture() {
    // Queues that are bounded in bytes pass all sound of a low-rate file before the second picture.
    let ahead = in_order(timed(video(10, 1, 0, 90 * S), 100 * S as i64), timed(audio(44_100, 0, 90 * S), 0));
    let out = build(config(Pace::File), stream(both(), ahead));
    assert_eq!(seconds(&out).len(), 90);
    assert!(seconds(&out).iter().all(|s| s.frames_seen == 10 && s.audio.is_some()), "{:?}", words(&out));
}

#[test]
fn sound_that_arrives_too_late_is_counted() {
    // Live. Sound is 4 s behind the pictures.
    let items = in_order(timed(video(25, 1, 0, 10 * S), 0), timed(audio(48_000, 0, 10 * S), 4 * S as i64));
    let out = build(config(Pace::Live), stream(both(), items));
    check_invariants(&out, &config(Pace::Live));
    assert_eq!(seconds(&out).len(), 10);
    let used: u64 = seconds(&out).iter().map(|s| u64::from(RATE - s.audio_missing)).sum();
    let lost: u64 = out.iter().map(|o| if let ClipOutput::Discarded { count, .. } = o { *count } else { 0 }).sum();
    assert!(lost > 2 * 48_000, "{lost}");
    assert!((lost + used * 3).abs_diff(10 * 48_000) <= 48 * 120, "every sample is used or counted: {lost} {used}");
}

#[test]
fn the_last_second_of_a_run_is_discarded_if_it_is_too_short() {
    // (length of pictures, length of sound, expected output). Half a second of sound or a tenth of pictures is enough.
    let table = [
        (2_040, 2_000, "run0 0.0 0.1 -video*1"),
        (2_080, 2_040, "run0 0.0 0.1 -video*2 -audio*1920"),
        (2_120, 2_000, "run0 0.0 0.1 0.2"),
        (2_000, 2_400, "run0 0.0 0.1 -audio*19200"),
        (2_000, 2_600, "run0 0.0 0.1 0.2"),
        (2_000, 2_000, "run0 0.0 0.1"),
    ];
    for (v, a, expected) in table {
        assert_eq!(summary(&file(video(25, 1, 0, v * MS), audio(48_000, 0, a * MS))), expected, "{v} {a}");
    }
    // The first second of a run is not discarded. It is a gap if it is too short.
    let late = build(config(Pace::File), stream(audio_only(), audio(48_000, 4_700 * MS, 1_300 * MS)));
    assert_eq!(summary(&late), "run0 gap0.4 0.5");
}

#[test]
fn a_hole_in_both_tracks_is_gaps() {
    let mut v = video(25, 1, 0, 2 * S);
    v.extend(video(25, 1, 3_900 * MS, 2_100 * MS));
    let mut a = audio(48_000, 0, 2_100 * MS);
    a.extend(audio(48_000, 3_800 * MS, 2_200 * MS));
    let out = file(v, a);
    check_invariants(&out, &config(Pace::File));
    assert_eq!(summary(&out), "run0 0.0 0.1 gap0.2 0.3 0.4 0.5");
    assert_eq!(seconds(&out)[2].audio_absent, Some(Absent::NoData));
    assert_eq!(seconds(&out)[2].frames_seen, 3);
}

#[test]
fn wall_time_follows_the_latest_reference() {
    let wall = |pts: u64, unix_ns: i64| MediaItem::Wall {
        pts: Pts(pts),
        wall: WallTime { unix_ns, source: WallSource::RtcpSenderReport, uncertainty_ns: 0 },
    };
    let mut items = video(25, 1, 0, 3 * S);
    items.insert(30, wall(500 * MS, 1_000_000 * S as i64));
    items.insert(60, wall(2_500 * MS, 1_000_003 * S as i64));
    items.push(MediaItem::Discontinuity(Discontinuity::Reconnect));
    items.push(video_only());
    items.extend(video(25, 1, 0, S));
    items.push(wall(0, i64::MIN));
    let out = build(config(Pace::Live), stream(video_only(), items));
    let at: Vec<Option<i64>> = seconds(&out).iter().map(|s| s.wall.map(|w| w.unix_ns)).collect();
    let base = 1_000_000 * S as i64;
    assert_eq!(
        at,
        [
            // Output when the frame at 1 s arrived, before any reference.
            None,
            Some(base + 500 * MS as i64),
            Some(base + 2_500 * MS as i64),
            Some(i64::MIN)
        ]
    );
}

#[test]
fn sound_may_arrive_long_after_pictures_and_start_before_them() {
    // The pictures are sent 3 s before the sound they belong to, and start 1 s after it.
    let digest_for = |ahead: i64| {
        let items = in_order(timed(video(25, 1, 5 * S, 5 * S), -ahead), timed(audio(48_000, 4 * S, 6 * S), 0));
        digest(&build(config(Pace::File), stream(both(), items)))
    };
    assert_eq!(digest_for(0), digest_for(3 * S as i64));
    assert!(digest_for(0)[2].starts_with("0.4 "), "{:?}", digest_for(0));
}

#[test]
fn no_second_is_discarded_before_the_run_is_over() {
    // The source has not declared its pictures. They arrive after its sound has ended.
    let mut items = audio(48_000, 0, 2_300 * MS);
    items.push(MediaItem::TrackEnded(Track::Audio));
    items.extend(video(25, 1, 2_400 * MS, 1_600 * MS));
    let out = build(config(Pace::File), stream(audio_only(), items));
    check_invariants(&out, &config(Pace::File));
    assert_eq!(summary(&out), "run0 0.0 0.1 0.2 end-audio 0.3");
    assert_eq!(seconds(&out)[2].frames_seen, 15);
}
