//! The serialisation of records for JSON lines, server-sent events and the API.
//!
//! A record is one JSON object on one line. Keys stand in a fixed order, class maps in the order of the pack,
//! probabilities are rounded to six decimals: the same decisions give the same bytes. The schema is [`SCHEMA`]
//! (served at `/api/v1/schema`); its descriptions are the documentation of every key.
//!
//! | `type` | when |
//! |---|---|
//! | `second` | a second with a decision |
//! | `gap` | a second without one, with the reason |
//! | `event` | a class came on air (`onset`) or went off air (`offset`) |
//! | `state` | the state of the stream changed |
//! | `incident` | an incident of the source: a track stalled, a new run began |
//! | `pack` | the model pack changes with the next second |
//! | `segment` | consecutive seconds with the same content are over, and no later event changes them |
//! | `expectation` | something unexpected has been on air for too long, or is over |

pub mod format;
pub(crate) mod kept;
pub mod reader;
pub(crate) mod segment;
pub(crate) mod state;
mod tenure;
pub(crate) mod types;

use std::sync::Arc;

use serde::Serialize;

use self::format::{millis, rfc3339};
pub use self::segment::SegmentContent;
use self::segment::SegmentFields;
use self::state::StateFields;
pub use self::state::StreamState;
pub use self::tenure::{FleetTenure, PublishingRight, SessionRight, TenureStage};
use self::types::{
    ClassMap, ExpectationKind, Head, IncidentCause, LostSpan, ModalitiesRecord, ModalityRecord, Record, Stamped,
    WallRecord, WindowRecord,
};
pub use self::types::{Missing, SCHEMA, SCHEMA_VERSION};
use crate::config::RecordKind;
use touchline_core::clip::{Absent, FrameShare, Gap, GapReason};
use touchline_core::decision::{Event, ModalityScores, PackStamp, SecondOutcome, SecondPrediction, WindowEstimate};
use touchline_core::expectation::{ExpectationEvent, WatchedSecond};
use touchline_core::incident::Incident;
use touchline_core::item::{Pace, Tracks};
use touchline_core::labels::{ClassId, ClassSet, Modality};
use touchline_core::segment::{ClosedSegment, MILLION, RecordedSecond, Segment, SegmentKind, Verdict};
use touchline_core::signal::Signals;
use touchline_core::time::{NANOS_PER_SECOND, Pts, RunId, WallSource, WallTime};

/// A record for the outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRecord {
    /// Its type.
    pub kind: RecordKind,
    /// One line of JSON.
    pub json: Arc<str>,
}

/// One second of a stream: its outcome, the estimate, and the events and segments that follow.
#[derive(Clone, Debug)]
pub struct Published {
    /// The decision or the gap.
    pub outcome: SecondOutcome,
    /// The estimate over the vote window.
    pub estimate: WindowEstimate,
    /// Events that this second's estimate caused, in order.
    pub events: Vec<Event>,
    /// Segments that are closed, in order.
    pub segments: Vec<ClosedSegment>,
    /// What is expected at this second, and what follows from it.
    pub watched: WatchedSecond,
    /// Nanoseconds from the arrival of the second's last sample to now; `None` offline and for gaps.
    pub latency_ns: Option<u64>,
    /// Seconds of this stream that wait to be classified.
    pub backlog: u32,
}

impl Published {
    /// Wall time of the start of the second, if known.
    pub fn wall(&self) -> Option<WallTime> {
        match &self.outcome {
            SecondOutcome::Predicted(second) => Some(second.wall),
            SecondOutcome::Gap(_) => None,
        }
    }

    /// The second as segments are made of it: as it is read back from its record, without wall time and timecode.
    pub fn recorded(&self) -> RecordedSecond {
        let verdict = match &self.outcome {
            SecondOutcome::Predicted(second) => Verdict::Decided {
                is_unknown: second.is_unknown(),
                modality: second.decision.modality,
                // As records round them.
                probabilities: second
                    .decision
                    .probabilities
                    .iter()
                    .map(|probability| (f64::from(*probability) * f64::from(MILLION)).round() as u32)
                    .collect(),
            },
            SecondOutcome::Gap(gap) => Verdict::Gap(gap.reason),
        };
        let (run, index) = (self.outcome.run(), self.outcome.index());
        RecordedSecond { run, index, wall_ns: None, timecode: None, verdict }
    }
}

