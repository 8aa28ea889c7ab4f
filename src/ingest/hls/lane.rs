//! Plays one media playlist: reloads it, fetches what comes next, and hands it on with its place on the line.
//!
//! What cannot be had is skipped after retries and is missing for its length; the next good piece goes on from there. Knows
//! neither sockets nor GStreamer: an [`Origin`] fetches, a [`Feeder`] takes, time is tokio's, which tests set.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use url::Url;

use super::attributes::Variables;
use super::container::{self, Container};
use super::crypt;
use super::follow::{Follower, Memory, Piece};
use super::mp4;
use super::place::{Found, Placer};
use super::playlist::{AdBreak, Key, Map, Media, Playlist, Protection, Trouble};
use crate::ingest::Discontinuity;
use crate::ingest::guard::Refusal;
use crate::ingest::incident::Cause;
use crate::ingest::outlet::Counters;

/// A playlist that has not moved for this long, and for this many target durations, has stalled: it should have moved
/// after one and a half (RFC 8216bis, 6.2.2).
const STALL_MIN: Duration = Duration::from_secs(10);
const STALL_TARGETS: u32 = 3;

/// How long a playlist is tried that could not be had yet.
const FIRST_MAX: Duration = Duration::from_secs(3);

/// How often a playlist is loaded at most, and how soon it is tried again after a failure.
const RELOAD_MIN: Duration = Duration::from_millis(500);
const RETRY_PLAYLIST: Duration = Duration::from_secs(1);

/// How long an answer may take at least before it is given up, and how long a server may hold a reload back beyond what it says.
const PATIENCE: Duration = Duration::from_secs(4);

/// First pause before a piece is asked for again; pauses double.
const BACKOFF: Duration = Duration::from_millis(250);

/// Times that a piece of a recording is asked for: nothing is in a hurry, and nothing will change.
const TRIES_OF_RECORDING: u32 = 4;

/// As [`TRIES_OF_RECORDING`], when the server says that it is not there or not for us.
const TRIES_OF_TOLD: u32 = 3;

/// How long a piece of a recording is tried: a server that hangs must not look like a stream that has stalled.
const TRYING_MAX: Duration = Duration::from_secs(4);

/// Keys that are kept.
const KEYS_MAX: usize = 8;

/// Advertisement breaks that were told of, by identity.
const TOLD_MAX: usize = 1_000;

/// Pieces that come and cannot be used, in a row, before anything could: what is there is no channel.
const USELESS_MAX: u32 = 5;
const USELESS_OF_RECORDING_MAX: u32 = 30;

/// Fetches playlists and media.
pub(super) trait Origin: Send + Sync {
    /// The text at `url` and where redirects led.
    fn playlist(&self, url: &Url, patience: Duration) -> impl Future<Output = Result<(Url, String), Refusal>> + Send;

    /// The bytes at `url`, or a range of them.
    fn media(
        &self,
        url: &Url,
        range: Option<super::attributes::ByteRange>,
        patience: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, Refusal>> + Send;
}

/// What a lane says beside its media, in order with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// Another run begins at this place.
    Break { at_ns: u64, cause: Discontinuity },
    /// There are no media from here to there.
    Missing { from_ns: u64, to_ns: u64 },
    /// A place was taken at this time, ns since 1970-01-01 UTC.
    Date { at_ns: u64, unix_ns: i64 },
    /// An advertisement break begins or ends at this place.
    Ad { at_ns: u64, ad: AdBreak },
    /// A segment could not be had.
    Lost { at_ns: u64, cause: Cause },
}

/// What a demuxer is told before its first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ingest) struct Beginning {
    pub container: Container,
    /// As [`super::place::Placed::tracks`].
    pub tracks: [Option<i64>; 2],
    pub line_ns: u64,
}

/// Takes what a lane hands on.
pub(super) trait Feeder: Send {
    /// What goes on after this needs another demuxer; the one before gets no more.
    fn begin(&mut self, beginning: Beginning) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Takes bytes; waits while there is enough. `false`: the demuxer is of no use any more, and another must begin.
    fn push(&mut self, bytes: Vec<u8>) -> impl Future<Output = bool> + Send;

