//! The interface through which the engine reports durations and device faults.

/// A stage of processing between a second's last sample and its published decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Wait from the arrival of a second's last sample to the start of its features.
    DecodeWait,
    /// Features of the pictures.
    FeaturesRgb,
    /// Optical flow.
    FeaturesFlow,
    /// Log-mel features.
    FeaturesAudio,
    /// Inference of the RGB model.
    InferRgb,
    /// Inference of the flow model.
    InferFlow,
    /// Inference of the audio model.
    InferAudio,
    /// Class-to-modality table and vote.
    Fusion,
    /// Serialising and queueing for every sink.
    Publish,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Stage; 9] = [
        Stage::DecodeWait,
        Stage::FeaturesRgb,
        Stage::FeaturesFlow,
        Stage::FeaturesAudio,
        Stage::InferRgb,
        Stage::InferFlow,
        Stage::InferAudio,
        Stage::Fusion,
        Stage::Publish,
    ];

    /// Value of the label `stage`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::DecodeWait => "decode_wait",
            Stage::FeaturesRgb => "features_rgb",
            Stage::FeaturesFlow => "features_flow",
            Stage::FeaturesAudio => "features_audio",
            Stage::InferRgb => "infer_rgb",
            Stage::InferFlow => "infer_flow",
            Stage::InferAudio => "infer_audio",
            Stage::Fusion => "fusion",
            Stage::Publish => "publish",
        }
    }
}

/// A fault of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFault {
    /// A batch did not fit into its memory. It was split, and batches are smaller from then on.
    OutOfMemory,
    /// Its context was created again.
    Restart,
    /// It is no longer used.
    Lost,
}

impl DeviceFault {
    /// All faults.
    pub const ALL: [DeviceFault; 3] = [DeviceFault::OutOfMemory, DeviceFault::Restart, DeviceFault::Lost];

    /// Value of the label `kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeviceFault::OutOfMemory => "out_of_memory",
            DeviceFault::Restart => "restart",
            DeviceFault::Lost => "lost",
        }
    }
}

/// Receives the engine's reports. The server's metrics implement it.
pub trait Observer: Sync {
    /// Called when one second of a stream spent `ns` nanoseconds in `stage`.
    fn observe_stage(&self, stage: Stage, ns: u64);

    /// Called when a GPU fails.
    fn device_fault(&self, fault: DeviceFault);
}
