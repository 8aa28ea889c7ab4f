//! The folder of clips: which there are, and how old ones are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::Sidecar;
use touchline_core::error::{Error, Result};
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::gst::clips::PARTIAL_SUFFIX;

/// The largest sidecar that is read, bytes: the decisions of an hour.
const SIDECAR_MAX: u64 = 64 << 20;

/// The clips in a folder. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ClipStore {
    dir: PathBuf,
    /// Clips whose sidecar could not be read at the start. Nothing of them is removed.
    unreadable: Arc<BTreeSet<String>>,
}

/// Creates a folder for media.
///
/// # Errors
/// [`Error::Output`] if it cannot be created.
pub fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| unusable(dir, &e))
}

/// Removes files that a killed program left unfinished. Returns their number.
///
/// # Errors
/// If the folder cannot be read.
pub fn remove_unfinished(dir: &Path) -> io::Result<usize> {
    let is_unfinished = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(PARTIAL_SUFFIX));
    let unfinished = std::fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_unfinished);
    Ok(unfinished.filter(|path| std::fs::remove_file(path).is_ok()).count())
}

fn unusable(dir: &Path, e: &io::Error) -> Error {
    Error::output(dir.display().to_string(), format!("cannot keep media: {e}"), "check the path and its permissions")
}

impl ClipStore {
    /// Opens a folder, creates it, and removes files that an earlier run left unfinished. Returns their number.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be created or read.
    pub fn open(dir: &Path) -> Result<(Self, usize)> {
        create_dir(dir)?;
        let removed = remove_unfinished(dir).map_err(|e| unusable(dir, &e))?;
        let mut store = Self { dir: dir.into(), unreadable: Arc::default() };
        let mut ids = store.ids().map_err(|e| unusable(dir, &e))?;
        ids.retain(|id| store.sidecar(id).is_none());
        store.unreadable = Arc::new(ids);
        Ok((store, removed))
    }

    /// The clips whose sidecar could not be read when the folder was opened, as after a downgrade of the program.
    pub fn unreadable(&self) -> &BTreeSet<String> {
        &self.unreadable
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes files that have the name of a clip without a sidecar: their program was killed before it wrote it. Files of other names
    /// stay, and those with a sidecar that cannot be read. Returns their number.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn remove_orphans(&self) -> io::Result<usize> {
        let ids = self.ids()?;
        let is_orphan = |path: &PathBuf| {
            let Some((stem, extension)) = path.file_name().and_then(|name| name.to_str()?.rsplit_once('.')) else {
                return false;
            };
            let is_media = ["mp4", "mkv", "jpg", "wav"].contains(&extension);
            is_media && super::is_id(stem) && owner(&ids, stem).is_none()
        };
        let all = std::fs::read_dir(&self.dir)?.filter_map(|entry| Some(entry.ok()?.path()));
        let orphans = all.filter(is_orphan);
        Ok(orphans.filter(|path| std::fs::remove_file(path).is_ok()).count())
    }

