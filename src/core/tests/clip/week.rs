//! A simulated week of a camera with its own clock, second by second.
//!
//! The camera counts its samples and stamps its sender reports by its own clock. PTS follow the clock of this machine, as after a
//! jitter buffer. The value of each sample is its number, so that its position can be compared with the time of its recording.

use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, LagLimits, SamplingPlan};
use touchline_core::frame::Frame;
use touchline_core::item::{MediaItem, Pace};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pool;
use touchline_core::time::{Pts, WallSource, WallTime};

use crate::support::*;

/// Samples per second of the camera's clock: few, because a week has many seconds.
const RATE: u32 = 1_000;

/// Sample values count up to here and start over: exact in f32, and 16 s long.
const CYCLE: u64 = 1 << 14;

const WEEK_S: u64 = 7 * 24 * 3600;

/// The camera's wall clock when the week begins, ns since 1970.
const EPOCH_NS: i128 = 1_700_000_000_000_000_000;

/// A camera whose clock is fast by `ppm`, with a daily swing of a tenth of that as it warms up and cools down.
struct Camera {
    ppm: i128,
}

impl Camera {
    /// The camera's time at a time of this machine, both in ns since the week began.
    fn at(&self, ns: u64) -> i128 {
        let ns = i128::from(ns);
        let day = 86_400_000_000_000;
        // A triangle: half a day up, half a day down.
        let phase = ns % day;
        let swing = if phase < day / 2 { phase } else { day - phase };
        ns + ns * self.ppm / 1_000_000 + swing * self.ppm / 10_000_000
    }
}

struct WeekTotals {
    seconds: u64,
    missing: u64,
    discarded: u64,
    /// The largest distance of a sample from the picture of the same moment, ns.
    off_ns: u64,
    wall_ns: u64,
}

fn week(ppm: i128) -> WeekTotals {
    let camera = Camera { ppm };
    let config = ClipConfig {
        sample_rate: Some(RATE),
        plan: SamplingPlan { rgb_frames: 1, flow_pairs: 0, flow_gap_ns: 40 * MS, signal_frames: 0 },
        lag: LagLimits::for_pace(Pace::Live),
        behind_ns: 0,
    };
    let (mut builder, mut out, mut lcg) = (ClipBuilder::new(config), Vec::new(), Lcg(ppm.unsigned_abs() as u64));
    let (pictures, sound) = (Pool::<u8>::new(16), Pool::<f32>::new(16));
    let mut totals = WeekTotals { seconds: 0, missing: 0, discarded: 0, off_ns: 0, wall_ns: 0 };
    builder.push(both(), &mut out);
    let mut next_sample = 0u64;
    for second in 0..WEEK_S {
        // A picture in the middle of each second, stamped with up to 8 ms of jitter.
        let pts = second * S + 500 * MS + lcg.below(8 * MS);
        let mut data = pictures.take();
        data.resize(3, 0);
        builder.push(MediaItem::Frame(Frame::new(data, 1, 1, Pts(pts), pts)), &mut out);
        if second % 5 == 0 {
            let (unix_ns, source) = (EPOCH_NS + camera.at(pts), WallSource::RtcpSenderReport);
            let wall = WallTime { unix_ns: unix_ns as i64, source, uncertainty_ns: 10 * MS };
            builder.push(MediaItem::Wall { pts: Pts(pts), wall }, &mut out);
        }
        // All samples that the camera took until the end of the second, in two pieces.
        for end in [second * S + 400 * MS, (second + 1) * S] {
            let until = u64::try_from(camera.at(end) * i128::from(RATE) / i128::from(S)).unwrap();
            let mut data = sound.take();
            data.extend((next_sample..until).map(|i| (i % CYCLE) as f32));
            let length = (until - next_sample) * S / u64::from(RATE);
            // The time of the first of them by the clock of this machine, with jitter.
            let pts = end - length.min(end) + lcg.below(8 * MS);
            next_sample = until;
            builder.push(MediaItem::Pcm(PcmChunk::new(data, RATE, 1, Pts(pts), pts)), &mut out);
        }
        take(&mut out, &camera, &mut totals);
    }
    builder.push(MediaItem::Ended(touchline_core::item::End::Finished), &mut out);
    take(&mut out, &camera, &mut totals);
    totals
}

fn take(out: &mut Vec<ClipOutput>, camera: &Camera, totals: &mut WeekTotals) {
    for output in out.drain(..) {
        match output {
            ClipOutput::Second(second) => {
                assert_eq!((second.run.0, second.index), (0, totals.seconds), "no second is lost or repeated");
                totals.seconds += 1;
                totals.missing += u64::from(second.audio_missing);
                assert_eq!(second.frames_seen, 1);
                let audio = second.audio.expect("sound in each second");
                let start = second.index * S;
                for (k, value) in audio.iter().enumerate().step_by(100) {
                    // Slots without a sample are silence, which equals the first value of the cycle.
                    if *value == 0.0 {
                        continue;
                    }
                    let slot_ns = start + k as u64 * S / u64::from(RATE);
                    let due = u64::try_from(camera.at(slot_ns) * i128::from(RATE) / i128::from(S)).unwrap() % CYCLE;
                    let apart = (*value as u64).abs_diff(due);
                    let apart = apart.min(CYCLE - apart) * S / u64::from(RATE);
                    totals.off_ns = totals.off_ns.max(apart);
                }
                if let Some(wall) = second.wall {
                    let off = (i128::from(wall.unix_ns) - EPOCH_NS - camera.at(start)).unsigned_abs() as u64;
                    assert!(off <= wall.uncertainty_ns, "second {}: {off} ns off", second.index);
                    totals.wall_ns = totals.wall_ns.max(off);
                }
            }
            ClipOutput::Discarded { count, .. } => totals.discarded += count,
            ClipOutput::Gap(gap) => panic!("{gap:?}"),
            ClipOutput::RunStarted { run, .. } => assert_eq!(run.0, 0),
            _ => {}
        }
    }
}

#[test]
fn a_week_of_a_drifting_camera_loses_no_second_and_its_sound_stays_in_step() {
    for ppm in [0, 80, -80] {
        let totals = week(ppm);
        println!(
            "{ppm} ppm: {} seconds, {} samples silent, {} repeated, sound {} ms off at most, wall {} ms",
            totals.seconds,
            totals.missing,
            totals.discarded,
            totals.off_ns / MS,
            totals.wall_ns / MS
        );
        assert_eq!(totals.seconds, WEEK_S);
        // 80 ppm are 48 s in a week. The count is corrected at 100 ms, so sound is never further off than that and the jitter.
        assert!(totals.off_ns <= 125 * MS, "{} ms off", totals.off_ns / MS);
        // Only the difference of the clocks is dropped or filled in, and the samples of one resynchronisation.
        let drift = WEEK_S * u64::from(RATE) * (ppm.unsigned_abs() as u64) / 1_000_000;
        assert!(totals.discarded <= drift * 12 / 10 + 200, "{} samples dropped", totals.discarded);
        assert!(totals.missing <= drift * 12 / 10 + 1_200, "{} samples silent", totals.missing);
    }
}
