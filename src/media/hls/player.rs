//! Plays one media playlist: reloads it, fetches the next piece, and passes it on with its position on the timeline.
//!
//! A piece that cannot be fetched is skipped after retries and counts as missing for its duration; playback continues with the
//! next good piece. The player uses neither sockets nor GStreamer: an [`Origin`] fetches, a [`Feeder`] takes the bytes, and the
//! time is tokio's, which tests control.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use url::Url;

use super::attributes::Variables;
use super::breaks::AdAnnouncement;
use super::container::{self, Container};
use super::cursor::{Piece, PlaylistCursor, PlaylistMemory};
use super::fetch::{FetchedPiece, LoadedInit, Origin, PieceFetcher};
use super::playlist::{AdBreakEdge, InitSection, MediaPlaylist, Protection};
use super::refusals::{drm, gap, is_final, read_media, stalled};
use super::timeline::{PieceInfo, TimelinePlacer};
use crate::guard::Refusal;
use crate::outlet::Counters;
use touchline_core::cause::Cause;
use touchline_core::incident::Incident;
use touchline_core::item::Discontinuity;

/// A playlist that has not been updated for this long, and for this many target durations, has stalled: it should have moved
/// after one and a half (RFC 8216bis, 6.2.2).
const STALL_MIN: Duration = Duration::from_secs(10);
const STALL_TARGETS: u32 = 3;

/// How long a playlist that has never loaded is retried.
const FIRST_MAX: Duration = Duration::from_secs(3);

/// Minimum time between two loads of a playlist.
const RELOAD_MIN: Duration = Duration::from_millis(500);

/// Pause after a failed load.
const RETRY_PLAYLIST: Duration = Duration::from_secs(1);

/// Minimum time limit for a response, and the extra time for a blocking reload.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(4);

/// First pause before a piece is requested again; pauses double.
const BACKOFF: Duration = Duration::from_millis(250);

/// Tries for a piece of a recording: there is no deadline, and later tries rarely help.
const TRIES_OF_RECORDING: u32 = 4;

/// As [`TRIES_OF_RECORDING`], when the server answers that the piece does not exist or is forbidden.
const TRIES_OF_REFUSED: u32 = 3;

/// How long a piece of a recording is retried: a hanging server must not look like a stalled stream.
const TRYING_MAX: Duration = Duration::from_secs(4);

/// The most dated advertisement breaks whose report is remembered.
const REPORTED_MAX: usize = 1_000;

/// Unusable pieces in a row at the start, after which the source has failed.
const USELESS_MAX: u32 = 5;
const USELESS_OF_RECORDING_MAX: u32 = 30;

/// Reports of a player beside its media, in order with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PlayerNote {
    /// Another run begins at this position.
    Break { at_ns: u64, cause: Discontinuity },
    /// There are no media in this interval.
    Missing { from_ns: u64, to_ns: u64 },
    /// The wall time of the picture at this position, ns since 1970-01-01 UTC.
    Date { at_ns: u64, unix_ns: i64 },
    /// An advertisement break is announced for this position.
    Ad { at_ns: u64, ad: AdAnnouncement },
    /// An incident at the current position.
    Incident(Incident),
    /// A segment could not be fetched.
    Lost { at_ns: u64, cause: Cause },
}

/// Parameters of a new demuxer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DemuxerStart {
    pub container: Container,
    /// As [`super::timeline::PiecePlacement::tracks`].
    pub tracks: [Option<i64>; 2],
    pub line_ns: u64,
}

/// Receives the media of a player.
pub(super) trait Feeder: Send {
    /// Starts a new demuxer for the following media. The previous one receives no more bytes.
    fn begin(&mut self, beginning: DemuxerStart) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Takes bytes; waits while the demuxer is full. Returns `false` when the demuxer has closed and a new one must begin.
    fn push(&mut self, bytes: Vec<u8>) -> impl Future<Output = bool> + Send;

    fn note(&mut self, note: PlayerNote);
}

/// How a player ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PlayerEnd {
    /// The playlist ended, and all of it was passed on.
    Over,
    Failed(Refusal),
}

/// The loss since the last piece that was passed on.
#[derive(Clone, Copy, Debug, Default)]
struct PendingLoss {
    ns: u64,
    /// Properties of the lost pieces that the next good piece inherits.
    is_break: bool,
    is_restart: bool,
}

