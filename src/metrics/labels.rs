//! What the program itself is labelled by: the stages of a second, who watches, what went wrong on a GPU.

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

/// A thread whose panics are contained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageThread {
    /// Cuts one stream into seconds.
    Clip,
    Infer,
    /// Writes one output.
    Sink,
}

impl StageThread {
    pub const ALL: [StageThread; 3] = [StageThread::Clip, StageThread::Infer, StageThread::Sink];

    /// Value of the label `stage`.
    pub const fn as_str(self) -> &'static str {
        match self {
            StageThread::Clip => "clip",
            StageThread::Infer => "infer",
            StageThread::Sink => "sink",
        }
    }
}

/// Who is connected to the HTTP server for longer than one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// A subscriber of the live records (server-sent events).
    Live,
    /// A watcher of the preview pictures.
    Preview,
}

impl Viewer {
    pub const ALL: [Viewer; 2] = [Viewer::Live, Viewer::Preview];

    /// Value of the label `kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Viewer::Live => "live",
            Viewer::Preview => "preview",
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
