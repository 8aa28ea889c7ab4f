//! Generated streams, and summaries of the builder's output.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, ClipSecond, LagLimits, SamplingPlan};
use touchline_core::frame::Frame;
use touchline_core::item::{Discontinuity, End, MediaItem, Pace, Track, Tracks};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;
use touchline_core::time::Pts;

pub const S: u64 = 1_000_000_000;
pub const MS: u64 = 1_000_000;
pub const RATE: u32 = 16_000;

pub fn config(pace: Pace) -> ClipConfig {
    ClipConfig {
        sample_rate: Some(RATE),
        plan: SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40 * MS, signal_frames: 0 },
        lag: LagLimits::for_pace(pace),
        behind_ns: 0,
    }
}

/// An item and its time of sending, for interleaving.
#[derive(Debug)]
pub struct Timed {
    pub at: u64,
    pub item: MediaItem,
}

pub fn frame(pts: u64) -> MediaItem {
    MediaItem::Frame(Frame::new(Pooled::detached(vec![0; 3]), 1, 1, Pts(pts), pts.saturating_add(7 * MS)))
}

/// Frames `number / denominator` a second from `pts` on, for `len` ns; PTS rounded down as a demuxer does.
pub fn video(number: u64, denominator: u64, pts: u64, len: u64) -> Vec<MediaItem> {
    (0..).map(|k| k * denominator * S / number).take_while(|t| *t < len).map(|t| frame(pts + t)).collect()
}

pub fn chunk(pts: u64, rate: u32, channels: u16, data: Vec<f32>) -> MediaItem {
    MediaItem::Pcm(PcmChunk::new(Pooled::detached(data), rate, channels, Pts(pts), pts.saturating_add(9 * MS)))
}

/// Mono chunks of 20 ms from `pts` on, for `len` ns; sample `i` is `wave(i)`.
pub fn audio_wave(rate: u32, pts: u64, len: u64, wave: impl Fn(u64) -> f32) -> Vec<MediaItem> {
    let (total, step) = (len as u128 * u128::from(rate) / u128::from(S), u64::from(rate / 50));
    let total = total as u64;
    (0..total.div_ceil(step))
        .map(|c| {
            let samples = (c * step..(c * step + step).min(total)).map(&wave).collect();
            chunk(pts + c * step * S / u64::from(rate), rate, 1, samples)
        })
        .collect()
}

/// A 440 Hz tone.
pub fn audio(rate: u32, pts: u64, len: u64) -> Vec<MediaItem> {
    audio_wave(rate, pts, len, |i| (std::f64::consts::TAU * 440.0 * i as f64 / f64::from(rate)).sin() as f32 * 0.5)
}

pub fn pts(item: &MediaItem) -> u64 {
    match item {
        MediaItem::Frame(f) => f.pts.0,
        MediaItem::Pcm(c) => c.pts.0,
        _ => panic!("an item with data"),
    }
}

/// Each item at its PTS plus `shift`.
pub fn timed(items: Vec<MediaItem>, shift: i64) -> Vec<Timed> {
    items.into_iter().map(|item| Timed { at: pts(&item).wrapping_add_signed(shift), item }).collect()
}

pub fn ended(mut track: Vec<Timed>, which: Track) -> Vec<Timed> {
    let at = track.last().map_or(0, |t| t.at);
    track.push(Timed { at, item: MediaItem::TrackEnded(which) });
    track
}

/// The items in the order of sending. At equal times, the first track precedes the second.
pub fn in_order(first: Vec<Timed>, second: Vec<Timed>) -> Vec<MediaItem> {
    let mut all: Vec<Timed> = first.into_iter().chain(second).collect();
    all.sort_by_key(|t| t.at);
    all.into_iter().map(|t| t.item).collect()
}

pub fn both() -> MediaItem {
    MediaItem::Opened(Tracks { video: true, audio: true })
}

pub fn video_only() -> MediaItem {
    MediaItem::Opened(Tracks { video: true, audio: false })
}

pub fn audio_only() -> MediaItem {
    MediaItem::Opened(Tracks { video: false, audio: true })
}

/// `opened`, the items, and the end.
pub fn stream(opened: MediaItem, items: Vec<MediaItem>) -> Vec<MediaItem> {
    std::iter::once(opened).chain(items).chain([MediaItem::Ended(End::Finished)]).collect()
}

pub fn build(config: ClipConfig, items: Vec<MediaItem>) -> Vec<ClipOutput> {
    let (mut builder, mut out) = (ClipBuilder::new(config), Vec::new());
    for item in items {
        builder.push(item, &mut out);
    }
    out
}

/// A whole two-track file in sending order.
pub fn file(video: Vec<MediaItem>, audio: Vec<MediaItem>) -> Vec<ClipOutput> {
    build(config(Pace::File), stream(both(), in_order(timed(video, 0), timed(audio, 0))))
}

pub fn seconds(out: &[ClipOutput]) -> Vec<&ClipSecond> {
    out.iter().filter_map(|o| if let ClipOutput::Second(s) = o { Some(s) } else { None }).collect()
}