/// Plays one media playlist.
pub(super) struct PlaylistPlayer<O, F> {
    fetching: PieceFetcher<O>,
    pub feeder: F,
    pub url: Url,
    pub variables: Variables,
    pub cursor: PlaylistCursor,
    pub placer: TimelinePlacer,
    /// For a player that follows another: the sequence number at which that one began.
    pub begins_at: Option<u128>,
    /// Keeps its position for the next connection.
    pub memory: Option<PlaylistMemory>,
    /// Records whether the source is a recording.
    pub counters: Arc<Counters>,
    /// Receives the sequence number of the first piece.
    pub on_first: Option<tokio::sync::oneshot::Sender<u128>>,
    /// The initialisation section that the demuxer has.
    fed_map: Option<Arc<InitSection>>,
    lost: PendingLoss,
    /// The first lost piece that another variant may still have, and the loss before it.
    lost_from: Option<(u128, PendingLoss)>,
    must_begin: bool,
    has_media: bool,
    is_recording: bool,
    useless: u32,
    last_failed: bool,
    /// Why the last lost piece was lost.
    trouble: Option<Refusal>,
    reported_breaks: HashSet<(String, bool)>,
}

impl<O: Origin, F: Feeder> PlaylistPlayer<O, F> {
    pub fn new(origin: Arc<O>, feeder: F, url: Url, variables: Variables, placer: TimelinePlacer) -> Self {
        Self {
            fetching: PieceFetcher::new(origin),
            feeder,
            url,
            variables,
            cursor: PlaylistCursor::default(),
            placer,
            begins_at: None,
            memory: None,
            counters: Arc::default(),
            on_first: None,
            fed_map: None,
            lost: PendingLoss::default(),
            lost_from: None,
            must_begin: true,
            has_media: false,
            is_recording: false,
            useless: 0,
            last_failed: false,
            trouble: None,
            reported_breaks: HashSet::new(),
        }
    }

    /// Continues with another playlist of the same media.
    pub fn change(&mut self, url: Url) {
        self.url = url;
        self.fetching.forget_map();
        if let Some((sequence, before)) = self.lost_from.take() {
            // The pieces lost at the end of the other playlist may be in this one.
            self.lost = before;
            self.cursor.go_back_to(sequence);
        }
        self.cursor.forget_known();
        self.must_begin = true;
        self.placer.forget_container();
    }

    /// Whether any media were passed on.
    pub fn has_media(&self) -> bool {
        self.has_media
    }

