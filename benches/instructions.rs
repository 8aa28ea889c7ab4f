//! The stages that decode nothing, on fixed inputs, for counting instructions: `benches/instructions.py` runs each under callgrind and
//! compares the counts with those of an earlier build.
//!
//! The argument is the name of a stage. Only what [`measured`] calls counts; it is called once, after a round that fills caches and
//! buffers. The thread of `main` is the only worker of rayon's pool, because callgrind counts on the thread that called [`measured`].

use std::hint::black_box;
use std::sync::Arc;

use touchline_compute::features::cpu::farneback::Farneback;
use touchline_compute::features::cpu::mel::LogMel;
use touchline_compute::features::cpu::resize::{ResizePlan, ResizeScratch};
use touchline_compute::features::params::{FarnebackParams, Fit, MelParams, PictureParams};
use touchline_core::clip::{ClipBuilder, ClipConfig, FrameShare, LagLimits, SamplingPlan};
use touchline_core::decision::{
    Decision, DecisionReason, ModalityScores, PackStamp, PerModality, SecondOutcome, SecondPrediction,
};
use touchline_core::expectation::WatchedSecond;
use touchline_core::frame::{Frame, RgbView};
use touchline_core::item::{MediaItem, Pace, Tracks};
use touchline_core::labels::{ClassId, ClassSet, Modality};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;
use touchline_core::tier::DecodeTier;
use touchline_core::time::{NANOS_PER_SECOND, Pts, RunId, WallSource, WallTime};
use touchline_core::vote::{VoteConfig, Voter};
use touchline_media::convert::{Chroma, Conversion, Converter, Matrix, Plane, Range};
use touchline_serve::record::{Published, Recorder};

/// What is counted: callgrind switches counting on at its entry and off at its end.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

fn count(mut work: impl FnMut()) {
    work();
    measured(&mut work);
}

/// Numbers from 0 to 255 without a pattern.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// Two seconds of 25 pictures and stereo sound at 48 kHz, cut and resampled to 32 kHz.
fn clip() {
    let plan = SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000, signal_frames: 0 };
    let lag = LagLimits::for_pace(Pace::File);
    count(|| {
        let mut builder =
            ClipBuilder::new(ClipConfig { sample_rate: Some(32_000), plan: plan.clone(), lag, behind_ns: 0 });
        let mut out = Vec::new();
        builder.push(MediaItem::Opened(Tracks { video: true, audio: true }), &mut out);
        let (mut pictures, mut chunks) = (0u64, 0u64);
        while pictures < 50 {
            let (picture, chunk) = (pictures * NANOS_PER_SECOND / 25, chunks * 1024 * NANOS_PER_SECOND / 48_000);
            if picture <= chunk {
                let data = Pooled::detached(vec![pictures as u8; 32 * 18 * 3]);
                builder.push(MediaItem::Frame(Frame::new(data, 32, 18, Pts(picture), 0)), &mut out);
                pictures += 1;
            } else {
                let data = Pooled::detached((0..2048).map(|n| n as f32 / 4096.0).collect());
                builder.push(MediaItem::Pcm(PcmChunk::new(data, 48_000, 2, Pts(chunk), 0)), &mut out);
                chunks += 1;
            }
        }
        black_box(out);
    });
}

/// One second at 32 kHz.
fn mel() {
    let params = MelParams::default();
    let samples: Vec<f32> = noise(32_000).into_iter().map(|value| f32::from(value) / 128.0 - 1.0).collect();
    let mut mel = LogMel::new(&params).expect("sensible parameters");
    let mut out = vec![0.0; params.bands * mel.columns(samples.len())];
    count(|| mel.compute(black_box(&samples), &mut out));
}

/// One pair of pictures.
fn flow() {
    let (width, height) = (160, 96);
    let data = noise(width * height + 2);
    let picture =
        |from: usize| data[from..from + width * height].iter().map(|value| f32::from(*value)).collect::<Vec<_>>();
    let (first, second) = (picture(0), picture(2));
    let (mut dx, mut dy) = (vec![0.0; width * height], vec![0.0; width * height]);
    let mut farneback = Farneback::new(width, height, FarnebackParams::default()).expect("sensible parameters");
    count(|| farneback.flow(black_box(&first), black_box(&second), &mut dx, &mut dy));
}

/// One picture to the model's input.
fn resize() {
    let (width, height) = (512, 288);
    let params = PictureParams { width: 224, height: 224, fit: Fit::Stretch, ..PictureParams::default() };
    let data = noise(3 * width * height);
    let plan = ResizePlan::new((width, height), (224, 224), Fit::Stretch);
    let (mut line, mut out) = (ResizeScratch::default(), vec![0.0; 3 * 224 * 224]);
    count(|| plan.picture(black_box(RgbView { data: &data, width, height }), &params, &mut line, &mut out));
}

