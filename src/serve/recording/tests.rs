//! Clips from rings of generated media, checked with FFmpeg.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::*;
use crate::clips::MissingSpan;
use crate::hub::StreamInfo;
use crate::record::Recorder;
use crate::testing::{self, predicted};
use crate::wait::until;
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::item::{Discontinuity, MediaItem, Pace};
use touchline_core::labels::ClassId;
use touchline_core::time::RunId;
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};

/// A program with one stream, whose media are a recording that plays as fast as it can.
struct Bench {
    dir: std::path::PathBuf,
    id: &'static str,
    hub: Hub,
    clock: Arc<dyn Clock>,
    sink: ClipSink,
}

impl Bench {
    fn start(dir: &Path, id: &'static str, clips: &[ClipKind], wav: bool) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let hub = testing::hub(clock.clone());
        hub.add_stream(StreamInfo { id: id.into(), uri: "testsrc://".into(), pace: Pace::Live }).unwrap();
        let sink = ClipSink::open(settings(dir, clips, wav), &hub).unwrap();
        Self { dir: dir.into(), id, hub, clock, sink }
    }

    /// Plays twelve seconds with a key picture every four and a tone into the ring. Returns when the media of each second arrived.
    fn record(&self) -> Vec<u64> {
        let (source, root) = (self.dir.join("source.ts"), self.dir.join("ring"));
        let input = "-v error -y -f lavfi -i testsrc2=size=160x90:rate=25:duration=12 -f lavfi -i sine=frequency=440:sample_rate=48000:duration=12";
        let coding = "-c:v libx264 -preset ultrafast -g 100 -sc_threshold 0 -pix_fmt yuv420p -c:a aac -ac 2";
        let arguments = format!("{input} {coding}");
        let made = Command::new("ffmpeg").args(arguments.split_whitespace()).arg(&source).status().unwrap();
        assert!(made.success());
        let options = GstOptions { id: self.id.into(), record: Some(RingOptions { root }), ..GstOptions::default() };
        let opener = GstOpener::new(options, self.clock.clone()).unwrap();
        let (to, items) = crossbeam_channel::bounded(64);
        let played = opener.open(source.to_str().unwrap(), to).unwrap();
        let mut arrived = vec![0; 12];
        for item in items.iter().take_while(|item| !matches!(item, MediaItem::Ended(_))) {
            if let MediaItem::Frame(frame) = item {
                let second = usize::try_from(frame.pts.0 / NANOS_PER_SECOND).unwrap();
                arrived[second.min(11)] = frame.arrived_ns;
            }
        }
        drop(played);
        let name = format!("ring/{}", self.id);
        until("the end of the ring's thread", || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
            let mut names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
            !names.any(|other| other.trim() == name)
        });
        arrived
    }

    /// Publishes a second of tennis, with an event.
    fn second(&mut self, run: u32, index: u64, arrived_ns: u64, event: Option<EventKind>) {
        let mut published = predicted(index, "tennis", 0.5 + index as f32 / 100.0);
        if let SecondOutcome::Predicted(second) = &mut published.outcome {
            (second.run, second.arrived_ns) = (RunId(run), arrived_ns);
        }
        let event =
            event.map(|kind| Event { kind, class: ClassId(1), run: RunId(run), index, probability: 0.9, reason: None });
        published.events.extend(event);
        let recorder = Recorder::new(self.id, self.hub.classes().clone(), Pace::Live);
        let kinds = [crate::config::RecordKind::Second, crate::config::RecordKind::Event];
        let records = recorder.published(&published).into_iter().zip(kinds);
        let records = records.map(|(json, kind)| OutputRecord { kind, json: json.into() }).collect();
        self.take(ItemContent::Second(Box::new(published)), records);
    }

    fn take(&mut self, content: ItemContent, records: Vec<OutputRecord>) {
        assert_eq!(self.sink.take(&Item { stream: self.id.into(), content, records }), 0);
    }

    fn sidecars(&self) -> Vec<Sidecar> {
        let store = &self.sink.cutter.store;
        store.ids().unwrap().iter().map(|id| store.sidecar(id).unwrap()).collect()
    }

    fn files(&self, extension: &str) -> usize {
        let entries = std::fs::read_dir(self.dir.join("clips")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == extension)).count()
    }

    fn count(&self, result: &str) -> f64 {
        let key = format!("touchline_clips_total{{result=\"{result}\"}} ");
        self.hub.metrics().encode().lines().find_map(|line| line.strip_prefix(&key)?.parse().ok()).unwrap()
    }
}

