//! Properties: the interleaving of the tracks does not matter, and no sequence of items breaks the builder.

use touchline_core::clip::{ClipBuilder, ClipOutput};
use touchline_core::frame::Frame;
use touchline_core::item::{Discontinuity, MediaItem, Pace, Track, Tracks};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;
use touchline_core::time::{Pts, WallSource, WallTime};

use crate::support::*;

/// Pieces of one track: (PTS, length, moment of sending), all in ms.
type Pieces = &'static [(u64, u64, u64)];

fn track(pieces: Pieces, which: Track) -> Vec<Timed> {
    let all = pieces.iter().flat_map(|&(pts, len, at)| {
        let items = match which {
            Track::Video => video(30_000, 1001, pts * MS, len * MS),
            Track::Audio => audio(44_100, pts * MS, len * MS),
        };
        timed(items, at as i64 * MS as i64 - (pts * MS) as i64)
    });
    ended(all.collect(), which)
}

/// The two tracks in a random order in which neither is ever ahead of the other by more than `skew` ns of sending.
fn shuffled(video: Vec<Timed>, audio: Vec<Timed>, skew: u64, lcg: &mut Lcg) -> Vec<MediaItem> {
    let (mut video, mut audio) = (video.into_iter().peekable(), audio.into_iter().peekable());
    let (mut items, mut bias) = (Vec::new(), 50);
    loop {
        // In some stretches one track is more frequent than the other, so that it gets far ahead.
        if lcg.below(20) == 0 {
            bias = lcg.below(101);
        }
        let next = match (video.peek(), audio.peek()) {
            (Some(v), Some(a)) if v.at > a.at + skew => audio.next(),
            (Some(v), Some(a)) if a.at > v.at + skew => video.next(),
            (Some(_), Some(_)) if lcg.below(100) < bias => video.next(),
            (Some(_), None) => video.next(),
            (_, Some(_)) => audio.next(),
            (None, None) => return items,
        };
        items.extend(next.map(|t| t.item));
    }
}

#[test]
fn interleaving_does_not_matter() {
    let scenes: [(&str, Pieces, Pieces); 14] = [
        ("plain", &[(0, 6000, 0)], &[(0, 6000, 0)]),
        ("starts within a second", &[(3700, 4000, 3700)], &[(3650, 4000, 3650)]),
        ("late sound", &[(0, 8000, 0)], &[(5300, 2700, 5300)]),
        ("late pictures", &[(5300, 2700, 5300)], &[(0, 8000, 0)]),
        ("sound ends early", &[(0, 8000, 0)], &[(0, 3200, 0)]),
        ("sound has holes", &[(0, 12000, 0)], &[(0, 2300, 0), (2600, 1000, 2600), (8100, 3900, 8100)]),
        ("pictures stop", &[(0, 2000, 0), (12_000, 3000, 12_000)], &[(0, 15_000, 0)]),
        ("hole in both", &[(0, 1950, 0), (3050, 2000, 3050)], &[(0, 1980, 0), (3020, 2000, 3020)]),
        ("jump forward", &[(0, 3000, 0), (90_000, 3000, 3000)], &[(0, 3100, 0), (90_050, 3000, 3100)]),
        ("jump back", &[(90_000, 3000, 0), (0, 3000, 3000)], &[(90_000, 2900, 0), (10, 3000, 2900)]),
        (
            "three runs",
            &[(0, 2500, 0), (50_000, 2500, 2500), (7_000, 2500, 5000)],
            &[(0, 2500, 0), (50_000, 2500, 2500), (7_000, 2500, 5000)],
        ),
        ("small jump forward", &[(0, 3000, 0), (6000, 3000, 3000)], &[(0, 3000, 0), (6100, 3000, 3000)]),
        ("second repeated", &[(0, 3000, 0), (2000, 3000, 3000)], &[(0, 3000, 0), (2000, 3000, 3000)]),
        ("overlap", &[(0, 6000, 0)], &[(0, 3000, 0), (2700, 3300, 3000)]),
    ];
    for (name, pictures, sound) in scenes {
        for (pace, skew) in [(Pace::File, 900 * MS), (Pace::Live, 250 * MS)] {
            let mut first: Option<Vec<String>> = None;
            for seed in 0..12 {
                let (v, a) = (track(pictures, Track::Video), track(sound, Track::Audio));
                let items = if seed == 0 { in_order(v, a) } else { shuffled(v, a, skew, &mut Lcg(seed)) };
                let out = build(config(pace), stream(both(), items));
                check_invariants(&out, &config(pace));
                let digest = digest(&out);
                let wanted = first.get_or_insert_with(|| digest.clone());
                assert_eq!(*wanted, digest, "{name}, {pace:?}, seed {seed}");
            }
        }
    }
}

