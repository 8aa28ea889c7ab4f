//! Detects the tracks of a pipeline: watches elements that add pads later and links the pads to waiting branches.
//!
//! gst-launch's own delayed links connect each branch once. Streams that change their layout midway remove pads and add new
//! ones, so branches are linked again here. If a branch is still unlinked when every element has signalled "no more pads", the
//! source does not have that track.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use parking_lot::{Condvar, Mutex};

use super::bus::wake_message;
use super::feed::TimelineMap;
use super::left_out::LeftOutPictures;
use super::progress::MediaProgress;
use super::track_sync::{TrackSync, TrackWait};
use crate::outlet::{Closed, Counters, Outlet};
use crate::tone::Hdr;
use touchline_core::clock::{Clock, Deadline};
use touchline_core::frame::Frame;
use touchline_core::item::{Discontinuity, End, MediaItem, Track, Tracks};
use touchline_core::time::{NANOS_PER_SECOND, Pts};
use touchline_core::timecode::TimecodeMark;

/// How long the first track waits for the other one in a pipeline whose elements do not signal "no more pads" (some demuxers in a
/// user's template). Audio and video of a live stream start within a picture group, about 2 s, of each other.
const GRACE: Duration = Duration::from_secs(3);

/// As [`GRACE`], for a recording, whose tracks must not depend on the load of the machine.
const GRACE_OF_RECORDING: Duration = Duration::from_secs(20);

/// A branch that ends in an appsink.
#[derive(Debug)]
struct Branch {
    track: Track,
    sink: gst_app::AppSink,
    /// The branch's first pad if it had no peer when the pipeline was parsed. Dynamic pads are linked to it.
    head: Option<gst::Pad>,
}

#[derive(Debug, Default)]
struct GraphState {
    /// Elements that add pads later, and whether they have signalled "no more pads".
    dynamic: Vec<(gst::Element, bool)>,
    /// The tracks that a stream-selecting source (`uridecodebin3`) has selected.
    selected: Option<Tracks>,
    decided: Option<Tracks>,
    ended: Vec<Track>,
    /// The limit of the wait for the decision, set when a sample first waits.
    decides_by: Option<Deadline>,
    /// Why the bus thread must end the session. Set once.
    verdict: Option<End>,
}

/// Shared by the streaming threads and the bus thread of one session.
#[derive(Debug)]
pub(super) struct Graph {
    bus: gst::Bus,
    branches: Vec<Branch>,
    state: Mutex<GraphState>,
    changed: Condvar,
    pub outlet: Outlet,
    pub counters: Arc<Counters>,
    /// Frames and chunks sent in this session.
    pub items: AtomicU64,
    pub progress: MediaProgress,
    /// A demuxer, parser or decoder was plugged in: the data are media.
    pub is_media: AtomicBool,
    /// A decoder was plugged in.
    pub is_decoded: AtomicBool,
    /// The decoder of a device was plugged in.
    pub has_device: AtomicBool,
    /// Whether tracks are synchronised. Recordings only: a live source sets the pace itself.
    is_synced: bool,
    sync: OnceLock<TrackSync>,
    /// The timeline of fetched media. Others use their running times.
    map: Option<Arc<TimelineMap>>,
    /// The last picture of a recording, if it is shown for longer than a second.
    still: Mutex<Option<ShownPicture>>,
    /// Pictures that were not decoded, until their time is sent.
    pub left_out: LeftOutPictures,
    /// The transfer function of HDR pictures before the converters, and whether their colours are those of BT.2020.
    hdr: Mutex<Option<(Hdr, bool)>>,
    /// The timecode of the recording's first picture, from its timecode track.
    pub timecode: OnceLock<TimecodeMark>,
}

/// A picture that is shown until the next one comes, up to `until_ns`.
#[derive(Debug)]
struct ShownPicture {
    frame: Frame,
    until_ns: u64,
}

/// The longest valid duration of one picture, ns.
const STILL_MAX_NS: u64 = 3600 * NANOS_PER_SECOND;

