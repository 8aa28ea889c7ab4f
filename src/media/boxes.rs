//! The boxes of MP4 and QuickTime files (ISO/IEC 14496-12, 4.2), read without loading what is in them.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

/// The most boxes of one level. A fragmented file has two per fragment: a day of one-second fragments has 172,800.
pub(crate) const BOXES_MAX: usize = 1_000_000;

/// Kinds that a file can begin with.
const FIRST: [&[u8; 4]; 9] = [b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"sidx"];

/// Whether a file whose first box is of this kind is an MP4 or QuickTime file.
pub(crate) fn is_first(kind: &[u8]) -> bool {
    FIRST.iter().any(|first| *first == kind)
}

/// A box of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileBox {
    pub(crate) kind: [u8; 4],
    /// Where its content lies. In a truncated file it ends after the file.
    pub(crate) body: Range<u64>,
}

/// Reads numbers and boxes of a file.
pub(crate) struct BoxReader<R>(pub(crate) R);

impl<R: Read + Seek> BoxReader<R> {
    /// The `N` bytes at `at`.
    ///
    /// # Errors
    /// If the file cannot be read, or ends before.
    pub(crate) fn bytes<const N: usize>(&mut self, at: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.seek(SeekFrom::Start(at))?;
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn u32(&mut self, at: u64) -> io::Result<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, at: u64) -> io::Result<u64> {
        self.bytes(at).map(u64::from_be_bytes)
    }

    /// The box at the start of `range`; [`None`] if there is no room for one, or its size is invalid.
    ///
    /// # Errors
    /// If the file cannot be read, or ends within the header of the box.
    pub(crate) fn first(&mut self, range: Range<u64>) -> io::Result<Option<FileBox>> {
        let at = range.start;
        let room = range.end.saturating_sub(at);
        if room < 8 {
            return Ok(None);
        }
        // One read for all of the header: files of a day have hundreds of thousands of boxes.
        let mut head = [0; 16];
        self.0.seek(SeekFrom::Start(at))?;
        self.0.read_exact(&mut head[..room.min(16) as usize])?;
        let [a, b, c, d, e, f, g, h, long @ ..] = head;
        let kind = [e, f, g, h];
        let (size, skip) = match u32::from_be_bytes([a, b, c, d]) {
            0 => (room, 8),
            1 if room >= 16 => (u64::from_be_bytes(long), 16),
            short => (u64::from(short), 8),
        };
        Ok((size >= skip).then(|| FileBox { kind, body: at + skip..at.saturating_add(size) }))
    }

    /// The first box of a kind in `range`; [`None`] if there is none before a box that is damaged or truncated.
    ///
    /// # Errors
    /// As [`Self::first`].
    pub(crate) fn find(&mut self, range: Range<u64>, kind: &[u8; 4]) -> io::Result<Option<Range<u64>>> {
        self.find_map(range, |_, found| Ok((found.kind == *kind).then_some(found.body)))
    }

    /// The first result of `map` for a box in `range`; [`None`] as with [`Self::find`].
    ///
    /// # Errors
    /// As [`Self::first`], and those of `map`.
    pub(crate) fn find_map<T>(
        &mut self,
        mut range: Range<u64>,
        mut map: impl FnMut(&mut Self, FileBox) -> io::Result<Option<T>>,
    ) -> io::Result<Option<T>> {
        for _ in 0..BOXES_MAX {
            let Some(found) = self.first(range.clone())?.filter(|found| found.body.end <= range.end) else { break };
            range.start = found.body.end;
            if let Some(mapped) = map(self, found)? {
                return Ok(Some(mapped));
            }
        }
        Ok(None)
    }
}

/// A box with `body`, for tests.
#[cfg(test)]
pub(crate) fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], kind, body].concat()
}