/// One picture of 1080 lines from the decoder's planes to RGB.
fn convert() {
    let (width, height) = (1920, 1080);
    let conversion = Conversion {
        from: (width, height),
        to: (512, 288),
        is_interleaved: false,
        matrix: Matrix::Bt709,
        range: Range::Limited,
    };
    let data = noise(width * height * 3 / 2);
    let plane = |from: usize, stride: usize, rows: usize| Plane { data: &data[from..from + stride * rows], stride };
    let (luma, half) = (width * height, (width / 2, height / 2));
    let chroma = Chroma::Separate(plane(luma, half.0, half.1), plane(luma + half.0 * half.1, half.0, half.1));
    let (mut converter, mut out) = (Converter::new(conversion), Vec::new());
    count(|| {
        out.clear();
        converter.convert(black_box(plane(0, width, height)), chroma, &mut out).expect("the planes are whole");
    });
}

fn second(index: u64, classes: &ClassSet) -> SecondOutcome {
    let scores: Vec<f32> = {
        let all = noise(classes.len() * (1 + index as usize % 7));
        let all = &all[all.len() - classes.len()..];
        let sum: f32 = all.iter().map(|value| f32::from(*value)).sum();
        all.iter().map(|value| f32::from(*value) / sum).collect()
    };
    let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).expect("there are classes");
    let label = ClassId(best as u16);
    let modality = || Some(ModalityScores { scores: scores.clone(), label, votes: 4, voters: 5 });
    SecondOutcome::Predicted(SecondPrediction {
        run: RunId(0),
        index,
        scores: PerModality { rgb: modality(), flow: modality(), audio: modality() },
        absent: PerModality::default(),
        decision: Decision {
            label,
            probability: scores[best],
            modality: Modality::Rgb,
            why: DecisionReason::Table,
            probabilities: scores.clone(),
        },
        known_from: 0.0,
        frame_share: FrameShare::ALL,
        tier: DecodeTier::Full,
        pack: Arc::new(PackStamp { name: "p".into(), weights_sha256: "0".into(), manifest_sha256: "1".into() }),
        wall: WallTime {
            unix_ns: 1_700_000_000_000_000_000 + (index * NANOS_PER_SECOND) as i64,
            source: WallSource::Arrival,
            uncertainty_ns: 0,
        },
        timecode: None,
        arrived_ns: 0,
    })
}

fn classes() -> ClassSet {
    ClassSet::new((0..25).map(|n| format!("sport{n}")).collect()).expect("the names differ")
}

/// Ten minutes of votes.
fn vote() {
    let classes = classes();
    let seconds: Vec<_> = (0..600).map(|index| second(index, &classes)).collect();
    count(|| {
        let (mut voter, mut events) = (Voter::new(VoteConfig::default(), classes.len()), Vec::new());
        for second in &seconds {
            black_box(voter.push(black_box(second), &mut events));
        }
    });
}

/// The records of a minute.
fn record() {
    let classes = Arc::new(classes());
    let mut voter = Voter::new(VoteConfig::default(), classes.len());
    let published: Vec<_> = (0..60)
        .map(|index| {
            let (outcome, mut events) = (second(index, &classes), Vec::new());
            let estimate = voter.push(&outcome, &mut events).cloned().expect("a vote every second");
            let (segments, watched) = (Vec::new(), WatchedSecond::default());
            Published { outcome, estimate, events, segments, watched, latency_ns: Some(400_000_000), backlog: 0 }
        })
        .collect();
    let recorder = Recorder::new("court-1", classes, Pace::Live);
    count(|| {
        for second in &published {
            black_box(recorder.published(black_box(second)));
        }
    });
}

fn main() {
    let stages: [(&str, fn()); 7] = [
        ("convert", convert),
        ("clip", clip),
        ("mel", mel),
        ("flow", flow),
        ("resize", resize),
        ("vote", vote),
        ("record", record),
    ];
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().expect("the pool is built once");
    match std::env::args().nth(1) {
        Some(name) if stages.iter().any(|(stage, _)| *stage == name) => {
            stages.iter().filter(|(stage, _)| *stage == name).for_each(|(_, run)| run());
        }
        // As cargo calls it, without a stage or with a flag of its own: prints the stages.
        _ => stages.iter().for_each(|(stage, _)| println!("{stage}")),
    }
}
