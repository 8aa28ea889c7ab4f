//! Which GStreamer elements ingest needs, which Debian package has each, and which are missing.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::gst::decoders::{CODECS, DeviceKind};
use touchline_core::error::Result;

/// One element ingest uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// Name of the element, as `gst-inspect-1.0` knows it.
    pub element: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// The feature that does not work without it.
    pub purpose: &'static str,
    /// Nothing works without it. Without an optional one, a kind of source or a codec is missing.
    pub required: bool,
    /// Formats and URI schemes it handles, to explain GStreamer's own reports.
    handles: &'static [&'static str],
}

/// A [`Plugin`] and whether it is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PluginStatus {
    /// The plugin.
    pub plugin: &'static Plugin,
    /// Whether this machine has it.
    pub installed: bool,
}

const CORE: &str = "libgstreamer1.0-0";
const BASE: &str = "gstreamer1.0-plugins-base";
const GOOD: &str = "gstreamer1.0-plugins-good";
const BAD: &str = "gstreamer1.0-plugins-bad";
const UGLY: &str = "gstreamer1.0-plugins-ugly";
const LIBAV: &str = "gstreamer1.0-libav";

const fn required(element: &'static str, package: &'static str, purpose: &'static str) -> Plugin {
    Plugin { element, package, purpose, required: true, handles: &[] }
}

const fn optional(
    element: &'static str,
    package: &'static str,
    purpose: &'static str,
    handles: &'static [&'static str],
) -> Plugin {
    Plugin { element, package, purpose, required: false, handles }
}

/// Every element the built-in templates and the promised formats need.
pub const PLUGINS: &[Plugin] = &[
    required("queue", CORE, "everything"),
    required("appsink", BASE, "everything"),
    required("uridecodebin", BASE, "everything"),
    required("videoconvert", BASE, "pictures"),
    required("videoscale", BASE, "pictures"),
    required("deinterlace", GOOD, "pictures"),
    required("audioconvert", BASE, "sound"),
    required("videotestsrc", BASE, "testsrc://"),
    required("audiotestsrc", BASE, "testsrc://"),
    optional("rtspsrc", GOOD, "RTSP", &["rtsp", "rtsps"]),
    optional("rtpjitterbuffer", GOOD, "RTSP", &["application/x-rtp"]),
    required("appsrc", BASE, "HLS and streams over HTTP"),
    required("decodebin", BASE, "HLS and streams over HTTP"),
    optional("souphttpsrc", GOOD, "recordings over HTTP", &["http", "https"]),
    optional("multipartdemux", GOOD, "Motion JPEG over HTTP", &["multipart/x-mixed-replace"]),
    optional("srtsrc", BAD, "SRT", &["srt"]),
    optional("rtmp2src", BAD, "RTMP", &["rtmp", "rtmps"]),
    optional("udpsrc", GOOD, "UDP", &["udp"]),
    optional("tsdemux", BAD, "MPEG-TS, most HLS, SRT, UDP", &["video/mpegts"]),
    optional("qtdemux", GOOD, "MP4 and MOV", &["video/quicktime", "audio/x-m4a"]),
    optional("matroskademux", GOOD, "MKV and WebM", &["video/x-matroska", "video/webm", "audio/webm"]),
    optional("flvdemux", GOOD, "RTMP and FLV", &["video/x-flv"]),
    optional("avdec_h264", LIBAV, "H.264", &["video/x-h264"]),
    optional("avdec_h265", LIBAV, "H.265", &["video/x-h265"]),
    optional("avdec_mpeg2video", LIBAV, "MPEG-2", &["video/mpeg"]),
    optional("vp8dec", GOOD, "VP8", &["video/x-vp8"]),
    optional("vp9dec", GOOD, "VP9", &["video/x-vp9"]),
    optional("h264parse", BAD, "H.264", &[]),
    optional("h265parse", BAD, "H.265", &[]),
    optional("avdec_aac", LIBAV, "AAC", &["audio/mpeg"]),
    optional("mpg123audiodec", GOOD, "MP3", &["audio/mpeg"]),
    optional("avdec_ac3", LIBAV, "AC-3", &["audio/x-ac3", "audio/ac3"]),
    optional("opusdec", BASE, "Opus", &["audio/x-opus"]),
    optional("a52dec", UGLY, "AC-3, second choice", &[]),
    optional("overlaycomposition", BASE, "the label on the picture", &[]),
    optional("x264enc", UGLY, "the label on the picture", &[]),
    optional("avenc_aac", LIBAV, "the label on the picture, where sound is encoded again", &[]),
    optional("mp4mux", GOOD, "clips and outputs in MP4", &[]),
    optional("matroskamux", GOOD, "clips and outputs in Matroska", &[]),
    optional("mpegtsmux", BAD, "outputs in MPEG-TS", &[]),
    optional("hlssink2", BAD, "outputs over HLS", &[]),
    optional("flvmux", GOOD, "outputs over RTMP", &[]),
    optional("rtmp2sink", BAD, "outputs over RTMP", &[]),
    optional("srtsink", BAD, "outputs over SRT", &[]),
    optional("udpsink", GOOD, "outputs over UDP", &[]),
];

