//! The account of a stream's seconds, from its records and their times.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

use crate::common::live::RecordReader;

/// A record and the time it was read, in seconds since the start.
#[derive(Clone, Debug)]
pub struct Stamped {
    pub at_s: f64,
    pub record: Value,
}

/// Reads the records of a running program.
pub struct Tail {
    records: Arc<Mutex<Vec<Stamped>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tail {
    pub fn start(path: PathBuf, began: Instant) -> Self {
        let (records, stop) = (Arc::<Mutex<Vec<Stamped>>>::default(), Arc::new(AtomicBool::new(false)));
        let (to, stopped) = (records.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let (mut reader, mut is_last) = (RecordReader::new(&path), false);
            loop {
                let records = reader.read();
                let at_s = began.elapsed().as_secs_f64();
                to.lock().extend(records.into_iter().map(|record| Stamped { at_s, record }));
                if is_last {
                    return;
                }
                is_last = stopped.load(Ordering::Acquire);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { records, stop, thread: Some(thread) }
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Stamped> {
        std::thread::sleep(Duration::from_millis(300));
        self.records.lock().clone()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Longer silence between two records is counted as unexplained unless a failure or an incident was reported. It covers one second
/// and the time to decide it on a machine that is busy with faults.
const SILENCE_S: f64 = 5.0;

/// Longer unexplained silence is a fault. The limit is longer than the detection of any stall, and than the delay of decisions on a
/// machine with few processors.
const LOST_S: f64 = 30.0;

/// The seconds of one stream.
#[derive(Debug, Default)]
pub struct Account {
    pub id: String,
    /// All seconds of all runs, decided or gaps.
    pub seconds_in: u64,
    pub decided: u64,
    /// By reason.
    pub gaps: BTreeMap<String, u64>,
    pub runs: usize,
    pub failures: usize,
    pub incidents: usize,
    /// Time without records that a failure or an incident explains.
    pub away_s: f64,
    /// Time without records that nothing explains.
    pub unexplained_s: f64,
    /// The longest time from the return of a source to its next second.
    pub back_s: f64,
    pub last_s: f64,
    length_s: f64,
    faults: Vec<String>,
}

impl Account {
    pub fn of(id: &str, records: &[Stamped], length_s: f64) -> Self {
        let mut account = Self { id: id.to_owned(), length_s, ..Self::default() };
        let (mut run, mut before_s, mut explained): (Option<(u64, u64)>, f64, bool) = (None, 0.0, true);
        let mut playing_s = None;
        for Stamped { at_s, record } in records.iter().filter(|s| s.record["stream"] == id) {
            match record["type"].as_str().unwrap_or_default() {
                "state" => {
                    account.failures += usize::from(record["state"] == "waiting");
                    explained = true;
                    playing_s = (record["state"] == "playing").then_some(*at_s).or(playing_s);
                }
                "incident" => {
                    account.incidents += 1;
                    explained = true;
                }
                kind @ ("second" | "gap") => {
                    let at = (record["run"].as_u64().unwrap(), record["index"].as_u64().unwrap());
                    match run {
                        Some((r, next)) if r == at.0 => {
                            if next != at.1 {
                                account.faults.push(format!("run {r}: second {} instead of {next}", at.1));
                            }
                        }
                        Some((r, _)) if at.0 < r => account.faults.push(format!("run {} after {r}", at.0)),
                        _ => account.runs += 1,
                    }
                    run = Some((at.0, at.1 + 1));
                    account.seconds_in += 1;
                    if kind == "second" {
                        account.decided += 1;
                        if let Some(playing_s) = playing_s.take() {
                            account.back_s = account.back_s.max(at_s - playing_s);
                        }
                    } else {
                        let reason = record["reason"].as_str().expect("a gap has a reason").to_owned();
                        *account.gaps.entry(reason).or_default() += 1;
                    }
                    let silent_s = at_s - before_s - 1.0;
                    if silent_s > 0.5 && explained {
                        account.away_s += silent_s;
                    } else if silent_s > SILENCE_S {
                        account.unexplained_s += silent_s;
                    }
                    if silent_s > LOST_S && !explained {
                        account.faults.push(format!("no record for {silent_s:.1} s before {at_s:.1} s"));
                    }
                    (before_s, explained) = (*at_s, false);
                }
                _ => {}
            }
        }
        account.last_s = before_s;
        account
    }

    pub fn table(accounts: &[Self]) -> String {
        let mut text = "| stream | runs | failures | incidents | seconds in | decided | gaps | away, s | unexplained, s | back to a \
                        second within, s |\n|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for a in accounts {
            let gaps: Vec<String> = a.gaps.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            text += &format!(
                "| {} | {} | {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.1} |\n",
                a.id,
                a.runs,
                a.failures,
                a.incidents,
                a.seconds_in,
                a.decided,
                gaps.join(", "),
                a.away_s,
                a.unexplained_s,
                a.back_s
            );
        }
        text
    }

    /// # Panics
    /// If a run misses or repeats a second, if records are missing without a reported reason, or if the stream did not recover.
    pub fn check(&self) {
        assert!(self.faults.is_empty(), "{}: {:#?}", self.id, self.faults);
        assert_eq!(self.seconds_in, self.decided + self.gaps.values().sum::<u64>(), "{}", self.id);
        assert!(self.decided > 0, "{}: nothing was decided", self.id);
        assert!(self.length_s - self.last_s < LOST_S, "{}: its last second came at {:.0} s", self.id, self.last_s);
    }

    /// # Panics
    /// If the stream, which had no faults, was reopened or is missing seconds. Gaps of a busy machine are allowed: they are not a fault of
    /// ingest.
    pub fn check_clean(&self) {
        let is_of_load = |reason: &str| matches!(reason, "overload" | "not-decoded");
        assert_eq!((self.runs, self.failures), (1, 0), "{self:#?}");
        assert!(self.gaps.keys().all(|reason| is_of_load(reason)), "{self:#?}");
        assert!(self.seconds_in as f64 > self.length_s - LOST_S, "{self:#?}");
    }
}