fn settings(dir: &Path, clips: &[ClipKind], wav: bool) -> RecordSettings {
    RecordSettings {
        dir: dir.into(),
        ring_s: 60,
        ring_bytes: 1 << 30,
        pre_roll_s: 2,
        post_roll_s: 5,
        keep_s: 1 << 30,
        keep_bytes: 1 << 30,
        clips: clips.to_vec(),
        wav,
    }
}

fn seconds(pts: Pts) -> f64 {
    pts.0 as f64 / NANOS_PER_SECOND as f64
}

fn is_about(found: Pts, s: f64) -> bool {
    (seconds(found) - s).abs() < 0.3
}

/// Rate, channels, bits and length of a WAV file, seconds. Its sizes must be those of the file.
fn wav(path: &Path) -> (u32, u16, u16, f64) {
    let bytes = std::fs::read(path).unwrap();
    let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((&bytes[..4], &bytes[8..12]), (&b"RIFF"[..], &b"WAVE"[..]));
    assert_eq!(u32_at(4) as usize, bytes.len() - 8);
    let chunk = |name: &[u8; 4]| {
        let mut at = 12;
        while &bytes[at..at + 4] != name {
            at += 8 + u32_at(at + 4) as usize;
        }
        at
    };
    let (format, data) = (chunk(b"fmt "), chunk(b"data"));
    let (size, rate, channels, bits) =
        (u32_at(data + 4), u32_at(format + 12), u16_at(format + 10), u16_at(format + 22));
    assert!(data + 8 + size as usize <= bytes.len());
    (rate, channels, bits, f64::from(size) / f64::from(rate * u32::from(channels) * u32::from(bits / 8)))
}

#[test]
fn clips_across_a_reconnect_say_what_is_missing_and_have_their_sound() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(dir.path(), "r1", &[ClipKind::Event, ClipKind::Segment], true);
    let first = bench.record();
    for (index, arrived_ns) in (0..).zip(first) {
        bench.second(0, index, arrived_ns, (index == 8).then_some(EventKind::Onset));
    }
    assert_eq!((bench.sidecars().len(), bench.files("open")), (0, 2), "their end has not come");
    let second = bench.record();
    bench.take(ItemContent::RunStarted(RunId(1), Discontinuity::Reconnect), Vec::new());
    for (index, arrived_ns) in (0..).zip(second) {
        bench.second(1, index, arrived_ns, (index == 3).then_some(EventKind::Offset));
    }
    let clips = bench.sidecars();
    assert_eq!((clips.len(), bench.files("open"), bench.count("made")), (3, 0, 3.0));
    let of = |reason: ClipReason, run: u32| {
        let clip = clips.iter().find(|clip| (clip.reason, clip.run) == (reason, RunId(run))).unwrap();
        (clip, clip.media[0].begin_pts_ns, clip.media[0].end_pts_ns)
    };
    // Wanted from 6 to 14; the media of the run end at 12.
    let (event, begin, end) = of(ClipReason::Event, 0);
    assert!(is_about(begin, 4.0) && is_about(end, 12.0), "{begin:?} {end:?}");
    let [MissingSpan { reason, from_pts_ns, to_pts_ns }] = event.missing[..] else { panic!("{:?}", event.missing) };
    assert_eq!((reason, to_pts_ns), (MissingReason::Reconnect, Pts::from_second(14)));
    assert!(is_about(from_pts_ns, 12.0));
    assert_eq!((event.from_pts_ns, event.to_pts_ns), (Pts::from_second(8), Pts::from_second(9)), "without rolls");
    assert_eq!(event.poster.as_ref().unwrap().pts_ns.0 / NANOS_PER_SECOND, 11, "the strongest second");
    // A class that stays on air has a segment in each run.
    let (before, _, end) = of(ClipReason::Segment, 0);
    assert!(before.missing.is_empty() && is_about(end, 12.0) && before.to_pts_ns == Pts::from_second(12));
    let (after, begin, end) = of(ClipReason::Segment, 1);
    assert!(after.missing.is_empty() && is_about(begin, 0.0) && is_about(end, 9.0), "{after:?}");
    assert_eq!((after.from_pts_ns, after.to_pts_ns), (Pts(0), Pts::from_second(4)));
    for clip in &clips {
        let media = &clip.media[0];
        let (rate, channels, bits, length_s) = wav(&dir.path().join("clips").join(media.wav.as_ref().unwrap()));
        assert_eq!(
            (rate, channels, bits),
            (48_000, 2, 32),
            "rate and channels of the source, and all bits that AAC decodes to"
        );
        assert!((length_s - seconds(media.end_pts_ns) + seconds(media.begin_pts_ns)).abs() < 0.2, "{length_s}");
    }
    bench.sink.finish();
    let store = bench.sink.cutter.store.clone();
    assert!(store.remove(&event.id).unwrap());
    assert_eq!((bench.files("wav"), bench.files("mp4"), bench.files("jpg")), (2, 2, 2), "a clip goes with its files");
}

