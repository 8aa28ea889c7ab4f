//! The features against the libraries they follow: Farnebäck flow against OpenCV, mel against librosa, resizing against
//! Pillow. `reference/features/*.py` generated the reference numbers and names the versions.

use std::f64::consts::PI;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use touchline_compute::features::cpu::farneback::Farneback;
use touchline_compute::features::cpu::mel::{LogMel, Mfcc};
use touchline_compute::features::cpu::resize::{ResizePlan, ResizeScratch};
use touchline_compute::features::params::{FarnebackParams, Fit, MelParams, PictureParams};
use touchline_core::frame::RgbView;

fn floats(name: &str) -> Vec<f32> {
    let data = crate::reference::bytes(&format!("features/{name}"));
    assert_eq!(data.len() % 4, 0, "{name} is whole f32 values");
    data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn table<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let cases: Vec<T> = crate::reference::json(&format!("features/{name}"));
    assert!(!cases.is_empty(), "{name} has cases");
    cases
}

/// The integer generator of the scripts.
struct Generator(u32);

impl Generator {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Motion {
    dx: f64,
    dy: f64,
    angle: f64,
    zoom: f64,
}

const STILL: Motion = Motion { dx: 0.0, dy: 0.0, angle: 0.0, zoom: 1.0 };

impl Motion {
    /// The displacement of the point at (x, y) from the centre.
    fn displacement(&self, x: f64, y: f64) -> (f64, f64) {
        let (c, s) = (self.angle.cos() * self.zoom, self.angle.sin() * self.zoom);
        (c * x - s * y + self.dx - x, s * x + c * y + self.dy - y)
    }
}

#[derive(Debug, Deserialize)]
struct FlowCase {
    width: usize,
    height: usize,
    stride: usize,
    seed: u32,
    kind: String,
    motion: Motion,
    params: FarnebackParams,
    checksums: [u64; 2],
    file: String,
    offset: usize,
}

const WAVES: usize = 24;

fn frame(width: usize, height: usize, seed: u32, motion: Motion) -> Vec<f32> {
    let mut generator = Generator(seed);
    let mut draw = || f64::from(generator.next() >> 8) / f64::from(1 << 24);
    let waves: Vec<[f64; 4]> = (0..WAVES)
        .map(|i| {
            let length = 6.0 + 54.0 * i as f64 / (WAVES - 1) as f64;
            let angle = 2.0 * PI * draw();
            let phase = 2.0 * PI * draw();
            let k = 2.0 * PI / length;
            [k * angle.cos(), k * angle.sin(), phase, 3.0 + 9.0 * i as f64 / (WAVES - 1) as f64]
        })
        .collect();
    let (cx, cy) = ((width - 1) as f64 / 2.0, (height - 1) as f64 / 2.0);
    let (c, s) = (motion.angle.cos() / motion.zoom, motion.angle.sin() / motion.zoom);
    (0..width * height)
        .map(|i| {
            let (x, y) = ((i % width) as f64 - cx - motion.dx, (i / width) as f64 - cy - motion.dy);
            let (u, v) = (c * x + s * y + cx, c * y - s * x + cy);
            let level = waves.iter().fold(128.0, |sum, [kx, ky, phase, a]| sum + a * (kx * u + ky * v + phase).sin());
            (level + 0.5).floor().clamp(0.0, 255.0) as f32
        })
        .collect()
}

fn checksum(picture: &[f32]) -> u64 {
    picture.iter().enumerate().map(|(i, &v)| (i as u64 % 65_521 + 1) * v as u64).sum()
}

fn flow(case: &FlowCase) -> (Vec<f32>, Vec<f32>) {
    let first = frame(case.width, case.height, case.seed, STILL);
    let second = frame(case.width, case.height, case.seed, case.motion);
    assert_eq!(
        [checksum(&first), checksum(&second)],
        case.checksums,
        "the script generated other frames than this test"
    );
    let (mut dx, mut dy) = (vec![f32::NAN; first.len()], vec![f32::NAN; first.len()]);
    Farneback::new(case.width, case.height, case.params).unwrap().flow(&first, &second, &mut dx, &mut dy);
    (dx, dy)
}

/// In pixels. Only the order of additions differs, so the limits are far below the 0.05 px that would still be the same
/// flow. The mean difference is a few millionths.
const MEAN_END_POINT_DIFFERENCE: f64 = 1e-4;
const LARGEST_END_POINT_DIFFERENCE: f64 = 0.005;

#[test]
fn flow_equals_opencv() {
    let mut worst = (0f64, 0f64);
    for case in table::<FlowCase>("flow.json") {
        let (dx, dy) = flow(&case);
        let pixels = (0..case.height).step_by(case.stride).flat_map(|y| {
            let width = case.width;
            (0..width).step_by(case.stride).map(move |x| y * width + x)
        });
        let reference = &floats(&case.file)[case.offset..];
        let differences: Vec<f64> = pixels
            .zip(reference.as_chunks::<2>().0)
            .map(|(i, want)| f64::from(dx[i] - want[0]).hypot(f64::from(dy[i] - want[1])))
            .collect();
        let (columns, rows) = (case.width.div_ceil(case.stride), case.height.div_ceil(case.stride));
        assert_eq!(differences.len(), columns * rows, "the reference has the whole picture");
        let mean = differences.iter().sum::<f64>() / differences.len() as f64;
        let largest = differences.iter().copied().fold(0.0, f64::max);
        let name = format!("{}x{} {} {:?}", case.width, case.height, case.kind, case.params);
        assert!(mean < MEAN_END_POINT_DIFFERENCE, "{name}: mean end-point difference {mean} px");
        assert!(largest < LARGEST_END_POINT_DIFFERENCE, "{name}: largest end-point difference {largest} px");
        worst = (worst.0.max(mean), worst.1.max(largest));
    }
    println!("end-point difference to OpenCV: worst mean {:.6} px, worst pixel {:.6} px", worst.0, worst.1);
}

#[test]
fn the_known_motion_is_found() {
    for case in table::<FlowCase>("flow.json") {
        // The far shift needs a pyramid, the small picture has none and is all border.
        if case.width < 60 || (case.kind == "far" && case.params.levels < 3) {
            continue;
        }
        let (dx, dy) = flow(&case);
        let (cx, cy) = ((case.width - 1) as f64 / 2.0, (case.height - 1) as f64 / 2.0);
        let border = 16;
        let (mut sum, mut count) = (0.0, 0);
        for y in border..case.height - border {
            for x in border..case.width - border {
                let (want_x, want_y) = case.motion.displacement(x as f64 - cx, y as f64 - cy);
                let i = y * case.width + x;
                sum += (f64::from(dx[i]) - want_x).hypot(f64::from(dy[i]) - want_y);
                count += 1;
            }
        }
        let error = sum / f64::from(count);
        let name = format!("{}x{} {} {:?}", case.width, case.height, case.kind, case.params);
        assert!(error < 0.2, "{name}: {error} px from the true motion");
    }
}

#[derive(Debug, Deserialize)]
struct MelCase {
    kind: String,
    samples: usize,
    stride: usize,
    columns: usize,
    offset: usize,
    params: MelParams,
}

fn sound(kind: &str, count: usize, rate: u32) -> Vec<f32> {
    let noise = |seed: u32| {
        let mut generator = Generator(seed);
        (0..count).map(move |_| f64::from(generator.next() >> 8) / f64::from(1 << 23) - 1.0)
    };
    let rate = f64::from(rate);
    let time = (0..count).map(|i| i as f64 / rate);
    let generated: Vec<f64> = match kind {
        "noise" => noise(1).map(|n| 0.5 * n).collect(),
        "sweep" => {
            let rise = 0.45 * rate - 30.0;
            let tone = time.map(|t| 0.8 * (2.0 * PI * (30.0 * t + 0.5 * rise * t * t)).sin());
            tone.zip(noise(2)).map(|(s, n)| s + 0.001 * n).collect()
        }
        "pure" => time.map(|t| 0.9 * (2.0 * PI * 0.06 * rate * t).sin()).collect(),
        "bursts" => time.zip(noise(3)).map(|(t, n)| if (t * 10.0) as i64 % 2 == 0 { 0.7 * n } else { 0.0 }).collect(),
        other => panic!("unknown sound {other}"),
    };
    generated.into_iter().map(|v| v as f32).collect()
}

/// Compares an image with the stored columns of its reference. Returns the largest relative error, errors of values
/// below `unit` taken relative to `unit`.
fn largest_error(image: &[f32], columns: usize, reference: &mut &[f32], stride: usize, unit: f64) -> f64 {
    let mut largest = 0f64;
    for row in image.chunks_exact(columns) {
        let stored = columns.div_ceil(stride);
        for (&got, &want) in row.iter().step_by(stride).zip(&reference[..stored]) {
            assert!(got.is_finite(), "every value is finite");
            let (got, want) = (f64::from(got), f64::from(want));
            largest = largest.max((got - want).abs() / want.abs().max(unit));
        }
        *reference = &reference[stored..];
    }
    largest
}

#[test]
fn mel_and_mfcc_equal_librosa() {
    let reference = floats("mel.f32");
    let mut worst = [0f64; 3];
    for case in table::<MelCase>("mel.json") {
        let samples = sound(&case.kind, case.samples, case.params.sample_rate);
        let mut mel = LogMel::new(&case.params).unwrap();
        let columns = mel.columns(samples.len());
        assert_eq!(columns, case.columns, "{case:?}");
        let mut reference = &reference[case.offset..];

        let mut image = vec![f32::NAN; case.params.bands * columns];
        mel.power(&samples, &mut image);
        // The relative error of every power that affects the decibels. Values below the floor do not matter.
        let floor = f64::from(case.params.floor);
        let power = largest_error(&image, columns, &mut reference, case.stride, floor);
        mel.compute(&samples, &mut image);
        let decibels = largest_error(&image, columns, &mut reference, case.stride, 1.0);
        let mut mfcc = Mfcc::new(&case.params, Mfcc::COEFFICIENTS).unwrap();
        let mut cepstra = vec![f32::NAN; mfcc.coefficients() * columns];
        mfcc.compute(&samples, &mut cepstra);
        let cepstral = largest_error(&cepstra, columns, &mut reference, case.stride, 1.0);
        for (error, name) in [(power, "power"), (decibels, "decibels"), (cepstral, "cepstra")] {
            assert!(error < 1e-4, "{name} off by {error}: {case:?}");
        }
        worst = [worst[0].max(power), worst[1].max(decibels), worst[2].max(cepstral)];
    }
    println!("largest relative error to librosa: power {:e}, decibels {:e}, MFCC {:e}", worst[0], worst[1], worst[2]);
}

#[derive(Debug, Deserialize)]
struct ResizeCase {
    source: (usize, usize),
    target: (usize, usize),
    seed: u32,
    fit: Fit,
    offset: usize,
}

#[test]
fn resizing_equals_pillow() {
    let reference = crate::reference::bytes("features/resize.rgb8");
    let mut line = ResizeScratch::default();
    let mut worst = 0f32;
    for case in table::<ResizeCase>("resize.json") {
        let (width, height) = case.target;
        let mut generator = Generator(case.seed);
        let data: Vec<u8> = (0..case.source.0 * case.source.1 * 3).map(|_| (generator.next() >> 24) as u8).collect();
        let view = RgbView { data: &data, width: case.source.0, height: case.source.1 };
        // Normalised so that the values are levels again.
        let params = PictureParams {
            width,
            height,
            fit: case.fit,
            mean: [0.0; 3],
            std: [1.0 / 255.0; 3],
            ..PictureParams::default()
        };
        let mut out = vec![f32::NAN; 3 * width * height];
        ResizePlan::new(case.source, case.target, case.fit).picture(view, &params, &mut line, &mut out);
        for (i, want) in reference[case.offset..][..3 * width * height].iter().enumerate() {
            let got = out[i % 3 * width * height + i / 3];
            let difference = (got - f32::from(*want)).abs();
            // Pillow rounds to whole levels between the two axes and at the end.
            assert!(difference <= 1.01, "{case:?}: {got} for {want} at value {i}");
            worst = worst.max(difference);
        }
    }
    println!("largest difference to Pillow: {worst:.3} levels");
}
