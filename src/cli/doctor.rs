//! `touchline doctor`: reports what the machine lacks, and how to install it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::paths::shown;
use touchline_compute::backend::probe;
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_compute::nn::fused::{Level, Precision};
use touchline_core::error::{Error, Result};
use touchline_core::limits;
use touchline_media::plugins::{self, DecoderSurvey};
use touchline_serve::config;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Directory of the model pack to check [default: weights/compact].
    #[arg(long, value_name = "DIR", env = "TOUCHLINE_PACK")]
    pack: Option<PathBuf>,
    /// Print one JSON object instead of a list.
    #[arg(long)]
    json: bool,
}

/// Open files that the greatest number of streams by default may need.
const OPEN_FILES: u64 = 4096;

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckOutcome {
    Ok,
    /// Something works less well, or some sources do not.
    #[serde(rename = "warning")]
    Lacks,
    /// Nothing works without it.
    Missing,
}

/// What a check is about.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckArea {
    /// The library itself.
    GStreamer,
    /// An element of a plugin, by its name.
    Plugin,
    /// The decoder of live streams, by the name of the codec.
    Decoder,
    /// The model pack.
    Pack,
    /// Processor, limits and GPUs.
    Machine,
}

#[derive(Serialize)]
struct Check {
    area: CheckArea,
    name: String,
    result: CheckOutcome,
    detail: String,
    /// The Debian package that has it, if it lacks.
    package: Option<&'static str>,
}

/// The result as JSON. Its keys are documented in deploy/OPERATING.md: they are only added.
#[derive(Serialize)]
struct DoctorReport<'a> {
    version: &'static str,
    /// Nothing is missing that every source needs.
    ok: bool,
    checks: &'a [Check],
    /// The packages to install, each once.
    packages: &'a [&'static str],
}

struct Checklist {
    is_json: bool,
    color: bool,
    checks: Vec<Check>,
}

impl Checklist {
    fn line(&mut self, area: CheckArea, verdict: CheckOutcome, what: &str, detail: &str) {
        self.checks.push(Check {
            area,
            name: what.to_owned(),
            result: verdict,
            detail: detail.to_owned(),
            package: None,
        });
        // Printed at once: loading the pack takes seconds.
        if self.is_json {
            return;
        }
        let (word, color) = match verdict {
            CheckOutcome::Ok => ("ok", 32),
            CheckOutcome::Lacks => ("warning", 33),
            CheckOutcome::Missing => ("MISSING", 31),
        };
        if self.color {
            let _ = writeln!(std::io::stdout(), "\x1b[{color}m{word:>8}\x1b[0m  {what:<26} {detail}");
        } else {
            let _ = writeln!(std::io::stdout(), "{word:>8}  {what:<26} {detail}");
        }
    }

    /// Says that `package` has what the last check lacks. Returns `packages` with it.
    fn install(&mut self, package: &'static str, mut packages: Vec<&'static str>) -> Vec<&'static str> {
        if let Some(check) = self.checks.last_mut() {
            check.package = Some(package);
        }
        if !packages.contains(&package) {
            packages.push(package);
        }
        packages
    }
}

pub fn doctor(args: &DoctorArgs) -> Result<()> {
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut report = Checklist { is_json: args.json, color, checks: Vec::new() };
    let version = env!("CARGO_PKG_VERSION");
    if !args.json {
        let _ = writeln!(std::io::stdout(), "touchline {version}");
    }
    let packages = gstreamer(&mut report);
    pack(&mut report, args.pack.as_deref());
    machine(&mut report);
    let missing = report.checks.iter().filter(|check| check.result == CheckOutcome::Missing).count();
    if args.json {
        let result = DoctorReport { version, ok: missing == 0, checks: &report.checks, packages: &packages };
        let text = serde_json::to_string_pretty(&result).expect("the report has plain values");
        let _ = writeln!(std::io::stdout(), "{text}");
    } else if !packages.is_empty() {
        let _ =
            writeln!(std::io::stdout(), "\nTo install the missing parts:\n  apt-get install {}", packages.join(" "));
    }
    match missing {
        0 => Ok(()),
        n => Err(Error::Usage(format!("missing required parts: {n}; see the lines marked MISSING"))),
    }
}

