//! The files of the servers in these tests, made once with ffmpeg and kept in memory. Names are those of the field material.
//!
//! Every picture encodes its programme and its second, so that the tests detect seconds that are missing, repeated or of another
//! programme.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use touchline_core::frame::Frame;

use crate::common::{Fixtures, ffmpeg};

/// A programme and a second of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark(pub u8, pub u8);

impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = ["?", "base", "big", "wide", "long"].get(usize::from(self.0)).unwrap_or(&"?");
        write!(f, "{name}:{}", self.1)
    }
}

pub const BASE: u8 = 1;
pub const BIG: u8 = 2;
pub const WIDE: u8 = 3;
pub const LONG: u8 = 4;

/// The length of [`LONG`] in seconds, a multiple of the segment length of two.
pub const LONG_S: u8 = 90;

/// The bands of a picture from left to right: darkest, lightest, programme, tens, ones.
const BANDS: usize = 5;

/// The size of the picture that is scaled up. Its upper part has the bands, its lower part noise.
const SMALL: (usize, usize) = (50, 12);
const NOISE_FROM: usize = 10;

fn pictures(programme: u8, seconds: u8) -> Vec<u8> {
    let mut random = u32::from(programme);
    let mut all = Vec::new();
    for n in 0..u32::from(seconds) * 25 {
        let second = n / 25;
        let digits = [0, 9, u32::from(programme), second / 10, second % 10];
        for row in 0..SMALL.1 {
            for column in 0..SMALL.0 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let level = 30 + 20 * digits[column * BANDS / SMALL.0];
                all.push(if row < NOISE_FROM { level as u8 } else { (random >> 24) as u8 });
            }
        }
    }
    all
}

/// The mark of a picture, [`None`] when it is unreadable.
pub fn read(frame: &Frame) -> Option<Mark> {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let level = |band: usize| {
        let (x, y) = (width * (2 * band + 1) / (2 * BANDS), height * 4 / SMALL.1);
        frame.data.get((y * width + x) * 3 + 1).map(|v| i32::from(*v))
    };
    let (dark, light) = (level(0)?, level(1)?);
    if light - dark < 90 {
        return None;
    }
    let digit = |band: usize| Some(((level(band)? - dark) * 9 + (light - dark) / 2).div_euclid(light - dark) as u8);
    Some(Mark(digit(2)?, digit(3)? * 10 + digit(4)?))
}

pub type Files = BTreeMap<String, Arc<[u8]>>;

/// All files by path.
pub fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let dir = Fixtures::new();
        make(dir.path());
        let mut files = Files::new();
        gather(dir.path(), "", &mut files);
        files
    })
}

/// The file with this name.
pub fn file(name: &str) -> Arc<[u8]> {
    files().get(name).unwrap_or_else(|| panic!("{name} is part of the material")).clone()
}

fn gather(dir: &Path, prefix: &str, files: &mut Files) {
    for entry in std::fs::read_dir(dir).expect("a folder that was just made").flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            gather(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(entry.path()).expect("a file that was just made").into());
        }
    }
}