/// Writes the records of one stream. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Recorder {
    stream: Arc<str>,
    classes: Arc<ClassSet>,
    pace: Pace,
    instance: Option<Arc<str>>,
    tenure: Option<Arc<FleetTenure>>,
}

impl Recorder {
    /// `stream` is the stream's id. With [`Pace::File`] arrival times are omitted, so that a file gives the same
    /// records every time.
    pub fn new(stream: &str, classes: Arc<ClassSet>, pace: Pace) -> Self {
        Self { stream: stream.into(), classes, pace, instance: None, tenure: None }
    }

    /// Names the program in the records, or not.
    pub fn with_instance(self, instance: Option<Arc<str>>) -> Self {
        Self { instance, ..self }
    }

    /// Names the node and the epoch of a fleet in the records, or not.
    pub fn with_tenure(self, tenure: Option<Arc<FleetTenure>>) -> Self {
        Self { tenure, ..self }
    }

    /// The epoch of its records; `None` without a fleet, and before this machine has taken the stream.
    pub fn epoch(&self) -> Option<u64> {
        self.tenure.as_ref().and_then(|tenure| tenure.epoch())
    }

    /// The stream's id.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The classes of its records.
    pub fn classes(&self) -> &ClassSet {
        &self.classes
    }

    /// The records of one second without line breaks: its outcome, then its events, then segments.
    ///
    /// # Panics
    /// If a class id or a probability vector does not belong to the recorder's classes.
    pub fn published(&self, published: &Published) -> Vec<String> {
        let mut lines = Vec::with_capacity(1 + published.events.len() + published.segments.len());
        lines.push(match &published.outcome {
            SecondOutcome::Predicted(second) => self.second(second, published),
            SecondOutcome::Gap(gap) => self.gap(gap, published),
        });
        lines.extend(published.events.iter().map(|event| {
            let is_own = published.outcome.run() == event.run && published.outcome.index() == event.index;
            self.event(event, published.wall().filter(|_| is_own))
        }));
        lines.extend(published.segments.iter().map(|closed| self.segment(closed)));
        lines
    }

    /// The record of a change of state at `unix_ns`, nanoseconds since 1970-01-01 UTC.
    pub fn state(&self, state: &StreamState, tracks: Option<Tracks>, unix_ns: i64) -> String {
        self.stamp(Record::State {
            stream: &self.stream,
            state: StateFields::new(state, unix_ns),
            tracks,
            at: self.at(unix_ns),
        })
    }

    /// The record of an incident at `unix_ns`, nanoseconds since 1970-01-01 UTC.
    pub fn incident(&self, incident: &Incident, run: RunId, unix_ns: i64) -> String {
        let condition = incident.signal();
        let since_ns = incident.silent_ns().or(condition.map(|(_, _, lasted_ns)| lasted_ns));
        let since = since_ns.map(|ns| unix_ns.saturating_sub_unsigned(ns));
        self.stamp(Record::Incident {
            stream: &self.stream,
            incident: incident.as_str(),
            track: incident.track(),
            cause: match incident {
                Incident::RunStarted(cause) => Some(IncidentCause::Run(*cause)),
                Incident::SegmentLost(cause) => Some(IncidentCause::Loss(*cause)),
                _ => None,
            },
            run,
            signal: condition.map(|(signal, ..)| signal),
            began_pts_ns: condition.map(|(_, began, _)| began),
            lasted_ms: condition.map(|(_, _, lasted_ns)| millis(lasted_ns)),
            since: since.and_then(|unix_ns| self.at(unix_ns)),
            at: self.at(unix_ns),
        })
    }

    /// The record of a change of the pack at `unix_ns`, nanoseconds since 1970-01-01 UTC; `second` is the first of the
    /// new pack.
    pub fn pack(&self, second: &SecondPrediction, previous: &PackStamp, unix_ns: i64) -> String {
        self.stamp(Record::Pack {
            head: self.head(second.run, second.index),
            pack: &second.pack,
            previous,
            at: self.at(unix_ns),
        })
    }

