//! Black, freeze and silence against FFmpeg's filters, and colour bars of FFmpeg's generators. `reference/features/signals.py` made
//! the reference and says with which version.

use std::time::Duration;

use serde::Deserialize;
use touchline_compute::features::signal::bars::BarsDetector;
use touchline_compute::features::signal::{SignalConfig, SignalDetector};
use touchline_core::clip::ClipSecond;
use touchline_core::frame::{Frame, RgbView};
use touchline_core::incident::Incident;
use touchline_core::pool::Pooled;
use touchline_core::signal::{Signal, Signals};
use touchline_core::time::{NANOS_PER_SECOND, Pts};

#[derive(Deserialize)]
struct Table {
    width: usize,
    height: usize,
    fps: u64,
    rate: usize,
    black: Vec<BlackCase>,
    freeze: Vec<FreezeCase>,
    silence: Vec<SilenceCase>,
    bars: Bars,
}

#[derive(Deserialize)]
struct BlackCase {
    luma: f32,
    share: f32,
    seconds: f64,
    shots: Vec<Shot>,
    spans: Vec<[f64; 2]>,
}

#[derive(Deserialize)]
struct FreezeCase {
    db: f32,
    seconds: f64,
    shots: Vec<Shot>,
    spans: Vec<[f64; 2]>,
}

#[derive(Deserialize)]
struct SilenceCase {
    db: f32,
    seconds: f64,
    pieces: Vec<Piece>,
    spans: Vec<[f64; 2]>,
}

#[derive(Deserialize)]
struct Shot {
    frames: u32,
    seed: u32,
    moving: u32,
    low: u32,
    high: u32,
    bright: usize,
    noise: u32,
}

#[derive(Deserialize)]
struct Piece {
    samples: usize,
    peak: f64,
}

#[derive(Deserialize)]
struct Bars {
    width: usize,
    height: usize,
    cases: Vec<BarsCase>,
}

#[derive(Deserialize)]
struct BarsCase {
    name: String,
    is_bars: bool,
}

fn table() -> Table {
    crate::reference::json("features/signals.json")
}

/// The integer generator of the script.
struct Generator(u32);

impl Generator {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }
}

/// The twin of `picture` in the script.
fn picture(shot: &Shot, frame: u32, pixels: usize) -> Vec<u8> {
    let (mut values, mut noise) = (Generator(shot.seed + frame * shot.moving), Generator(77 + frame));
    let mut out = Vec::with_capacity(3 * pixels);
    for pixel in 0..pixels {
        for _ in 0..3 {
            let value = shot.low + values.next() % (shot.high - shot.low + 1);
            let value = if pixel < shot.bright { 200 } else { value };
            let is_higher = shot.noise > 0 && noise.next() % shot.noise == 0;
            out.push((value + u32::from(is_higher)).min(255) as u8);
        }
    }
    out
}

/// Begin and end of all reports of `signal`, seconds.
fn spans(signal: Signal, incidents: &[Incident]) -> Vec<[f64; 2]> {
    let ended = incidents.iter().filter_map(|incident| match incident {
        Incident::SignalEnded { signal: of, began, lasted_ns } if *of == signal => {
            Some([began.0, began.0 + lasted_ns].map(|ns| ns as f64 / 1e9))
        }
        _ => None,
    });
    ended.collect()
}

/// All signals but one are off.
fn only(signal: Signal) -> Signals {
    Signal::ALL.into_iter().filter(|other| *other != signal).collect()
}

fn pictures(table: &Table, shots: &[Shot], signal: Signal, config: SignalConfig) -> Vec<[f64; 2]> {
    let all = shots.iter().flat_map(|shot| (0..shot.frames).map(move |n| picture(shot, n, table.width * table.height)));
    let frames: Vec<Frame> = all
        .enumerate()
        .map(|(n, data)| {
            let pts = Pts(n as u64 * NANOS_PER_SECOND / table.fps);
            Frame::new(Pooled::detached(data), table.width as u32, table.height as u32, pts, 0)
        })
        .collect();
    let (mut detector, mut incidents) = (SignalDetector::new(config), Vec::new());
    for (index, frames) in frames.chunks(table.fps as usize).enumerate() {
        let second = ClipSecond { index: index as u64, ..ClipSecond::of_pictures(frames.to_vec()) };
        detector.second(&second, &mut incidents);
    }
    detector.finish(&mut incidents);
    spans(signal, &incidents)
}

