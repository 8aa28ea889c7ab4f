//! What is on the pictures and in the sound of a file, as FFmpeg decodes them.
#![allow(dead_code)] // Each test binary uses a part of it.

use std::path::Path;
use std::process::Command;

/// The values that a filter attaches to each frame, with its time in seconds.
fn measured(graph: &str, tag: &str) -> Vec<(f64, f64)> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-f", "lavfi", "-i", graph, "-of", "csv=p=0", "-show_entries"])
        .arg(format!("frame=pts_time:frame_tags={tag}"))
        .output()
        .expect("FFmpeg is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pair = |line: &str| {
        let (time, value) = line.split_once(',')?;
        // Silence has a level of minus infinity.
        Some((time.parse().ok()?, value.trim_end_matches(',').parse().unwrap_or(f64::NEG_INFINITY)))
    };
    let found: Vec<(f64, f64)> = text.lines().filter_map(pair).collect();
    assert!(!found.is_empty(), "{graph}: {}", String::from_utf8_lossy(&output.stderr));
    found
}

/// Times at which a value rises over `level`.
fn rises(values: &[(f64, f64)], level: f64) -> Vec<f64> {
    values.windows(2).filter(|pair| pair[0].1 <= level && pair[1].1 > level).map(|pair| pair[1].0).collect()
}

/// Times at which a half of the picture turns white, and at which a tone begins.
pub fn flashes_and_beeps(path: &Path) -> (Vec<f64>, Vec<f64>) {
    let path = path.display();
    let pictures = measured(&format!("movie={path},signalstats"), "lavfi.signalstats.YAVG");
    let sound = format!("amovie={path},aresample=48000,asetnsamples=240,astats=metadata=1:reset=1");
    let sound = measured(&sound, "lavfi.astats.Overall.RMS_level");
    (rises(&pictures, 80.0), rises(&sound, -20.0))
}

/// Makes pictures of `size` whose upper half turns white for a tenth of a second after each odd second, with a tone at the same time.
pub fn flash_and_beep(size: (u32, u32), seconds: u32) -> String {
    let (width, height) = size;
    format!(
        "-f lavfi -i color=black:s={width}x{height}:r=25:d={seconds},drawbox=x=0:y=0:w={width}:h={}:color=white:t=fill:\
         enable=lt(mod(t+1\\,2)\\,0.1) -f lavfi -i \
         aevalsrc=0.8*sin(2000*PI*t)*lt(mod(t+1\\,2)\\,0.1):s=48000:d={seconds}",
        height / 2
    )
}

/// The mean colour of a rectangle (x, y, width, height) of the picture that is shown at `seconds`.
pub fn colour(path: &Path, seconds: f64, (x, y, width, height): (u32, u32, u32, u32)) -> [u8; 3] {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(path)
        .args(["-ss", &seconds.to_string(), "-frames:v", "1", "-vf"])
        .arg(format!("crop={width}:{height}:{x}:{y}:exact=1"))
        .args(["-sws_flags", "accurate_rnd+full_chroma_int", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"])
        .output()
        .expect("FFmpeg is installed");
    let pixels = output.stdout;
    assert!(!pixels.is_empty(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    let mean = |of: usize| {
        let sum: usize = pixels.iter().skip(of).step_by(3).map(|value| usize::from(*value)).sum();
        u8::try_from(sum / (pixels.len() / 3)).expect("a mean of bytes")
    };
    [mean(0), mean(1), mean(2)]
}
