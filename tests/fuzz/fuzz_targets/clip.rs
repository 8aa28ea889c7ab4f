//! The clip builder: any items in any order, with any times.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, LagLimits, SamplingPlan};
use touchline_core::frame::Frame;
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;
use touchline_core::item::{Discontinuity, End, MediaItem, Pace, Track, Tracks};
use touchline_core::time::{Pts, WallSource, WallTime};

#[derive(Arbitrary, Debug)]
enum Item {
    Opened { video: bool, audio: bool },
    /// Milliseconds after the last picture.
    Picture(i16),
    PictureAt(u64),
    Sound { after_ms: i16, samples: u16, rate: Rate, channels: u8 },
    SoundAt { pts: u64, samples: u8 },
    Unconverted(i16),
    Lost(i16),
    TrackEnded(bool),
    Jump(Cause),
    Wall { pts: u64, unix_ns: i64 },
    /// Milliseconds: from there after the last picture, and how long.
    Missing { after_ms: i16, length_ms: u16 },
    MissingAt { from: u64, to: u64 },
    Ended,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Rate {
    Low,
    Cd,
    Studio,
    Odd(u16),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Cause {
    Reconnect,
    Playlist,
}

#[derive(Arbitrary, Debug)]
struct Script {
    live: bool,
    wants_sound: bool,
    flow_pairs: u8,
    items: Vec<Item>,
}

const MS: i64 = 1_000_000;

fn frame(pts: u64) -> MediaItem {
    MediaItem::Frame(Frame::new(Pooled::detached(vec![0; 3]), 1, 1, Pts(pts), pts))
}

fn sound(pts: u64, rate: u32, channels: u16, samples: usize) -> MediaItem {
    let data = Pooled::detached(vec![0.1; samples * usize::from(channels)]);
    MediaItem::Pcm(PcmChunk::new(data, rate, channels, Pts(pts), pts))
}

fuzz_target!(|script: Script| {
    let pairs = u32::from(script.flow_pairs % 8);
    let mut builder = ClipBuilder::new(ClipConfig {
        sample_rate: script.wants_sound.then_some(16_000),
        plan: SamplingPlan { rgb_frames: 5, flow_pairs: pairs, flow_gap_ns: 40_000_000, signal_frames: 0 },
        lag: LagLimits::for_pace(if script.live { Pace::Live } else { Pace::File }),
        behind_ns: 0,
    });
    let (mut picture, mut heard) = (0_u64, 0_u64);
    let mut out = Vec::new();
    for item in script.items.into_iter().take(400) {
        let item = match item {
            Item::Opened { video, audio } => MediaItem::Opened(Tracks { video, audio }),
            Item::Picture(after) => {
                picture = picture.saturating_add_signed(i64::from(after) * MS);
                frame(picture)
            }
            Item::PictureAt(pts) => {
                picture = pts;
                frame(pts)
            }
            Item::Sound { after_ms, samples, rate, channels } => {
                heard = heard.saturating_add_signed(i64::from(after_ms) * MS);
                let rate = match rate {
                    Rate::Low => 8_000,
                    Rate::Cd => 44_100,
                    Rate::Studio => 48_000,
                    Rate::Odd(rate) => u32::from(rate).max(1),
                };
                sound(heard, rate, u16::from(channels % 8) + 1, usize::from(samples % 4096))
            }
            Item::SoundAt { pts, samples } => {
                heard = pts;
                sound(pts, 48_000, 2, samples.into())
            }
            Item::Unconverted(after) => {
                picture = picture.saturating_add_signed(i64::from(after) * MS);
                MediaItem::Unconverted { pts: Pts(picture), arrived_ns: picture }
            }
            Item::Lost(after) => {
                picture = picture.saturating_add_signed(i64::from(after) * MS);
                MediaItem::Lost { pts: Pts(picture) }
            }
            Item::TrackEnded(video) => MediaItem::TrackEnded(if video { Track::Video } else { Track::Audio }),
            Item::Jump(Cause::Reconnect) => MediaItem::Discontinuity(Discontinuity::Reconnect),
            Item::Jump(Cause::Playlist) => MediaItem::Discontinuity(Discontinuity::Playlist),
            Item::Wall { pts, unix_ns } => MediaItem::Wall {
                pts: Pts(pts),
                wall: WallTime { unix_ns, source: WallSource::HlsProgramDateTime, uncertainty_ns: 0 },
            },
            Item::Missing { after_ms, length_ms } => {
                let from = picture.saturating_add_signed(i64::from(after_ms) * MS);
                picture = from.saturating_add(u64::from(length_ms) * MS as u64);
                MediaItem::Missing { from: Pts(from), to: Pts(picture) }
            }
            Item::MissingAt { from, to } => MediaItem::Missing { from: Pts(from), to: Pts(to) },
            Item::Ended => MediaItem::Ended(End::Finished),
        };
        builder.push(item, &mut out);
        check(&out, pairs);
        // A second may be long in pictures, and there may be many of them: only what is new is looked at.
        out.clear();
    }
});

/// What a second promises.
fn check(out: &[ClipOutput], pairs: u32) {
    for second in out.iter().filter_map(|o| if let ClipOutput::Second(s) = o { Some(s) } else { None }) {
        assert!(second.rgb.len() <= 5 && second.pairs.len() <= pairs as usize);
        assert!(second.rgb.iter().all(|i| *i < second.frames.len()));
        assert!(second.pairs.iter().all(|p| p.first < p.second && p.second < second.frames.len()));
        assert!(second.frames.windows(2).all(|w| w[0].pts < w[1].pts));
        if let Some(audio) = &second.audio {
            assert_eq!(audio.len(), 16_000);
        }
    }
}
