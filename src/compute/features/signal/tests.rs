//! Detectors over seconds, at their thresholds.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::bars::BarsDetector;
use super::picture::{BlackLevel, FreezeNoise};
use super::*;
use touchline_core::frame::RgbView;
use touchline_core::pool::Pooled;

const SIZE: (usize, usize) = (64, 36);
const BAR_COLOURS: [[u8; 3]; 7] =
    [[191, 191, 191], [191, 191, 0], [0, 191, 191], [0, 191, 0], [191, 0, 191], [191, 0, 0], [0, 0, 191]];

/// The defaults with a freeze of five seconds.
fn config() -> SignalConfig {
    SignalConfig { freeze: Duration::from_secs(5), ..SignalConfig::default() }
}

fn rgb(of: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    (0..SIZE.0 * SIZE.1).flat_map(|i| of(i % SIZE.0, i / SIZE.0)).collect()
}

fn bars() -> Vec<u8> {
    rgb(|x, _| BAR_COLOURS[x * 7 / SIZE.0])
}

fn grey(level: u8) -> Vec<u8> {
    rgb(|x, y| [level.saturating_add((x % 3 + y % 2) as u8); 3])
}

fn view(data: &[u8]) -> RgbView<'_> {
    RgbView { data, width: SIZE.0, height: SIZE.1 }
}

/// Ten frames in second `index`, at 50 ms, 150 ms and so on, and its sound.
fn second(index: u64, mut picture: impl FnMut(u64) -> Option<Vec<u8>>, level: Option<f32>) -> ClipSecond {
    let frame = |n: u64| {
        let pts = Pts::from_second(index).plus(50_000_000 + n * 100_000_000);
        picture(n).map(|data| Frame::new(Pooled::detached(data), SIZE.0 as u32, SIZE.1 as u32, pts, 0))
    };
    let frames = (0..10).filter_map(frame).collect();
    ClipSecond { index, audio: level.map(|level| vec![level; 1000]), ..ClipSecond::of_pictures(frames) }
}

/// Names, with begin and duration in milliseconds.
fn named(incidents: &mut Vec<Incident>) -> Vec<(&'static str, Signal, u64, u64)> {
    let name = |incident: Incident| {
        let (signal, began, lasted_ns) = incident.signal().expect("an incident of a signal");
        (incident.as_str(), signal, began.0 / 1_000_000, lasted_ns / 1_000_000)
    };
    incidents.drain(..).map(name).collect()
}

/// The signals of each second, of pictures by second and frame, without sound.
fn run(detector: &mut SignalDetector, seconds: &[&dyn Fn(u64) -> Vec<u8>], out: &mut Vec<Incident>) -> Vec<Signals> {
    let mut all = Vec::new();
    for (index, picture) in seconds.iter().enumerate() {
        all.push(detector.second(&second(index as u64, |n| Some(picture(n)), None), out));
    }
    all
}

const NONE: Signals = Signals::NONE;

#[test]
fn bars_count_from_their_first_whole_second() {
    let (mut detector, mut out) = (SignalDetector::new(config()), Vec::new());
    let moving = |n: u64| grey(100 + 3 * n as u8);
    let half = |n: u64| if n < 5 { grey(100 + 3 * n as u8) } else { bars() };
    let all = |_| bars();
    let found = run(&mut detector, &[&moving, &half, &all, &all, &moving, &all, &moving], &mut out);
    let with = NONE.with(Signal::Bars);
    assert_eq!(found, [NONE, NONE, with, with, NONE, with, NONE]);
    let (began, ended) = ("signal-began", "signal-ended");
    // Half a second of the second second, then the whole third.
    let expected = [
        (began, Signal::Bars, 1550, 1450),
        (ended, Signal::Bars, 1550, 2450),
        (began, Signal::Bars, 5000, 1000),
        (ended, Signal::Bars, 5000, 1000),
    ];
    assert_eq!(named(&mut out), expected);
}

#[test]
fn black_has_its_hold_time_and_is_no_freeze() {
    let (mut detector, mut out) = (SignalDetector::new(config()), Vec::new());
    let (black, moving) = (|_| grey(10), |n: u64| grey(100 + 3 * n as u8));
    let black: &dyn Fn(u64) -> Vec<u8> = &black;
    let found = run(&mut detector, &[&moving, black, black, black, black, black, black, black, &moving], &mut out);
    let with = NONE.with(Signal::Black);
    assert_eq!(found, [NONE, NONE, with, with, with, with, with, with, NONE]);
    assert_eq!(
        named(&mut out),
        [("signal-began", Signal::Black, 1000, 2000), ("signal-ended", Signal::Black, 1000, 7000)]
    );
}

