//! Labelled material for training, and the commands that train on it.
//!
//! The three classes differ in colour, motion and pitch. Each source has a static strip of its own at the bottom of its pictures,
//! so that a model can also memorise the sources.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::program::{self, touchline};
use super::reference::finalised;

/// In the order of a model's outputs.
pub const CLASSES: [&str; 3] = ["chess", "golf", "tennis"];

const WIDTH: u32 = 160;
const HEIGHT: u32 = 120;
const FRAMES_PER_SECOND: u32 = 25;

/// The length of a source's recording in seconds. Each half is an item of the dataset.
pub const SECONDS: u32 = 4;

/// The result of a command.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub error: String,
}

impl Ran {
    /// The standard output of a command, which must have succeeded.
    pub fn well(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.error);
        self.out
    }

    /// The last line of the error output. The command must have failed with `code`, and the line must contain all `words`.
    pub fn refused(&self, code: i32, words: &[&str]) -> String {
        assert_eq!(self.code, code, "{}", self.error);
        let message = self.error.trim_end().lines().last().unwrap_or_default().to_owned();
        assert!(!self.error.contains("panicked"), "{}", self.error);
        assert!(message.starts_with("touchline: "), "{}", self.error);
        for word in words {
            assert!(message.contains(word), "no {word:?} in: {message}");
        }
        message
    }
}

/// Runs the program in `dir`; `arguments` are split at spaces.
pub fn run(dir: &Path, arguments: &str) -> Ran {
    let output = program::finish(touchline().current_dir(dir).args(arguments.split_whitespace()));
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), error: text(output.stderr) }
}

/// Initial weights for tests: the MobileNetV2 for motion of the shipped pack. Its classifier has other classes.
pub fn first_weights() -> String {
    program::pack().join("flow.safetensors").display().to_string()
}

/// A hash of 32 bits, one to one.
pub fn mixed(value: u32) -> u32 {
    finalised(value.wrapping_mul(0x9E37_79B1))
}

/// Smooth noise from 0 to 1, on a grid of `size` pixels.
fn noise(seed: u32, x: f32, y: f32, size: f32) -> f32 {
    let (x, y) = (x / size, y / size);
    let (left, top) = (x.floor(), y.floor());
    let at = |dx: f32, dy: f32| {
        let (i, j) = ((left + dx) as i32 as u32, (top + dy) as i32 as u32);
        mixed(seed ^ mixed(i.wrapping_mul(0x1F1F) ^ mixed(j))) as f32 / u32::MAX as f32
    };
    let (fx, fy) = (x - left, y - top);
    let across = |dy| at(0.0, dy) * (1.0 - fx) + at(1.0, dy) * fx;
    across(0.0) * (1.0 - fy) + across(1.0) * fy
}

/// Frame `time` of a source: a moving pattern in the colour of the class, above the strip of the source.
fn picture(class: usize, source: u32, time: u32) -> Vec<u8> {
    let colour = [[1.0, 0.45, 0.3], [0.3, 0.9, 0.4], [0.35, 0.5, 1.0f32]][class];
    // Horizontal, vertical, and almost none.
    let (dx, dy) = [(3.0, 0.0), (0.0, 3.0), (0.2, 0.2f32)][class];
    let moved = time as f32;
    let own = [10, 11, 12].map(|part| mixed(16 * source + part) as f32 / u32::MAX as f32);
    let mut pixels = Vec::with_capacity((3 * WIDTH * HEIGHT) as usize);
    for i in 0..WIDTH * HEIGHT {
        let strip = i / WIDTH >= HEIGHT * 6 / 10;
        let (colour, moved) = if strip { (own, 0.0) } else { (colour, moved) };
        let (x, y) = ((i % WIDTH) as f32 + dx * moved, (i / WIDTH) as f32 + dy * moved);
        let light = 40.0 + 140.0 * noise(2 * source, x, y, 24.0) + 70.0 * noise(2 * source + 1, x, y, 7.0);
        pixels.extend(colour.map(|c| (light * c) as u8));
    }
    pixels
}

