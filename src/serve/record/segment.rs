//! The record of a segment. As in [`types`](super::types), comments are the descriptions in the schema.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format::rfc3339;
use super::types::Probability;
use touchline_core::clip::GapReason;
use touchline_core::segment::{Segment, SegmentKind};
use touchline_core::time::{Pts, RunId};

/// Content of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SegmentContent {
    /// A class was on air.
    Class,
    /// Seconds were classified, and no class was on air, or the models were not sure of it.
    Unknown,
    /// There was no programme to classify.
    NoProgramme,
    /// Nothing was decided.
    Undecided,
}

impl SegmentContent {
    /// The names, in the order of the variants.
    pub const NAMES: [&str; 4] = ["class", "unknown", "no-programme", "undecided"];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl From<SegmentKind> for SegmentContent {
    fn from(kind: SegmentKind) -> Self {
        match kind {
            SegmentKind::Class(_) => SegmentContent::Class,
            SegmentKind::Unknown => SegmentContent::Unknown,
            SegmentKind::NoProgramme => SegmentContent::NoProgramme,
            SegmentKind::Undecided => SegmentContent::Undecided,
        }
    }
}

/// A segment: consecutive seconds of one run with the same content, dated back to the change.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SegmentFields<'a> {
    content: SegmentContent,
    /// The class that was on air; null for other contents.
    class: Option<&'a str>,
    /// Number of the run, from 0.
    run: RunId,
    /// Its first second in the run.
    first: u64,
    /// Its last second in the run.
    last: u64,
    /// Presentation time of its start, nanoseconds.
    pts_ns: Pts,
    /// Presentation time of its end, nanoseconds.
    end_pts_ns: Pts,
    /// Wall time of its start (RFC 3339, UTC, milliseconds); null if unknown.
    began: Option<String>,
    /// Wall time of its end; null if unknown.
    ended: Option<String>,
    /// Its length.
    seconds: u64,
    /// Mean probability of the class over the decided seconds; null without a class.
    mean: Option<Probability>,
    /// Largest probability of the class; null without a class.
    peak: Option<Probability>,
    /// The first second with that probability; null without a class.
    peak_index: Option<u64>,
    /// Decided seconds.
    decided: u32,
    /// Decided seconds that were unknown by themselves.
    unknown: u32,
    /// Seconds that each modality decided.
    decided_by: DecidedBy,
    /// Seconds without a decision, by reason. Reasons without one are left out.
    gaps: BTreeMap<&'static str, u32>,
    /// Seconds without a record.
    missing: u32,
}

/// Seconds that each modality decided.
#[derive(Serialize, JsonSchema)]
pub(crate) struct DecidedBy {
    rgb: u32,
    flow: u32,
    audio: u32,
}

impl<'a> SegmentFields<'a> {
    /// The fields of `segment`; `class` is the name of its class.
    pub(crate) fn new(segment: &Segment, class: Option<&'a str>) -> Self {
        let gaps = GapReason::ALL.iter().zip(segment.gaps).filter(|(_, count)| *count > 0);
        Self {
            content: segment.kind.into(),
            class,
            run: segment.run,
            first: segment.first,
            last: segment.last,
            pts_ns: Pts::from_second(segment.first),
            end_pts_ns: Pts::from_second(segment.last + 1),
            began: segment.began_ns.map(rfc3339),
            ended: segment.ended_ns.map(rfc3339),
            seconds: segment.seconds(),
            mean: segment.mean.map(Probability::of_millionths),
            peak: segment.peak.map(Probability::of_millionths),
            peak_index: segment.peak_index,
            decided: segment.decided,
            unknown: segment.unknown,
            decided_by: DecidedBy {
                rgb: segment.decided_by.rgb,
                flow: segment.decided_by.flow,
                audio: segment.decided_by.audio,
            },
            gaps: gaps.map(|(reason, count)| (reason.as_str(), count)).collect(),
            missing: segment.missing,
        }
    }
}
