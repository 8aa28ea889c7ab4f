//! Frames and PCM in, whole seconds out: a pure state machine, without threads and without a clock.
//!
//! Seconds lie on the grid of running time: second `n` holds what has `n s <= PTS < n+1 s`, in integers. Within a run
//! every second from the first data on is said once and in order, as a [`ClipSecond`] or, when it has no frame and less
//! than half its sound, as a [`Gap`]. Only the last second of a run may be missing: when the run broke off in it with so
//! little, or within its first tenth, its data are counted in [`ClipOutput::Discarded`].
//!
//! A second is closed when every track has passed its end or has ended, or when one track has passed it and is ahead of
//! the other by the [`LagLimits`]. What then still arrives for it is discarded, and counted. The result depends on the
//! PTS of the data only, not on how the two tracks are interleaved, as long as the patience is not exhausted.
//!
//! `builder` decides which run an item belongs to, with `timeline` for where a track is on its line; `run` holds the
//! open seconds, `sampling` says which frames are kept, `thin` says so before they are converted, `sound` puts samples on the grid, [`resample`] changes rates.

mod builder;
pub mod resample;
mod run;
mod sampling;
mod selector;
mod share;
mod sound;
mod timeline;

use serde::{Deserialize, Serialize};

use crate::frame::Frame;
use crate::item::{Discontinuity, End, Pace, Track, Tracks};
use crate::time::{Pts, RunId, WallTime};

pub use builder::{ClipBuilder, ClipConfig};
pub use sampling::SamplingPlan;
pub use selector::PlanSelector;
pub use share::FrameShare;

/// Two frames of one second a fixed time apart, as indices into [`ClipSecond::frames`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPair {
    pub first: usize,
    pub second: usize,
    /// `frames[second].pts - frames[first].pts`: flow is scaled from this to the pack's nominal distance.
    pub gap_ns: u64,
}

/// Why a modality of a second is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Absent {
    /// The source has no such track, or the pack does not ask for it.
    NoTrack,
    /// The track is there, but brought nothing (or too little) for this second.
    NoData,
    /// Frames are there, but none far enough apart for flow.
    NoPairs,
}

/// Second `index` of a run: the frames and samples whose PTS fall in it, plus what is missing.
#[derive(Debug)]
pub struct ClipSecond {
    pub run: RunId,
    pub index: u64,
    /// The frames the sampling plan chose, in PTS order, each once.
    pub frames: Vec<Frame>,
    /// The frames for the RGB model, as indices into `frames`, one per sampling point that found a frame.
    pub rgb: Vec<usize>,
    /// The pairs for the flow model.
    pub pairs: Vec<FlowPair>,
    /// How many of the frames and pairs that the plan chose are left: all, unless [`ClipSecond::keep`] took some away.
    pub frame_share: FrameShare,
    /// How many frames fell into this second before the plan chose.
    pub frames_seen: u32,
    /// Mono samples at the pack's rate: exactly `rate` of them, holes filled with silence; `None` when less than half
    /// of the second's sound arrived.
    pub audio: Option<Vec<f32>>,
    /// Samples of `audio` (at the pack's rate) that were not in the stream and are silence.
    pub audio_missing: u32,
    /// Why there is no picture, when there is none.
    pub rgb_absent: Option<Absent>,
    /// Why there is no flow, when there is none.
    pub flow_absent: Option<Absent>,
    /// Why there is no sound, when there is none.
    pub audio_absent: Option<Absent>,
    /// Wall time of the start of the second, when the source told one; the caller falls back on arrival.
    pub wall: Option<WallTime>,
    /// Monotonic clock when the last sample or frame of the second arrived, ns; where the two arrived out of order, the
    /// latest of all.
    pub arrived_ns: u64,
    /// How long before its arrival a picture may have been taken, ns.
    pub behind_ns: u64,
}