fn garbage(lcg: &mut Lcg, clock: &mut u64) -> MediaItem {
    *clock += lcg.below(60 * MS);
    let pts = match lcg.below(40) {
        0 => u64::MAX - lcg.below(3),
        1 => lcg.below(u64::MAX >> 33) << 33,
        2 => 0,
        3 => (1 << 62) - lcg.below(2 * S),
        4 => {
            *clock = lcg.below(10_000 * S);
            *clock
        }
        5..=8 => clock.saturating_sub(lcg.below(3 * S)),
        9..=12 => *clock + lcg.below(3 * S),
        _ => *clock,
    };
    let arrived_ns = if lcg.below(50) == 0 { u64::MAX } else { *clock };
    match lcg.below(100) {
        0..=44 => MediaItem::Frame(Frame::new(Pooled::detached(vec![0; 3]), 1, 1, Pts(pts), arrived_ns)),
        45..=89 => {
            // Mostly one rate, because each new rate needs a new filter.
            let rates = [48_000, 44_100, 32_000, 8_000, 44_101, 999, 1_000, u32::MAX];
            let rate = if lcg.below(8) == 0 { rates[lcg.below(8) as usize] } else { 48_000 };
            let channels = [1u16, 2, 2, 6][lcg.below(4) as usize];
            let frames = [0, 1, 960, 960, 960, 1024, 9_600][lcg.below(7) as usize];
            let odd = [f32::NAN, f32::INFINITY, -1e38, f32::MIN_POSITIVE, 0.0][lcg.below(5) as usize];
            let data = (0..frames * usize::from(channels))
                .map(|i| if i % 97 == 3 { odd } else { (i % 13) as f32 / 13.0 })
                .collect();
            let mut chunk = PcmChunk::new(Pooled::detached(data), rate, channels, Pts(pts), arrived_ns);
            match lcg.below(60) {
                0 => chunk.channels = 0,
                1 => chunk.rate = 0,
                2 => chunk.channels = 7,
                _ => {}
            }
            MediaItem::Pcm(chunk)
        }
        90..=91 => MediaItem::Opened(Tracks { video: lcg.below(4) > 0, audio: lcg.below(4) > 0 }),
        92 => MediaItem::TrackEnded(if lcg.below(2) == 0 { Track::Video } else { Track::Audio }),
        93..=96 => {
            let unix_ns = if lcg.below(2) == 0 { i64::MAX } else { i64::MIN };
            MediaItem::Wall {
                pts: Pts(pts),
                wall: WallTime { unix_ns, source: WallSource::HlsProgramDateTime, uncertainty_ns: 0 },
            }
        }
        97 => MediaItem::Discontinuity(Discontinuity::Reconnect),
        98 => MediaItem::Discontinuity(Discontinuity::JumpBack),
        _ => both(),
    }
}

#[test]
fn no_sequence_of_items_breaks_the_builder() {
    for seed in 0..25 {
        let pace = if seed % 2 == 0 { Pace::Live } else { Pace::File };
        let mut plan = config(pace);
        if seed % 5 == 4 {
            plan.lag = touchline_core::clip::LagLimits { lag_ns: 0, pictures_lag_ns: 0, bridge_ns: 2_000_000_000 };
        }
        let (mut lcg, mut clock) = (Lcg(seed + 1000), 0);
        let mut items: Vec<MediaItem> = (0..2_000).map(|_| garbage(&mut lcg, &mut clock)).collect();
        items.push(MediaItem::Ended(touchline_core::item::End::Finished));
        let out = build(plan.clone(), items);
        check_invariants(&out, &plan);
        assert_eq!(words(&out).iter().filter(|w| *w == "over").count(), 1);
        // The number of seconds is bounded by the number of items: a chunk of sound is at most 9.6 s long, and a hole
        // within a run at most 2 s.
        assert!(out.len() < 2_000 * 13, "seed {seed}: {}", out.len());
    }
}

#[test]
fn memory_stays_bounded_when_a_track_floods() {
    // One track of a stream with two, for a long time; and frames that all have the same time.
    for same_time in [false, true] {
        let (mut builder, mut out) = (ClipBuilder::new(config(Pace::Live)), Vec::new());
        let pool = touchline_core::pool::Pool::<u8>::new(100_000);
        builder.push(both(), &mut out);
        let mut most = 0;
        for k in 0..20_000u64 {
            let mut data = pool.take();
            data.resize(3, 0);
            let pts = if same_time { 5 * S } else { k * 20 * MS };
            builder.push(MediaItem::Frame(Frame::new(data, 1, 1, Pts(pts), 0)), &mut out);
            // Drop the output. The builder holds the buffers that are not in the pool.
            out.retain(|o| matches!(o, ClipOutput::Discarded { .. }));
            most = most.max(k);
        }
        assert_eq!(most, 19_999);
        // The pool has created only as many buffers as were held at the same time.
        assert!(pool.idle() < 400, "{}", pool.idle());
        drop(builder);
        assert!(pool.idle() <= 400, "{}", pool.idle());
    }
}