    /// Plays until the playlist is over or fails. `first` was loaded already.
    pub async fn run(&mut self, first: Option<MediaPlaylist>) -> PlayerEnd {
        let (mut loaded, mut trouble, mut loads) = (first, None, 0u32);
        let (mut news, mut stall_max, mut asked) = (Instant::now(), STALL_MIN, None::<Instant>);
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
                    self.cursor.begin_at(sequence, &media);
                }
                let has_moved = self.cursor.update(&media);
                // The first playlist may have been read while it was written. Only a later one that moves and has no end proves a
                // channel.
                if has_moved && loads > 1 && !media.is_over {
                    self.counters.on_demand.get_or_init(|| false);
                }
                match self.take_all(&media).await {
                    Ok(true) => news = Instant::now(),
                    Ok(false) if has_moved => news = Instant::now(),
                    Ok(false) => {}
                    Err(refusal) => return PlayerEnd::Failed(refusal),
                }
                if media.is_over && self.cursor.is_at_end(&media) {
                    self.settle();
                    return self.verdict();
                }
                let target = Duration::from_nanos(media.target_ns);
                let pause = if self.is_blocking(&media) {
                    Duration::ZERO
                } else if self.cursor.is_low_latency() {
                    Duration::from_nanos(media.part_target_ns.unwrap_or(media.target_ns))
                } else if has_moved {
                    target
                } else {
                    target / 2
                };
                stall_max = STALL_MIN.max(target * STALL_TARGETS);
                if news.elapsed() > stall_max {
                    return PlayerEnd::Failed(stalled(news.elapsed()));
                }
                let blocking = self.cursor.blocking_query().filter(|_| self.is_blocking(&media));
                // Bounded, because a server that does not block would otherwise be polled without pause.
                let since = began.elapsed();
                sleep(pause.saturating_sub(since).max(RELOAD_MIN.saturating_sub(since).min(pause))).await;
                let response_timeout =
                    if blocking.is_some() { target * 3 + RESPONSE_TIMEOUT } else { RESPONSE_TIMEOUT.max(target) };
                if let (Some(asked), true) = (asked, blocking.is_some()) {
                    // After the response was used, so that a part does not wait for it.
                    let part = media.part_target_ns.map_or(RELOAD_MIN, Duration::from_nanos);
                    sleep((RELOAD_MIN.min(part) / 2).saturating_sub(asked.elapsed())).await;
                }
                asked = Some(Instant::now());
                match self.load(blocking.as_deref(), response_timeout).await {
                    Ok(media) => {
                        loaded = Some(media);
                        continue;
                    }
                    Err(refusal) => trouble = Some(refusal),
                }
            }
            match &trouble {
                // Another try does not help with a playlist that is protected or refused.
                Some(refusal) if is_final(refusal) => return PlayerEnd::Failed(refusal.clone()),
                // A playlist that has never loaded is retried only briefly.
                Some(refusal) if news.elapsed() > if self.has_media { stall_max } else { FIRST_MAX } => {
                    return PlayerEnd::Failed(refusal.clone());
                }
                Some(refusal) => tracing::debug!("the playlist: {refusal}"),
                None => {}
            }
            if trouble.is_some() {
                sleep(RETRY_PLAYLIST).await;
            }
            match self.load(None, RESPONSE_TIMEOUT).await {
                Ok(media) => loaded = Some(media),
                Err(refusal) => trouble = Some(refusal),
            }
        }
    }

    fn is_blocking(&self, media: &MediaPlaylist) -> bool {
        media.can_block && self.cursor.is_low_latency()
    }

    async fn load(&self, query: Option<&str>, response_timeout: Duration) -> Result<MediaPlaylist, Refusal> {
        let mut url = self.url.clone();
        if let Some(query) = query {
            let both = url.query().map_or_else(|| query.to_owned(), |before| format!("{before}&{query}"));
            url.set_query(Some(&both));
        }
        let (base, text) = self.fetching.origin.playlist(&url, response_timeout).await?;
        let media = read_media(&text, &base, &self.variables, self.cursor.wants_from())?;
        if self.cursor.must_see_all(&media) {
            return read_media(&text, &base, &self.variables, 0);
        }
        Ok(media)
    }

    /// Takes all available pieces. Returns whether there were any.
    async fn take_all(&mut self, media: &MediaPlaylist) -> Result<bool, Refusal> {
        let mut is_any = false;
        while let Some(piece) = self.cursor.next(media) {
            is_any = true;
            if let Some(tell) = self.on_first.take() {
                // Fails when the sound player has ended.
                let _ = tell.send(piece.sequence);
            }
            self.take(piece, media).await?;
            self.keep();
        }
        Ok(is_any)
    }

    async fn take(&mut self, piece: Piece, media: &MediaPlaylist) -> Result<(), Refusal> {
        let fetched = match &piece.key {
            _ if piece.is_gap => Err(gap()),
            Some(Protection::Drm(name)) => Err(drm(name)),
            _ => self.fetch(&piece, media).await,
        };
        match fetched {
            Ok(fetched) => {
                self.last_failed = false;
                self.forward(&piece, media, fetched).await
            }
            Err(refusal) => self.lose(&piece, media, refusal),
        }
    }

    /// Counts a piece that cannot be fetched.
    fn lose(&mut self, piece: &Piece, media: &MediaPlaylist, refusal: Refusal) -> Result<(), Refusal> {
        if piece.is_part && !piece.is_gap && refusal.kind != Cause::Refused {
            // The server lists parts that it does not have, or breaks off: continue with whole segments.
            tracing::debug!("HLS: a part: {refusal}");
            self.cursor.leave_parts(piece, media);
            return Ok(());
        }
        let is_announced = piece.is_gap;
        if !is_announced {
            tracing::debug!("segment {}: {refusal}", piece.sequence);
            self.feeder.note(PlayerNote::Lost { at_ns: self.placer.next_ns() + self.lost.ns, cause: refusal.kind });
            self.last_failed = true;
            self.useless += 1;
        }
        // Nothing was ever played, and retries do not help.
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

    /// Reports the loss up to now. Needed when a player fails as well: the next connection continues after the loss. A loss
    /// before the first media has no place on the timeline; the next connection reports it.
    pub fn settle(&mut self) {
        if self.lost.ns > 0 && self.has_media {
            let from_ns = self.placer.next_ns();
            self.placer.skip(self.lost.ns);
            self.feeder.note(PlayerNote::Missing { from_ns, to_ns: self.placer.next_ns() });
            (self.lost.ns, self.lost_from, self.must_begin) = (0, None, true);
            self.keep();
        }
    }

    /// Stores the position for the next connection.
    fn keep(&self) {
        if let Some(memory) = &self.memory {
            memory.keep(&self.url, &self.cursor, self.lost.ns);
        }
    }

    async fn forward(&mut self, piece: &Piece, media: &MediaPlaylist, fetched: FetchedPiece) -> Result<(), Refusal> {
        self.lost_from = None;
        let lost = std::mem::take(&mut self.lost);
        let FetchedPiece { mut bytes, init, info } = fetched;
        let map_of = init.as_ref().map(|init| init.map.clone());
        let placed = self.placer.place(&PieceInfo {
            container: info.container,
            starts: info.starts,
            last_ns: info.last_ns,
            duration_ns: piece.duration_ns,
            missed_ns: piece.missed_ns.saturating_add(lost.ns),
            is_break: piece.is_break || lost.is_break,
            is_restart: piece.is_restart || lost.is_restart,
            is_other_map: map_of.is_some() && self.fed_map != map_of,
        });
        if let Some((from_ns, to_ns)) = placed.missing {
            self.feeder.note(PlayerNote::Missing { from_ns, to_ns });
        }
        // The start of a stream is not a discontinuity.
        if let Some(cause) = placed.discontinuity.filter(|_| self.has_media) {
            self.feeder.note(PlayerNote::Break { at_ns: placed.line_ns, cause });
        }
        if let Some(unix_ns) = piece.made_ns {
            self.feeder.note(PlayerNote::Date { at_ns: placed.line_ns, unix_ns });
        }
        self.note_ads(piece, media, placed.line_ns);
        self.note_cues(&info, placed.line_ns);
        if placed.is_new || self.must_begin {
            let (container, tracks) = (info.container, placed.tracks);
            self.feeder.begin(DemuxerStart { container, tracks, line_ns: placed.line_ns }).await?;
            self.must_begin = false;
            self.fed_map = map_of;
            if let Some(LoadedInit { bytes: init, .. }) = init {
                self.must_begin |= !self.feeder.push(init).await;
            }
        }
        bytes.drain(..info.skip);
        self.must_begin |= !self.feeder.push(bytes).await;
        (self.has_media, self.useless) = (true, 0);
        Ok(())
    }

    fn note_ads(&mut self, piece: &Piece, media: &MediaPlaylist, line_ns: u64) {
        if let Some(ad) = piece.ad {
            self.feeder.note(PlayerNote::Ad { at_ns: line_ns, ad: ad.into() });
        }
        let Some(made_ns) = piece.made_ns else { return };
        for (id, unix_ns, ad) in &media.dated_breaks {
            let Ok(after_ns) = u64::try_from(unix_ns.saturating_sub(made_ns)) else { continue };
            let key = (id.clone(), *ad == AdBreakEdge::Out);
            if after_ns < piece.duration_ns
                && self.reported_breaks.len() < REPORTED_MAX
                && self.reported_breaks.insert(key)
            {
                self.feeder.note(PlayerNote::Ad { at_ns: line_ns + after_ns, ad: (*ad).into() });
            }
        }
    }

    /// Passes on the announcements in the media, each with its position on the timeline.
    fn note_cues(&mut self, info: &container::SegmentInfo, line_ns: u64) {
        let begins_ns = container::begins(&info.starts);
        for cue in &info.cues {
            let after_ns = begins_ns
                .zip(cue.at_ns)
                .map(|(begins, at)| container::distance_ns(info.container, begins, at))
                // Times this far away are on another timeline: the announcement applies now.
                .filter(|ns| ns.unsigned_abs() < container::ANNOUNCED_MAX_NS)
                .unwrap_or(0);
            // Skips announcements that are repeated after the event, or are from before playback began.
            let is_over = after_ns.saturating_add_unsigned(container::LATE_MAX_NS) < 0;
            if !is_over {
                let at_ns = line_ns.saturating_add_signed(after_ns.max(0));
                self.feeder.note(PlayerNote::Ad { at_ns, ad: cue.ad });
            }
        }
    }

    /// Fetches a piece and its initialisation section, with retries.
    async fn fetch(&mut self, piece: &Piece, media: &MediaPlaylist) -> Result<FetchedPiece, Refusal> {
        let (target, began) = (Duration::from_nanos(media.target_ns), Instant::now());
        // Playback is this far behind the live edge: a slower response is too late.
        let budget = if self.last_failed { target / 2 } else { target * 2 };
        let mut pause = BACKOFF;
        for attempt in 1.. {
            let response_timeout = RESPONSE_TIMEOUT.max(target);
            let refusal = match self.fetching.once(piece, response_timeout).await {
                Ok(fetched) => return Ok(fetched),
                Err(refusal) => refusal,
            };
            let is_answered =
                matches!(refusal.kind, Cause::NotFound | Cause::Forbidden | Cause::NotAuthorized | Cause::NotMedia);
            let is_enough = if self.is_recording {
                attempt >= if is_answered { TRIES_OF_REFUSED } else { TRIES_OF_RECORDING }
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

    fn verdict(&self) -> PlayerEnd {
        if self.has_media {
            return PlayerEnd::Over;
        }
        let unsaid = || Refusal::of(Cause::NotFound, "the playlist has no available segment", "check the encoder");
        PlayerEnd::Failed(self.trouble.clone().unwrap_or_else(unsaid))
    }
}

#[cfg(test)]
#[path = "player_tests.rs"]
mod tests;
