//! Samples: their positions, their number and their purity.

use touchline_core::clip::{Absent, ClipOutput, ClipSecond};
use touchline_core::item::{MediaItem, Pace};

use crate::support::*;

fn one_track(rate_out: u32, items: Vec<MediaItem>) -> Vec<ClipOutput> {
    let mut plan = config(Pace::File);
    plan.sample_rate = Some(rate_out);
    let out = build(plan.clone(), stream(audio_only(), items));
    check_invariants(&out, &plan);
    out
}

fn samples(second: &ClipSecond) -> &[f32] {
    second.audio.as_deref().expect("the second has sound")
}

fn peak(samples: &[f32]) -> usize {
    (0..samples.len()).max_by(|&a, &b| samples[a].abs().total_cmp(&samples[b].abs())).expect("samples")
}

/// Input and output rates: the usual ones in both directions, equal ones, and a pair without a common divisor.
const PAIRS: [(u32, u32); 9] = [
    (44_100, 16_000),
    (48_000, 16_000),
    (48_000, 32_000),
    (44_100, 32_000),
    (16_000, 32_000),
    (32_000, 32_000),
    (22_050, 16_000),
    (96_000, 16_000),
    (44_101, 16_000),
];

#[test]
fn a_tone_stays_pure_across_the_borders_of_seconds() {
    for (rate_in, rate_out) in PAIRS {
        let tone = |i: u64, rate: u32| (std::f64::consts::TAU * 1000.0 * i as f64 / f64::from(rate)).sin() * 0.5;
        let out = one_track(rate_out, audio_wave(rate_in, 3 * S, 5 * S, |i| tone(i, rate_in) as f32));
        assert_eq!(summary(&out), "run0 0.3 0.4 0.5 0.6 0.7");
        let all: Vec<f32> = seconds(&out).iter().flat_map(|s| samples(s).iter().copied()).collect();
        assert!(seconds(&out).iter().all(|s| s.audio_missing == 0));
        // The phase counts, too: a shift of a tenth of a sample at 1 kHz would already miss 60 dB.
        let snr = |range: std::ops::Range<usize>| {
            let (mut signal, mut noise) = (0.0, 1e-30);
            for i in range {
                let wanted = tone(i as u64, rate_out);
                signal += wanted * wanted;
                noise += (f64::from(all[i]) - wanted).powi(2);
            }
            10.0 * f64::log10(signal / noise)
        };
        let rate = rate_out as usize;
        // The tone begins and ends with a step, around which a band limit rings: 32 ms are excluded there. The
        // interpolator for odd rates is accurate to a whole sample only, so only its noise at the borders is checked below.
        if rate_in != 44_101 {
            let edge = rate * 32 / 1000;
            assert!(snr(edge..all.len() - edge) > 80.0, "{rate_in} -> {rate_out}: {} dB", snr(edge..all.len() - edge));
            for border in 1..5 {
                let db = snr(border * rate - 100..border * rate + 100);
                assert!(db > 80.0, "{rate_in} -> {rate_out} border {border}: {db} dB");
            }
        }
        // A click breaks the recurrence x[i+1] = 2 cos(w) x[i] - x[i-1] of a tone, which does not depend on its phase.
        let turn = 2.0 * (std::f64::consts::TAU * 1000.0 / f64::from(rate_out)).cos();
        for border in 1..5 {
            for i in border * rate - 100..border * rate + 100 {
                let broken = f64::from(all[i + 1]) - turn * f64::from(all[i]) + f64::from(all[i - 1]);
                assert!(broken.abs() < 1e-4, "{rate_in} -> {rate_out}: click of {broken} at sample {i}");
            }
        }
    }
}

#[test]
fn an_hour_has_no_drift() {
    const HOUR: u64 = 3600;
    let (rate_in, step) = (44_100u64, 1024u64);
    let (mut builder, mut out) = (touchline_core::clip::ClipBuilder::new(config(Pace::File)), Vec::new());
    builder.push(audio_only(), &mut out);
    let (mut count, mut total, mut at) = (0u64, 0u64, 0u64);
    let mut check = |out: &mut Vec<ClipOutput>| {
        for second in seconds(out) {
            assert_eq!((second.index, second.audio_missing), (count, 0));
            let samples = samples(second);
            // The impulse in the middle of each second of the input is in the middle of each second of the output.
            assert!(peak(samples).abs_diff(8_000) <= 1, "second {count}: {}", peak(samples));
            total += samples.len() as u64;
            count += 1;
        }
        assert!(out.iter().all(|o| !matches!(o, ClipOutput::Gap(_) | ClipOutput::Discarded { .. })));
        out.clear();
    };
    while at < HOUR * rate_in {
        let len = step.min(HOUR * rate_in - at);
        let mut data = vec![0.0; len as usize];
        if let Some(place) = (at..at + len).position(|i| i % rate_in == rate_in / 2) {
            data[place] = 1.0;
        }
        // PTS rounded to 90 kHz, as in MPEG-TS.
        let pts = at * 90_000 / rate_in * S / 90_000;
        builder.push(chunk(pts, rate_in as u32, 1, data), &mut out);
        check(&mut out);
        at += len;
    }
    builder.push(MediaItem::Ended(touchline_core::item::End::Finished), &mut out);
    check(&mut out);
    assert_eq!((count, total), (HOUR, HOUR * 16_000));
}

