use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::facts::{VariantFacts, VideoFacts};
use touchline_core::cause::Cause;
use touchline_core::pool::Pooled;
use touchline_core::time::WallSource;
use touchline_core::timecode::FrameRate;

fn reader(bytes: &[u8]) -> MessageReader<&[u8]> {
    MessageReader::new(bytes, Pool::new(4), Pool::new(4))
}

fn next_message(reader: &mut MessageReader<&[u8]>) -> Result<ReceivedMessage, ReadError> {
    reader.next_message(|| u64::MAX)
}

fn written(items: impl IntoIterator<Item = MediaItem>) -> Vec<u8> {
    let mut writer = MessageWriter::new(Vec::new());
    for item in items {
        writer.item(item).unwrap();
    }
    writer.to
}

/// The values of an item, without the identity of its buffer.
fn describe(item: &MediaItem) -> String {
    match item {
        MediaItem::Frame(f) => format!("{:?} {}×{} {:?} {}", **f.data, f.width, f.height, f.pts, f.arrived_ns),
        // Compares bits, because NaN equals nothing.
        MediaItem::Pcm(c) => {
            let bits: Vec<u32> = c.data.iter().map(|v| v.to_bits()).collect();
            format!("{bits:?} {} {} {:?} {}", c.rate, c.channels, c.pts, c.arrived_ns)
        }
        other => format!("{other:?}"),
    }
}

fn any<T: Copy>(rng: &mut SmallRng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())]
}

fn text(rng: &mut SmallRng) -> String {
    (0..rng.random_range(0..40)).map(|_| any(rng, &['a', 'ß', '"', '\\', ' ', '{', '語'])).collect()
}

fn incident(rng: &mut SmallRng) -> Incident {
    let track = any(rng, &[Track::Video, Track::Audio]);
    let silent_ns = rng.random();
    match rng.random_range(0..13) {
        0 => Incident::TrackStalled { track, silent_ns },
        1 => Incident::TrackRecovered { track, silent_ns },
        2 => Incident::TrackLost { track },
        3 => Incident::TrackAdded { track },
        4 => Incident::TcpFallback,
        5 => Incident::ClockWrapped,
        6 => Incident::SegmentLost(any(rng, &Cause::ALL)),
        7 => Incident::AdBreakBegan,
        8 => Incident::AdBreakEnded,
        9 => Incident::ClockImplausible,
        10 => Incident::ClockPlausible,
        11 => Incident::FormatChanged { track },
        _ => Incident::RunStarted(any(rng, &Discontinuity::ALL)),
    }
}

fn item(rng: &mut SmallRng) -> MediaItem {
    let pts = Pts(rng.random_range(0..=PTS_MAX.0));
    let arrived_ns = rng.random();
    match rng.random_range(0..12) {
        0 => {
            let (width, height) = (rng.random_range(1..9), rng.random_range(1..9));
            let data = (0..width * height * 3).map(|_| rng.random()).collect();
            MediaItem::Frame(Frame::new(Pooled::detached(data), width, height, pts, arrived_ns))
        }
        1 => {
            let channels = rng.random_range(1..9u16);
            let values = usize::from(channels) * rng.random_range(0..50);
            let data = (0..values).map(|_| f32::from_bits(rng.random())).collect();
            let rate = rng.random_range(1..400_000);
            MediaItem::Pcm(PcmChunk::new(Pooled::detached(data), rate, channels, pts, arrived_ns))
        }
        2 => MediaItem::Unconverted { pts, arrived_ns },
        3 => MediaItem::Lost { pts },
        4 => MediaItem::Opened(Tracks { video: rng.random(), audio: rng.random() }),
        5 => MediaItem::TrackEnded(any(rng, &[Track::Video, Track::Audio])),
        6 => {
            let source = any(rng, &[WallSource::RtcpSenderReport, WallSource::HlsProgramDateTime, WallSource::Arrival]);
            let wall = WallTime { unix_ns: rng.random(), source, uncertainty_ns: rng.random() };
            MediaItem::Wall { pts, wall }
        }
        7 => {
            let from = Pts(pts.0.min(PTS_MAX.0 - MISSING_MAX_NS));
            MediaItem::Missing { from, to: Pts(from.0 + rng.random_range(0..=MISSING_MAX_NS)) }
        }
        8 => MediaItem::Discontinuity(any(rng, &Discontinuity::ALL)),
        9 => MediaItem::Incident(incident(rng)),
        10 => {
            let rate = FrameRate::parse(any(rng, &FrameRate::NAMES)).unwrap();
            MediaItem::Timecode(TimecodeMark { pts, frame: rng.random_range(0..rate.frames_in_day()), rate })
        }
        _ if rng.random() => MediaItem::Ended(End::Finished),
        _ => {
            let (cause, advice) = (text(rng), text(rng));
            MediaItem::Ended(End::Failed { kind: any(rng, &Cause::ALL), cause, advice })
        }
    }
}

#[test]
fn every_item_survives_the_round_trip() {
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..200 {
        let items: Vec<MediaItem> = (0..rng.random_range(1..20)).map(|_| item(&mut rng)).collect();
        let wanted: Vec<String> = items.iter().map(describe).collect();
        let bytes = written(items);
        let mut reader = reader(&bytes);
        for wanted in wanted {
            match next_message(&mut reader) {
                Ok(ReceivedMessage::Item(item)) => assert_eq!(describe(&item), wanted),
                other => panic!("{wanted}: {other:?}"),
            }
        }
        assert!(matches!(next_message(&mut reader), Err(ReadError::Closed)));
    }
}

