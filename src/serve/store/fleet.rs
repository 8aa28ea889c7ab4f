//! What other machines of a fleet publish.
//!
//! Events, states and segments are written as they come. Seconds wait in memory, and each minute those of all streams are written in one
//! transaction with the number of the last record, so the records after that number are all that is missing after a kill. What is read twice
//! is stored once: seconds are in order within a stream, segments have a key, and other records are compared.
//!
//! A machine publishes a segment when it is closed. Until then, and for one that a lost machine never closed, segments are made of the
//! seconds and events here, as the machine makes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, Transaction, params};
use serde::Deserialize;
use serde_json::Value;

use super::StoreMessage;
use super::history::{History, HistoryRow};
use crate::hub::{FleetRecord, FleetSource, KeptSegment, RecordKind};
use crate::record::format::parse_rfc3339;
use crate::record::reader::{ClassNames, ReadLine, read_line};
use crate::record::{SegmentContent, kept, segment_elsewhere};
use touchline_core::decision::{Event, EventKind};
use touchline_core::segment::{Segment, SegmentCloser, SegmentKind};
use touchline_core::time::RunId;

/// Seconds between two times at which an open segment is written.
const KEEP_OPEN_S: u64 = 60;

/// The mean probability from which on the class of a vote is taken as on air, if its event was before the first record.
const ON_AIR: f64 = 0.5;

/// The place of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FollowedPlace {
    epoch: u64,
    run: u32,
    index: u64,
}

/// What is stored of a fleet.
pub(super) struct FleetProgress {
    created_ns: i64,
    sequence: u64,
    places: Vec<(String, FollowedPlace)>,
}

/// The streams of other machines.
#[derive(Default)]
pub(super) struct FleetHistory {
    created_ns: i64,
    /// Number of the last record.
    sequence: u64,
    streams: BTreeMap<String, FollowedStream>,
    seconds: History,
    rows: Vec<HistoryRow>,
}

/// A stream of another machine.
#[derive(Default)]
struct FollowedStream {
    node: Arc<str>,
    /// The last second.
    last: FollowedPlace,
    /// The number of its record.
    sequence: u64,
    /// It has a second that is not written.
    is_ahead: bool,
    classes: ClassNames,
    /// Of the epoch of the last second; `None` once a later epoch has begun.
    closer: Option<SegmentCloser>,
    /// Run and last second of the last segment that the machine has closed in that epoch.
    closed: Option<(u32, u64)>,
}

impl FollowedStream {
    /// A segment that the machine has not closed.
    fn segment(&self, stream: &str, segment: &Segment, is_open: bool) -> Option<StoreMessage> {
        if self.closed >= Some((segment.run.0, segment.last)) {
            return None;
        }
        let class = match segment.kind {
            SegmentKind::Class(class) => self.classes.name(class),
            _ => None,
        };
        let json = segment_elsewhere((stream, &self.node, self.last.epoch), segment, class).into();
        let kept = KeptSegment::new(segment, class, is_open, json)?;
        let segment = KeptSegment { epoch: self.last.epoch, node: Some(self.node.clone()), ..kept };
        Some(StoreMessage::Segment { stream: stream.to_owned(), segment })
    }
}

/// The head of a record.
struct RecordHead<'a> {
    stream: &'a str,
    node: &'a str,
    epoch: u64,
    record: &'a FleetRecord,
    value: &'a Value,
}