    /// The ids of all clips.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn ids(&self) -> io::Result<BTreeSet<String>> {
        let entries = std::fs::read_dir(&self.dir)?;
        let id = |entry: std::fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned());
        Ok(entries.filter_map(|entry| id(entry.ok()?)).collect())
    }

    /// The sidecar of a clip; [`None`] if there is no such clip.
    pub fn sidecar(&self, id: &str) -> Option<Sidecar> {
        let path = self.path(&format!("{id}.json"))?;
        let is_sensible = path.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= SIDECAR_MAX);
        let sidecar: Sidecar = serde_json::from_slice(&std::fs::read(path).ok().filter(|_| is_sensible)?).ok()?;
        (sidecar.id == id).then_some(sidecar)
    }

    /// The path of a file in the folder; [`None`] for names that lead out of it.
    pub fn path(&self, file: &str) -> Option<PathBuf> {
        let is_plain = super::name(&[file]) == file && !file.is_empty();
        is_plain.then(|| self.dir.join(file))
    }

    /// All files of a clip, the sidecar first.
    pub fn files(&self, sidecar: &Sidecar) -> Vec<PathBuf> {
        let files = sidecar.files().filter_map(|file| self.path(file));
        [self.dir.join(format!("{}.json", sidecar.id))].into_iter().chain(files).collect()
    }

    /// Removes a clip. Returns whether there was one.
    ///
    /// # Errors
    /// If its sidecar cannot be removed. The clip then stays.
    pub fn remove(&self, id: &str) -> io::Result<bool> {
        let Some(sidecar) = self.sidecar(id) else { return Ok(false) };
        let files = self.files(&sidecar);
        // Without its sidecar it is no clip any more; the rest is removed at the next start if that fails here.
        std::fs::remove_file(&files[0])?;
        files[1..].iter().for_each(|file| drop(std::fs::remove_file(file)));
        Ok(true)
    }

    /// Removes clips older than `age_s` seconds before `unix_ns`, and the oldest while all have more than `bytes`. A clip that
    /// cannot be removed does not count. Returns the size of all that stay.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn trim(&self, bytes: u64, age_s: u64, unix_ns: u64) -> io::Result<u64> {
        // Names and sizes only: sidecars may be large, and this is called every few seconds.
        let ids = self.ids()?;
        let mut sizes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for entry in std::fs::read_dir(&self.dir)?.filter_map(Result::ok) {
            let (name, Ok(meta)) = (entry.file_name(), entry.metadata()) else { continue };
            let Some((stem, extension)) = name.to_str().and_then(|name| name.rsplit_once('.')) else { continue };
            let Some(id) = owner(&ids, stem) else { continue };
            let (made_s, size) = sizes.entry(id).or_default();
            *size += meta.len();
            if extension == "json" {
                let made = meta.modified().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
                *made_s = made.map_or(0, |since| since.as_secs());
            }
        }
        let clips = sizes.into_iter().map(|(id, (made_s, size))| (made_s, id, size));
        let (fixed, mut clips): (Vec<_>, Vec<_>) = clips.partition(|(_, id, _)| self.unreadable.contains(*id));
        clips.sort();
        let size_of = |clips: &[(u64, &str, u64)]| clips.iter().map(|(.., size)| size).sum::<u64>();
        let (mut stuck, mut total) = (size_of(&fixed), size_of(&clips));
        let unix_s = unix_ns / NANOS_PER_SECOND;
        for (made_s, id, size) in clips {
            if total > bytes || unix_s.saturating_sub(made_s) > age_s {
                let removed = self.remove(id);
                if let Err(e) = &removed {
                    tracing::debug!("{}: clip {id} cannot be removed: {e}", self.dir.display());
                }
                stuck += if matches!(removed, Ok(true)) { 0 } else { size };
                total = total.saturating_sub(size);
            }
        }
        Ok(total + stuck)
    }
}

