//! Messages of GStreamer 1.22, and the causes they are translated to.

use super::*;

/// The element that posts it, the error, the debug text, and the details.
struct Message(&'static str, gst::glib::Error, &'static str, Option<(&'static str, i32)>);

impl Message {
    fn end(&self, kind: Kind) -> Option<End> {
        let Self(factory, error, debug, detail) = self;
        let element = gst::ElementFactory::make(factory).build().unwrap_or_else(|e| panic!("{factory}: {e}"));
        let mut builder = gst::message::Error::builder_from_error(error.clone()).src(&element).debug(debug);
        if let Some((name, value)) = *detail {
            let details = gst::Structure::builder("details");
            builder = builder.details(match name {
                "flow-return" => details.field(name, value).build(),
                _ => details.field(name, u32::try_from(value).unwrap()).build(),
            });
        }
        let message = builder.build();
        let gst::MessageView::Error(error) = message.view() else { panic!("not an error message") };
        PipelineError::new(kind, error, &error.error(), &error.debug().unwrap_or_default()).end()
    }
}

fn error(domain: impl gst::glib::error::ErrorDomain, text: &str) -> gst::glib::Error {
    gst::glib::Error::new(domain, text)
}

fn read(factory: &'static str, text: &str, debug: &'static str, detail: Option<(&'static str, i32)>) -> Message {
    Message(factory, error(gst::ResourceError::Read, text), debug, detail)
}

#[test]
fn causes_follow_from_types_and_codes() {
    super::super::init().unwrap();
    use gst::{CoreError as C, ResourceError as R, StreamError as S};
    let qtdemux = "../gst/isomp4/qtdemux.c(509): gst_qtdemux_post_no_playable_stream_error (): \
                   /GstPipeline:pipeline50/GstURIDecodeBin:s/GstDecodeBin:d/GstQTDemux:qtdemux9:\nno known streams found";
    let rtsp = |code| read("rtspsrc", "Unhandled error", "gstrtspsrc.c(6954):\nx", Some(("rtsp-status-code", code)));
    let http = |code| {
        let text =
            "gstsouphttpsrc.c(1690): gst_soup_http_src_parse_status ():\nx (503), URL: http://h/x, Redirect to: (NULL)";
        Message("souphttpsrc", error(R::OpenRead, "x"), text, Some(("http-status-code", code)))
    };
    let rtmp = |domain| Message("rtmp2src", error(R::Failed, "Failed to connect: prose"), domain, None);
    let misleading =
        |error| Message("identity", error, "somewhere.c(401): x (): /a:\n(503) certificate timed out", None);
    for (kind, message, expected) in [
        (Kind::Rtsp, rtsp(401), Some(Cause::NotAuthorized)),
        (Kind::Rtsp, rtsp(403), Some(Cause::Forbidden)),
        (Kind::Rtsp, rtsp(404), Some(Cause::NotFound)),
        (Kind::Rtsp, rtsp(453), Some(Cause::Other)),
        (Kind::Rtsp, rtsp(500), Some(Cause::ServerError)),
        (Kind::Rtsp, rtsp(599), Some(Cause::ServerError)),
        (Kind::Http, http(410), Some(Cause::NotFound)),
        (Kind::Hls, http(503), Some(Cause::ServerError)),
        (Kind::File, http(503), Some(Cause::Other)),
        (
            Kind::Rtsp,
            read(
                "rtspsrc",
                "Could not read from resource.",
                "c(6682):\nCould not receive message. (System error)",
                None,
            ),
            Some(Cause::NoAnswer),
        ),
        // The port is probed for a better cause.
        (
            Kind::Rtsp,
            Message(
                "rtspsrc",
                error(R::OpenReadWrite, "Could not open resource for reading and writing."),
                "gstrtspsrc.c(8336):\nFailed to connect. (Generic error)",
                None,
            ),
            None,
        ),
        (
            Kind::Rtmp,
            Message("rtmp2src", error(R::OpenRead, "Connection refused: Could not connect to 127.0.0.1"), "", None),
            Some(Cause::ConnectionRefused),
        ),
        (
            Kind::Rtmp,
            rtmp("gstrtmp2src.c(971): x ():\ndomain g-resolver-error-quark, code 0"),
            Some(Cause::HostNotFound),
        ),
        (Kind::Rtmp, rtmp("gstrtmp2src.c(971): x ():\ndomain g-tls-error-quark, code 3"), Some(Cause::TlsFailed)),
        (Kind::Rtmp, rtmp("gstrtmp2src.c(971): x ():\ndomain g-io-error-quark, code 44"), Some(Cause::NoAnswer)),
        (Kind::Rtmp, rtmp("gstrtmp2src.c(971): x ():\ndomain g-io-error-quark, code 38"), Some(Cause::HostUnreachable)),
        (
            Kind::Srt,
            read("srtsrc", "Error on SRT socket: Connection timeout", "gstsrtobject.c(1575)", None),
            Some(Cause::NoAnswer),
        ),
        (
            Kind::Srt,
            Message(
                "srtsrc",
                error(R::OpenRead, "Could not open resource for reading."),
                "gstsrtsrc.c(123):\nFailed to open SRT: Failed to resolve host 'host.invalid': Error resolving",
                None,
            ),
            Some(Cause::HostNotFound),
        ),
        (
            Kind::Udp,
            Message(
                "udpsrc",
                error(R::Settings, "Could not get/set settings from/on resource."),
                "gstudpsrc.c(1795):\nbind failed: Error binding to address: Cannot assign requested address",
                None,
            ),
            Some(Cause::CannotListen),
        ),
        // A local file has no server, even if the text contains a status.
        (
            Kind::File,
            Message("qtdemux", error(S::Demux, "This file contains no playable streams."), qtdemux, None),
            Some(Cause::NoTracks),
        ),
        (
            Kind::File,
            Message(
                "qtdemux",
                error(S::Demux, "This file is corrupt and cannot be played."),
                "qtdemux.c(509): /films/tls certificate (404) timed out.mp4",
                None,
            ),
            Some(Cause::Damaged),
        ),
        (
            Kind::File,
            Message("filesrc", error(R::NotFound, "Resource not found."), "gstfilesrc.c(1)", None),
            Some(Cause::NotFound),
        ),
        (
            Kind::File,
            Message("decodebin", error(S::WrongType, "This appears to be a text file"), "gstdecodebin2.c(2891)", None),
            Some(Cause::NotMedia),
        ),
        (
            Kind::File,
            Message("typefind", error(S::TypeNotFound, "Could not determine type of stream."), "", None),
            Some(Cause::NotMedia),
        ),
        (
            Kind::File,
            Message(
                "h264parse",
                error(S::WrongType, "No valid frames found before end of stream"),
                "gstbaseparse.c(1423)",
                None,
            ),
            Some(Cause::Damaged),
        ),
        (Kind::File, misleading(error(S::Decode, "x")), Some(Cause::Damaged)),
        (Kind::File, misleading(error(S::DecryptNokey, "x")), Some(Cause::Encrypted)),
        (Kind::File, misleading(error(S::CodecNotFound, "x")), Some(Cause::MissingPlugin)),
        (Kind::Http, misleading(error(C::Negotiation, "x")), Some(Cause::Format)),
        (Kind::Rtsp, misleading(error(S::Failed, "Internal data stream error.")), None),
        (
            Kind::Rtsp,
            Message(
                "udpsrc",
                error(S::Failed, "Internal data stream error."),
                "gstbasesrc.c(3132)",
                Some(("flow-return", -4)),
            ),
            Some(Cause::Format),
        ),
        (
            Kind::Rtsp,
            Message(
                "udpsrc",
                error(S::Failed, "Internal data stream error."),
                "gstbasesrc.c(3132)",
                Some(("flow-return", -5)),
            ),
            None,
        ),
    ] {
        let end = message.end(kind);
        let found = match &end {
            Some(End::Failed { kind, .. }) => Some(*kind),
            _ => None,
        };
        assert_eq!(found, expected, "{kind:?}: {:?} {}: {end:?}", message.1, message.2);
    }
}