    fn stamp(&self, record: Record<'_>) -> String {
        let tenure = self.tenure.as_ref();
        to_json(&Stamped {
            record,
            schema: SCHEMA_VERSION,
            instance: self.instance.as_deref(),
            node: tenure.map(|tenure| tenure.node()),
            epoch: self.epoch(),
        })
    }

    fn head(&self, run: RunId, index: u64) -> Head<'_> {
        Head { stream: &self.stream, run, index, pts_ns: Pts::from_second(index) }
    }

    /// Time of a record; `None` for a file, as all arrival times.
    fn at(&self, unix_ns: i64) -> Option<String> {
        self.wall(Some(WallTime { unix_ns, source: WallSource::Arrival, uncertainty_ns: 0 })).map(|wall| wall.time)
    }

    fn second(&self, second: &SecondPrediction, published: &Published) -> String {
        let decision = &second.decision;
        let modality = |m: Modality| ModalityRecord::new(self, second.scores.get(m), *second.absent.get(m));
        self.stamp(Record::Second {
            head: self.head(second.run, second.index),
            wall: self.wall(Some(second.wall)),
            timecode: second.timecode.map(Into::into),
            tier: (!second.tier.has_flow()).then_some(second.tier),
            frame_share: (second.frame_share < FrameShare::ALL).then(|| second.frame_share.ratio()),
            modalities: ModalitiesRecord {
                rgb: modality(Modality::Rgb),
                flow: modality(Modality::Flow),
                audio: modality(Modality::Audio),
            },
            decided_by: decision.modality,
            why: decision.why,
            label: self.name(decision.label),
            probability: decision.probability.into(),
            unknown: second.is_unknown(),
            probabilities: self.class_map(&decision.probabilities),
            window: self.window(&published.estimate),
            latency_ms: published.latency_ns.filter(|_| self.pace == Pace::Live).map(millis),
            backlog: self.backlog(published),
            signal: second.signals(),
            pack: &second.pack,
        })
    }

    fn gap(&self, gap: &Gap, published: &Published) -> String {
        self.stamp(Record::Gap {
            head: self.head(gap.run, gap.index),
            reason: gap.reason,
            signal: gap.signals,
            window: self.window(&published.estimate),
            backlog: self.backlog(published),
            lost: None,
        })
    }

    /// The record of a span of wall time in which no node of a fleet published the stream, nanoseconds since 1970-01-01 UTC. It is the only
    /// second of run `run`.
    pub fn lost(&self, run: RunId, from_ns: i64, to_ns: i64) -> String {
        self.stamp(Record::Gap {
            head: self.head(run, 0),
            reason: GapReason::NodeLost,
            signal: Signals::NONE,
            window: self.window(&WindowEstimate::empty(self.classes.len())),
            backlog: 0,
            lost: Some(LostSpan { from: rfc3339(from_ns), to: rfc3339(to_ns), seconds: lost_seconds(from_ns, to_ns) }),
        })
    }

    /// The record of an event. `wall` is the time of its second, if known.
    ///
    /// # Panics
    /// If the class id does not belong to the recorder's classes.
    pub fn event(&self, event: &Event, wall: Option<WallTime>) -> String {
        self.stamp(Record::Event {
            stream: &self.stream,
            kind: event.kind,
            class: self.name(event.class),
            run: event.run,
            index: event.index,
            pts_ns: Pts::from_second(event.index),
            wall: self.wall(wall),
            probability: event.probability.into(),
            reason: event.reason,
        })
    }

    /// The record of a closed segment.
    ///
    /// # Panics
    /// If its class does not belong to the recorder's classes.
    pub fn segment(&self, closed: &ClosedSegment) -> String {
        self.stamp(Record::Segment {
            stream: &self.stream,
            segment: SegmentFields::new(&closed.segment, self.class_of(&closed.segment)),
            revision: closed.is_revision.into(),
        })
    }

    /// The record of something unexpected that begins or ends. `wall` is the time of its second, if known.
    ///
    /// # Panics
    /// If a class does not belong to the recorder's classes.
    pub fn expectation(&self, event: &ExpectationEvent, wall: Option<WallTime>) -> String {
        self.stamp(Record::Expectation {
            head: self.head(event.run, event.index),
            wall: self.wall(wall),
            kind: match event.end {
                None => ExpectationKind::UnexpectedBegan,
                Some(_) => ExpectationKind::UnexpectedEnded,
            },
            expected: event.expected.names(&self.classes),
            on_air: event.on_air.map(|on_air| on_air.name(&self.classes)),
            seconds: event.seconds,
            reason: event.end.map(Into::into),
        })
    }

    /// The name of the class of `segment`, if it has one.
    ///
    /// # Panics
    /// If it does not belong to the recorder's classes.
    pub fn class_of(&self, segment: &Segment) -> Option<&str> {
        let SegmentKind::Class(class) = segment.kind else { return None };
        Some(self.name(class))
    }

    /// The backlog, but 0 for a file, whose records must not depend on the load of the machine.
    fn backlog(&self, published: &Published) -> u32 {
        if self.pace == Pace::Live { published.backlog } else { 0 }
    }

    fn window<'a>(&'a self, estimate: &'a WindowEstimate) -> WindowRecord<'a> {
        WindowRecord {
            label: (estimate.seconds > 0).then(|| self.name(estimate.label)),
            unknown: estimate.is_unknown(),
            share: self.class_map(&estimate.share),
            mean: self.class_map(&estimate.mean),
            seconds: estimate.seconds,
            gaps: estimate.gaps,
        }
    }

    /// The wall time as it is recorded: for a file, arrival times are not.
    pub(crate) fn shown_wall(&self, wall: WallTime) -> Option<WallTime> {
        (self.pace == Pace::Live || wall.source != WallSource::Arrival).then_some(wall)
    }

    fn wall(&self, wall: Option<WallTime>) -> Option<WallRecord> {
        wall.and_then(|wall| self.shown_wall(wall)).map(|wall| WallRecord {
            time: rfc3339(wall.unix_ns),
            source: wall.source,
            uncertainty_ms: millis(wall.uncertainty_ns),
        })
    }

    fn name(&self, class: ClassId) -> &str {
        self.classes.name(class)
    }

    fn class_map<'a>(&'a self, values: &'a [f32]) -> ClassMap<'a> {
        assert_eq!(values.len(), self.classes.len(), "a probability vector has one value per class of the pack");
        ClassMap { names: self.classes.names(), values }
    }
}

