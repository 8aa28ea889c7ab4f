//! Features on the CPU: resizing, flow, log-mel and the signal detectors. `benches/peers/features.py` times OpenCV and librosa on the same
//! work.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use touchline_compute::features::cpu::farneback::Farneback;
use touchline_compute::features::cpu::mel::LogMel;
use touchline_compute::features::cpu::resize::{ResizePlan, ResizeScratch};
use touchline_compute::features::params::{FarnebackParams, Fit, MelParams, PictureParams};
use touchline_compute::features::signal::{SignalConfig, SignalDetector};
use touchline_core::clip::ClipSecond;
use touchline_core::frame::{Frame, RgbView};
use touchline_core::pool::Pooled;
use touchline_core::time::{NANOS_PER_SECOND, Pts};

/// The same texture as in the peers' script: two waves and a little noise.
fn texture(width: usize, height: usize, shift: f64) -> Vec<f32> {
    let mut state = 1u32;
    (0..width * height)
        .map(|i| {
            let (x, y) = ((i % width) as f64 - shift, (i / width) as f64);
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = f64::from(state >> 24) / 16.0;
            (110.0 + 50.0 * (0.21 * x + 0.08 * y).sin() + 50.0 * (0.25 * y - 0.1 * x).sin() + noise).floor() as f32
        })
        .collect()
}

fn resize(c: &mut Criterion) {
    let mut group = c.benchmark_group("resize");
    let params = PictureParams {
        width: 224,
        height: 224,
        fit: Fit::Stretch,
        mean: [0.45; 3],
        std: [0.225; 3],
        ..PictureParams::default()
    };
    for (width, height) in [(640, 360), (1280, 720)] {
        let data: Vec<u8> = texture(width, height, 0.0).iter().flat_map(|&v| [v as u8, v as u8 / 2, v as u8]).collect();
        let plan = ResizePlan::new((width, height), (224, 224), Fit::Stretch);
        let (mut line, mut out) = (ResizeScratch::default(), vec![0.0; 3 * 224 * 224]);
        group.bench_function(BenchmarkId::new("picture-224x224", format!("{width}x{height}")), |b| {
            b.iter(|| plan.picture(black_box(RgbView { data: &data, width, height }), &params, &mut line, &mut out));
        });
    }
    group.finish();
}

fn flow(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow");
    for (width, height) in [(224, 224), (640, 360)] {
        for gaussian in [false, true] {
            let (first, second) = (texture(width, height, 0.0), texture(width, height, 2.0));
            let (mut dx, mut dy) = (vec![0.0; width * height], vec![0.0; width * height]);
            let params = FarnebackParams { gaussian, ..Default::default() };
            let mut farneback = Farneback::new(width, height, params).expect("sensible parameters");
            let window = if gaussian { "gaussian" } else { "box" };
            group.bench_function(BenchmarkId::new(window, format!("{width}x{height}")), |b| {
                b.iter(|| farneback.flow(black_box(&first), black_box(&second), &mut dx, &mut dy));
            });
        }
    }
    group.finish();
}

fn mel(c: &mut Criterion) {
    let params = MelParams::default();
    let samples: Vec<f32> =
        (0..32_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect();
    let mut mel = LogMel::new(&params).expect("sensible parameters");
    let mut out = vec![0.0; params.bands * mel.columns(samples.len())];
    c.bench_function("log-mel/1s-32kHz-128-bands", |b| b.iter(|| mel.compute(black_box(&samples), &mut out)));
}

/// The detectors of bars, black, freeze and silence over a second as it is sampled for `compact`: twelve frames, and sound.
fn signal(c: &mut Criterion) {
    let (width, height) = (512, 288);
    let moving = |n: u64| texture(width, height, n as f64).into_iter().flat_map(|v| [v as u8; 3]).collect::<Vec<u8>>();
    let still = vec![90; 3 * width * height];
    let samples: Vec<f32> = (0..32_000).map(|i| (i as f32 * 0.05).sin() * 0.4).collect();
    let mut group = c.benchmark_group("signal/1s-12-frames-512x288");
    for (name, is_moving) in [("moving", true), ("still", false)] {
        let frames = |index: u64| {
            (0..12)
                .map(|n| {
                    let data = if is_moving { moving(n) } else { still.clone() };
                    let pts = Pts(index * NANOS_PER_SECOND + n * NANOS_PER_SECOND / 12);
                    Frame::new(Pooled::detached(data), width as u32, height as u32, pts, 0)
                })
                .collect()
        };
        let mut second = ClipSecond { audio: Some(samples.clone()), ..ClipSecond::of_pictures(frames(0)) };
        let (mut detector, mut incidents) = (SignalDetector::new(SignalConfig::default()), Vec::new());
        group.bench_function(name, |b| {
            b.iter(|| {
                second.index += 1;
                detector.second(black_box(&second), &mut incidents)
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = resize, flow, mel, signal
}
criterion_main!(benches);
