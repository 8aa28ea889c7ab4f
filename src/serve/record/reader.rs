//! Reads records that were written as JSON lines back into segments.
//!
//! Keys and kinds of records that are not needed are ignored, so files of later versions can be read. A line that is not a
//! record is counted and skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read};

use serde::Deserialize;

use super::format::parse_rfc3339;
use touchline_core::clip::GapReason;
use touchline_core::decision::{Event, EventKind};
use touchline_core::labels::{ClassId, Modality};
use touchline_core::segment::{MILLION, RecordedSecond, SegmentedStream, Segmenter, Verdict};
use touchline_core::time::{Pts, RunId};
use touchline_core::timecode::{FrameRate, TimecodeMark};

/// The longest line that is read, bytes. A second of a pack with 1000 classes has 100 kB.
const LINE_MAX: usize = 4 << 20;

/// The largest number of a second: 126 years.
const INDEX_MAX: u64 = 4_000_000_000;

/// Damaged lines that are named.
const NAMED_LINES: usize = 5;

/// A record with the keys that segments need.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ReadRecord {
    Second {
        stream: String,
        node: Option<String>,
        epoch: Option<u64>,
        run: RunId,
        index: u64,
        wall: Option<ReadWall>,
        timecode: Option<ReadTimecode>,
        decided_by: Modality,
        #[serde(default)]
        modalities: ReadModalities,
        #[serde(default)]
        unknown: bool,
        probabilities: BTreeMap<String, f64>,
        window: ReadWindow,
    },
    Gap {
        stream: String,
        node: Option<String>,
        epoch: Option<u64>,
        run: RunId,
        index: u64,
        reason: GapReason,
        window: ReadWindow,
    },
    Event {
        stream: String,
        node: Option<String>,
        epoch: Option<u64>,
        kind: EventKind,
        class: String,
        run: RunId,
        index: u64,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct ReadWall {
    time: String,
}

#[derive(Default, Deserialize)]
struct ReadModalities {
    #[serde(default)]
    audio: ReadAudio,
}

#[derive(Default, Deserialize)]
struct ReadAudio {
    /// As text: later versions may have further reasons.
    absent: Option<String>,
}

#[derive(Deserialize)]
struct ReadTimecode {
    label: String,
    rate: FrameRate,
    pts_ns: Pts,
}

impl ReadTimecode {
    fn mark(self) -> Result<TimecodeMark, String> {
        let Self { label, rate, pts_ns } = self;
        Ok(TimecodeMark { pts: pts_ns, frame: rate.parse_timecode(&label)?, rate })
    }
}

#[derive(Deserialize)]
struct ReadWindow {
    seconds: u32,
    gaps: u32,
}

/// The contents of a file of records.
#[derive(Debug, Default)]
pub struct RecordFile {
    /// Names of the classes, by [`ClassId`].
    pub classes: Vec<String>,
    /// The streams by id. Those without a second are left out.
    pub streams: BTreeMap<String, SegmentedStream>,
    /// Ids of the streams of which every decided second was without a sound track.
    pub silent: BTreeSet<String>,
    /// Lines that are records.
    pub records: u64,
    /// Lines that are not.
    pub damaged: u64,
    /// The first of them: number of the line, from 1, and what is wrong.
    pub damaged_lines: Vec<(u64, String)>,
}

/// What a line says of segments.
pub(crate) enum ReadLine {
    /// A second, and the number of seconds in the vote window at it.
    Second {
        /// The second.
        second: RecordedSecond,
        /// Seconds in the vote window.
        vote_window: u32,
    },
    /// An event.
    Event(Event),
}

/// Where a record comes from.
struct RecordOrigin {
    stream: String,
    /// The epoch of its fleet; `None` without one.
    epoch: Option<u64>,
    /// Another machine of the fleet wrote it.
    is_elsewhere: bool,
    /// Whether its second was without a sound track; `None` for other records.
    is_silent: Option<bool>,
}

/// Names of classes, by [`ClassId`] in the order in which they were met.
#[derive(Default)]
pub(crate) struct ClassNames {
    names: Vec<String>,
    ids: BTreeMap<String, ClassId>,
}

impl ClassNames {
    /// The name of a class.
    pub(crate) fn name(&self, class: ClassId) -> Option<&str> {
        self.names.get(class.index()).map(String::as_str)
    }

    /// The id of a class.
    ///
    /// # Errors
    /// If there are too many.
    pub(crate) fn id(&mut self, name: &str) -> Result<ClassId, String> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let id = u16::try_from(self.names.len()).map(ClassId);
        let id = id.map_err(|_| format!("there are more than {} classes", u16::MAX))?;
        self.ids.insert(name.to_owned(), id);
        self.names.push(name.to_owned());
        Ok(id)
    }
}

