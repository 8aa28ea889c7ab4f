//! The records as they are written, and their schema.
//!
//! The comments of types and keys are the descriptions in the schema. The order of the keys is the order in a record.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SERIALISES;
use super::format::round6;
use super::segment::SegmentFields;
use super::state::StateFields;
use touchline_core::cause::Cause;
use touchline_core::clip::GapReason;
use touchline_core::decision::{DecisionReason, EventKind, EventReason, PackStamp};
use touchline_core::expectation::ExpectationEnd;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, Track, Tracks};
use touchline_core::labels::Modality;
use touchline_core::segment::MILLION;
use touchline_core::signal::{Signal, Signals};
use touchline_core::tier::DecodeTier;
use touchline_core::time::{Pts, RunId, WallSource};
use touchline_core::timecode::{FrameRate, TimecodeMark};

/// Version of the form of records. Within a version, keys, values and kinds of records are only added.
pub const SCHEMA_VERSION: u32 = 1;

/// JSON Schema (draft 2020-12) of every record, made from the types that are written. It allows unknown keys, which a later program
/// may add.
pub static SCHEMA: LazyLock<String> = LazyLock::new(|| {
    let mut schema = open_schema_settings().for_serialize().into_generator().into_root_schema_for::<Stamped>();
    schema.insert("$id".into(), format!("urn:touchline:record:{SCHEMA_VERSION}").into());
    serde_json::to_string_pretty(&schema).expect(SERIALISES)
});

/// Schemas in which every object has exactly the keys of its type, and every description is one line.
pub(crate) fn schema_settings() -> SchemaSettings {
    open_schema_settings().with_transform(RecursiveTransform(|schema: &mut Schema| {
        if let Some(object) = schema.as_object_mut()
            && object.contains_key("properties")
        {
            object.entry("additionalProperties").or_insert(false.into());
        }
    }))
}

/// As [`schema_settings`], but objects may have more keys.
fn open_schema_settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with_transform(RecursiveTransform(|schema: &mut Schema| {
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Value::String(text)) = object.get_mut("description") {
            *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        // Absent and null differ where null is the default of the type.
        if object.get("default").is_some_and(Value::is_null) {
            object.remove("default");
        }
    }))
}

/// One JSON object per line (JSON lines) or per server-sent event. The key `type` says which kind it is. Ignore kinds and keys that you
/// do not know: later programs may add some.
#[derive(Serialize, JsonSchema)]
#[schemars(title = "Touchline record", extend("additionalProperties" = true))]
pub(crate) struct Stamped<'a> {
    #[serde(flatten)]
    pub(crate) record: Record<'a>,
    /// Version of the form of records.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub(crate) schema: u32,
    /// The program that wrote the record (`instance` in the configuration). Absent if it has no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(crate) instance: Option<&'a str>,
    /// The machine of the fleet that wrote the record. Absent without a fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(crate) node: Option<&'a str>,
    /// How often the stream was taken over in its fleet. Of two records of the same time, the one with the higher epoch counts. Absent
    /// without a fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub(crate) epoch: Option<u64>,
}

