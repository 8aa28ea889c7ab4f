//! The program under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::skip::{Lacks, skip};

/// The path of the program that was built for this test run.
pub fn path() -> &'static str {
    env!("CARGO_BIN_EXE_touchline")
}

/// The pack that ships.
pub fn pack() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/compact")
}

/// A command that runs the program in the project's directory.
pub fn touchline() -> Command {
    let mut command = Command::new(path());
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("RUST_LOG").env_remove("TOUCHLINE_PACK");
    command
}

/// The longest run of a command: long trainings and evaluations on a machine with other work.
const LIMIT: Duration = Duration::from_secs(1_800);

/// Runs a command and waits for it. Panics with its error output if it hangs.
pub fn finish(command: &mut Command) -> Output {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    // Threads read the pipes, so that a full pipe does not block the program.
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            from.read_to_end(&mut all).map(|_| all).unwrap_or_default()
        })
    };
    let stdout = read(Box::new(child.stdout.take().expect("piped")));
    let stderr = read(Box::new(child.stderr.take().expect("piped")));
    let until = Instant::now() + LIMIT;
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            break status;
        }
        if Instant::now() > until && !late {
            late = true;
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = Output { status, stdout: stdout.join().expect("reader"), stderr: stderr.join().expect("reader") };
    assert!(!late, "{command:?} took longer than {LIMIT:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The folder of real recordings, if it exists.
pub fn data() -> Option<PathBuf> {
    let dir = std::env::var_os("TOUCHLINE_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    let exists = dir.join("clips/manifest.csv").is_file();
    if !exists {
        skip(Lacks::SharedData, &format!("no recordings in {}", dir.display()));
    }
    exists.then_some(dir)
}

/// Python with the packages that deploy/test.sh installs, of which `imports` are needed, as in an import statement. [`None`] without
/// them: the test is skipped.
pub fn python(imports: &str) -> Option<PathBuf> {
    let python = std::env::var_os("TOUCHLINE_TEST_PYTHON")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-python/bin/python"), PathBuf::from);
    let import = Command::new(&python).args(["-c", &format!("import {imports}")]).output();
    if !import.is_ok_and(|done| done.status.success()) {
        skip(Lacks::Tool, &format!("Python cannot import {imports}; deploy/test.sh installs it"));
        return None;
    }
    Some(python)
}
