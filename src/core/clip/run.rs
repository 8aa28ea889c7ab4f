//! The seconds of one run: collects frames and samples, and closes seconds.
//!
//! [`super::builder`] assigns items to runs.

use std::collections::BTreeMap;

use super::sampling::{PendingFrame, SampledFrames};
use super::sound::AudioGrid;
use super::{Absent, ClipConfig, ClipOutput, ClipSecond, FrameShare, Gap, GapReason};
use crate::item::Track;
use crate::pcm::PcmChunk;
use crate::tier::{DecodeTier, SharedTier};
use crate::time::{NANOS_PER_SECOND, Pts, RunId, WallTime, nanos_to_samples};

/// The most frames of a second that are kept before sampling: twice the fastest broadcast rate. More result only from broken time
/// stamps and would need unbounded memory.
pub(super) const FRAMES_PER_SECOND_MAX: usize = 256;

/// A last second with less data than this is not output, ns: recordings are a frame or two longer than stated.
const TAIL_NS: u64 = NANOS_PER_SECOND / 10;

/// Empty lists kept for later seconds. Usually two seconds are open at a time.
const SPARE_MAX: usize = 2;

/// The wall time of a PTS.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallReference {
    pub pts: Pts,
    pub wall: WallTime,
}

impl WallReference {
    fn at(&self, pts: Pts) -> WallTime {
        self.wall.moved(i128::from(pts.0) - i128::from(self.pts.0))
    }
}

/// Properties of the stream that a run needs to close seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamInfo {
    /// Which tracks exist, by [`Track::index`].
    pub exists: [bool; 2],
    pub wall: Option<WallReference>,
}

pub(super) const TRACKS: [Track; 2] = [Track::Video, Track::Audio];

/// A second that is not closed yet.
#[derive(Debug, Default)]
struct OpenSecond {
    /// All pictures until the video track has passed the end of the second, in PTS order.
    open: Vec<PendingFrame>,
    /// The sampled frames, after that.
    chosen: Option<SampledFrames>,
    seen: u32,
    /// Samples on the grid; silence where none was written. Empty before the first sample.
    audio: Vec<f32>,
    audio_present: u32,
    arrived_ns: u64,
}

/// Progress of one track within the run.
#[derive(Clone, Copy, Debug, Default)]
struct TrackProgress {
    /// Video: latest PTS. Audio: time up to which sound is complete. ns; `None` before the first data.
    head: Option<u64>,
    /// Video: display duration of the latest picture, estimated from the distance to the one before, ns.
    span: u64,
    ended: bool,
}

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    id: RunId,
    config: ClipConfig,
    tier: SharedTier,
    /// PTS of the first data, ns.
    start: u64,
    slots: BTreeMap<u64, OpenSecond>,
    /// The next second to output; `None` before the first.
    next: Option<u64>,
    progress: [TrackProgress; 2],
    sound: Option<AudioGrid>,
    /// Counts of discarded data, by the second before which they are output.
    discards: BTreeMap<u64, [u64; 2]>,
    /// Ended tracks, with the second after which the end is output.
    ends: Vec<(u64, Track)>,
    /// Empty lists of earlier seconds, for reuse.
    spare: Vec<Vec<PendingFrame>>,
}

