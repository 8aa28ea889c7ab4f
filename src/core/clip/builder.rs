//! The state machine that cuts seconds: it assigns items to runs and decides when a new run begins.
//!
//! A run is one timeline of PTS. Both tracks of a stream jump to a new timeline together, but not at the same item, and one
//! track alone may have a hole of any length. So an item far from its track's position is held back until the other track
//! shows the reason:
//!
//! - The other track reaches that PTS as well: the item's track had a hole, and the run continues.
//! - The other track leaves the timeline too, or has ended: a new run begins, at the earlier of the two.
//! - Neither happens within the lag limits: the pictures decide. A jump of video begins a new run. A jump of audio does so
//!   only if no pictures arrived meanwhile; otherwise its time stamps are taken for broken, and sound that does not fit is
//!   discarded until it is back on the timeline.
//!
//! Items are also held back before the first one of a connection is used, so that the run begins at the earlier track. Later
//! data of an abandoned timeline are discarded and counted. All this depends only on PTS, not on the interleaving of the
//! tracks, as long as the lag stays within the limits.

use std::collections::VecDeque;

use super::resample::SAMPLE_RATES;
use super::run::{Run, StreamInfo, TRACKS, WallReference};
use super::sampling::PendingFrame;
use super::sound::AudioGrid;
use super::timecodes::Timecodes;
use super::timeline::{BRIDGE_NS, HeldItems, Position, Timeline, merge, weight};
use super::{ClipOutput, LagLimits, SamplingPlan};
use crate::item::{Discontinuity, MediaItem, Track};
use crate::tier::SharedTier;
use crate::time::{Pts, RunId, WallSource};

/// PTS from here on are invalid: 146 years, with room for additions.
const PTS_MAX: u64 = 1 << 62;

/// Parameters of a [`ClipBuilder`].
#[derive(Clone, Debug)]
pub struct ClipConfig {
    /// Rate of the mono sound in every [`super::ClipSecond`], Hz; `None` if the pack has no audio model, so that sound is ignored.
    pub sample_rate: Option<u32>,
    /// Which frames and pairs of a second are kept.
    pub plan: SamplingPlan,
    /// How long a second waits for a late track.
    pub lag: LagLimits,
    /// The maximum delay between a picture being taken and its arrival, ns. Passed on for the wall time.
    pub behind_ns: u64,
}

/// State of one track of the connection.
#[derive(Clone, Copy, Debug, Default)]
struct TrackState {
    exists: bool,
    /// `TrackEnded` arrived (it may still wait behind held items).
    ended: bool,
}

/// The action for the held items.
enum HeldAction {
    Wait,
    /// Begin a new run with all held items.
    Begin(Option<Discontinuity>),
    /// Continue the run with the track's items.
    Rejoin(Track),
    /// Continue the run with the track's items that fit, and discard the others.
    KeepFitting(Track),
}

/// Cuts one stream into seconds. Pure: no thread, no clock, no input or output of its own.
#[derive(Debug)]
pub struct ClipBuilder {
    config: ClipConfig,
    tier: SharedTier,
    tracks: [TrackState; 2],
    line: Timeline,
    run: Option<Run>,
    /// Number of the first run of this builder.
    first: RunId,
    runs: u32,
    /// Why the next run begins; `None` for the first.
    cause: Option<Discontinuity>,
    held: [HeldItems; 2],
    /// Position of sound on the previous timeline, if sound had not left it when the run began. Sound that continues there is
    /// discarded. There is no such position for pictures, because they decide whether the timeline changes.
    left_behind: Option<Position>,
    wall: Option<WallReference>,
    /// A wall-time reference on the timeline of the held items.
    wall_ahead: Option<WallReference>,
    timecodes: Timecodes,
    is_over: bool,
    /// The first second that the previous run on the same timeline did not output.
    emitted_before: Option<u64>,
}

impl ClipBuilder {
    /// A builder for one stream.
    ///
    /// # Panics
    /// If `config.sample_rate` is outside [`SAMPLE_RATES`].
    pub fn new(config: ClipConfig) -> Self {
        assert!(config.sample_rate.is_none_or(|r| SAMPLE_RATES.contains(&r)), "the pack's sample rate is in range");
        Self {
            config,
            tier: SharedTier::default(),
            tracks: Default::default(),
            line: Timeline::default(),
            run: None,
            first: RunId(0),
            runs: 0,
            cause: None,
            held: Default::default(),
            left_behind: None,
            wall: None,
            wall_ahead: None,
            timecodes: Timecodes::default(),
            is_over: false,
            emitted_before: None,
        }
    }

