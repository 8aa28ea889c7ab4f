//! The frames of a second that are kept.

use touchline_core::clip::{Absent, ClipBuilder, ClipOutput};
use touchline_core::frame::Frame;
use touchline_core::item::{MediaItem, Pace};
use touchline_core::pool::Pool;
use touchline_core::time::Pts;

use crate::support::*;

/// PTS of the RGB frames and of the pairs of a second, in ms after its start, rounded down.
fn chosen(second: &touchline_core::clip::ClipSecond) -> (Vec<u64>, Vec<(u64, u64)>) {
    let ms = |i: usize| (second.frames[i].pts.0 - second.start().0) / MS;
    let rgb = second.rgb.iter().map(|&i| ms(i)).collect();
    (rgb, second.pairs.iter().map(|p| (ms(p.first), ms(p.second))).collect())
}

fn one_track(frames: Vec<MediaItem>) -> Vec<ClipOutput> {
    let out = build(config(Pace::File), stream(video_only(), frames));
    check_invariants(&out, &config(Pace::File));
    out
}

#[test]
fn frames_and_pairs_are_chosen_at_every_rate() {
    // (frame rate as a fraction, second, number of frames, RGB frames, pairs); times in ms after the start of the second.
    type Row = (u64, u64, usize, u32, [u64; 5], [(u64, u64); 5]);
    let table: [Row; 8] = [
        // 40 ms apart. The sampling points lie half way between two frames: the earlier one is chosen.
        (25, 1, 0, 25, [80, 280, 480, 680, 880], [(80, 120), (280, 320), (480, 520), (680, 720), (880, 920)]),
        (25, 1, 7, 25, [80, 280, 480, 680, 880], [(80, 120), (280, 320), (480, 520), (680, 720), (880, 920)]),
        // Every second frame of 50 a second.
        (50, 1, 3, 50, [100, 300, 500, 700, 900], [(80, 120), (280, 320), (480, 520), (680, 720), (880, 920)]),
        // 30000/1001: 33.37 ms is nearer to 40 than 66.73 is.
        (30_000, 1001, 0, 30, [100, 300, 500, 700, 900], [(66, 100), (266, 300), (467, 500), (667, 700), (867, 900)]),
        // Second 33 is the first with a frame less. The frames are 0.27 ms earlier by then.
        (30_000, 1001, 33, 29, [99, 299, 500, 700, 900], [(66, 99), (266, 299), (466, 500), (666, 700), (867, 900)]),
        // 60000/1001: two frames apart.
        (60_000, 1001, 0, 60, [100, 300, 500, 700, 900], [(83, 116), (283, 316), (483, 517), (684, 717), (884, 917)]),
        // 24 a second.
        (24, 1, 2, 24, [83, 291, 500, 708, 916], [(83, 125), (291, 333), (500, 541), (666, 708), (875, 916)]),
        // 15 a second: half way again, but PTS are rounded down, so that the later frame is 1 ns nearer. Pairs are 67 ms
        // long: more than requested, but within the limit.
        (15, 1, 1, 15, [133, 333, 533, 733, 933], [(66, 133), (266, 333), (466, 533), (666, 733), (866, 933)]),
    ];
    for (number, denominator, index, frames_seen, rgb, pairs) in table {
        let out = one_track(video(number, denominator, 0, 40 * S));
        let second = seconds(&out)[index];
        assert_eq!(second.index, index as u64);
        assert_eq!(second.frames_seen, frames_seen, "{number}/{denominator}");
        let (actual_rgb, actual_pairs) = chosen(second);
        assert_eq!(actual_rgb, rgb, "{number}/{denominator} second {index}");
        assert_eq!(actual_pairs, pairs, "{number}/{denominator} second {index}");
    }
}

#[test]
fn ntsc_rates_lose_one_frame_in_a_thousand() {
    let out = one_track(video(30_000, 1001, 0, 1001 * S));
    let all = seconds(&out);
    assert_eq!(all.len(), 1001);
    assert_eq!(all.iter().map(|s| s.frames_seen).sum::<u32>(), 30_000);
    assert!(all.iter().all(|s| (29..=30).contains(&s.frames_seen) && s.rgb.len() == 5 && s.pairs.len() == 5));
}

#[test]
fn variable_frame_rates_use_the_nearest_frames() {
    // A burst, a pause of 0.4 s, a slow part.
    let times = [0, 10, 20, 30, 40, 50, 60, 460, 520, 580, 700, 705, 950, 1000];
    let out = one_track(times.iter().map(|t| frame(t * MS)).collect());
    let (rgb, pairs) = chosen(seconds(&out)[0]);
    // 100 → 60; 300 → 460 (160 away, 60 is 240); 500 → 520; 700 → 700; 900 → 950.
    assert_eq!(rgb, [60, 460, 520, 700, 950]);
    // 80 → 60, whose next frame is 400 ms later: none. 280 → 460 (180 away; 60 is 220) → 520. 480 → 460: that pair again.
    // 680 → 700 → 705 is too near (5 ms of 20) and 950 too far. 880 → 950 → none.
    assert_eq!(pairs, [(460, 520)]);
    assert_eq!(seconds(&out)[0].frames_seen, 13);
}

