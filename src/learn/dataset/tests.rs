use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crossbeam_channel::Sender;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::build::{BuildConfig, BuildProgress, Summary, build};
use super::*;
use touchline_core::clip::{ClipConfig, LagLimits};
use touchline_core::frame::Frame;
use touchline_core::item::{End, MediaItem, Pace, Track, Tracks};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pooled;
use touchline_core::time::{NANOS_PER_SECOND, Pts};
use touchline_media::replay::{Replay, Script};
use touchline_media::{Open, Source};

const FPS: u64 = 10;
const RATE: u32 = 8000;

/// Opens "recordings" that are text files: `clip SECONDS SEED`, `noise SECONDS SEED`, `mute SECONDS SEED`, `sound SECONDS SEED`,
/// `faint SECONDS SEED` and `dead SECONDS SEED` (sound of -80 and -106 dB). Any other text fails after a second.
#[derive(Default)]
struct Fake {
    /// All files that were opened.
    opened: Mutex<Vec<PathBuf>>,
    /// From this opening on, all fail with an internal error.
    fails_from: Option<usize>,
}

impl Fake {
    fn opened(&self) -> usize {
        self.opened.lock().unwrap().len()
    }
}

impl Open for Fake {
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let mut opened = self.opened.lock().unwrap();
        if self.fails_from.is_some_and(|n| opened.len() >= n) {
            return Err(Error::Internal("killed".into()));
        }
        opened.push(uri.into());
        let text = std::fs::read_to_string(uri).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok()).unwrap_or(1);
        let failed = End::Failed {
            kind: touchline_core::cause::Cause::Damaged,
            cause: "the data stream is broken".into(),
            advice: "encode it again".into(),
        };
        let (content, end) = match words[0] {
            content @ ("clip" | "noise" | "mute" | "sound" | "faint" | "dead") => (content, End::Finished),
            _ => ("clip", failed),
        };
        let script = Script { items: media(content, number(1), number(2)), end: Some(end) };
        Replay::new(Pace::File, vec![script]).open(uri, to)
    }
}

/// Returns media whose pictures are soft blobs that move slowly, or noise (`noise`), and whose sound is noise.
fn media(content: &str, seconds: u64, seed: u64) -> Vec<MediaItem> {
    let tracks = Tracks { video: !matches!(content, "sound" | "faint" | "dead"), audio: content != "mute" };
    let loudness = match content {
        "faint" => 2e-4,
        "dead" => 1e-5,
        _ => 1.0,
    };
    let mut rng = SmallRng::seed_from_u64(seed);
    let waves: Vec<[f32; 3]> = (0..6).map(|_| [rng.random(), rng.random(), rng.random()]).collect();
    let mut items = vec![MediaItem::Opened(tracks)];
    for n in 0..seconds * FPS {
        let pts = Pts(n * NANOS_PER_SECOND / FPS);
        if tracks.video {
            let (width, height) = (33, 17);
            let mut data = vec![0; width * height * 3];
            if content == "noise" {
                rng.fill_bytes(&mut data);
            } else {
                for (i, value) in data.iter_mut().enumerate() {
                    let (x, y) = ((i / 3 % width) as f32 / width as f32, (i / 3 / width) as f32 / height as f32);
                    let t = n as f32 * 0.002;
                    let wave = |w: &[f32; 3]| (9.0 * (w[0] * x + w[1] * y + t) + 6.3 * w[2]).sin();
                    *value = (128.0 + 20.0 * waves.iter().map(wave).sum::<f32>()) as u8;
                }
            }
            items.push(MediaItem::Frame(Frame::new(Pooled::detached(data), width as u32, height as u32, pts, n)));
        }
        if tracks.audio {
            let samples = (0..RATE as usize / FPS as usize).map(|_| loudness * (rng.random::<f32>() - 0.5)).collect();
            items.push(MediaItem::Pcm(PcmChunk {
                data: Pooled::detached(samples),
                channels: 1,
                rate: RATE,
                pts,
                arrived_ns: n,
            }));
        }
    }
    let ends = [(tracks.video, Track::Video), (tracks.audio, Track::Audio)];
    items.extend(ends.into_iter().filter(|(exists, _)| *exists).map(|(_, track)| MediaItem::TrackEnded(track)));
    items
}

fn plan() -> SamplingPlan {
    SamplingPlan { rgb_frames: 2, flow_pairs: 2, flow_gap_ns: 100_000_000, signal_frames: 0 }
}

