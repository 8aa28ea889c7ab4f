//! Finds out what is wrong with a recording on disk, from GStreamer's error codes and the file itself, never from texts.

use gstreamer as gst;

use super::causes::{failed, first_sentence};
use crate::uri::Location;
use crate::wholeness;
use touchline_core::cause::Cause;
use touchline_core::item::End;

pub(super) const COPY_ADVICE: &str = "check how the recording was made or copied";

/// The end for the recording at `location` if its file is cut off.
pub(super) fn cut_off(location: &Location) -> Option<End> {
    let path = url::Url::parse(&location.uri).ok()?.to_file_path().ok()?;
    let cut = wholeness::cut_off(&path)?;
    Some(failed(Cause::Damaged, format!("the file is cut off: {cut}"), COPY_ADVICE))
}

/// The end for a recording that could not be read, where no element reports why.
pub(super) fn given_up() -> End {
    failed(Cause::Damaged, "the recording is damaged: its container cannot be read", COPY_ADVICE)
}

/// The end for an error of the pipeline that plays the file at `location`. `is_media`: a demuxer, a parser or a decoder was found for it.
pub(super) fn failure(location: &Location, error: &gst::glib::Error, is_media: bool) -> Option<End> {
    if let Some(end) = cut_off(location) {
        return Some(end);
    }
    match error.kind::<gst::ResourceError>() {
        Some(gst::ResourceError::NotFound) => return Some(failed(Cause::NotFound, "no such file", "check the path")),
        Some(_) => {
            let cause = format!("the file cannot be read: {}", first_sentence(error.message()));
            return Some(failed(Cause::Other, cause, "check the file's permissions and the disk"));
        }
        None => {}
    }
    match error.kind::<gst::StreamError>()? {
        gst::StreamError::TypeNotFound | gst::StreamError::WrongType if !is_media => {
            Some(failed(Cause::NotMedia, "not a media file", "check what the file holds; `ffprobe` can tell"))
        }
        gst::StreamError::Decrypt | gst::StreamError::DecryptNokey => {
            Some(failed(Cause::Encrypted, "the media are encrypted", "give a recording without DRM"))
        }
        gst::StreamError::CodecNotFound | gst::StreamError::NotImplemented => None,
        _ => {
            let cause = format!("the recording is damaged: {}", first_sentence(error.message()));
            Some(failed(Cause::Damaged, cause, COPY_ADVICE))
        }
    }
}
