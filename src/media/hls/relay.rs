//! Merges the decoded media of the players of one stream: in timeline order, at the stream's pace, with discontinuities, gaps and
//! incidents in between.
//!
//! Runs on the thread `hls/<id>`. Data flow one way: players learn of the relay's progress only by the room in their demuxers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Select;

use super::breaks::AdBreaks;
use super::input::{Marker, RelayInput, union};
use super::pacer::Pacer;
use super::player::PlayerEnd;
use crate::outlet::{Closed, Outlet};
use crate::source_clock::{ClockVerdict, SourceClock};
use crate::supervise::nanos;
use touchline_core::cause::Cause;
use touchline_core::clock::Clock;
use touchline_core::incident::Incident;
use touchline_core::item::{Discontinuity, End, MediaItem, Track, Tracks};
use touchline_core::time::{NANOS_PER_SECOND, Pts};

/// A note applies to media that begin this much before it, ns: playlists round their durations.
const SLACK_NS: u64 = 15_000_000;

/// Items that are due within this time are sent together, ns: a wake-up per item costs more than sending it.
const AT_ONCE_NS: u64 = 25_000_000;

/// How long the first media of one player wait for those of the other.
const GRACE: Duration = Duration::from_secs(3);

/// How long media of a recording wait for the other track.
const TRACK_TIMEOUT: Duration = Duration::from_secs(30);

/// A hole in all tracks that is longer than this is reported as missing, ns; without that, the clip builder would see a jump.
const HOLE_NS: u64 = NANOS_PER_SECOND;

/// The relay of one stream. The first input is the main playlist: the stream ends with it.
pub(super) struct Relay {
    pub inputs: Vec<RelayInput>,
    pub outlet: Outlet,
    pub clock: Arc<dyn Clock>,
    /// Whether items wait until they are due.
    pub is_paced: bool,
    pacer: Pacer,
    opened: Option<Tracks>,
    /// The end of the media so far, over all tracks, ns.
    reach_ns: Option<u64>,
    /// Monotonic time since which one player waits for another, ns.
    waiting_since: Option<u64>,
    /// Missing time before the tracks are known.
    early: Option<(u64, u64)>,
    /// Judges the wall times in the playlists.
    source_clock: SourceClock,
    /// Advertisement breaks, announced by any of the players.
    breaks: AdBreaks,
}

impl Relay {
    pub fn new(inputs: Vec<RelayInput>, outlet: Outlet, clock: Arc<dyn Clock>, is_paced: bool) -> Self {
        let pacer = Pacer::default();
        let (opened, reach_ns, waiting_since, early) = (None, None, None, None);
        // A recording may have any date.
        let source_clock = if is_paced { SourceClock::live() } else { SourceClock::within(u64::MAX) };
        Self {
            inputs,
            outlet,
            clock,
            is_paced,
            pacer,
            opened,
            reach_ns,
            waiting_since,
            early,
            source_clock,
            breaks: AdBreaks::default(),
        }
    }

