//! The engine with the shipped pack.

use touchline_compute::infer::Engine;
use touchline_compute::models::pack::{Int8Cost, Pack, RangesSpec};
use touchline_compute::models::{read_ranges, save_ranges};
use touchline_compute::nn::fused::{Level, Precision};
use touchline_core::clip::{ClipSecond, FlowPair};
use touchline_core::frame::Frame;
use touchline_core::labels::Modality;
use touchline_core::observer::{DeviceFault, Observer, Stage};
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;

/// Ignores the reports of the engine.
struct Unobserved;

impl Observer for Unobserved {
    fn observe_stage(&self, _: Stage, _: u64) {}

    fn device_fault(&self, _: DeviceFault) {}
}

fn engine() -> Engine {
    let dir = crate::reference::project().join("weights/compact");
    Engine::load(Pack::open(&dir).expect("the shipped pack is complete")).expect("its weights fit")
}

/// A second of a moving texture and a tone. It depends on `seed`.
fn second(seed: u32, rate: u32, size: (u32, u32)) -> ClipSecond {
    let frame = |t: u32| {
        let (w, h) = size;
        let pixel = |x: u32, y: u32| {
            let wave = |a: u32, b: u32| (((x + 3 * t) * a + y * b + seed * 37) as f32 * 0.05).sin() * 90.0 + 128.0;
            [wave(1, 2) as u8, wave(2, 1) as u8, wave(1, seed % 5) as u8]
        };
        let data: Vec<u8> = (0..h).flat_map(|y| (0..w).flat_map(move |x| pixel(x, y))).collect();
        Frame::new(Pooled::detached(data), w, h, Pts(u64::from(t) * 40_000_000), 0)
    };
    let mut clip = ClipSecond::of_pictures((0..6).map(frame).collect());
    clip.rgb = vec![0, 1, 2, 3, 4];
    clip.pairs = (0..5).map(|i| FlowPair { first: i, second: i + 1, gap_ns: 40_000_000 }).collect();
    clip.flow_absent = None;
    let tone = |i: u32| (i as f32 * (0.05 + seed as f32 * 0.01)).sin() * 0.3;
    clip.audio = Some((0..rate).map(tone).collect());
    clip.audio_absent = None;
    clip
}

