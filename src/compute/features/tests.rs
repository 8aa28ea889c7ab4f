//! Whole seconds through the extractors.

use super::params::{FarnebackParams, Fit, MelParams, MelScale};
use super::*;
use touchline_core::clip::{FlowPair, FrameShare};
use touchline_core::frame::{Frame, RgbView};
use touchline_core::pool::Pooled;
use touchline_core::tier::DecodeTier;
use touchline_core::time::{Pts, RunId};

/// A picture of smooth texture, shifted by `shift` pixels to the right and half of it down.
fn frame(width: usize, height: usize, shift: f64) -> Frame {
    let mut data = Vec::with_capacity(width * height * 3);
    for i in 0..width * height {
        let (x, y) = ((i % width) as f64 - shift, (i / width) as f64 - shift / 2.0);
        let level = 128.0 + 50.0 * (0.21 * x + 0.08 * y).sin() + 50.0 * (0.25 * y - 0.1 * x + 1.0).sin();
        data.extend([level as u8, (level * 0.5) as u8, 255 - level as u8]);
    }
    Frame::new(Pooled::detached(data), width as u32, height as u32, Pts(0), 0)
}

fn second(frames: Vec<Frame>, rgb: Vec<usize>, pairs: Vec<FlowPair>) -> ClipSecond {
    ClipSecond {
        run: RunId(0),
        index: 0,
        frame_share: FrameShare::ALL,
        tier: DecodeTier::Full,
        frames_seen: frames.len() as u32,
        frames,
        rgb,
        pairs,
        audio: None,
        audio_missing: 0,
        rgb_absent: None,
        flow_absent: None,
        audio_absent: None,
        wall: None,
        timecode: None,
        arrived_ns: 0,
        behind_ns: 0,
    }
}

fn pair(first: usize, second: usize, gap_ms: u64) -> FlowPair {
    FlowPair { first, second, gap_ns: gap_ms * 1_000_000 }
}

fn picture_params() -> PictureParams {
    PictureParams { width: 24, height: 24, fit: Fit::Pad, mean: [0.5; 3], std: [0.25; 3], ..PictureParams::default() }
}

fn flow_params() -> FlowParams {
    let farneback = FarnebackParams::default();
    FlowParams { width: 96, height: 96, fit: Fit::Pad, gap_ms: 40, clip_px: 4.0, farneback }
}

fn audio_params() -> AudioParams {
    let mel = MelParams {
        sample_rate: 16_000,
        n_fft: 512,
        hop: 160,
        bands: 64,
        f_min: 20.0,
        f_max: 8000.0,
        scale: MelScale::Slaney,
        floor: 1e-10,
        top_db: None,
    };
    AudioParams { mel, width: 48, height: 40, mean_db: -30.0, std_db: 20.0 }
}

#[test]
fn pictures_follow_the_plan_and_are_appended() {
    let params = picture_params();
    let frames = vec![frame(40, 20, 0.0), frame(33, 47, 1.0), frame(40, 20, 5.0)];
    let second = second(frames, vec![2, 0, 1, 2], vec![]);
    let mut extractor = PictureExtractor::new(&params).unwrap();
    let len = extractor.input_len();
    let mut out = vec![7.0];
    assert_eq!(extractor.second_into(&second, &mut out), 4);
    assert_eq!(out.len(), 1 + 4 * len);
    assert_eq!(out[0], 7.0);
    for (got, &i) in out[1..].chunks_exact(len).zip(&second.rgb) {
        let mut alone = vec![f32::NAN; len];
        extractor.view_into(second.frames[i].view(), &mut alone);
        assert_eq!(got, alone);
        assert!(got.iter().any(|v| *v != 0.0));
    }
    assert_eq!(pictures(&second, &params).unwrap(), out[1..]);
}

#[test]
fn flow_is_scaled_to_the_nominal_distance_and_padding_has_none() {
    let params = flow_params();
    // 192 x 96 covers the middle 96 x 48 at half its size: 4 pixels of motion are 2 there.
    let second = second(
        vec![frame(192, 96, 0.0), frame(192, 96, 4.0)],
        vec![],
        vec![pair(0, 1, 40), pair(0, 1, 80), pair(1, 0, 40)],
    );
    let out = flows(&second, &params).unwrap();
    let plane = 96 * 96;
    assert_eq!(out.len(), 3 * 3 * plane);
    for (input, want_x) in out.chunks_exact(3 * plane).zip([0.5, 0.25, -0.5]) {
        let [dx, dy, magnitude] = std::array::from_fn(|c| &input[c * plane..(c + 1) * plane]);
        for y in (0..24).chain(72..96) {
            for plane in [dx, dy, magnitude] {
                assert!(plane[y * 96..(y + 1) * 96].iter().all(|&v| v == 0.0), "padding row {y}");
            }
        }
        for (y, x) in (36..60).flat_map(|y| (16..80).map(move |x| (y, x))) {
            let i = y * 96 + x;
            assert!((dx[i] - want_x).abs() < 0.06, "dx {} at {x},{y}, expected {want_x}", dx[i]);
            assert!((dy[i] - want_x / 2.0).abs() < 0.06, "dy {} at {x},{y}", dy[i]);
            assert!((magnitude[i] - dx[i].hypot(dy[i])).abs() < 1e-5);
        }
    }
}

