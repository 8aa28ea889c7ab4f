//! Jobs for people: what is done, what waits, what was set aside and why, and how long the rest takes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::store::JobKeys;
use super::{ArchivePart, RecordingState};

/// The rate is that of parts which ended within this time, ns.
const RATE_NS: i64 = 600_000_000_000;

/// A recording that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// Its name.
    pub recording: String,
    /// Why.
    pub reason: String,
}

/// A part that a machine works on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkingPart {
    /// Name of the recording.
    pub recording: String,
    /// Number of the part, from 1; 0 for a recording that is not divided.
    pub part: usize,
    /// The machine.
    pub node: String,
    /// How often it has failed.
    pub failures: u32,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobView {
    /// Its name.
    pub name: String,
    /// Address of the results.
    pub results: String,
    /// The pack that decides.
    pub pack: String,
    /// It was cancelled.
    pub is_cancelled: bool,
    /// All recordings.
    pub recordings: usize,
    /// Those whose results are durable.
    pub done: usize,
    /// Those that machines work on.
    pub running: usize,
    /// Those that nobody works on.
    pub waiting: usize,
    /// Those that were set aside.
    pub set_aside: Vec<SetAside>,
    /// What machines work on.
    pub working: Vec<WorkingPart>,
    /// Seconds of media that were decided.
    pub seconds: u64,
    /// Seconds of media decided in a second, over the last ten minutes; `None` before the first part has ended.
    pub rate: Option<f64>,
    /// Seconds until all is done at that rate.
    pub eta_s: Option<u64>,
}

/// A part of a recording that is done: its share of the bytes, its seconds, and when it ended.
struct DonePart {
    bytes: f64,
    seconds: u64,
    ended_ns: i64,
}

impl JobView {
    /// The view at `now_ns`, nanoseconds since 1970-01-01 UTC; `None` without a job.
    pub(super) fn new(name: &str, keys: &JobKeys, now_ns: i64) -> Option<Self> {
        let (job, _) = keys.job.as_ref()?;
        let mut parts: BTreeMap<&str, Vec<(usize, &ArchivePart)>> = BTreeMap::new();
        for ((id, number), (part, _)) in &keys.parts {
            parts.entry(id).or_default().push((*number, part));
        }
        let mut view = Self {
            name: name.to_owned(),
            results: job.results.clone(),
            pack: job.pack.clone(),
            is_cancelled: job.is_cancelled,
            recordings: keys.recordings.len(),
            done: 0,
            running: 0,
            waiting: 0,
            set_aside: Vec::new(),
            working: Vec::new(),
            seconds: 0,
            rate: None,
            eta_s: None,
        };
        let (mut done, mut left_bytes) = (Vec::new(), 0.0);
        for (id, (recording, _)) in &keys.recordings {
            let of = parts.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
            let current = || of.iter().filter(|(_, part)| part.attempt == recording.attempt);
            let share = recording.size as f64 / recording.parts.len().max(1) as f64;
            let mut bytes = 0.0;
            for (_, part) in current().filter(|(number, _)| (*number > 0) != recording.parts.is_empty()) {
                if let Some(seconds) = part.seconds {
                    done.push(DonePart { bytes: share, seconds, ended_ns: part.ended_ns });
                    view.seconds += seconds;
                    bytes += share;
                }
            }
            match &recording.state {
                RecordingState::Done { .. } => view.done += 1,
                RecordingState::SetAside { reason } => {
                    view.set_aside.push(SetAside { recording: recording.name.clone(), reason: reason.clone() });
                }
                RecordingState::Open => {
                    let working = current().filter_map(|(number, part)| {
                        let (node, _) = part.worker.as_ref().filter(|_| part.seconds.is_none())?;
                        let (recording, failures) = (recording.name.clone(), part.tries);
                        Some(WorkingPart { recording, part: *number, node: node.clone(), failures })
                    });
                    let before = view.working.len();
                    view.working.extend(working);
                    *(if view.working.len() > before { &mut view.running } else { &mut view.waiting }) += 1;
                    left_bytes += (recording.size as f64 - bytes).max(0.0);
                }
            }
        }
        let recent: Vec<&DonePart> =
            done.iter().filter(|part| now_ns.saturating_sub(part.ended_ns) < RATE_NS).collect();
        let over_s = now_ns.saturating_sub(job.submitted_ns).clamp(1_000_000_000, RATE_NS) as f64 / 1e9;
        if !recent.is_empty() {
            view.rate = Some(recent.iter().map(|part| part.seconds as f64).sum::<f64>() / over_s);
            let bytes_rate = recent.iter().map(|part| part.bytes).sum::<f64>() / over_s;
            view.eta_s = (bytes_rate > 0.0 && !job.is_cancelled).then(|| (left_bytes / bytes_rate).ceil() as u64);
        }
        Some(view)
    }
}

#[cfg(test)]
mod tests {
    use super::super::objects::FoundObject;
    use super::super::task::{PartPlan, ScoreVariables};
    use super::super::{ArchiveJob, ArchiveRecording};
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn recordings_are_counted_and_the_rest_is_estimated_by_bytes() {
        let job = ArchiveJob {
            results: "file:///r".into(),
            pack: "compact".into(),
            manifest_sha256: "9d01".into(),
            variables: ScoreVariables::new(),
            part_seconds: 1200,
            submitted_ns: 1000 * S,
            is_cancelled: false,
        };
        let mut keys = JobKeys { job: Some((job, 1)), ..JobKeys::default() };
        let mut add = |id: &str, size, state, parts: &[(usize, ArchivePart)]| {
            let object = FoundObject { url: format!("file:///{id}"), name: id.into(), size, version: "1".into() };
            let count = parts.iter().filter(|(number, _)| *number > 0).count() as u64;
            let plan = |n| PartPlan { from: n * 1200, to: (n + 1) * 1200, starts: Vec::new() };
            let parts_of = (0..count).map(plan).collect();
            let recording = ArchiveRecording { state, parts: parts_of, ..ArchiveRecording::new(&object) };
            keys.recordings.insert(id.into(), (recording, 1));
            for (number, part) in parts {
                keys.parts.insert((id.into(), *number), (part.clone(), 1));
            }
        };
        let ended = |seconds| ArchivePart { seconds: Some(seconds), ended_ns: 1050 * S, ..ArchivePart::default() };
        let works = ArchivePart { worker: Some(("node-a".into(), 7)), tries: 1, ..ArchivePart::default() };
        let done = RecordingState::Done { seconds: 600, gaps: 0, at_ns: 1050 * S };
        add("a", 1000, done, &[(0, ended(600))]);
        add("b", 4000, RecordingState::Open, &[(0, ended(0)), (1, ended(1200)), (2, works)]);
        add("c", 7000, RecordingState::Open, &[]);
        add("d", 9000, RecordingState::SetAside { reason: "no tracks".into() }, &[]);
        let view = JobView::new("j", &keys, 1100 * S).unwrap();
        assert_eq!((view.recordings, view.done, view.running, view.waiting), (4, 1, 1, 1));
        assert_eq!((view.set_aside[0].reason.as_str(), view.seconds), ("no tracks", 1800));
        assert_eq!((view.working[0].part, view.working[0].node.as_str(), view.working[0].failures), (2, "node-a", 1));
        // 1,800 seconds and 3,000 bytes in 100 s; 9,000 bytes are left.
        assert_eq!((view.rate, view.eta_s), (Some(18.0), Some(300)));
        let later = JobView::new("j", &keys, 5000 * S).unwrap();
        assert_eq!((later.rate, later.eta_s), (None, None), "nothing has ended for long");
    }
}