impl FleetHistory {
    /// Starts with what is stored.
    pub fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut history = Self::default();
        let mut rows = connection.prepare("SELECT created_ns, sequence FROM fleet_position")?;
        for row in rows.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))? {
            let (created_ns, sequence) = row?;
            (history.created_ns, history.sequence) = (created_ns, sequence.unsigned_abs());
        }
        let mut rows = connection.prepare("SELECT stream, epoch, run, last FROM fleet_places")?;
        let places = rows.query_map([], |row| {
            let [epoch, index] = [row.get::<_, i64>(1)?, row.get::<_, i64>(3)?].map(i64::unsigned_abs);
            Ok((row.get(0)?, FollowedPlace { epoch, run: row.get(2)?, index }))
        })?;
        for place in places {
            let (stream, last) = place?;
            history.streams.insert(stream, FollowedStream { last, ..FollowedStream::default() });
        }
        Ok(history)
    }

    /// Takes records in order. Returns what is to be written; after that, [`FleetHistory::written`].
    pub fn take(&mut self, source: &FleetSource, records: &[FleetRecord]) -> Vec<StoreMessage> {
        if source.created_ns != self.created_ns {
            // Numbers and epochs may have started again.
            *self = Self { created_ns: source.created_ns, ..Self::default() };
        }
        let mut messages = Vec::new();
        for record in records {
            self.sequence = self.sequence.max(record.sequence);
            let Ok(value) = serde_json::from_str::<Value>(&record.json) else { continue };
            let (Some(stream), Some(node), Some(epoch)) =
                (value["stream"].as_str(), value["node"].as_str(), value["epoch"].as_u64())
            else {
                continue;
            };
            if node == &*source.node {
                self.end_before(stream, epoch, &mut messages);
            } else {
                self.record(&RecordHead { stream, node, epoch, record, value: &value }, &mut messages);
            }
        }
        if !self.rows.is_empty() {
            messages.extend(self.drain());
        }
        messages
    }

    /// What waits, with the number of the last record.
    pub fn drain(&mut self) -> Vec<StoreMessage> {
        let rows = self.rows.drain(..).chain(self.seconds.drain());
        let mut messages: Vec<StoreMessage> = rows.map(StoreMessage::Row).collect();
        let ahead = self.streams.iter().filter(|(_, followed)| followed.is_ahead);
        let places = ahead.map(|(stream, followed)| (stream.clone(), followed.last)).collect();
        if self.sequence > 0 {
            let progress = FleetProgress { created_ns: self.created_ns, sequence: self.sequence, places };
            messages.push(StoreMessage::Fleet(progress));
        }
        messages
    }

    /// What was taken is on the disk, but for the seconds that wait.
    pub fn written(&mut self) {
        if self.seconds.is_empty() {
            self.streams.values_mut().for_each(|followed| followed.is_ahead = false);
        }
    }

    /// The seconds and events of a stream that are in no row yet.
    pub fn pending(&self, stream: &str) -> Vec<u8> {
        self.seconds.pending(stream)
    }

    /// The stream was removed from the fleet.
    pub fn forget(&mut self, stream: &str) {
        self.streams.remove(stream);
        self.seconds.forget(stream);
    }

    fn record(&mut self, head: &RecordHead<'_>, to: &mut Vec<StoreMessage>) {
        let RecordHead { stream, epoch, record, value, .. } = *head;
        match record.kind {
            RecordKind::Second | RecordKind::Gap => self.second(head, to),
            RecordKind::Segment => to.extend(self.segment(head)),
            RecordKind::Pack => {}
            RecordKind::State if value["state"] == "removed" => {}
            RecordKind::Event | RecordKind::State | RecordKind::Incident | RecordKind::Expectation => {
                if record.kind == RecordKind::Event {
                    self.event(stream, epoch, record);
                }
                let time = value["wall"]["time"].as_str().or(value["at"].as_str());
                let at_ms = time.and_then(|time| parse_rfc3339(time).ok()).map(|ns| ns.div_euclid(1_000_000));
                let (kind, json, at_ms) = (record.kind, record.json.as_str().into(), at_ms.unwrap_or(record.at_ms));
                to.push(StoreMessage::RecordOnce { stream: stream.to_owned(), kind, json, at_ms });
            }
        }
    }

    fn second(&mut self, head: &RecordHead<'_>, to: &mut Vec<StoreMessage>) {
        let RecordHead { stream, node, epoch, record, value } = *head;
        let number = |key: &str| value[key].as_u64();
        let run = number("run").and_then(|run| u32::try_from(run).ok());
        // A lost span is no second.
        let (Some(run), Some(index), true) = (run, number("index"), value["lost"].is_null()) else { return };
        let place = FollowedPlace { epoch, run, index };
        if self.streams.get(stream).is_some_and(|followed| place <= followed.last) {
            return;
        }
        self.end_before(stream, epoch, to);
        let followed = self.streams.entry(stream.to_owned()).or_default();
        let line = kept::line_of(value);
        let Ok(Some(ReadLine::Second { second, vote_window })) = read_line(line.as_bytes(), &mut followed.classes)
        else {
            return;
        };
        (followed.last, followed.sequence, followed.is_ahead) = (place, record.sequence, true);
        if *followed.node != *node {
            followed.node = node.into();
        }
        let at_ms = second.wall_ns.map_or(record.at_ms, |ns| ns.div_euclid(1_000_000));
        let joined = followed.closer.is_none() && vote_window > 1;
        let closer = followed.closer.get_or_insert_default();
        // What is closed here the machine closes too, and its own record says the same.
        closer.push(second, vote_window);
        // The event of what is on air may be before the first record.
        let class = value["window"]["label"].as_str().filter(|_| joined && value["window"]["unknown"] != true);
        let class = class.filter(|class| value["window"]["mean"][*class].as_f64() >= Some(ON_AIR));
        if let Some(class) = class.and_then(|class| followed.classes.id(class).ok()) {
            let (kind, run) = (EventKind::Onset, RunId(run));
            closer.event(&Event { kind, class, run, index, probability: 0.0, reason: None });
        }
        if index.is_multiple_of(KEEP_OPEN_S)
            && let Some(open) = closer.open()
        {
            to.extend(followed.segment(stream, &open, true));
        }
        self.rows.extend(self.seconds.take(stream, &line, Some(at_ms)));
    }

    fn event(&mut self, stream: &str, epoch: u64, record: &FleetRecord) {
        // One that is read again is before the last second.
        let followed = self.streams.get_mut(stream).filter(|followed| followed.sequence < record.sequence);
        let (Some(followed), json) = (followed, record.json.as_str()) else { return };
        if let Some(closer) = followed.closer.as_mut().filter(|_| followed.last.epoch == epoch)
            && let Ok(Some(ReadLine::Event(event))) = read_line(json.as_bytes(), &mut followed.classes)
        {
            closer.event(&event);
        }
        // An event alone does not complete a row.
        let _ = self.seconds.take(stream, json, None);
    }

    /// A segment that its machine has closed.
    fn segment(&mut self, head: &RecordHead<'_>) -> Option<StoreMessage> {
        #[derive(Deserialize)]
        struct ClosedRecord {
            run: RunId,
            first: u64,
            last: u64,
            began: Option<String>,
            ended: Option<String>,
            content: SegmentContent,
            class: Option<String>,
        }
        let RecordHead { stream, node, epoch, record, .. } = *head;
        let ms = |time: &str| Some(parse_rfc3339(time).ok()?.div_euclid(1_000_000));
        let closed: ClosedRecord = serde_json::from_str(&record.json).ok()?;
        let ClosedRecord { run, first, last, began, ended, content, class } = closed;
        if let Some(followed) = self.streams.get_mut(stream).filter(|followed| followed.last.epoch == epoch) {
            followed.closed = followed.closed.max(Some((run.0, last)));
        }
        let segment = KeptSegment {
            epoch,
            node: Some(node.into()),
            run,
            first,
            last,
            began_ms: ms(&began?)?,
            ended_ms: ms(&ended?)?,
            content,
            class: class.map(Into::into),
            is_open: false,
            json: record.json.as_str().into(),
            poster: None,
        };
        Some(StoreMessage::Segment { stream: stream.to_owned(), segment })
    }

    /// A machine has published a stream with `epoch`: ends what is open of the epoch before.
    fn end_before(&mut self, stream: &str, epoch: u64, to: &mut Vec<StoreMessage>) {
        let Some(followed) = self.streams.get_mut(stream).filter(|followed| followed.last.epoch < epoch) else {
            return;
        };
        let open = followed.closer.take().map(|mut closer| closer.finish()).unwrap_or_default();
        to.extend(open.iter().filter_map(|closed| followed.segment(stream, &closed.segment, false)));
        followed.closed = None;
    }
}

/// Number of the last stored record of the JetStream stream that was created at `created_ns`.
pub(super) fn position(connection: &Connection, created_ns: i64) -> rusqlite::Result<u64> {
    let sql = "SELECT coalesce(max(sequence), 0) FROM fleet_position WHERE created_ns = ?1";
    connection.query_row(sql, [created_ns], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}

/// Writes how far the records are stored.
pub(super) fn write(transaction: &Transaction<'_>, progress: &FleetProgress) -> rusqlite::Result<()> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    if position(transaction, progress.created_ns)? == 0 {
        transaction.execute("DELETE FROM fleet_places", [])?;
    }
    let sql = "INSERT OR REPLACE INTO fleet_position (one, created_ns, sequence) VALUES (1, ?1, ?2)";
    transaction.execute(sql, params![progress.created_ns, number(progress.sequence)])?;
    let sql = "INSERT OR REPLACE INTO fleet_places (stream, epoch, run, last) VALUES (?1, ?2, ?3, ?4)";
    let mut statement = transaction.prepare(sql)?;
    progress.places.iter().try_for_each(|(stream, FollowedPlace { epoch, run, index })| {
        statement.execute(params![stream, number(*epoch), run, number(*index)]).map(drop)
    })
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
