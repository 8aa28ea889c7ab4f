//! Synthetic seconds: moving textures and tones, each one different.

use touchline_compute::models::pack::Pack;
use touchline_core::clip::{ClipSecond, FlowPair};
use touchline_core::frame::Frame;
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;

/// Pictures and pairs per second, as in the shipped packs.
pub const PICTURES: usize = 5;

/// Nanoseconds between the two pictures of a pair.
const GAP_NS: u64 = 40_000_000;

/// A second of 16:9 pictures with the height that `pack` needs: five for the RGB model, each the first of a pair.
pub fn second(pack: &Pack, seed: u32) -> ClipSecond {
    let height = pack.frame_height;
    second_of(pack, seed, (height * 16 / 9, height))
}

/// As [`second`], with pictures of a given size.
pub fn second_of(pack: &Pack, seed: u32, (width, height): (u32, u32)) -> ClipSecond {
    let frame = |t: u32| {
        let shift = 3 * (t % 2) + 11 * (t / 2);
        let pixel = |x: u32, y: u32| {
            let wave = |a: u32, b: u32| (((x + shift) * a + y * b + seed * 37) as f32 * 0.05).sin() * 90.0 + 128.0;
            [wave(1, 2) as u8, wave(2, 1) as u8, wave(1, seed % 5) as u8]
        };
        let data: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
        Frame::new(Pooled::detached(data), width, height, Pts(u64::from(t) * GAP_NS), 0)
    };
    let mut second = ClipSecond::of_pictures((0..2 * PICTURES as u32).map(frame).collect());
    second.rgb = (0..PICTURES).map(|i| 2 * i).collect();
    second.pairs = (0..PICTURES).map(|i| FlowPair { first: 2 * i, second: 2 * i + 1, gap_ns: GAP_NS }).collect();
    let tone = |i: u32| (i as f32 * (0.05 + (seed % 17) as f32 * 0.01)).sin() * 0.3;
    second.audio = pack.sample_rate().map(|rate| (0..rate).map(tone).collect());
    (second.flow_absent, second.audio_absent) = (None, None);
    second
}

/// A copy of a second with another time of arrival. It shares the pictures.
pub fn arriving_at(second: &ClipSecond, arrived_ns: u64) -> ClipSecond {
    let mut copy = ClipSecond::of_pictures(second.frames.clone());
    copy.rgb.clone_from(&second.rgb);
    copy.pairs.clone_from(&second.pairs);
    copy.audio.clone_from(&second.audio);
    (copy.flow_absent, copy.audio_absent, copy.arrived_ns) = (None, None, arrived_ns);
    copy
}