/// The clip that a file belongs to, by its name without extension. Further media files of a clip have a number.
fn owner<'a>(ids: &'a BTreeSet<String>, stem: &str) -> Option<&'a String> {
    ids.get(stem).or_else(|| ids.get(stem.rsplit_once('-')?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, id: &str) {
        let sidecar = format!(
            r#"{{"version":1,"id":"{id}","stream":"a","reason":"event","run":0,"from_pts_ns":0,"to_pts_ns":1,"records":[],
                "media":[{{"file":"{id}.mp4","bytes":1000,"begin_pts_ns":0,"end_pts_ns":1}}],"poster":{{"file":"{id}.jpg","pts_ns":0}}}}"#
        );
        std::fs::write(dir.join(format!("{id}.json")), sidecar).unwrap();
        std::fs::write(dir.join(format!("{id}.mp4")), vec![0; 100_000]).unwrap();
        std::fs::write(dir.join(format!("{id}.jpg")), "x").unwrap();
    }

    #[test]
    fn unfinished_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "b");
        for file in ["a.mp4.part", "a.mp4.index.part", "c-1700000000000-0.5000-tennis.mp4", "notes.txt", "holiday.mp4"]
        {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        let (store, removed) = ClipStore::open(dir.path()).unwrap();
        assert_eq!((removed, store.remove_orphans().unwrap()), (2, 1));
        let mut left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["b.jpg", "b.json", "b.mp4", "holiday.mp4", "notes.txt"]);
    }

    #[test]
    fn clips_with_an_unreadable_sidecar_stay_and_take_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let newer = "a-1700000000000-0.5000-tennis";
        put(dir.path(), newer);
        for file in [format!("{newer}-2.mp4"), format!("{newer}.wav")] {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        // Of a later version of the program.
        std::fs::write(dir.path().join(format!("{newer}.json")), r#"{"version":2,"id":["a"]}"#).unwrap();
        put(dir.path(), "b");
        let (store, removed) = ClipStore::open(dir.path()).unwrap();
        assert_eq!((removed, store.remove_orphans().unwrap()), (0, 0));
        assert_eq!(store.unreadable().iter().collect::<Vec<_>>(), [newer]);
        let now = u64::MAX / 2;
        assert!(
            store.trim(150_000, u64::MAX, now).unwrap() > 200_000,
            "there is room for the clip that can be removed"
        );
        assert!(store.sidecar("b").is_some());
        assert!(store.trim(u64::MAX, 1, now).unwrap() > 100_000);
        assert!(store.sidecar("b").is_none() && dir.path().join(format!("{newer}.mp4")).exists());
    }

    #[test]
    fn a_clip_that_cannot_be_removed_does_not_keep_the_others() {
        let dir = tempfile::tempdir().unwrap();
        ["a", "b"].iter().for_each(|id| put(dir.path(), id));
        let (store, _) = ClipStore::open(dir.path()).unwrap();
        let all = store.trim(u64::MAX, u64::MAX, 0).unwrap();
        for id in ["a", "b"] {
            let file = std::fs::File::options().write(true).open(dir.path().join(format!("{id}.json"))).unwrap();
            file.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(5_000_000_000)).unwrap();
        }
        // The oldest has a folder in place of its sidecar.
        std::fs::create_dir(dir.path().join("0.json")).unwrap();
        assert!(store.trim(all, u64::MAX, 0).unwrap() >= all);
        assert_eq!(store.ids().unwrap().into_iter().collect::<Vec<_>>(), ["0", "a", "b"]);
    }

    #[test]
    fn names_do_not_lead_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "b");
        let (store, _) = ClipStore::open(&dir.path().join("clips")).unwrap();
        for id in ["../b", "..", "", "/etc/passwd", "a/../../b", ".hidden"] {
            assert!(store.sidecar(id).is_none() && !store.remove(id).unwrap(), "{id}");
        }
        assert!(store.path("b.mp4").is_some() && store.path("../b.mp4").is_none());
    }

    #[test]
    fn old_clips_are_removed_by_age_and_size() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = ClipStore::open(dir.path()).unwrap();
        for id in ["a", "b", "c"] {
            put(dir.path(), id);
        }
        // Of one second: removed in the order of their ids.
        let made = UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        for id in ["a", "b", "c"] {
            let file = std::fs::File::options().write(true).open(dir.path().join(format!("{id}.json"))).unwrap();
            file.set_modified(made).unwrap();
        }
        let now = 1_000_100 * NANOS_PER_SECOND;
        let total = store.trim(u64::MAX, 100, now).unwrap();
        assert!(total > 300_000 && store.ids().unwrap().len() == 3);
        assert!(store.trim(210_000, 100, now).unwrap() < 210_000);
        assert_eq!(store.ids().unwrap().into_iter().collect::<Vec<_>>(), ["b", "c"]);
        assert!(!dir.path().join("a.mp4").exists() && !dir.path().join("a.jpg").exists());
        assert!(store.remove("b").unwrap() && !store.remove("b").unwrap());
        assert_eq!(store.trim(u64::MAX, 99, now).unwrap(), 0, "by age");
    }
}
