//! Resource profile of a training: processor, memory, disk and GPU.
//!
//! The figures come from `/proc/self` (Linux; 0 elsewhere) and, where it is installed, from `nvidia-smi`. A figure that cannot
//! be read is 0 or `None`. It never ends a training.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use touchline_core::clock::{Clock, SystemClock};

use super::record::ResourceSample;

/// Ticks per second in `/proc/self/stat`: USER_HZ, which is 100 on every Linux architecture that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Longest wait for `nvidia-smi`. A driver that hangs must not delay the training further.
const GPU_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval between checks whether `nvidia-smi` has exited.
const GPU_POLL: Duration = Duration::from_millis(5);

/// Samples the resources of this process. Each run has one.
#[derive(Debug)]
pub struct Resources {
    /// Starts at 0 with the run.
    clock: SystemClock,
    last: ProcessCounters,
    gpu: bool,
}

/// Counters since the start of the process (`images`: since the start of the run), and the time of reading.
#[derive(Clone, Copy, Debug)]
struct ProcessCounters {
    at_ns: u64,
    cpu_s: f64,
    read: u64,
    written: u64,
    images: u64,
}

impl Resources {
    /// Starts counting. Checks once whether `nvidia-smi` reports a GPU.
    pub fn start() -> Self {
        let clock = SystemClock::new();
        let (last, gpu) = (ProcessCounters::now(&clock, 0), query_gpu(&clock).is_some());
        Self { clock, last, gpu }
    }

    /// Returns the resources used since the previous sample, or since the start. `images` is the number of samples trained on
    /// since the start.
    ///
    /// With a GPU a call takes some tens of milliseconds, so call it every few seconds, not every step.
    pub fn sample(&mut self, images: u64) -> ResourceSample {
        let now = ProcessCounters::now(&self.clock, images);
        let last = std::mem::replace(&mut self.last, now);
        let elapsed = seconds(now.at_ns - last.at_ns).max(1e-3);
        let gpu = if self.gpu { query_gpu(&self.clock) } else { None };
        // A GPU that stops answering is not queried again, because each attempt may take seconds.
        self.gpu = gpu.is_some();
        ResourceSample {
            at_s: seconds(now.at_ns),
            cpu_cores: (now.cpu_s - last.cpu_s).max(0.0) / elapsed,
            memory_bytes: memory_bytes(),
            gpu_utilisation: gpu.map(|g| g.utilisation),
            gpu_memory_bytes: gpu.map(|g| g.memory_bytes),
            read_bytes_per_second: now.read.saturating_sub(last.read) as f64 / elapsed,
            written_bytes_per_second: now.written.saturating_sub(last.written) as f64 / elapsed,
            images_per_second: now.images.saturating_sub(last.images) as f64 / elapsed,
        }
    }
}

impl ProcessCounters {
    fn now(clock: &dyn Clock, images: u64) -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        Self {
            at_ns: clock.mono_ns(),
            cpu_s: cpu_seconds(&stat).unwrap_or(0.0),
            read: keyed(&io, "read_bytes:").unwrap_or(0),
            written: keyed(&io, "write_bytes:").unwrap_or(0),
            images,
        }
    }
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

/// Returns user plus system time of all threads, seconds, from the text of `/proc/self/stat`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the name in brackets, which may itself contain spaces and brackets.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

/// Returns the resident memory.
fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    keyed(&status, "VmRSS:").unwrap_or(0).saturating_mul(1024)
}

/// Returns the first number of the line that begins with `key`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_ascii_whitespace().next()?.parse().ok()
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Gpu {
    /// 0 to 1.
    utilisation: f64,
    memory_bytes: u64,
}

/// Returns the figures of `nvidia-smi` for the first GPU. It includes all processes on the GPU.
fn query_gpu(clock: &dyn Clock) -> Option<Gpu> {
    let child = Command::new("nvidia-smi")
        .args(["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    parse_gpu(&output_of(child, clock)?)
}

/// Returns the output of a program that prints a few lines; `None` when it fails or exceeds [`GPU_TIMEOUT`].
fn output_of(mut child: Child, clock: &dyn Clock) -> Option<String> {
    let polls = GPU_TIMEOUT.div_duration_f32(GPU_POLL) as u32;
    let ended = (0..polls).find_map(|_| match child.try_wait() {
        Ok(None) => {
            clock.sleep(GPU_POLL);
            None
        }
        // An error ends the wait as well.
        ended => Some(ended.ok().flatten()),
    });
    let ended = ended.flatten();
    if ended.is_none() {
        // Best effort. A process that cannot be killed is left to the system.
        let _ = child.kill();
    }
    ended.filter(|status| status.success())?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stdout?, &mut text).ok()?;
    Some(text)
}

/// Parses the first line of `nvidia-smi`, such as `37, 2048` (percent, MiB).
fn parse_gpu(text: &str) -> Option<Gpu> {
    let (percent, mebibytes) = text.lines().next()?.split_once(',')?;
    let percent: f64 = percent.trim().parse().ok()?;
    let mebibytes: u64 = mebibytes.trim().parse().ok()?;
    Some(Gpu { utilisation: (percent / 100.0).clamp(0.0, 1.0), memory_bytes: mebibytes.saturating_mul(1 << 20) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_the_system_are_parsed() {
        let stat = "4242 (a (b) c) R 1 2 3 4 5 6 7 8 9 10 1234 66 0 0 20 0 9";
        assert_eq!(cpu_seconds(stat), Some(13.0));
        assert_eq!((cpu_seconds(""), cpu_seconds("1 (x) R 1")), (None, None));
        assert_eq!(keyed("Name: x\nVmRSS:\t  2048 kB\n", "VmRSS:"), Some(2048));
        assert_eq!((keyed("VmRSS: many", "VmRSS:"), keyed("", "a:")), (None, None));
        assert_eq!(parse_gpu("37, 2048\n99, 1\n"), Some(Gpu { utilisation: 0.37, memory_bytes: 2 << 30 }));
        for bad in ["", "No devices were found", "[N/A], [N/A]", "1"] {
            assert_eq!(parse_gpu(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_program_that_fails_has_no_output() {
        let run = |script: &str| {
            let child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
            output_of(child, &SystemClock::new())
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
        while resources.clock.mono_ns() < 300_000_000 {
            sum = std::hint::black_box(held.iter().map(|b| u64::from(*b)).sum::<u64>().wrapping_add(sum));
        }
        let sample = resources.sample(600);
        assert!(sample.cpu_cores > 0.05, "{sample:?} {sum}");
        assert!(sample.memory_bytes > 32 << 20, "{sample:?}");
        assert!(
            sample.at_s >= 0.3 && sample.images_per_second > 0.0 && sample.images_per_second <= 2000.0,
            "{sample:?}"
        );
        assert_eq!(resources.sample(600).images_per_second, 0.0, "only new samples count");
    }
}
