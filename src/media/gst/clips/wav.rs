//! The sound of a clip as a WAV file: 16 bits, with the rate and the channels of the source.

use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::{ClipError, partial, publish};
use crate::gst::causes::first_sentence;
use touchline_core::redact;

/// How long decoding may take. Sound is decoded many times faster than it plays, and a clip is no longer than a ring.
const LIMIT: gst::ClockTime = gst::ClockTime::from_seconds(600);

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

fn decode(media: &Path, to: &Path) -> Result<(), ClipError> {
    let failed = |e: &dyn std::fmt::Display| ClipError::Failed(format!("cannot write the sound: {e}"));
    crate::gst::init().map_err(|e| failed(&e))?;
    let text = "filesrc name=from ! decodebin ! audioconvert ! audio/x-raw,format=S16LE ! wavenc ! filesink name=to";
    let pipeline = gst::parse::launch(text).map_err(|e| failed(&e))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| failed(&"not a pipeline"))?;
    for (name, path) in [("from", media), ("to", to)] {
        pipeline.by_name(name).expect("named above").set_property("location", path);
    }
    let bus = pipeline.bus().expect("a pipeline has a bus");
    let result = match pipeline.set_state(gst::State::Playing) {
        Err(e) => Err(failed(&e)),
        Ok(_) => {
            // The sizes in the header are written at the end of the stream.
            let message = bus.timed_pop_filtered(LIMIT, &[gst::MessageType::Eos, gst::MessageType::Error]);
            match message.as_ref().map(|message| message.view()) {
                Some(gst::MessageView::Eos(_)) => Ok(()),
                Some(gst::MessageView::Error(e)) => Err(match e.error().kind::<gst::ResourceError>() {
                    Some(gst::ResourceError::NoSpaceLeft) => ClipError::NoSpace,
                    _ => failed(&redact::text(first_sentence(e.error().message()))),
                }),
                _ => Err(failed(&"decoding stands still")),
            }
        }
    };
    // A failure leaves nothing to stop.
    let _ = pipeline.set_state(gst::State::Null);
    result
}
