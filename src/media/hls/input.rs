//! The relay's view of one player: its messages, its decoded media, and which tracks are still awaited.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, TryRecvError};
use tokio::sync::Notify;

use super::breaks::AdBreaks;
use super::player::{PlayerEnd, PlayerNote};
use crate::Source;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, End, MediaItem, Tracks};
use touchline_core::time::{Pts, WallSource, WallTime};

/// Maximum error of a date, ns: packagers round it and take it from the segment's start.
const DATE_UNCERTAINTY_NS: u64 = 100_000_000;

/// After this many successive demuxers without output, the stream has failed.
const USELESS_MAX: u32 = 3;

/// A message of a player.
pub(super) enum PlayerMessage {
    Decoding(RunningDecoder),
    Note(PlayerNote),
    /// The source is endless: media are sent in order of arrival, unpaced.
    Arrival,
    End(PlayerEnd),
}

/// A demuxer with its decoders.
pub(super) struct RunningDecoder {
    /// The pipeline. Dropping it stops the demuxer.
    pub _source: Box<dyn Source>,
    pub from: Receiver<MediaItem>,
    pub intake: Arc<DemuxerIntake>,
}

/// Shared by a demuxer, its feeder, and the relay that takes its media.
#[derive(Debug, Default)]
pub(crate) struct DemuxerIntake {
    is_closed: AtomicBool,
    changed: Notify,
}

impl DemuxerIntake {
    /// Marks the demuxer as ended or failed: it takes no more bytes.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Signals that there is room for more bytes.
    pub fn has_room(&self) {
        self.changed.notify_one();
    }

    /// Waits until there is room or the demuxer is closed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// A note that separates the media of a player.
#[derive(Clone, Copy)]
pub(super) enum Marker {
    Break(Discontinuity),
    /// Start and end of the missing interval, ns.
    Missing(u64, u64),
}

/// The most decoded items of one track that are held while the other has none. Packagers write sound up to two seconds after the
/// pictures of its time, and a demuxer's queues hold more sound than that.
const HELD_MAX: usize = 2048;

/// As [`HELD_MAX`], for converted pictures: each is half a megabyte.
const PICTURES_MAX: usize = 128;

/// One player, as the relay sees it.
pub(super) struct RelayInput {
    /// [`None`] once the player has sent all of them.
    pub messages: Option<Receiver<PlayerMessage>>,
    queue: VecDeque<PlayerMessage>,
    pub marks: VecDeque<(u64, MediaItem)>,
    pub current: Option<RunningDecoder>,
    /// Tracks that the current demuxer has and that have not ended; [`None`] until it is known.
    awaited: Option<[bool; 2]>,
    /// Decoded pictures and sound, each in order. Demuxers interleave them only roughly.
    pub held: [VecDeque<(u64, MediaItem)>; 2],
    pub marker: Option<(u64, Marker)>,
    pub tracks: Option<Tracks>,
    pub end: Option<PlayerEnd>,
    pub is_arrival: bool,
    pub has_data: bool,
    useless: u32,
    pub failure: Option<End>,
}

impl RelayInput {
    pub fn new(messages: Receiver<PlayerMessage>) -> Self {
        Self {
            messages: Some(messages),
            queue: VecDeque::new(),
            marks: VecDeque::new(),
            current: None,
            awaited: None,
            held: Default::default(),
            marker: None,
            tracks: None,
            end: None,
            is_arrival: false,
            has_data: false,
            useless: 0,
            failure: None,
        }
    }

    /// Receives all messages, so that notes about media that are still being decoded are known in time.
    pub fn drain(&mut self, breaks: &mut AdBreaks) {
        while let Some(messages) = &self.messages {
            match messages.try_recv() {
                Ok(PlayerMessage::Note(note)) => self.note(note, breaks),
                Ok(other) => self.queue.push_back(other),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    if !self.queue.iter().any(|m| matches!(m, PlayerMessage::End(_))) && self.end.is_none() {
                        self.queue.push_back(PlayerMessage::End(PlayerEnd::Over));
                    }
                    self.messages = None;
                }
            }
        }
    }

    fn note(&mut self, note: PlayerNote, breaks: &mut AdBreaks) {
        let incident = |at_ns, incident| (at_ns, MediaItem::Incident(incident));
        match note {
            PlayerNote::Date { at_ns, unix_ns } => {
                let (source, uncertainty_ns) = (WallSource::HlsProgramDateTime, DATE_UNCERTAINTY_NS);
                let wall = WallTime { unix_ns, source, uncertainty_ns };
                self.marks.push_back((at_ns, MediaItem::Wall { pts: Pts(at_ns), wall }));
            }
            PlayerNote::Ad { at_ns, ad } => breaks.announce(at_ns, ad),
            PlayerNote::Lost { at_ns, cause } => self.marks.push_back(incident(at_ns, Incident::SegmentLost(cause))),
            PlayerNote::Incident(happened) => self.marks.push_back(incident(0, happened)),
            in_order => self.queue.push_back(PlayerMessage::Note(in_order)),
        }
    }

