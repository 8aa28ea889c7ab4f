//! Which frames of a second the models see.

/// The sampling points of a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamplingPlan {
    /// Frames for the RGB model: the frame nearest to the middle of each of this many equal parts of the second.
    pub rgb_frames: u32,
    /// Pairs for the flow model, centred likewise.
    pub flow_pairs: u32,
    /// Nominal distance of the two frames of a pair, ns.
    pub flow_gap_ns: u64,
}
