//! The clip builder: takes frames and PCM and returns whole seconds. A pure state machine without threads and clocks.
//!
//! Seconds lie on the grid of running time: second `n` has the data with `n s <= PTS < n+1 s`, in integers. Within a run
//! every second from the first data on is output once and in order, as a [`ClipSecond`] or, if it has no frame and less
//! than half of its sound, as a [`Gap`]. Only the last second of a run may be missing: if the run ends in it with that little
//! data, or within its first tenth, the data are counted in [`ClipOutput::Discarded`].
//!
//! A second is closed when every track has passed its end or has ended, or when one track has passed it and is ahead of
//! the other by the [`LagLimits`]. Later data for it are discarded and counted. The result depends only on the PTS of the
//! data, not on the interleaving of the tracks, as long as the lag stays within the limits.
//!
//! `builder` assigns items to runs, and `timeline` follows the position of each track. `run` holds the open seconds, `sampling`
//! chooses frames, `selector` predicts that choice before frames are converted, `sound` puts samples on the grid,
//! [`resample`] converts sample rates, and `timecodes` finds the timecode of a second.

mod builder;
pub mod resample;
mod run;
mod sampling;
mod selector;
mod share;
mod sound;
mod timecodes;
mod timeline;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::frame::Frame;
use crate::incident::Incident;
use crate::item::{Discontinuity, End, Pace, Track, Tracks};
use crate::signal::Signals;
use crate::tier::DecodeTier;
use crate::time::{Pts, RunId, WallTime};
use crate::timecode::TimecodeMark;

pub use builder::{ClipBuilder, ClipConfig};
pub use sampling::SamplingPlan;
pub use selector::PlanSelector;
pub use share::FrameShare;

/// Two frames of one second about a fixed time apart, as indices into [`ClipSecond::frames`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPair {
    /// Index of the earlier frame.
    pub first: usize,
    /// Index of the later frame.
    pub second: usize,
    /// `frames[second].pts - frames[first].pts`: flow is scaled from this to the pack's nominal distance, ns.
    pub gap_ns: u64,
}

/// Why a modality of a second is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Absent {
    /// The source has no such track, or the pack does not use it.
    NoTrack,
    /// The track exists, but has no data (or too little) in this second.
    NoData,
    /// There are frames, but no two at a usable distance.
    NoPairs,
    /// There is sound, and it has been silent for the hold time.
    Silent,
}

/// Second `index` of a run: the frames and samples whose PTS fall in it, and which modalities are missing.
#[derive(Clone, Debug)]
pub struct ClipSecond {
    /// Run of the second.
    pub run: RunId,
    /// Index of the second: it starts at `index` seconds of PTS.
    pub index: u64,
    /// The frames that the sampling plan chose, in PTS order, each once.
    pub frames: Vec<Frame>,
    /// The frames for the RGB model, as indices into `frames`, one per sampling point that found a frame.
    pub rgb: Vec<usize>,
    /// The pairs for the flow model.
    pub pairs: Vec<FlowPair>,
    /// The share of the sampled frames and pairs that remains after [`ClipSecond::keep`].
    pub frame_share: FrameShare,
    /// Which coded pictures were decoded.
    pub tier: DecodeTier,
    /// Number of frames in this second before sampling.
    pub frames_seen: u32,
    /// Mono samples at the pack's rate, exactly `rate` of them, with holes filled by silence; `None` if less than half of
    /// the second's sound arrived.
    pub audio: Option<Vec<f32>>,
    /// Samples of `audio` (at the pack's rate) that were missing from the stream and are silence.
    pub audio_missing: u32,
    /// Why RGB is missing; `None` if it is present.
    pub rgb_absent: Option<Absent>,
    /// Why flow is missing; `None` if it is present.
    pub flow_absent: Option<Absent>,
    /// Why sound is missing; `None` if it is present.
    pub audio_absent: Option<Absent>,
    /// Wall time of the start of the second, if the source gives one; otherwise the caller uses the arrival time.
    pub wall: Option<WallTime>,
    /// Timecode of the first picture of the second, if the media have timecode.
    pub timecode: Option<TimecodeMark>,
    /// Monotonic time of the latest arrival of a sample or frame of the second, ns.
    pub arrived_ns: u64,
    /// The maximum delay between a picture being taken and its arrival, ns.
    pub behind_ns: u64,
}

impl ClipSecond {
    /// A second with only these pictures, all for the RGB model. Still pictures are scored this way.
    pub fn of_pictures(frames: Vec<Frame>) -> Self {
        Self {
            run: RunId(0),
            index: 0,
            rgb: (0..frames.len()).collect(),
            frame_share: FrameShare::ALL,
            tier: DecodeTier::Full,
            frames_seen: frames.len() as u32,
            frames,
            pairs: Vec::new(),
            audio: None,
            audio_missing: 0,
            rgb_absent: None,
            flow_absent: Some(Absent::NoPairs),
            audio_absent: Some(Absent::NoTrack),
            wall: None,
            timecode: None,
            arrived_ns: 0,
            behind_ns: 0,
        }
    }