    fn note(&mut self, note: Note);
}

/// An initialisation (`EXT-X-MAP`) that was fetched.
#[derive(Clone)]
struct Init {
    map: Arc<Map>,
    bytes: Vec<u8>,
    tracks: Option<mp4::Tracks>,
}

/// A piece that was fetched, decrypted and looked at.
struct Fetched {
    bytes: Vec<u8>,
    init: Option<Init>,
    opened: container::Opened,
}

/// How a lane came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LaneEnd {
    /// The playlist is over, and all of it was handed on.
    Over,
    Failed(Refusal),
}

/// What was lost since the last piece that was handed on.
#[derive(Clone, Copy, Debug, Default)]
struct Loss {
    ns: u64,
    /// What the lost pieces told, and the next one that is handed on must tell.
    is_break: bool,
    is_restart: bool,
}

/// One playlist that is played.
pub(super) struct Lane<O, F> {
    pub origin: Arc<O>,
    pub feeder: F,
    pub url: Url,
    pub variables: Variables,
    pub follower: Follower,
    pub placer: Placer,
    /// Where another lane began, for one that follows it.
    pub begins_at: Option<u128>,
    /// Where its progress is kept for the next connection.
    pub memory: Option<Memory>,
    /// Told whether it is a recording.
    pub counters: Arc<Counters>,
    /// Told of the first piece that is taken: its sequence number.
    pub on_first: Option<tokio::sync::oneshot::Sender<u128>>,
    keys: VecDeque<(Url, [u8; 16])>,
    map: Option<Init>,
    /// The initialisation that the demuxer has.
    fed_map: Option<Arc<Map>>,
    lost: Loss,
    /// The first piece of that which another variant may have, and what was lost before it.
    lost_from: Option<(u128, Loss)>,
    must_begin: bool,
    has_media: bool,
    is_recording: bool,
    useless: u32,
    last_failed: bool,
    /// Why the last piece that was lost was lost.
    trouble: Option<Refusal>,
    told: HashSet<(String, bool)>,
}

impl<O: Origin, F: Feeder> Lane<O, F> {
    pub fn new(origin: Arc<O>, feeder: F, url: Url, variables: Variables, placer: Placer) -> Self {
        Self {
            origin,
            feeder,
            url,
            variables,
            follower: Follower::default(),
            placer,
            begins_at: None,
            memory: None,
            counters: Arc::default(),
            on_first: None,
            keys: VecDeque::new(),
            map: None,
            fed_map: None,
            lost: Loss::default(),
            lost_from: None,
            must_begin: true,
            has_media: false,
            is_recording: false,
            useless: 0,
            last_failed: false,
            trouble: None,
            told: HashSet::new(),
        }
    }

    /// Goes on with another playlist of the same media.
    pub fn change(&mut self, url: Url) {
        self.url = url;
        self.map = None;
        if let Some((sequence, before)) = self.lost_from.take() {
            // What was lost at the end of the other may be in this one.
            self.lost = before;
            self.follower.go_back_to(sequence);
        }
        self.follower.forget_known();
        self.must_begin = true;
        self.placer.forget_container();
    }

    /// Whether anything was handed on.
    pub fn has_media(&self) -> bool {
        self.has_media
    }