/// A class and the number of a source of it.
pub type Source = (usize, u32);

/// The same number of sources for each class.
pub fn sources(of_each_class: u32) -> Vec<Source> {
    (0..3).flat_map(|class| (0..of_each_class).map(move |n| (class, n))).collect()
}

/// The file name of a source's recording.
pub fn clip_name((class, n): Source) -> String {
    format!("{class}-{n}.mp4")
}

/// Makes the recordings of `sources` in `dir`, each with a tone of the class's pitch.
pub fn make_clips(dir: &Path, sources: &[Source]) {
    std::fs::create_dir_all(dir).expect("the temporary folder is writable");
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    make_clip(dir, *source);
                }
            });
        }
    });
}

fn make_clip(dir: &Path, (class, n): Source) {
    let seed = 1000 * class as u32 + n;
    let frames: Vec<u8> = (0..SECONDS * FRAMES_PER_SECOND).flat_map(|time| picture(class, seed, time)).collect();
    let raw = dir.join(format!("{class}-{n}.raw"));
    std::fs::write(&raw, frames).expect("the temporary folder is writable");
    let pitch = [300, 1200, 5000][class] + 10 * (n % 7);
    let arguments = format!(
        "-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r {FRAMES_PER_SECOND} -i {} \
         -f lavfi -i sine=frequency={pitch}:sample_rate=32000:duration={SECONDS} \
         -c:v libx264 -preset ultrafast -qp 24 -pix_fmt yuv420p -g 25 -bf 0 -threads 1 -c:a aac -ac 1",
        raw.display()
    );
    super::ffmpeg(&arguments, &dir.join(clip_name((class, n))));
    std::fs::remove_file(raw).expect("it was just written");
}

/// Makes `n` stills of a class in the folder of `dir` with the name of the class.
pub fn make_stills(dir: &Path, class: usize, n: u32) {
    let folder = dir.join(CLASSES[class]);
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    for i in 0..n {
        let image = image::RgbImage::from_raw(WIDTH, HEIGHT, picture(class, 5000 + 1000 * class as u32 + i, 0));
        let image = image.expect("the bytes fill the picture");
        image.save(folder.join(format!("{i}.png"))).expect("the temporary folder is writable");
    }
}

/// Writes a CSV next to the recordings of `sources`, with two items per source. `class_of` maps the index of a source to its class.
pub fn write_csv(path: &Path, sources: &[Source], class_of: impl Fn(usize) -> usize) {
    let mut text = "path,class,source,start,end\n".to_owned();
    for (i, source) in sources.iter().enumerate() {
        for (start, end) in [(0, SECONDS / 2), (SECONDS / 2, SECONDS)] {
            let (name, class) = (clip_name(*source), CLASSES[class_of(i)]);
            writeln!(text, "{name},{class},{}-{},{start},{end}", source.0, source.1).expect("a string accepts writes");
        }
    }
    std::fs::write(path, text).expect("the temporary folder is writable");
}

/// Builds and splits a dataset in `DIR/stills` with `counts` stills of each class.
pub fn still_dataset(dir: &Path, counts: [u32; 3]) -> PathBuf {
    for (class, n) in counts.into_iter().enumerate().filter(|(_, n)| *n > 0) {
        make_stills(&dir.join("pictures"), class, n);
    }
    run(dir, "dataset build pictures -o stills").well();
    run(dir, "dataset split stills").well();
    dir.join("stills")
}

/// The lines of one kind in the log of a run, without fields that depend on the time.
pub fn log_lines(run: &Path, kind: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("log.jsonl")).expect("a run has a log");
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line of a log is JSON"));
    let mut lines: Vec<serde_json::Value> = lines.filter(|line: &serde_json::Value| line["kind"] == kind).collect();
    for line in &mut lines {
        let line = line.as_object_mut().expect("a line of a log is an object");
        for key in ["took_s", "images_per_second", "resumed_at"] {
            line.remove(key);
        }
    }
    lines
}
