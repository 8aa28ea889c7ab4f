//! Live outputs of generated media, checked with FFmpeg.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use touchline_core::clock::{Clock, SystemClock};
use touchline_core::item::MediaItem;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::Open;
use touchline_media::gst::clips::ring::RingOptions;
use touchline_media::gst::output::{
    DEFAULT_BITRATE_KBPS, Encoder, Encoding, KLV_KEY, LabelForm, LiveOutput, LiveOutputOptions, OutputAddress,
    OutputCause, OutputEvent, OutputObserver, ShownSecond,
};
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_media::overlay::{LabelContent, LabelledClass, Overlay, OverlayOptions, Position};

use crate::common::pictures::colour;
use crate::common::wait;

const SECONDS: u64 = 6;

/// Pictures whose grey is the number of their second, and a tone.
fn source(dir: &Path) -> PathBuf {
    let path = dir.join("source.ts");
    let done = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i"])
        .arg(format!("nullsrc=s=640x360:r=25:d={SECONDS},geq=lum=60+floor(T)*25:cb=128:cr=128"))
        .args(["-f", "lavfi", "-i", &format!("sine=d={SECONDS}:sample_rate=48000")])
        .args("-c:v libx264 -preset ultrafast -bf 2 -g 50 -pix_fmt yuv420p -c:a aac".split(' '))
        .arg(&path)
        .status();
    assert!(done.expect("FFmpeg is installed").success());
    path
}

/// The colour of the label in a second.
fn label_colour(second: u64) -> [u8; 3] {
    [(30 * second) as u8, 220 - (30 * second) as u8, 120]
}

fn content(second: u64) -> Arc<LabelContent> {
    let (name, title) = (format!("s{second}"), format!("S {second}"));
    let answer = LabelledClass { name, title, probability: 0.5, colour: label_colour(second) };
    Arc::new(LabelContent { classes: vec![answer.clone()], answer, is_unknown: false })
}

#[derive(Default)]
struct Events(Mutex<Vec<OutputEvent>>);

impl OutputObserver for Events {
    fn event(&self, event: OutputEvent) {
        self.0.lock().push(event);
    }
}

impl Events {
    /// What was sent and dropped.
    fn counts(&self) -> (u64, u64) {
        self.0.lock().iter().fold((0, 0), |(sent, dropped), event| match event {
            OutputEvent::Sent(units) => (sent + units, dropped),
            OutputEvent::Dropped(units) => (sent, dropped + units),
            _ => (sent, dropped),
        })
    }

    fn failures(&self) -> Vec<OutputCause> {
        let events = self.0.lock();
        let cause = |event: &OutputEvent| match event {
            OutputEvent::Failed { error, .. } => Some(error.cause),
            _ => None,
        };
        events.iter().filter_map(cause).collect()
    }
}

/// The label in a corner of the picture.
fn drawn() -> LabelForm {
    let position = Some(Position::TopLeft);
    let options = OverlayOptions { position, safe_area: Some(0), ..OverlayOptions::default() };
    let encoding = Encoding { encoder: Encoder::X264, bitrate_kbps: DEFAULT_BITRATE_KBPS };
    LabelForm::Drawn { overlay: Overlay::new(&options).unwrap(), encoding }
}

fn output(dir: &Path, address: &str, form: LabelForm, delay_ns: u64) -> (LiveOutput, Arc<Events>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let options = LiveOutputOptions {
        id: "court".into(),
        address: OutputAddress::parse(address).unwrap(),
        ring: RingOptions { root: dir.join("ring") },
        since_unix_ns: 0,
        form,
        delay_ns,
        clock,
    };
    let events = Arc::new(Events::default());
    (LiveOutput::start(options, events.clone()).unwrap(), events)
}

/// Plays the source with a ring. Returns when its last picture has arrived.
fn record(dir: &Path) {
    let record = Some(RingOptions { root: dir.join("ring") });
    let options = GstOptions { id: "court".into(), record, ..GstOptions::default() };
    let opener = GstOpener::new(options, Arc::new(SystemClock::new())).unwrap();
    let (to, items) = crossbeam_channel::bounded(64);
    let _source = opener.open(source(dir).to_str().unwrap(), to).unwrap();
    assert!(items.iter().any(|item| matches!(item, MediaItem::Ended(_))));
}

/// Plays the source to its end with the output `path`, and all decisions but that of second 3.
fn played(dir: &Path, path: &Path, form: LabelForm) -> Arc<Events> {
    let (live, events) = output(dir, path.to_str().unwrap(), form, 20 * NANOS_PER_SECOND);
    let clock = SystemClock::new();
    // The sound is a little longer than the pictures.
    for index in 0..=SECONDS {
        let label = (index != 3).then(|| content(index));
        live.decided(ShownSecond { index, arrived_ns: clock.mono_ns(), label });
    }
    record(dir);
    live.drain();
    live.join();
    assert_eq!(events.failures(), []);
    events
}

