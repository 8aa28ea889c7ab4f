//! A program that gets one record on its standard input.
//!
//! One process runs at a time. Exit code 0 is an acceptance, [`REFUSED`] a refusal; after any other end, and after the time
//! limit, which kills the process, the record is delivered again.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, Command};
use tokio::time::timeout;

use super::courier::Failure;
use super::envelope::Envelope;
use crate::config::TOKEN_VARIABLES;
use crate::metrics::DeliveryMetrics;
use touchline_core::redact;

/// The exit code of a program that will never accept the record: EX_DATAERR of sysexits.h.
const REFUSED: i32 = 65;

/// Bytes of standard error that are kept, and the most that a message shows.
const LINE_READ: usize = 1024;
const LINE_MAX: usize = 200;

/// Pieces of 4 KiB that a pipe holds, and how long one may take: it lies there already.
const PIPE_PIECES: usize = 16;
const PIPE_LIMIT: Duration = Duration::from_millis(50);

pub(super) struct Exec {
    command: Vec<String>,
    timeout: Duration,
    /// Variables that it does not get: the secrets of all sinks.
    hidden: Arc<[String]>,
}

impl Exec {
    /// `command` is the program, then its arguments.
    pub const fn new(command: Vec<String>, timeout: Duration, hidden: Arc<[String]>) -> Self {
        Self { command, timeout, hidden }
    }

    /// Runs the program with a record.
    pub async fn deliver(&self, envelope: &Envelope, metrics: &DeliveryMetrics) -> Result<(), Failure> {
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(Failure::retry("the sink has no program"));
        };
        let mut command = Command::new(program);
        for name in TOKEN_VARIABLES.into_iter().chain(self.hidden.iter().map(|s| &**s)) {
            command.env_remove(name);
        }
        let mut child = command
            .args(arguments)
            .env("TOUCHLINE_RECORD_ID", &envelope.id)
            .env("TOUCHLINE_RECORD_KIND", envelope.kind.as_str())
            .env("TOUCHLINE_RECORD_STREAM", &envelope.stream)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Its own group, so that its children are killed with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Failure::retry(format!("cannot start {program}: {e}; check the path and its permissions")))?;
        let group = KilledGroup(child.id());
        let mut stdin = child.stdin.take();
        let mut errors = LastLine { from: child.stderr.take(), text: Vec::new() };
        let ended = timeout(
            self.timeout,
            errors.read_during(async {
                if let Some(stdin) = &mut stdin {
                    // In one write, so that a kill of this process does not separate event and line break. A program may end
                    // without reading all of it. Its exit code counts.
                    let _ = stdin.write_all(format!("{}\n", envelope.json).as_bytes()).await;
                }
                drop(stdin);
                child.wait().await
            }),
        )
        .await;
        let said = errors.finish().await;
        match ended {
            Ok(Ok(status)) => {
                group.ended();
                outcome(program, status, &said, metrics)
            }
            Ok(Err(e)) => Err(Failure::retry(format!("cannot wait for {program}: {e}"))),
            Err(_) => {
                metrics.exited("timeout");
                drop(group);
                // Collects the process. It was killed.
                let _ = child.wait().await;
                let limit = self.timeout.as_secs();
                Err(Failure::retry(format!(
                    "{program} did not end within {limit} s and was killed; see timeout_s{said}"
                )))
            }
        }
    }
}

/// `said` is the end of what it wrote to standard error, as the end of a sentence.
fn outcome(program: &str, status: ExitStatus, said: &str, metrics: &DeliveryMetrics) -> Result<(), Failure> {
    match status.code() {
        Some(code) => {
            metrics.exited(&code.to_string());
            match code {
                0 => Ok(()),
                REFUSED => Err(Failure::Refused { cause: format!("{program} refuses it (exit code {REFUSED}){said}") }),
                code => Err(Failure::retry(format!("{program} failed with exit code {code}{said}"))),
            }
        }
        None => {
            metrics.exited("signal");
            Err(Failure::retry(format!("{program} was ended by a signal ({status}){said}")))
        }
    }
}

/// The last line that a program writes to standard error: the cause of a failure.
struct LastLine {
    from: Option<ChildStderr>,
    text: Vec<u8>,
}

impl LastLine {
    /// Reads until `end`: a program whose output nobody reads would wait.
    async fn read_during<T>(&mut self, end: impl Future<Output = T>) -> T {
        tokio::pin!(end);
        loop {
            tokio::select! {
                ended = &mut end => return ended,
                is_open = self.read(), if self.from.is_some() => {
                    if !is_open {
                        self.from = None;
                    }
                }
            }
        }
    }

    /// Reads a piece. Returns false at the end.
    async fn read(&mut self) -> bool {
        let Some(from) = &mut self.from else { return false };
        let mut piece = [0; 4096];
        let Ok(length @ 1..) = from.read(&mut piece).await else { return false };
        self.text.extend(&piece[..length]);
        // Only the end counts.
        let surplus = self.text.len().saturating_sub(LINE_READ);
        self.text.drain(..surplus);
        true
    }

    /// The line after a colon; empty without one.
    async fn finish(mut self) -> String {
        // Reads only the data in the pipe: a child process of the program may keep it open.
        for _ in 0..PIPE_PIECES {
            if !timeout(PIPE_LIMIT, self.read()).await.unwrap_or(false) {
                break;
            }
        }
        let text = String::from_utf8_lossy(&self.text);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let from = line.len().saturating_sub(LINE_MAX);
        let from = (from..=line.len()).find(|at| line.is_char_boundary(*at)).unwrap_or(line.len());
        if line.is_empty() { String::new() } else { format!(": {}", redact::text(&line[from..])) }
    }
}

/// Kills the process group of a program when dropped before its end.
struct KilledGroup(Option<u32>);

impl KilledGroup {
    /// The program has ended by itself.
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for KilledGroup {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // Fails if the group has ended.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
