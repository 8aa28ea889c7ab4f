//! Records the coded units in front of the decoders of one connection.
//!
//! The streaming threads hand over references to buffers and never wait. The thread `ring/<id>` writes them. A unit that does not fit
//! into the queue is lost for the ring and counted, and the stream is decoded as before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

use super::super::unit::{Unit, track_of};
use super::format::RingWriter;
use super::{RingFile, RingOptions, remove_oldest};
use crate::gst::graph::Graph;
use crate::gst::sinks::running_time;
use crate::outlet::Counters;
use touchline_core::clock::Clock;
use touchline_core::item::Track;
use touchline_core::threads::spawn;
use touchline_core::time::NANOS_PER_SECOND;

/// Units between the streaming threads and the writer: about ten seconds of pictures and sound. A disk that hangs for longer is broken.
const QUEUE: usize = 1024;

/// The shortest file, ns of stream time. Whole files are removed, and a stream has one file open.
const FILE_NS: i64 = 4 * NANOS_PER_SECOND as i64;

/// The longest file, for streams without key pictures.
const FILE_MAX_NS: i64 = 60 * NANOS_PER_SECOND as i64;

/// The tap of one connection.
#[derive(Debug)]
pub(in crate::gst) struct RingTap {
    to: Sender<(Unit, u64)>,
    /// The tracks whose decoder was found.
    taken: [AtomicBool; 2],
}

impl RingTap {
    /// Starts the writer. It ends when the tap and its probes are dropped. [`None`] if the ring cannot be written, which is logged.
    pub fn start(options: &RingOptions, id: &str, clock: Arc<dyn Clock>, counters: Arc<Counters>) -> Option<Arc<Self>> {
        let dir = options.dir(id);
        let (to, units) = bounded(QUEUE);
        let writer = Writer {
            root: options.root.clone(),
            connection_ns: u64::try_from(clock.unix_ns()).unwrap_or(0),
            dir,
            clock,
            counters,
            file: None,
            begun_ns: 0,
            formats: [None, None],
            tags: [None, None],
            waits_for_key: false,
            has_failed: false,
        };
        if let Err(e) = std::fs::create_dir_all(&writer.dir) {
            tracing::error!(
                "{id}: its media are not recorded: {}: {e}; check the folder and its permissions",
                writer.dir.display()
            );
            return None;
        }
        spawn(&format!("ring/{id}"), move || writer.run(&units))
            .inspect_err(|e| tracing::error!("{id}: its media are not recorded: {e}"))
            .ok()?;
        Some(Arc::new(Self { to, taken: Default::default() }))
    }

    /// Records what reaches `decoder`, if it is the first of its track.
    pub fn connect(self: &Arc<Self>, decoder: &gst::Element, graph: &Arc<Graph>) {
        let Some(pad) = decoder.static_pad("sink") else { return };
        let (tap, graph) = (self.clone(), Arc::downgrade(graph));
        let state = Mutex::new(PadState::default());
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            let mut state = state.lock();
            match &info.data {
                Some(gst::PadProbeData::Event(event)) => state.event(event, &tap.taken),
                Some(gst::PadProbeData::Buffer(buffer)) => {
                    if let Some(graph) = graph.upgrade() {
                        state.buffer(buffer, &graph, &tap.to);
                    }
                }
                _ => {}
            }
            gst::PadProbeReturn::Ok
        });
    }
}

/// What the probe of one decoder knows.
#[derive(Default)]
struct PadState {
    /// The track, if this decoder is its first.
    track: Option<Track>,
    caps: Option<gst::Caps>,
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
    tags: Option<gst::TagList>,
}

impl PadState {
    fn event(&mut self, event: &gst::Event, taken: &[AtomicBool; 2]) {
        match event.view() {
            gst::EventView::Caps(caps) => {
                if self.caps.is_none() {
                    let track = track_of(caps.caps());
                    self.track = track.filter(|track| !taken[track.index()].swap(true, Ordering::Relaxed));
                }
                self.caps = Some(caps.caps_owned());
            }
            gst::EventView::Segment(segment) => self.segment = segment.segment().clone().downcast().ok(),
            gst::EventView::Tag(tag) => {
                let tags = tag.tag_owned();
                self.tags = Some(match self.tags.take() {
                    Some(known) => known.merge(&tags, gst::TagMergeMode::Replace),
                    None => tags,
                });
            }
            _ => {}
        }
    }

