//! A channel whose clock is the asking: each playlist that is asked for shows one segment more than the last. Nothing
//! depends on how fast the machine is, and a client that looks as often as it should gets a segment in its time.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use super::list::{BREAK, lasting};
use super::server::{Answer, Request, lock};

/// One segment of a channel.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub sequence: u64,
    /// Lines before it, without those of the map.
    pub before: String,
    pub map: Option<String>,
    pub seconds: String,
    pub uri: String,
    /// A packager that was started again knows nothing of what was before.
    pub begins_anew: bool,
}

/// Segments of `folder` with those numbers, numbered in the playlist from `sequence` on.
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
    /// Segments that were published so far.
    published: usize,
    asked: usize,
}

#[derive(Clone)]
pub struct Channel {
    pub entries: Vec<Entry>,
    /// How many the first playlist has seen published.
    pub first: usize,
    /// How many a playlist shows; all if 0.
    pub window: usize,
    pub target: u32,
    pub head: String,
    /// Whether the last one is followed by the end mark.
    pub ends: bool,
    /// What the playlists of these numbers are instead; no time passes.
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

    /// The playlist for the next one who asks.
    pub fn answer(&self, _: &Request) -> Answer {
        let mut now = lock(&self.now);
        now.asked += 1;
        let asked = now.asked - 1;
        if let Some((_, answer)) = self.instead.iter().find(|(n, _)| *n == asked) {
            return answer.clone();
        }
        now.published = if now.published == 0 { self.first } else { (now.published + 1).min(self.entries.len()) };
        Answer::list(self.text(now.published))
    }

    /// The playlist of the same moment as the last one: of another rendition, which `of` makes from an address.
    pub fn twin(&self, of: impl Fn(&str) -> String) -> Answer {
        let published = lock(&self.now).published.max(self.first);
        let mut twin = self.clone();
        twin.entries.iter_mut().for_each(|entry| entry.uri = of(&entry.uri));
        Answer::list(twin.text(published))
    }

    fn text(&self, published: usize) -> String {
        let packager = self.entries[..published].iter().rposition(|e| e.begins_anew).unwrap_or(0);
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
            let _ = writeln!(text, "{}", lasting(&entry.seconds, &entry.uri));
        }
        if published == self.entries.len() && self.ends {
            text += "#EXT-X-ENDLIST\n";
        }
        text
    }
}
