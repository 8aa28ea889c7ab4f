//! Pictures, flow and sound against `features::cpu` and the extractors.

use touchline_compute::features::cpu::farneback::Farneback;
use touchline_compute::features::cpu::mel::{LogMel, Mfcc};
use touchline_compute::features::cpu::nv12;
use touchline_compute::features::cpu::nv12::ColorMatrix;
use touchline_compute::features::cpu::resize::{ResizePlan, ResizeScratch};
use touchline_compute::features::cuda::{
    BatchInputs, DeviceFarneback, DeviceFeatures, DeviceMel, Format, OutputTarget, OutputTargets, PairIndex, Picture,
    cepstra,
};
use touchline_compute::features::params::{
    AudioParams, FarnebackParams, Fit, FlowParams, MelParams, MelScale, PictureParams,
};
use touchline_compute::features::{FlowExtractor, PictureExtractor, SoundExtractor};
use touchline_compute::gpu::launch::{ElementType, GrowingBuffer, Launcher, Layout, table};
use touchline_core::clip::{ClipSecond, FlowPair};
use touchline_core::decision::PerModality;
use touchline_core::frame::{Frame, RgbView};
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;

use super::numbers::{Noise, largest_difference, unpacked};
use super::runner::Runner;

/// A picture of waves with some noise: neighbours differ, and so do channels.
fn rgb(width: usize, height: usize, shift: f64, noise: &mut Noise) -> Vec<u8> {
    let mut data = Vec::with_capacity(3 * width * height);
    for i in 0..width * height {
        let (x, y) = ((i % width) as f64 - shift, (i / width) as f64 - shift / 2.0);
        let wave = 128.0 + 45.0 * (0.21 * x + 0.08 * y).sin() + 45.0 * (0.25 * y - 0.1 * x + 1.0).sin();
        let speck = f64::from(noise.next()) * 8.0;
        data.extend([wave + speck, wave * 0.5 - speck, 255.0 - wave].map(|v| v.clamp(0.0, 255.0) as u8));
    }
    data
}

fn picture_params(width: usize, height: usize, fit: Fit) -> PictureParams {
    PictureParams { width, height, fit, ..PictureParams::default() }
}

/// One picture through the device.
fn device_picture(
    host: &mut Runner,
    picture: Picture<'_>,
    params: &PictureParams,
    numbers: ElementType,
    layout: Layout,
) -> Vec<f32> {
    let mut features = DeviceFeatures::new(host, Some(params), None, None).unwrap();
    // Two more pictures, so that positions and offsets matter.
    let (front, empty) = ([9u8; 3], Picture { data: &[], width: 0, height: 5, format: Format::Rgb8 });
    let front = Picture { data: &front, width: 1, height: 1, format: Format::Rgb8 };
    let work = BatchInputs { pictures: vec![front, picture, empty], rgb: vec![0, 1, 2], ..BatchInputs::default() };
    let len = 3 * params.width * params.height;
    let out = host.memory(3 * len * numbers.bytes()).unwrap();
    let target = OutputTarget { out: host.pointer(&out), numbers, layout };
    features
        .run(host, &work, &OutputTargets { pictures: Some(target), ..OutputTargets::default() }, &mut |_, _| {})
        .unwrap();
    let all = host.read(target.out, 3 * len * numbers.bytes());
    let (picture, empty) = all[len * numbers.bytes()..].split_at(len * numbers.bytes());
    assert!(empty.iter().all(|b| *b == 0), "a picture without pixels is the mean");
    planar(unpacked(picture, numbers), params, layout)
}

fn planar(values: Vec<f32>, params: &PictureParams, layout: Layout) -> Vec<f32> {
    match layout {
        Layout::Planar => values,
        Layout::Interleaved => {
            let plane = params.width * params.height;
            (0..3 * plane).map(|i| values[i % plane * 3 + i / plane]).collect()
        }
    }
}