#[test]
fn truncated_and_changed_bytes_are_an_end_and_never_a_panic() {
    let mut rng = SmallRng::seed_from_u64(2);
    for _ in 0..200 {
        let bytes = written((0..3).map(|_| item(&mut rng)));
        for cut in 0..bytes.len().min(400) {
            let mut reader = reader(&bytes[..cut]);
            let end = (0..4).find_map(|_| next_message(&mut reader).err());
            assert!(matches!(end, Some(ReadError::Closed)), "{cut}: {end:?}");
        }
        for _ in 0..100 {
            let mut changed = bytes.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..changed.len());
                changed[at] = rng.random();
            }
            let mut reader = reader(&changed);
            while next_message(&mut reader).is_ok() {}
        }
        let noise: Vec<u8> = (0..200).map(|_| rng.random()).collect();
        while next_message(&mut reader(&noise)).is_ok() {}
    }
}

#[test]
fn impossible_values_are_invalid() {
    let late = Pts(PTS_MAX.0 + 1);
    let (pts, arrived_ns) = (Pts(0), 0);
    for message in [
        WorkerMessage::Frame { width: 0, height: 1, pts, arrived_ns },
        WorkerMessage::Frame { width: SIDE_MAX + 1, height: 1, pts, arrived_ns },
        WorkerMessage::Frame { width: SIDE_MAX, height: SIDE_MAX, pts, arrived_ns },
        WorkerMessage::Pcm { values: 3, rate: 48_000, channels: 2, pts, arrived_ns },
        WorkerMessage::Pcm { values: 2, rate: 0, channels: 2, pts, arrived_ns },
        WorkerMessage::Pcm { values: 2, rate: 48_000, channels: 0, pts, arrived_ns },
        WorkerMessage::Pcm { values: usize::MAX - 1, rate: 48_000, channels: 2, pts, arrived_ns },
        WorkerMessage::Unconverted { pts: late, arrived_ns },
        WorkerMessage::Lost(late),
        WorkerMessage::Missing { from: Pts(2), to: Pts(1) },
        WorkerMessage::Missing { from: Pts(0), to: Pts(MISSING_MAX_NS + 1) },
    ] {
        let mut writer = MessageWriter::new(Vec::new());
        writer.head(&message).unwrap();
        // All announced data follow.
        let mut bytes = writer.to;
        bytes.extend([0; 1000]);
        let received = next_message(&mut reader(&bytes));
        assert!(matches!(received, Err(ReadError::Invalid(_))), "{message:?}: {received:?}");
    }
    let long = (HEAD_MAX as u32 + 1).to_le_bytes();
    assert!(matches!(next_message(&mut reader(&long)), Err(ReadError::Invalid(_))));
}

#[test]
fn arrival_is_never_later_than_now_and_texts_are_one_redacted_line() {
    let bytes = written([
        MediaItem::Unconverted { pts: Pts(1), arrived_ns: 9_000 },
        MediaItem::Ended(End::Failed {
            kind: Cause::Other,
            cause: "rtsp://ann:pa55word@h/x\nfails".into(),
            advice: "x".repeat(2 * TEXT_MAX),
        }),
    ]);
    let mut reader = reader(&bytes);
    match reader.next_message(|| 5_000) {
        Ok(ReceivedMessage::Item(MediaItem::Unconverted { arrived_ns: 5_000, .. })) => {}
        other => panic!("{other:?}"),
    }
    match next_message(&mut reader) {
        Ok(ReceivedMessage::Item(MediaItem::Ended(End::Failed { cause, advice, .. }))) => {
            assert!(!cause.contains("pa55word") && !cause.contains('\n') && cause.contains("fails"), "{cause}");
            assert_eq!(advice.len(), TEXT_MAX);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn counts_are_added_once() {
    let (child, program) = (Counters::default(), Counters::default());
    program.frames.store(100, Ordering::Relaxed);
    let mut before = CounterSnapshot::default();
    for n in 1..=3 {
        child.frames.fetch_add(n, Ordering::Relaxed);
        child.drop_picture(DropReason::Corrupt);
        let now = CounterSnapshot::of(&child);
        now.add_to(&before, &program);
        before = now;
    }
    child.on_demand.get_or_init(|| true);
    CounterSnapshot::of(&child).add_to(&before, &program);
    // A process that counts backwards does not reduce the counters.
    CounterSnapshot::default().add_to(&before, &program);
    assert_eq!((program.frames.load(Ordering::Relaxed), program.dropped(DropReason::Corrupt)), (106, 3));
    assert_eq!(program.on_demand.get(), Some(&true));
}

#[test]
fn facts_of_a_process_are_bounded() {
    let long = format!("a\n{}", "x".repeat(5_000));
    let variant = VariantFacts { codecs: Some(long.clone()), ..VariantFacts::default() };
    let facts = MediaFacts {
        video: Some(VideoFacts { codec: Some(long), height: Some(1080), ..VideoFacts::default() }),
        variants: vec![variant; 2 * VARIANTS_MAX],
        ..MediaFacts::default()
    };
    let mut writer = MessageWriter::new(Vec::new());
    writer.head(&WorkerMessage::Facts(facts)).unwrap();
    let received = next_message(&mut reader(&writer.to));
    let Ok(ReceivedMessage::Facts(facts)) = received else { panic!("{received:?}") };
    let video = facts.video.unwrap();
    assert_eq!((video.height, video.codec.unwrap().chars().count()), (Some(1080), TEXT_MAX));
    assert_eq!(facts.variants.len(), VARIANTS_MAX);
    assert!(facts.variants.iter().all(|variant| !variant.codecs.as_ref().unwrap().contains('\n')));
}
