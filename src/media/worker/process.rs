//! Starting the process of a source, waiting for it, and making an end of it.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{SUBCOMMAND, log};
use crate::outlet::Outlet;

/// How often somebody who waits for a process looks whether he should still wait.
const POLL: Duration = Duration::from_millis(250);

/// How long a process may take to end after its last word: it stops threads and unloads nothing.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is looked whether it has.
const EXIT_POLL: Duration = Duration::from_millis(2);

pub(super) const ADVICE: &str = "check the source with `touchline score` or another player";

/// What is in the program's environment for the program alone: tokens, and where its manager listens.
const OURS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// A running process of a source.
pub(super) struct WorkerProcess {
    child: Child,
    id: String,
    is_over: bool,
}

/// How a process ended that should not have.
pub(super) struct ExitReport {
    pub cause: String,
    pub advice: &'static str,
}

impl WorkerProcess {
    /// Starts one, and gives the socket that leads to it.
    pub fn start(program: &Path, id: &str) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(program);
        command.arg0("touchline").arg(SUBCOMMAND).arg(id);
        let variables = std::env::vars_os().map(|(name, _)| name);
        for name in
            variables.filter(|name| name.to_str().is_some_and(|n| n.starts_with("TOUCHLINE_") || OURS.contains(&n)))
        {
            command.env_remove(name);
        }
        // Without these the program would start itself again to have them.
        for (name, value) in [("RAYON_NUM_THREADS", "1"), ("MALLOC_ARENA_MAX", "2")] {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::piped());
        // An interrupt at the terminal is the program's, which then stops its sources in order.
        command.process_group(0);
        let mut child = command.spawn()?;
        tracing::debug!(id, pid = child.id(), "the process of a source starts");
        if let Some(stderr) = child.stderr.take() {
            let name = id.to_owned();
            // It ends with the process. Without it, the process writes its log to nobody.
            let forwarding =
                thread::Builder::new().name(format!("log/{id}")).spawn(move || log::forward(stderr, &name));
            if let Err(e) = forwarding {
                tracing::warn!(id, "the log of a source's process is lost: {e}");
            }
        }
        Ok((Self { child, id: id.to_owned(), is_over: false }, ours))
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Makes an end of it at once.
    pub fn kill(&mut self) {
        // It fails when the process is over already.
        let _ = self.child.kill();
    }

    /// Waits for its end after its last word. What does not end by then is killed when this is dropped.
    pub fn finish(&mut self) {
        self.wait(EXIT_TIMEOUT);
    }

    /// How it ended, which its socket says it has.
    pub fn how_it_ended(&mut self) -> ExitReport {
        let status = self.wait(EXIT_TIMEOUT);
        let Some(status) = status else {
            self.kill();
            return ExitReport { cause: "the source's process has closed its socket".into(), advice: ADVICE };
        };
        let killed = "if nobody killed it, memory may have run out: check the system's log";
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
        let began = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.is_over = true;
                    return Some(status);
                }
                Ok(None) if began.elapsed() < limit => thread::sleep(EXIT_POLL),
                _ => return None,
            }
        }
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

/// The signals that processes die of.
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

/// Reads from a process for as long as that makes sense.
pub(super) struct TimedReader {
    socket: UnixStream,
    /// How long it may say nothing.
    silence: Duration,
    /// Whether the source is being stopped, and how long that may take.
    stopping: Option<(Outlet, Duration)>,
    stopping_since: Option<Instant>,
}

impl TimedReader {
    pub fn new(socket: UnixStream, silence: Duration) -> Self {
        // Fails only with a time of zero.
        let _ = socket.set_read_timeout(Some(POLL));
        Self { socket, silence, stopping: None, stopping_since: None }
    }

    /// From now on it may say nothing for `silence`, and has `stopping` when `outlet` is stopped.
    pub fn listen(&mut self, outlet: Outlet, silence: Duration, stopping: Duration) {
        self.silence = silence;
        self.stopping = Some((outlet, stopping));
    }

    /// # Errors
    /// When it was asked to stop and has not for too long.
    fn check_stop(&mut self) -> io::Result<()> {
        let Some((outlet, limit)) = &self.stopping else { return Ok(()) };
        if outlet.stopped() && self.stopping_since.get_or_insert_with(Instant::now).elapsed() > *limit {
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
                    // Counted in turns: a machine that sleeps is no process that does.
                    waited += POLL;
                    if waited >= self.silence {
                        let text = format!("no message for {} s", self.silence.as_secs());
                        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                    }
                }
                // What it had not read when it died is nobody's.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                other => return other,
            }
        }
    }
}
