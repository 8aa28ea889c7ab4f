//! A sender of MPEG-TS over SRT or UDP with faults on demand: it drops a track, changes its size, jumps in time, stops, restarts.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use parking_lot::Mutex;

const VIDEO_PID: u16 = 65;
const AUDIO_PID: u16 = 66;

/// The packet to send. A packet of a muted PID is reduced to its clock reference, or dropped if it has none.
fn without(packet: &[u8], muted: &[u16]) -> Vec<u8> {
    let pid = u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]);
    if !muted.contains(&pid) {
        return packet.to_vec();
    }
    let has_clock = packet[3] & 0x20 != 0 && packet[4] >= 7 && packet[5] & 0x10 != 0;
    if !has_clock {
        return Vec::new();
    }
    // Only the adaptation field, stuffed to the end; no unit starts in it.
    let mut clock = vec![0xff; 188];
    clock[..12].copy_from_slice(&packet[..12]);
    clock[1] &= 0xbf;
    (clock[3], clock[4], clock[5]) = (packet[3] & 0x0f | 0x20, 183, 0x10);
    clock
}

/// Time stamps wrap after this many ticks of 90 kHz.
const WRAP: u64 = 1 << 33;

/// A time in ticks of 90 kHz. Negative times wrap.
fn ticks(ns: i64) -> u64 {
    (ns / 100_000 * 9).rem_euclid(WRAP as i64) as u64
}

/// Adds `by` ticks to the clock reference and the time stamps in a packet, if there are any.
fn shift(packet: &mut [u8], by: u64) {
    if by == 0 {
        return;
    }
    let has_field = packet[3] & 0x20 != 0;
    if has_field && packet[4] >= 7 && packet[5] & 0x10 != 0 {
        let base = u64::from(u32::from_be_bytes([packet[6], packet[7], packet[8], packet[9]])) << 1;
        let base = (base + u64::from(packet[10] >> 7) + by) % WRAP;
        packet[6..10].copy_from_slice(&((base >> 1) as u32).to_be_bytes());
        packet[10] = packet[10] & 0x7f | ((base & 1) as u8) << 7;
    }
    let payload = if has_field { 5 + usize::from(packet[4]) } else { 4 };
    let starts_unit = packet[1] & 0x40 != 0 && packet[3] & 0x10 != 0;
    // The header of a packetised elementary stream of sound or pictures (ISO/IEC 13818-1, 2.4.3.7).
    let Some(header) = packet.get_mut(payload..).filter(|h| starts_unit && h.len() >= 19 && h[..3] == [0, 0, 1]) else {
        return;
    };
    if !(0xc0..=0xef).contains(&header[3]) {
        return;
    }
    for (flag, at) in [(0x80, 9), (0x40, 14)] {
        if header[7] & flag != 0 {
            let b = |i: usize| u64::from(header[at + i]);
            let time = (b(0) >> 1 & 7) << 30 | b(1) << 22 | (b(2) >> 1) << 15 | b(3) << 7 | b(4) >> 1;
            let time = (time + by) % WRAP;
            header[at] = header[at] & 0xf1 | ((time >> 30 & 7) << 1) as u8;
            header[at + 1] = (time >> 22) as u8;
            header[at + 2] = ((time >> 15) << 1) as u8 | 1;
            header[at + 3] = (time >> 7) as u8;
            header[at + 4] = (time << 1) as u8 | 1;
        }
    }
}

/// Sends a moving pattern and a tone until dropped.
pub struct TsSender {
    pipeline: Option<gst::Pipeline>,
    sink: String,
    url: String,
    has_audio: bool,
    /// The first time stamp, in ticks of 90 kHz.
    from: u64,
    edits: Arc<Mutex<Edits>>,
}

/// The changes to the packets before they are sent.
#[derive(Default)]
struct Edits {
    /// The PIDs whose packets are removed.
    muted: Vec<u16>,
    /// Ticks of 90 kHz that are added to all time stamps and clock references.
    shift: u64,
}

impl TsSender {
    /// Listens for SRT callers.
    pub fn srt() -> Self {
        Self::srt_at("127.0.0.1")
    }

