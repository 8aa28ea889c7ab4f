//! Speed of resampling sound to the pack's rate: the resampler alone, with chunks of a decoder's size, and inside the
//! clip builder (downmix of stereo, placing on the grid).
//!
//! `benches/peers/resample.py` times the same signal through soxr (what librosa uses) and SciPy.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use touchline_core::clip::resample::StreamResampler;
use touchline_core::clip::{ClipBuilder, ClipConfig, LagLimits, SamplingPlan};
use touchline_core::item::{MediaItem, Pace, Tracks};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;
use touchline_core::time::{Pts, samples_to_nanos};

const SECONDS: u32 = 60;
/// Samples per channel of one AAC frame.
const PIECE: usize = 1024;

/// Noise in −1..1 from a linear congruential generator.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn resample(c: &mut Criterion) {
    let mut group = c.benchmark_group("resample");
    group.sample_size(20);
    for (rate_in, rate_out) in [(44_100, 16_000), (48_000, 16_000), (48_000, 32_000), (44_101, 16_000)] {
        let input = noise((rate_in * SECONDS) as usize);
        // Elements are seconds of sound: the rate reported is times real time.
        group.throughput(Throughput::Elements(u64::from(SECONDS)));
        let mut resampler = StreamResampler::new(rate_in, rate_out).expect("usual rates");
        let mut out = Vec::new();
        group.bench_function(format!("{rate_in}_to_{rate_out}"), |b| {
            b.iter(|| {
                out.clear();
                for piece in input.chunks(PIECE) {
                    resampler.push(black_box(piece), &mut out);
                }
                resampler.finish(&mut out);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

fn clips(c: &mut Criterion) {
    let (rate_in, rate_out) = (48_000u32, 16_000u32);
    let config = ClipConfig {
        sample_rate: Some(rate_out),
        plan: SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000, signal_frames: 0 },
        lag: LagLimits::for_pace(Pace::Live),
        behind_ns: 0,
    };
    let input = noise((2 * rate_in * SECONDS) as usize);
    let mut group = c.benchmark_group("clips");
    group.sample_size(20);
    group.throughput(Throughput::Elements(u64::from(SECONDS)));
    group.bench_function("stereo_48000_to_16000", |b| {
        b.iter(|| {
            let (mut builder, mut out, mut at) = (ClipBuilder::new(config.clone()), Vec::new(), 0u64);
            builder.push(MediaItem::Opened(Tracks { video: false, audio: true }), &mut out);
            for piece in input.chunks(2 * PIECE) {
                let pts = Pts(samples_to_nanos(at, rate_in));
                let chunk = PcmChunk::new(Pooled::detached(piece.to_vec()), rate_in, 2, pts, 0);
                at += chunk.frames() as u64;
                builder.push(MediaItem::Pcm(chunk), &mut out);
            }
            black_box(out.len())
        });
    });
    group.finish();
}

criterion_group!(benches, resample, clips);
criterion_main!(benches);