#[test]
fn pictures_are_resized_and_normalised_as_on_the_cpu() {
    let (mut host, mut noise) = (Runner::new(), Noise::new(1));
    let mut worst = 0f32;
    for source in [(1, 1), (2, 3), (97, 65), (301, 3), (1, 300), (331, 211), (640, 36)] {
        for (target, fit) in
            [((33, 21), Fit::Pad), ((1, 9), Fit::Stretch), ((24, 24), Fit::Crop), ((141, 57), Fit::Pad)]
        {
            let params = picture_params(target.0, target.1, fit);
            let data = rgb(source.0, source.1, 0.0, &mut noise);
            let mut want = vec![f32::NAN; 3 * target.0 * target.1];
            let view = RgbView { data: &data, width: source.0, height: source.1 };
            PictureExtractor::new(&params).unwrap().view_into(view, &mut want);
            let picture = Picture { data: &data, width: source.0, height: source.1, format: Format::Rgb8 };
            for layout in [Layout::Planar, Layout::Interleaved] {
                let got = device_picture(&mut host, picture, &params, ElementType::F32, layout);
                let difference = largest_difference(&got, &want);
                assert!(difference < 1e-4, "{source:?} to {target:?} {fit:?} {layout:?}: {difference}");
                worst = worst.max(difference);
            }
        }
    }
    println!("pictures: largest difference to the CPU {worst:e} of a standard deviation");
}

#[test]
fn f16_and_bf16_values_are_rounded_f32_values() {
    let (mut host, mut noise) = (Runner::new(), Noise::new(2));
    let params = picture_params(31, 17, Fit::Pad);
    let data = rgb(50, 40, 0.0, &mut noise);
    let picture = Picture { data: &data, width: 50, height: 40, format: Format::Rgb8 };
    let exact = device_picture(&mut host, picture, &params, ElementType::F32, Layout::Planar);
    let f16 = device_picture(&mut host, picture, &params, ElementType::F16, Layout::Interleaved);
    let bf16 = device_picture(&mut host, picture, &params, ElementType::Bf16, Layout::Planar);
    for ((exact, f16), bf16) in exact.iter().zip(f16).zip(bf16) {
        assert_eq!(half::f16::from_f32(*exact).to_f32(), f16);
        assert_eq!(half::bf16::from_f32(*exact).to_f32(), bf16);
    }
}

#[test]
fn nv12_is_converted_and_then_resized() {
    let (mut host, mut noise) = (Runner::new(), Noise::new(3));
    for (source, matrix) in
        [((97, 65), ColorMatrix::Bt709), ((40, 30), ColorMatrix::Bt601), ((5, 1), ColorMatrix::Bt709)]
    {
        let data: Vec<u8> = (0..nv12::len(source.0, source.1)).map(|_| (noise.next() * 128.0 + 128.0) as u8).collect();
        let mut converted = vec![0; 3 * source.0 * source.1];
        nv12::to_rgb8(&data, source, matrix, &mut converted);
        let params = picture_params(33, 21, Fit::Crop);
        let mut want = vec![f32::NAN; 3 * 33 * 21];
        let view = RgbView { data: &converted, width: source.0, height: source.1 };
        PictureExtractor::new(&params).unwrap().view_into(view, &mut want);
        let picture = Picture { data: &data, width: source.0, height: source.1, format: Format::Nv12(matrix) };
        let got = device_picture(&mut host, picture, &params, ElementType::F32, Layout::Planar);
        // A sum with another rounding may cross half a level in a few of many pixels.
        let difference = largest_difference(&got, &want);
        assert!(difference < 0.02, "{source:?} {matrix:?}: {difference}");
    }
}

/// A gray picture by the plan of the CPU.
fn gray(width: usize, height: usize, shift: f64, noise: &mut Noise) -> Vec<f32> {
    let data = rgb(width, height, shift, noise);
    let mut out = vec![0.0; width * height];
    let plan = ResizePlan::new((width, height), (width, height), Fit::Stretch);
    plan.gray(RgbView { data: &data, width, height }, &mut ResizeScratch::default(), &mut out);
    out
}