    /// Numbers runs from `first` on. A stream that another source or process continues must not reuse run numbers.
    pub fn from_run(mut self, first: RunId) -> Self {
        self.first = first;
        self
    }

    /// Samples by `tier`, which may change. The same tier belongs to the stream's [`crate::selection::FrameSelection`].
    #[must_use]
    pub fn at(mut self, tier: SharedTier) -> Self {
        self.tier = tier;
        self
    }

    /// Takes one item and appends the resulting output to `out`. Never panics: unusable data are
    /// counted in [`ClipOutput::Discarded`].
    pub fn push(&mut self, item: MediaItem, out: &mut Vec<ClipOutput>) {
        let is_new_timeline = matches!(item, MediaItem::Discontinuity(cause) if cause.starts_new_timeline());
        let before = out.len();
        self.take(item, out);
        for output in &mut out[before..] {
            if let ClipOutput::Second(second) = output {
                second.timecode = self.timecodes.of(second.index);
            }
        }
        if is_new_timeline {
            self.timecodes = Timecodes::default();
        }
    }

    fn take(&mut self, item: MediaItem, out: &mut Vec<ClipOutput>) {
        match item {
            item @ (MediaItem::Frame(_)
            | MediaItem::Unconverted { .. }
            | MediaItem::Lost { .. }
            | MediaItem::Pcm(_)) => {
                self.take_data(item, out);
            }
            MediaItem::Opened(tracks) => {
                // Data arrived since the last `Opened`: this is a new connection, even without a discontinuity item.
                if self.run.is_some() || self.held.iter().any(|held| !held.is_empty()) {
                    self.break_line(Discontinuity::Reconnect, out);
                }
                for (state, exists) in self.tracks.iter_mut().zip([tracks.video, tracks.audio]) {
                    *state = TrackState { exists, ended: false };
                }
                out.push(ClipOutput::Opened(tracks));
            }
            MediaItem::TrackEnded(track) => {
                self.tracks[track.index()].ended = true;
                self.route(item, out);
                self.settle(out);
            }
            MediaItem::Wall { pts, wall } => self.take_wall(WallReference { pts, wall }),
            MediaItem::Timecode(mark) => self.timecodes.take(mark),
            MediaItem::Missing { from, to } => self.take_missing(from.0, to.0, out),
            MediaItem::Discontinuity(cause) => self.break_line(cause, out),
            MediaItem::Incident(_) => {}
            MediaItem::Ended(end) => {
                self.finish_run(false, out);
                if !self.is_over {
                    out.push(ClipOutput::Ended(end));
                }
                self.is_over = true;
            }
        }
    }

    /// Ends the run; the next one begins because of `cause`.
    fn break_line(&mut self, cause: Discontinuity, out: &mut Vec<ClipOutput>) {
        self.finish_run(!cause.starts_new_timeline(), out);
        self.cause = Some(cause);
        self.left_behind = None;
        if cause.starts_new_timeline() {
            (self.wall, self.wall_ahead) = (None, None);
        }
        for state in &mut self.tracks {
            state.ended = false;
            state.exists &= cause != Discontinuity::Reconnect;
        }
    }

    fn take_data(&mut self, item: MediaItem, out: &mut Vec<ClipOutput>) {
        let (track, count, is_usable) = match &item {
            MediaItem::Pcm(_) if self.config.sample_rate.is_none() => return,
            MediaItem::Pcm(chunk) => {
                let values = chunk.data.len() as u64;
                (Track::Audio, values / u64::from(chunk.channels.max(1)), AudioGrid::is_usable(chunk))
            }
            _ => (Track::Video, 1, true),
        };
        let state = &mut self.tracks[track.index()];
        let is_in_time = !self.is_over && !state.ended && item.track_and_pts().is_some_and(|(_, pts)| pts.0 < PTS_MAX);
        if count == 0 {
            return;
        }
        if !(is_usable && is_in_time) {
            return self.discard(track, count, out);
        }
        state.exists = true;
        self.route(item, out);
        self.settle(out);
    }

    /// Takes an interval without data on the current timeline. Its whole seconds become gaps.
    fn take_missing(&mut self, from: u64, to: u64, out: &mut Vec<ClipOutput>) {
        if self.is_over || to <= from || to >= PTS_MAX {
            return;
        }
        if self.run.is_none() {
            // Held items wait for the other track, which continues after the hole.
            for item in self.begin(from, self.cause, out) {
                self.route(item, out);
            }
        }
        for track in TRACKS {
            let state = self.tracks[track.index()];
            if state.exists && !state.ended && self.is_wanted(track) {
                self.line.note(track, to, to);
            }
        }
        let stream = self.stream();
        if let Some(run) = &mut self.run {
            run.pass_over(from, to, &stream);
        }
        self.close(out);
    }