/// Returns the Debian packages of the missing parts.
fn gstreamer(report: &mut Checklist) -> Vec<&'static str> {
    match plugins::version() {
        Ok(version) => report.line(CheckArea::GStreamer, CheckOutcome::Ok, "GStreamer", &version),
        Err(e) => {
            report.line(CheckArea::GStreamer, CheckOutcome::Missing, "GStreamer", &e.to_string());
            return report.install("gstreamer1.0-tools", Vec::new());
        }
    }
    let found = match plugins::survey() {
        Ok(found) => found,
        Err(e) => {
            report.line(CheckArea::GStreamer, CheckOutcome::Missing, "GStreamer plugins", &e.to_string());
            return Vec::new();
        }
    };
    let mut packages: Vec<&'static str> = Vec::new();
    for found in found {
        let plugin = found.plugin;
        if found.installed {
            report.line(CheckArea::Plugin, CheckOutcome::Ok, plugin.element, plugin.purpose);
            continue;
        }
        let verdict = if plugin.required { CheckOutcome::Missing } else { CheckOutcome::Lacks };
        let detail = format!("{} (package {})", plugin.purpose, plugin.package);
        report.line(CheckArea::Plugin, verdict, plugin.element, &detail);
        packages = report.install(plugin.package, packages);
    }
    decoders(report);
    packages
}

/// Shows which decoder live streams get, and why no device.
fn decoders(report: &mut Checklist) {
    let found = match plugins::decoders() {
        Ok(found) => found,
        Err(e) => return report.line(CheckArea::Decoder, CheckOutcome::Missing, "decoders", &e.to_string()),
    };
    for DecoderSurvey { codec, element, unusable } in found {
        let verdict = if element.is_some() { CheckOutcome::Ok } else { CheckOutcome::Lacks };
        let mut detail = element.unwrap_or("none").to_owned();
        for (element, reason) in unusable {
            detail += &format!("; {element}: {reason}");
        }
        report.line(CheckArea::Decoder, verdict, &format!("decoder for {codec}"), &detail);
    }
}

fn pack(report: &mut Checklist, given: Option<&Path>) {
    let loaded = config::find_pack(given).and_then(|dir| Pack::open(&dir)).and_then(|pack| {
        let summary = format!("{} in {}: {} classes", pack.name, shown(&pack.dir), pack.classes.len());
        Engine::load(pack).map(|_| summary)
    });
    match loaded {
        Ok(summary) => {
            let detail = format!("{summary}; weights verified, models loaded and run");
            report.line(CheckArea::Pack, CheckOutcome::Ok, "model pack", &detail);
        }
        Err(e) => report.line(CheckArea::Pack, CheckOutcome::Missing, "model pack", &e.to_string()),
    }
}

fn machine(report: &mut Checklist) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores_verdict = if cores >= 2 { CheckOutcome::Ok } else { CheckOutcome::Lacks };
    let level = Level::best();
    let advice = if level == Level::Portable && cfg!(target_arch = "x86_64") { " (no AVX2: much slower)" } else { "" };
    let text = format!("{cores} cores, {}{advice}, models in {}", level.name(), Precision::fastest(level).name());
    report.line(CheckArea::Machine, cores_verdict, "processor", &text);
    let (soft, hard) = limits::open_files();
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let is_enough = hard.is_none_or(|n| n >= OPEN_FILES);
    let advice =
        if is_enough { "" } else { "; about 30 per stream are needed: raise the limit (LimitNOFILE=, ulimit -Hn)" };
    let verdict = if is_enough { CheckOutcome::Ok } else { CheckOutcome::Lacks };
    let text = format!("soft limit {}, hard limit {}{advice}", shown(soft), shown(hard));
    report.line(CheckArea::Machine, verdict, "open files", &text);
    for finding in probe::findings() {
        let verdict = if finding.is_ok { CheckOutcome::Ok } else { CheckOutcome::Lacks };
        report.line(CheckArea::Machine, verdict, finding.what, &finding.detail);
    }
}