#[test]
fn a_freeze_counts_when_it_has_lasted() {
    let (mut detector, mut out) = (SignalDetector::new(config()), Vec::new());
    let (moving, still) = (|n: u64| grey(100 + 3 * n as u8), |_| grey(90));
    let still: &dyn Fn(u64) -> Vec<u8> = &still;
    let found = run(&mut detector, &[&moving, still, still, still, still, still, still, &moving], &mut out);
    let with = NONE.with(Signal::Freeze);
    assert_eq!(found, [NONE, NONE, NONE, NONE, NONE, with, with, NONE]);
    assert_eq!(
        named(&mut out),
        [("signal-began", Signal::Freeze, 1000, 5000), ("signal-ended", Signal::Freeze, 1000, 6000)]
    );
}

#[test]
fn a_slow_drift_is_no_freeze() {
    let (mut detector, mut out) = (SignalDetector::new(config()), Vec::new());
    for index in 0..10 {
        // One level in two seconds: less than the noise from frame to frame.
        let picture = |n: u64| Some(grey(100 + ((index * 10 + n) / 20) as u8));
        assert_eq!(detector.second(&second(index, picture, None), &mut out), NONE);
    }
    assert!(out.is_empty());
}

#[test]
fn silence_has_its_hold_time_and_absent_sound_is_no_silence() {
    let config = SignalConfig { silence: Duration::from_secs(2), ..SignalConfig::default() };
    let (mut detector, mut out) = (SignalDetector::new(config), Vec::new());
    let levels = [Some(0.1), Some(0.0), Some(0.0009), Some(0.0), Some(0.0011), None, None, Some(0.0), None, Some(0.0)];
    let mut found = Vec::new();
    for (index, level) in levels.into_iter().enumerate() {
        found.push(detector.second(&second(index as u64, |_| None, level), &mut out).contains(Signal::Silence));
    }
    // The missing second inside is bridged.
    assert_eq!(found, [false, false, true, true, false, false, false, false, false, true]);
    detector.finish(&mut out);
    let (began, ended) = ("signal-began", "signal-ended");
    let expected = [
        (began, Signal::Silence, 1000, 2000),
        (ended, Signal::Silence, 1000, 3000),
        (began, Signal::Silence, 7000, 3000),
        (ended, Signal::Silence, 7000, 3000),
    ];
    assert_eq!(named(&mut out), expected);
}

#[test]
fn silence_inside_a_second_is_found_to_the_sample() {
    let config = SignalConfig { silence: Duration::from_millis(300), ..SignalConfig::default() };
    let (mut detector, mut out) = (SignalDetector::new(config), Vec::new());
    let mut noisy = second(0, |_| None, Some(0.5));
    noisy.audio.as_mut().unwrap()[250..600].fill(0.0);
    noisy.audio.as_mut().unwrap()[700..999].fill(0.0);
    assert_eq!(detector.second(&noisy, &mut out), NONE, "only a part of the second is silent");
    let expected = [("signal-began", Signal::Silence, 250, 350), ("signal-ended", Signal::Silence, 250, 350)];
    assert_eq!(named(&mut out), expected);
}

#[test]
fn seconds_without_frames_are_bridged_for_two_seconds() {
    let (mut detector, mut out) = (SignalDetector::new(SignalConfig::default()), Vec::new());
    let black = |index| second(index, |_| Some(grey(0)), None);
    assert_eq!(detector.second(&black(0), &mut out), NONE);
    assert!(detector.second(&black(1), &mut out).contains(Signal::Black));
    (2..4).for_each(|index| detector.gap(index, &mut out));
    assert!(detector.second(&black(4), &mut out).contains(Signal::Black), "it continues");
    (5..8).for_each(|index| detector.gap(index, &mut out));
    assert_eq!(detector.second(&black(8), &mut out), NONE, "it started over");
    assert_eq!(
        named(&mut out),
        [("signal-began", Signal::Black, 0, 2000), ("signal-ended", Signal::Black, 0, 5000)],
        "it lasted until the last frame"
    );
}