#[test]
fn flow_is_clipped() {
    let params = FlowParams { clip_px: 0.5, ..flow_params() };
    let second = second(vec![frame(96, 96, 0.0), frame(96, 96, 3.0)], vec![], vec![pair(0, 1, 40)]);
    let out = flows(&second, &params).unwrap();
    let centre = 48 * 96 + 48;
    assert_eq!([out[centre], out[96 * 96 + centre], out[2 * 96 * 96 + centre]], [1.0, 1.0, 1.0]);
    assert!(out.iter().all(|v| (-1.0..=1.0).contains(v)));
}

#[test]
fn pairs_that_cannot_be_compared_have_no_flow() {
    let frames = vec![frame(64, 64, 0.0), frame(64, 32, 0.0), frame(0, 0, 0.0), frame(64, 64, 2.0)];
    let pairs = vec![pair(0, 1, 40), pair(0, 2, 40), pair(2, 2, 40), pair(0, 3, 0), pair(0, 3, 40)];
    let out = flows(&second(frames, vec![], pairs), &flow_params()).unwrap();
    let moves: Vec<bool> = out.chunks_exact(3 * 96 * 96).map(|input| input.iter().any(|&v| v != 0.0)).collect();
    assert_eq!(moves, [false, false, false, false, true]);
}

#[test]
fn an_empty_picture_is_the_mean() {
    let mut out = vec![1.0; 3 * 24 * 24];
    let empty = RgbView { data: &[], width: 0, height: 0 };
    PictureExtractor::new(&picture_params()).unwrap().view_into(empty, &mut out);
    assert!(out.iter().all(|&v| v == 0.0));
}

#[test]
fn results_depend_neither_on_threads_nor_on_earlier_calls() {
    let frames: Vec<Frame> = (0..6).map(|i| frame(100, 70, f64::from(i))).chain([frame(50, 120, 0.0)]).collect();
    let pairs = vec![pair(0, 1, 40), pair(2, 3, 33), pair(4, 5, 50), pair(0, 5, 40), pair(3, 1, 40)];
    let second = second(frames, vec![0, 6, 3, 1], pairs);
    let mut reused = (PictureExtractor::new(&picture_params()).unwrap(), FlowExtractor::new(&flow_params()).unwrap());
    let mut results = Vec::new();
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut rgb, mut flow) = (Vec::new(), Vec::new());
            reused.0.second_into(&second, &mut rgb);
            reused.1.second_into(&second, &mut flow);
            results.push((rgb, flow));
            results.push((pictures(&second, &picture_params()).unwrap(), flows(&second, &flow_params()).unwrap()));
        });
    }
    assert!(results.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn sound_has_low_bands_on_top_and_three_equal_channels() {
    let params = audio_params();
    let tone = |hz: f64| -> Vec<f32> {
        (0..16_000).map(|i| (2.0 * std::f64::consts::PI * hz * f64::from(i) / 16_000.0).sin() as f32).collect()
    };
    let plane = 48 * 40;
    let loudest_row = |samples: &[f32]| {
        let out = sound(samples, &params).unwrap();
        assert_eq!(out.len(), 3 * plane);
        assert!(out[..plane] == out[plane..2 * plane] && out[..plane] == out[2 * plane..]);
        (0..40).max_by(|&a: &usize, &b: &usize| out[a * 48 + 24].total_cmp(&out[b * 48 + 24])).unwrap()
    };
    assert!(loudest_row(&tone(150.0)) < 4);
    assert!(loudest_row(&tone(7500.0)) > 35);
    // Silence is at the floor, -100 dB, for any length of sound.
    for samples in [0, 1000, 16_000] {
        let out = sound(&vec![0.0; samples], &params).unwrap();
        assert!(out.iter().all(|v| (v - (-100.0 + 30.0) / 20.0).abs() < 1e-4));
    }
}

#[test]
fn a_pack_without_a_modality_extracts_nothing_for_it() {
    let mut second = second(vec![frame(20, 20, 0.0)], vec![0], vec![pair(0, 0, 40)]);
    second.audio = Some(vec![0.0; 16_000]);
    let mut none = FeatureExtractor::new(None, None, None).unwrap();
    let mut all = FeatureExtractor::new(Some(&picture_params()), Some(&flow_params()), Some(&audio_params())).unwrap();
    let run = |extractor: &mut FeatureExtractor| {
        let mut out = Vec::new();
        let counts = [
            extractor.pictures_into(&second, &mut out),
            extractor.flows_into(&second, &mut out),
            extractor.sound_into(&second, &mut out),
        ];
        (counts, out.len())
    };
    assert_eq!(run(&mut none), ([0, 0, 0], 0));
    assert_eq!(run(&mut all), ([1, 1, 1], 3 * (24 * 24 + 96 * 96 + 48 * 40)));
    second.audio = None;
    assert_eq!(all.sound_into(&second, &mut Vec::new()), 0);
}

#[test]
fn wrong_parameters_are_named_with_their_section() {
    let error = FeatureExtractor::new(Some(&PictureParams { width: 0, ..picture_params() }), None, None).unwrap_err();
    assert!(error.starts_with("picture.width = 0"), "{error}");
    let farneback = FarnebackParams { poly_n: 6, ..Default::default() };
    let error = FeatureExtractor::new(None, Some(&FlowParams { farneback, ..flow_params() }), None).unwrap_err();
    assert!(error.starts_with("flow.farneback.poly_n = 6"), "{error}");
    let mut audio = audio_params();
    audio.mel.hop = 0;
    let error = FeatureExtractor::new(None, None, Some(&audio)).unwrap_err();
    assert!(error.starts_with("audio.mel.hop = 0"), "{error}");
}