    fn buffer(&self, buffer: &gst::Buffer, graph: &Graph, to: &Sender<(Unit, u64)>) {
        let (Some(track), Some(caps), Some(segment)) = (self.track, &self.caps, &self.segment) else { return };
        // A unit without a time has no place in a clip.
        let Some(running_ns) = running_time(segment, buffer) else { return };
        let Some(pts_ns) = graph.on_line(track, running_ns) else { return };
        let unit = Unit::new(track, pts_ns, buffer.clone(), caps.clone(), self.tags.clone());
        if to.try_send((unit, graph.progress.clock().mono_ns())).is_err() {
            graph.counters.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes the files of one connection.
struct Writer {
    root: PathBuf,
    dir: PathBuf,
    connection_ns: u64,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    file: Option<RingWriter>,
    /// PTS of the file's first unit, ns.
    begun_ns: i64,
    formats: [Option<gst::Caps>; 2],
    tags: [Option<gst::TagList>; 2],
    /// The file before could not be written: the next begins with a key picture.
    waits_for_key: bool,
    /// A failure is logged once until something is written again.
    has_failed: bool,
}

impl Writer {
    fn run(mut self, units: &Receiver<(Unit, u64)>) {
        loop {
            let next = match units.try_recv() {
                Err(TryRecvError::Empty) => {
                    // Readers see what was written when nothing waits.
                    let flushed = self.file.as_mut().map_or(Ok(()), RingWriter::flush);
                    self.check(flushed);
                    units.recv().ok()
                }
                next => next.ok(),
            };
            let Some((unit, arrived_ns)) = next else { break };
            let written = self.write(&unit, arrived_ns);
            // A unit is also lost while no file is open.
            if written.is_err() || self.file.is_none() {
                self.counters.unrecorded.fetch_add(1, Ordering::Relaxed);
            }
            self.check(written);
        }
        let flushed = self.file.as_mut().map_or(Ok(()), RingWriter::flush);
        self.check(flushed);
    }

    fn write(&mut self, unit: &Unit, arrived_ns: u64) -> std::io::Result<()> {
        let track = unit.track.index();
        let is_changed = self.formats[track].as_ref() != Some(&unit.caps) || self.tags[track] != unit.tags;
        if is_changed {
            self.formats[track] = Some(unit.caps.clone());
            self.tags[track].clone_from(&unit.tags);
        }
        let begins = match &self.file {
            _ if self.waits_for_key && self.formats[0].is_some() => unit.track == Track::Video && unit.is_key,
            None => true,
            Some(_) => {
                let length_ns = unit.pts_ns.saturating_sub(self.begun_ns);
                // Without pictures every unit is a key.
                let is_key = unit.is_key && (unit.track == Track::Video || self.formats[0].is_none());
                let is_due = !(0..=FILE_NS).contains(&length_ns);
                is_key && is_due || length_ns > FILE_MAX_NS
            }
        };
        if begins {
            self.begin(unit)?;
        } else if let Some(file) = self.file.as_mut().filter(|_| is_changed) {
            describe(file, unit.track, &unit.caps, unit.tags.as_ref())?;
        }
        match &mut self.file {
            Some(file) => file.unit(unit, arrived_ns),
            None => Ok(()),
        }
    }

    /// Begins a file with the formats that are known.
    fn begin(&mut self, unit: &Unit) -> std::io::Result<()> {
        if let Some(mut file) = self.file.take() {
            file.flush()?;
        }
        // Names must differ and keep their order, even if the clock is set back.
        let newest_ns = newest_ns(&self.dir);
        let begun_ns = u64::try_from(self.clock.unix_ns()).unwrap_or(0).max(newest_ns.saturating_add(1));
        let mut file = RingWriter::create(&RingFile::new(&self.dir, self.connection_ns, begun_ns).path)?;
        for track in [Track::Video, Track::Audio] {
            if let Some(caps) = &self.formats[track.index()] {
                describe(&mut file, track, caps, self.tags[track.index()].as_ref())?;
            }
        }
        (self.file, self.begun_ns, self.waits_for_key, self.has_failed) = (Some(file), unit.pts_ns, false, false);
        Ok(())
    }

    /// Gives up the file after an error. When the disk is full, the oldest media of all streams make room.
    fn check(&mut self, result: std::io::Result<()>) {
        let Err(e) = result else { return };
        self.file = None;
        self.waits_for_key = true;
        let is_full = matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let has_room = is_full && remove_oldest(&self.root);
        if !has_room && !std::mem::replace(&mut self.has_failed, true) {
            tracing::error!("{}: cannot record: {e}; free space, or lower the limits of [record]", self.dir.display());
        }
    }
}

fn newest_ns(dir: &Path) -> u64 {
    super::files(dir).ok().and_then(|files| files.last().map(|file| file.begun_ns)).unwrap_or(0)
}

fn describe(
    file: &mut RingWriter,
    track: Track,
    caps: &gst::CapsRef,
    tags: Option<&gst::TagList>,
) -> std::io::Result<()> {
    file.format(track, caps)?;
    tags.map_or(Ok(()), |tags| file.tags(track, tags))
}
