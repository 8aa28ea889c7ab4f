//! Brings together what the lanes of one stream decode: in the order of the line, at the stream's pace, with what is to be said
//! between.
//!
//! Runs on the thread `hls/<id>`. Everything here is one way: lanes do not know how far it is but for the room in their demuxers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Select, TryRecvError};
use tokio::sync::Notify;

use super::lane::{LaneEnd, Note};
use super::pacer::Pacer;
use super::playlist::AdBreak;
use crate::clock::Clock;
use crate::ingest::incident::{Cause, Incident};
use crate::ingest::outlet::{Closed, Outlet};
use crate::ingest::plausible::{Claims, Verdict};
use crate::ingest::supervise::nanos;
use crate::ingest::{Discontinuity, End, MediaItem, Source, Track, Tracks};
use crate::time::{NANOS_PER_SECOND, Pts, WallSource, WallTime, samples_to_nanos};

/// How far a date may be from the picture that it names, ns: packagers take it from the segment's start, rounded.
const DATE_UNCERTAINTY_NS: u64 = 100_000_000;

/// Media this much before a note are of it, ns: playlists round their durations.
const SLACK_NS: u64 = 15_000_000;

/// How long the first media of one lane wait for those of the other.
const GRACE: Duration = Duration::from_secs(3);

/// How long media of a recording wait for others of their time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A hole in all media that is longer than this is said, ns: what follows must not be taken for another line.
const HOLE_NS: u64 = NANOS_PER_SECOND;

/// Demuxers and decoders in a row that found nothing in what they were given, after which the stream has failed.
const USELESS_MAX: u32 = 3;

/// What a lane sends.
pub(super) enum Message {
    Decoding(Decoding),
    Note(Note),
    /// The source is endless: what arrives goes out, in no other order than it comes.
    Arrival,
    End(LaneEnd),
}

/// A demuxer with its decoders.
pub(super) struct Decoding {
    /// Runs while this is held.
    pub _source: Box<dyn Source>,
    pub from: Receiver<MediaItem>,
    pub state: Arc<Broken>,
}

/// Whether a demuxer is of use to who feeds it.
#[derive(Debug, Default)]
pub(in crate::ingest) struct Broken {
    is_broken: AtomicBool,
    /// There is room again, or it is broken.
    pub news: Notify,
}

impl Broken {
    pub fn set(&self) {
        self.is_broken.store(true, Ordering::Release);
        self.news.notify_one();
    }

    pub fn is_set(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }
}

/// What comes between the media of a lane.
#[derive(Clone, Copy)]
enum Marker {
    Break(Discontinuity),
    /// From a place to another.
    Missing(u64, u64),
}

/// Decoded items of one track that are held at most while the other brings nothing. Packagers write sound up to two seconds after
/// the pictures of its time; a demuxer's queues hold more sound than that.
const HELD_MAX: usize = 2048;

/// As [`HELD_MAX`], for pictures that were converted: each is half a megabyte.
const PICTURES_MAX: usize = 128;

/// One lane, as the relay sees it.
pub(super) struct Input {
    messages: Receiver<Message>,
    queue: VecDeque<Message>,
    marks: VecDeque<(u64, MediaItem)>,
    current: Option<Decoding>,
    /// Tracks that the current demuxer has and that have not ended; [`None`] until it is known.
    awaited: Option<[bool; 2]>,
    /// Pictures and sound that were decoded, each in order: demuxers bring them in step only roughly.
    held: [VecDeque<(u64, MediaItem)>; 2],
    marker: Option<(u64, Marker)>,
    tracks: Option<Tracks>,
    end: Option<LaneEnd>,
    is_arrival: bool,
    has_data: bool,
    useless: u32,
    failure: Option<End>,
}

