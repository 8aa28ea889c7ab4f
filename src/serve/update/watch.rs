//! Says when a pack's directory has changed and has come to rest: by length and time of its files, which works on every
//! file system, network drives too.

use std::path::Path;
use std::time::SystemTime;

use touchline_compute::models::pack::MANIFEST;

/// Between two looks, nanoseconds: a pack that is copied is at rest when two of them see the same.
pub(super) const POLL_NS: u64 = 2_000_000_000;

/// Name, length and time of change of the files that make a pack. Empty: there is none.
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
            // Follows links: what matters is the file at their end.
            let metadata = std::fs::metadata(&path).ok()?;
            Some((path.file_name()?.to_owned(), metadata.len(), metadata.modified().ok()))
        })
        .collect();
    files.sort();
    files
}

/// What was seen of the directory.
#[derive(Debug)]
pub(super) struct DirectoryWatch {
    /// When the pack was last taken or refused.
    tried: Fingerprint,
    /// At the last look.
    last: Fingerprint,
    due_ns: u64,
}

impl DirectoryWatch {
    /// What is there now has been taken. `now_ns`: the monotonic clock.
    pub(super) fn new(dir: &Path, now_ns: u64) -> Self {
        let tried = fingerprint(dir);
        Self { last: tried.clone(), tried, due_ns: now_ns.saturating_add(POLL_NS) }
    }

    /// When to look next, by the monotonic clock.
    pub(super) fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Looks. True when the directory holds something else than what was last tried, and held the same at the last look:
    /// a pack that is still being written is left alone. Each state is told once.
    pub(super) fn changed(&mut self, dir: &Path, now_ns: u64) -> bool {
        if now_ns < self.due_ns {
            return false;
        }
        self.due_ns = now_ns.saturating_add(POLL_NS);
        let now = fingerprint(dir);
        // Without the manifest it is not a pack yet, or not any more: somebody is at it.
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
    fn a_change_is_told_once_it_is_at_rest() {
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
        assert!(!look(&mut watch), "it has just changed");
        write("rgb.safetensors", "half and the other half");
        assert!(!look(&mut watch), "it changes still");
        assert!(look(&mut watch), "it is at rest");
        assert!(!look(&mut watch) && !look(&mut watch), "it is told once");
        std::fs::remove_file(dir.join(MANIFEST)).unwrap();
        assert!(!look(&mut watch) && !look(&mut watch), "no manifest, no pack");
        write(MANIFEST, "a third");
        assert!(!look(&mut watch) && look(&mut watch));
        write("notes.txt", "not of the pack");
        assert!(!look(&mut watch) && !look(&mut watch));
    }

    #[test]
    fn it_looks_no_more_often_than_it_should() {
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