/// The kinds of records.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Record<'a> {
    /// A second with a decision.
    #[schemars(extend("additionalProperties" = true))]
    Second {
        #[serde(flatten)]
        head: Head<'a>,
        wall: Option<WallRecord>,
        /// Timecode of the first picture of the second. Absent if the media have none.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "TimecodeRecord")]
        timecode: Option<TimecodeRecord>,
        /// The result of each modality.
        modalities: ModalitiesRecord<'a>,
        /// Share of the chosen pictures that was used during an overload (--adaptive). Absent if all were used.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Probability")]
        frame_share: Option<f64>,
        /// Which coded pictures were decoded: sparse (none for the flow model) or key. Absent if the decision does not depend on it.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "ReducedTier")]
        tier: Option<DecodeTier>,
        /// The modality that supplied label and probabilities.
        decided_by: Modality,
        why: DecisionReason,
        /// Class of the second.
        label: &'a str,
        /// Probability of `label`.
        probability: Probability,
        /// True if the models are not sure enough of `label` to answer with it: the second is unknown. Absent otherwise.
        #[serde(skip_serializing_if = "is_false")]
        unknown: bool,
        /// Fused probability per class; sums to 1.
        probabilities: ClassMap<'a>,
        window: WindowRecord<'a>,
        /// Milliseconds from the arrival of the second's last sample to publication; null offline.
        #[schemars(range(min = 0))]
        latency_ms: Option<f64>,
        /// Seconds of the stream that wait for inference.
        backlog: u32,
        /// What the signal shows beside the programme: silence. Absent if nothing.
        #[serde(skip_serializing_if = "Signals::is_empty")]
        #[schemars(with = "Vec<Signal>")]
        signal: Signals,
        /// The model pack that decided.
        pack: &'a PackStamp,
    },
    /// A second without a decision.
    #[schemars(extend("additionalProperties" = true))]
    Gap {
        #[serde(flatten)]
        head: Head<'a>,
        reason: GapReason,
        /// What the signal shows in place of a programme. Absent if nothing, or if it is not known.
        #[serde(skip_serializing_if = "Signals::is_empty")]
        #[schemars(with = "Vec<Signal>")]
        signal: Signals,
        window: WindowRecord<'a>,
        /// Seconds of the stream that wait for inference.
        backlog: u32,
        /// The time for which no machine of the fleet published the stream. Only with the reason node-lost, whose record stands for all
        /// of it and is the only one of its run.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "LostSpan")]
        lost: Option<LostSpan>,
    },
    /// A class came on air or went off air, by hysteresis on the estimate.
    #[schemars(extend("additionalProperties" = true))]
    Event {
        /// Id of the stream.
        stream: &'a str,
        kind: EventKind,
        /// A class of the pack.
        class: &'a str,
        /// Number of the run, from 0.
        run: RunId,
        /// The second whose estimate crossed the threshold.
        index: u64,
        /// Presentation time of the start of the second, nanoseconds.
        pts_ns: Pts,
        wall: Option<WallRecord>,
        /// Mean probability of the class in that estimate.
        probability: Probability,
        /// Why the class went off air, where it is not its probability.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<EventReason>,
    },
    /// The state of the stream changed.
    #[schemars(extend("additionalProperties" = true))]
    State {
        /// Id of the stream.
        stream: &'a str,
        #[serde(flatten)]
        state: StateFields<'a>,
        /// The tracks of the source; null until it is open.
        tracks: Option<Tracks>,
        /// When it changed (RFC 3339, this machine's clock); null for files.
        at: Option<String>,
    },
    /// An incident of the source while it played or between two connections.
    #[schemars(extend("additionalProperties" = true))]
    Incident {
        /// Id of the stream.
        stream: &'a str,
        /// track-stalled: a track delivers nothing while the other continues; track-recovered: it delivers data again;
        /// track-lost, track-added: the source has fewer or more tracks than before; tcp-fallback: nothing arrived over
        /// UDP, TCP is used from now on; decoder-fallback: the decoder of a device failed or does not exist, software decodes from now
        /// on; clock-wrapped: the 33-bit clock of MPEG-TS wrapped, without effect;
        /// clock-implausible: the clock of the source is days off or jumps, wall times are arrival times from now on;
        /// clock-plausible: it has been plausible for a while and is used again; segment-lost: an HLS segment could not
        /// be loaded, its seconds are gaps; ad-break-began, ad-break-ended: the stream signals an advertisement break or
        /// its end; format-changed: the size of the pictures, or rate or channels of the audio changed, and the run
        /// continues; run-started: a new run begins; signal-began, signal-ended: test bars, black, a frozen picture or silence
        /// have lasted for their hold time, or are over.
        #[schemars(extend("enum" = Incident::NAMES))]
        incident: &'static str,
        /// The affected track.
        track: Option<Track>,
        /// Why the run began, or why a segment was lost.
        cause: Option<IncidentCause>,
        /// The current run.
        run: RunId,
        /// The condition of the signal. Absent for other incidents, as are the next two keys.
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<Signal>,
        /// Presentation time at which the condition began, nanoseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        began_pts_ns: Option<Pts>,
        /// How long the condition has lasted, milliseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        lasted_ms: Option<f64>,
        /// When the track last delivered data before it stalled, or when the condition of the signal began (RFC 3339,
        /// this machine's clock).
        since: Option<String>,
        /// When it was detected (RFC 3339, this machine's clock); null for files.
        at: Option<String>,
    },
    /// The model pack changes with this second, whose record follows.
    #[schemars(extend("additionalProperties" = true))]
    Pack {
        #[serde(flatten)]
        head: Head<'a>,
        /// The new pack.
        pack: &'a PackStamp,
        /// The previous pack.
        previous: &'a PackStamp,
        /// When it changed (RFC 3339, this machine's clock); null for files.
        at: Option<String>,
    },
    /// Consecutive seconds of a run with the same content are over. The record comes when no later event can be dated back to them, about
    /// a vote window after their end.
    #[schemars(extend("additionalProperties" = true))]
    Segment {
        /// Id of the stream.
        stream: &'a str,
        #[serde(flatten)]
        segment: SegmentFields<'a>,
        /// 1: it replaces the segment of the same stream, run and `first`, which continued; else 0. A segment is revised once at most.
        #[schemars(range(max = 1))]
        revision: u32,
    },
    /// Something other than what is expected of the stream (`expect`, `schedule`) has been on air for too long (`expect_for_s`), or that is
    /// over.
    #[schemars(extend("additionalProperties" = true))]
    Expectation {
        #[serde(flatten)]
        head: Head<'a>,
        wall: Option<WallRecord>,
        kind: ExpectationKind,
        /// What is or was expected: classes of the pack, unknown (the vote is not sure), no-programme.
        expected: Vec<&'a str>,
        /// What is on air at this second: a class of the pack or no-programme. Null if that is not known.
        on_air: Option<&'a str>,
        /// Seconds so far with something unexpected on air. Gaps and seconds of which the vote is not sure are not among them.
        seconds: u32,
        /// Why it ended. Absent at its begin.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<ExpectationReason>,
    },
}