/// Checks which of [`PLUGINS`] are installed.
///
/// # Errors
/// [`crate::Error::Internal`](touchline_core::error::Error::Internal) if GStreamer cannot be initialised.
pub fn survey() -> Result<Vec<PluginStatus>> {
    super::gst::init()?;
    Ok(PLUGINS
        .iter()
        .map(|plugin| PluginStatus { plugin, installed: gst::ElementFactory::find(plugin.element).is_some() })
        .collect())
}

/// The default decoder of a codec for live streams, and the reasons against the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderSurvey {
    /// Common name of the codec.
    pub codec: &'static str,
    /// The element; [`None`] if no decoder is installed.
    pub element: Option<&'static str>,
    /// The elements that come before it, each with the reason why it cannot be used.
    pub unusable: Vec<(&'static str, String)>,
}

/// Determines the decoder of each codec that devices can decode. Opens the devices for a moment.
///
/// # Errors
/// As [`survey`].
pub fn decoders() -> Result<Vec<DecoderSurvey>> {
    super::gst::init()?;
    Ok(CODECS
        .iter()
        .map(|decoders| {
            let mut unusable = Vec::new();
            for kind in DeviceKind::ALL {
                match unusable_because(kind, decoders.of(kind)) {
                    None => return DecoderSurvey { codec: decoders.codec, element: Some(decoders.of(kind)), unusable },
                    Some(reason) => unusable.push((decoders.of(kind), reason)),
                }
            }
            let element = gst::ElementFactory::find(decoders.software).map(|_| decoders.software);
            DecoderSurvey { codec: decoders.codec, element, unusable }
        })
        .collect())
}

/// Why the decoder `element` of a device cannot be used; [`None`] if it can.
fn unusable_because(kind: DeviceKind, element: &str) -> Option<String> {
    let plugin = kind.plugin();
    if gst::Registry::get().find_plugin(plugin).is_none() {
        return Some(format!("GStreamer's plugin {plugin} is missing (package {BAD})"));
    }
    // The plugin registers an element for each codec that a device of this machine decodes.
    let Some(factory) = gst::ElementFactory::find(element) else {
        return Some(format!("the plugin {plugin} finds no device for it"));
    };
    let Ok(decoder) = factory.create().build() else { return Some("it cannot be created".into()) };
    let opened = decoder.set_state(gst::State::Ready).is_ok();
    // A decoder that did not open has nothing to close.
    let _ = decoder.set_state(gst::State::Null);
    (!opened).then(|| "the device does not open (is it in use, and may this user open it?)".into())
}

/// GStreamer's version, such as `GStreamer 1.22.0`.
///
/// # Errors
/// As [`survey`].
pub fn version() -> Result<String> {
    super::gst::init()?;
    Ok(gst::version_string().to_string())
}

/// As [`version`], of the library that the program is linked with. Does not initialise GStreamer, so it takes no time.
pub fn linked_version() -> String {
    gst::version_string().to_string()
}

/// The packages of `elements`, without repeats. For an element that is not in the table, all plugin packages: one of them has it.
pub fn packages_of(elements: &[&str]) -> Vec<&'static str> {
    let known = PLUGINS.iter().filter(|p| elements.contains(&p.element)).map(|p| p.package);
    named_or_all(known)
}

/// Packages that handle `what`: the name of a media type (`video/x-h265`), a URI scheme or an element.
pub(super) fn packages_for(what: &str) -> Vec<&'static str> {
    let known = PLUGINS.iter().filter(|p| p.element == what || p.handles.contains(&what)).map(|p| p.package);
    named_or_all(known)
}

fn named_or_all(packages: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut found: Vec<&'static str> = Vec::new();
    for package in packages {
        if !found.contains(&package) {
            found.push(package);
        }
    }
    if found.is_empty() { vec![GOOD, BAD, UGLY, LIBAV] } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_plugins_are_installed() {
        let missing: Vec<_> = survey().unwrap().into_iter().filter(|f| f.plugin.required && !f.installed).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(version().unwrap().contains("GStreamer 1."));
    }

    #[test]
    fn every_codec_has_a_decoder_and_reasons_for_the_others() {
        for DecoderSurvey { codec, element, unusable } in decoders().unwrap() {
            let decoders = CODECS.iter().find(|decoders| decoders.codec == codec).unwrap();
            let tried: Vec<_> = DeviceKind::ALL.iter().map(|kind| decoders.of(*kind)).collect();
            // Those before the one that is used have a reason.
            let all: Vec<_> = tried.iter().copied().chain([decoders.software]).collect();
            let at = all.iter().position(|name| Some(*name) == element).expect("a decoder is installed");
            assert_eq!(unusable.iter().map(|(name, _)| *name).collect::<Vec<_>>(), tried[..at.min(tried.len())]);
            assert!(unusable.iter().all(|(_, reason)| !reason.is_empty()), "{unusable:?}");
        }
    }

    #[test]
    fn packages_are_named_once_and_an_unknown_format_names_all() {
        assert_eq!(packages_for("video/x-h265"), [LIBAV]);
        assert_eq!(packages_for("audio/mpeg"), [LIBAV, GOOD]);
        assert_eq!(packages_for("rtsps"), [GOOD]);
        assert_eq!(packages_of(&["videoscale", "videoconvert"]), [BASE]);
        assert_eq!(packages_for("video/x-unheard-of").len(), 4);
    }
}