    fn take_wall(&mut self, reference: WallReference) {
        if reference.wall.source == WallSource::Arrival {
            (self.wall, self.wall_ahead) = (None, None);
            return;
        }
        let is_nearer = |held: &HeldItems| match (held.front, self.line.reach()) {
            (Some(front), Some(reach)) => reference.pts.0.abs_diff(front) < reference.pts.0.abs_diff(reach),
            _ => false,
        };
        if self.run.is_some() && self.held.iter().any(is_nearer) {
            self.wall_ahead = Some(reference);
        } else {
            self.wall = Some(reference);
        }
    }

    /// Acts on the held items until a decision needs more data.
    fn settle(&mut self, out: &mut Vec<ClipOutput>) {
        loop {
            let freed = match self.next_action() {
                HeldAction::Wait => break,
                HeldAction::Begin(cause) => self.begin(0, cause, out),
                HeldAction::Rejoin(track) => self.held[track.index()].take(),
                HeldAction::KeepFitting(track) => {
                    self.wall_ahead = None;
                    for item in self.held[track.index()].take() {
                        self.keep_fitting(item, out);
                    }
                    continue;
                }
            };
            for item in freed {
                self.route(item, out);
            }
        }
        self.close(out);
    }

    /// Passes an item to the run, holds it back, or discards it.
    fn route(&mut self, item: MediaItem, out: &mut Vec<ClipOutput>) {
        let Some((track, start, end)) = item.span() else {
            if let MediaItem::TrackEnded(track) = item {
                self.end_track(track, out);
            }
            return;
        };
        let index = track.index();
        if self.run.is_none() {
            return self.held[index].push(item, track, start, end);
        }
        let is_on_line = self.line.admits(track, start, self.config.lag.lag_ns, self.bridge(track));
        if let Some(ahead) = self.held[index].position {
            // Sound that jumped back soon reaches its earlier position: it belongs to the timeline that it is nearer to.
            let here = self.line.positions[index].map_or(u64::MAX, |p| p.next.abs_diff(start));
            let goes_on_there =
                ahead.continues(start, 0, self.bridge(track)) && (!is_on_line || ahead.next.abs_diff(start) < here);
            if goes_on_there {
                return self.held[index].push(item, track, start, end);
            }
            // The held items were strays.
            let strays = self.held[index].take().iter().map(weight).sum();
            self.wall_ahead = None;
            self.discard(track, strays, out);
        }
        if is_on_line {
            self.accept(item, track, start, end, out);
        } else if track == Track::Audio
            && self.left_behind.is_some_and(|old| old.continues(start, 0, self.bridge(track)))
        {
            Position::note(&mut self.left_behind, track, start, end);
            self.discard(track, weight(&item), out);
        } else {
            self.held[index].push(item, track, start, end);
        }
    }

    fn keep_fitting(&mut self, item: MediaItem, out: &mut Vec<ClipOutput>) {
        match item.span() {
            Some((track, start, end)) if self.line.admits(track, start, self.config.lag.lag_ns, self.bridge(track)) => {
                self.accept(item, track, start, end, out);
            }
            Some((track, ..)) => self.discard(track, weight(&item), out),
            None => self.route(item, out),
        }
    }

    fn accept(&mut self, item: MediaItem, track: Track, start: u64, end: u64, out: &mut Vec<ClipOutput>) {
        let index = track.index();
        if track == Track::Audio {
            self.left_behind = None;
        }
        self.held[1 - index].other_moved = true;
        self.line.note(track, start, end);
        if let Some(run) = &mut self.run {
            match item {
                MediaItem::Frame(frame) => {
                    let arrived_ns = frame.arrived_ns;
                    run.push_picture(PendingFrame::Frame(frame), arrived_ns);
                }
                MediaItem::Unconverted { pts, arrived_ns } => {
                    run.push_picture(PendingFrame::Unconverted(pts), arrived_ns)
                }
                MediaItem::Lost { pts } => run.pass_picture(pts),
                MediaItem::Pcm(chunk) => run.push_sound(&chunk),
                _ => {}
            }
        }
        self.close(out);
    }

    fn end_track(&mut self, track: Track, out: &mut Vec<ClipOutput>) {
        let held = &mut self.held[track.index()];
        match &mut self.run {
            _ if !held.is_empty() => held.push_end(track),
            Some(run) => {
                run.end_track(track, out);
                self.close(out);
            }
            None => out.push(ClipOutput::TrackEnded(track)),
        }
    }

