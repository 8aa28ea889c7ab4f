//! Labelled material: three folders, each with a `manifest.csv`.
//!
//! | folder | columns read |
//! |---|---|
//! | `images/` | `path`, `class`, `source` |
//! | `clips/` | `path`, `class`, `source`, and if there: `weak` (not empty = little play shown), `audio` (`yes`, `none`, `silent`) |
//! | `sounds/` | `path`, `class`, `source` |
//!
//! `path` is relative to the folder. `source` is where a recording comes from: the unit of the split.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A still: RGB only.
    Picture,
    /// A video, with or without sound.
    Clip,
    /// Sound without picture.
    Sound,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Picture, Kind::Clip, Kind::Sound];

    /// The folder, and the name in lists.
    pub const fn folder(self) -> &'static str {
        match self {
            Kind::Picture => "images",
            Kind::Clip => "clips",
            Kind::Sound => "sounds",
        }
    }
}

/// One labelled recording or picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub kind: Kind,
    /// Relative to the data folder, with the kind's folder: stable across machines.
    pub path: PathBuf,
    pub class: String,
    /// Normalised: the separators `/` and `+` of one place are the same.
    pub source: String,
    /// Little of the sport is shown.
    pub weak: bool,
    /// Has sound that is not silence.
    pub audible: bool,
}

#[derive(Deserialize)]
struct Row {
    path: String,
    class: String,
    source: String,
    #[serde(default)]
    weak: String,
    #[serde(default)]
    audio: Option<String>,
}

/// Reads the manifests that are in `dir`, in file order.
///
/// # Errors
/// [`Error::Data`] when there is none, or a line is broken, naming it.
pub fn read(dir: &Path) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut found = 0;
    for kind in Kind::ALL {
        let path = dir.join(kind.folder()).join("manifest.csv");
        if !path.is_file() {
            continue;
        }
        found += 1;
        let advice = "the columns are path,class,source";
        let mut reader =
            csv::Reader::from_path(&path).map_err(|e| Error::data(&path, format!("cannot read: {e}"), advice))?;
        for row in reader.deserialize() {
            let row: Row = row.map_err(|e| Error::data(&path, e.to_string().replace('\n', " "), advice))?;
            let audible = match kind {
                Kind::Picture => false,
                Kind::Sound => true,
                Kind::Clip => row.audio.as_deref().is_none_or(|a| a == "yes"),
            };
            items.push(Item {
                kind,
                path: Path::new(kind.folder()).join(row.path),
                class: row.class,
                source: row.source.replace('+', "/"),
                weak: !row.weak.is_empty(),
                audible,
            });
        }
    }
    if found == 0 {
        let cause = "none of images/manifest.csv, clips/manifest.csv, sounds/manifest.csv is there";
        return Err(Error::data(dir, cause, "give the folder that holds them"));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_read_and_missing_ones_explained() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("images/manifest.csv"));
        std::fs::create_dir(dir.path().join("clips")).unwrap();
        let manifest = dir.path().join("clips/manifest.csv");
        std::fs::write(
            &manifest,
            "path,class,source,tier,weak,audio\na.mp4,tennis,x+y,real,,yes\nb.mp4,golf,z,real,weak,silent\n",
        )
        .unwrap();
        let items = read(dir.path()).unwrap();
        assert_eq!(items.len(), 2);
        assert_eq!(items[0].path, Path::new("clips/a.mp4"));
        assert_eq!((items[0].source.as_str(), items[0].weak, items[0].audible), ("x/y", false, true));
        assert!(items[1].weak && !items[1].audible);
        std::fs::write(&manifest, "path,class\na.mp4,tennis\n").unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("source"));
    }
}