impl Run {
    /// `next`: the first second that is not output yet, for a run that continues another.
    pub fn new(id: RunId, config: &ClipConfig, tier: SharedTier, start: Pts, next: Option<u64>) -> Self {
        Self {
            id,
            config: config.clone(),
            tier,
            start: start.0,
            slots: BTreeMap::new(),
            next: next.filter(|next| Pts(start.0).second() < *next),
            progress: [TrackProgress::default(); 2],
            sound: config.sample_rate.map(AudioGrid::new),
            discards: BTreeMap::new(),
            ends: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Takes a picture of this run's timeline.
    pub fn push_picture(&mut self, picture: PendingFrame, arrived_ns: u64) {
        let pts = picture.pts();
        let second = Pts(pts).second();
        let reached = self.advance_pictures(pts);
        if second < reached || self.next.is_some_and(|next| second < next) {
            return self.discard(Track::Video, 1);
        }
        let slot = self.slots.entry(second).or_default();
        if slot.seen == 0 {
            slot.open = self.spare.pop().unwrap_or_default();
        }
        slot.seen = slot.seen.saturating_add(1);
        slot.arrived_ns = slot.arrived_ns.max(arrived_ns);
        if slot.open.len() >= FRAMES_PER_SECOND_MAX {
            return self.discard(Track::Video, 1);
        }
        let place = slot.open.partition_point(|seen| seen.pts() <= pts);
        slot.open.insert(place, picture);
    }

    /// Takes the time of a picture that cannot be decoded, so that its second is output as a gap.
    pub fn pass_picture(&mut self, pts: Pts) {
        let reached = self.advance_pictures(pts.0);
        if pts.second() >= reached && self.next.is_none_or(|next| pts.second() >= next) {
            self.slots.entry(pts.second()).or_default();
        }
    }

    /// Advances the video track to `pts`. Returns the second it had reached before.
    fn advance_pictures(&mut self, pts: u64) -> u64 {
        let second = Pts(pts).second();
        self.start = self.start.min(pts);
        let TrackProgress { head, span, .. } = &mut self.progress[0];
        let reached = head.map_or(second, |h| Pts(h).second());
        if let Some(before) = head.filter(|before| *before < pts) {
            *span = pts - before;
        }
        *head = Some(head.map_or(pts, |h| h.max(pts)));
        if second > reached {
            self.choose_before(second);
        }
        reached
    }

    /// Takes usable sound of this run's timeline.
    pub fn push_sound(&mut self, chunk: &PcmChunk) {
        let Some(mut sound) = self.sound.take() else { return };
        self.start = self.start.min(chunk.pts.0);
        let taken = sound.push(chunk, &mut |slot, samples| self.write(slot, samples));
        self.progress[1].head = Some(sound.position_ns());
        self.sound = Some(sound);

        let closed_ns = self.next.unwrap_or(0).saturating_mul(NANOS_PER_SECOND);
        let late_ns = taken.to_ns.min(closed_ns).saturating_sub(taken.from_ns);
        self.discard(Track::Audio, taken.repeated + taken.unusable + nanos_to_samples(late_ns, chunk.rate));
        if taken.to_ns > taken.from_ns {
            for second in Pts(taken.from_ns.max(closed_ns)).second()..=Pts(taken.to_ns - 1).second() {
                let slot = self.slots.entry(second).or_default();
                slot.arrived_ns = slot.arrived_ns.max(chunk.arrived_ns);
            }
        }
    }

    /// Counts discarded data. The count is output with the second that its track has reached, so that it does not depend on the
    /// progress of the other track.
    pub fn discard(&mut self, track: Track, count: u64) {
        if count > 0 {
            let index = track.index();
            let second = Pts(self.progress[index].head.unwrap_or(self.start)).second();
            self.discards.entry(second).or_default()[index] += count;
        }
    }

    /// Ends the track in this run.
    pub fn end_track(&mut self, track: Track, out: &mut Vec<ClipOutput>) {
        self.complete(track);
        let last = match (track, self.progress[track.index()].head) {
            (_, None) => None,
            (Track::Video, Some(head)) => Some(Pts(head).second()),
            (Track::Audio, Some(head)) => Some(Pts(head.saturating_sub(1)).second()),
        };
        match last {
            Some(second) if self.next.is_none_or(|next| second >= next) => self.ends.push((second, track)),
            _ => out.push(ClipOutput::TrackEnded(track)),
        }
    }

    /// Moves over an interval without data.
    pub fn pass_over(&mut self, from: u64, to: u64, stream: &StreamInfo) {
        self.start = self.start.min(from);
        self.choose_before(Pts(to).second());
        for (progress, exists) in self.progress.iter_mut().zip(stream.exists) {
            if exists && !progress.ended {
                progress.head = Some(progress.head.map_or(to, |head| head.max(to)));
            }
        }
        // Seconds are output up to the last one with a slot: create slots for the first and the last second of the hole.
        for second in [Pts(from).second(), Pts(to - 1).second()] {
            if self.next.is_none_or(|next| second >= next) {
                self.slots.entry(second).or_default();
            }
        }
    }

    /// Outputs every second that is complete or has reached the lag limits.
    pub fn close(&mut self, stream: &StreamInfo, out: &mut Vec<ClipOutput>) {
        self.close_until(false, stream, out);
    }

    fn close_until(&mut self, is_over: bool, stream: &StreamInfo, out: &mut Vec<ClipOutput>) {
        while let Some((&last, _)) = self.slots.last_key_value() {
            let index = self.next.unwrap_or_else(|| *self.slots.keys().next().unwrap_or(&last));
            if index > last || !self.is_closable(index, stream) {
                break;
            }
            let is_tail = index == last && self.is_tail(index);
            if is_tail && !is_over {
                break;
            }
            self.emit_discards(index, out);
            self.emit_second(index, is_tail, stream, out);
            self.next = Some(index + 1);
            self.emit_ends(index, out);
        }
        self.emit_late_discards(out);
    }

    /// Ends the run and outputs all remaining seconds. Returns the first second that was not output.
    ///
    /// With `is_shared`, another run continues on the same timeline. A second that both share is output once, by the run that has
    /// more of it.
    pub fn finish(mut self, is_shared: bool, stream: &StreamInfo, out: &mut Vec<ClipOutput>) -> Option<u64> {
        for track in TRACKS {
            self.complete(track);
        }
        let reach = self.progress.iter().filter_map(|progress| progress.head).max().unwrap_or(self.start);
        if is_shared && reach % NANOS_PER_SECOND < NANOS_PER_SECOND / 2 {
            let last = self.slots.split_off(&Pts(reach).second());
            let pictures = last.values().map(|slot| u64::from(slot.seen)).sum();
            self.discard(Track::Video, pictures);
        }
        self.close_until(true, stream, out);
        self.emit_discards(u64::MAX, out);
        self.emit_ends(u64::MAX, out);
        self.next
    }

    /// Ends a track: samples its last frames and flushes its sound.
    fn complete(&mut self, track: Track) {
        match track {
            Track::Video => self.choose_before(u64::MAX),
            Track::Audio => {
                if let Some(mut sound) = self.sound.take() {
                    sound.flush(&mut |slot, samples| self.write(slot, samples));
                    if let Some(head) = &mut self.progress[1].head {
                        *head = sound.position_ns();
                    }
                    self.sound = Some(sound);
                }
            }
        }
        self.progress[track.index()].ended = true;
    }

    /// Puts samples on the grid and drops those of closed seconds.
    fn write(&mut self, first: u64, samples: &[f32]) {
        let rate = u64::from(self.config.sample_rate.unwrap_or(1));
        let (mut at, mut rest) = (first, samples);
        while !rest.is_empty() {
            let (second, offset) = (at / rate, (at % rate) as usize);
            let (piece, tail) = rest.split_at(rest.len().min(rate as usize - offset));
            if self.next.is_none_or(|next| second >= next) {
                let slot = self.slots.entry(second).or_default();
                slot.audio.resize(rate as usize, 0.0);
                slot.audio[offset..offset + piece.len()].copy_from_slice(piece);
                slot.audio_present = slot.audio_present.saturating_add(piece.len() as u32);
            }
            at += piece.len() as u64;
            rest = tail;
        }
    }

    /// Samples the seconds before `second`, which the video track has passed.
    fn choose_before(&mut self, second: u64) {
        let plan = self.config.plan.in_tier(self.tier.get());
        // From the latest back: all seconds before a sampled one are sampled already.
        for (&index, slot) in self.slots.range_mut(..second).rev() {
            if slot.chosen.is_some() {
                break;
            }
            let mut open = std::mem::take(&mut slot.open);
            slot.chosen = Some(plan.choose(Pts::from_second(index), &mut open));
            if open.capacity() > 0 && self.spare.len() < SPARE_MAX {
                self.spare.push(open);
            }
        }
    }

    fn is_closable(&self, index: u64, stream: &StreamInfo) -> bool {
        let end = (index + 1).saturating_mul(NANOS_PER_SECOND);
        TRACKS.iter().all(|&track| {
            let (this, other) = (track.index(), track.other().index());
            let progress = self.progress[this];
            let waits_for_it = (stream.exists[this] || progress.head.is_some()) && !progress.ended;
            let is_past = progress.head.is_some_and(|head| head >= end);
            let behind = |ahead: u64| ahead.saturating_sub(progress.head.unwrap_or(self.start));
            let given_up = self.progress[other]
                .head
                .is_some_and(|ahead| ahead >= end && behind(ahead) >= self.config.lag.with(track));
            !waits_for_it || is_past || given_up
        })
    }

    /// Whether the tracks ended in second `index` with too little data: no frame and less than half of the sound, or, if seconds were
    /// output before, nothing after its first tenth. Such a second is neither output nor a gap.
    fn is_tail(&self, index: u64) -> bool {
        let end = (index + 1).saturating_mul(NANOS_PER_SECOND);
        let broke_off = |p: &TrackProgress| p.head.is_none_or(|head| p.ended && head < end);
        let begun = index.saturating_mul(NANOS_PER_SECOND).saturating_add(TAIL_NS);
        let is_begun_only = |p: &TrackProgress| p.head.is_none_or(|head| head.saturating_add(p.span) < begun);
        self.progress.iter().all(broke_off)
            && ((self.next.is_some() && self.progress.iter().all(is_begun_only))
                || self.slots.get(&index).is_none_or(|slot| !self.is_usable(slot)))
    }

    fn is_usable(&self, slot: &OpenSecond) -> bool {
        slot.seen > 0 || self.has_sound(slot)
    }

    fn has_sound(&self, slot: &OpenSecond) -> bool {
        self.config.sample_rate.is_some_and(|rate| u64::from(slot.audio_present) * 2 >= u64::from(rate))
    }

    /// Outputs second `index`. Of a tail, only counts the data.
    fn emit_second(&mut self, index: u64, is_tail: bool, stream: &StreamInfo, out: &mut Vec<ClipOutput>) {
        let mut slot = self.slots.remove(&index).unwrap_or_default();
        let start = Pts::from_second(index);
        let rate = self.config.sample_rate.unwrap_or(0);
        if is_tail {
            let rate_in = self.sound.as_ref().map_or(rate, AudioGrid::rate_in);
            if slot.seen > 0 {
                out.push(ClipOutput::Discarded { track: Track::Video, count: u64::from(slot.seen) });
            }
            let count = u64::from(slot.audio_present) * u64::from(rate_in) / u64::from(rate.max(1));
            if count > 0 {
                out.push(ClipOutput::Discarded { track: Track::Audio, count });
            }
            return;
        }
        if !self.is_usable(&slot) {
            out.push(ClipOutput::Gap(Gap::new(self.id, index, GapReason::NoMedia)));
            return;
        }
        let has_sound = self.has_sound(&slot);
        let tier = self.tier.get();
        let plan = self.config.plan.in_tier(tier);
        let SampledFrames { frames, rgb, pairs } = match slot.chosen {
            Some(chosen) => chosen,
            None => plan.choose(start, &mut slot.open),
        };
        if tier == DecodeTier::Key && frames.is_empty() && slot.seen > 0 {
            out.push(ClipOutput::Gap(Gap::new(self.id, index, GapReason::NotDecoded)));
            return;
        }
        let absent = |track: usize| if stream.exists[track] { Absent::NoData } else { Absent::NoTrack };
        out.push(ClipOutput::Second(ClipSecond {
            run: self.id,
            index,
            frame_share: FrameShare::ALL,
            tier,
            frames_seen: slot.seen,
            audio: has_sound.then_some(slot.audio),
            audio_missing: rate.saturating_sub(slot.audio_present),
            rgb_absent: rgb.is_empty().then(|| if plan.rgb_frames == 0 { Absent::NoTrack } else { absent(0) }),
            flow_absent: pairs.is_empty().then(|| match (plan.flow_pairs, slot.seen) {
                (0, _) => Absent::NoTrack,
                (_, 0) => absent(0),
                _ => Absent::NoPairs,
            }),
            audio_absent: (!has_sound).then(|| if rate == 0 { Absent::NoTrack } else { absent(1) }),
            frames,
            rgb,
            pairs,
            wall: stream.wall.map(|reference| reference.at(start)),
            // The builder knows it.
            timecode: None,
            arrived_ns: slot.arrived_ns,
            behind_ns: self.config.behind_ns,
        }));
    }

    /// Outputs the counts of seconds up to `index`.
    fn emit_discards(&mut self, index: u64, out: &mut Vec<ClipOutput>) {
        while let Some(entry) = self.discards.first_entry()
            && *entry.key() <= index
        {
            for (track, count) in TRACKS.into_iter().zip(entry.remove()) {
                if count > 0 {
                    out.push(ClipOutput::Discarded { track, count });
                }
            }
        }
    }

    /// Outputs the ends of tracks whose last data are in seconds up to `index`.
    fn emit_ends(&mut self, index: u64, out: &mut Vec<ClipOutput>) {
        // The order must not depend on which end arrived first.
        self.ends.sort_by_key(|&(second, track)| (second, track.index()));
        let due = self.ends.partition_point(|&(second, _)| second <= index);
        out.extend(self.ends.drain(..due).map(|(_, track)| ClipOutput::TrackEnded(track)));
    }

    /// Outputs the counts of seconds that are closed already.
    fn emit_late_discards(&mut self, out: &mut Vec<ClipOutput>) {
        if let Some(before) = self.next.and_then(|next| next.checked_sub(1)) {
            self.emit_discards(before, out);
        }
    }
}
