//! The program: parses the command line, runs it, and turns an error into one line and an exit code.

mod cli;

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::Parser;
use cli::{AllocatorProfile, LogFormat};

use touchline_core::markup::is_harmless;
use touchline_core::redact::{print_error, print_error_line};
use tracing_subscriber::EnvFilter;

/// How many threads the matrix products use.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Allocator settings for training: keep freed memory. A step frees and allocates hundreds of megabytes in pieces of several
/// megabytes; returning each to the system and faulting it in again took most of the time of a step (rows are made six times as
/// fast with these settings, measured on two cores under a hypervisor).
const KEEP_MEMORY: [(&str, &str); 3] = [
    // The maximum: 32 MiB.
    ("MALLOC_MMAP_THRESHOLD_", "33554432"),
    ("MALLOC_TRIM_THRESHOLD_", "4294967296"),
    ("MALLOC_TOP_PAD_", "67108864"),
];

/// Allocator settings for watching: few heaps. A source that is opened again has new threads, each of which would get a heap of
/// its own that segments and pictures leave full of holes: two streams that reconnected every few seconds for five minutes
/// took the process from 189 to 206 MB, and with two heaps it stayed at 155. It costs 2 to 3 % of the time of decoding.
const FEW_HEAPS: [(&str, &str); 1] = [("MALLOC_ARENA_MAX", "2")];

/// The variables that name a proxy for the web.
const PROXIES: [&str; 6] = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Value of `no_proxy` when a proxy is set: GStreamer's clients reach a source through this program, on this machine.
fn no_proxy() -> Option<String> {
    const SELF: &str = "127.0.0.1,localhost,::1";
    PROXIES.iter().find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()))?;
    let known = std::env::var("no_proxy").or_else(|_| std::env::var("NO_PROXY")).unwrap_or_default();
    let is_listed = known.split(',').any(|host| matches!(host.trim(), "127.0.0.1" | "*"));
    match known.trim_end_matches(',') {
        _ if is_listed => None,
        "" => Some(SELF.to_owned()),
        known => Some(format!("{known},{SELF}")),
    }
}

/// Runs the program again with the number of threads in its environment, if it is not there, and with `allocator`'s settings.
///
/// The tensor library reads the number at every matrix product, and without the variable it reads the processor list
/// from the system each time: a third of MobileNetV2's time. A process cannot set its own environment safely; its
/// successor under the same process id gets it from the start.
fn with_environment(allocator: &[(&'static str, &'static str)]) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let mut wanted = vec![(THREADS, threads.as_str())];
    wanted.extend(allocator);
    // Values that the user set take precedence.
    wanted.retain(|(name, _)| std::env::var_os(name).is_none());
    let no_proxy = no_proxy();
    wanted.extend(no_proxy.iter().map(|hosts| ("no_proxy", hosts.as_str())));
    if wanted.is_empty() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_else(|| OsStr::new("touchline").to_owned());
        // It returns only when it failed; the program then runs as it is, slower.
        let _ = Command::new(program).arg0(name).args(arguments).envs(wanted).exec();
    }
}

/// Shows help, or what is wrong with an argument, without characters that hide what the argument contains.
fn refused(error: &clap::Error) -> ! {
    let is_shown = |c: char| c == '\n' || is_harmless(c);
    let text = error.to_string();
    if text.chars().all(is_shown) {
        error.exit()
    }
    print_error(&text.chars().map(|c| if is_shown(c) { c } else { char::REPLACEMENT_CHARACTER }).collect::<String>());
    std::process::exit(error.exit_code())
}

fn main() -> ExitCode {
    // A source of your own is registered here, with `touchline_media::registry::register`. A source's process also runs this.
    let cli = crate::cli::Cli::try_parse().unwrap_or_else(|e| refused(&e));
    with_environment(match cli.memory() {
        AllocatorProfile::Default => &[],
        AllocatorProfile::Keep => &KEEP_MEMORY,
        AllocatorProfile::TwoArenas => &FEW_HEAPS,
    });
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("touchline=info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| touchline_core::redact::Stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false);
    match cli.log_format {
        _ if cli.logs_to_program() => log.without_time().init(),
        LogFormat::Text => log.init(),
        // The target tells the audit log from the rest.
        LogFormat::Json => log.json().flatten_event(true).with_target(true).with_ansi(false).init(),
    }
    match cli.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            print_error_line(format_args!("touchline: {}", touchline_core::redact::text(&e.to_string())));
            ExitCode::from(e.exit_code())
        }
    }
}