#[test]
fn each_picture_of_a_live_output_shows_the_decision_of_its_second() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.mkv");
    let events = played(dir.path(), &path, drawn());
    let (sent, dropped) = events.counts();
    assert!(sent > SECONDS * 25, "{sent} sent, {dropped} dropped");
    let mut seen = std::collections::BTreeSet::new();
    for moment in 1..SECONDS * 5 {
        let moment = moment as f64 / 5.0 + 0.1;
        let grey = colour(&path, moment, (400, 200, 60, 60))[0];
        // The grey of a second in RGB, from its luma.
        let index =
            (0..SECONDS).min_by_key(|s| (((60 + 25 * s - 16) * 255 / 219).min(255) as u8).abs_diff(grey)).unwrap();
        let found = colour(&path, moment, (10, 14, 4, 12));
        if index == 3 {
            assert!(found.iter().all(|value| value.abs_diff(grey) <= 4), "{moment}: {found:?} has a label");
        } else {
            let expected = label_colour(index);
            let off = found.iter().zip(expected).map(|(a, b)| a.abs_diff(b)).max().unwrap();
            assert!(off <= 12, "{moment}: second {index} is {expected:?} and shows {found:?}");
        }
        seen.insert(index);
    }
    assert!(seen.len() >= 5, "{seen:?}");
}

/// What FFmpeg or FFprobe prints about a file.
fn printed(program: &str, path: &Path, arguments: &str) -> Vec<u8> {
    let done = Command::new(program).args(["-v", "error", "-i"]).arg(path).args(arguments.split(' ')).output();
    let done = done.expect("FFmpeg is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// Presentation times of the packets of a stream, seconds.
fn times(path: &Path, stream: &str) -> Vec<f64> {
    let shown =
        printed("ffprobe", path, &format!("-select_streams {stream} -show_entries packet=pts_time -of csv=p=0"));
    let text = String::from_utf8(shown).unwrap();
    text.lines().filter_map(|line| line.trim_matches(',').parse().ok()).collect()
}

/// The values of the KLV packets of a file.
fn packets(path: &Path) -> Vec<Value> {
    let data = printed("ffmpeg", path, "-map 0:d -c copy -f data -");
    let mut rest = &data[..];
    let mut values = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_at(KLV_KEY.len());
        assert_eq!(key, KLV_KEY);
        let (head, length) = match after[0] {
            length @ ..0x80 => (1, usize::from(length)),
            0x84 => (5, u32::from_be_bytes(after[1..5].try_into().unwrap()) as usize),
            other => panic!("a length of the form {other:#x}"),
        };
        values.push(serde_json::from_slice(&after[head..head + length]).unwrap());
        rest = &after[head + length..];
    }
    values
}

#[test]
fn packets_beside_unchanged_pictures_have_the_decision_of_their_second() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.ts");
    played(dir.path(), &path, LabelForm::Metadata);
    let pictures = |path: &Path| {
        let hashes = String::from_utf8(printed("ffmpeg", path, "-map 0:v -f framehash -")).unwrap();
        let frames = hashes.lines().filter(|line| !line.starts_with('#'));
        frames.map(|line| line.rsplit(',').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(pictures(&path), pictures(&dir.path().join("source.ts")), "the pictures are those of the source");
    let (shown, packed, values) = (times(&path, "v"), times(&path, "d"), packets(&path));
    assert_eq!((packed.len(), values.len()), (shown.len(), shown.len()), "a packet for each picture");
    let began = shown.iter().copied().fold(f64::MAX, f64::min);
    let mut seen = std::collections::BTreeSet::new();
    for (time, value) in packed.iter().zip(&values) {
        // The first pictures are decoded before the output begins.
        let second = (time - began + 1e-4).max(0.0) as u64;
        let expected = if second == 3 { Value::Null } else { format!("s{second}").into() };
        assert_eq!(value["class"], expected, "{time}: {value}");
        seen.insert(second);
    }
    assert_eq!(seen.len() as u64, SECONDS, "{seen:?}");
    assert_eq!((&values[0]["probability"], &values[0]["unknown"]), (&0.5.into(), &false.into()));
}

#[test]
fn a_picture_waits_no_longer_than_the_delay_and_an_absent_receiver_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.ts");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("rtmp://127.0.0.1:{}/live/s3cret", listener.local_addr().unwrap().port());
    // The port is free again: nobody listens on it.
    drop(listener);
    let (live, events) = output(dir.path(), path.to_str().unwrap(), drawn(), NANOS_PER_SECOND / 5);
    let (absent, absences) = output(dir.path(), &address, drawn(), NANOS_PER_SECOND / 5);
    record(dir.path());
    wait::until("the failure", || absences.failures().contains(&OutputCause::Unreachable));
    live.drain();
    absent.drain();
    live.join();
    absent.join();
    assert_eq!(events.failures(), []);
    assert!(events.counts().0 > 6 * 25 && absences.counts().1 > 0, "{:?} {:?}", events.counts(), absences.counts());
    let shown = format!("{:?}", absences.0.lock());
    assert!(!shown.contains("s3cret"), "{shown}");
    let (grey, found) = (colour(&path, 1.5, (400, 200, 60, 60))[0], colour(&path, 1.5, (10, 14, 4, 12)));
    assert!(found.iter().all(|value| value.abs_diff(grey) <= 4), "{found:?} has a label");
}
