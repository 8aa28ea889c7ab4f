//! Records as lines in a file or on standard output.
//!
//! Every record is written and flushed on its own: a reader sees each second when it is published, and a crash loses
//! nothing that was written. A partial line, left by a full disk, is removed from a file; in a stream it is ended with
//! a line break.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use touchline_core::error::{Error, Result};

/// Interval of log messages about lost records.
const LOG_EVERY_NS: u64 = 60_000_000_000;

/// Where the lines go.
enum Target {
    /// A regular file, opened for appending: lines stay adjacent even if another program truncates the file
    /// (logrotate's `copytruncate`).
    File { file: File, path: PathBuf },
    /// Standard output, a pipe or a device.
    Stream(Box<dyn Write + Send>),
}

/// Writes records, one per line.
pub struct JsonlWriter {
    target: Target,
    /// For messages: the path, or `standard output`.
    destination: String,
    /// The last write left a partial line.
    torn: bool,
    lost: u64,
    logged_ns: Option<u64>,
}

impl JsonlWriter {
    /// Opens `path` (`-` is standard output) and truncates it, for offline scoring.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be opened.
    pub fn create(path: &Path) -> Result<Self> {
        Self::open(path, false)
    }

    /// Opens `path` (`-` is standard output) and appends to it, for live streams. It first removes a partial line that
    /// a crash left, and adds a missing line break.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be opened.
    pub fn append(path: &Path) -> Result<Self> {
        Self::open(path, true)
    }

    fn open(path: &Path, keep: bool) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::to("standard output", Box::new(io::stdout())));
        }
        let destination = path.display().to_string();
        // Opening a pipe for writing blocks until it has a reader, which would look like a hang.
        let _held = hold_pipe(path)?;
        let file = OpenOptions::new()
            .read(keep && path.is_file())
            .append(true)
            .create(true)
            .open(path)
            .map_err(|e| output_error(&destination, &e))?;
        let metadata = file.metadata().map_err(|e| output_error(&destination, &e))?;
        if !metadata.is_file() {
            return Ok(Self::to(destination, Box::new(file)));
        }
        lock(&file, &destination)?;
        if !keep {
            // Only after locking: before, it may belong to another process.
            file.set_len(0).map_err(|e| output_error(&destination, &e))?;
        }
        let target = Target::File { file, path: path.to_owned() };
        let mut writer = Self { target, destination, torn: false, lost: 0, logged_ns: None };
        writer.mend().map_err(|e| output_error(&writer.destination, &e))?;
        Ok(writer)
    }

    /// Opens the path again if the file was moved away. If that fails, it continues with the old file.
    pub fn reopen(&mut self) {
        let Target::File { file, path } = &self.target else { return };
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if let (Ok(open), Ok(named)) = (file.metadata(), fs::metadata(path))
            && same(&open, &named)
        {
            return;
        }
        match Self::append(&path.clone()) {
            Ok(opened) => {
                self.target = opened.target;
                self.torn = opened.torn;
                tracing::info!("{}: reopened", self.destination);
            }
            Err(e) => tracing::error!("records continue in the previous file: {e}"),
        }
    }

    /// Writes to `writer`; `destination` names it in messages.
    pub fn to(destination: impl Into<String>, writer: Box<dyn Write + Send>) -> Self {
        Self { target: Target::Stream(writer), destination: destination.into(), torn: false, lost: 0, logged_ns: None }
    }

    /// Writes `record` (one line, without its end) and flushes it.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be written; then a regular file contains nothing of the record.
    pub fn write(&mut self, record: &str) -> Result<()> {
        debug_assert!(!record.contains('\n'), "a record is one line");
        let mut line = Vec::with_capacity(record.len() + 2);
        if self.torn {
            line.push(b'\n');
        }
        line.extend_from_slice(record.as_bytes());
        line.push(b'\n');
        self.put(&line).map_err(|e| output_error(&self.destination, &e))
    }

    /// Writes `record` for a live stream. If that fails, it counts the record as lost and returns false. It logs the
    /// first loss, and then one per minute. `now_ns`: monotonic clock.
    pub fn write_or_count(&mut self, record: &str, now_ns: u64) -> bool {
        let Err(error) = self.write(record) else {
            if self.logged_ns.take().is_some() {
                tracing::info!(destination = %self.destination, lost = self.lost, "the record output works again");
            }
            return true;
        };
        self.lost += 1;
        if self.logged_ns.is_none_or(|then| now_ns.saturating_sub(then) >= LOG_EVERY_NS) {
            self.logged_ns = Some(now_ns);
            tracing::error!(lost = self.lost, "a record is lost: {error}");
        }
        false
    }

    /// The destination, for messages.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Records lost so far by [`JsonlWriter::write_or_count`].
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes all `bytes`, or restores the target if possible.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.target {
            Target::File { file, .. } => {
                let before = file.metadata()?.len();
                let result = file.write_all(bytes);
                self.torn = result.is_err() && !take_back(file, before);
                result
            }
            Target::Stream(stream) => {
                let result = stream.write_all(bytes).and_then(|()| stream.flush());
                self.torn = result.is_err();
                result
            }
        }
    }

    /// Ends the last line, or removes it if it is partial.
    fn mend(&mut self) -> io::Result<()> {
        let Target::File { file, .. } = &mut self.target else { return Ok(()) };
        // A truncated file is opened without read access, but it is empty.
        let len = file.metadata()?.len();
        let begins = last_line(file, len)?;
        if begins == len {
            return Ok(());
        }
        let mut line = Vec::new();
        file.seek(SeekFrom::Start(begins))?;
        file.read_to_end(&mut line)?;
        // A line that does not start like a record is not this program's and stays.
        let is_ours = line.starts_with(b"{");
        if !is_ours || serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&line).is_ok() {
            return self.put(b"\n");
        }
        tracing::warn!("{}: removed a partial last line ({} bytes)", self.destination, line.len());
        file.set_len(begins)
    }
}