    /// PTS of the start of the second.
    pub fn start(&self) -> Pts {
        Pts::from_second(self.index)
    }

    /// Marks the sound as silent, so that it is not classified.
    pub fn silence(&mut self) {
        self.audio = None;
        self.audio_absent = Some(Absent::Silent);
    }
}

/// Why a second was not classified. Every gap is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The machine was too slow, and the backlog dropped the second.
    Overload,
    /// No frame and less than half of the sound arrived.
    NoMedia,
    /// The model computation failed for this second.
    Compute,
    /// There is no programme to classify: the picture is test bars, black or frozen, or a stream without pictures is silent.
    NoProgramme,
    /// Only key pictures are decoded ([`DecodeTier::Key`]), and the second has none.
    NotDecoded,
    /// No machine of a fleet published the stream: the one that watched it was lost, and its successor had not taken over.
    NodeLost,
}

impl GapReason {
    /// All reasons.
    pub const ALL: [GapReason; 6] = [
        GapReason::Overload,
        GapReason::NoMedia,
        GapReason::Compute,
        GapReason::NoProgramme,
        GapReason::NotDecoded,
        GapReason::NodeLost,
    ];

    /// The name in records and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            GapReason::Overload => "overload",
            GapReason::NoMedia => "no-media",
            GapReason::Compute => "compute",
            GapReason::NoProgramme => "no-programme",
            GapReason::NotDecoded => "not-decoded",
            GapReason::NodeLost => "node-lost",
        }
    }
}

/// One second of a run that has no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Run of the second.
    pub run: RunId,
    /// Index of the second.
    pub index: u64,
    /// Why it was not classified.
    pub reason: GapReason,
    /// Its signals.
    pub signals: Signals,
}

impl Gap {
    /// A gap whose signal shows nothing, or is not known.
    pub const fn new(run: RunId, index: u64, reason: GapReason) -> Self {
        Self { run, index, reason, signals: Signals::NONE }
    }
}

/// The output of the clip builder, in order.
#[derive(Debug)]
pub enum ClipOutput {
    /// A second with data.
    Second(ClipSecond),
    /// A second without usable data.
    Gap(Gap),
    /// A run began.
    RunStarted {
        /// Its number.
        run: RunId,
        /// Why it began; `None` for the first run of a stream.
        cause: Option<Discontinuity>,
    },
    /// The tracks of a new connection.
    Opened(Tracks),
    /// A track has no more data in this connection.
    TrackEnded(Track),
    /// A condition of the signal began or ended with the next second. The clip builder has none: detectors add it.
    Incident(Incident),
    /// Data that could not be used: late, repeated, from an abandoned timeline, or invalid sound (NaN, an impossible rate).
    Discarded {
        /// Their track.
        track: Track,
        /// Frames, or samples per channel at the stream's rate.
        count: u64,
    },
    /// The stream is over.
    Ended(End),
}

/// How far one track may lag behind the other, in stream time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LagLimits {
    /// How far the pictures may be ahead before a second is closed without its sound, ns.
    pub lag_ns: u64,
    /// How far the sound may be ahead before a second is closed without its pictures, ns.
    pub pictures_lag_ns: u64,
    /// How far the PTS of a stream with one track may jump forward within a run, ns; the seconds in between are gaps. A longer jump
    /// begins another run. With two tracks the limit is two seconds, because the other track shows whether it was a jump.
    pub bridge_ns: u64,
}

impl LagLimits {
    /// The limits for `pace`.
    ///
    /// Live streams have short limits: sound and pictures of a live mux are within a second of each other.
    ///
    /// Files have long limits, because a second must not depend on which decoder is faster. Sound is decoded much faster than
    /// pictures, and the queues of a demuxer are bounded in bytes: two megabytes of low-rate video are minutes, by which the
    /// sound may be ahead. It is kept as mono at the pack's rate, 8 MB per minute. Pictures ahead of sound need more memory and
    /// mean that sound is missing.
    ///
    /// A recording may show one picture for a minute, or have no data for that long; its seconds are counted. A live stream that
    /// is silent for more than two seconds has usually restarted.
    pub const fn for_pace(pace: Pace) -> Self {
        match pace {
            Pace::Live => Self { lag_ns: 1_500_000_000, pictures_lag_ns: 1_500_000_000, bridge_ns: 2_000_000_000 },
            Pace::File => Self { lag_ns: 30_000_000_000, pictures_lag_ns: 600_000_000_000, bridge_ns: 60_000_000_000 },
        }
    }

    /// How far `track` may lag, ns.
    pub const fn with(&self, track: Track) -> u64 {
        match track {
            Track::Video => self.pictures_lag_ns,
            Track::Audio => self.lag_ns,
        }
    }
}
