//! A folder per class: which files are recordings and stills, and what the folders say of them.

use std::path::{Path, PathBuf};

use super::manifest::{Entry, Material};
use super::{Item, Kind};
use touchline_core::error::{Error, Result};

const PICTURES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
const CLIPS: [&str; 13] = ["mp4", "m4v", "mov", "mkv", "webm", "ts", "m2ts", "mts", "mpg", "mpeg", "avi", "flv", "ogv"];
const SOUNDS: [&str; 8] = ["mp3", "m4a", "aac", "wav", "flac", "opus", "ogg", "oga"];

/// The kind that a file's name suggests; [`None`] for a name of something else.
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

/// A file's name without its extension.
pub(super) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Adds what is below `dir`, in the order of names.
///
/// # Errors
/// [`Error::Data`] when there is no class folder with anything in it, or a folder cannot be read.
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
            // What `walk` found is below `dir`.
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
            "recordings lie in it, but in no class folder"
        } else {
            "no class folder with recordings or pictures is in it"
        };
        return Err(Error::data(dir, cause, "give a folder that holds a folder per class, or a CSV with path,class"));
    }
    if !empty.is_empty() {
        material.notes.push(format!("empty class folders, left out: {}", empty.join(" ")));
    }
    let unknown = unknown + loose.len();
    if unknown > 0 {
        material.notes.push(format!("{unknown} files are in no class folder or no recording or picture, left out"));
    }
    Ok(())
}

fn entry(kind: Kind, class: &str, path: PathBuf, root: u32) -> Entry {
    // class / source / … / file, or class / file
    let below: Vec<_> = path.components().skip(1).collect();
    let source = match below.len() {
        0 | 1 => stem(&path),
        _ => below[0].as_os_str().to_string_lossy().into_owned(),
    };
    Entry {
        item: Item {
            kind,
            class: class.to_owned(),
            // "1.mp4" of one class has nothing to do with that of another.
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

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let (folders, mut found) = children(dir)?;
    files.append(&mut found);
    // A link to a folder may lead in circles.
    folders.iter().filter(|f| !f.is_symlink()).try_for_each(|folder| walk(folder, files))
}

/// Folders and files in `dir`, sorted; hidden ones are left out.
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