/// Removes the bytes of a failed write after the first `before` bytes. Returns whether all were removed.
fn take_back(file: &File, before: u64) -> bool {
    match file.metadata() {
        // Another program truncated it: setting its length would fill it with zeros.
        Ok(now) if now.len() < before => now.len() == 0,
        Ok(now) => now.len() == before || file.set_len(before).is_ok(),
        Err(_) => false,
    }
}

/// Locks the file: two writers would lose or mix lines.
fn lock(file: &File, destination: &str) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::output(
            destination,
            "another process writes records to this file",
            "stop that process, or name another file with --jsonl",
        )),
        // Some network file systems have no locks.
        Err(TryLockError::Error(e)) => {
            tracing::warn!("{destination}: cannot lock it ({e}); make sure that no other process writes to it");
            Ok(())
        }
    }
}

/// Start of the last line in the first `len` bytes of `file`; `len` if they end with a line break.
fn last_line(file: &mut File, len: u64) -> io::Result<u64> {
    let mut block = [0; 64 * 1024];
    let mut end = len;
    while end > 0 {
        let size = end.min(block.len() as u64);
        let bytes = &mut block[..size as usize];
        file.seek(SeekFrom::Start(end - size))?;
        file.read_exact(bytes)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(end - size + at as u64 + 1);
        }
        end -= size;
    }
    Ok(0)
}

/// Cause and advice for a failed write.
fn output_error(destination: &str, error: &io::Error) -> Error {
    let advice = match error.kind() {
        ErrorKind::BrokenPipe => "the program that read the records has ended; restart both",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free space on that disk, or write elsewhere with --jsonl",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "grant this user write access, or write elsewhere with --jsonl"
        }
        ErrorKind::NotFound => "create the folder, or write elsewhere with --jsonl",
        ErrorKind::IsADirectory => "name a file in it, as in --jsonl FOLDER/records.jsonl",
        _ => "check the disk, or write elsewhere with --jsonl",
    };
    // Omits the number of the OS error.
    let text = error.to_string();
    let cause = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    Error::output(destination, format!("cannot write records: {cause}"), advice)
}