    /// Plays until the playlist is over or fails. `first` was loaded already.
    pub async fn run(&mut self, first: Option<Media>) -> LaneEnd {
        let (mut loaded, mut trouble, mut loads) = (first, None, 0u32);
        let (mut news, mut stall_max) = (Instant::now(), STALL_MIN);
        loop {
            let began = Instant::now();
            if let Some(media) = loaded.take() {
                trouble = None;
                loads += 1;
                if media.is_over {
                    self.counters.on_demand.get_or_init(|| true);
                }
                self.is_recording |= media.is_over && !self.has_media;
                if let Some(sequence) = self.begins_at.take() {
                    self.follower.begin_at(sequence, &media);
                }
                let has_moved = self.follower.update(&media);
                // The first may have been read while it was written: a channel is what moves and is not over.
                if has_moved && loads > 1 && !media.is_over {
                    self.counters.on_demand.get_or_init(|| false);
                }
                match self.take_all(&media).await {
                    Ok(true) => news = Instant::now(),
                    Ok(false) if has_moved => news = Instant::now(),
                    Ok(false) => {}
                    Err(refusal) => return LaneEnd::Failed(refusal),
                }
                if media.is_over && self.follower.is_at_end(&media) {
                    self.settle();
                    return self.verdict();
                }
                let target = Duration::from_nanos(media.target_ns);
                let pause = if self.is_blocking(&media) {
                    Duration::ZERO
                } else if self.follower.is_low_latency() {
                    Duration::from_nanos(media.part_target_ns.unwrap_or(media.target_ns))
                } else if has_moved {
                    target
                } else {
                    target / 2
                };
                stall_max = STALL_MIN.max(target * STALL_TARGETS);
                if news.elapsed() > stall_max {
                    return LaneEnd::Failed(stalled(news.elapsed()));
                }
                let blocking = self.follower.blocking_query().filter(|_| self.is_blocking(&media));
                // Without a bound on how often, a server that does not hold back would be asked all the time.
                let since = began.elapsed();
                sleep(pause.saturating_sub(since).max(RELOAD_MIN.saturating_sub(since).min(pause))).await;
                let patience = if blocking.is_some() { target * 3 + PATIENCE } else { PATIENCE.max(target) };
                let asked = Instant::now();
                match self.load(blocking.as_deref(), patience).await {
                    Ok(media) => {
                        if blocking.is_some() && asked.elapsed() < RELOAD_MIN / 2 {
                            sleep(RELOAD_MIN / 2).await;
                        }
                        loaded = Some(media);
                        continue;
                    }
                    Err(refusal) => trouble = Some(refusal),
                }
            }
            match &trouble {
                // A playlist that is protected or refused will not be better in a second.
                Some(refusal) if is_final(refusal) => return LaneEnd::Failed(refusal.clone()),
                // What was never there is not waited for long.
                Some(refusal) if news.elapsed() > if self.has_media { stall_max } else { FIRST_MAX } => {
                    return LaneEnd::Failed(refusal.clone());
                }
                Some(refusal) => tracing::debug!("the playlist: {refusal}"),
                None => {}
            }
            if trouble.is_some() {
                sleep(RETRY_PLAYLIST).await;
            }
            match self.load(None, PATIENCE).await {
                Ok(media) => loaded = Some(media),
                Err(refusal) => trouble = Some(refusal),
            }
        }
    }

    fn is_blocking(&self, media: &Media) -> bool {
        media.can_block && self.follower.is_low_latency()
    }

    async fn load(&self, query: Option<&str>, patience: Duration) -> Result<Media, Refusal> {
        let mut url = self.url.clone();
        if let Some(query) = query {
            let both = url.query().map_or_else(|| query.to_owned(), |before| format!("{before}&{query}"));
            url.set_query(Some(&both));
        }
        let (base, text) = self.origin.playlist(&url, patience).await?;
        let media = read_media(&text, &base, &self.variables, self.follower.wants_from())?;
        if self.follower.must_see_all(&media) {
            return read_media(&text, &base, &self.variables, 0);
        }
        Ok(media)
    }

    /// Takes all pieces that are there. Whether there were any.
    async fn take_all(&mut self, media: &Media) -> Result<bool, Refusal> {
        let mut is_any = false;
        while let Some(piece) = self.follower.next(media) {
            is_any = true;
            if let Some(tell) = self.on_first.take() {
                // Whoever would go by it may be gone.
                let _ = tell.send(piece.sequence);
            }
            self.take(piece, media).await?;
            self.keep();
        }
        Ok(is_any)
    }

    async fn take(&mut self, piece: Piece, media: &Media) -> Result<(), Refusal> {
        let fetched = match &piece.key {
            _ if piece.is_gap => Err(gap()),
            Some(Protection::Drm(name)) => Err(drm(name)),
            _ => self.fetch(&piece, media).await,
        };
        match fetched {
            Ok(fetched) => {
                self.last_failed = false;
                self.hand_on(&piece, media, fetched).await
            }
            Err(refusal) => self.lose(&piece, media, refusal),
        }
    }