/// Segmenters by epoch.
type Epochs = BTreeMap<Option<u64>, Segmenter>;

/// What was read so far.
#[derive(Default)]
struct Collector {
    file: RecordFile,
    classes: ClassNames,
    /// Only records of this machine count.
    is_only_here: bool,
    streams: BTreeMap<String, Epochs>,
    /// Streams that had sound in some second.
    sounding: BTreeSet<String>,
}

/// Reads all records. Those of a stream that machines of a fleet took over from each other follow each other; of two seconds of the same time,
/// that of the higher epoch counts.
///
/// # Errors
/// If reading fails.
pub fn read(from: impl BufRead) -> io::Result<RecordFile> {
    collect(from, Collector::default())
}

/// As [`read`], for the lines of a store: without the seconds that other machines of the fleet decided.
///
/// # Errors
/// As [`read`].
pub fn read_here(from: impl BufRead) -> io::Result<RecordFile> {
    collect(from, Collector { is_only_here: true, ..Collector::default() })
}

fn collect(mut from: impl BufRead, mut collector: Collector) -> io::Result<RecordFile> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if from.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let result = if line.len() == LINE_MAX && !line.ends_with(b"\n") {
            from.skip_until(b'\n')?;
            Err(format!("it is longer than {} MiB", LINE_MAX >> 20))
        } else if line.trim_ascii().is_empty() {
            continue;
        } else {
            collector.take(&line)
        };
        match result {
            Ok(()) => collector.file.records += 1,
            Err(cause) => {
                collector.file.damaged += 1;
                if collector.file.damaged_lines.len() < NAMED_LINES {
                    collector.file.damaged_lines.push((number, cause));
                }
            }
        }
    }
    let Collector { mut file, classes, streams, sounding, .. } = collector;
    file.classes = classes.names;
    file.silent.retain(|stream| !sounding.contains(stream));
    let joined = |epochs: Epochs| {
        let parts = epochs.into_values().map(Segmenter::finish).filter(|part| !part.seconds().is_empty());
        parts.reduce(|mut whole, part| {
            whole.append(part);
            whole
        })
    };
    file.streams = streams.into_iter().filter_map(|(id, epochs)| Some((id, joined(epochs)?))).collect();
    Ok(file)
}

/// What a line says of the segments of a stream.
///
/// # Errors
/// Names what is wrong with it.
pub(crate) fn read_line(line: &[u8], classes: &mut ClassNames) -> Result<Option<ReadLine>, String> {
    Ok(parsed(line, classes)?.map(|(_, line)| line))
}

