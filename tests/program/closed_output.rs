//! Nobody reads standard error: its pipe is closed, or there is none. The exit codes stay the same.

use std::process::{Command, Stdio};

use crate::common::Fixtures;
use crate::common::program::{path, touchline};

/// The exit code of the program with these arguments and this standard error.
fn code(arguments: &[&str], error: Stdio) -> Option<i32> {
    touchline().args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(error).status().unwrap().code()
}

#[test]
fn errors_that_nobody_reads_end_the_program_with_their_own_code() {
    let fixtures = Fixtures::new();
    let file = fixtures.write("touchline.toml", b"max_streams = 0\nlisten = 8080\n");
    let file = file.to_str().unwrap();
    for arguments in [
        &["score", "missing.mp4"][..],
        &["config", "check", file],
        &["config", "check", "missing.toml"],
        // It logs that it stops, and the error.
        &["run", "--listen", "off", "missing.mp4"],
        &["run", "--listen", "nowhere"],
        &["run", "--expect", "ten\u{202e}nis", "--vote-window", "\u{202e}"],
        &["doctor", "--pack", "/nowhere/pack"],
    ] {
        let expected = code(arguments, Stdio::null());
        assert!(expected.is_some_and(|code| (1..100).contains(&code)), "{arguments:?}: {expected:?}");
        // The reader has ended before the program starts.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(code(arguments, writer.into()), expected, "{arguments:?}");
        let mut without = Command::new("sh");
        without
            .args(["-c", "exec \"$@\" 2>&-", "sh", path()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        without.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("TOUCHLINE_PACK");
        assert_eq!(without.status().unwrap().code(), expected, "{arguments:?}");
    }
}