impl Graph {
    pub fn new(
        pipeline: &gst::Pipeline,
        [video, audio]: [Option<gst_app::AppSink>; 2],
        outlet: Outlet,
        counters: Arc<Counters>,
        is_synced: bool,
        map: Option<Arc<TimelineMap>>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let branch = |track, sink: Option<gst_app::AppSink>| {
            sink.map(|sink| Branch { track, head: head(sink.upcast_ref()).err().flatten(), sink })
        };
        let branches = [branch(Track::Video, video), branch(Track::Audio, audio)].into_iter().flatten().collect();
        let graph = Arc::new(Self {
            bus: pipeline.bus().expect("a pipeline has a bus"),
            branches,
            state: Mutex::default(),
            changed: Condvar::new(),
            outlet,
            counters,
            items: AtomicU64::new(0),
            progress: MediaProgress::new(clock),
            is_media: AtomicBool::new(false),
            is_decoded: AtomicBool::new(false),
            has_device: AtomicBool::new(false),
            is_synced,
            sync: OnceLock::new(),
            map,
            still: Mutex::default(),
            left_out: LeftOutPictures::default(),
            hdr: Mutex::default(),
            timecode: OnceLock::new(),
        });
        let dynamic: Vec<gst::Element> =
            pipeline.iterate_elements().into_iter().flatten().filter(adds_pads_later).collect();
        for element in &dynamic {
            let weak: Weak<Self> = Arc::downgrade(&graph);
            element.connect_pad_added(move |_, pad| {
                if let Some(graph) = weak.upgrade() {
                    graph.link(pad);
                    graph.decide(&mut graph.state.lock(), false);
                }
            });
            let weak: Weak<Self> = Arc::downgrade(&graph);
            element.connect_no_more_pads(move |element| {
                if let Some(graph) = weak.upgrade() {
                    graph.no_more_pads(element);
                }
            });
        }
        graph.state.lock().dynamic = dynamic.into_iter().map(|e| (e, false)).collect();
        graph
    }

    pub fn sinks(&self) -> impl Iterator<Item = (Track, &gst_app::AppSink)> {
        self.branches.iter().map(|b| (b.track, &b.sink))
    }

    /// Links a new pad to the first waiting branch that accepts its format. Pads that fit none (a second sound track, subtitles) stay
    /// unlinked, which GStreamer allows.
    fn link(&self, pad: &gst::Pad) {
        if pad.direction() != gst::PadDirection::Src || pad.is_linked() {
            return;
        }
        for head in self.branches.iter().filter_map(|b| b.head.as_ref()).filter(|h| !h.is_linked()) {
            if pad.link(head).is_ok() {
                return;
            }
        }
    }

    fn no_more_pads(&self, element: &gst::Element) {
        let mut state = self.state.lock();
        for (dynamic, done) in &mut state.dynamic {
            *done |= dynamic == element;
        }
        self.decide(&mut state, false);
    }

    /// Stores the selection of a stream-selecting source. Such sources never signal "no more pads".
    pub fn selected(&self, selected: Tracks) {
        let mut state = self.state.lock();
        state.selected = Some(selected);
        self.decide(&mut state, false);
    }

    /// Decides which tracks exist, if that is known or with `force`. Sends [`MediaItem::Opened`] before any data, because data
    /// wait for this decision.
    fn decide(&self, state: &mut GraphState, force: bool) {
        if state.decided.is_some() {
            return;
        }
        // An element without input (a second decodebin for a missing track) never adds pads.
        let pending = |(element, done): &(gst::Element, bool)| {
            let mut sinks = element.pads().into_iter().filter(|p| p.direction() == gst::PadDirection::Sink).peekable();
            !done && (sinks.peek().is_none() || sinks.any(|p| p.is_linked()))
        };
        let has = |track| self.branches.iter().any(|b| b.track == track && head(b.sink.upcast_ref()).is_ok());
        let known = match state.selected {
            Some(selected) => self.branches.iter().all(|b| has(b.track) || !selected.has(b.track)),
            None => !state.dynamic.iter().any(pending),
        };
        if !force && !known {
            return;
        }
        let tracks = Tracks { video: has(Track::Video), audio: has(Track::Audio) };
        state.decided = Some(tracks);
        if tracks.video || tracks.audio {
            if self.is_synced {
                self.sync.get_or_init(|| TrackSync::new(tracks.video, tracks.audio));
            }
            // Closed means that the session is ending anyway.
            let _ = self.outlet.send(MediaItem::Opened(tracks));
        } else {
            self.end_with(state, super::causes::no_tracks(&self.wanted()));
        }
        self.changed.notify_all();
    }