#[test]
fn flow_equals_the_cpu_within_a_thousandth_of_its_range() {
    let (mut host, mut worst) = (Runner::new(), 0f32);
    let usual = FarnebackParams::default();
    let cases = [
        (97, 65, usual),
        (141, 131, FarnebackParams { gaussian: true, ..usual }),
        (130, 71, FarnebackParams { poly_n: 7, poly_sigma: 1.5, winsize: 8, iterations: 2, ..usual }),
        (75, 90, FarnebackParams { pyr_scale: 0.7, levels: 4, winsize: 21, iterations: 1, ..usual }),
        // Windows too large for a ring in shared memory.
        (66, 47, FarnebackParams { winsize: 81, iterations: 1, ..usual }),
        (43, 34, FarnebackParams { winsize: 71, iterations: 1, gaussian: true, ..usual }),
        (1, 1, usual),
        (2, 37, usual),
        (40, 1, FarnebackParams { gaussian: true, poly_n: 7, ..usual }),
    ];
    for (width, height, params) in cases {
        let mut noise = Noise::new(4);
        let pictures: Vec<Vec<f32>> =
            [0.0, 1.7, -2.4].map(|shift| gray(width, height, shift, &mut noise)).into_iter().collect();
        let pairs = [[0, 1], [2, 0], [1, 2]];
        let memory = table(&mut host, &pictures.concat()).unwrap();
        let list = table(&mut host, pairs.as_flattened()).unwrap();
        let (at, list) = (host.pointer(&memory), host.pointer(&list));
        let device = DeviceFarneback::new(&mut host, width, height, params).unwrap();
        let mut scratch = GrowingBuffer::default();
        let flow = device.flow(&mut host, (at, pictures.len()), (list, pairs.len()), &mut scratch).unwrap();
        let got = host.floats(flow, pairs.len() * 2 * width * height);
        let mut farneback = Farneback::new(width, height, params).unwrap();
        for (pair, got) in pairs.iter().zip(got.chunks_exact(2 * width * height)) {
            let (mut dx, mut dy) = (vec![0.0; width * height], vec![0.0; width * height]);
            farneback.flow(&pictures[pair[0] as usize], &pictures[pair[1] as usize], &mut dx, &mut dy);
            let want = [dx, dy].concat();
            let range = want.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-3);
            let difference = largest_difference(got, &want) / range;
            assert!(difference < 1e-3, "{width}x{height} {params:?} {pair:?}: {difference} of {range} px");
            worst = worst.max(difference);
        }
    }
    println!("flow: largest difference to the CPU {worst:e} of its range");
}

#[test]
fn pictures_that_are_not_finite_give_finite_flow() {
    let (mut host, mut noise) = (Runner::new(), Noise::new(5));
    let (width, height) = (80, 50);
    let mut bad = gray(width, height, 0.0, &mut noise);
    bad[width * 20 + 30] = f32::NAN;
    bad[width * 40 + 7] = f32::INFINITY;
    let both = [bad, gray(width, height, 1.0, &mut noise)].concat();
    let (memory, list) = (table(&mut host, &both).unwrap(), table(&mut host, &[0, 1]).unwrap());
    let (at, list) = (host.pointer(&memory), host.pointer(&list));
    let device = DeviceFarneback::new(&mut host, width, height, FarnebackParams::default()).unwrap();
    let mut scratch = GrowingBuffer::default();
    let flow = device.flow(&mut host, (at, 2), (list, 1), &mut scratch).unwrap();
    assert!(host.floats(flow, 2 * width * height).iter().all(|v| v.is_finite()));
}

