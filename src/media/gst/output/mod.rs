//! Pictures with a label: recordings that are rendered, and live outputs.
//!
//! ```text
//! coded units ─► decoder ─► label ─► encoder ─┐
//!       └─────── sound as it is ──────────────┴─► muxer ─► file, playlist, or receiver
//! ```
//!
//! With [`LabelForm::Metadata`] the pictures stay as they are too, and the label is a track of its own.
//!
//! A picture shows the estimate of its own second. Recordings are decided before they are rendered. A live picture waits for its
//! decision; see `live.rs`.

mod address;
mod composition;
mod decisions;
mod live;
mod metadata;
mod pipeline;
mod render;
mod timeline;

use gstreamer as gst;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::overlay::{Overlay, OverlayOptions};

pub use self::address::{Container, OutputAddress};
pub use self::decisions::ShownSecond;
pub use self::live::{LiveOutput, LiveOutputOptions, OutputEvent, OutputObserver};
pub use self::metadata::KLV_KEY;
pub use self::pipeline::Encoding;
pub use self::render::{RenderRequest, RenderSummary, recording_length, render_recording};

/// The playlist of an HLS folder.
const PLAYLIST: &str = "live.m3u8";

/// The highest bit rate of pictures by default, kbit/s: enough for 1080 lines.
pub const DEFAULT_BITRATE_KBPS: u32 = 6000;

/// Video encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoder {
    /// The processor, with x264.
    #[default]
    X264,
    /// The graphics processor, with VA-API.
    Va,
}

impl Encoder {
    /// The names, in the order of the variants.
    pub const NAMES: [&str; 2] = ["x264", "va"];

    const fn element(self) -> &'static str {
        match self {
            Encoder::X264 => "x264enc",
            Encoder::Va => "vah264enc",
        }
    }

    /// The element that this machine lacks.
    pub fn missing(self) -> Option<&'static str> {
        gst::ElementFactory::find(self.element()).is_none().then(|| self.element())
    }
}

/// Where outputs have the label, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LabelMode {
    /// Drawn on the pictures, which are encoded again.
    #[default]
    Draw,
    /// Beside the pictures, which are not encoded again: KLV packets in MPEG-TS, WebVTT in HLS.
    Metadata,
}

impl LabelMode {
    /// The names, in the order of the variants.
    pub const NAMES: [&str; 2] = ["draw", "metadata"];

    /// What an output needs for this mode.
    ///
    /// # Errors
    /// One line, if the output has no place for metadata.
    pub fn check(self, address: &OutputAddress) -> Result<(), String> {
        if self == Self::Draw || address.holds_metadata() {
            return Ok(());
        }
        Err(format!(
            "{}: it has no place for labels as metadata; give a .ts file, hls:DIR, or an srt:// or udp:// address",
            address.shown()
        ))
    }
}

/// How an output has the label.
#[derive(Clone, Debug)]
pub enum LabelForm {
    /// As [`LabelMode::Draw`].
    Drawn {
        /// How it looks.
        overlay: Overlay,
        /// How the pictures are encoded.
        encoding: Encoding,
    },
    /// As [`LabelMode::Metadata`].
    Metadata,
}

impl LabelForm {
    /// The form of a mode. `options` and `encoding` are for [`LabelMode::Draw`], and `key` names the setting of the encoder in messages.
    ///
    /// # Errors
    /// One line: an encoder that this machine lacks, or a template or font that cannot be used.
    pub fn new(mode: LabelMode, options: &OverlayOptions, encoding: Encoding, key: &str) -> Result<Self, String> {
        crate::gst::warm_up::outputs();
        if mode == LabelMode::Metadata {
            return Ok(Self::Metadata);
        }
        if let Some(element) = encoding.encoder.missing() {
            let advice = OutputCause::Encoder.advice();
            return Err(format!("{key}: this machine has no {element}; {advice}"));
        }
        Ok(Self::Drawn { overlay: Overlay::new(options)?, encoding })
    }
}

/// Why an output failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OutputCause {
    /// The receiver cannot be reached, or it ended the connection.
    Unreachable,
    /// The receiver refuses the login.
    Login,
    /// The receiver takes no data.
    Stalled,
    /// The disk is full.
    NoSpace,
    /// The file or folder cannot be written.
    Unwritable,
    /// The machine does not have the encoder.
    Encoder,
    /// The media cannot be read.
    Media,
    /// It failed otherwise.
    Failed,
}

impl OutputCause {
    /// All, in the order of the variants.
    pub const ALL: [Self; 8] = [
        Self::Unreachable,
        Self::Login,
        Self::Stalled,
        Self::NoSpace,
        Self::Unwritable,
        Self::Encoder,
        Self::Media,
        Self::Failed,
    ];

    /// The word in metrics and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Login => "login",
            Self::Stalled => "stalled",
            Self::NoSpace => "no-space",
            Self::Unwritable => "unwritable",
            Self::Encoder => "encoder",
            Self::Media => "media",
            Self::Failed => "failed",
        }
    }

    /// What to do.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Unreachable => "check address and port, and that the receiver is running",
            Self::Login => "check user, password and key in the address",
            Self::Stalled => "check the receiver and the network",
            Self::NoSpace => "free space, or choose another output",
            Self::Unwritable => "check the folder and its permissions, or choose another output",
            Self::Encoder => "choose the encoder x264, or install GStreamer's VA-API plugins and a driver",
            Self::Media => "check the file with another player",
            Self::Failed => "run with RUST_LOG=debug and GST_DEBUG=3 to see more",
        }
    }
}

/// A failure of an output. The text is one line without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputError {
    /// Its type.
    pub cause: OutputCause,
    /// What happened.
    pub text: String,
}

impl OutputError {
    fn new(cause: OutputCause, text: String) -> Self {
        Self { cause, text }
    }

    fn stopped() -> Self {
        Self::new(OutputCause::Failed, "the output stopped".into())
    }

    fn io(error: &std::io::Error) -> Self {
        let cause = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => OutputCause::NoSpace,
            _ => OutputCause::Unwritable,
        };
        let text = error.to_string();
        Self::new(cause, text.split(" (os error").next().unwrap_or_default().to_lowercase())
    }
}

impl std::fmt::Display for OutputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}
