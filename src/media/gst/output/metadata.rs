//! Labels beside pictures that stay as they are: KLV packets in MPEG-TS, and a WebVTT rendition of an HLS playlist.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gstreamer as gst;
use gstreamer_app as gst_app;
use parking_lot::Mutex;
use serde_json::json;

use super::composition::LabelSource;
use crate::overlay::LabelContent;
use touchline_core::time::NANOS_PER_SECOND;

/// The universal label of the packets (SMPTE 336M), in the range for experimental metadata.
pub const KLV_KEY: [u8; 16] = *b"\x06\x0e\x2b\x34\x01\x01\x01\x01\x0f\x00TLABEL";

/// The most probable classes in a packet.
const CLASSES_MAX: usize = 5;

/// The playlist of the rendition, and the one that names it beside the pictures.
const LABELS_PLAYLIST: &str = "labels.m3u8";
const MASTER_PLAYLIST: &str = "master.m3u8";

/// Ticks of the clock of MPEG-TS a second, and bits of its counter.
const MPEG_TICKS: u64 = 90_000;
const MPEG_BITS: u32 = 33;

/// What GStreamer's MPEG-TS muxer adds to all times, seconds.
const MUXER_OFFSET_S: u64 = 3600;

/// A label as a KLV packet: the key, the length (BER), and a value in JSON.
fn klv_packet(label: Option<&LabelContent>) -> Vec<u8> {
    let value = match label {
        None => json!({ "class": null }),
        Some(LabelContent { answer, classes, is_unknown }) => {
            let rounded = |probability: f32| (f64::from(probability) * 1e4).round() / 1e4;
            let classes: serde_json::Map<_, _> =
                classes.iter().take(CLASSES_MAX).map(|c| (c.name.clone(), rounded(c.probability).into())).collect();
            json!({
                "class": answer.name, "probability": rounded(answer.probability), "unknown": is_unknown, "classes": classes,
            })
        }
    };
    let value = value.to_string().into_bytes();
    let mut packet = KLV_KEY.to_vec();
    match u8::try_from(value.len()) {
        Ok(length @ ..0x80) => packet.push(length),
        _ => {
            let length = u32::try_from(value.len()).expect("names of classes are short").to_be_bytes();
            packet.push(0x84);
            packet.extend(length);
        }
    }
    packet.extend(value);
    packet
}

/// Writes a packet for each picture, with the label of the picture's time.
pub(super) struct KlvTrack {
    input: gst_app::AppSrc,
    source: Arc<dyn LabelSource>,
    /// The time of the last packet.
    last_ns: u64,
}

impl KlvTrack {
    /// The format of the track.
    pub const CAPS: &str = "meta/x-klv,parsed=true";

    pub fn new(input: gst_app::AppSrc, source: Arc<dyn LabelSource>) -> Self {
        input.set_format(gst::Format::Time);
        Self { input, source, last_ns: 0 }
    }

    /// Adds the packet of the unit that is decoded at `ns` of the pipeline. The muxer waits for both.
    pub fn add(&mut self, ns: u64) {
        self.last_ns = self.last_ns.max(ns);
        let mut buffer = gst::Buffer::from_slice(klv_packet(self.source.label(self.last_ns).as_deref()));
        let time = gst::ClockTime::from_nseconds(self.last_ns);
        let fields = buffer.get_mut().expect("the buffer is new");
        fields.set_pts(time);
        fields.set_dts(time);
        // Fails after an error only, which the pipeline reports.
        let _ = self.input.push_buffer(buffer);
    }

    pub fn end(&self) {
        // As above.
        let _ = self.input.end_of_stream();
    }
}

/// The WebVTT rendition of a playlist: for each segment of pictures one of labels, with the same time.
pub(super) struct Rendition {
    dir: PathBuf,
    /// The segments' names begin with it.
    name: String,
    source: Arc<dyn LabelSource>,
    /// Segments in the playlist, and files that stay; 0: all.
    listed: usize,
    kept: usize,
    state: Mutex<RenditionState>,
}

#[derive(Default)]
struct RenditionState {
    /// Running time at which the open segment began, ns.
    began_ns: u64,
    /// Complete segments so far.
    count: usize,
    /// Lengths of the segments in the playlist, ns.
    lengths_ns: VecDeque<u64>,
}

impl Rendition {
    /// The rendition of the playlist in `dir` whose segments' names begin with `name`. `listed` and `kept` are those of the pictures.
    pub fn new(dir: &Path, name: &str, source: Arc<dyn LabelSource>, (listed, kept): (u32, u32)) -> Self {
        let (dir, name) = (dir.to_owned(), name.to_owned());
        Self { dir, name, source, listed: listed as usize, kept: kept as usize, state: Mutex::default() }
    }

