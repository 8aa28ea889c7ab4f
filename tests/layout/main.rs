//! Checks of the source text: the order of modules, the clocks, names and phrases, and the length of the wiring.

mod clocks;
mod imports;
mod names;
mod printing;

use std::fs;
use std::path::{Path, PathBuf};

/// The Rust files below `folder`, at any depth.
fn sources(folder: &Path) -> Vec<PathBuf> {
    files(folder, &["rs"])
}

/// The files below `folder` with one of these extensions, at any depth. Build output is left out.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                found.extend(files(&path, extensions));
            }
        } else if path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)) {
            found.push(path);
        }
    }
    found
}

#[test]
fn modules_with_submodules_are_mod_rs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside: Vec<_> = ["src", "tests", "benches"]
        .iter()
        .flat_map(|folder| sources(&root.join(folder)))
        .filter(|file| file.with_extension("").is_dir())
        .collect();
    assert!(beside.is_empty(), "move these to NAME/mod.rs: {beside:?}");
}

/// What one screen shows.
const SCREEN: usize = 60;

#[test]
fn the_wiring_of_a_run_fits_on_one_screen() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/run/mod.rs");
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().skip_while(|line| !line.starts_with("pub fn run_with_sinks("));
    let length = lines.take_while(|line| *line != "}").count() + 1;
    assert!(length > 10, "run_with_sinks is not found");
    assert!(length <= SCREEN, "run_with_sinks has {length} lines; move steps to run/parts.rs");
}

/// The most lines that a file may have.
const FILE_LINES_MAX: usize = 500;

#[test]
fn files_are_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = ["src", "tests", "benches"].iter().flat_map(|folder| sources(&root.join(folder))).collect();
    assert!(files.len() > 100, "the sources are not found");
    let lines = |file: &PathBuf| fs::read_to_string(file).unwrap().lines().count();
    let long: Vec<_> = files.iter().map(|file| (lines(file), file)).filter(|(n, _)| *n > FILE_LINES_MAX).collect();
    assert!(long.is_empty(), "split these files, which have more than {FILE_LINES_MAX} lines: {long:?}");
}