/// The record of a segment of another machine of the fleet, whose end is not known. `class` is the name of its class.
pub(crate) fn segment_elsewhere(
    (stream, node, epoch): (&str, &str, u64),
    segment: &Segment,
    class: Option<&str>,
) -> String {
    to_json(&Stamped {
        record: Record::Segment { stream, segment: SegmentFields::new(segment, class), revision: 0 },
        schema: SCHEMA_VERSION,
        instance: None,
        node: Some(node),
        epoch: Some(epoch),
    })
}

/// Seconds between two wall times, rounded, nanoseconds since 1970-01-01 UTC.
pub fn lost_seconds(from_ns: i64, to_ns: i64) -> u64 {
    let ns = u64::try_from(to_ns.saturating_sub(from_ns)).unwrap_or(0);
    (ns + NANOS_PER_SECOND / 2) / NANOS_PER_SECOND
}

/// Why serialising cannot fail.
pub(crate) const SERIALISES: &str = "records and views are structs and maps with string keys";

pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect(SERIALISES)
}

impl<'a> ModalityRecord<'a> {
    fn new(recorder: &'a Recorder, scores: &Option<ModalityScores>, absent: Option<Absent>) -> Self {
        match scores {
            Some(scores) => ModalityRecord::Scored {
                label: recorder.name(scores.label),
                score: scores.score().into(),
                votes: scores.votes,
                voters: scores.voters,
            },
            None => ModalityRecord::Missing { absent: absent.into() },
        }
    }
}

impl From<Option<Absent>> for Missing {
    /// Without scores and without a reason, the data existed but the pack has no model for them.
    fn from(absent: Option<Absent>) -> Self {
        match absent {
            Some(Absent::NoTrack) => Missing::NoTrack,
            Some(Absent::NoData) => Missing::NoData,
            Some(Absent::NoPairs) => Missing::NoPairs,
            Some(Absent::Silent) => Missing::Silent,
            None => Missing::NoModel,
        }
    }
}

#[cfg(test)]
mod tests;
