//! `touchline wav`: the sound of a recording as a file, the same as FFmpeg decodes.

use std::process::Output;

use crate::common::Fixtures;
use crate::common::program::{self, touchline};

fn wav(arguments: &[&str]) -> Output {
    program::finish(touchline().arg("wav").args(arguments))
}

/// Decodes a sound file to 16-bit samples of `form` (FFmpeg's options).
fn samples(fixtures: &Fixtures, path: &str, form: &str) -> Vec<i16> {
    let raw = fixtures.make("samples.raw", &format!("-i {path} -vn {form} -f s16le"));
    std::fs::read(raw).unwrap().chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect()
}

#[test]
fn the_sound_of_a_recording_is_written_unchanged() {
    let fixtures = Fixtures::new();
    let source = "-f lavfi -i testsrc2=size=64x48:rate=25:duration=3 -f lavfi -i \
                  aevalsrc=0.5*sin(880*PI*t)|0.25*sin(300*PI*t):s=44100:d=3";
    let clip = fixtures.make("clip.mkv", &format!("{source} -c:v libx264 -preset ultrafast -c:a flac -sample_fmt s16"));
    let (clip, out) = (clip.to_str().unwrap(), fixtures.path().join("out.wav"));
    let out = out.to_str().unwrap();
    let done = wav(&[clip, "-o", out]);
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && printed.contains("3.000 s, 44100 Hz, 2 channels"), "{printed}");
    let (expected, written) = (samples(&fixtures, clip, ""), samples(&fixtures, out, ""));
    assert_eq!(written.len(), 2 * 3 * 44_100);
    assert!(written == expected, "the samples are those of the recording");

    // The first second, in floating point.
    assert!(wav(&[clip, "-o", out, "--format", "f32", "--seconds", "1"]).status.success());
    assert!(samples(&fixtures, out, "") == expected[..2 * 44_100], "the first second");

    // Mono at the rate of the model, in whole seconds.
    let done = wav(&[clip, "-o", out, "--model-input"]);
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && printed.contains("3.000 s, 32000 Hz, 1 channel"), "{printed}");
    let (heard, resampled) = (samples(&fixtures, out, ""), samples(&fixtures, clip, "-ac 1 -ar 32000"));
    let apart = |from: usize| -> f64 {
        let pairs = heard[from..from + 32_000].iter().zip(&resampled[from..]);
        pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / 32_000.0
    };
    assert!(apart(32_000) < 40.0, "{}", apart(32_000));
}

#[test]
fn a_hole_in_the_sound_is_silence() {
    let fixtures = Fixtures::new();
    let source = "-f lavfi -i sine=frequency=440:sample_rate=48000:duration=4 -af aselect=not(between(t\\,1\\,2)) -c:a pcm_s16le";
    let clip = fixtures.make("hole.mkv", source);
    let out = fixtures.path().join("out.wav");
    let done = wav(&[clip.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let written = samples(&fixtures, out.to_str().unwrap(), "");
    assert!(written.len().abs_diff(4 * 48_000) < 2400, "{}", written.len());
    assert!(written[60_000..90_000].iter().all(|sample| *sample == 0), "the hole is silent");
    assert!(written[100_000..101_000].iter().any(|sample| sample.abs() > 1000), "sound follows it");
}

#[test]
fn sources_without_sound_and_unwritable_files_are_errors_of_one_line() {
    let fixtures = Fixtures::new();
    let silent = fixtures.make("silent.mp4", "-f lavfi -i testsrc2=size=64x48:rate=25:duration=1 -c:v libx264 -an");
    let clip = fixtures.clip("clip.mp4", 1);
    let (silent, clip) = (silent.to_str().unwrap(), clip.to_str().unwrap());
    let out = fixtures.path().join("out.wav");
    let out = out.to_str().unwrap();
    for (arguments, code, word) in [
        ([silent, "-o", out], 3, "audio"),
        ([clip, "-o", "/proc/out.wav"], 5, "/proc/out.wav"),
        (["/nowhere.mp4", "-o", out], 3, "/nowhere.mp4"),
    ] {
        let refused = wav(&arguments);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(code) && error.contains(word), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert!(!std::path::Path::new(out).exists(), "nothing was written");
}
