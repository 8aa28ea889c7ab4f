//! The audio track of a run: downmixes, resamples, and puts every sample on the grid of seconds.
//!
//! Time is counted in samples. A *segment* starts at an anchor, the PTS of its first sample; after that, PTS is only
//! compared with the count, so that jitter neither inserts nor drops a sample. When the two differ by more than
//! [`RESYNC_NS`], sound was lost or repeated (or the sender's clock has drifted that far): a new segment starts after a
//! hole, or the repeated samples are dropped.
//!
//! Output samples lie on one grid of `rate` slots a second that starts at PTS 0. Output sample `k` of a segment takes
//! slot `ceil(anchor * rate) + k`, which is in second `n` exactly when `n s <= anchor + k / rate < n + 1 s`; so every
//! full second holds exactly `rate` samples, and no sample is off its time by more than one slot.

use super::resample::{SAMPLE_RATES, StreamResampler};
use crate::pcm::PcmChunk;
use crate::time::{NANOS_PER_SECOND, nanos_to_samples, samples_to_nanos};

/// How far PTS may differ from the count before the count is corrected, ns: well above the jitter of RTP and the rounding of
/// MPEG-TS, well below an audible offset from the pictures.
pub(super) const RESYNC_NS: u64 = 100_000_000;

/// Larger values are invalid (the nominal range is −1..1) and would spread through the filter.
const LOUDEST: f32 = 1e6;

/// The result of a pushed chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChunkOutcome {
    /// Time of the first sample that was taken, by the count, ns.
    pub from_ns: u64,
    /// Time after the last sample that was taken; equal to `from_ns` when none was.
    pub to_ns: u64,
    /// Samples per channel that repeat earlier ones and were dropped.
    pub repeated: u64,
    /// Samples per channel that were invalid and became silence.
    pub unusable: u64,
}

/// Sound between two holes.
#[derive(Debug)]
struct SoundSegment {
    anchor_ns: u64,
    /// Samples per channel taken since the anchor, at the input rate.
    taken: u64,
}

/// Puts the chunks of one run on the grid.
#[derive(Debug)]
pub(super) struct AudioGrid {
    rate: u32,
    resampler: Option<StreamResampler>,
    segment: Option<SoundSegment>,
    /// Grid slot that the next output sample takes.
    next_slot: u64,
    /// Set while repeated samples are dropped, until PTS reaches the count again.
    catching_up: bool,
    mono: Vec<f32>,
    output: Vec<f32>,
}

impl AudioGrid {
    /// `rate`: Hz of the grid, in [`SAMPLE_RATES`].
    pub fn new(rate: u32) -> Self {
        Self {
            rate,
            resampler: None,
            segment: None,
            next_slot: 0,
            catching_up: false,
            mono: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Whether a chunk can be used at all.
    pub fn is_usable(chunk: &PcmChunk) -> bool {
        chunk.channels > 0 && SAMPLE_RATES.contains(&chunk.rate)
    }

    /// Hz of the last chunk, or of the grid before the first.
    pub fn rate_in(&self) -> u32 {
        self.resampler.as_ref().map_or(self.rate, StreamResampler::rate_in)
    }

    /// Time up to which the output is complete, ns; holes count as complete.
    pub fn position_ns(&self) -> u64 {
        samples_to_nanos(self.next_slot, self.rate)
    }

    /// Takes a usable chunk. Passes the output to `sink` as (first slot, samples), in ascending order.
    pub fn push(&mut self, chunk: &PcmChunk, sink: &mut impl FnMut(u64, &[f32])) -> ChunkOutcome {
        let pts = chunk.pts.0;
        let mut drop_frames = 0;
        if let Some(expected) = self.expected_ns() {
            if pts > expected.saturating_add(RESYNC_NS) {
                self.flush(sink);
            } else if pts.saturating_add(RESYNC_NS) < expected || (self.catching_up && pts < expected) {
                // Rounded to nearest: an overlap of less than half a sample is ignored.
                drop_frames = nanos_to_samples(expected - pts, chunk.rate).min(chunk.frames() as u64);
                self.catching_up = drop_frames == chunk.frames() as u64;
            } else {
                self.catching_up = false;
            }
        }
        self.follow_rate(chunk.rate, sink);
        if self.segment.is_none() {
            let slot = (u128::from(pts) * u128::from(self.rate)).div_ceil(u128::from(NANOS_PER_SECOND)) as u64;
            self.next_slot = self.next_slot.max(slot);
            self.segment = Some(SoundSegment { anchor_ns: pts, taken: 0 });
            self.catching_up = false;
        }

        let from_ns = self.expected_ns().unwrap_or(pts);
        let unusable = self.downmix(chunk, drop_frames as usize);
        if let Some(segment) = &mut self.segment {
            segment.taken += self.mono.len() as u64;
        }
        if let Some(resampler) = &mut self.resampler {
            resampler.push(&self.mono, &mut self.output);
        }
        self.deliver(sink);
        ChunkOutcome { from_ns, to_ns: self.expected_ns().unwrap_or(from_ns), repeated: drop_frames, unusable }
    }

    /// Ends the segment and flushes the filter. The next chunk sets a new anchor.
    pub fn flush(&mut self, sink: &mut impl FnMut(u64, &[f32])) {
        if self.segment.take().is_some() {
            if let Some(resampler) = &mut self.resampler {
                resampler.finish(&mut self.output);
            }
            self.deliver(sink);
        }
    }

    /// Time of the next sample by the count, ns.
    fn expected_ns(&self) -> Option<u64> {
        let segment = self.segment.as_ref()?;
        Some(segment.anchor_ns + samples_to_nanos(segment.taken, self.rate_in()))
    }

    /// Creates a new resampler when the input rate changes. The count continues where the old one ended.
    fn follow_rate(&mut self, rate_in: u32, sink: &mut impl FnMut(u64, &[f32])) {
        if self.resampler.as_ref().is_some_and(|r| r.rate_in() == rate_in) {
            return;
        }
        let expected = self.expected_ns();
        self.flush(sink);
        self.segment = expected.map(|anchor_ns| SoundSegment { anchor_ns, taken: 0 });
        self.resampler = StreamResampler::new(rate_in, self.rate);
    }

    /// Puts the mean of the channels into `mono`, without the first `skip` sample frames; returns how many sample
    /// frames were invalid.
    ///
    /// A plain mean for any channel count: a chunk has no channel layout, so centre and LFE cannot be weighted differently.
    fn downmix(&mut self, chunk: &PcmChunk, skip: usize) -> u64 {
        let channels = usize::from(chunk.channels);
        let scale = 1.0 / f32::from(chunk.channels);
        self.mono.clear();
        let mut unusable = 0;
        for frame in chunk.data.chunks_exact(channels).skip(skip) {
            let value = frame.iter().sum::<f32>() * scale;
            let is_sound = value.is_finite() && value.abs() <= LOUDEST;
            unusable += u64::from(!is_sound);
            self.mono.push(if is_sound { value } else { 0.0 });
        }
        unusable
    }

    fn deliver(&mut self, sink: &mut impl FnMut(u64, &[f32])) {
        if !self.output.is_empty() {
            sink(self.next_slot, &self.output);
            self.next_slot += self.output.len() as u64;
            self.output.clear();
        }
    }
}