/// The output as words: `run0`, `run1:back`, `0.7` (second 7 of run 0), `gap0.8`, `-video*3`, `end-audio`,
/// `opened`, `over`.
pub fn words(out: &[ClipOutput]) -> Vec<String> {
    out.iter()
        .map(|o| match o {
            ClipOutput::Second(s) => format!("{}.{}", s.run.0, s.index),
            ClipOutput::Gap(g) => format!("gap{}.{}", g.run.0, g.index),
            ClipOutput::RunStarted { run, cause: None } => format!("run{}", run.0),
            ClipOutput::RunStarted { run, cause: Some(cause) } => {
                let cause = match cause {
                    Discontinuity::Reconnect => "reconnect",
                    Discontinuity::JumpForward => "forward",
                    Discontinuity::JumpBack => "back",
                    Discontinuity::Tracks => "tracks",
                    Discontinuity::Playlist => "playlist",
                };
                format!("run{}:{cause}", run.0)
            }
            ClipOutput::Opened(_) => "opened".into(),
            ClipOutput::TrackEnded(Track::Video) => "end-video".into(),
            ClipOutput::TrackEnded(Track::Audio) => "end-audio".into(),
            ClipOutput::Discarded { track: Track::Video, count } => format!("-video*{count}"),
            ClipOutput::Discarded { track: Track::Audio, count } => format!("-audio*{count}"),
            ClipOutput::Incident(_) => "incident".into(),
            ClipOutput::Ended(_) => "over".into(),
        })
        .collect()
}

/// The words as one line, without `opened` and `over`.
pub fn summary(out: &[ClipOutput]) -> String {
    words(out).into_iter().filter(|w| w != "opened" && w != "over").collect::<Vec<_>>().join(" ")
}

/// All parts of the output that must not depend on interleaving.
pub fn digest(out: &[ClipOutput]) -> Vec<String> {
    out.iter()
        .zip(words(out))
        .map(|(o, word)| match o {
            ClipOutput::Second(s) => {
                let mut hash = DefaultHasher::new();
                s.audio.iter().flatten().for_each(|v| v.to_bits().hash(&mut hash));
                let frames: Vec<u64> = s.frames.iter().map(|f| f.pts.0 / MS).collect();
                format!(
                    "{word} frames {frames:?} rgb {:?} pairs {:?} seen {} audio {:x} missing {} absent {:?} {:?} {:?} at {}",
                    s.rgb,
                    s.pairs,
                    s.frames_seen,
                    hash.finish(),
                    s.audio_missing,
                    s.rgb_absent,
                    s.flow_absent,
                    s.audio_absent,
                    s.arrived_ns
                )
            }
            _ => word,
        })
        .collect()
}

/// Checks the invariants of all output: the order, one word per second, and consistent indices and lengths.
pub fn check_invariants(out: &[ClipOutput], config: &ClipConfig) {
    let (mut run, mut next) = (None, None);
    for o in out {
        let (r, index) = match o {
            ClipOutput::RunStarted { run: r, cause } => {
                assert_eq!(r.0, run.map_or(0, |r: u32| r + 1), "runs count up");
                assert_eq!(cause.is_none(), r.0 == 0);
                (run, next) = (Some(r.0), None);
                continue;
            }
            ClipOutput::Discarded { count, .. } => {
                assert!(*count > 0);
                continue;
            }
            ClipOutput::Second(s) => (s.run.0, s.index),
            ClipOutput::Gap(g) => (g.run.0, g.index),
            _ => continue,
        };
        assert_eq!(Some(r), run, "a second lies in the run that began last");
        assert!(next.is_none_or(|n| n == index), "run {r}: {index} follows, {next:?} was expected");
        next = Some(index + 1);
        let ClipOutput::Second(s) = o else { continue };
        assert!(s.frames_seen > 0 || s.audio.is_some(), "a second has data");
        assert!(s.frames.iter().all(|f| f.pts.second() == index));
        assert!(s.frames.is_sorted_by_key(|f| f.pts));
        assert!(s.frames.len() as u32 <= s.frames_seen);
        assert!(s.rgb.is_sorted_by(|a, b| a < b) && s.rgb.iter().all(|&i| i < s.frames.len()));
        for p in &s.pairs {
            assert!(p.first < p.second);
            assert_eq!(p.gap_ns, s.frames[p.second].pts.0 - s.frames[p.first].pts.0);
            assert!(p.gap_ns >= config.plan.flow_gap_ns / 2 && p.gap_ns <= 3 * config.plan.flow_gap_ns);
        }
        assert_eq!(s.rgb.is_empty(), s.rgb_absent.is_some());
        assert_eq!(s.pairs.is_empty(), s.flow_absent.is_some());
        assert_eq!(s.audio.is_none(), s.audio_absent.is_some());
        let rate = config.sample_rate.unwrap_or(0);
        if let Some(audio) = &s.audio {
            assert_eq!(audio.len(), rate as usize);
            assert!(audio.iter().all(|v| v.is_finite()));
            assert!(s.audio_missing * 2 <= rate);
        }
    }
}

/// A small linear congruential generator (Knuth's MMIX constants), so that failures are reproducible.
pub struct Lcg(pub u64);

impl Lcg {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
