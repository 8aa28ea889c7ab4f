//! Records for the tests of the formats.

use serde_json::json;

use super::place::{Export, ExportPlacement, Moment, TimeBase};
use crate::record::format::rfc3339;
use crate::record::reader::{self, RecordFile};
use touchline_core::error::Result;
use touchline_core::time::Pts;
use touchline_core::timecode::{FrameRate, TimecodeMark};

/// 2026-03-29T14:00:00Z.
pub(super) const BEGAN_NS: i64 = 1_774_792_800_000_000_000;

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
        Self(reader::read(lines.join("\n").as_bytes()).unwrap())
    }

    pub(super) fn named(stream: &str) -> Self {
        Self::of(&lines(stream, false))
    }

    pub(super) fn recording() -> Self {
        Self::named("recordings/match.mp4")
    }

    /// A recording with timecode: `first` at PTS 0. From second 40 on it is ahead by `jump` frames.
    pub(super) fn coded(rate: &str, first: &str, jump: i64) -> Self {
        let rate = FrameRate::parse(rate).unwrap();
        let first = TimecodeMark { pts: Pts(0), frame: rate.parse_timecode(first).unwrap(), rate };
        let mut lines: Vec<serde_json::Value> =
            lines("match.mov", false).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in lines.iter_mut().filter(|line| line["type"] == "second") {
            let second = line["index"].as_u64().unwrap();
            let mark = first.moved_to(Pts::from_second(second));
            let frame = mark.frame + if second < 40 { 0 } else { jump };
            line["timecode"] =
                json!({"label": rate.timecode(frame).to_string(), "rate": rate.name(), "pts_ns": mark.pts});
        }
        Self::of(&lines.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    pub(super) fn live() -> Self {
        Self::of(&lines("court1", true))
    }

    /// A recording that was decided twice into one file.
    pub(super) fn twice() -> Self {
        Self::of(&[lines("a.mp4", false), lines("a.mp4", false)].concat())
    }

    fn try_export(&self, placement: &ExportPlacement) -> Result<Export<'_>> {
        let (id, stream) = self.0.streams.first_key_value().unwrap();
        Export::new(id, &self.0.classes, stream, placement, "a.jsonl")
    }

    pub(super) fn export(&self, placement: &ExportPlacement) -> Export<'_> {
        self.try_export(placement).unwrap()
    }

    pub(super) fn refused(&self, placement: &ExportPlacement) -> String {
        self.try_export(placement).unwrap_err().to_string()
    }
}

/// Everything by default.
pub(super) fn anywhere() -> ExportPlacement {
    ExportPlacement::default()
}

/// At a rate, with an offset if it is not empty.
pub(super) fn at(rate: &str, offset: &str) -> ExportPlacement {
    let offset = (!offset.is_empty()).then(|| offset.to_owned());
    ExportPlacement { rate: Some(FrameRate::parse(rate).unwrap()), offset, ..anywhere() }
}

/// Counted from `base`.
pub(super) fn from(base: TimeBase) -> ExportPlacement {
    ExportPlacement { base: Some(base), ..anywhere() }
}

/// A part; an empty text is no limit.
pub(super) fn between(from: &str, to: &str) -> ExportPlacement {
    let moment = |text: &str| (!text.is_empty()).then(|| Moment::parse(text).unwrap());
    ExportPlacement { from: moment(from), to: moment(to), ..anywhere() }
}