    /// Like [`TsSender::srt`], on another address of this machine.
    pub fn srt_at(host: &str) -> Self {
        let port = super::free_udp_port();
        Self::new(
            format!("srtsink uri=srt://{host}:{port}?mode=listener wait-for-connection=false sync=false"),
            format!("srt://{host}:{port}?mode=caller"),
        )
    }

    /// Sends datagrams.
    pub fn udp() -> Self {
        Self::udp_to("127.0.0.1")
    }

    /// Like [`TsSender::udp`], to another address.
    pub fn udp_to(host: &str) -> Self {
        let port = super::free_udp_port();
        Self::new(format!("udpsink host={host} port={port} sync=false"), format!("udp://{host}:{port}"))
    }

    fn new(sink: String, url: String) -> Self {
        super::init();
        Self { pipeline: None, sink, url, has_audio: true, from: 0, edits: Arc::default() }
    }

    /// Sets the first time stamp, for example shortly before 33 bits wrap.
    pub fn beginning_at(mut self, from_ns: u64) -> Self {
        self.from = ticks(from_ns as i64);
        self
    }

    /// Adds or removes the sound from the next start on.
    pub fn with_audio(&mut self, has_audio: bool) {
        self.has_audio = has_audio;
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts sending, or restarts.
    pub fn start(&mut self) {
        self.stop();
        let audio = if self.has_audio {
            "audiotestsrc is-live=true ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse \
             ! mux.sink_66"
        } else {
            ""
        };
        let line = format!(
            "videotestsrc is-live=true pattern=pinwheel horizontal-speed=2 ! capsfilter name=size \
             caps=video/x-raw,width=320,height=240,framerate=25/1 \
             ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! h264parse config-interval=-1 \
             ! mux.sink_65 {audio} mpegtsmux name=mux alignment=7 ! identity name=out ! {}",
            self.sink
        );
        let pipeline = gst::parse::launch(&line).expect("the sender's pipeline parses");
        let pipeline = pipeline.downcast::<gst::Pipeline>().expect("a pipeline");
        let pad = pipeline.by_name("out").and_then(|out| out.static_pad("src")).expect("the identity exists");
        let edits = self.edits.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let edits = edits.lock();
            if let Some(buffer) = info.buffer_mut() {
                let map = buffer.map_readable().expect("packets can be read");
                let mut packets: Vec<u8> = map.chunks(188).flat_map(|packet| without(packet, &edits.muted)).collect();
                packets.chunks_mut(188).for_each(|packet| shift(packet, edits.shift));
                drop(map);
                let mut changed = gst::Buffer::from_mut_slice(packets);
                // Copies only the times. A failure would show as a stream without times.
                let _ = buffer.copy_into(changed.make_mut(), gst::BufferCopyFlags::TIMESTAMPS, ..);
                *buffer = changed;
            }
            gst::PadProbeReturn::Ok
        });
        self.pipeline = Some(pipeline);
        self.shift(0);
        self.pipeline().set_state(gst::State::Playing).expect("the sender starts");
    }

    /// Stops sending. SRT callers lose their connection.
    pub fn stop(&mut self) {
        if let Some(pipeline) = self.pipeline.take() {
            // Setting a pipeline to null cannot fail in a way a test could act on.
            let _ = pipeline.set_state(gst::State::Null);
        }
    }

    fn pipeline(&self) -> &gst::Pipeline {
        self.pipeline.as_ref().expect("the sender was started")
    }

    /// Sends the track or removes its packets from the stream.
    pub fn send(&self, track: &str, on: bool) {
        let pid = if track == "video" { VIDEO_PID } else { AUDIO_PID };
        let mut edits = self.edits.lock();
        edits.muted.retain(|p| *p != pid);
        if !on {
            edits.muted.push(pid);
        }
    }

    pub fn size(&self, width: i32, height: i32) {
        let caps = gst::Caps::builder("video/x-raw")
            .field("width", width)
            .field("height", height)
            .field("framerate", gst::Fraction::new(25, 1))
            .build();
        self.pipeline().by_name("size").expect("the filter exists").set_property("caps", caps);
    }

    /// Moves all time stamps `by_ns` later than their original values, or earlier if negative.
    pub fn shift(&self, by_ns: i64) {
        self.edits.lock().shift = (self.from + ticks(by_ns)) % WRAP;
    }
}

impl Drop for TsSender {
    fn drop(&mut self) {
        self.stop();
    }
}
