//! A builder of playlists.

use std::fmt::Write as _;

/// A media playlist.
#[derive(Clone, Debug)]
pub struct List {
    pub version: u32,
    pub target: u32,
    pub sequence: u64,
    /// Lines before the first segment.
    pub head: String,
    /// The lines of each segment.
    pub entries: Vec<String>,
    pub ended: bool,
}

impl List {
    pub fn of(entries: impl IntoIterator<Item = String>) -> Self {
        let entries = entries.into_iter().collect();
        Self { version: 7, target: 2, sequence: 0, head: String::new(), entries, ended: true }
    }

    /// The segments `folder/sN.extension` with these numbers, two seconds each.
    pub fn segments(folder: &str, extension: &str, numbers: impl IntoIterator<Item = u64>) -> Self {
        Self::of(numbers.into_iter().map(|n| segment(&format!("{folder}/s{n}.{extension}"))))
    }

    pub fn head(mut self, line: &str) -> Self {
        self.head += line;
        self.head.push('\n');
        self
    }

    /// Inserts `line` before segment `n`.
    pub fn before(mut self, n: usize, line: &str) -> Self {
        self.entries[n] = format!("{line}\n{}", self.entries[n]);
        self
    }

    /// Replaces segment `n`.
    pub fn replace(mut self, n: usize, entry: impl Into<String>) -> Self {
        self.entries[n] = entry.into();
        self
    }

    pub fn sequence(mut self, sequence: u64) -> Self {
        self.sequence = sequence;
        self
    }

    pub fn then(mut self, more: Self) -> Self {
        self.entries.extend(more.entries);
        self
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:{}\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{}\n{}",
            self.version, self.target, self.sequence, self.head
        );
        for entry in &self.entries {
            let _ = writeln!(text, "{entry}");
        }
        text + if self.ended { "#EXT-X-ENDLIST\n" } else { "" }
    }
}

/// A segment of two seconds.
pub fn segment(uri: &str) -> String {
    segment_of("2.000000", uri)
}

pub fn segment_of(seconds: &str, uri: &str) -> String {
    format!("#EXTINF:{seconds},\n{uri}")
}

pub const BREAK: &str = "#EXT-X-DISCONTINUITY";

/// A recording of twelve seconds.
pub fn plain() -> List {
    List::segments("ts", "ts", 0..6)
}

/// A master playlist with the attributes and URI of each variant.
pub fn master(lines: &str, variants: &[(&str, &str)]) -> String {
    let mut text = format!("#EXTM3U\n#EXT-X-VERSION:6\n{lines}");
    for (attributes, uri) in variants {
        let _ = writeln!(text, "#EXT-X-STREAM-INF:{attributes}\n{uri}");
    }
    text
}