#[test]
fn impulses_stay_within_a_sample_at_every_rate() {
    for (rate_in, rate_out) in PAIRS {
        let out =
            one_track(
                rate_out,
                audio_wave(rate_in, 0, 30 * S, |i| {
                    if i % u64::from(rate_in) == u64::from(rate_in / 2) { 1.0 } else { 0.0 }
                }),
            );
        assert_eq!(seconds(&out).len(), 30);
        for second in seconds(&out) {
            assert_eq!(samples(second).len(), rate_out as usize);
            let (at, wanted) =
                (peak(samples(second)), f64::from(rate_in / 2) * f64::from(rate_out) / f64::from(rate_in));
            assert!((at as f64 - wanted).abs() <= 1.5, "{rate_in} -> {rate_out}: {at} for {wanted}");
        }
    }
}

#[test]
fn a_start_off_the_grid_is_rounded_up_to_a_sample() {
    // 0.25003 s: sample 4000.48 of the grid. The first sample takes the next slot, and all others follow it.
    let impulse_at = |i: u64| if i == 24_000 { 1.0 } else { 0.0 };
    let out = one_track(RATE, audio_wave(48_000, 250_030_000, 2 * S, impulse_at));
    assert_eq!(summary(&out), "run0 0.0 0.1 -audio*12003");
    assert_eq!(seconds(&out)[0].audio_missing, 4_001);
    assert_eq!(peak(samples(seconds(&out)[0])), 4_001 + 8_000);
    assert!(samples(seconds(&out)[0])[..4_001].iter().all(|v| *v == 0.0));
}

#[test]
fn jitter_of_time_stamps_neither_inserts_nor_drops_samples() {
    let mut lcg = Lcg(11);
    let clean = audio(48_000, S, 60 * S);
    let jittered: Vec<MediaItem> = audio(48_000, S, 60 * S)
        .into_iter()
        .enumerate()
        .map(|(i, item)| match item {
            MediaItem::Pcm(mut chunk) if i > 0 => {
                chunk.pts.0 = chunk.pts.0 + lcg.below(40 * MS) - 20 * MS;
                MediaItem::Pcm(chunk)
            }
            other => other,
        })
        .collect();
    let (clean, jittered) = (one_track(RATE, clean), one_track(RATE, jittered));
    assert_eq!(seconds(&jittered).len(), 60);
    for (a, b) in seconds(&clean).iter().zip(seconds(&jittered)) {
        assert_eq!((&a.audio, a.audio_missing), (&b.audio, b.audio_missing));
    }
}

#[test]
fn a_drifting_clock_is_followed_in_steps_of_a_tenth_of_a_second() {
    // The sender's clock is 0.1 % fast or slow: PTS deviate from the count by 1 ms per second.
    for (permille, missing, repeated) in [(1001u64, true, false), (999, false, true)] {
        let items = audio(48_000, 0, 300 * S);
        let items: Vec<MediaItem> = items
            .into_iter()
            .map(|item| match item {
                MediaItem::Pcm(mut chunk) => {
                    chunk.pts.0 = chunk.pts.0 * permille / 1000;
                    MediaItem::Pcm(chunk)
                }
                other => other,
            })
            .filter(|item| pts(item) < 300 * S)
            .collect();
        let out = one_track(RATE, items);
        let lost: u32 = seconds(&out).iter().take(299).map(|s| s.audio_missing).sum();
        let repeated_samples: u64 =
            out.iter().map(|o| if let ClipOutput::Discarded { count, .. } = o { *count } else { 0 }).sum();
        // Two steps of a little more than 0.1 s within 300 s.
        assert_eq!((3_200..3_400).contains(&lost), missing, "{permille}: {lost}");
        assert_eq!((9_600..10_500).contains(&repeated_samples), repeated, "{permille}: {repeated_samples}");
    }
}

#[test]
fn holes_become_counted_silence() {
    // 0.3 s are lost at 2.5 s, then 1.5 s at 4.2 s.
    let mut items = audio(48_000, 0, 2_500 * MS);
    items.extend(audio(48_000, 2_800 * MS, 1_400 * MS));
    items.extend(audio(48_000, 5_700 * MS, 2_300 * MS));
    let out = one_track(RATE, items);
    // Second 4 has a fifth of its sound, second 5 three tenths. Both are too little, and there are no pictures.
    assert_eq!(summary(&out), "run0 0.0 0.1 0.2 0.3 gap0.4 gap0.5 0.6 0.7");
    let missing: Vec<u32> = seconds(&out).iter().map(|s| s.audio_missing).collect();
    assert_eq!(missing, [0, 0, 4_800, 0, 0, 0]);
    let hole = &samples(seconds(&out)[2])[8_000..12_800];
    assert!(hole.iter().all(|v| *v == 0.0), "missing samples are silence");
    assert!(samples(seconds(&out)[2])[7_900..8_000].iter().any(|v| v.abs() > 0.1), "existing samples are kept");
}