/// If `path` is a pipe, opens it without blocking. Keep the result until the pipe is opened again, so that its reader
/// sees no end in between.
///
/// # Errors
/// [`Error::Output`] if the pipe has no reader.
pub fn hold_pipe(path: &Path) -> Result<Option<File>> {
    if !fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo()) {
        return Ok(None);
    }
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    match OpenOptions::new().write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => Err(Error::output(
            path.display().to_string(),
            "this pipe has no reader",
            "start the reader first, or give a file",
        )),
        Err(e) => Err(output_error(&path.display().to_string(), &e)),
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;

    use super::*;
    use crate::skip::{Lacks, skip};

    /// Accepts `room` bytes, then fails once.
    struct SmallWriter {
        room: usize,
        kind: ErrorKind,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for SmallWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                self.room = usize::MAX;
                return Err(self.kind.into());
            }
            let n = bytes.len().min(self.room);
            self.room -= n;
            self.written.lock().extend(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn records_are_in_the_file_immediately() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut writer = JsonlWriter::create(&path).unwrap();
        writer.write("{\"a\":1}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n");
        writer.write("{\"a\":2}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
    }

    #[test]
    fn create_truncates_and_append_removes_a_partial_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        fs::write(&path, "{\"a\":1}\n{\"a\":").unwrap();
        JsonlWriter::append(&path).unwrap().write("{\"a\":3}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":3}\n");
        JsonlWriter::append(&path).unwrap().write("{\"a\":4}").unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("{\"a\":3}\n{\"a\":4}\n"));
        JsonlWriter::create(&path).unwrap().write("{}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
    }

    #[test]
    fn a_partial_line_of_any_length_is_removed_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let whole = format!("{{\"a\":\"{}\"}}\n", "x".repeat(70_000));
        for (partial, remaining) in [
            (format!("{{\"b\":\"{}", "y".repeat(200_000)), whole.clone()),
            ("{\"b\":2}".to_owned(), format!("{whole}{{\"b\":2}}\n")),
            ("{\"b\":2".to_owned(), whole.clone()),
            ("notes".to_owned(), format!("{whole}notes\n")),
        ] {
            fs::write(&path, format!("{whole}{partial}")).unwrap();
            JsonlWriter::append(&path).unwrap().write("{\"c\":3}").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{remaining}{{\"c\":3}}\n"));
        }
        fs::write(&path, "{\"only\":").unwrap();
        JsonlWriter::append(&path).unwrap().write("{}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
    }

    #[test]
    fn a_truncated_file_continues_at_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut writer = JsonlWriter::append(&path).unwrap();
        writer.write("{\"a\":1}").unwrap();
        // As logrotate's copytruncate does.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        writer.write("{\"a\":2}").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":2}\n");
    }

    #[test]
    fn a_moved_file_is_reopened_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("out.jsonl"), folder.path().join("out.jsonl.1"));
        let mut writer = JsonlWriter::append(&path).unwrap();
        writer.write("{\"a\":1}").unwrap();
        writer.reopen();
        writer.write("{\"a\":2}").unwrap();
        fs::rename(&path, &old).unwrap();
        writer.write("{\"a\":3}").unwrap();
        writer.reopen();
        writer.write("{\"a\":4}").unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":4}\n");
        // If no file can be created, the old one continues.
        fs::rename(&path, &old).unwrap();
        fs::create_dir(&path).unwrap();
        writer.reopen();
        writer.write("{\"a\":5}").unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "{\"a\":4}\n{\"a\":5}\n");
    }

    #[test]
    fn a_file_has_one_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut first = JsonlWriter::append(&path).unwrap();
        first.write("{}").unwrap();
        for second in [JsonlWriter::append(&path), JsonlWriter::create(&path)] {
            let text = second.err().expect("the file is locked").to_string();
            assert!(text.starts_with(&path.display().to_string()) && text.contains("another process"), "{text}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n", "the attempt changes nothing");
        drop(first);
        JsonlWriter::append(&path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/such/out.jsonl");
        let error_of = |path: &Path| JsonlWriter::append(path).err().expect("cannot be opened").to_string();
        let text = error_of(&missing);
        assert!(text.starts_with(&missing.display().to_string()) && text.contains("create the folder"), "{text}");
        assert!(!text.contains('\n') && !text.contains("os error"), "{text}");
        assert!(error_of(folder.path()).contains("name a file in it"), "{}", error_of(folder.path()));
    }

    #[test]
    fn a_full_disk_is_an_error_offline_and_a_count_live() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            skip(Lacks::Tool, "this system has no /dev/full");
            return;
        }
        let mut writer = JsonlWriter::create(full).unwrap();
        let error = writer.write("{}").unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert!(error.to_string().contains("/dev/full") && error.to_string().contains("free space"), "{error}");
        assert!(!writer.write_or_count("{}", 0) && !writer.write_or_count("{}", 1));
        assert_eq!(writer.lost(), 2);
    }

    #[test]
    fn a_partial_line_is_ended_before_the_next() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let small = SmallWriter { room: 12, kind: ErrorKind::StorageFull, written: written.clone() };
        let mut writer = JsonlWriter::to("somewhere", Box::new(small));
        assert!(writer.write_or_count("{\"a\":1}", 0));
        assert!(!writer.write_or_count("{\"a\":2}", 0));
        assert!(writer.write_or_count("{\"a\":3}", 0));
        assert_eq!(String::from_utf8(written.lock().clone()).unwrap(), "{\"a\":1}\n{\"a\"\n{\"a\":3}\n");
    }

    #[test]
    fn a_closed_pipe_is_an_error_and_not_a_panic() {
        let (reader, pipe) = io::pipe().unwrap();
        drop(reader);
        let mut writer = JsonlWriter::to("standard output", Box::new(pipe));
        let text = writer.write("{}").unwrap_err().to_string();
        assert!(text.contains("has ended"), "{text}");
    }
}
