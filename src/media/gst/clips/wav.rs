//! The sound of a clip as a WAV file, with the rate and the channels of the source: 16 bits if the source has no more, else 32-bit floating
//! point.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_audio as gst_audio;

use super::{ClipError, partial, publish};
use crate::gst::causes::first_sentence;
use crate::wav::{SampleFormat, WavWriter};
use touchline_core::redact;

/// How long the next piece of sound may take: it is decoded many times faster than it plays.
const LIMIT: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// Both formats hold the 16 bits of most sources; floating point also holds 24 bits and the results of decoders.
const PIPELINE: &str = "filesrc name=from ! decodebin ! audioconvert ! \
                        appsink name=to sync=false max-buffers=16 caps=audio/x-raw,format={S16LE,F32LE},layout=interleaved";

/// Decodes the sound of the media file `media` into `file` in the same directory. Returns its size, bytes.
///
/// # Errors
/// If the sound cannot be decoded or written. No part of a file stays.
pub fn wav(dir: &Path, media: &str, file: &str) -> Result<u64, ClipError> {
    let to = partial(dir, file);
    let written = decode(&dir.join(media), &to).and_then(|()| Ok(publish(dir, file)?));
    if written.is_err() {
        // It may not have been created.
        let _ = std::fs::remove_file(to);
    }
    written
}

fn failed(e: &dyn std::fmt::Display) -> ClipError {
    ClipError::Failed(format!("cannot write the sound: {e}"))
}

fn decode(media: &Path, to: &Path) -> Result<(), ClipError> {
    crate::gst::init().map_err(|e| failed(&e))?;
    let pipeline = gst::parse::launch(PIPELINE).map_err(|e| failed(&e))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| failed(&"not a pipeline"))?;
    pipeline.by_name("from").expect("named above").set_property("location", media);
    let sink = pipeline.by_name("to").and_downcast::<gst_app::AppSink>().expect("named above");
    let result = match pipeline.set_state(gst::State::Playing) {
        Err(e) => Err(failed(&e)),
        Ok(_) => copy(&pipeline, &sink, to),
    };
    // A failure leaves nothing to stop.
    let _ = pipeline.set_state(gst::State::Null);
    result
}

/// Writes what `sink` gets until the end of the sound.
fn copy(pipeline: &gst::Pipeline, sink: &gst_app::AppSink, to: &Path) -> Result<(), ClipError> {
    let bus = pipeline.bus().expect("a pipeline has a bus");
    let mut open = None;
    let mut values = Vec::new();
    loop {
        let Some(sample) = sink.try_pull_sample(LIMIT) else {
            if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error])
                && let gst::MessageView::Error(e) = message.view()
            {
                return Err(failed(&redact::text(first_sentence(e.error().message()))));
            }
            return match &mut open {
                Some((writer, _)) if sink.is_eos() => Ok(WavWriter::flush(writer)?),
                None if sink.is_eos() => Err(failed(&"the media have no sound")),
                _ => Err(failed(&"decoding makes no progress")),
            };
        };
        let (Some(caps), Some(buffer)) = (sample.caps(), sample.buffer()) else { continue };
        let info = gst_audio::AudioInfo::from_caps(caps).map_err(|e| failed(&e))?;
        let is_float = info.format() == gst_audio::AudioFormat::F32le;
        if open.is_none() {
            let format = if is_float { SampleFormat::F32 } else { SampleFormat::S16 };
            let channels = u16::try_from(info.channels()).map_err(|e| failed(&e))?;
            let writer = WavWriter::new(BufWriter::new(File::create(to)?), info.rate(), channels, format)?;
            open = Some((writer, (info.rate(), info.channels())));
        }
        let Some((writer, form)) = &mut open else { continue };
        if *form != (info.rate(), info.channels()) {
            return Err(failed(&"the sound changes its rate or its channels"));
        }
        let map = buffer.map_readable().map_err(|e| failed(&e))?;
        values.clear();
        if is_float {
            values.extend(map.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        } else {
            values.extend(map.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0));
        }
        writer.write(&values)?;
    }
}
