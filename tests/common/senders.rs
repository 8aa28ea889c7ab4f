//! Live senders: a GStreamer pipeline that sends MPEG-TS over SRT or UDP.

use gstreamer as gst;
use gstreamer::prelude::*;

/// A pipeline that sends a moving pattern and a tone until dropped.
pub struct Sender {
    pipeline: gst::Element,
    url: String,
}

const MEDIA: &str = "videotestsrc is-live=true pattern=pinwheel horizontal-speed=2 \
    ! video/x-raw,width=320,height=240,framerate=25/1 \
    ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! h264parse config-interval=-1 ! mux. \
    audiotestsrc is-live=true ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! mux. \
    mpegtsmux name=mux alignment=7";

impl Sender {
    fn start(sink: &str, url: String) -> Self {
        super::init();
        let pipeline = gst::parse::launch(&format!("{MEDIA} ! {sink}")).expect("the sender's pipeline parses");
        pipeline.set_state(gst::State::Playing).expect("the sender starts");
        Self { pipeline, url }
    }

    /// Listens for SRT callers.
    pub fn srt() -> Self {
        let port = super::free_udp_port();
        Self::start(
            &format!("srtsink uri=srt://127.0.0.1:{port}?mode=listener wait-for-connection=false sync=false"),
            format!("srt://127.0.0.1:{port}?mode=caller"),
        )
    }

    /// Sends datagrams.
    pub fn udp() -> Self {
        let port = super::free_udp_port();
        Self::start(&format!("udpsink host=127.0.0.1 port={port} sync=false"), format!("udp://127.0.0.1:{port}"))
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Setting a pipeline to null cannot fail in a way a test could act on.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
