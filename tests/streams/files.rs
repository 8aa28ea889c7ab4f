//! Files run out.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::common::api::{ask, ids, wait_until_ready};
use crate::{Fixtures, LIMIT, Program, until};

#[test]
fn running_out_of_files_is_a_message_and_no_flood() {
    let fixtures = Fixtures::new();
    let log = fixtures.path().join("log.txt");
    let streams: Vec<String> = (0..12).map(|n| format!("s{n}=testsrc://?width=64&height=48&fps=5&audio=0")).collect();
    let mut arguments = vec!["--linger"];
    arguments.extend(streams.iter().map(String::as_str));
    let program = Program::launch(&arguments, |command| {
        // The same program with fewer files; nothing in it can have more.
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 110; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
        limited.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).stdout(Stdio::null());
        limited.stderr(std::fs::File::create(&log).unwrap()).process_group(0);
        *command = limited;
    });
    wait_until_ready(&program.address, LIMIT);
    let states = || -> Vec<String> {
        let text =
            |id: &String| ask(&program.address, "GET", &format!("/api/v1/streams/{id}"), None, &[]).body.to_string();
        ids(&program.address).iter().map(text).collect()
    };
    let count = |word: &str| states().iter().filter(|text| text.contains(word)).count();
    until("an answer for all", || count("\"state\":\"playing\"") + count("no more files") == 12);
    assert!(count("no more files") > 0 && count("\"state\":\"playing\"") > 0, "{:?}", states());
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.len() < 20_000, "{} bytes: {}", said.len(), &said[..2000]);
    assert_eq!(said.matches("limit 110").count(), 1, "{said}");
}
