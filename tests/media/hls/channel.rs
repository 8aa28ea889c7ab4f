//! A channel whose clock is the number of requests: each playlist shows one segment more than the previous one. Nothing depends on
//! the speed of the machine, and a client that reloads at the right rate gets each segment in time.

use std::fmt::Write as _;
use std::sync::Arc;

use super::list::{BREAK, segment_of};
use super::server::{Answer, Request};
use parking_lot::Mutex;

/// One segment of a channel.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub sequence: u64,
    /// The lines before the segment, except those of the map.
    pub before: String,
    pub map: Option<String>,
    pub seconds: String,
    pub uri: String,
    /// Whether the packager restarted here. Its playlists then lack the earlier segments.
    pub is_restart: bool,
}

/// The segments of `folder` with these numbers. Their media sequence numbers start at `sequence`.
pub fn entries(
    folder: &str,
    extension: &str,
    seconds: &str,
    numbers: std::ops::Range<u64>,
    sequence: u64,
) -> Vec<Entry> {
    let map = (extension == "m4s").then(|| format!("{folder}/init.mp4"));
    let entry = |(at, n): (usize, u64)| Entry {
        sequence: sequence + at as u64,
        map: map.clone(),
        seconds: seconds.to_owned(),
        uri: format!("{folder}/s{n}.{extension}"),
        ..Entry::default()
    };
    numbers.enumerate().map(entry).collect()
}

#[derive(Debug, Default)]
pub struct Now {
    /// The number of published segments.
    published: usize,
    requests: usize,
}

#[derive(Clone)]
pub struct Channel {
    pub entries: Vec<Entry>,
    /// The number of published segments at the first request.
    pub first: usize,
    /// The number of segments in a playlist, 0 for all.
    pub window: usize,
    pub target: u32,
    pub head: String,
    /// Whether the end mark follows the last segment.
    pub ends: bool,
    /// Other answers for the requests with these numbers. They do not publish a segment.
    pub instead: Vec<(usize, Answer)>,
    pub now: Arc<Mutex<Now>>,
}

impl Channel {
    pub fn of(entries: Vec<Entry>) -> Self {
        Self {
            entries,
            first: 6,
            window: 6,
            target: 1,
            head: String::new(),
            ends: true,
            instead: Vec::new(),
            now: Arc::default(),
        }
    }

    pub fn instead(mut self, numbers: std::ops::Range<usize>, answer: &Answer) -> Self {
        self.instead.extend(numbers.map(|n| (n, answer.clone())));
        self
    }

    /// Answers the next request.
    pub fn answer(&self, _: &Request) -> Answer {
        let mut now = self.now.lock();
        now.requests += 1;
        let request = now.requests - 1;
        if let Some((_, answer)) = self.instead.iter().find(|(n, _)| *n == request) {
            return answer.clone();
        }
        now.published = if now.published == 0 { self.first } else { (now.published + 1).min(self.entries.len()) };
        Answer::list(self.text(now.published))
    }

    /// The playlist of another rendition at the same time as the last one. `of` maps the URIs of its segments.
    pub fn twin(&self, of: impl Fn(&str) -> String) -> Answer {
        let published = self.now.lock().published.max(self.first);
        let mut twin = self.clone();
        twin.entries.iter_mut().for_each(|entry| entry.uri = of(&entry.uri));
        Answer::list(twin.text(published))
    }

    fn text(&self, published: usize) -> String {
        let packager = self.entries[..published].iter().rposition(|e| e.is_restart).unwrap_or(0);
        let from = if self.window == 0 { packager } else { published.saturating_sub(self.window).max(packager) };
        let breaks = self.entries[packager..from].iter().filter(|e| e.before.contains(BREAK)).count();
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{}\n",
            self.target, self.entries[from].sequence
        );
        if breaks > 0 {
            let _ = writeln!(text, "#EXT-X-DISCONTINUITY-SEQUENCE:{breaks}");
        }
        text += &self.head;
        let mut map = None;
        for entry in &self.entries[from..published] {
            text += &entry.before;
            if entry.map != map {
                map.clone_from(&entry.map);
                let _ = writeln!(text, "#EXT-X-MAP:URI=\"{}\"", map.as_deref().unwrap_or_default());
            }
            let _ = writeln!(text, "{}", segment_of(&entry.seconds, &entry.uri));
        }
        if published == self.entries.len() && self.ends {
            text += "#EXT-X-ENDLIST\n";
        }
        text
    }
}
