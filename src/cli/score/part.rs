//! `touchline archive-worker`: works on a task of an archive. Started by the program itself, not by people.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::super::decide_args::DecideArgs;
use super::super::print;
use super::scorer::{PartEnd, Scorer};
use super::{PICTURES, extension};
use touchline_compute::models::pack::Pack;
use touchline_core::decision::SecondOutcome;
use touchline_core::error::{Error, Result};
use touchline_core::selection::{DecodeStart, DecodeWindow};
use touchline_core::time::Pts;
use touchline_serve::archive::join::{JoinOptions, join};
use touchline_serve::archive::task::{
    ArchiveTask, OUTCOMES, OutcomeWriter, PartPlan, TaskAnswer, TaskLine, TaskStep, outcomes, parts,
};
use touchline_serve::workers::{PartRange, PartReport};

/// Works on the task of standard input, and answers on standard output.
///
/// # Errors
/// As `touchline score`, and if the task is not one.
pub(in crate::cli) fn work() -> Result<()> {
    let broken = |what: &dyn std::fmt::Display| Error::Internal(format!("the process of an archive: {what}"));
    // A machine that is killed takes its processes with it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).map_err(|e| broken(&e))?;
    let mut json = Vec::new();
    std::io::stdin().read_to_end(&mut json).map_err(|e| broken(&e))?;
    let task: ArchiveTask = serde_json::from_slice(&json).map_err(|e| broken(&e))?;
    let pack = Pack::open(&task.pack)?;
    if pack.stamp().manifest_sha256 != task.manifest_sha256 {
        let advice = "it is scored by a machine that has the pack of the job";
        return Err(Error::Usage(format!("the pack {} has changed; {advice}", task.pack.display())));
    }
    let answer = match &task.step {
        TaskStep::Join { parts } => {
            let all = parts.iter().map(|path| outcomes(path)).collect::<Result<Vec<_>>>()?;
            let vote = DecideArgs::settings_of(&task.variables)?.vote;
            let classes = Arc::new(pack.classes.clone());
            joined(&task, JoinOptions { name: &task.name, classes, vote }, in_order(all.into_iter().flatten()))?
        }
        TaskStep::Begin { part_seconds } => TaskWork::start(&task)?.begin(*part_seconds)?,
        TaskStep::Part(plan) => TaskWork::start(&task)?.part(plan)?,
    };
    say(&TaskLine::Answer(answer))
}

fn say(line: &TaskLine) -> Result<()> {
    let json = serde_json::to_string(line).expect("a line is enums and numbers");
    print(&format!("{json}\n"))
}

fn joined(
    task: &ArchiveTask,
    options: JoinOptions<'_>,
    outcomes: impl Iterator<Item = Result<SecondOutcome>>,
) -> Result<TaskAnswer> {
    let (seconds, gaps) = join(&options, outcomes, &task.folder)?;
    Ok(TaskAnswer::Scored { seconds, gaps })
}

/// The seconds of the parts of a run, each after the one before it.
fn in_order(all: impl Iterator<Item = Result<SecondOutcome>>) -> impl Iterator<Item = Result<SecondOutcome>> {
    let mut next = None;
    all.map(move |outcome| {
        let outcome = outcome?;
        let place = (outcome.run(), outcome.index());
        if next.is_some_and(|next| next != place) {
            return Err(Error::Internal(format!("the parts of a recording do not follow each other at {place:?}")));
        }
        next = Some((place.0, place.1 + 1));
        Ok(outcome)
    })
}

/// The models, and the task they work on.
struct TaskWork<'a> {
    scorer: Scorer,
    task: &'a ArchiveTask,
}

impl<'a> TaskWork<'a> {
    fn start(task: &'a ArchiveTask) -> Result<Self> {
        let settings = DecideArgs::settings_of(&task.variables)?;
        Ok(Self { scorer: Scorer::start(Some(&task.pack), settings)?, task })
    }