    /// Takes a message of the pipeline. Called on its threads.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn take(&self, message: &gst::Message) -> io::Result<()> {
        let Some(event) = message.structure() else { return Ok(()) };
        let Ok(at) = event.get::<gst::ClockTime>("running-time") else { return Ok(()) };
        match event.name().as_str() {
            "splitmuxsink-fragment-opened" => self.state.lock().began_ns = at.nseconds(),
            "splitmuxsink-fragment-closed" => return self.close(at.nseconds()),
            _ => {}
        }
        Ok(())
    }

    /// Writes the labels of the segment that ends at `end_ns`, and the playlists.
    fn close(&self, end_ns: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let (number, length_ns) = (state.count, end_ns.saturating_sub(state.began_ns).max(1));
        fs::write(self.segment(number, "vtt"), webvtt(&*self.source, state.began_ns, end_ns))?;
        state.count += 1;
        state.lengths_ns.push_back(length_ns);
        if self.listed > 0 && state.lengths_ns.len() > self.listed {
            state.lengths_ns.pop_front();
        }
        if self.kept > 0 && number >= self.kept {
            // It may have been removed by hand.
            let _ = fs::remove_file(self.segment(number - self.kept, "vtt"));
        }
        self.list(&state, false)?;
        if number == 0 {
            let bytes = fs::metadata(self.segment(0, "ts")).map_or(0, |file| file.len());
            self.name_both(bytes * 8 * NANOS_PER_SECOND / length_ns)?;
        }
        Ok(())
    }

    fn segment(&self, number: usize, extension: &str) -> PathBuf {
        self.dir.join(format!("{}-{number:05}.{extension}", self.name))
    }

    /// Completes the playlist.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn end(&self) -> io::Result<()> {
        self.list(&self.state.lock(), true)
    }

    fn list(&self, state: &RenditionState, is_complete: bool) -> io::Result<()> {
        let first = state.count - state.lengths_ns.len();
        let longest_s = state.lengths_ns.iter().map(|ns| ns.div_ceil(NANOS_PER_SECOND)).max().unwrap_or(1);
        let mut text =
            format!("#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-TARGETDURATION:{longest_s}\n");
        for (number, ns) in (first..).zip(&state.lengths_ns) {
            text += &format!("#EXTINF:{:.3},\n{}-{number:05}.vtt\n", *ns as f64 / 1e9, self.name);
        }
        if is_complete {
            text += "#EXT-X-ENDLIST\n";
        }
        self.replace(LABELS_PLAYLIST, &text)
    }

    /// Writes the playlist that names pictures, of `bits` a second, and labels.
    fn name_both(&self, bits: u64) -> io::Result<()> {
        let pictures = super::PLAYLIST;
        let text = format!(
            "#EXTM3U\n#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"labels\",NAME=\"Sport\",LANGUAGE=\"en\",DEFAULT=YES,AUTOSELECT=YES,\
             URI=\"{LABELS_PLAYLIST}\"\n#EXT-X-STREAM-INF:BANDWIDTH={},SUBTITLES=\"labels\"\n{pictures}\n",
            bits.max(1)
        );
        self.replace(MASTER_PLAYLIST, &text)
    }

    /// Players read a playlist at any time.
    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let partial = self.dir.join(format!("{name}.part"));
        fs::write(&partial, text)?;
        fs::rename(partial, self.dir.join(name))
    }
}

/// The labels between two running times as WebVTT. Its times begin with the segment (RFC 8216, 3.5).
fn webvtt(source: &dyn LabelSource, begin_ns: u64, end_ns: u64) -> String {
    let ticks = (u128::from(begin_ns) * u128::from(MPEG_TICKS) / u128::from(NANOS_PER_SECOND)) as u64;
    let ticks = (ticks + MUXER_OFFSET_S * MPEG_TICKS) % (1 << MPEG_BITS);
    let mut text = format!("WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:{ticks},LOCAL:00:00:00.000\n");
    let mut cue: Option<(u64, Arc<LabelContent>)> = None;
    let mut put = |from_ns: u64, to_ns: u64, label: &LabelContent| {
        let time = |ns: u64| {
            let ms = (ns - begin_ns) / 1_000_000;
            format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
        };
        let percent = (label.answer.probability * 100.0).round();
        let title = touchline_core::markup::escaped(label.answer.title.chars());
        text += &format!("\n{} --> {}\n{title} {percent} %\n", time(from_ns), time(to_ns));
    };
    // A label changes where a second of the source begins, which may be anywhere on the output.
    let mut at_ns = begin_ns;
    while at_ns < end_ns {
        let label = source.label(at_ns);
        let is_same = matches!((&cue, &label), (Some((_, a)), Some(b)) if Arc::ptr_eq(a, b) || a == b);
        if !is_same {
            if let Some((from_ns, shown)) = cue.take() {
                put(from_ns, at_ns, &shown);
            }
            cue = label.map(|label| (at_ns, label));
        }
        at_ns += STEP_NS;
    }
    if let Some((from_ns, shown)) = cue {
        put(from_ns, end_ns, &shown);
    }
    text
}

