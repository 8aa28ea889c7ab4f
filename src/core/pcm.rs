//! A chunk of decoded sound.

use super::pool::Pooled;
use crate::time::Pts;

/// Interleaved f32 samples (nominal range −1..1) at the stream's own rate and channel count.
#[derive(Debug)]
pub struct PcmChunk {
    /// `frames * channels` values.
    pub data: Pooled<f32>,
    /// Hz.
    pub rate: u32,
    /// Number of channels.
    pub channels: u16,
    /// PTS of the first sample.
    pub pts: Pts,
    /// Monotonic clock when the decoder handed the samples over, ns.
    pub arrived_ns: u64,
}

impl PcmChunk {
    /// A chunk of `data.len() / channels` sample frames.
    ///
    /// # Panics
    /// If rate or channels is 0, or `data` is not a whole number of sample frames.
    pub fn new(data: Pooled<f32>, rate: u32, channels: u16, pts: Pts, arrived_ns: u64) -> Self {
        assert!(rate > 0 && channels > 0, "PCM has a rate and channels");
        assert_eq!(data.len() % usize::from(channels), 0, "PCM is a whole number of sample frames");
        Self { data, rate, channels, pts, arrived_ns }
    }

    /// Number of samples per channel.
    pub fn frames(&self) -> usize {
        self.data.len() / usize::from(self.channels)
    }
}