    /// Receives the available media. Fails when the stream has failed permanently.
    pub fn fill(&mut self) -> Result<(), End> {
        while self.marker.is_none() && self.end.is_none() {
            let Some(current) = &self.current else {
                if self.held.iter().any(|held| !held.is_empty()) {
                    return Ok(());
                }
                match self.queue.pop_front() {
                    None => return Ok(()),
                    Some(PlayerMessage::Decoding(decoding)) => (self.current, self.awaited) = (Some(decoding), None),
                    Some(PlayerMessage::Note(PlayerNote::Break { at_ns, cause })) => {
                        self.marker = Some((at_ns, Marker::Break(cause)));
                    }
                    Some(PlayerMessage::Note(PlayerNote::Missing { from_ns, to_ns })) => {
                        self.marker = Some((to_ns, Marker::Missing(from_ns, to_ns)));
                    }
                    Some(PlayerMessage::Note(_)) => {}
                    Some(PlayerMessage::Arrival) => self.is_arrival = true,
                    Some(PlayerMessage::End(end)) => self.end = Some(end),
                }
                continue;
            };
            if self.is_full() || !self.is_awaited() {
                return Ok(());
            }
            match current.from.try_recv() {
                Ok(MediaItem::Opened(tracks)) => {
                    self.awaited = Some([tracks.video, tracks.audio]);
                    self.tracks = Some(union(self.tracks, tracks));
                }
                Ok(MediaItem::TrackEnded(track)) => {
                    if let Some(awaited) = &mut self.awaited {
                        awaited[track.index()] = false;
                    }
                }
                Ok(MediaItem::Ended(end)) => self.ended(end)?,
                // The relay reports the tracks, for all players together.
                Ok(MediaItem::Discontinuity(_)) => {}
                // It names its time itself, and must not wait behind a mark of a later time.
                Ok(item @ MediaItem::Timecode(_)) => self.marks.push_front((0, item)),
                Ok(item) => match item.span() {
                    Some((track, start_ns, _)) => {
                        (self.has_data, self.useless) = (true, 0);
                        self.held[track.index()].push_back((start_ns, item));
                    }
                    None => self.marks.push_back((0, item)),
                },
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => self.current = None,
            }
        }
        Ok(())
    }

    /// Handles the end of a demuxer.
    fn ended(&mut self, end: End) -> Result<(), End> {
        if let Some(decoding) = self.current.take() {
            // Its feed must not wait for room.
            decoding.intake.close();
        }
        if let End::Failed { cause, .. } = &end {
            tracing::debug!("HLS: fetched media cannot be decoded: {cause}");
            self.useless += 1;
            self.failure = Some(end.clone());
            if self.useless >= USELESS_MAX {
                return Err(end);
            }
        }
        Ok(())
    }

    /// The position of the next item, if there is one, ns.
    pub fn next_ns(&self) -> Option<u64> {
        let media = self.held.iter().filter_map(|held| held.front()).map(|(at, _)| *at).min();
        media.or(self.marker.as_ref().map(|(at, _)| *at))
    }

    fn is_full(&self) -> bool {
        let [video, audio] = &self.held;
        let pictures = || video.iter().filter(|(_, item)| matches!(item, MediaItem::Frame(_))).count();
        video.len().max(audio.len()) >= HELD_MAX || (video.len() >= PICTURES_MAX && pictures() >= PICTURES_MAX)
    }

    pub fn is_over(&self) -> bool {
        self.end.is_some() && self.next_ns().is_none()
    }

    /// Whether media before the held ones may still arrive.
    pub fn is_awaited(&self) -> bool {
        let is_arrival = self.is_arrival && self.next_ns().is_some();
        if self.end.is_some() || self.is_full() || self.marker.is_some() || is_arrival {
            return false;
        }
        let is_empty = self.held.iter().all(VecDeque::is_empty);
        match (&self.current, self.awaited) {
            (Some(_), Some(awaited)) => {
                let lacks = |(is_awaited, held): (&bool, &VecDeque<_>)| *is_awaited && held.is_empty();
                is_empty || awaited.iter().zip(&self.held).any(lacks)
            }
            (Some(_), None) => true,
            (None, _) => is_empty,
        }
    }
}

pub(super) fn union(before: Option<Tracks>, tracks: Tracks) -> Tracks {
    before.map_or(tracks, |b| Tracks { video: b.video || tracks.video, audio: b.audio || tracks.audio })
}