fn assert_near(ours: &[[f64; 2]], theirs: &[[f64; 2]], tolerance: f64, case: usize) {
    let is_near = |(a, b): (&[f64; 2], &[f64; 2])| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance);
    assert!(
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(is_near),
        "case {case}: {ours:?}, not {theirs:?}"
    );
}

#[test]
fn black_is_found_as_by_blackdetect() {
    let table = table();
    for (n, case) in table.black.iter().enumerate() {
        let config = SignalConfig {
            off: only(Signal::Black),
            black: Duration::from_secs_f64(case.seconds),
            black_luma: case.luma,
            black_share: case.share,
            ..SignalConfig::default()
        };
        assert_near(&pictures(&table, &case.shots, Signal::Black, config), &case.spans, 1e-6, n);
    }
}

#[test]
fn freezes_are_found_as_by_freezedetect() {
    let table = table();
    for (n, case) in table.freeze.iter().enumerate() {
        let config = SignalConfig {
            off: only(Signal::Freeze),
            freeze: Duration::from_secs_f64(case.seconds),
            freeze_db: case.db,
            ..SignalConfig::default()
        };
        assert_near(&pictures(&table, &case.shots, Signal::Freeze, config), &case.spans, 1e-6, n);
    }
}

#[test]
fn silence_is_found_as_by_silencedetect() {
    let table = table();
    for (n, case) in table.silence.iter().enumerate() {
        let mut samples = Vec::new();
        for (seed, piece) in case.pieces.iter().enumerate() {
            let mut values = Generator(seed as u32);
            let value = |_| (piece.peak * (f64::from(values.next() % 2001) - 1000.0) / 1000.0) as f32;
            samples.extend((0..piece.samples).map(value));
        }
        // Whole seconds, as the clip builder makes them.
        samples.resize(samples.len().next_multiple_of(table.rate), 0.5);
        let config = SignalConfig {
            off: only(Signal::Silence),
            silence: Duration::from_secs_f64(case.seconds),
            silence_db: case.db,
            ..SignalConfig::default()
        };
        let (mut detector, mut incidents) = (SignalDetector::new(config), Vec::new());
        for (index, samples) in samples.chunks(table.rate).enumerate() {
            let audio = Some(samples.to_vec());
            let second = ClipSecond { index: index as u64, audio, ..ClipSecond::of_pictures(Vec::new()) };
            detector.second(&second, &mut incidents);
        }
        // FFmpeg is a sample off in places.
        let sample = 1.5 / table.rate as f64;
        assert_near(&spans(Signal::Silence, &incidents), &case.spans, sample, n);
    }
}

/// The pictures of `bars.rle`: rows that equal the one above, or runs of pixels.
fn unpacked(data: &[u8], bars: &Bars) -> Vec<Vec<u8>> {
    let (mut data, line) = (data.iter().copied(), 3 * bars.width);
    let mut pictures = Vec::new();
    for _ in &bars.cases {
        let mut picture = Vec::with_capacity(line * bars.height);
        for _ in 0..bars.height {
            let row = picture.len();
            while picture.len() < row + line {
                let length = usize::from(data.next().expect("the file has all rows"));
                if length == 0 {
                    picture.extend_from_within(row - line..row);
                    break;
                }
                let pixel: Vec<u8> = data.by_ref().take(3).collect();
                picture.extend(pixel.repeat(length));
            }
        }
        pictures.push(picture);
    }
    assert_eq!(data.next(), None, "the file has nothing else");
    pictures
}

#[test]
fn bars_are_found_in_every_damage_and_nothing_else_is_bars() {
    let Table { bars, .. } = table();
    let data = crate::reference::bytes("features/bars.rle");
    let mut detector = BarsDetector::default();
    let (mut found, mut wrong) = (0, Vec::new());
    for (case, data) in bars.cases.iter().zip(unpacked(&data, &bars)) {
        let view = RgbView { data: &data, width: bars.width, height: bars.height };
        found += usize::from(case.is_bars);
        if detector.is_bars(view) != case.is_bars {
            wrong.push(&case.name);
        }
    }
    assert_eq!((found, bars.cases.len()), (45, 65));
    assert!(wrong.is_empty(), "{wrong:?}");
}