fn parsed(line: &[u8], classes: &mut ClassNames) -> Result<Option<(RecordOrigin, ReadLine)>, String> {
    let record: ReadRecord = serde_json::from_slice(line).map_err(|e| {
        // The place within the line; serde_json counts lines itself.
        e.to_string().replace(" at line 1 column ", " at column ")
    })?;
    let origin = |stream, epoch, node: Option<String>, is_silent| {
        let is_elsewhere = node.is_some();
        RecordOrigin { stream, epoch, is_elsewhere, is_silent }
    };
    let of_second = |second, window: ReadWindow| {
        let vote_window = window.seconds.saturating_add(window.gaps);
        ReadLine::Second { second, vote_window }
    };
    Ok(Some(match record {
        ReadRecord::Second {
            stream,
            node,
            epoch,
            run,
            index,
            wall,
            timecode,
            decided_by,
            modalities,
            unknown,
            probabilities,
            window,
        } => {
            let index = checked(index)?;
            let wall_ns = wall.map(|wall| parse_rfc3339(&wall.time)).transpose()?;
            let timecode = timecode.map(ReadTimecode::mark).transpose()?;
            let mut values = vec![0; classes.names.len()];
            for (class, probability) in probabilities {
                if !(0.0..=1.0).contains(&probability) {
                    return Err(format!("the probability {probability} is not between 0 and 1"));
                }
                let id = classes.id(&class)?.index();
                if values.len() <= id {
                    values.resize(id + 1, 0);
                }
                values[id] = (probability * f64::from(MILLION)).round() as u32;
            }
            let is_silent = modalities.audio.absent.as_deref() == Some("no-track");
            let verdict = Verdict::Decided { is_unknown: unknown, modality: decided_by, probabilities: values };
            let second = RecordedSecond { run, index, wall_ns, timecode, verdict };
            (origin(stream, epoch, node, Some(is_silent)), of_second(second, window))
        }
        ReadRecord::Gap { stream, node, epoch, run, index, reason, window } => {
            let index = checked(index)?;
            let verdict = Verdict::Gap(reason);
            let second = RecordedSecond { run, index, wall_ns: None, timecode: None, verdict };
            (origin(stream, epoch, node, None), of_second(second, window))
        }
        ReadRecord::Event { stream, node, epoch, kind, class, run, index } => {
            let class = classes.id(&class)?;
            let event = Event { kind, class, run, index, probability: 0.0, reason: None };
            (origin(stream, epoch, node, None), ReadLine::Event(event))
        }
        ReadRecord::Other => return Ok(None),
    }))
}

impl Collector {
    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        let Some((origin, line)) = parsed(line, &mut self.classes)? else { return Ok(()) };
        let RecordOrigin { stream, epoch, is_elsewhere, is_silent } = origin;
        if is_elsewhere && self.is_only_here {
            return Ok(());
        }
        if let Some(is_silent) = is_silent {
            let of_stream = if is_silent { &mut self.file.silent } else { &mut self.sounding };
            if !of_stream.contains(&stream) {
                of_stream.insert(stream.clone());
            }
        }
        // Without `entry`, which would copy the name of the stream for each second.
        if !self.streams.contains_key(&stream) {
            self.streams.insert(stream.clone(), Epochs::new());
        }
        let epochs = self.streams.get_mut(&stream).expect("it was inserted");
        match line {
            ReadLine::Second { second, vote_window } => epochs.entry(epoch).or_default().push(second, vote_window),
            ReadLine::Event(event) => {
                // In a store of before, seconds are without the epoch that their events have.
                let is_old = !epochs.contains_key(&epoch) && epochs.contains_key(&None);
                epochs.entry(epoch.filter(|_| !is_old)).or_default().event(&event);
            }
        }
        Ok(())
    }
}