    /// Divides the recording, or scores it if it is short or cannot be divided.
    fn begin(mut self, part_seconds: u64) -> Result<TaskAnswer> {
        let path = &self.task.recording;
        if extension(path).is_some_and(|extension| PICTURES.contains(&extension.as_str())) {
            let outcome = self.scorer.still(path)?;
            return self.join(vec![outcome]);
        }
        let plans = self.plan(part_seconds)?;
        if plans.len() > 1 {
            return Ok(TaskAnswer::Parts(plans));
        }
        let whole = PartRange { from: 0, to: u64::MAX, seen_from: None };
        let mut all = Vec::new();
        self.decide(whole, None, &mut |outcome| {
            all.push(outcome);
            Ok(())
        })?;
        self.join(all)
    }

    fn join(&self, all: Vec<SecondOutcome>) -> Result<TaskAnswer> {
        let (classes, vote) = (self.scorer.classes.clone(), self.scorer.vote);
        let options = JoinOptions { name: &self.task.name, classes, vote };
        joined(self.task, options, all.into_iter().map(Ok))
    }

    /// The parts of the recording: none if it cannot be divided. It decodes the sound and no pictures but the first.
    fn plan(&mut self, part_seconds: u64) -> Result<Vec<PartPlan>> {
        if part_seconds > LONGEST_S {
            return Ok(Vec::new());
        }
        let window = Arc::new(DecodeWindow::new(DecodeStart::Never));
        let nothing = PartRange { from: u64::MAX, to: u64::MAX, seen_from: None };
        let PartEnd { report, is_damaged } = self.decide(nothing, Some(&window), &mut |_| Ok(()))?;
        // Seconds of several runs can have the same index.
        let PartReport { runs: 1, seconds: Some((first, end)), .. } = report else { return Ok(Vec::new()) };
        if is_damaged {
            return Ok(Vec::new());
        }
        let keys: Vec<u64> = window.keys().into_iter().map(|Pts(key)| key).collect();
        // Times that go back are those of a jump.
        let keys = if keys.is_sorted() { keys } else { Vec::new() };
        Ok(parts(first, end, part_seconds, &keys))
    }

    /// Decides a part.
    fn part(mut self, plan: &PartPlan) -> Result<TaskAnswer> {
        let path = self.task.folder.join(OUTCOMES);
        for start in plan.starts.iter().map(Some).chain([None]) {
            let window = start.map(|start| Arc::new(DecodeWindow::new(DecodeStart::Key(Pts(start.key_ns)))));
            let range = PartRange { from: plan.from, to: plan.to, seen_from: start.map(|start| start.seen_from) };
            let (mut writer, mut seconds) = (OutcomeWriter::create(&path)?, 0);
            let PartEnd { report, is_damaged } = self.decide(range, window.as_ref(), &mut |outcome| {
                seconds += 1;
                writer.write(&outcome)
            })?;
            writer.finish()?;
            tracing::debug!(is_damaged, runs = report.runs, seconds, "the part has ended");
            if is_damaged || report.runs != 1 {
                return Ok(TaskAnswer::Damaged);
            }
            if !report.is_unknown {
                let is_whole = seconds == plan.to - plan.from;
                return Ok(if is_whole { TaskAnswer::Decided { seconds } } else { TaskAnswer::Damaged });
            }
        }
        Err(Error::Internal("a part depends on more than the whole recording".into()))
    }

    /// Decides the seconds of a range, and says how many.
    fn decide(
        &mut self,
        range: PartRange,
        window: Option<&Arc<DecodeWindow>>,
        take: &mut dyn FnMut(SecondOutcome) -> Result<()>,
    ) -> Result<PartEnd> {
        let path: &Path = &self.task.recording;
        self.scorer.part(path, range, window, &mut |outcome| {
            say(&TaskLine::Decided(1))?;
            take(outcome)
        })
    }
}

/// Parts that are longer than this are not made, seconds: a year.
const LONGEST_S: u64 = 366 * 24 * 3600;