impl ClipSecond {
    /// A second that holds just these pictures, all for the RGB model: what a still is scored as.
    pub fn of_pictures(frames: Vec<Frame>) -> Self {
        Self {
            run: RunId(0),
            index: 0,
            rgb: (0..frames.len()).collect(),
            frame_share: FrameShare::ALL,
            frames_seen: frames.len() as u32,
            frames,
            pairs: Vec::new(),
            audio: None,
            audio_missing: 0,
            rgb_absent: None,
            flow_absent: Some(Absent::NoPairs),
            audio_absent: Some(Absent::NoTrack),
            wall: None,
            arrived_ns: 0,
            behind_ns: 0,
        }
    }

    pub fn start(&self) -> Pts {
        Pts::from_second(self.index)
    }
}

/// Why seconds were not classified. Always counted, never silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The machine was behind and shed whole seconds.
    Overload,
    /// No frame, and less than half of the sound, arrived.
    NoMedia,
    /// The model computation failed for this second.
    Compute,
}

impl GapReason {
    pub const ALL: [GapReason; 3] = [GapReason::Overload, GapReason::NoMedia, GapReason::Compute];

    pub const fn as_str(self) -> &'static str {
        match self {
            GapReason::Overload => "overload",
            GapReason::NoMedia => "no-media",
            GapReason::Compute => "compute",
        }
    }
}

/// One second of a run that has no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    pub run: RunId,
    pub index: u64,
    pub reason: GapReason,
}

/// What the clip builder says, in order.
#[derive(Debug)]
pub enum ClipOutput {
    Second(ClipSecond),
    Gap(Gap),
    /// A run began; `cause` is `None` for the first of a stream.
    RunStarted {
        run: RunId,
        cause: Option<Discontinuity>,
    },
    Opened(Tracks),
    TrackEnded(Track),
    /// Data that could not be used: late, repeated, of a time line that was left, or no sound at all (not a number, an
    /// impossible rate).
    Discarded {
        track: Track,
        /// Frames; or samples per channel at the stream's rate.
        count: u64,
    },
    Ended(End),
}

/// How patient the builder is with a track that is behind the other, in stream time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagLimits {
    /// Nanoseconds the pictures may run ahead before a second is closed without the sound.
    pub lag_ns: u64,
    /// Nanoseconds the sound may run ahead before a second is closed without the pictures.
    pub pictures_lag_ns: u64,
    /// Nanoseconds by which the PTS of a stream with one track may go forward within a run: what is missing there is gaps.
    /// Further on is another time line. With two tracks it is two seconds: the other one shows what it was.
    pub bridge_ns: u64,
}

impl LagLimits {
    /// Live streams wait briefly: sound and pictures of a live mux are within a second of each other.
    ///
    /// Files wait long, since nothing is late and a second must not depend on which decoder was faster. Sound is
    /// decoded far quicker than pictures, and a demuxer's queues are bounded in bytes: two megabytes of a low-rate
    /// video are minutes, by which the sound may be ahead. It is kept as mono at the pack's rate, 8 MB a minute.
    /// Pictures ahead of sound cost more memory and mean that the sound is missing.
    ///
    /// A recording may show one picture for a minute, or have nothing for as long: its seconds are counted all the same. A
    /// live stream that does not come back within two seconds has begun anew, mostly.
    pub const fn for_pace(pace: Pace) -> Self {
        match pace {
            Pace::Live => Self { lag_ns: 1_500_000_000, pictures_lag_ns: 1_500_000_000, bridge_ns: 2_000_000_000 },
            Pace::File => Self { lag_ns: 30_000_000_000, pictures_lag_ns: 600_000_000_000, bridge_ns: 60_000_000_000 },
        }
    }

    /// How long to wait for `track`.
    pub const fn with(&self, track: Track) -> u64 {
        match track {
            Track::Video => self.pictures_lag_ns,
            Track::Audio => self.lag_ns,
        }
    }
}
