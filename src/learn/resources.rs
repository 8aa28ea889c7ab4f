//! What the process uses while it trains: processor, memory, disk, GPU.
//!
//! Read from `/proc/self` (Linux; elsewhere the figures are 0) and, where it is there, from `nvidia-smi`. A figure that
//! cannot be had is 0 or `None`: it never ends a training.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::record::ResourceSample;

/// Ticks of `/proc/self/stat` in a second: USER_HZ, which is 100 on every architecture that Rust runs on under Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A driver that hangs must not hold the training up for longer.
const GPU_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Between two looks at whether `nvidia-smi` has ended.
const GPU_POLL: Duration = Duration::from_millis(5);

/// Samples what this process uses. One a run.
#[derive(Debug)]
pub struct Resources {
    began: Instant,
    last: Counters,
    gpu: bool,
}

/// Counters since the process began (`images` since the run began), and when they were read.
#[derive(Clone, Copy, Debug)]
struct Counters {
    at: Instant,
    cpu_s: f64,
    read: u64,
    written: u64,
    images: u64,
}

impl Resources {
    /// Begins counting. Looks once whether there is a GPU to ask.
    pub fn start() -> Self {
        let began = Instant::now();
        Self { began, last: Counters::now(0), gpu: ask_gpu().is_some() }
    }

    /// What was used since the sample before (or the start). `images` counts those trained on since the start.
    ///
    /// Takes a few tens of milliseconds where there is a GPU: sample every few seconds, not every step.
    pub fn sample(&mut self, images: u64) -> ResourceSample {
        let now = Counters::now(images);
        let last = std::mem::replace(&mut self.last, now);
        let seconds = now.at.duration_since(last.at).as_secs_f64().max(1e-3);
        let gpu = if self.gpu { ask_gpu() } else { None };
        // One that stopped answering is not asked again: each try may cost seconds.
        self.gpu = gpu.is_some();
        ResourceSample {
            at_s: now.at.duration_since(self.began).as_secs_f64(),
            cpu_cores: (now.cpu_s - last.cpu_s).max(0.0) / seconds,
            memory_bytes: memory_bytes(),
            gpu_utilisation: gpu.map(|g| g.utilisation),
            gpu_memory_bytes: gpu.map(|g| g.memory_bytes),
            read_bytes_per_second: now.read.saturating_sub(last.read) as f64 / seconds,
            written_bytes_per_second: now.written.saturating_sub(last.written) as f64 / seconds,
            images_per_second: now.images.saturating_sub(last.images) as f64 / seconds,
        }
    }
}

impl Counters {
    fn now(images: u64) -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        Self {
            at: Instant::now(),
            cpu_s: cpu_seconds(&stat).unwrap_or(0.0),
            read: keyed(&io, "read_bytes:").unwrap_or(0),
            written: keyed(&io, "write_bytes:").unwrap_or(0),
            images,
        }
    }
}

/// User and system time of all threads, from the text of `/proc/self/stat`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the name in brackets, and may itself have spaces and brackets.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

/// Resident memory.
fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    keyed(&status, "VmRSS:").unwrap_or(0).saturating_mul(1024)
}

/// The first number of the line that begins with `key`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_ascii_whitespace().next()?.parse().ok()
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Gpu {
    /// 0 to 1.
    utilisation: f64,
    memory_bytes: u64,
}

/// The first GPU, as `nvidia-smi` tells: of all processes on it.
fn ask_gpu() -> Option<Gpu> {
    let child = Command::new("nvidia-smi")
        .args(["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    gpu_from(&answer(child)?)
}

/// What a program that prints a few lines said, if it ended well and in time.
fn answer(mut child: Child) -> Option<String> {
    let began = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(None) if began.elapsed() < GPU_ANSWERS_WITHIN => std::thread::sleep(GPU_POLL),
            Ok(ended) => break ended,
            Err(_) => break None,
        }
    };
    if ended.is_none() {
        // Best effort: one that cannot be ended is left to the system.
        let _ = child.kill();
    }
    ended.filter(|status| status.success())?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stdout?, &mut text).ok()?;
    Some(text)
}

/// From lines such as `37, 2048` (percent, MiB).
fn gpu_from(text: &str) -> Option<Gpu> {
    let (percent, mebibytes) = text.lines().next()?.split_once(',')?;
    let percent: f64 = percent.trim().parse().ok()?;
    let mebibytes: u64 = mebibytes.trim().parse().ok()?;
    Some(Gpu { utilisation: (percent / 100.0).clamp(0.0, 1.0), memory_bytes: mebibytes.saturating_mul(1 << 20) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_the_system_are_understood() {
        let stat = "4242 (a (b) c) R 1 2 3 4 5 6 7 8 9 10 1234 66 0 0 20 0 9";
        assert_eq!(cpu_seconds(stat), Some(13.0));
        assert_eq!((cpu_seconds(""), cpu_seconds("1 (x) R 1")), (None, None));
        assert_eq!(keyed("Name: x\nVmRSS:\t  2048 kB\n", "VmRSS:"), Some(2048));
        assert_eq!((keyed("VmRSS: many", "VmRSS:"), keyed("", "a:")), (None, None));
        assert_eq!(gpu_from("37, 2048\n99, 1\n"), Some(Gpu { utilisation: 0.37, memory_bytes: 2 << 30 }));
        for bad in ["", "No devices were found", "[N/A], [N/A]", "1"] {
            assert_eq!(gpu_from(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_program_that_fails_says_nothing() {
        let run = |script: &str| {
            let child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
            answer(child)
        };
        assert_eq!(run("echo 1, 2").as_deref(), Some("1, 2\n"));
        assert_eq!(run("echo 1, 2; exit 9"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_busy_process_uses_a_core_and_memory() {
        let mut resources = Resources::start();
        let held = std::hint::black_box(vec![1_u8; 32 << 20]);
        let mut sum = 0_u64;
        while resources.began.elapsed() < Duration::from_millis(300) {
            sum = std::hint::black_box(held.iter().map(|b| u64::from(*b)).sum::<u64>().wrapping_add(sum));
        }
        let sample = resources.sample(600);
        assert!(sample.cpu_cores > 0.05, "{sample:?} {sum}");
        assert!(sample.memory_bytes > 32 << 20, "{sample:?}");
        assert!(
            sample.at_s >= 0.3 && sample.images_per_second > 0.0 && sample.images_per_second <= 2000.0,
            "{sample:?}"
        );
        assert_eq!(resources.sample(600).images_per_second, 0.0, "only what is new counts");
    }
}
