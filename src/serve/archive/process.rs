//! Runs the process of a task: with the lowest priority, stopped while live streams need the processor.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::task::{ArchiveTask, SUBCOMMAND, TaskAnswer, TaskLine};
use crate::config::TOKEN_VARIABLES;
use touchline_core::redact;

/// The lowest priority.
const NICENESS: &str = "19";

/// Variables that the process does not need: it reads files only.
const LOGINS: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// Longest reason of a failure, characters.
const REASON_MAX: usize = 300;

/// A process that works on a task. Dropping it kills it.
pub(super) struct TaskProcess {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: tokio::task::JoinHandle<Option<String>>,
    answer: Option<TaskAnswer>,
    is_stopped: bool,
}

/// News of the process.
pub(super) enum ProcessNews {
    /// Seconds were decided.
    Decided(u64),
    /// It has ended: its answer, or why it has none.
    Ended(Result<TaskAnswer, String>),
}

impl TaskProcess {
    /// Starts it.
    pub(super) async fn start(program: &Path, task: &ArchiveTask) -> Result<Self, String> {
        let mut command = Command::new("nice");
        command.args(["-n", NICENESS]).arg(program).arg(SUBCOMMAND);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // There is one process for each free core.
        command.env("RAYON_NUM_THREADS", "1");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| LOGINS.iter().any(|prefix| name.starts_with(prefix))) {
                command.env_remove(name);
            }
        }
        for name in TOKEN_VARIABLES {
            command.env_remove(name);
        }
        let failed = |e: std::io::Error| format!("the process for a recording cannot be started: {e}");
        let mut child = command.spawn().map_err(failed)?;
        let json = serde_json::to_vec(task).expect("a task is structs with string keys");
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err("the process for a recording has no pipes".to_owned());
        };
        // If it ends at once, its end gives the reason.
        let _ = stdin.write_all(&json).await;
        drop(stdin);
        let errors = tokio::spawn(last_line(stderr));
        let lines = BufReader::new(stdout).lines();
        Ok(Self { child, lines, errors, answer: None, is_stopped: false })
    }

    /// Stops it, or lets it continue. It is stopped at once, wherever it is.
    pub(super) fn stop(&mut self, is_stopped: bool) {
        if std::mem::replace(&mut self.is_stopped, is_stopped) == is_stopped {
            return;
        }
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            let signal = if is_stopped { Signal::STOP } else { Signal::CONT };
            if let Err(e) = kill_process(pid, signal) {
                tracing::debug!("the process for a recording does not take a signal: {e}");
            }
        }
    }

    /// Waits for news. Can be cancelled.
    pub(super) async fn next(&mut self) -> ProcessNews {
        while let Ok(Some(line)) = self.lines.next_line().await {
            match serde_json::from_str(&line) {
                Ok(TaskLine::Decided(seconds)) => return ProcessNews::Decided(seconds),
                Ok(TaskLine::Answer(answer)) => self.answer = Some(answer),
                Err(e) => tracing::debug!("a process for a recording wrote something else: {e}"),
            }
        }
        // Its output is closed, so it has ended or is about to.
        let status = self.child.wait().await;
        let said = (&mut self.errors).await.ok().flatten();
        ProcessNews::Ended(match (status, self.answer.take()) {
            (Ok(status), Some(answer)) if status.success() => Ok(answer),
            (Ok(status), _) => Err(reason(status, said)),
            (Err(e), _) => Err(format!("the process for a recording cannot be waited for: {e}")),
        })
    }
}

/// The last line of an output that is not empty.
async fn last_line(output: impl AsyncRead + Unpin) -> Option<String> {
    let mut lines = BufReader::new(output).lines();
    let mut last = None;
    while let Ok(Some(line)) = lines.next_line().await {
        if !line.trim().is_empty() {
            last = Some(line);
        }
    }
    last
}

/// Why the process has no answer, for people.
fn reason(status: ExitStatus, said: Option<String>) -> String {
    use std::os::unix::process::ExitStatusExt;
    let said = said.map(|said| redact::text(said.trim_start_matches("touchline: ")).replace(char::is_control, " "));
    let text = match (status.signal(), said) {
        (Some(signal), _) => format!("the process was ended by signal {signal}"),
        (None, Some(said)) => said,
        (None, None) => format!("the process ended with {status}"),
    };
    text.chars().take(REASON_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_end_of_a_process_is_a_reason() {
        let of = |raw: i32, said: Option<&str>| reason(ExitStatus::from_raw(raw), said.map(str::to_owned));
        assert_eq!(of(11, None), "the process was ended by signal 11");
        assert_eq!(of(3 << 8, Some("touchline: a.mp4: no tracks")), "a.mp4: no tracks");
        assert_eq!(of(1 << 8, None), "the process ended with exit status: 1");
        assert_eq!(of(1 << 8, Some(&"x".repeat(1000))).len(), REASON_MAX);
    }
}
