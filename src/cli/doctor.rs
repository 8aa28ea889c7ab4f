//! `touchline doctor`: reports what the machine lacks, and how to install it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::paths::shown;
use touchline_compute::backend::probe;
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_core::error::{Error, Result};
use touchline_core::limits;
use touchline_media::plugins::{self, DecoderSurvey};
use touchline_serve::config;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Directory of the model pack to check [default: weights/compact].
    #[arg(long, value_name = "DIR", env = "TOUCHLINE_PACK")]
    pack: Option<PathBuf>,
}

/// Open files that the greatest number of streams by default may need.
const OPEN_FILES: u64 = 4096;

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CheckOutcome {
    Ok,
    /// Something works less well, or some sources do not.
    Lacks,
    /// Nothing works without it.
    Missing,
}

struct Checklist {
    color: bool,
    missing: usize,
}

impl Checklist {
    fn line(&mut self, verdict: CheckOutcome, what: &str, detail: &str) {
        let (word, color) = match verdict {
            CheckOutcome::Ok => ("ok", 32),
            CheckOutcome::Lacks => ("warning", 33),
            CheckOutcome::Missing => ("MISSING", 31),
        };
        self.missing += usize::from(verdict == CheckOutcome::Missing);
        if self.color {
            let _ = writeln!(std::io::stdout(), "\x1b[{color}m{word:>8}\x1b[0m  {what:<26} {detail}");
        } else {
            let _ = writeln!(std::io::stdout(), "{word:>8}  {what:<26} {detail}");
        }
    }
}

pub fn doctor(args: &DoctorArgs) -> Result<()> {
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut report = Checklist { color, missing: 0 };
    let _ = writeln!(std::io::stdout(), "touchline {}", env!("CARGO_PKG_VERSION"));
    let packages = gstreamer(&mut report);
    pack(&mut report, args.pack.as_deref());
    machine(&mut report);
    if !packages.is_empty() {
        let _ =
            writeln!(std::io::stdout(), "\nTo install the missing parts:\n  apt-get install {}", packages.join(" "));
    }
    match report.missing {
        0 => Ok(()),
        n => Err(Error::Usage(format!("missing required parts: {n}; see the lines marked MISSING"))),
    }
}

/// Returns the Debian packages of the missing parts.
fn gstreamer(report: &mut Checklist) -> Vec<String> {
    match plugins::version() {
        Ok(version) => report.line(CheckOutcome::Ok, "GStreamer", &version),
        Err(e) => {
            report.line(CheckOutcome::Missing, "GStreamer", &e.to_string());
            return vec!["gstreamer1.0-tools".into()];
        }
    }
    let found = match plugins::survey() {
        Ok(found) => found,
        Err(e) => {
            report.line(CheckOutcome::Missing, "GStreamer plugins", &e.to_string());
            return Vec::new();
        }
    };
    let mut packages: Vec<String> = Vec::new();
    for found in found {
        let plugin = found.plugin;
        if found.installed {
            report.line(CheckOutcome::Ok, plugin.element, plugin.purpose);
            continue;
        }
        let verdict = if plugin.required { CheckOutcome::Missing } else { CheckOutcome::Lacks };
        report.line(verdict, plugin.element, &format!("{} (package {})", plugin.purpose, plugin.package));
        if !packages.iter().any(|p| p == plugin.package) {
            packages.push(plugin.package.to_owned());
        }
    }
    decoders(report);
    packages
}

/// Shows which decoder live streams get, and why no device.
fn decoders(report: &mut Checklist) {
    let found = match plugins::decoders() {
        Ok(found) => found,
        Err(e) => return report.line(CheckOutcome::Missing, "decoders", &e.to_string()),
    };
    for DecoderSurvey { codec, element, unusable } in found {
        let verdict = if element.is_some() { CheckOutcome::Ok } else { CheckOutcome::Lacks };
        let mut detail = element.unwrap_or("none").to_owned();
        for (element, reason) in unusable {
            detail += &format!("; {element}: {reason}");
        }
        report.line(verdict, &format!("decoder for {codec}"), &detail);
    }
}

fn pack(report: &mut Checklist, given: Option<&Path>) {
    let loaded = config::find_pack(given).and_then(|dir| Pack::open(&dir)).and_then(|pack| {
        let summary = format!("{} in {}: {} classes", pack.name, shown(&pack.dir), pack.classes.len());
        Engine::load(pack).map(|_| summary)
    });
    match loaded {
        Ok(summary) => {
            report.line(CheckOutcome::Ok, "model pack", &format!("{summary}; weights verified, models loaded and run"))
        }
        Err(e) => report.line(CheckOutcome::Missing, "model pack", &e.to_string()),
    }
}

fn machine(report: &mut Checklist) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores_verdict = if cores >= 2 { CheckOutcome::Ok } else { CheckOutcome::Lacks };
    report.line(cores_verdict, "processor", &format!("{cores} cores, {}", vector_units()));
    let (soft, hard) = limits::open_files();
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let is_enough = hard.is_none_or(|n| n >= OPEN_FILES);
    let advice =
        if is_enough { "" } else { "; about 30 per stream are needed: raise the limit (LimitNOFILE=, ulimit -Hn)" };
    let verdict = if is_enough { CheckOutcome::Ok } else { CheckOutcome::Lacks };
    let text = format!("soft limit {}, hard limit {}{advice}", shown(soft), shown(hard));
    report.line(verdict, "open files", &text);
    for finding in probe::findings() {
        let verdict = if finding.is_ok { CheckOutcome::Ok } else { CheckOutcome::Lacks };
        report.line(verdict, finding.what, &finding.detail);
    }
}

#[cfg(target_arch = "x86_64")]
fn vector_units() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        "AVX2 and FMA"
    } else {
        "no AVX2: much slower"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_units() -> &'static str {
    "portable vector code"
}