    /// Counts a piece that cannot be had.
    fn lose(&mut self, piece: &Piece, media: &Media, refusal: Refusal) -> Result<(), Refusal> {
        if piece.is_part && !piece.is_gap && refusal.kind != Cause::Refused {
            // Servers that name parts they do not have, or break off: whole segments are safer.
            tracing::debug!("HLS: a part: {refusal}");
            self.follower.leave_parts(piece, media);
            return Ok(());
        }
        let is_announced = piece.is_gap;
        if !is_announced {
            tracing::debug!("segment {}: {refusal}", piece.sequence);
            self.feeder.note(Note::Lost { at_ns: self.placer.next_ns() + self.lost.ns, cause: refusal.kind });
            self.last_failed = true;
            self.useless += 1;
        }
        // Nothing was ever played, and it is no accident.
        let useless_max = if self.is_recording { USELESS_OF_RECORDING_MAX } else { USELESS_MAX };
        if !self.has_media && (is_final(&refusal) || self.useless >= useless_max) {
            return Err(refusal);
        }
        if matches!(piece.key, Some(Protection::Drm(_))) || refusal.kind == Cause::Refused {
            return Err(refusal);
        }
        self.lost.ns = self.lost.ns.saturating_add(piece.missed_ns);
        if !piece.is_gap {
            self.lost_from.get_or_insert((piece.sequence, self.lost));
        }
        self.lost.ns = self.lost.ns.saturating_add(piece.duration_ns);
        self.lost.is_break |= piece.is_break;
        self.lost.is_restart |= piece.is_restart;
        self.trouble = Some(refusal);
        Ok(())
    }

    /// Says what is missing up to now. Also for a lane that failed for good: the next connection goes on behind it. What is missing
    /// where there were no media has no place on a line; the next connection tells it.
    pub fn settle(&mut self) {
        if self.lost.ns > 0 && self.has_media {
            let from_ns = self.placer.next_ns();
            self.placer.skip(self.lost.ns);
            self.feeder.note(Note::Missing { from_ns, to_ns: self.placer.next_ns() });
            (self.lost.ns, self.lost_from, self.must_begin) = (0, None, true);
            self.keep();
        }
    }

    /// Takes note for the next connection of where this one is.
    fn keep(&self) {
        if let Some(memory) = &self.memory {
            memory.keep(&self.url, &self.follower, self.lost.ns);
        }
    }

    async fn hand_on(&mut self, piece: &Piece, media: &Media, fetched: Fetched) -> Result<(), Refusal> {
        self.lost_from = None;
        let lost = std::mem::take(&mut self.lost);
        let Fetched { mut bytes, init, opened } = fetched;
        let map_of = init.as_ref().map(|init| init.map.clone());
        let placed = self.placer.place(&Found {
            container: opened.container,
            starts: opened.starts,
            last_ns: opened.last_ns,
            duration_ns: piece.duration_ns,
            missed_ns: piece.missed_ns.saturating_add(lost.ns),
            is_break: piece.is_break || lost.is_break,
            is_restart: piece.is_restart || lost.is_restart,
            is_other_map: map_of.is_some() && self.fed_map != map_of,
        });
        if let Some((from_ns, to_ns)) = placed.missing {
            self.feeder.note(Note::Missing { from_ns, to_ns });
        }
        // What begins a stream is no break.
        if let Some(cause) = placed.break_.filter(|_| self.has_media) {
            self.feeder.note(Note::Break { at_ns: placed.line_ns, cause });
        }
        if let Some(unix_ns) = piece.made_ns {
            self.feeder.note(Note::Date { at_ns: placed.line_ns, unix_ns });
        }
        self.note_ads(piece, media, placed.line_ns);
        if placed.is_new || self.must_begin {
            let (container, tracks) = (opened.container, placed.tracks);
            self.feeder.begin(Beginning { container, tracks, line_ns: placed.line_ns }).await?;
            self.must_begin = false;
            self.fed_map = map_of;
            if let Some(Init { bytes: init, .. }) = init {
                self.must_begin |= !self.feeder.push(init).await;
            }
        }
        bytes.drain(..opened.skip);
        self.must_begin |= !self.feeder.push(bytes).await;
        (self.has_media, self.useless) = (true, 0);
        Ok(())
    }