    fn next_action(&self) -> HeldAction {
        let lag_ns = self.config.lag.lag_ns;
        let is_active = |track: usize| self.tracks[track].exists && !self.tracks[track].ended;
        let exhausted = |track: Track| self.held[track.index()].is_exhausted(track, lag_ns);
        let Some(first) = self.held.iter().filter_map(|held| held.front).min() else { return HeldAction::Wait };
        if self.run.is_none() {
            let is_awaited = |track: &Track| {
                let index = track.index();
                is_active(index) && self.held[index].is_empty() && self.is_wanted(*track)
            };
            let is_ready = !TRACKS.iter().any(is_awaited) || TRACKS.into_iter().any(exhausted);
            return if is_ready { HeldAction::Begin(self.cause) } else { HeldAction::Wait };
        }
        let jump = match self.line.reach() {
            Some(reach) if first <= reach => Discontinuity::JumpBack,
            _ => Discontinuity::JumpForward,
        };
        let admits = |track: &Track| {
            self.held[track.index()]
                .front
                .is_some_and(|front| self.line.admits(*track, front, lag_ns, self.bridge(*track)))
        };
        if let Some(track) = TRACKS.into_iter().find(admits) {
            return HeldAction::Rejoin(track);
        }
        for track in TRACKS {
            let (this, other) = (track.index(), track.other().index());
            if self.held[this].is_empty() {
                continue;
            }
            if !self.held[other].is_empty() || !is_active(other) {
                return HeldAction::Begin(Some(jump));
            }
            if exhausted(track) {
                let is_stray = track == Track::Audio && self.held[this].other_moved;
                return if is_stray { HeldAction::KeepFitting(track) } else { HeldAction::Begin(Some(jump)) };
            }
        }
        HeldAction::Wait
    }

    /// Ends the run, if there is one, and begins another, at `first` if nothing is held. Returns the held items, to be routed.
    fn begin(&mut self, first: u64, cause: Option<Discontinuity>, out: &mut Vec<ClipOutput>) -> VecDeque<MediaItem> {
        let start = self.held.iter().filter_map(|held| held.front).min().unwrap_or(first);
        let reach = self.line.reach();
        if let Some(run) = self.run.take() {
            run.finish(false, &self.stream(), out);
            let [_, sound] = &self.held;
            self.left_behind = if sound.is_empty() { self.line.positions[1] } else { None };
        }
        if let (Some(wall), Some(reach)) = (self.wall, reach) {
            // A wall-time reference on the previous timeline does not apply to the new one.
            self.wall = (wall.pts.0.abs_diff(start) < wall.pts.0.abs_diff(reach)).then_some(wall);
        }
        self.wall = self.wall_ahead.take().or(self.wall);
        self.line = Timeline::default();
        let id = RunId(self.first.0.wrapping_add(self.runs));
        self.runs = self.runs.wrapping_add(1);
        self.run = Some(Run::new(id, &self.config, self.tier.clone(), Pts(start), self.emitted_before.take()));
        out.push(ClipOutput::RunStarted { run: id, cause: cause.filter(|_| id != self.first) });
        self.cause = None;
        let [video, audio] = &mut self.held;
        merge(video.take(), audio.take())
    }

    /// Ends the run and outputs everything pending. With `is_shared`, another run continues on the same timeline, possibly in the
    /// middle of a second.
    fn finish_run(&mut self, is_shared: bool, out: &mut Vec<ClipOutput>) {
        for state in &mut self.tracks {
            state.ended = true;
        }
        self.settle(out);
        if let Some(run) = self.run.take() {
            let next = run.finish(is_shared, &self.stream(), out);
            self.emitted_before = next.filter(|_| is_shared);
        }
        self.line = Timeline::default();
    }

    fn close(&mut self, out: &mut Vec<ClipOutput>) {
        let stream = self.stream();
        if let Some(run) = &mut self.run {
            run.close(&stream, out);
        }
    }

    fn stream(&self) -> StreamInfo {
        let exists = TRACKS.map(|track| self.tracks[track.index()].exists && self.is_wanted(track));
        StreamInfo { exists, wall: self.wall }
    }

    /// How far the PTS of `track` may jump forward within a run, ns.
    fn bridge(&self, track: Track) -> u64 {
        let other = &self.tracks[track.other().index()];
        if other.exists && self.is_wanted(track.other()) { BRIDGE_NS } else { self.config.lag.bridge_ns }
    }

    fn is_wanted(&self, track: Track) -> bool {
        track == Track::Video || self.config.sample_rate.is_some()
    }

    fn discard(&mut self, track: Track, count: u64, out: &mut Vec<ClipOutput>) {
        match &mut self.run {
            Some(run) => run.discard(track, count),
            None if count > 0 => out.push(ClipOutput::Discarded { track, count }),
            None => {}
        }
    }
}