/// A span of wall time in which a stream of a fleet was not published.
#[derive(Serialize, JsonSchema)]
pub(crate) struct LostSpan {
    /// The end of the last second before it (RFC 3339).
    pub(crate) from: String,
    /// The start of the first second after it (RFC 3339).
    pub(crate) to: String,
    /// Its length, rounded.
    pub(crate) seconds: u64,
}

/// Whether something unexpected begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ExpectationKind {
    /// It has been on air for too long.
    UnexpectedBegan,
    /// It is over.
    UnexpectedEnded,
}

/// Why something unexpected ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ExpectationReason {
    /// What is expected is on air.
    OnAir,
    /// Something else is expected from this second on, or nothing.
    Changed,
    /// The stream ended.
    Ended,
}

impl From<ExpectationEnd> for ExpectationReason {
    fn from(end: ExpectationEnd) -> Self {
        match end {
            ExpectationEnd::OnAir => Self::OnAir,
            ExpectationEnd::Changed => Self::Changed,
            ExpectationEnd::Ended => Self::Ended,
        }
    }
}

/// The first keys of every record of a second.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Head<'a> {
    /// Id of the stream.
    pub(crate) stream: &'a str,
    /// Number of the run (data between two discontinuities), from 0.
    pub(crate) run: RunId,
    /// Number of the second in its run.
    pub(crate) index: u64,
    /// Presentation time of the start of the second, nanoseconds.
    pub(crate) pts_ns: Pts,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that `skip_serializing_if` calls")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// A probability or a share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(inline)]
