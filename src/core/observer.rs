//! What the engine reports about itself while it works.

/// A step of the way from a second's last sample to its published decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From the arrival of a second's last sample until its features begin.
    DecodeWait,
    FeaturesRgb,
    FeaturesFlow,
    FeaturesAudio,
    InferRgb,
    InferFlow,
    InferAudio,
    /// Class-to-modality table and vote.
    Fusion,
    /// Serialising and handing over to every output.
    Publish,
}

impl Stage {
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

/// What went wrong on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFault {
    /// A batch did not fit into its memory; it was divided, and smaller ones are sent from then on.
    OutOfMemory,
    /// Its context was made anew.
    Restart,
    /// It was given up.
    Lost,
}

impl DeviceFault {
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

/// Takes the engine's reports; the server's metrics do.
pub trait Observer: Sync {
    /// One second of some stream took `ns` nanoseconds in `stage`.
    fn observe_stage(&self, stage: Stage, ns: u64);

    /// Something went wrong on a GPU.
    fn device_fault(&self, fault: DeviceFault);
}
