//! The program prints by functions that ignore a closed pipe. The macros of the standard library panic.

use std::fs;
use std::path::Path;

use super::names::code;
use super::sources;

/// What panics when nobody reads the output. The first also finds the macros for standard error.
const DENIED: [&str; 2] = ["println!", "print!("];

fn prints(line: &str) -> bool {
    DENIED.iter().any(|call| code(line).contains(call))
}

/// Whether a path below `src` is part of the program.
fn is_program(place: &str) -> bool {
    let is_test = place.ends_with("tests.rs") || place.split('/').any(|part| part == "tests");
    !is_test && !place.split('/').any(|part| part == "examples")
}

#[test]
fn no_message_of_the_program_panics() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in sources(&root) {
        let place = file.strip_prefix(&root).unwrap().to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let found = text.lines().enumerate().filter(|(_, line)| is_program(place) && prints(line));
        wrong.extend(found.map(|(number, _)| format!("src/{place}:{}", number + 1)));
    }
    assert!(
        wrong.is_empty(),
        "write with redact::print_error_line, or ignore the error of write!:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn macros_that_panic_are_found_in_code_only() {
    assert!(prints("    eprintln!(\"{text}\");") && prints("print!(\"{}\", 1);") && prints("println!();"));
    assert!(!prints("// println!(\"{text}\");") && !prints("print(&text);") && !prints("print_error(&text);"));
    assert!(is_program("cli/mod.rs") && !is_program("serve/examples/sink.rs") && !is_program("serve/hub/tests.rs"));
}
