//! A program that gets one record on its standard input.
//!
//! One process runs at a time. Exit code 0 is an acceptance, [`REFUSED`] a refusal; after any other end, and after the time
//! limit, which kills the process, the record is delivered again.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::courier::Failure;
use super::envelope::Envelope;
use crate::metrics::DeliveryMetrics;

/// The exit code of a program that will never accept the record: EX_DATAERR of sysexits.h.
const REFUSED: i32 = 65;

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
        for name in
            ["TOUCHLINE_ADMIN_TOKEN", "TOUCHLINE_READ_TOKEN"].into_iter().chain(self.hidden.iter().map(|s| &**s))
        {
            command.env_remove(name);
        }
        let mut child = command
            .args(arguments)
            .env("TOUCHLINE_RECORD_ID", &envelope.id)
            .env("TOUCHLINE_RECORD_KIND", envelope.kind.as_str())
            .env("TOUCHLINE_RECORD_STREAM", &envelope.stream)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Its own group, so that its children are killed with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Failure::retry(format!("cannot start {program}: {e}; check the path and its permissions")))?;
        let group = KilledGroup(child.id());
        let mut stdin = child.stdin.take();
        let ended = timeout(self.timeout, async {
            if let Some(stdin) = &mut stdin {
                // In one write, so that a kill of this process does not separate event and line break. A program may end
                // without reading all of it. Its exit code counts.
                let _ = stdin.write_all(format!("{}\n", envelope.json).as_bytes()).await;
            }
            drop(stdin);
            child.wait().await
        })
        .await;
        match ended {
            Ok(Ok(status)) => {
                group.ended();
                outcome(program, status, metrics)
            }
            Ok(Err(e)) => Err(Failure::retry(format!("cannot wait for {program}: {e}"))),
            Err(_) => {
                metrics.exited("timeout");
                drop(group);
                // Collects the process. It was killed.
                let _ = child.wait().await;
                let limit = self.timeout.as_secs();
                Err(Failure::retry(format!("{program} did not end within {limit} s and was killed; see timeout_s")))
            }
        }
    }
}

fn outcome(program: &str, status: ExitStatus, metrics: &DeliveryMetrics) -> Result<(), Failure> {
    match status.code() {
        Some(code) => {
            metrics.exited(&code.to_string());
            match code {
                0 => Ok(()),
                REFUSED => Err(Failure::Refused { cause: format!("{program} refuses it (exit code {REFUSED})") }),
                code => Err(Failure::retry(format!("{program} failed with exit code {code}"))),
            }
        }
        None => {
            metrics.exited("signal");
            Err(Failure::retry(format!("{program} was ended by a signal ({status})")))
        }
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