#[test]
fn a_clip_that_was_open_at_a_kill_is_completed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(dir.path(), "k1", &[ClipKind::Event], false);
    for (index, arrived_ns) in (0..10).zip(bench.record()) {
        bench.second(0, index, arrived_ns, (index == 8).then_some(EventKind::Onset));
    }
    assert_eq!((bench.sidecars().len(), bench.files("open")), (0, 1));
    drop(bench);
    let bench = Bench::start(dir.path(), "k1", &[ClipKind::Event], false);
    let [clip] = <[Sidecar; 1]>::try_from(bench.sidecars()).unwrap();
    assert_eq!((bench.files("open"), bench.count("made")), (0, 1.0));
    assert_eq!((clip.reason, clip.class.as_deref(), clip.stream.as_str()), (ClipReason::Event, Some("tennis"), "k1"));
    assert!(is_about(clip.media[0].begin_pts_ns, 4.0) && is_about(clip.media[0].end_pts_ns, 12.0), "{clip:?}");
    assert_eq!(clip.missing.iter().map(|span| span.reason).collect::<Vec<_>>(), [MissingReason::Killed]);
    let records: Vec<Value> = clip.records.iter().map(|record| serde_json::from_str(record.get()).unwrap()).collect();
    let of = |kind: &str| records.iter().filter(|record| record["type"] == kind).count();
    assert_eq!((of("second"), of("event")), (5, 1), "5 to 9, as they were decided");
    let id = clip.id;
    drop(bench);
    let bench = Bench::start(dir.path(), "k1", &[ClipKind::Event], false);
    assert_eq!(bench.sidecars().iter().map(|clip| &clip.id).collect::<Vec<_>>(), [&id], "once");
}

/// Lets the next file of the open clip find a full disk: the device accepts nothing. The file itself is removed after the failure, as
/// any unfinished one.
fn fill_disk_for_open_clip(bench: &Bench, extension: &str) {
    let clips = bench.dir.join("clips");
    let entries = std::fs::read_dir(&clips).unwrap().map(|entry| entry.unwrap().path());
    let open = { entries }.find(|path| path.extension().is_some_and(|e| e == "open")).unwrap();
    let id = open.file_stem().unwrap().to_str().unwrap();
    std::os::unix::fs::symlink("/dev/full", clips.join(format!("{id}.{extension}.part"))).unwrap();
}

#[test]
fn on_a_full_disk_the_oldest_media_make_room_and_then_clips_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(dir.path(), "d1", &[ClipKind::Event], false);
    let arrived = bench.record();
    let rings = |bench: &Bench| std::fs::read_dir(bench.dir.join("ring/d1.stream")).unwrap().count();
    assert_eq!(rings(&bench), 2, "a file has at least four seconds, and key pictures are four apart");
    let publish = |bench: &mut Bench, onset: u64, full: Option<&str>| {
        for (index, arrived_ns) in (0..).zip(&arrived) {
            bench.second(0, index, *arrived_ns, (index == onset).then_some(EventKind::Onset));
        }
        full.into_iter().for_each(|extension| fill_disk_for_open_clip(bench, extension));
        bench.take(ItemContent::State(StreamState::Ended), Vec::new());
        let unfinished = bench.files("part") + bench.files("open");
        (bench.count("made"), bench.count("no-space"), bench.sidecars().len(), bench.files("mp4"), unfinished)
    };
    assert_eq!(publish(&mut bench, 10, Some("mp4")), (1.0, 0.0, 1, 1, 0));
    assert_eq!(rings(&bench), 1, "the oldest file made room");
    for (count, extension) in [(1.0, "mp4"), (2.0, "json")] {
        assert_eq!(publish(&mut bench, 11, Some(extension)), (1.0, count, 1, 1, 0), "{extension}");
        assert_eq!(rings(&bench), 1, "what is being written stays");
    }
    assert_eq!(publish(&mut bench, 11, None), (2.0, 2.0, 2, 2, 0), "there is room again");
}
