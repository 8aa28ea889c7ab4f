//! Checks of the source text: the order of modules, and names and phrases.

mod imports;
mod names;

use std::fs;
use std::path::{Path, PathBuf};

/// The Rust files below `folder`, at any depth.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