/// Writes the material into `dir`, in the layout of the field's script.
fn make(dir: &Path) {
    let at = |name: &str| dir.join(name).display().to_string();
    for folder in
        ["ts", "tsbig", "tswide", "f4", "f4wide", "br", "brts", "epoch", "wrap", "av/v", "av/a", "cm/v", "cm/a"]
    {
        std::fs::create_dir_all(dir.join(folder)).expect("a temporary folder");
    }
    for folder in ["aac", "mp3", "ac3", "lts", "lf4", "one", "onef", "la/v", "la/a", "parts"] {
        std::fs::create_dir_all(dir.join(folder)).expect("a temporary folder");
    }
    for (name, programme, seconds, size, hz) in [
        ("base", BASE, 12, "320:240", 48_000),
        ("big", BIG, 12, "640:480", 48_000),
        ("wide", WIDE, 12, "640:360", 44_100),
        ("long", LONG, LONG_S, "320:240", 48_000),
    ] {
        let raw = at("raw.gray");
        std::fs::write(&raw, pictures(programme, seconds)).expect("the temporary folder is writable");
        ffmpeg(
            &format!(
                "-f rawvideo -pix_fmt gray -s {}x{} -r 25 -i {raw} -f lavfi -i sine=f={}:r={hz}:d={seconds} \
                 -vf scale={size}:flags=neighbor,format=yuv420p -c:v libx264 -preset ultrafast -g {gop} -keyint_min {gop} \
                 -sc_threshold 0 -bf 0 -c:a aac -b:a 64k -threads 1",
                SMALL.0,
                SMALL.1,
                300 * u32::from(programme),
                gop = if programme == LONG { 25 } else { 50 },
            ),
            Path::new(&at(&format!("{name}.mp4"))),
        );
    }
    // One call of ffmpeg writes several outputs. These closures give the options of each output and its playlist.
    let hls = |options: &str, folder: &str| {
        format!("{options} -c copy -f hls -hls_time 2 -hls_list_size 0 -hls_segment_filename {}", at(folder))
    };
    let ts = |options: &str, folder: &str| {
        format!("{}/s%d.ts {} ", hls(options, folder), at(&format!("{folder}/index.m3u8")))
    };
    let fmp4 = |options: &str, folder: &str| {
        let more = "-hls_segment_type fmp4 -hls_fmp4_init_filename init.mp4";
        format!("{}/s%d.m4s {more} {} ", hls(options, folder), at(&format!("{folder}/index.m3u8")))
    };
    let single = |folder: &str, name: &str, more: &str| {
        format!("{}/{name} -hls_flags single_file {more} {} ", hls("", folder), at(&format!("{folder}/index.m3u8")))
    };
    let packed = |folder: &str, codec: &str, format: &str, more: &str| {
        format!("-vn {codec} -f segment -segment_time 2 -segment_format {format} {more} {}/s%d.{folder} ", at(folder))
    };
    let mut base = String::new();
    base += &ts("", "ts");
    base += &fmp4("", "f4");
    base += &single("br", "all.m4s", "-hls_segment_type fmp4 -hls_fmp4_init_filename init.mp4");
    base += &single("brts", "all.ts", "");
    base += &ts("-output_ts_offset 95437", "wrap");
    base += &fmp4("-output_ts_offset 1795000000 -hls_segment_options movflags=+frag_discont", "epoch");
    base += &ts("-map 0:v", "av/v");
    base += &ts("-map 0:a", "av/a");
    base += &fmp4("-map 0:v", "cm/v");
    base += &fmp4("-map 0:a", "cm/a");
    base += &packed("aac", "-c:a copy", "adts", "");
    base += &packed("mp3", "-c:a libmp3lame", "mp3", "-segment_format_options write_xing=0:id3v2_version=0");
    base += &packed("ac3", "-c:a ac3", "ac3", "");
    let mut big = ts("", "tsbig");
    let mut wide = ts("", "tswide") + &fmp4("", "f4wide");
    let short = |output: String| output.replace("-hls_time 2", "-hls_time 1");
    let mut long = short(ts("", "one") + &fmp4("", "onef"));
    long += &(ts("", "lts") + &fmp4("", "lf4") + &ts("-map 0:v", "la/v") + &ts("-map 0:a", "la/a"));
    // Ten pictures per part, five parts per segment.
    let _ = write!(
        long,
        "-map 0:v -c copy -f mp4 -movflags empty_moov+default_base_moof -frag_duration 400000 {} ",
        at("parts/all.mp4")
    );
    for (name, outputs) in [("base", &mut base), ("big", &mut big), ("wide", &mut wide), ("long", &mut long)] {
        // The last word is the output, which the helper takes separately.
        let (arguments, last) = outputs.trim_end().rsplit_once(' ').expect("there are several words");
        ffmpeg(&format!("-i {} {arguments}", at(&format!("{name}.mp4"))), Path::new(last));
    }
    std::fs::remove_file(dir.join("raw.gray")).expect("it was just written");
}

/// The initialisation section of `parts/all.mp4` and its fragments.
pub fn parts() -> (Arc<[u8]>, Vec<Arc<[u8]>>) {
    let all = file("parts/all.mp4");
    let (mut at, mut starts) = (0, Vec::new());
    while at + 8 <= all.len() {
        let size = u32::from_be_bytes([all[at], all[at + 1], all[at + 2], all[at + 3]]) as usize;
        match &all[at + 4..at + 8] {
            b"moof" => starts.push(at),
            b"mfra" => break,
            _ => {}
        }
        at += size.max(8);
    }
    let ends = starts.iter().skip(1).copied().chain([at]);
    let fragments = starts.iter().zip(ends).map(|(from, to)| all[*from..to].into()).collect();
    (all[..starts[0]].into(), fragments)
}

/// An ID3 tag with the time of packed sound, 90 kHz.
pub fn id3(time_90k: u64) -> Vec<u8> {
    let size = |n: usize| [(n >> 21) as u8 & 127, (n >> 14) as u8 & 127, (n >> 7) as u8 & 127, n as u8 & 127];
    let mut body = b"com.apple.streaming.transportStreamTimestamp\0".to_vec();
    body.extend(time_90k.to_be_bytes());
    let mut tag = b"ID3\x04\0\0".to_vec();
    tag.extend(size(body.len() + 10));
    tag.extend(b"PRIV");
    tag.extend(size(body.len()));
    tag.extend([0, 0]);
    tag.extend(body);
    tag
}