#[test]
fn detectors_that_are_off_find_nothing() {
    let (mut detector, mut out) = (SignalDetector::new(SignalConfig::off()), Vec::new());
    for index in 0..20 {
        let picture = |_| Some(if index < 10 { bars() } else { grey(0) });
        assert_eq!(detector.second(&second(index, picture, Some(0.0)), &mut out), NONE);
    }
    assert!(out.is_empty());
    // Without the detector of black, a black picture counts as frozen.
    let config = SignalConfig { off: NONE.with(Signal::Black), ..config() };
    let mut detector = SignalDetector::new(config);
    let found: Vec<Signals> =
        (0..5).map(|index| detector.second(&second(index, |_| Some(grey(0)), None), &mut out)).collect();
    assert_eq!(found[4], NONE.with(Signal::Freeze));
}

#[test]
fn black_has_exact_thresholds() {
    let level = BlackLevel::new(0.1, 0.98);
    assert!(level.is_black(view(&grey(0))) && level.is_black(view(&rgb(|_, _| [25; 3]))));
    assert!(!level.is_black(view(&rgb(|_, _| [26; 3]))));
    let pixels = SIZE.0 * SIZE.1;
    let bright = |count: usize| rgb(move |x, y| if y * SIZE.0 + x < count { [200; 3] } else { [0; 3] });
    assert!(level.is_black(view(&bright(pixels / 50))) && !level.is_black(view(&bright(pixels / 50 + 1))));
    assert!((level.black_share(view(&bright(pixels / 2))) - 0.5).abs() < 1e-9);
    // Dark blue is black to the eye and to luminance.
    assert!(level.is_black(view(&rgb(|_, _| [0, 0, 200]))));
    assert!(!level.is_black(RgbView { data: &[], width: 0, height: 0 }));
}

#[test]
fn equal_pictures_have_exact_noise() {
    let noise = FreezeNoise::new(-60.0);
    let base = grey(100);
    // A thousandth of 256 values is 0.256 a value.
    let values = base.len();
    let changed = |count: usize| {
        let mut data = base.clone();
        data[..count].iter_mut().for_each(|value| *value += 1);
        data
    };
    let most = (0.256 * values as f64) as usize;
    assert!(noise.is_same(view(&base), view(&changed(most))) && !noise.is_same(view(&base), view(&changed(most + 1))));
    let narrow = RgbView { data: &base, width: SIZE.1, height: SIZE.0 };
    assert!(!noise.is_same(view(&base), narrow), "another size is another picture");
    assert!((picture::mean_difference(view(&base), view(&changed(values))) - 1.0 / 256.0).abs() < 1e-12);
}

#[test]
fn stripes_of_one_bar_and_another_colour_are_no_bars() {
    // Each white stripe is narrow enough to hide a part of a yellow bar, all around the row.
    for (yellow, white) in [(4, 1), (5, 2), (8, 2), (8, 3), (16, 3)] {
        let stripes = rgb(|x, _| if x % (yellow + white) < yellow { BAR_COLOURS[1] } else { [255; 3] });
        assert!(!BarsDetector::default().is_bars(view(&stripes)), "{yellow} and {white}");
    }
}

#[test]
fn random_pictures_and_sounds_of_any_size_find_nothing_and_panic_never() {
    let mut rng = SmallRng::seed_from_u64(5);
    let mut detector = SignalDetector::new(SignalConfig::default());
    let (mut bars, mut out) = (BarsDetector::default(), Vec::new());
    for index in 0..300 {
        let (width, height) = (rng.random_range(0..70u32), rng.random_range(0..50u32));
        let flat = rng.random_bool(0.3);
        // Blocks of saturated colours, which are what bars are made of.
        let block = rng.random_range(1..9);
        let mut colour = [0; 3];
        let data: Vec<u8> = (0..width * height)
            .flat_map(|i| {
                if i % block == 0 {
                    colour =
                        std::array::from_fn(|_| if flat { [0, 255][rng.random_range(0..2)] } else { rng.random() });
                }
                colour
            })
            .collect();
        assert!(!bars.is_bars(RgbView { data: &data, width: width as usize, height: height as usize }));
        let frame = Frame::new(Pooled::detached(data), width, height, Pts::from_second(index), 0);
        let level = f32::from_bits(rng.random());
        let audio = rng.random_bool(0.8).then(|| (0..rng.random_range(0..50)).map(|_| level).collect());
        let frames = vec![frame; rng.random_range(0..3)];
        detector.second(&ClipSecond { index, audio, ..ClipSecond::of_pictures(frames) }, &mut out);
    }
    assert!(out.iter().all(|incident| incident.signal().is_some_and(|(signal, ..)| signal != Signal::Bars)));
}
