//! The HLS client: the delay of a second behind the live edge when it is ready for a decision, and the cost of one
//! stream.
//!
//! ```text
//! cargo bench --bench hls                       the same channel as plain HLS and in low latency, side by side
//! cargo bench --bench hls -- watch URL SECONDS  one stream: processor time and peak memory of the process
//! ```
//!
//! ffmpeg makes the channel, and every picture contains the number of its second. The server publishes each segment or
//! part at the moment when an encoder would have finished it, and delays blocking reloads until then.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/media/hls/material.rs"]
#[allow(dead_code)]
mod material;
#[path = "../tests/media/hls/server.rs"]
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, ClipSecond, LagLimits, PlanSelector, SamplingPlan};
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::item::MEDIA_CHANNEL_CAPACITY;
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};

use server::{Answer, Serve, Server};

/// Age of the channel when the client joins it, seconds.
const JOINED_S: f64 = 16.0;

/// Time for which the client watches the channel.
const WATCHED: Duration = Duration::from_secs(45);

const PART_S: f64 = 0.4;
const PARTS: usize = 5;
const SEGMENT_S: f64 = 2.0;

fn main() {
    let mut args = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match args.next().as_deref() {
        Some("watch") => {
            let (Some(url), Some(seconds)) = (args.next(), args.next().and_then(|s| s.parse().ok())) else {
                eprintln!("give URL and SECONDS");
                std::process::exit(2);
            };
            cost(&url, Duration::from_secs(seconds));
        }
        _ => edges(),
    }
}

/// Watches `url` and calls `on_second` for each second. Returns the number of gaps.
fn watch(url: &str, duration: Duration, mut on_second: impl FnMut(&ClipSecond)) -> usize {
    let plan = SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000, signal_frames: 0 };
    let options =
        GstOptions { frame_height: 288, selection: Some(PlanSelector::selection(&plan)), ..GstOptions::default() };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (to, from) = crossbeam_channel::bounded(MEDIA_CHANNEL_CAPACITY);
    let source = GstOpener::new(options, clock).expect("GStreamer starts").open(url, to).expect("the source opens");
    let lag = LagLimits::for_pace(source.pace());
    let mut builder = ClipBuilder::new(ClipConfig { sample_rate: Some(32_000), plan, lag, behind_ns: 0 });
    let (until, mut out, mut gaps) = (Instant::now() + duration, Vec::new(), 0);
    while let Ok(item) = from.recv_deadline(until) {
        builder.push(item, &mut out);
        for output in out.drain(..) {
            match output {
                ClipOutput::Second(second) => on_second(&second),
                ClipOutput::Gap(_) => gaps += 1,
                _ => {}
            }
        }
    }
    gaps
}

fn cost(url: &str, duration: Duration) {
    let mut decided = 0;
    let gaps = watch(url, duration, |_| decided += 1);
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    println!("{decided} seconds, {gaps} gaps, {:.2} s of processor, at most {}", ticks as f64 / 100.0, peak.trim());
    // Exit before the source is torn down, so that this takes no time.
    std::process::exit(0);
}

/// Starts the channel: with parts and blocking reloads, or with segments only.
fn channel(in_parts: bool) -> (Serve, Instant) {
    let (init, fragments) = material::parts();
    let began = Instant::now() - Duration::from_secs_f64(JOINED_S);
    let published = move || (began.elapsed().as_secs_f64() / PART_S) as usize;
    let serve = move |request: &server::Request| {
        let name = request.path();
        if name == "init.mp4" {
            return Answer::bytes(init.clone());
        }
        if let Some(name) = name.strip_suffix(".m4s") {
            let number = |text: &str| text.parse::<usize>().unwrap_or(usize::MAX / PARTS);
            let (from, to) = match name.strip_prefix('p') {
                Some(part) => (number(part), number(part) + 1),
                None => (number(&name[1..]) * PARTS, number(&name[1..]) * PARTS + PARTS),
            };
            return fragments.get(from..to).map_or(Answer::status(404), |parts| Answer::bytes(parts.concat()));
        }
        let number = |key: &str| request.query(key).and_then(|n| n.parse::<usize>().ok());
        if let Some(wanted) = number("_HLS_msn").map(|n| n * PARTS + number("_HLS_part").unwrap_or(PARTS - 1) + 1) {
            let wait = (wanted as f64 * PART_S - began.elapsed().as_secs_f64()).clamp(0.0, 6.0);
            std::thread::sleep(Duration::from_secs_f64(wait));
        }
        let published = published();
        let (whole, rest) = (published / PARTS, published % PARTS);
        let from = whole.saturating_sub(6);
        let mut text = format!("#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{from}\n");
        if in_parts {
            text += "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.2\n#EXT-X-PART-INF:PART-TARGET=0.4\n";
        }
        text += "#EXT-X-MAP:URI=\"init.mp4\"\n";
        let parts = |n: usize, count: usize| {
            let part = |k| format!("#EXT-X-PART:DURATION=0.4,URI=\"p{}.m4s\"\n", n * PARTS + k);
            if in_parts { (0..count).map(part).collect::<String>() } else { String::new() }
        };
        for n in from..whole {
            text += &if n + 3 > whole { parts(n, PARTS) } else { String::new() };
            text += &format!("#EXTINF:2.0,\nw{n}.m4s\n");
        }
        Answer::list(text + &parts(whole, rest))
    };
    (Arc::new(serve), began)
}

/// Delays of each second when it is cut: behind its end at the encoder, and behind the publication of its last piece by
/// the server.
fn edge(in_parts: bool) -> (Vec<f64>, Vec<f64>) {
    let (serve, began) = channel(in_parts);
    let server = Server::start(serve);
    let (mut behind_encoder, mut behind_server) = (Vec::new(), Vec::new());
    let gaps = watch(&server.url("x.m3u8"), WATCHED, |second| {
        let now_s = began.elapsed().as_secs_f64();
        let Some(mark) = second.frames.get(second.frames.len() / 2).and_then(material::read) else { return };
        let end_s = f64::from(mark.1) + 1.0;
        let piece_s = if in_parts { PART_S } else { SEGMENT_S };
        behind_encoder.push(now_s - end_s);
        behind_server.push(now_s - (end_s / piece_s - 1e-6).ceil() * piece_s);
    });
    assert_eq!(gaps, 0, "a channel without faults has gaps");
    (behind_encoder, behind_server)
}

fn edges() {
    material::files();
    println!(
        "| channel | seconds | behind the encoder, s (median, greatest) | behind the server, s (median, greatest) |"
    );
    println!("|---|---|---|---|");
    let (plain, parts) = std::thread::scope(|scope| {
        let plain = scope.spawn(|| edge(false));
        let parts = scope.spawn(|| edge(true));
        (plain.join().expect("no panic"), parts.join().expect("no panic"))
    });
    for (name, (mut encoder, mut server)) in [("segments of 2 s", plain), ("parts of 0.4 s", parts)] {
        let format_delays = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            let last = values.last().copied().unwrap_or(f64::NAN);
            format!("{:.2}, {last:.2}", values.get(values.len() / 2).copied().unwrap_or(f64::NAN))
        };
        println!("| {name} | {} | {} | {} |", encoder.len(), format_delays(&mut encoder), format_delays(&mut server));
    }
}