fn config(input: &Path, out: &Path) -> BuildConfig {
    BuildConfig {
        inputs: vec![input.to_owned()],
        out: out.to_owned(),
        frame_height: 24,
        sample_rate: RATE,
        plan: plan(),
        jobs: 3,
    }
}

/// Material in a folder per class.
struct Material {
    dir: tempfile::TempDir,
}

impl Material {
    fn new(files: &[(&str, &str)]) -> Self {
        let material = Self { dir: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(name, text)| material.write(name, text));
        material
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join("in").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name.ends_with(".png") {
            let seed = text.parse().unwrap();
            let mut picture = image::RgbImage::new(40, 30);
            let scene = media("clip", 1, seed).into_iter().find_map(|i| match i {
                MediaItem::Frame(f) => Some(f),
                _ => None,
            });
            let scene = scene.unwrap();
            for (x, y, pixel) in picture.enumerate_pixels_mut() {
                let at = ((y * 17 / 30 * 33 + x * 33 / 40) * 3) as usize;
                pixel.0.copy_from_slice(&scene.data[at..at + 3]);
            }
            picture.save(path).unwrap();
        } else {
            std::fs::write(path, text).unwrap();
        }
    }

    fn input(&self) -> PathBuf {
        self.dir.path().join("in")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn build(&self, opener: &Fake) -> Result<Summary> {
        build(&config(&self.input(), &self.out()), opener, &mut |_| {})
    }

    fn open(&self) -> Dataset {
        Dataset::open(&self.out()).unwrap()
    }
}

/// Describes seconds completely, except for the time of arrival.
fn content(seconds: &[ClipSecond]) -> Vec<String> {
    let frame = |f: &Frame| format!("{}x{} {:?} {:?}", f.width, f.height, f.pts, **f.data);
    let of = |s: &ClipSecond| {
        let frames: Vec<String> = s.frames.iter().map(frame).collect();
        let audio: Option<Vec<u32>> = s.audio.as_ref().map(|a| a.iter().map(|v| v.to_bits()).collect());
        let absent = (s.rgb_absent, s.flow_absent, s.audio_absent, s.wall);
        format!(
            "{:?} {} {frames:?} {:?} {:?} {} {audio:?} {} {absent:?}",
            s.run, s.index, s.rgb, s.pairs, s.frames_seen, s.audio_missing
        )
    };
    seconds.iter().map(of).collect()
}

/// Returns the seconds that serving would cut.
fn served(path: &Path) -> Vec<ClipSecond> {
    let config =
        ClipConfig { sample_rate: Some(RATE), plan: plan(), lag: LagLimits::for_pace(Pace::File), behind_ns: 0 };
    let mut all = Vec::new();
    seconds(&Fake::default(), path, config, &mut |second| {
        all.push(second);
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn seconds_read_from_several_threads_equal_the_cut_ones_bit_for_bit() {
    let files = [("a/clip.mp4", "clip 3 1"), ("a/mute.mp4", "mute 2 2"), ("b/noise.mp4", "noise 2 3")];
    let material = Material::new(&files);
    material.write("b/sound.wav", "sound 2 4");
    // A file with the extension of a video and without pictures.
    material.write("b/radio.mp4", "sound 1 5");
    material.write("b/still.png", "6");
    let summary = material.build(&Fake::default()).unwrap();
    assert_eq!((summary.total, summary.skipped.len(), summary.seconds), (6, 0, 10));
    let dataset = material.open();
    let kinds: Vec<_> = dataset.items.iter().map(|i| (i.path.to_str().unwrap(), i.kind, i.audible)).collect();
    assert_eq!(
        kinds,
        [
            ("a/clip.mp4", Kind::Clip, true),
            ("a/mute.mp4", Kind::Clip, false),
            ("b/noise.mp4", Kind::Clip, true),
            ("b/radio.mp4", Kind::Sound, true),
            ("b/sound.wav", Kind::Sound, true),
            ("b/still.png", Kind::Picture, false),
        ]
    );
    assert_eq!(dataset.class_names(), ["a", "b"]);
    std::thread::scope(|scope| {
        for i in 0..5 {
            let dataset = &dataset;
            scope.spawn(move || {
                let (read, cut) = (dataset.seconds(i).unwrap(), served(&dataset.file(i)));
                assert_eq!(read.len(), dataset.items[i].seconds as usize);
                assert!(content(&read) == content(&cut), "{:?}", dataset.items[i]);
            });
        }
    });
    let second = &dataset.seconds(0).unwrap()[1];
    assert!(
        second.rgb.len() == 2 && second.pairs.len() == 2 && second.audio.is_some(),
        "the second has data to compare"
    );
    let still = dataset.seconds(5).unwrap();
    assert_eq!((still.len(), still[0].frames.len(), still[0].rgb.len()), (1, 1, 1));
    assert_eq!((still[0].frames[0].width, still[0].frames[0].height), (32, 24), "scaled down as on ingest");
}

/// Faint sound counts as sound, and a muted feed as silence, as in serving.
#[test]
fn silence_is_recognised_as_in_serving() {
    let material = Material::new(&[("a/faint.wav", "faint 1 1"), ("a/dead.wav", "dead 1 2")]);
    material.build(&Fake::default()).unwrap();
    let dataset = material.open();
    for (i, item) in dataset.items.iter().enumerate() {
        let served = !touchline_compute::infer::is_silent(&dataset.seconds(i).unwrap()[0]);
        assert_eq!((item.audible, served), (item.source == "faint", item.source == "faint"), "{item:?}");
    }
}

#[test]
fn a_second_build_reuses_shards_and_cuts_changed_recordings() {
    let material = Material::new(&[("a/1.mp4", "clip 2 1"), ("a/2.mp4", "clip 2 2"), ("b/3.png", "3")]);
    let opener = Fake::default();
    assert_eq!(material.build(&opener).unwrap().reused, 0);
    let first = material.open();
    assert_eq!(material.build(&opener).unwrap().reused, 3);
    assert_eq!(opener.opened(), 2, "nothing is decoded twice");
    assert_eq!(material.open().fingerprint(), first.fingerprint());

    material.write("a/2.mp4", "clip 3 22");
    assert_eq!(material.build(&opener).unwrap().reused, 2);
    assert_eq!(opener.opened(), 3);
    let second = material.open();
    assert_eq!(second.items[1].seconds, 3);
    assert_ne!(second.fingerprint(), first.fingerprint());
    let shards = std::fs::read_dir(material.out().join("shards")).unwrap().count();
    assert_eq!(shards, 2, "unused shards are removed");

    // With other parameters the seconds differ.
    let other = BuildConfig { sample_rate: 16_000, ..config(&material.input(), &material.out()) };
    assert_eq!(build(&other, &opener, &mut |_| {}).unwrap().reused, 1, "a still has no sound");
}

#[test]
fn a_killed_build_continues() {
    let names: Vec<String> = (0..6).map(|n| format!("a/{n}.mp4")).collect();
    let material = Material::new(&[]);
    names.iter().enumerate().for_each(|(n, name)| material.write(name, &format!("clip 1 {n}")));
    let killed = Fake { fails_from: Some(4), ..Fake::default() };
    assert!(matches!(material.build(&killed), Err(Error::Internal(_))));
    assert!(Dataset::open(&material.out()).unwrap_err().to_string().contains("dataset build"), "there is no index yet");
    let half = material.out().join("shards/0123456789abcdef-0000.safetensors.part");
    std::fs::write(&half, "half").unwrap();
    let opener = Fake::default();
    let summary = material.build(&opener).unwrap();
    assert_eq!((summary.reused, opener.opened()), (4, 2));
    assert!(!half.exists());
    assert_eq!(material.open().items.len(), 6);
}

#[test]
fn unreadable_files_are_skipped_with_the_cause() {
    let material = Material::new(&[("a/1.mp4", "clip 2 1"), ("a/2.mp4", "garbage"), ("b/4.mp4", "mute 1 4")]);
    std::fs::write(material.input().join("b/3.png"), "no picture").unwrap();
    let csv = material.input().join("list.csv");
    let mut text = String::from("path,class,kind\na/1.mp4,a,\na/2.mp4,a,\nb/3.png,b,\nb/4.mp4,b,sound\n");
    text += "gone.mp4,b,\n";
    std::fs::write(&csv, &text).unwrap();
    let mut notes = Vec::new();
    let summary = build(&config(&csv, &material.out()), &Fake::default(), &mut |p| {
        if let BuildProgress::Note(note) = p {
            notes.push(note);
        }
    })
    .unwrap();
    let causes: Vec<_> = summary.skipped.iter().map(|(path, cause)| format!("{} {cause}", path.display())).collect();
    assert_eq!((summary.total, causes.len()), (5, 4), "{causes:?}");
    for (path, cause) in [
        ("a/2.mp4", "the data stream is broken"),
        ("b/3.png", "use a JPEG"),
        ("b/4.mp4", "it has no sound"),
        ("gone.mp4", "check the path"),
    ] {
        assert!(causes.iter().any(|c| c.starts_with(path) && c.contains(cause)), "{path} {cause}: {causes:?}");
        assert!(notes.iter().any(|n| n.contains(path) && n.contains(cause)), "{notes:?}");
    }
    let list = std::fs::read_to_string(material.out().join("skipped.csv")).unwrap();
    assert_eq!(list.lines().count(), 5, "{list}");
    assert_eq!(material.open().items.len(), 1);

    std::fs::write(&csv, "path,class\na/2.mp4,a\n").unwrap();
    let error = build(&config(&csv, &material.out()), &Fake::default(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Data { .. }) && error.to_string().contains("none of 1"), "{error}");
}

#[test]
fn start_and_end_select_the_whole_seconds_between() {
    let material = Material::new(&[("m.mp4", "clip 8 1")]);
    let csv = material.input().join("list.csv");
    let text = "path,class,start,end\nm.mp4,a,1.5,4\nm.mp4,b,5,\nm.mp4,c,0:07.2,0:07.9\n";
    std::fs::write(&csv, text).unwrap();
    let summary = build(&config(&csv, &material.out()), &Fake::default(), &mut |_| {}).unwrap();
    assert!(summary.skipped[0].1.contains("between start and end"), "{:?}", summary.skipped);
    let dataset = material.open();
    let indices = |i| dataset.seconds(i).unwrap().iter().map(|s| s.index).collect::<Vec<_>>();
    assert_eq!((indices(0), indices(1)), (vec![2, 3], vec![5, 6, 7]));
    assert_eq!(dataset.items[0].group, dataset.items[1].group, "parts of one recording stay together");
    let whole = served(&material.input().join("m.mp4"));
    assert!(content(&dataset.seconds(0).unwrap()) == content(&whole[2..4]));
}

#[test]
fn a_long_recording_becomes_several_items_of_one_group() {
    let material = Material::new(&[("a/long.mp4", "clip 121 1"), ("b/minute.mp4", "clip 60 2")]);
    let opener = Fake::default();
    material.build(&opener).unwrap();
    let dataset = material.open();
    let parts: Vec<_> = dataset.items.iter().map(|i| (i.seconds, i.start_ns, i.end_ns)).collect();
    let s = |n: u64| Some(n * NANOS_PER_SECOND);
    assert_eq!(parts, [(60, s(0), s(60)), (60, s(60), s(120)), (1, s(120), s(121)), (60, None, None)]);
    assert_eq!(dataset.seconds(2).unwrap()[0].index, 120);
    assert!(dataset.items[..3].iter().all(|i| i.group == dataset.items[0].group));
    // When a shard is missing, its recording is cut again. The other recording is reused.
    std::fs::remove_file(material.out().join("shards").join(dataset.items[1].shard.as_ref().unwrap())).unwrap();
    assert_eq!(material.build(&opener).unwrap().reused, 1);
    assert_eq!(material.open().items, dataset.items);
}

#[test]
fn damage_is_reported_and_repaired_by_building_again() {
    let material = Material::new(&[("a/1.mp4", "clip 2 1"), ("b/2.mp4", "clip 2 2")]);
    material.build(&Fake::default()).unwrap();
    let dataset = material.open();
    let shard = material.out().join("shards").join(dataset.items[0].shard.as_ref().unwrap());
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 9]).unwrap();
    let error = dataset.seconds(0).unwrap_err().to_string();
    assert!(error.contains(".safetensors") && error.contains("dataset build"), "{error}");
    assert_eq!(material.build(&Fake::default()).unwrap().reused, 1);
    assert_eq!(material.open().seconds(0).unwrap().len(), 2);

    let items = material.out().join("items.csv");
    let text = std::fs::read_to_string(&items).unwrap();
    std::fs::write(&items, text.replacen(",a,", ",c,", 1)).unwrap();
    assert!(Dataset::open(&material.out()).unwrap_err().to_string().contains("does not belong to dataset.toml"));
    std::fs::write(&items, text.replacen("clip,", "film,", 1)).unwrap();
    let error = Dataset::open(&material.out()).unwrap_err().to_string();
    assert!(error.contains("items.csv") && error.contains("line: 2") && error.contains("film"), "{error}");
    assert!(Dataset::open(material.dir.path()).unwrap_err().to_string().contains("not a dataset"));
}

#[test]
fn a_split_is_valid_until_the_items_change() {
    let files: Vec<(String, String)> = (0..20).map(|n| (format!("a/{n}.mp4"), format!("clip 2 {n}"))).collect();
    let material = Material::new(&[("b/0.mp4", "clip 2 100")]);
    files.iter().for_each(|(name, text)| material.write(name, text));
    material.build(&Fake::default()).unwrap();
    let mut dataset = material.open();
    assert!(dataset.sides().unwrap_err().to_string().contains("run `touchline dataset split"));
    let sides = split::divide(&mut dataset, 1).unwrap();
    assert_eq!(dataset.sides().unwrap(), sides);
    assert_eq!(material.open().sides().unwrap(), sides);
    let count = |side| sides.iter().filter(|s| **s == side).count();
    assert_eq!((count(Side::Train), count(Side::Validation), count(Side::Test)), (17, 2, 2));
    let warnings = split::warnings(&dataset.items, &sides);
    assert_eq!(warnings, ["b, clips: no validation or test items (a single source)"]);
    let counts = stats::count(&dataset);
    assert_eq!((counts[0].clips, counts[0].clip_seconds, counts[0].sides), (20, 40, Some([16, 2, 2])));
    assert_eq!((counts[1].sources, stats::sources(&dataset)), (1, 21));

    material.write("c/1.mp4", "clip 1 50");
    material.build(&Fake::default()).unwrap();
    assert!(material.open().sides().unwrap_err().to_string().contains("built again"));
}

#[test]
fn duplicate_items_get_one_group() {
    let material = Material::new(&[("a/1.mp4", "clip 3 1"), ("a/2.mp4", "mute 4 1"), ("a/3.mp4", "clip 3 3")]);
    ["7", "8", "7"].iter().zip(["x", "y", "z"]).for_each(|(seed, n)| material.write(&format!("b/{n}.png"), seed));
    // A frame of the third recording.
    material.write("a/4.png", "3");
    let summary = material.build(&Fake::default()).unwrap();
    assert_eq!((summary.recording_duplicates, summary.still_duplicates, summary.frame_duplicates), (1, 1, 1));
    assert_eq!(summary.groups_joined, 3);
    let groups: Vec<String> = material.open().items.into_iter().map(|i| i.group).collect();
    assert_eq!(groups, ["a/1", "a/1", "a/3", "a/3", "b/x", "b/y", "b/x"]);
    let list = std::fs::read_to_string(material.out().join("duplicates.csv")).unwrap();
    assert!(list.contains("clip,a/1.mp4,a/2.mp4,a,a,3,3,0") && list.contains("b/x.png,b/z.png"), "{list}");
    // The groups of an unchanged dataset do not change.
    material.build(&Fake::default()).unwrap();
    assert_eq!(material.open().items.iter().map(|i| i.group.clone()).collect::<Vec<_>>(), groups);
}

#[test]
fn a_directory_that_cannot_be_written_is_an_output_error() {
    let material = Material::new(&[("a/1.mp4", "clip 1 1")]);
    std::fs::write(material.out(), "a file").unwrap();
    let error = material.build(&Fake::default()).unwrap_err();
    assert!(matches!(error, Error::Output { .. }), "{error}");
    std::fs::remove_file(material.out()).unwrap();
    std::fs::create_dir_all(material.out()).unwrap();
    let held = std::fs::File::create(material.out().join(".lock")).unwrap();
    held.lock().unwrap();
    let error = material.build(&Fake::default()).unwrap_err();
    assert!(error.to_string().contains("another build is writing it"), "{error}");
    drop(held);
    // A folder has the name of a shard. Writing fails, as on a full disk, and the recording is not skipped.
    material.build(&Fake::default()).unwrap();
    let shard = material.out().join("shards").join(material.open().items[0].shard.clone().unwrap());
    std::fs::remove_file(&shard).unwrap();
    std::fs::create_dir(&shard).unwrap();
    let error = material.build(&Fake::default()).unwrap_err();
    assert!(matches!(error, Error::Output { .. }) && error.to_string().contains("continues"), "{error}");
}