#[test]
fn scores_do_not_depend_on_the_batch() {
    let mut engine = engine();
    let rate = engine.pack().sample_rate().unwrap();
    let mut seconds = [(512, 288), (321, 241), (162, 288), (384, 288)].map(|size| second(size.0, rate, size));
    seconds[1].audio = None;
    let alone: Vec<_> = seconds.iter().map(|s| engine.score(&[s], &Unobserved).unwrap().remove(0)).collect();
    let together = engine.score(&seconds.iter().collect::<Vec<_>>(), &Unobserved).unwrap();
    assert_eq!(alone, together, "bit for bit");
    assert!(together[1].scores.audio.is_none() && together[0].scores.audio.is_some());
    for scored in &together {
        for modality in Modality::ALL {
            let Some(scores) = scored.scores.get(modality) else { continue };
            assert!((scores.scores.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            assert!(scores.scores.iter().all(|p| p.is_finite() && *p >= 0.0));
        }
    }
    assert_eq!(together[0].scores.rgb.as_ref().unwrap().voters, 5);
    assert_eq!(together[0].scores.flow.as_ref().unwrap().voters, 5);
}

/// Fewer bits change probabilities a little; a wrong kernel would change most of them by half or more. A second call gives the same
/// bits. The networks have not learnt these pictures, so their scores are as uncertain as possible, and a single one may change much. On
/// 339 seconds of real recordings bf16 changes a probability by 0.017 on average and by 0.08 at most.
fn assert_close_to_f32(mut rounded: Engine, limit: f32, mean_limit: f32) {
    let mut exact = engine();
    let rate = exact.pack().sample_rate().unwrap();
    let mut all = Vec::new();
    for seed in 0..6 {
        let second = second(seed, rate, (320, 180));
        let want = exact.score(&[&second], &Unobserved).unwrap().remove(0);
        let got = rounded.score(&[&second], &Unobserved).unwrap().remove(0);
        assert_eq!(got, rounded.score(&[&second], &Unobserved).unwrap().remove(0));
        for modality in Modality::ALL {
            let (want, got) = (want.scores.get(modality).as_ref(), got.scores.get(modality).as_ref());
            let (want, got) = (want.expect("scored"), got.expect("scored"));
            let change = want.scores.iter().zip(&got.scores).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(change > 0.0 && change < limit, "{modality}, second {seed}: {change}");
            all.push(change);
        }
    }
    let got = all.iter().sum::<f32>() / all.len() as f32;
    assert!(got < mean_limit, "{got} of {all:?}");
}

#[test]
fn bf16_agrees_with_f32() {
    let pack = Pack { precision: Precision::Bf16, ..engine().pack().clone() };
    assert_close_to_f32(Engine::load(pack).expect("the same weights"), 0.45, 0.09);
}

#[test]
fn int8_agrees_with_f32() {
    assert_close_to_f32(Engine::load(in_int8(None)).expect("the shipped pack has ranges"), 0.5, 0.12);
}

/// The pack in int8, with a measured cost.
fn in_int8(validation: Option<Int8Cost>) -> Pack {
    let mut pack = Pack { precision: Precision::Int8, ..engine().pack().clone() };
    let (rgb, flow, audio) = (&mut pack.rgb, &mut pack.flow, &mut pack.audio);
    let specs =
        [&mut rgb.as_mut().unwrap().model, &mut flow.as_mut().unwrap().model, &mut audio.as_mut().unwrap().model];
    for spec in specs {
        spec.int8.as_mut().expect("the shipped pack has ranges").validation = validation;
    }
    pack
}

#[test]
fn a_model_that_loses_too_much_in_int8_uses_more_exact_numbers() {
    let clip = second(3, 32_000, (160, 90));
    let logits = |pack: Pack| Engine::load(pack).unwrap().logits(&[&clip]).unwrap();
    let fastest = Pack { precision: Precision::fastest(Level::best()), ..engine().pack().clone() };
    let (fastest, int8) = (logits(fastest), logits(in_int8(Some(Int8Cost { f32: 0.6, int8: 0.598 }))));
    assert_ne!(fastest, int8);
    assert_eq!(logits(in_int8(Some(Int8Cost { f32: 0.6, int8: 0.58 }))), fastest);
    // A pack that is loaded beside one with the same weights does not reuse its networks if their precision differs.
    let running = Engine::load(in_int8(None)).unwrap();
    let costly = in_int8(Some(Int8Cost { f32: 0.6, int8: 0.58 }));
    let mut beside = Engine::load_beside(costly, Some(running.models())).unwrap();
    assert_eq!(beside.logits(&[&clip]).unwrap(), fastest);
}

#[test]
fn int8_requires_ranges() {
    let mut pack = Pack { precision: Precision::Int8, ..engine().pack().clone() };
    let spec = pack.flow.as_mut().unwrap().model.int8.take().unwrap();
    let error = Engine::load(pack.clone()).err().expect("flow has no ranges").to_string();
    assert!(error.contains("flow model") && error.contains("pack calibrate"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let mut ranges = read_ranges(&spec.path, &spec.sha256).unwrap();
    ranges.pop();
    let path = dir.path().join("fewer.safetensors");
    let sha256 = save_ranges(&ranges, &path).unwrap();
    pack.flow.as_mut().unwrap().model.int8 = Some(RangesSpec { path, sha256, validation: None });
    let error = Engine::load(pack).err().expect("one value has no ranges").to_string();
    assert!(error.contains("ranges for 52 values"), "{error}");
}

#[test]
fn an_empty_second_has_no_scores() {
    let mut engine = engine();
    let empty = ClipSecond::of_pictures(Vec::new());
    let scored = engine.score(&[&empty], &Unobserved).unwrap().remove(0);
    assert!(Modality::ALL.iter().all(|m| scored.scores.get(*m).is_none()));
}

#[test]
fn digital_silence_is_absent_sound() {
    let mut engine = engine();
    let rate = engine.pack().sample_rate().unwrap();
    let mut muted = second(1, rate, (320, 180));
    muted.audio = Some(vec![0.0; rate as usize]);
    let scored = engine.score(&[&muted], &Unobserved).unwrap().remove(0);
    assert!(scored.scores.audio.is_none() && scored.scores.rgb.is_some());
    assert_eq!(scored.absent.audio, Some(touchline_core::clip::Absent::NoData));
}

#[test]
fn the_shipped_pack_lists_the_classes_that_it_lacks() {
    let pack = engine().pack().clone();
    let missing: Vec<&str> =
        touchline_core::labels::STUDY_CLASSES.into_iter().filter(|c| pack.classes.id(c).is_none()).collect();
    assert!(!missing.is_empty() && missing.iter().all(|c| pack.left_out.contains_key(*c)), "{missing:?}");
    assert!(pack.classes.id(touchline_core::labels::OTHER).is_some());
    assert!(pack.card.measured.keys().any(|k| k.starts_with("test_videos")), "the card has test figures");
    assert!(pack.rgb.is_some() && pack.flow.is_some() && pack.audio.is_some());
}
