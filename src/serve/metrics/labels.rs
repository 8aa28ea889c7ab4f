//! Values of the server's labels.

/// A thread whose panics are contained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageThread {
    /// Cuts one stream into seconds.
    Clip,
    /// Features, models and table.
    Infer,
    /// Writes one output.
    Sink,
    /// Delivers the media of one stream. It has ended without an end of the stream.
    Source,
    /// Compares a second pack with the running one.
    Shadow,
    /// Replaces the running pack.
    Pack,
    /// Writes the state file.
    Store,
    /// Encodes seconds for corrections.
    Teach,
    /// Shares streams with other machines.
    Fleet,
    /// Makes pictures for segments.
    Posters,
    /// Has recordings scored.
    Archive,
}

impl StageThread {
    /// In the order of the variants.
    pub const ALL: [StageThread; 11] = [
        StageThread::Clip,
        StageThread::Infer,
        StageThread::Sink,
        StageThread::Source,
        StageThread::Shadow,
        StageThread::Pack,
        StageThread::Store,
        StageThread::Teach,
        StageThread::Fleet,
        StageThread::Posters,
        StageThread::Archive,
    ];

    /// Value of the label `stage`.
    pub const fn as_str(self) -> &'static str {
        match self {
            StageThread::Clip => "clip",
            StageThread::Infer => "infer",
            StageThread::Sink => "sink",
            StageThread::Source => "source",
            StageThread::Shadow => "shadow",
            StageThread::Pack => "pack",
            StageThread::Store => "store",
            StageThread::Teach => "teach",
            StageThread::Fleet => "fleet",
            StageThread::Posters => "posters",
            StageThread::Archive => "archive",
        }
    }
}

/// A client with an open-ended answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// A subscriber of the live records (server-sent events).
    Live,
    /// A watcher of the preview pictures.
    Preview,
}

impl Viewer {
    /// In the order of the variants.
    pub const ALL: [Viewer; 2] = [Viewer::Live, Viewer::Preview];

    /// Value of the label `kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Viewer::Live => "live",
            Viewer::Preview => "preview",
        }
    }
}
