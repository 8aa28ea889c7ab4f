//! A sender of MPEG-TS over SRT or UDP that does what it is told: loses a track, changes its size, jumps, dies, comes back.

use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;

const VIDEO_PID: u16 = 65;
const AUDIO_PID: u16 = 66;

/// The packet as it goes out: one of a track that is kept back is only a clock reference, if it has one.
fn without(packet: &[u8], muted: &[u16]) -> Vec<u8> {
    let pid = u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]);
    if !muted.contains(&pid) {
        return packet.to_vec();
    }
    let has_clock = packet[3] & 0x20 != 0 && packet[4] >= 7 && packet[5] & 0x10 != 0;
    if !has_clock {
        return Vec::new();
    }
    // The adaptation field alone, stuffed to the end; no unit begins in it.
    let mut clock = vec![0xff; 188];
    clock[..12].copy_from_slice(&packet[..12]);
    clock[1] &= 0xbf;
    (clock[3], clock[4], clock[5]) = (packet[3] & 0x0f | 0x20, 183, 0x10);
    clock
}

/// Sends a moving pattern and a tone until dropped.
pub struct TsSender {
    pipeline: Option<gst::Pipeline>,
    sink: String,
    url: String,
    has_audio: bool,
    /// Where time stamps begin, ns.
    from_ns: i64,
    /// PIDs whose packets are taken out.
    muted: Arc<Mutex<Vec<u16>>>,
}

impl TsSender {
    /// Listens for SRT callers.
    pub fn srt() -> Self {
        let port = super::free_udp_port();
        Self::new(
            format!("srtsink uri=srt://127.0.0.1:{port}?mode=listener wait-for-connection=false sync=false"),
            format!("srt://127.0.0.1:{port}?mode=caller"),
        )
    }

    /// Sends datagrams.
    pub fn udp() -> Self {
        let port = super::free_udp_port();
        Self::new(format!("udpsink host=127.0.0.1 port={port} sync=false"), format!("udp://127.0.0.1:{port}"))
    }

    fn new(sink: String, url: String) -> Self {
        super::init();
        Self { pipeline: None, sink, url, has_audio: true, from_ns: 0, muted: Arc::default() }
    }

    /// Time stamps begin here, for instance shortly before 33 bits are full.
    pub fn from_ns(mut self, from_ns: u64) -> Self {
        self.from_ns = from_ns as i64;
        self
    }

    /// From the next start on there is sound, or none.
    pub fn with_audio(&mut self, has_audio: bool) {
        self.has_audio = has_audio;
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Begins to send, anew if it was sending.
    pub fn start(&mut self) {
        self.stop();
        let audio = if self.has_audio {
            "audiotestsrc is-live=true ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse \
             ! mux.sink_66"
        } else {
            ""
        };
        let line = format!(
            "videotestsrc is-live=true pattern=smpte horizontal-speed=2 ! capsfilter name=size \
             caps=video/x-raw,width=320,height=240,framerate=25/1 \
             ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! h264parse config-interval=-1 \
             ! mux.sink_65 {audio} mpegtsmux name=mux alignment=7 ! identity name=out ! {}",
            self.sink
        );
        let pipeline = gst::parse::launch(&line).expect("the sender's pipeline parses");
        let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
        let pad = pipeline.by_name("out").and_then(|out| out.static_pad("src")).expect("the identity is there");
        let muted = self.muted.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let muted = muted.lock().expect("no test panics with it");
            if let Some(buffer) = info.buffer_mut().filter(|_| !muted.is_empty()) {
                let map = buffer.map_readable().expect("packets can be read");
                let packets: Vec<u8> = map.chunks(188).flat_map(|packet| without(packet, &muted)).collect();
                drop(map);
                let mut changed = gst::Buffer::from_mut_slice(packets);
                // Only the times are copied; what goes wrong with that would show as a stream without them.
                let _ = buffer.copy_into(changed.make_mut(), gst::BufferCopyFlags::TIMESTAMPS, ..);
                *buffer = changed;
            }
            gst::PadProbeReturn::Ok
        });
        self.pipeline = Some(pipeline);
        self.shift(self.from_ns);
        self.pipeline().set_state(gst::State::Playing).expect("the sender starts");
    }

    /// Sends no more; SRT callers lose their connection.
    pub fn stop(&mut self) {
        if let Some(pipeline) = self.pipeline.take() {
            // Setting a pipeline to null cannot fail in a way a test could act on.
            let _ = pipeline.set_state(gst::State::Null);
        }
    }

    fn pipeline(&self) -> &gst::Pipeline {
        self.pipeline.as_ref().expect("the sender was started")
    }

    /// Sends the track, or takes its packets out of the stream.
    pub fn send(&self, track: &str, on: bool) {
        let pid = if track == "video" { VIDEO_PID } else { AUDIO_PID };
        let mut muted = self.muted.lock().expect("no test panics with it");
        muted.retain(|p| *p != pid);
        if !on {
            muted.push(pid);
        }
    }

    pub fn size(&self, width: i32, height: i32) {
        let caps = gst::Caps::builder("video/x-raw")
            .field("width", width)
            .field("height", height)
            .field("framerate", gst::Fraction::new(25, 1))
            .build();
        self.pipeline().by_name("size").expect("the filter is there").set_property("caps", caps);
    }

    /// All time stamps lie `by_ns` later (earlier if negative) than the pipeline's own from now on.
    pub fn shift(&self, by_ns: i64) {
        let mux = self.pipeline().by_name("mux").expect("the multiplexer is there");
        mux.sink_pads().iter().for_each(|pad| pad.set_offset(by_ns));
    }
}

impl Drop for TsSender {
    fn drop(&mut self) {
        self.stop();
    }
}