fn mel_params(n_fft: usize, hop: usize) -> MelParams {
    MelParams {
        sample_rate: 16_000,
        n_fft,
        hop,
        bands: 40,
        f_min: 20.0,
        f_max: 8000.0,
        scale: MelScale::Slaney,
        floor: 1e-10,
        top_db: Some(80.0),
    }
}

/// Tones over quiet noise, with some NaN and infinite samples.
fn sound(samples: usize, noise: &mut Noise) -> Vec<f32> {
    let mut sound: Vec<f32> = (0..samples)
        .map(|i| 0.7 * (i as f32 * 0.31).sin() + 0.2 * (i as f32 * 0.05).sin() + noise.next() * 1e-3)
        .collect();
    if samples > 900 {
        (sound[100], sound[503], sound[871]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    }
    sound
}

/// Largest difference, of values below `unit` relative to `unit`; infinite if one is NaN.
fn largest_error(got: &[f32], want: &[f32], unit: f32) -> f32 {
    let scaled = |v: &[f32]| v.iter().zip(want).map(|(v, w)| v / w.abs().max(unit)).collect::<Vec<_>>();
    largest_difference(&scaled(got), &scaled(want))
}

#[test]
fn mel_and_cepstra_equal_the_cpu() {
    let (mut host, mut noise) = (Runner::new(), Noise::new(6));
    let mut worst = [0f32; 3];
    for (n_fft, hop, samples) in [
        (1024, 320, 3001),
        (512, 160, 1999),
        (400, 160, 1601),
        (64, 17, 333),
        (16, 5, 40),
        (100, 33, 0),
        (2048, 512, 1),
    ] {
        for top_db in [Some(80.0), None] {
            let params = MelParams { top_db, ..mel_params(n_fft, hop) };
            let sounds = [sound(samples, &mut noise), vec![0.0; samples], sound(samples, &mut noise)];
            let memory = table(&mut host, &sounds.concat()).unwrap();
            let at = host.pointer(&memory);
            let mut device = DeviceMel::new(&mut host, &params).unwrap();
            let mut cpu = LogMel::new(&params).unwrap();
            let mut mfcc = Mfcc::new(&params, 33).unwrap();
            let size = params.bands * cpu.columns(samples);
            let images = device.images(&mut host, at, (3, samples), false).unwrap();
            let power = host.floats(images.at, 3 * size);
            let images = device.images(&mut host, at, (3, samples), true).unwrap();
            let decibels = host.floats(images.at, 3 * size);
            let out = host.memory(3 * 33 * images.columns * 4).unwrap();
            let out_at = host.pointer(&out);
            cepstra(&mut host, &mut device, at, (3, samples), 33, out_at).unwrap();
            let coefficients = host.floats(out_at, 3 * 33 * images.columns);
            for (i, samples) in sounds.iter().enumerate() {
                let mut want = vec![f32::NAN; size];
                cpu.power(samples, &mut want);
                worst[0] = worst[0].max(largest_error(&power[i * size..][..size], &want, params.floor));
                cpu.compute(samples, &mut want);
                worst[1] = worst[1].max(largest_error(&decibels[i * size..][..size], &want, 1.0));
                let mut want = vec![f32::NAN; 33 * images.columns];
                mfcc.compute(samples, &mut want);
                worst[2] = worst[2].max(largest_error(&coefficients[i * want.len()..][..want.len()], &want, 1.0));
                assert!(worst.iter().all(|w| *w < 1e-4), "{n_fft}/{hop}, sound {i} of {}: {worst:?}", samples.len());
            }
        }
    }
    println!("mel: largest relative error to the CPU, power, decibels, cepstra: {worst:?}");
}

#[test]
fn a_frame_too_large_for_a_block_is_summed_by_the_definition() {
    let (mut host, mut noise) = (Runner::new(), Noise::new(7));
    let params = MelParams { bands: 12, ..mel_params(8192, 4000) };
    let samples = sound(300, &mut noise);
    let memory = table(&mut host, &samples).unwrap();
    let at = host.pointer(&memory);
    let mut device = DeviceMel::new(&mut host, &params).unwrap();
    let images = device.images(&mut host, at, (1, 300), true).unwrap();
    let mut want = vec![f32::NAN; 12];
    LogMel::new(&params).unwrap().compute(&samples, &mut want);
    let error = largest_error(&host.floats(images.at, 12), &want, 1.0);
    assert!(error < 1e-4, "{error}");
}

fn frame(width: usize, height: usize, shift: f64, noise: &mut Noise) -> Frame {
    let data = rgb(width, height, shift, noise);
    Frame::new(Pooled::detached(data), width as u32, height as u32, Pts(0), 0)
}

fn flow_params() -> FlowParams {
    let farneback = FarnebackParams::default();
    FlowParams { width: 66, height: 58, fit: Fit::Pad, gap_ms: 40, clip_px: 1.5, farneback }
}

fn audio_params() -> AudioParams {
    AudioParams { mel: mel_params(512, 160), width: 48, height: 53, mean_db: -30.0, std_db: 20.0 }
}

fn pair(first: usize, second: usize, gap_ms: u64) -> FlowPair {
    FlowPair { first, second, gap_ns: gap_ms * 1_000_000 }
}

fn seconds(noise: &mut Noise) -> Vec<ClipSecond> {
    let mut first = ClipSecond::of_pictures(vec![
        frame(90, 70, 0.0, noise),
        frame(90, 70, 1.0, noise),
        frame(61, 83, 0.0, noise),
        frame(61, 83, 2.0, noise),
        frame(0, 0, 0.0, noise),
    ]);
    first.rgb = vec![1, 2, 0, 4, 1];
    first.pairs = vec![pair(0, 1, 40), pair(1, 2, 40), pair(2, 3, 33), pair(4, 4, 40), pair(1, 0, 0), pair(1, 0, 80)];
    first.audio = Some(sound(16_000, noise));
    let silent = ClipSecond { audio: Some(vec![0.0; 16_000]), ..ClipSecond::of_pictures(Vec::new()) };
    let mut last = ClipSecond::of_pictures(vec![frame(90, 70, 3.0, noise), frame(90, 70, 1.0, noise)]);
    last.rgb = vec![0];
    last.pairs = vec![pair(0, 1, 40)];
    last.audio = Some(sound(9_000, noise));
    vec![first, silent, last]
}

/// A whole batch: mixed sizes, pairs that cannot be compared, a second of digital silence, and one upload.
#[test]
fn whole_seconds_match_the_extractors() {
    let (mut host, mut noise) = (Runner::new(), Noise::new(8));
    let (picture, flow, audio) = (picture_params(24, 31, Fit::Pad), flow_params(), audio_params());
    let seconds = seconds(&mut noise);
    let all: Vec<&ClipSecond> = seconds.iter().collect();
    let has_sound = |s: &ClipSecond| s.audio.as_ref().is_some_and(|a| a.iter().any(|v| *v != 0.0));
    let (work, counts) = BatchInputs::of(&all, PerModality { rgb: true, flow: true, audio: true }, has_sound);
    let count = |each: fn(&PerModality<usize>) -> usize| counts.iter().map(each).collect::<Vec<_>>();
    assert_eq!(
        (count(|c| c.rgb), count(|c| c.flow), count(|c| c.audio)),
        (vec![5, 0, 1], vec![6, 0, 1], vec![1, 0, 1])
    );

    let (mut pictures, mut flows, mut sounds) = (Vec::new(), Vec::new(), Vec::new());
    let mut extractors = (
        PictureExtractor::new(&picture).unwrap(),
        FlowExtractor::new(&flow).unwrap(),
        SoundExtractor::new(&audio).unwrap(),
    );
    for second in &seconds {
        extractors.0.second_into(second, &mut pictures);
        extractors.1.second_into(second, &mut flows);
        if has_sound(second) {
            extractors.2.samples_into(second.audio.as_ref().unwrap(), &mut sounds);
        }
    }
    let mut features = DeviceFeatures::new(&mut host, Some(&picture), Some(&flow), Some(&audio)).unwrap();
    // In the second round all buffers exist already.
    for round in 0..2 {
        let mut target = |len: usize| {
            let memory = host.memory(len * 4).unwrap();
            let out = host.pointer(&memory);
            (OutputTarget { out, numbers: ElementType::F32, layout: Layout::Planar }, memory, len)
        };
        let outputs = [target(pictures.len()), target(flows.len()), target(sounds.len())];
        let [p, f, s] = [0, 1, 2].map(|i| Some(outputs[i].0));
        features.run(&mut host, &work, &OutputTargets { pictures: p, flows: f, sounds: s }, &mut |_, _| {}).unwrap();
        for ((output, want), (name, tolerance)) in outputs.iter().zip([&pictures, &flows, &sounds]).zip([
            ("pictures", 1e-4),
            ("flows", 2e-3),
            ("sounds", 1e-3),
        ]) {
            let got = host.floats(output.0.out, output.2);
            let difference = largest_difference(&got, want);
            assert!(difference < tolerance, "{name}, round {round}: {difference}");
            assert!(want.iter().any(|v| *v != 0.0));
        }
    }
}

#[test]
fn the_number_of_launches_does_not_grow_with_the_batch() {
    let (mut host, mut noise) = (Runner::new(), Noise::new(9));
    let flow = FlowParams { farneback: FarnebackParams { levels: 1, ..Default::default() }, ..flow_params() };
    let mut features = DeviceFeatures::new(&mut host, None, Some(&flow), None).unwrap();
    let frames: Vec<Vec<u8>> = (0..4).map(|i| rgb(66, 58, f64::from(i), &mut noise)).collect();
    let pictures: Vec<Picture<'_>> =
        frames.iter().map(|data| Picture { data, width: 66, height: 58, format: Format::Rgb8 }).collect();
    for pairs in [1, 3] {
        let pairs: Vec<PairIndex> =
            (0..pairs).map(|i| PairIndex { first: i, second: i + 1, gap_ns: 40_000_000 }).collect();
        let out = host.memory(pairs.len() * features.flows.as_ref().unwrap().input_len() * 4).unwrap();
        let target = OutputTarget { out: host.pointer(&out), numbers: ElementType::F32, layout: Layout::Planar };
        let work = BatchInputs { pictures: pictures.clone(), pairs, ..BatchInputs::default() };
        host.launches.clear();
        features
            .run(&mut host, &work, &OutputTargets { flows: Some(target), ..OutputTargets::default() }, &mut |_, _| {})
            .unwrap();
        let iterate = ["farneback_iterate"; 3];
        let level = [&["farneback_shrink", "farneback_expand_5"][..], &iterate].concat();
        let want = [&["gray_rgb8"][..], &level, &["flow_encode_f32"]].concat();
        assert_eq!(host.launches, want, "58 lines are too few for a second level");
    }
}

#[test]
fn wrong_parameters_are_named_with_their_section() {
    let mut host = Runner::new();
    let mut refused = |picture: Option<&PictureParams>, flow: Option<&FlowParams>, audio: Option<&AudioParams>| {
        DeviceFeatures::new(&mut host, picture, flow, audio).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(refused(Some(&picture_params(0, 4, Fit::Pad)), None, None).starts_with("picture.width = 0"));
    let farneback = FarnebackParams { poly_n: 6, ..Default::default() };
    assert!(refused(None, Some(&FlowParams { farneback, ..flow_params() }), None).starts_with("flow.farneback.poly_n"));
    let mut audio = audio_params();
    audio.mel.hop = 0;
    assert!(refused(None, None, Some(&audio)).starts_with("audio.mel.hop = 0"));
}