pub(crate) struct Probability(#[schemars(range(min = 0, max = 1))] f64);

impl From<f32> for Probability {
    fn from(value: f32) -> Self {
        Self(round6(value))
    }
}

impl Probability {
    /// The probability of `value` millionths.
    pub(crate) fn of_millionths(value: u32) -> Self {
        Self(f64::from(value) / f64::from(MILLION))
    }
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum IncidentCause {
    Run(Discontinuity),
    Loss(Cause),
}

/// Wall time of the start of the second; null if unknown. Never used for cutting.
#[derive(Serialize, JsonSchema)]
pub(crate) struct WallRecord {
    /// RFC 3339, UTC, milliseconds.
    pub(crate) time: String,
    pub(crate) source: WallSource,
    /// Error bound in either direction, milliseconds: of the sender's clock for rtcp-sender-report and
    /// hls-program-date-time; the possible transit time for arrival.
    #[schemars(range(min = 0))]
    pub(crate) uncertainty_ms: f64,
}

/// Timecode (SMPTE ST 12-1) of a picture, from the media: the timecode track of MP4, or SEI messages of H.264 and HEVC.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TimecodeRecord {
    /// Hours, minutes, seconds and frames. A semicolon before the frames marks drop-frame timecode.
    #[schemars(regex(pattern = r"^\d\d:\d\d:\d\d[:;]\d\d$"))]
    pub(crate) label: String,
    /// Frames a second; df is drop-frame timecode.
    #[schemars(extend("enum" = FrameRate::NAMES))]
    pub(crate) rate: &'static str,
    /// Presentation time of the picture, nanoseconds.
    pub(crate) pts_ns: Pts,
}

impl From<TimecodeMark> for TimecodeRecord {
    fn from(mark: TimecodeMark) -> Self {
        Self { label: mark.rate.timecode(mark.frame).to_string(), rate: mark.rate.name(), pts_ns: mark.pts }
    }
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct ModalitiesRecord<'a> {
    /// The pictures.
    pub(crate) rgb: ModalityRecord<'a>,
    /// The motion between pictures.
    pub(crate) flow: ModalityRecord<'a>,
    /// The sound.
    pub(crate) audio: ModalityRecord<'a>,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum ModalityRecord<'a> {
    Scored {
        /// Majority vote over the second's frames (or pairs).
        label: &'a str,
        /// Mean probability of `label`.
        score: Probability,
        /// Frames (or pairs) whose own label is `label`.
        votes: u32,
        /// Frames (or pairs) that voted; 1 for audio.
        voters: u32,
    },
    Missing {
        absent: Missing,
    },
}

/// Why a modality is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// The source has no such track.
    NoTrack,
    /// The track delivered too little.
    NoData,
    /// No two frames were far enough apart for flow.
    NoPairs,
    /// The pack has no model for the modality.
    NoModel,
    /// The sound is silent.
    Silent,
}

/// The estimate: the vote over the last seconds (the vote window).
#[derive(Serialize, JsonSchema)]
pub(crate) struct WindowRecord<'a> {
    /// Class with the largest share; null while no second is classified.
    pub(crate) label: Option<&'a str>,
    /// True if `label` is less probable than the pack's threshold: the answer is unknown. Absent otherwise.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) unknown: bool,
    /// Share of the window's classified seconds whose label is the class.
    pub(crate) share: ClassMap<'a>,
    /// Mean fused probability over the window's classified seconds.
    pub(crate) mean: ClassMap<'a>,
    /// Classified seconds in the window.
    pub(crate) seconds: u32,
    /// Seconds of the window without a decision.
    pub(crate) gaps: u32,
}

/// Class name to value, in the order of the pack.
#[derive(JsonSchema)]
#[schemars(with = "BTreeMap<String, Probability>")]
pub(crate) struct ClassMap<'a> {
    pub(crate) names: &'a [String],
    pub(crate) values: &'a [f32],
}

impl Serialize for ClassMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.names.len()))?;
        for (name, value) in self.names.iter().zip(self.values) {
            map.serialize_entry(name, &Probability::from(*value))?;
        }
        map.end()
    }
}

/// The decode tiers that change what a decision sees, for the schema.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "the schema only")]
enum ReducedTier {
    Sparse,
    Key,
}