    fn note_ads(&mut self, piece: &Piece, media: &Media, line_ns: u64) {
        if let Some(ad) = piece.ad {
            self.feeder.note(Note::Ad { at_ns: line_ns, ad });
        }
        let Some(made_ns) = piece.made_ns else { return };
        for (id, unix_ns, ad) in &media.dated_breaks {
            let Ok(after_ns) = u64::try_from(unix_ns.saturating_sub(made_ns)) else { continue };
            let key = (id.clone(), *ad == AdBreak::Out);
            if after_ns < piece.duration_ns && self.told.len() < TOLD_MAX && self.told.insert(key) {
                self.feeder.note(Note::Ad { at_ns: line_ns + after_ns, ad: *ad });
            }
        }
    }

    /// The bytes of a piece, and of its initialisation.
    async fn fetch(&mut self, piece: &Piece, media: &Media) -> Result<Fetched, Refusal> {
        let (target, began) = (Duration::from_nanos(media.target_ns), Instant::now());
        // Playback is this far behind: what takes longer is late.
        let budget = if self.last_failed { target / 2 } else { target * 2 };
        let mut pause = BACKOFF;
        for attempt in 1.. {
            let patience = PATIENCE.max(target);
            let refusal = match self.fetch_once(piece, patience).await {
                Ok(fetched) => return Ok(fetched),
                Err(refusal) => refusal,
            };
            let is_told =
                matches!(refusal.kind, Cause::NotFound | Cause::Forbidden | Cause::NotAuthorized | Cause::NotMedia);
            let is_enough = if self.is_recording {
                attempt >= if is_told { TRIES_OF_TOLD } else { TRIES_OF_RECORDING }
                    || (attempt > 1 && began.elapsed() >= TRYING_MAX)
            } else {
                began.elapsed() + pause > budget
            };
            if is_enough || refusal.kind == Cause::Refused || piece.is_part {
                return Err(refusal);
            }
            sleep(pause).await;
            pause = (pause * 2).min(target.max(BACKOFF));
        }
        unreachable!("attempts are counted without end")
    }

    async fn fetch_once(&mut self, piece: &Piece, patience: Duration) -> Result<Fetched, Refusal> {
        let map = match &piece.map {
            Some(map) => Some(self.initialisation(map, patience).await?),
            None => None,
        };
        let bytes = self.origin.media(&piece.url, piece.range, patience).await?;
        if bytes.is_empty() {
            return Err(Refusal::of(Cause::NoAnswer, "a segment is empty", "check what the packager writes"));
        }
        let bytes = match &piece.key {
            Some(Protection::Key(key)) => {
                let iv = key.iv.unwrap_or_else(|| piece.sequence.to_be_bytes());
                self.decrypt(key, iv, bytes, patience).await?
            }
            _ => bytes,
        };
        let tracks = map.as_ref().and_then(|init| init.tracks.as_ref());
        let opened = container::look(&bytes, tracks).map_err(|why| {
            let cause = format!("a segment is no media: {why}");
            Refusal::of(Cause::NotMedia, cause, "check what the packager writes")
        })?;
        Ok(Fetched { bytes, init: map, opened })
    }

    async fn initialisation(&mut self, map: &Arc<Map>, patience: Duration) -> Result<Init, Refusal> {
        if let Some(known) = self.map.as_ref().filter(|known| known.map == *map) {
            return Ok(known.clone());
        }
        let bytes = self.origin.media(&map.url, map.range, patience).await.map_err(|refusal| Refusal {
            cause: format!("the initialisation of the media (EXT-X-MAP): {}", refusal.cause),
            ..refusal
        })?;
        let bytes = match &map.key {
            Some(Protection::Key(key)) => {
                let no_iv =
                    || Refusal::of(Cause::Damaged, "damaged playlist: EXT-X-MAP is encrypted without an IV", "");
                self.decrypt(key, key.iv.ok_or_else(no_iv)?, bytes, patience).await?
            }
            _ => bytes,
        };
        let tracks = mp4::tracks(&bytes);
        let found = Init { map: map.clone(), bytes, tracks };
        self.map = Some(found.clone());
        Ok(found)
    }