    /// Runs until the stream ends or is stopped.
    pub fn run(&mut self) -> End {
        loop {
            match self.step() {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    fn step(&mut self) -> Result<(), End> {
        if self.outlet.stopped() {
            return Err(End::Finished);
        }
        for input in &mut self.inputs {
            input.drain(&mut self.breaks);
        }
        self.inputs[0].fill()?;
        for other in &mut self.inputs[1..] {
            if other.fill().is_err() {
                // Undecodable sound does not end the pictures.
                other.end = Some(PlayerEnd::Over);
            }
        }
        let now_ns = self.clock.mono_ns();
        let next = self.inputs.iter().enumerate().filter_map(|(i, input)| Some((input.next_ns()?, i))).min();
        let Some((at_ns, index)) = next else {
            if self.inputs.iter().all(RelayInput::is_over) || self.is_cut_short(now_ns) {
                return Err(self.end());
            }
            self.wait(self.inputs[0].is_over().then_some(GRACE), true);
            return Ok(());
        };
        self.is_paced &= !self.inputs[0].is_arrival;
        let due_ns = if self.is_paced { self.pacer.due(at_ns, now_ns) } else { now_ns };
        if self.inputs.iter().any(RelayInput::is_awaited) {
            // A paced stream waits for the other track until its own media are due; nothing is sent before the tracks are known. A
            // recording waits long: its seconds must not depend on the load of the machine.
            let since_ns = *self.waiting_since.get_or_insert(now_ns);
            let until_ns = match self.opened {
                Some(_) if self.is_paced => due_ns,
                Some(_) => since_ns.saturating_add(nanos(TRACK_TIMEOUT)),
                None => since_ns.saturating_add(nanos(GRACE)),
            };
            if now_ns < until_ns {
                self.wait(Some(Duration::from_nanos(until_ns - now_ns)), true);
                return Ok(());
            }
        }
        if now_ns.saturating_add(AT_ONCE_NS) < due_ns {
            self.wait(Some(Duration::from_nanos(due_ns - now_ns)), false);
            return Ok(());
        }
        self.waiting_since = None;
        self.pacer.passed(at_ns, now_ns);
        self.send_next(index, now_ns).map_err(|Closed| End::Finished)
    }

    /// Whether the main playlist has ended and the media still awaited beside it do not come.
    fn is_cut_short(&mut self, now_ns: u64) -> bool {
        if !self.inputs[0].is_over() {
            return false;
        }
        let since_ns = *self.waiting_since.get_or_insert(now_ns);
        matches!(self.inputs[0].end, Some(PlayerEnd::Failed(_))) || now_ns.saturating_sub(since_ns) >= nanos(GRACE)
    }

    fn end(&self) -> End {
        let main = &self.inputs[0];
        match (&main.end, &main.failure) {
            (Some(PlayerEnd::Failed(refusal)), _) => refusal.end(),
            (_, Some(failure)) if !main.has_data => failure.clone(),
            _ => End::Finished,
        }
    }

    /// Waits until a message or media arrive, the source is stopped, or the time is up. `for_media`: players without media are
    /// waited for.
    fn wait(&self, limit: Option<Duration>, for_media: bool) {
        let mut events = self.events(for_media);
        // The next step checks all inputs.
        match limit {
            Some(limit) => drop(events.ready_timeout(limit)),
            None => drop(events.ready()),
        }
    }

    /// What [`wait`](Self::wait) waits for. A channel that is disconnected would always be ready.
    fn events(&self, for_media: bool) -> Select<'_> {
        let mut select = Select::new();
        select.recv(self.outlet.stopping());
        for input in self.inputs.iter().filter(|input| for_media && input.is_awaited()) {
            if let Some(messages) = &input.messages {
                select.recv(messages);
            }
            if let Some(current) = &input.current {
                select.recv(&current.from);
            }
        }
        select
    }

    /// Sends the next item of a player, after the notes that precede it.
    fn send_next(&mut self, index: usize, now_ns: u64) -> Result<(), Closed> {
        let input = &mut self.inputs[index];
        let front = |held: &VecDeque<(u64, MediaItem)>| held.front().map_or(u64::MAX, |(at, _)| *at);
        // Pictures first at equal times.
        let track = usize::from(front(&input.held[1]) < front(&input.held[0]));
        if let Some((at_ns, item)) = input.held[track].pop_front() {
            return self.send_item(at_ns, item, now_ns);
        }
        match input.marker.take() {
            Some((at_ns, Marker::Break(cause))) if index == 0 => {
                if cause == Discontinuity::JumpBack {
                    self.pacer.restart();
                }
                // The media were shorter than stated in the playlist.
                let reach_ns = self.reach_ns.take().filter(|reach| at_ns > reach.saturating_add(HOLE_NS));
                if let Some(reach_ns) = reach_ns.filter(|_| self.opened.is_some()) {
                    self.outlet.send(MediaItem::Missing { from: Pts(reach_ns), to: Pts(at_ns) })?;
                }
                self.outlet.send(MediaItem::Discontinuity(cause))
            }
            Some((_, Marker::Missing(from_ns, to_ns))) if index == 0 => {
                self.reach_ns = Some(self.reach_ns.unwrap_or(0).max(to_ns));
                if self.opened.is_none() {
                    // Missing before the first media: sent once the tracks are known.
                    let (first_ns, _) = self.early.unwrap_or((from_ns, to_ns));
                    self.early = Some((first_ns, to_ns));
                    return Ok(());
                }
                self.outlet.send(MediaItem::Missing { from: Pts(from_ns), to: Pts(to_ns) })
            }
            // Only the markers of the main playlist are used.
            _ => Ok(()),
        }
    }

    fn send_item(&mut self, at_ns: u64, mut item: MediaItem, now_ns: u64) -> Result<(), Closed> {
        let track = match &mut item {
            MediaItem::Frame(frame) => {
                frame.arrived_ns = if self.is_paced { now_ns } else { frame.arrived_ns };
                Track::Video
            }
            MediaItem::Unconverted { arrived_ns, .. } => {
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
        if let (Some((_, start_ns, end_ns)), reach_ns) = (item.span(), self.reach_ns) {
            if let Some(reach_ns) = reach_ns.filter(|reach| start_ns > reach.saturating_add(HOLE_NS)) {
                self.outlet.send(MediaItem::Missing { from: Pts(reach_ns), to: Pts(start_ns) })?;
            }
            self.reach_ns = Some(reach_ns.unwrap_or(0).max(end_ns));
        }
        while let Some(incident) = self.breaks.next(at_ns.saturating_add(SLACK_NS)) {
            self.outlet.send(MediaItem::Incident(incident))?;
        }
        for input in &mut self.inputs {
            while input.marks.front().is_some_and(|(at, _)| *at <= at_ns.saturating_add(SLACK_NS)) {
                let Some((_, mark)) = input.marks.pop_front() else { continue };
                let MediaItem::Wall { wall, .. } = &mark else {
                    self.outlet.send(mark)?;
                    continue;
                };
                let verdict = self.source_clock.judge(wall.unix_ns, self.clock.unix_ns());
                match verdict {
                    ClockVerdict::Trusted => self.outlet.send(mark)?,
                    ClockVerdict::TrustedAgain => {
                        self.outlet.send(MediaItem::Incident(Incident::ClockPlausible))?;
                        self.outlet.send(mark)?;
                    }
                    ClockVerdict::Distrusted => self.outlet.send(MediaItem::Incident(Incident::ClockImplausible))?,
                    ClockVerdict::StillDistrusted => {}
                }
            }
        }
        self.outlet.send(item)
    }

    /// Sends the tracks before the first data, and again when a track is added.
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

/// The end of a stream that failed before it had media.
pub(super) fn failed(cause: &str, advice: &str) -> End {
    End::Failed { kind: Cause::Other, cause: touchline_core::redact::text(cause), advice: advice.to_owned() }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