/// Accuracy of the begin of a cue, ns: a picture.
const STEP_NS: u64 = NANOS_PER_SECOND / 50;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gst::output::pipeline::BEGIN_NS;
    use crate::overlay::LabelledClass;

    fn label(name: &str, probability: f32) -> LabelContent {
        let answer = LabelledClass { name: name.into(), title: "A & B".into(), probability, colour: [0; 3] };
        LabelContent { classes: vec![answer.clone()], answer, is_unknown: false }
    }

    #[test]
    fn a_packet_has_a_key_a_length_and_json() {
        let packet = klv_packet(Some(&label("tennis", 0.97531)));
        assert_eq!(packet[..16], KLV_KEY);
        let value: serde_json::Value = serde_json::from_slice(&packet[17..]).unwrap();
        assert_eq!(usize::from(packet[16]), packet.len() - 17);
        assert_eq!(
            value,
            json!({ "class": "tennis", "probability": 0.9753, "unknown": false, "classes": { "tennis": 0.9753 } })
        );
        let long = klv_packet(Some(&label(&"x".repeat(200), 0.5)));
        let length = u32::from_be_bytes(long[17..21].try_into().unwrap());
        assert_eq!((long[16], length as usize), (0x84, long.len() - 21));
        assert_eq!(&klv_packet(None)[17..], br#"{"class":null}"#);
    }

    struct Labels;

    impl LabelSource for Labels {
        fn label(&self, out_ns: u64) -> Option<Arc<LabelContent>> {
            match (out_ns - BEGIN_NS) / NANOS_PER_SECOND {
                0 | 1 => Some(Arc::new(label("tennis", 0.5))),
                2 => None,
                _ => Some(Arc::new(label("golf", 0.755))),
            }
        }
    }

    #[test]
    fn cues_change_with_the_label_and_the_clock_of_the_segment_wraps() {
        let s = NANOS_PER_SECOND;
        let text = webvtt(&Labels, BEGIN_NS + s / 2, BEGIN_NS + 4 * s);
        assert_eq!(
            text,
            "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:648045000,LOCAL:00:00:00.000\n\n00:00:00.000 --> 00:00:01.500\nA &amp; B 50 %\n\n\
             00:00:02.500 --> 00:00:03.500\nA &amp; B 76 %\n"
        );
        let late = webvtt(&Labels, BEGIN_NS + 90_000 * s, BEGIN_NS + 90_001 * s);
        assert!(late.contains(&format!("MPEGTS:{},", 97_200 * MPEG_TICKS - (1 << MPEG_BITS))), "{late}");
    }

    #[test]
    fn the_rendition_follows_the_segments() {
        let dir = tempfile::tempdir().unwrap();
        let rendition = Rendition::new(dir.path(), "a", Arc::new(Labels), (2, 3));
        // The pictures of the first segment.
        fs::write(dir.path().join("a-00000.ts"), [0; 188]).unwrap();
        for second in 0..5 {
            rendition.state.lock().began_ns = BEGIN_NS + second * NANOS_PER_SECOND;
            rendition.close(BEGIN_NS + (second + 1) * NANOS_PER_SECOND).unwrap();
        }
        rendition.end().unwrap();
        let list = fs::read_to_string(dir.path().join(LABELS_PLAYLIST)).unwrap();
        let expected = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.000,\na-00003.vtt\n\
                        #EXTINF:1.000,\na-00004.vtt\n#EXT-X-ENDLIST\n";
        assert_eq!(list, expected);
        let both = fs::read_to_string(dir.path().join(MASTER_PLAYLIST)).unwrap();
        assert!(both.contains("BANDWIDTH=1504,") && both.ends_with("\nlive.m3u8\n"), "{both}");
        let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(
            files,
            ["a-00000.ts", "a-00002.vtt", "a-00003.vtt", "a-00004.vtt", LABELS_PLAYLIST, MASTER_PLAYLIST]
        );
    }
}
