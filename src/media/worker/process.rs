//! Starts, awaits and kills the process of a source.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{SUBCOMMAND, log};
use crate::outlet::Outlet;
use touchline_core::clock::{Clock, Deadline};

/// How often a blocked read checks for a stop request.
const POLL: Duration = Duration::from_millis(250);

/// Time limit for a process to exit after its last message.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the exit of a process is checked. The time limit counts checks: a suspended machine is not a process that hangs.
const EXIT_POLL: Duration = Duration::from_millis(2);

pub(super) const ADVICE: &str = "check the source with `touchline score` or another player";

/// Environment variables that a process must not inherit: those of the service manager. All `TOUCHLINE_` variables are removed as
/// well.
const OURS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// A running process of a source.
pub(super) struct WorkerProcess {
    child: Child,
    id: String,
    clock: Arc<dyn Clock>,
    is_over: bool,
}

/// How a process ended unexpectedly.
pub(super) struct ExitReport {
    pub cause: String,
    pub advice: &'static str,
}

impl WorkerProcess {
    /// Starts a process. Returns it with the socket for its messages.
    pub fn start(program: &Path, id: &str, clock: Arc<dyn Clock>) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(program);
        command.arg0("touchline").arg(SUBCOMMAND).arg(id);
        let variables = std::env::vars_os().map(|(name, _)| name);
        for name in
            variables.filter(|name| name.to_str().is_some_and(|n| n.starts_with("TOUCHLINE_") || OURS.contains(&n)))
        {
            command.env_remove(name);
        }
        // Without these the program would start itself again to set them.
        for (name, value) in [("RAYON_NUM_THREADS", "1"), ("MALLOC_ARENA_MAX", "2")] {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::piped());
        // A process group of its own, so that Ctrl-C reaches only the program, which then stops its sources in order.
        command.process_group(0);
        let mut child = command.spawn()?;
        tracing::debug!(id, pid = child.id(), "the process of a source starts");
        if let Some(stderr) = child.stderr.take() {
            let (name, clock) = (id.to_owned(), clock.clone());
            // The thread ends with the process. Without the thread, the log of the process is lost.
            let forwarding =
                thread::Builder::new().name(format!("log/{id}")).spawn(move || log::forward(stderr, &name, &*clock));
            if let Err(e) = forwarding {
                tracing::warn!(id, "the log of a source's process is lost: {e}");
            }
        }
        Ok((Self { child, id: id.to_owned(), clock, is_over: false }, ours))
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        // Fails if the process has ended already.
        let _ = self.child.kill();
    }

    /// Waits for the exit after the last message. If the time limit passes, the process is killed on drop.
    pub fn finish(&mut self) {
        self.wait(EXIT_TIMEOUT);
    }

    /// How the process ended, after its socket was closed.
    pub fn how_it_ended(&mut self) -> ExitReport {
        let status = self.wait(EXIT_TIMEOUT);
        let Some(status) = status else {
            self.kill();
            return ExitReport { cause: "the source's process has closed its socket".into(), advice: ADVICE };
        };
        let killed = "if it was not killed on purpose, memory may have run out: check the system's log";
        match status.signal() {
            Some(signal) => {
                let name = signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned);
                let advice = if name == "SIGKILL" { killed } else { ADVICE };
                ExitReport { cause: format!("the source's process died ({name})"), advice }
            }
            None => {
                let code = status.code().map_or_else(|| "unknown".to_owned(), |code| code.to_string());
                ExitReport { cause: format!("the source's process ended (exit code {code})"), advice: ADVICE }
            }
        }
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        for _ in 0..limit.div_duration_f32(EXIT_POLL) as u32 {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.is_over = true;
                    return Some(status);
                }
                Ok(None) => self.clock.sleep(EXIT_POLL),
                Err(_) => break,
            }
        }
        None
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        if !self.is_over {
            self.kill();
            if self.wait(EXIT_TIMEOUT).is_none() {
                tracing::warn!(id = self.id, pid = self.child.id(), "the process of a source does not end");
            }
        }
    }
}

/// Names of fatal signals.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => return None,
    })
}

/// Reads from a process with time limits.
pub(super) struct TimedReader {
    socket: UnixStream,
    /// The longest time without data.
    silence: Duration,
    /// The outlet that shows a stop request, and the time limit after it.
    stopping: Option<(Outlet, Duration)>,
    /// Set by the first read after a stop request.
    stops_by: Option<Deadline>,
    clock: Arc<dyn Clock>,
}

impl TimedReader {
    pub fn new(socket: UnixStream, silence: Duration, clock: Arc<dyn Clock>) -> Self {
        // Fails only for a duration of zero.
        let _ = socket.set_read_timeout(Some(POLL));
        Self { socket, silence, stopping: None, stops_by: None, clock }
    }

    /// Sets the longest time without data to `silence`, and the time limit after a stop of `outlet` to `stopping`.
    pub fn listen(&mut self, outlet: Outlet, silence: Duration, stopping: Duration) {
        self.silence = silence;
        self.stopping = Some((outlet, stopping));
    }

    /// Checks the time limit after a stop request.
    ///
    /// # Errors
    /// When it has passed.
    fn check_stop(&mut self) -> io::Result<()> {
        let Some((outlet, limit)) = &self.stopping else { return Ok(()) };
        let clock = &*self.clock;
        if outlet.stopped() && self.stops_by.get_or_insert_with(|| Deadline::after(clock, *limit)).is_over(clock) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not stop"));
        }
        Ok(())
    }
}

impl Read for TimedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut waited = Duration::ZERO;
        loop {
            self.check_stop()?;
            match self.socket.read(buffer) {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    // Counted in polls, so that a suspended machine does not count as a stuck process.
                    waited += POLL;
                    if waited >= self.silence {
                        let text = format!("no message for {} s", self.silence.as_secs());
                        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                    }
                }
                // The process died with unread commands.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                other => return other,
            }
        }
    }
}
