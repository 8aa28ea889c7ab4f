//! Detects a change of a pack's directory that is complete. It compares sizes and modification times, which works on
//! every file system, including network drives.

use std::path::Path;
use std::time::SystemTime;

use touchline_compute::models::pack::MANIFEST;

/// Interval of the checks, nanoseconds. A copy is complete when two checks see the same files.
pub(super) const POLL_NS: u64 = 2_000_000_000;

/// Name, size and modification time of the files of a pack. Empty without any.
type Fingerprint = Vec<(std::ffi::OsString, u64, Option<SystemTime>)>;

fn fingerprint(dir: &Path) -> Fingerprint {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Fingerprint = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name().is_some_and(|name| name == MANIFEST)
                || path.extension().is_some_and(|extension| extension == "safetensors")
        })
        .filter_map(|path| {
            // Follows links.
            let metadata = std::fs::metadata(&path).ok()?;
            Some((path.file_name()?.to_owned(), metadata.len(), metadata.modified().ok()))
        })
        .collect();
    files.sort();
    files
}

/// The state of a watched directory.
#[derive(Debug)]
pub(super) struct DirectoryWatch {
    /// The files when the pack was last taken or refused.
    tried: Fingerprint,
    /// The files at the last check.
    last: Fingerprint,
    due_ns: u64,
}

impl DirectoryWatch {
    /// The current files have been taken. `now_ns`: monotonic clock.
    pub(super) fn new(dir: &Path, now_ns: u64) -> Self {
        let tried = fingerprint(dir);
        Self { last: tried.clone(), tried, due_ns: now_ns.saturating_add(POLL_NS) }
    }

    /// Time of the next check, monotonic clock.
    pub(super) fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Checks the directory. Returns true once if its files differ from those last tried and have not changed since the
    /// last check: a pack that is still being written is left alone.
    pub(super) fn changed(&mut self, dir: &Path, now_ns: u64) -> bool {
        if now_ns < self.due_ns {
            return false;
        }
        self.due_ns = now_ns.saturating_add(POLL_NS);
        let now = fingerprint(dir);
        // Without the manifest it is not a complete pack.
        let whole = now.iter().any(|(name, _, _)| name == MANIFEST);
        let at_rest = now == self.last;
        self.last = now;
        if whole && at_rest && self.last != self.tried {
            self.tried.clone_from(&self.last);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_change_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let write = |name: &str, content: &str| std::fs::write(dir.join(name), content).unwrap();
        write(MANIFEST, "one");
        let mut now_ns = 0;
        let mut watch = DirectoryWatch::new(dir, now_ns);
        let mut look = |watch: &mut DirectoryWatch| {
            now_ns += POLL_NS;
            watch.changed(dir, now_ns)
        };
        assert!(!look(&mut watch) && !look(&mut watch), "nothing has changed");
        write("rgb.safetensors", "half");
        write(MANIFEST, "another");
        assert!(!look(&mut watch), "the folder has just changed");
        write("rgb.safetensors", "half and the other half");
        assert!(!look(&mut watch), "the folder is still changing");
        assert!(look(&mut watch), "the change is complete");
        assert!(!look(&mut watch) && !look(&mut watch), "the change is reported once");
        std::fs::remove_file(dir.join(MANIFEST)).unwrap();
        assert!(!look(&mut watch) && !look(&mut watch), "there is no pack without a manifest");
        write(MANIFEST, "a third");
        assert!(!look(&mut watch) && look(&mut watch));
        write("notes.txt", "not of the pack");
        assert!(!look(&mut watch) && !look(&mut watch));
    }

    #[test]
    fn the_folder_is_read_once_per_interval() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(MANIFEST), "one").unwrap();
        let mut watch = DirectoryWatch::new(folder.path(), 0);
        std::fs::write(folder.path().join(MANIFEST), "another").unwrap();
        assert!(!watch.changed(folder.path(), POLL_NS - 1) && watch.due_ns() == POLL_NS);
        assert!(!watch.changed(folder.path(), POLL_NS));
        assert!(!watch.changed(folder.path(), 2 * POLL_NS - 1));
        assert!(watch.changed(folder.path(), 2 * POLL_NS));
    }
}