#[test]
fn repeated_sound_is_dropped_exactly() {
    // After 2 s the sender repeats the last 0.3 s.
    let wave = |i: u64| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5;
    let whole = one_track(16_000, audio_wave(16_000, 0, 4 * S, wave));
    let mut items = audio_wave(16_000, 0, 2 * S, wave);
    items.extend(audio_wave(16_000, 1_700 * MS, 2_300 * MS, |i| wave(i + 27_200)));
    let out = one_track(16_000, items);
    // Reported with the second that the sound has reached.
    assert_eq!(summary(&out), "run0 0.0 0.1 -audio*4800 0.2 0.3");
    for (a, b) in seconds(&whole).iter().zip(seconds(&out)) {
        assert_eq!(a.audio, b.audio);
    }
}

#[test]
fn rate_and_channels_may_change_within_a_run() {
    let tone = |i: u64, rate: u64| (std::f64::consts::TAU * 1000.0 * i as f64 / rate as f64).sin() as f32 * 0.5;
    let mut items = audio_wave(48_000, 0, 1_500 * MS, |i| tone(i, 48_000));
    items.extend(audio_wave(44_100, 1_500 * MS, S, |i| tone(i, 44_100)));
    // Stereo, the second channel silent: the mean is half as loud.
    items.push(chunk(2_500 * MS, 44_100, 2, (0..44_100u64).flat_map(|i| [tone(i, 44_100), 0.0]).collect()));
    items.extend(audio_wave(48_000, 3_500 * MS, 500 * MS, |i| tone(i, 48_000)));
    let out = one_track(RATE, items);
    assert_eq!(summary(&out), "run0 0.0 0.1 0.2 0.3");
    assert!(seconds(&out).iter().all(|s| s.audio_missing == 0));
    let all: Vec<f32> = seconds(&out).iter().flat_map(|s| samples(s).iter().copied()).collect();
    for (i, value) in all.iter().enumerate() {
        let near_change = [0usize, 24_000, 40_000, 56_000, 64_000].iter().any(|c| c.abs_diff(i) < 600);
        let level = if (40_000..56_000).contains(&i) { 0.5 } else { 1.0 };
        assert!(near_change || (value - level * tone(i as u64, 16_000)).abs() < 1e-3, "sample {i}");
        assert!(value.abs() < 0.75, "sample {i}: a click at a change");
    }
}

#[test]
fn nan_and_infinite_values_become_silence_and_are_counted() {
    let mut data = vec![0.25f32; 2 * 16_000];
    for (i, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30].into_iter().enumerate() {
        data[2 * (100 + i)] = bad;
    }
    let out = one_track(RATE, vec![chunk(0, 16_000, 2, data)]);
    assert_eq!(summary(&out), "run0 0.0 -audio*4");
    let samples = samples(seconds(&out)[0]);
    assert!(samples[100..104].iter().all(|v| *v == 0.0));
    assert!(samples[..100].iter().chain(&samples[104..]).all(|v| *v == 0.25));
}

#[test]
fn less_than_half_a_second_of_sound_is_absent() {
    // Sound from 0.5 s on is half of second 0, from 0.6 s on it is not.
    for (start, has_sound) in [(500 * MS, true), (600 * MS, false)] {
        let out = file(video(25, 1, 0, 2 * S), audio(48_000, start, 2 * S - start));
        let first = seconds(&out)[0];
        assert_eq!((first.audio.is_some(), first.audio_absent.is_none()), (has_sound, has_sound));
        assert_eq!(u64::from(first.audio_missing), start * 16 / MS);
        assert_eq!(first.audio_absent, (!has_sound).then_some(Absent::NoData));
    }
}

#[test]
fn impossible_rates_and_channel_counts_are_refused_and_counted() {
    let mut items = audio(48_000, 0, S);
    for (rate, channels) in [(0, 1), (999, 1), (u32::MAX, 1), (48_000, 0)] {
        let MediaItem::Pcm(mut bad) = chunk(S, 48_000, 1, vec![0.5; 100]) else { unreachable!("a chunk") };
        (bad.rate, bad.channels) = (rate, channels);
        items.push(MediaItem::Pcm(bad));
    }
    items.push(chunk(S, 48_000, 2, Vec::new()));
    items.extend(audio(48_000, S, S));
    let out = one_track(RATE, items);
    let lost: u64 = out.iter().map(|o| if let ClipOutput::Discarded { count, .. } = o { *count } else { 0 }).sum();
    assert_eq!(lost, 400);
    assert!(seconds(&out).iter().all(|s| s.audio_missing == 0) && seconds(&out).len() == 2);
}