    /// Counts a fault of the media. After a stop nothing counts: decoders report errors when their output is refused. Returns whether it is
    /// the first fault.
    pub fn count_fault(&self) -> bool {
        !self.outlet.stopped() && self.counters.faults.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// The tracks that are wanted.
    pub fn wanted(&self) -> Vec<Track> {
        self.branches.iter().map(|b| b.track).collect()
    }

    fn end_with(&self, state: &mut GraphState, end: End) {
        if state.verdict.is_none() {
            state.verdict = Some(end);
            // Fails only while the bus is flushed at the end of the session.
            let _ = self.bus.post(wake_message());
        }
    }

    /// Called by a streaming thread with data of `track`. Waits until the tracks are decided and returns whether data of this
    /// track may be sent.
    pub fn admit(&self, track: Track) -> bool {
        let mut state = self.state.lock();
        loop {
            if self.outlet.stopped() {
                return false;
            }
            if let Some(tracks) = state.decided {
                return tracks.has(track) || self.take_in(&mut state, track, tracks);
            }
            let grace = if self.is_synced { GRACE_OF_RECORDING } else { GRACE };
            let clock = self.progress.clock();
            let is_over = state.decides_by.get_or_insert_with(|| Deadline::after(clock, grace)).is_over(clock);
            self.decide(&mut state, is_over);
            if state.decided.is_none() {
                self.changed.wait_for(&mut state, Duration::from_millis(20));
            }
        }
    }

    /// Handles a track that appears after the decision. A live stream adds it with a new run. A recording ignores it, because its
    /// seconds must not depend on timing.
    fn take_in(&self, state: &mut GraphState, track: Track, before: Tracks) -> bool {
        if self.is_synced {
            return false;
        }
        let tracks =
            Tracks { video: before.video || track == Track::Video, audio: before.audio || track == Track::Audio };
        state.decided = Some(tracks);
        // Closed means that the session is ending anyway.
        let _ = self.outlet.send(MediaItem::Discontinuity(Discontinuity::Tracks));
        let _ = self.outlet.send(MediaItem::Opened(tracks));
        true
    }

    /// Whether `track` exists, as far as decided.
    pub fn is_playing(&self, track: Track) -> bool {
        self.state.lock().decided.is_some_and(|tracks| tracks.has(track))
    }

    /// Called after the last data of `track`. The session ends with its last track.
    pub fn end_of_track(&self, track: Track) {
        let mut state = self.state.lock();
        // A track can end before its first data; then the tracks linked now are all.
        self.decide(&mut state, true);
        let Some(tracks) = state.decided else { return };
        if !tracks.has(track) || state.ended.contains(&track) {
            return;
        }
        if track == Track::Video {
            drop(state);
            // Closed means that the session is ending anyway.
            let _ = self.show_still(u64::MAX);
            state = self.state.lock();
        }
        state.ended.push(track);
        if let Some(sync) = self.sync.get() {
            sync.end(track);
        }
        let _ = self.outlet.send(MediaItem::TrackEnded(track));
        if [Track::Video, Track::Audio].into_iter().all(|t| !tracks.has(t) || state.ended.contains(&t)) {
            self.end_with(&mut state, End::Finished);
        }
    }

    /// As [`Graph::deliver`], for a picture that is shown for `duration_ns`: every second of a recording within that time has it.
    ///
    /// # Errors
    /// [`Closed`] if it was not sent and nothing will be.
    pub fn deliver_still(&self, frame: Frame, duration_ns: u64) -> Result<(), Closed> {
        let until_ns = frame.pts.0.saturating_add(duration_ns.min(STILL_MAX_NS));
        self.deliver(Track::Video, MediaItem::Frame(frame.clone()))?;
        if self.is_synced {
            *self.still.lock() = Some(ShownPicture { frame, until_ns });
        }
        Ok(())
    }

    /// Sends the time of a picture that does not come, if pictures of the track were sent before. Errors are those of [`Graph::deliver`].
    pub fn lose_picture(&self, pts: Pts) -> Result<(), Closed> {
        let is_shown = self.is_playing(Track::Video) && self.items.load(Ordering::Relaxed) > 0;
        if is_shown { self.deliver(Track::Video, MediaItem::Lost { pts }) } else { Ok(()) }
    }

    /// Sends the current long picture once for every second that begins before the next picture, at `next_ns`.
    fn show_still(&self, next_ns: u64) -> Result<(), Closed> {
        let Some(still) = self.still.lock().take() else { return Ok(()) };
        let until_ns = still.until_ns.min(next_ns);
        for second in still.frame.pts.second() + 1.. {
            let pts = Pts::from_second(second);
            if pts.0 >= until_ns {
                break;
            }
            self.send_data(Track::Video, MediaItem::Frame(Frame { pts, ..still.frame.clone() }))?;
        }
        Ok(())
    }

    /// Counts and sends a picture or a chunk of sound of `track`, synchronised with the other track if enabled.
    ///
    /// # Errors
    /// [`Closed`] if it was not sent and nothing will be.
    pub fn deliver(&self, track: Track, item: MediaItem) -> Result<(), Closed> {
        if track == Track::Video
            && let Some((_, pts)) = item.track_and_pts()
        {
            self.show_still(pts.0)?;
        }
        self.send_data(track, item)
    }

    fn send_data(&self, track: Track, item: MediaItem) -> Result<(), Closed> {
        let Some((_, Pts(pts_ns))) = item.track_and_pts() else { return self.outlet.send(item) };
        let samples = if let MediaItem::Pcm(chunk) = &item { chunk.frames() as u64 } else { 0 };
        let is_lost = matches!(item, MediaItem::Lost { .. });
        self.progress.decoded(track, pts_ns);
        if let Some(sync) = self.sync.get() {
            let other_wait = || TrackWait::of(self.plays(track.other()), self.has_queued(track.other()));
            sync.wait(track, pts_ns, self.progress.clock(), &|| self.outlet.stopped(), &other_wait);
        }
        let sent = self.progress.sending(|| self.outlet.send(item));
        if let Some(sync) = self.sync.get() {
            sync.done(track, pts_ns);
        }
        sent?;
        if is_lost {
            return Ok(());
        }
        self.items.fetch_add(1, Ordering::Relaxed);
        match track {
            Track::Video => self.counters.frames.fetch_add(1, Ordering::Relaxed),
            Track::Audio => self.counters.samples.fetch_add(samples, Ordering::Relaxed),
        };
        Ok(())
    }

    /// The timeline position of a running time of `track`, ns; [`None`] before its start.
    pub fn on_line(&self, track: Track, running_ns: i64) -> Option<i64> {
        match &self.map {
            Some(map) => Some(map.place(track, running_ns)).filter(|place| track == Track::Audio || *place >= 0),
            None => Some(running_ns),
        }
    }

    /// As [`Graph::on_line`], as a PTS.
    pub fn pts(&self, track: Track, running_ns: u64) -> Option<Pts> {
        let place = self.on_line(track, i64::try_from(running_ns).ok()?)?;
        u64::try_from(place).ok().map(Pts)
    }

    /// The running time of a timeline position of `track`, ns.
    pub fn running_ns(&self, track: Track, line_ns: u64) -> u64 {
        let line = i64::try_from(line_ns).unwrap_or(i64::MAX);
        self.map.as_ref().map_or(line_ns, |map| u64::try_from(map.running_ns(track, line)).unwrap_or(0))
    }

    pub fn set_hdr(&self, hdr: Option<(Hdr, bool)>) {
        *self.hdr.lock() = hdr;
    }

    pub fn hdr(&self) -> Option<(Hdr, bool)> {
        *self.hdr.lock()
    }

    /// Ends the session from a streaming thread.
    pub fn fail(&self, end: End) {
        self.end_with(&mut self.state.lock(), end);
    }

    /// Why the session must end, if it must.
    pub fn verdict(&self) -> Option<End> {
        self.state.lock().verdict.clone()
    }

    /// Whether data of any track wait in the queues before the appsinks.
    pub fn is_queued(&self) -> bool {
        self.branches.iter().any(|branch| self.has_queued(branch.track))
    }

    /// Whether the appsink of `track` plays. Until then it holds its first data back.
    fn plays(&self, track: Track) -> bool {
        self.branches.iter().any(|b| b.track == track && b.sink.current_state() == gst::State::Playing)
    }

    /// Whether data of `track` wait in the queues before its appsink.
    fn has_queued(&self, track: Track) -> bool {
        let Some(branch) = self.branches.iter().find(|b| b.track == track) else { return false };
        let mut pad = branch.sink.static_pad("sink");
        // Bounded, so that a loop cannot hang the program. No sensible path is longer.
        for _ in 0..100 {
            // The path may cross bins: a ghost pad and the pad inside are linked internally, like the pads of an element.
            let Some(above) = pad.and_then(|pad| pad.peer()) else { return false };
            let below = above.iterate_internal_links().into_iter().flatten().next();
            if let Some(element) = above.parent_element() {
                // A multiqueue has a level for each pad, a queue one for itself.
                let in_pad = below.as_ref().map_or(0, |sink| buffers_in(sink.upcast_ref()));
                if in_pad > 0 || buffers_in(element.upcast_ref()) > 0 {
                    return true;
                }
            }
            pad = below;
        }
        false
    }

    /// Whether any data were sent.
    pub fn has_data(&self) -> bool {
        self.items.load(Ordering::Relaxed) > 0
    }

    /// Sets the sinks to playing individually. If an element failed before the pipeline was playing, the pipeline never reaches that
    /// state, and paused sinks hold back the data of the other track.
    pub fn play_sinks(&self) {
        for branch in &self.branches {
            if branch.sink.set_state(gst::State::Playing).is_err() {
                tracing::debug!(track = ?branch.track, "the sink does not play");
            }
        }
    }

    /// Wakes waiting threads at the end of the session.
    pub fn release(&self) {
        self.changed.notify_all();
    }
}

/// Whether `element` has source pads that appear only while it runs.
fn adds_pads_later(element: &gst::Element) -> bool {
    element
        .pad_template_list()
        .iter()
        .any(|t| t.direction() == gst::PadDirection::Src && t.presence() == gst::PadPresence::Sometimes)
}

/// Walks upstream from `element`. `Ok`: the path ends at a source. `Err`: it ends at this unlinked pad.
fn head(element: &gst::Element) -> Result<(), Option<gst::Pad>> {
    let mut element = element.clone();
    // Bounded, so that a loop cannot hang the program. No sensible branch is longer.
    for _ in 0..100 {
        let Some(sink) = element.pads().into_iter().find(|p| p.direction() == gst::PadDirection::Sink) else {
            return Ok(());
        };
        let Some(peer) = sink.peer() else { return Err(Some(sink)) };
        let Some(parent) = peer.parent_element() else { return Err(None) };
        element = parent;
    }
    Err(None)
}

/// Number of buffers in a queue; 0 for other objects.
fn buffers_in(object: &gst::Object) -> u64 {
    if !object.has_property("current-level-buffers") {
        return 0;
    }
    // Queues count in 32 bits, an appsrc in 64.
    let level = object.property_value("current-level-buffers");
    level.get::<u32>().map(u64::from).or_else(|_| level.get::<u64>()).unwrap_or(0)
}