#[test]
fn slow_video_has_fewer_frames_and_no_pairs() {
    let one = one_track(video(1, 1, 0, 6 * S));
    assert_eq!(summary(&one), "run0 0.0 0.1 0.2 0.3 0.4 0.5");
    for second in seconds(&one) {
        assert_eq!((second.frames.len(), second.rgb.as_slice(), second.frames_seen), (1, &[0][..], 1));
        assert_eq!((second.rgb_absent, second.flow_absent), (None, Some(Absent::NoPairs)));
        assert_eq!(second.audio_absent, Some(Absent::NoTrack));
    }
    // Eight a second: 125 ms is more than three times 40.
    let eight = one_track(video(8, 1, 0, 2 * S));
    assert_eq!(seconds(&eight)[0].flow_absent, Some(Absent::NoPairs));
    assert_eq!(chosen(seconds(&eight)[0]).0, [125, 250, 500, 750, 875]);
    // Ten a second: 100 ms is within the limit.
    let ten = one_track(video(10, 1, 0, 2 * S));
    assert_eq!(chosen(seconds(&ten)[0]).1, [(100, 200), (300, 400), (500, 600), (700, 800)]);
    // One frame every 1.9 s: the seconds between are gaps, because there is no sound.
    let sparse = one_track((0..5).map(|k| frame(k * 1900 * MS)).collect());
    assert_eq!(summary(&sparse), "run0 0.0 0.1 gap0.2 0.3 gap0.4 0.5 gap0.6 0.7");
}

#[test]
fn a_stream_may_start_within_a_second() {
    let out = one_track(video(25, 1, 5_800 * MS, 2_200 * MS));
    assert_eq!(summary(&out), "run0 0.5 0.6 0.7");
    let first = seconds(&out)[0];
    assert_eq!(first.frames_seen, 5);
    // All points before 800 fall on the first frame; 900 lies between 880 and 920.
    assert_eq!(chosen(first), (vec![800, 880], vec![(800, 840), (880, 920)]));
}

#[test]
fn repeated_and_slightly_disordered_time_stamps_are_put_in_order() {
    let order = [0, 80, 40, 120, 120, 200, 160, 240, 280, 320, 360, 400, 1000, 960, 1040, 1080];
    let out = one_track(order.iter().map(|t| frame(t * MS)).collect());
    // 960 arrives after the second is closed, and is counted as discarded.
    assert_eq!(summary(&out), "run0 0.0 -video*1 0.1");
    let first = seconds(&out)[0];
    assert_eq!(first.frames_seen, 12);
    assert_eq!(chosen(first), (vec![80, 280, 400], vec![(80, 120), (280, 320)]));
}

#[test]
fn frames_that_are_not_chosen_return_to_their_pool_immediately() {
    let pool = Pool::<u8>::new(64);
    let (mut builder, mut out) = (ClipBuilder::new(config(Pace::File)), Vec::new());
    builder.push(both(), &mut out);
    builder.push(chunk(0, 48_000, 1, vec![0.0; 960]), &mut out);
    for k in 0..=50u64 {
        let mut data = pool.take();
        data.resize(3, 0);
        builder.push(MediaItem::Frame(Frame::new(data, 1, 1, Pts(k * 20 * MS), 0)), &mut out);
    }
    // The second still waits for its sound, but of its 50 frames only the chosen 15 are held.
    assert_eq!(summary(&out), "run0");
    assert_eq!(pool.idle(), 50 - 15);
    builder.push(MediaItem::Ended(touchline_core::item::End::Finished), &mut out);
    out.clear();
    drop(builder);
    assert_eq!(pool.idle(), 51);
}

#[test]
fn a_pack_may_need_no_pictures_or_no_sound() {
    let mut plan = config(Pace::File);
    (plan.plan.rgb_frames, plan.plan.flow_pairs, plan.sample_rate) = (0, 2, None);
    let items = in_order(timed(video(25, 1, 0, 2 * S), 0), timed(audio(48_000, 0, 2 * S), 0));
    let out = build(plan.clone(), stream(both(), items));
    check_invariants(&out, &plan);
    for second in seconds(&out) {
        assert_eq!(second.frames.len(), 4);
        assert_eq!((second.rgb_absent, second.audio_absent), (Some(Absent::NoTrack), Some(Absent::NoTrack)));
        assert_eq!(chosen(second).1, [(240, 280), (720, 760)]);
    }
    assert_eq!(summary(&out), "run0 0.0 0.1");
}