fn checked(index: u64) -> Result<u64, String> {
    if index > INDEX_MAX { Err(format!("the index {index} is larger than {INDEX_MAX}")) } else { Ok(index) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::Recorder;
    use crate::testing::{classes, gap, predicted};
    use touchline_core::decision::SecondOutcome;
    use touchline_core::item::Pace;
    use touchline_core::segment::SegmentKind;

    fn event(kind: EventKind, index: u64) -> Event {
        let class = classes().id("tennis").unwrap();
        Event { kind, class, run: RunId(0), index, probability: 0.9, reason: None }
    }

    fn mark() -> TimecodeMark {
        TimecodeMark { pts: Pts(0), frame: 107_892, rate: FrameRate::parse("29.97df").unwrap() }
    }

    /// A live stream of tennis: seconds 0 to 9, of which the eighth is a gap.
    fn lines() -> Vec<String> {
        let recorder = Recorder::new("court-1", Arc::new(classes()), Pace::Live);
        let mut lines = Vec::new();
        for index in 0..10 {
            let mut published = if index == 8 { gap(8, GapReason::Overload) } else { predicted(index, "tennis", 0.9) };
            if let SecondOutcome::Predicted(second) = &mut published.outcome {
                second.timecode = (index < 8).then_some(mark().moved_to(Pts::from_second(index)));
            }
            published.events = if index == 2 { vec![event(EventKind::Onset, 2)] } else { Vec::new() };
            lines.extend(recorder.published(&published));
        }
        lines.push(recorder.event(&event(EventKind::Offset, 9), None));
        lines
    }

    #[test]
    fn written_records_are_read() {
        let text = lines().join("\n");
        let file = read(text.as_bytes()).unwrap();
        assert_eq!((file.records, file.damaged), (12, 0));
        let segments = file.streams["court-1"].segments(|_| true);
        let tennis = file.classes.iter().position(|name| name == "tennis").unwrap();
        assert_eq!(segments.len(), 1);
        assert_eq!(segments[0].kind, SegmentKind::Class(ClassId(tennis as u16)));
        assert_eq!((segments[0].first, segments[0].last, segments[0].decided), (0, 9, 9));
        assert_eq!((segments[0].mean, segments[0].peak), (Some(900_000), Some(900_000)));
        assert_eq!(segments[0].gaps, [1, 0, 0, 0, 0, 0]);
        assert!(segments[0].began_ns.is_some(), "a live record has wall time");
        // The last seconds have no timecode of their own.
        assert_eq!(segments[0].timecodes, Some([mark(), mark().moved_to(Pts::from_second(9))]));
        let wrong = text.replacen("01:00:00;00", "01:61:00;00", 1);
        assert_eq!(read(wrong.as_bytes()).unwrap().damaged, 1);
    }

    #[test]
    fn unknown_keys_and_kinds_are_ignored_and_damage_is_named_by_line() {
        let mut lines = lines();
        lines[1] = lines[1].replacen('{', "{\"later\":[1,{}],", 1);
        lines.insert(2, "{\"type\":\"segment\",\"stream\":\"court-1\"}".into());
        lines.insert(3, "{\"type\":\"second\",\"stream\":".into());
        lines.insert(4, String::new());
        lines.insert(5, "\u{7f}\u{0}".into());
        lines.insert(6, lines[0].replacen("\"index\":0", "\"index\":18446744073709551615", 1));
        lines.insert(7, "y".repeat(LINE_MAX + 10));
        let file = read(lines.join("\n").as_bytes()).unwrap();
        assert_eq!((file.records, file.damaged), (13, 4));
        assert_eq!(file.damaged_lines.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [4, 6, 7, 8]);
        assert_eq!(file.streams["court-1"].segments(|_| true).len(), 1);
        assert!(read(&b""[..]).unwrap().streams.is_empty());
    }

    #[test]
    fn epochs_of_a_stream_follow_each_other_although_their_runs_have_the_same_numbers() {
        let of = |epoch: u64, node: &str, indexes: std::ops::Range<u64>, later_s: i64| {
            let recorder = Recorder::new("court-1", Arc::new(classes()), Pace::Live);
            let line = move |index: u64| {
                let mut published = predicted(index, "tennis", 0.9);
                if let SecondOutcome::Predicted(second) = &mut published.outcome {
                    second.wall.unix_ns += later_s * 1_000_000_000;
                }
                let text = recorder.published(&published).remove(0);
                text.replacen('{', &format!("{{\"node\":\"{node}\",\"epoch\":{epoch},"), 1)
            };
            indexes.map(line).collect::<Vec<_>>()
        };
        // The second machine decided its first two seconds at the time of the last two of the first one. A minute of it was read first.
        let lines = [of(2, "b", 0..30, 18), of(1, "a", 0..20, 0), of(2, "b", 30..40, 18)].concat();
        let file = read(lines.join("\n").as_bytes()).unwrap();
        let stream = &file.streams["court-1"];
        let walls: Vec<i64> = stream.seconds().iter().map(|second| second.wall_ns.unwrap() / 1_000_000_000).collect();
        assert_eq!(walls, (0..58).map(|second| walls[0] + second).collect::<Vec<_>>());
        assert_eq!(stream.segments(|_| true).iter().map(|s| s.seconds()).collect::<Vec<_>>(), [18, 40]);
        assert!(read_here(lines.join("\n").as_bytes()).unwrap().streams.is_empty(), "both are elsewhere");
    }
}