    async fn decrypt(
        &mut self,
        key: &Key,
        iv: [u8; 16],
        bytes: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, Refusal> {
        let advice = "give a source whose keys can be had";
        let known = self.keys.iter().find(|(url, _)| *url == key.url).map(|(_, secret)| *secret);
        let secret = match known {
            Some(secret) => secret,
            None => {
                let loaded = self.origin.media(&key.url, None, patience).await.map_err(|refusal| {
                    let is_refused = matches!(refusal.kind, Cause::Forbidden | Cause::NotAuthorized | Cause::NotFound);
                    let kind = if is_refused { Cause::Encrypted } else { refusal.kind };
                    Refusal::of(kind, format!("the media are encrypted, and their key: {}", refusal.cause), advice)
                })?;
                let length = loaded.len();
                let secret = <[u8; 16]>::try_from(loaded).map_err(|_| {
                    let cause = format!("the media are encrypted, and their key has {length} bytes instead of 16");
                    Refusal::of(Cause::Encrypted, cause, advice)
                })?;
                if self.keys.len() == KEYS_MAX {
                    self.keys.pop_front();
                }
                self.keys.push_back((key.url.clone(), secret));
                secret
            }
        };
        crypt::decrypt(&secret, &iv, bytes).ok_or_else(|| {
            Refusal::of(Cause::Encrypted, "an encrypted segment cannot be decrypted with its key", advice)
        })
    }

    fn verdict(&self) -> LaneEnd {
        if self.has_media {
            return LaneEnd::Over;
        }
        let unsaid = || Refusal::of(Cause::NotFound, "the playlist has no segment that is there", "check the encoder");
        LaneEnd::Failed(self.trouble.clone().unwrap_or_else(unsaid))
    }
}

/// Reads `text` as a list of segments.
pub(super) fn read_media(text: &str, base: &Url, variables: &Variables, from: u128) -> Result<Media, Refusal> {
    match Playlist::parse(text, base, variables, from) {
        Ok(Playlist::Media(media)) => Ok(*media),
        Ok(Playlist::Multivariant(_)) => Err(damaged("a variant leads to another list of variants")),
        Err(trouble) => Err(refusal_of(&trouble, text)),
    }
}

/// The words for a text that cannot be played.
pub(super) fn refusal_of(trouble: &Trouble, text: &str) -> Refusal {
    match trouble {
        Trouble::Damaged(_) if super::sniff::is_channel_list(text) => Refusal::of(
            Cause::NotMedia,
            "not a playlist of one channel: an IPTV list of channels",
            "give the address of one channel out of the list",
        ),
        Trouble::Damaged(why) => damaged(why),
        Trouble::Protected(name) => drm(name),
        Trouble::Other(_) => Refusal::of(
            Cause::NotMedia,
            format!("not a playlist: {}", super::sniff::name(text.as_bytes())),
            "give the address of the playlist itself",
        ),
    }
}

fn drm(name: &str) -> Refusal {
    let cause = format!("the media are encrypted with DRM ({name})");
    Refusal::of(Cause::Encrypted, cause, "give a source without DRM")
}

fn damaged(why: &str) -> Refusal {
    Refusal::of(Cause::Damaged, format!("damaged playlist: {why}"), "check the encoder or packager that writes it")
}

fn gap() -> Refusal {
    Refusal::of(Cause::NotFound, "the playlist says that the segment is not there (EXT-X-GAP)", "check the encoder")
}

fn stalled(since: Duration) -> Refusal {
    let cause = format!("the playlist has not moved for {} s", since.as_secs());
    Refusal::of(Cause::PlaylistStalled, cause, "check the encoder or packager that writes the playlist")
}

/// What another try will not mend.
fn is_final(refusal: &Refusal) -> bool {
    matches!(refusal.kind, Cause::Refused | Cause::Encrypted)
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
