//! Records for the tests of the formats.

use clap::Parser;
use serde_json::json;

use super::ExportArgs;
use super::place::Export;
use touchline_core::error::Result;
use touchline_serve::publish::format::rfc3339;
use touchline_serve::publish::record_reader::{self, RecordFile};

/// 2026-03-29T14:00:00Z.
const BEGAN_NS: i64 = 1_774_792_800_000_000_000;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: ExportArgs,
}

/// A file with one stream.
pub(super) struct Fixture(RecordFile);

/// 20 s of soccer, 10 s of bars, 20 s of tennis, and 20 s in which no class is on air.
fn lines(stream: &str, is_live: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let event = |kind: &str, class: &str, index: u64| json!({"type": "event", "stream": stream, "kind": kind, "class": class, "run": 0, "index": index});
    for index in 0..70u64 {
        let class = match index {
            0..20 => Some(("soccer", 0.9)),
            20..30 => None,
            30..50 => Some(("tennis", 0.8)),
            _ => Some(("tennis", 0.1)),
        };
        let window = json!({"seconds": (index + 1).min(10), "gaps": 0});
        let wall = is_live.then(|| {
            let jitter = [0, 3_000_000, -2_000_000][index as usize % 3];
            json!({"time": rfc3339(BEGAN_NS + index as i64 * 1_000_000_000 + jitter), "source": "arrival"})
        });
        lines.push(match class {
            Some((label, p)) => json!({
                "type": "second", "stream": stream, "run": 0, "index": index, "wall": wall, "decided_by": "rgb",
                "probabilities": {label: p, "other": 1.0 - p}, "window": window,
            }),
            None => json!({
                "type": "gap", "stream": stream, "run": 0, "index": index, "reason": "no-programme", "window": window,
            }),
        });
        match index {
            2 => lines.push(event("onset", "soccer", 2)),
            29 => lines.push(event("offset", "soccer", 29)),
            32 => lines.push(event("onset", "tennis", 32)),
            55 => lines.push(event("offset", "tennis", 55)),
            _ => {}
        }
    }
    lines.iter().map(ToString::to_string).collect()
}

impl Fixture {
    fn of(lines: &[String]) -> Self {
        Self(record_reader::read(lines.join("\n").as_bytes()).unwrap())
    }

    pub(super) fn named(stream: &str) -> Self {
        Self::of(&lines(stream, false))
    }

    pub(super) fn recording() -> Self {
        Self::named("recordings/match.mp4")
    }

    pub(super) fn live() -> Self {
        Self::of(&lines("court1", true))
    }

    /// A recording that was decided twice into one file.
    pub(super) fn twice() -> Self {
        Self::of(&[lines("a.mp4", false), lines("a.mp4", false)].concat())
    }

    fn try_export(&self, flags: &[&str]) -> Result<Export<'_>> {
        let needed = ["export", "--from", "a.jsonl", "--format", "csv", "-o", "out"];
        let args = Cli::try_parse_from(needed.iter().chain(flags)).unwrap().args;
        let (id, stream) = self.0.streams.first_key_value().unwrap();
        Export::new(id, &self.0.classes, stream, &args.placement()?, "a.jsonl")
    }

    pub(super) fn export(&self, flags: &[&str]) -> Export<'_> {
        self.try_export(flags).unwrap()
    }

    pub(super) fn refused(&self, flags: &[&str]) -> String {
        self.try_export(flags).unwrap_err().to_string()
    }
}