impl Input {
    pub fn new(messages: Receiver<Message>) -> Self {
        Self {
            messages,
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

    /// Takes messages in, so that what they say of media that are being decoded is known in time.
    fn drain(&mut self) {
        loop {
            match self.messages.try_recv() {
                Ok(Message::Note(note)) => self.note(note),
                Ok(other) => self.queue.push_back(other),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    if !self.queue.iter().any(|m| matches!(m, Message::End(_))) && self.end.is_none() {
                        self.queue.push_back(Message::End(LaneEnd::Over));
                    }
                    return;
                }
            }
        }
    }

    fn note(&mut self, note: Note) {
        let incident = |at_ns, incident| (at_ns, MediaItem::Incident(incident));
        match note {
            Note::Date { at_ns, unix_ns } => {
                let (source, uncertainty_ns) = (WallSource::HlsProgramDateTime, DATE_UNCERTAINTY_NS);
                let wall = WallTime { unix_ns, source, uncertainty_ns };
                self.marks.push_back((at_ns, MediaItem::Wall { pts: Pts(at_ns), wall }));
            }
            Note::Ad { at_ns, ad: AdBreak::Out } => self.marks.push_back(incident(at_ns, Incident::AdBreakBegan)),
            Note::Ad { at_ns, ad: AdBreak::In } => self.marks.push_back(incident(at_ns, Incident::AdBreakEnded)),
            Note::Lost { at_ns, cause } => self.marks.push_back(incident(at_ns, Incident::SegmentLost(cause))),
            in_order => self.queue.push_back(Message::Note(in_order)),
        }
    }

    /// Gets what comes next, as far as it is there. What failed for good ends the stream.
    fn fill(&mut self) -> Result<(), End> {
        while self.marker.is_none() && self.end.is_none() {
            let Some(current) = &self.current else {
                if self.held.iter().any(|held| !held.is_empty()) {
                    return Ok(());
                }
                match self.queue.pop_front() {
                    None => return Ok(()),
                    Some(Message::Decoding(decoding)) => (self.current, self.awaited) = (Some(decoding), None),
                    Some(Message::Note(Note::Break { at_ns, cause })) => {
                        self.marker = Some((at_ns, Marker::Break(cause)));
                    }
                    Some(Message::Note(Note::Missing { from_ns, to_ns })) => {
                        self.marker = Some((to_ns, Marker::Missing(from_ns, to_ns)));
                    }
                    Some(Message::Note(_)) => {}
                    Some(Message::Arrival) => self.is_arrival = true,
                    Some(Message::End(end)) => self.end = Some(end),
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
                // Which tracks there are is said here, for all lanes.
                Ok(MediaItem::Discontinuity(_)) => {}
                Ok(item) => match span(&item) {
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

    /// A demuxer came to its end.
    fn ended(&mut self, end: End) -> Result<(), End> {
        if let Some(decoding) = self.current.take() {
            // Whoever feeds it must not wait for room in it.
            decoding.state.set();
        }
        if let End::Failed { cause, .. } = &end {
            tracing::debug!("HLS: what was fetched is of no use: {cause}");
            self.useless += 1;
            self.failure = Some(end.clone());
            if self.useless >= USELESS_MAX {
                return Err(end);
            }
        }
        Ok(())
    }

    /// The place of what comes next, as far as it is known.
    fn next_ns(&self) -> Option<u64> {
        let media = self.held.iter().filter_map(|held| held.front()).map(|(at, _)| *at).min();
        media.or(self.marker.as_ref().map(|(at, _)| *at))
    }

    fn is_full(&self) -> bool {
        let [video, audio] = &self.held;
        let pictures = || video.iter().filter(|(_, item)| matches!(item, MediaItem::Frame(_))).count();
        video.len().max(audio.len()) >= HELD_MAX || (video.len() >= PICTURES_MAX && pictures() >= PICTURES_MAX)
    }

    fn is_over(&self) -> bool {
        self.end.is_some() && self.next_ns().is_none()
    }

    /// Whether something may come that lies before what is held.
    fn is_awaited(&self) -> bool {
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

fn union(before: Option<Tracks>, tracks: Tracks) -> Tracks {
    before.map_or(tracks, |b| Tracks { video: b.video || tracks.video, audio: b.audio || tracks.audio })
}

/// The track of data and the time that they span on the line, ns.
fn span(item: &MediaItem) -> Option<(Track, u64, u64)> {
    match item {
        MediaItem::Frame(frame) => Some((Track::Video, frame.pts.0, frame.pts.0)),
        MediaItem::Thinned { pts, .. } | MediaItem::Lost { pts } => Some((Track::Video, pts.0, pts.0)),
        MediaItem::Pcm(chunk) => {
            let length_ns = samples_to_nanos(chunk.frames() as u64, chunk.rate.max(1));
            Some((Track::Audio, chunk.pts.0, chunk.pts.0.saturating_add(length_ns)))
        }
        _ => None,
    }
}

/// The relay of one stream. The first input is the main playlist: the stream ends with it.
pub(super) struct Relay {
    pub inputs: Vec<Input>,
    pub outlet: Outlet,
    pub clock: Arc<dyn Clock>,
    /// Items wait for their time.
    pub is_paced: bool,
    pacer: Pacer,
    opened: Option<Tracks>,
    /// Up to where there were media of any track, ns.
    reach_ns: Option<u64>,
    /// Since when one lane waits for another.
    waiting_since: Option<u64>,
    /// What was missing before it was known what tracks there are.
    early: Option<(u64, u64)>,
    /// What the playlists said of the time.
    claims: Claims,
}

impl Relay {
    pub fn new(inputs: Vec<Input>, outlet: Outlet, clock: Arc<dyn Clock>, is_paced: bool) -> Self {
        let pacer = Pacer::default();
        let (opened, reach_ns, waiting_since, early) = (None, None, None, None);
        // A recording may be of any day.
        let claims = if is_paced { Claims::of_live() } else { Claims::within(u64::MAX) };
        Self { inputs, outlet, clock, is_paced, pacer, opened, reach_ns, waiting_since, early, claims }
    }

    /// Until the stream is over or somebody asks it to stop.
    pub fn run(&mut self) -> End {
        loop {
            match self.turn() {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    fn turn(&mut self) -> Result<(), End> {
        if self.outlet.stopped() {
            return Err(End::Finished);
        }
        for input in &mut self.inputs {
            input.drain();
        }
        self.inputs[0].fill()?;
        for other in &mut self.inputs[1..] {
            if other.fill().is_err() {
                // Sound that cannot be decoded does not take the pictures with it.
                other.end = Some(LaneEnd::Over);
            }
        }
        let now_ns = self.clock.mono_ns();
        let next = self.inputs.iter().enumerate().filter_map(|(i, input)| Some((input.next_ns()?, i))).min();
        let Some((at_ns, index)) = next else {
            if self.inputs.iter().all(Input::is_over) || self.is_cut_short(now_ns) {
                return Err(self.end());
            }
            self.wait(self.inputs[0].is_over().then_some(GRACE), true);
            return Ok(());
        };
        self.is_paced &= !self.inputs[0].is_arrival;
        let due_ns = if self.is_paced { self.pacer.due(at_ns, now_ns) } else { now_ns };
        if self.inputs.iter().any(Input::is_awaited) {
            // A paced stream waits for what is missing until its own time has come; nothing goes out before it is known what
            // tracks there are. A recording waits long: its seconds must not depend on how busy the machine is.
            let since_ns = *self.waiting_since.get_or_insert(now_ns);
            let until_ns = match self.opened {
                Some(_) if self.is_paced => due_ns,
                Some(_) => since_ns.saturating_add(nanos(PATIENCE)),
                None => since_ns.saturating_add(nanos(GRACE)),
            };
            if now_ns < until_ns {
                self.wait(Some(Duration::from_nanos(until_ns - now_ns)), true);
                return Ok(());
            }
        }
        if now_ns < due_ns {
            self.wait(Some(Duration::from_nanos(due_ns - now_ns)), false);
            return Ok(());
        }
        self.waiting_since = None;
        self.pacer.passed(at_ns, now_ns);
        self.say(index, now_ns).map_err(|Closed| End::Finished)
    }

    /// The main playlist is over, and what is awaited beside it does not come.
    fn is_cut_short(&mut self, now_ns: u64) -> bool {
        if !self.inputs[0].is_over() {
            return false;
        }
        let since_ns = *self.waiting_since.get_or_insert(now_ns);
        matches!(self.inputs[0].end, Some(LaneEnd::Failed(_))) || now_ns.saturating_sub(since_ns) >= nanos(GRACE)
    }

    fn end(&self) -> End {
        let main = &self.inputs[0];
        match (&main.end, &main.failure) {
            (Some(LaneEnd::Failed(refusal)), _) => refusal.end(),
            (_, Some(failure)) if !main.has_data => failure.clone(),
            _ => End::Finished,
        }
    }

    /// Waits until something comes, somebody asks to stop, or the time is up. `for_media`: of the lanes that have nothing.
    fn wait(&self, limit: Option<Duration>, for_media: bool) {
        let mut select = Select::new();
        select.recv(self.outlet.stopping());
        for input in self.inputs.iter().filter(|input| for_media && input.is_awaited()) {
            select.recv(&input.messages);
            if let Some(current) = &input.current {
                select.recv(&current.from);
            }
        }
        // What became ready is looked at in the next turn.
        match limit {
            Some(limit) => drop(select.ready_timeout(limit)),
            None => drop(select.ready()),
        }
    }

    /// Sends what comes next of a lane, and what must be said before it.
    fn say(&mut self, index: usize, now_ns: u64) -> Result<(), Closed> {
        let input = &mut self.inputs[index];
        let front = |held: &VecDeque<(u64, MediaItem)>| held.front().map_or(u64::MAX, |(at, _)| *at);
        // Pictures first where both begin together.
        let track = usize::from(front(&input.held[1]) < front(&input.held[0]));
        if let Some((at_ns, item)) = input.held[track].pop_front() {
            return self.say_item(at_ns, item, now_ns);
        }
        match input.marker.take() {
            Some((at_ns, Marker::Break(cause))) if index == 0 => {
                if cause == Discontinuity::JumpBack {
                    self.pacer.restart();
                }
                // What the playlist promised and the media did not keep.
                let reach_ns = self.reach_ns.take().filter(|reach| at_ns > reach.saturating_add(HOLE_NS));
                if let Some(reach_ns) = reach_ns.filter(|_| self.opened.is_some()) {
                    self.outlet.send(MediaItem::Missing { from: Pts(reach_ns), to: Pts(at_ns) })?;
                }
                self.outlet.send(MediaItem::Discontinuity(cause))
            }
            Some((_, Marker::Missing(from_ns, to_ns))) if index == 0 => {
                self.reach_ns = Some(self.reach_ns.unwrap_or(0).max(to_ns));
                if self.opened.is_none() {
                    // Missing before there was anything: said once it is known what tracks there are.
                    let (first_ns, _) = self.early.unwrap_or((from_ns, to_ns));
                    self.early = Some((first_ns, to_ns));
                    return Ok(());
                }
                self.outlet.send(MediaItem::Missing { from: Pts(from_ns), to: Pts(to_ns) })
            }
            // The main playlist speaks for all.
            _ => Ok(()),
        }
    }

    fn say_item(&mut self, at_ns: u64, mut item: MediaItem, now_ns: u64) -> Result<(), Closed> {
        let track = match &mut item {
            MediaItem::Frame(frame) => {
                frame.arrived_ns = if self.is_paced { now_ns } else { frame.arrived_ns };
                Track::Video
            }
            MediaItem::Thinned { arrived_ns, .. } => {
                *arrived_ns = if self.is_paced { now_ns } else { *arrived_ns };
                Track::Video
            }
            MediaItem::Pcm(chunk) => {
                chunk.arrived_ns = if self.is_paced { now_ns } else { chunk.arrived_ns };
                Track::Audio
            }
            MediaItem::Lost { .. } => Track::Video,
            _ => return self.outlet.send(item),
        };
        self.open(track)?;
        if let (Some((_, start_ns, end_ns)), reach_ns) = (span(&item), self.reach_ns) {
            if let Some(reach_ns) = reach_ns.filter(|reach| start_ns > reach.saturating_add(HOLE_NS)) {
                self.outlet.send(MediaItem::Missing { from: Pts(reach_ns), to: Pts(start_ns) })?;
            }
            self.reach_ns = Some(reach_ns.unwrap_or(0).max(end_ns));
        }
        for input in &mut self.inputs {
            while input.marks.front().is_some_and(|(at, _)| *at <= at_ns.saturating_add(SLACK_NS)) {
                let Some((_, mark)) = input.marks.pop_front() else { continue };
                let MediaItem::Wall { wall, .. } = &mark else {
                    self.outlet.send(mark)?;
                    continue;
                };
                let verdict = self.claims.judge(wall.unix_ns, self.clock.unix_ns());
                match verdict {
                    Verdict::Believed => self.outlet.send(mark)?,
                    Verdict::Again => {
                        self.outlet.send(MediaItem::Incident(Incident::ClockPlausible))?;
                        self.outlet.send(mark)?;
                    }
                    Verdict::NoLonger => self.outlet.send(MediaItem::Incident(Incident::ClockImplausible))?,
                    Verdict::NotYet => {}
                }
            }
        }
        self.outlet.send(item)
    }

    /// Says which tracks there are before the first data, and again when one comes in.
    fn open(&mut self, track: Track) -> Result<(), Closed> {
        let known = self.inputs.iter().filter_map(|input| input.tracks).fold(None, |all, t| Some(union(all, t)));
        let Some(known) = known else { return Ok(()) };
        let all = union(self.opened, known);
        match self.opened {
            Some(opened) if opened == all || opened.has(track) => return Ok(()),
            Some(_) => self.outlet.send(MediaItem::Discontinuity(Discontinuity::Tracks))?,
            None => {}
        }
        self.opened = Some(all);
        self.outlet.send(MediaItem::Opened(all))?;
        match self.early.take() {
            Some((from_ns, to_ns)) => self.outlet.send(MediaItem::Missing { from: Pts(from_ns), to: Pts(to_ns) }),
            None => Ok(()),
        }
    }
}

/// The end of a stream that failed before there was anything to relay.
pub(super) fn failed(cause: &str, advice: &str) -> End {
    End::Failed { kind: Cause::Other, cause: crate::redact::text(cause), advice: advice.to_owned() }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
