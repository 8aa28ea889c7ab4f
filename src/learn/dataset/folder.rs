//! Reads a folder per class: recognises recordings and stills, and takes class and source from the folders.

use std::path::{Path, PathBuf};

use super::manifest::{Entry, Material};
use super::{Item, Kind};
use touchline_core::error::{Error, Result};

const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
const CLIPS: [&str; 13] = ["mp4", "m4v", "mov", "mkv", "webm", "ts", "m2ts", "mts", "mpg", "mpeg", "avi", "flv", "ogv"];
const SOUNDS: [&str; 8] = ["mp3", "m4a", "aac", "wav", "flac", "opus", "ogg", "oga"];

/// Returns the kind that the extension of a file suggests; [`None`] for other files.
pub(super) fn kind_of(path: &Path) -> Option<Kind> {
    let extension = path.extension()?.to_string_lossy().to_ascii_lowercase();
    let extension = extension.as_str();
    if PICTURES.contains(&extension) {
        Some(Kind::Picture)
    } else if CLIPS.contains(&extension) {
        Some(Kind::Clip)
    } else {
        SOUNDS.contains(&extension).then_some(Kind::Sound)
    }
}

/// Returns the name of a file without its extension.
pub(super) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Adds the recordings and stills below `dir` to `material`, in the order of their names.
///
/// # Errors
/// [`Error::Data`] when no class folder contains a recording or a still, or a folder cannot be read.
pub(super) fn read(dir: &Path, root: u32, material: &mut Material) -> Result<()> {
    let before = material.entries.len();
    let (classes, loose) = children(dir)?;
    let (mut empty, mut unknown) = (Vec::new(), 0);
    for class_dir in classes {
        let class = class_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut files = Vec::new();
        walk(&class_dir, &mut files)?;
        let mut count = 0;
        for file in files {
            let Some(kind) = kind_of(&file) else {
                unknown += 1;
                continue;
            };
            // All files that `walk` returns are below `dir`.
            let path = file.strip_prefix(dir).unwrap_or(&file).to_owned();
            if path.to_str().is_none() {
                material.skipped.push((path, "its name is not UTF-8; rename it".to_owned()));
                continue;
            }
            count += 1;
            material.entries.push(entry(kind, &class, path, root));
        }
        if count == 0 {
            empty.push(class);
        }
    }
    if material.entries.len() == before {
        let cause = if loose.iter().any(|f| kind_of(f).is_some()) {
            "contains recordings, but not in class folders"
        } else {
            "contains no class folder with recordings or pictures"
        };
        return Err(Error::data(dir, cause, "choose a folder with one folder per class, or a CSV with path,class"));
    }
    if !empty.is_empty() {
        material.notes.push(format!("left out empty class folders: {}", empty.join(" ")));
    }
    let unknown = unknown + loose.len();
    if unknown > 0 {
        material.notes.push(format!("left out {unknown} files: outside a class folder, or not a recording or picture"));
    }
    Ok(())
}

/// Returns the entry of a file whose path is class / source / … / file, or class / file.
fn entry(kind: Kind, class: &str, path: PathBuf, root: u32) -> Entry {
    let below: Vec<_> = path.components().skip(1).collect();
    let source = match below.len() {
        0 | 1 => stem(&path),
        _ => below[0].as_os_str().to_string_lossy().into_owned(),
    };
    Entry {
        item: Item {
            kind,
            class: class.to_owned(),
            // Equal names in two classes, such as "1.mp4", are different sources.
            group: format!("{class}/{source}"),
            path,
            source,
            weak: false,
            audible: !kind.is_still(),
            licence: String::new(),
            start_ns: None,
            end_ns: None,
            seconds: 0,
            shard: None,
        },
        root,
        kind_stated: false,
        audible: None,
    }
}

/// Appends all files below `dir`, in the order of their names.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let (folders, mut here) = children(dir)?;
    files.append(&mut here);
    // Links to folders are not followed, because they may form a loop.
    folders.iter().filter(|f| !f.is_symlink()).try_for_each(|folder| walk(folder, files))
}

/// Returns the folders and the files in `dir`, sorted, without hidden ones.
fn children(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let failed = |e: std::io::Error| Error::data(dir, e.to_string(), "check the permissions");
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths.into_iter().partition(|p| p.is_dir()))
}
