//! Diagnoses recordings on disk from GStreamer's error codes and the file itself, never from texts.

use std::path::PathBuf;

use gstreamer as gst;
use touchline_core::error::{Error, Result};

use super::causes::{failed, first_sentence};
use crate::uri::{Kind, Location};
use crate::{timecode_track, truncation};
use touchline_core::cause::Cause;
use touchline_core::item::End;
use touchline_core::timecode::TimecodeMark;

const COPY_ADVICE: &str = "check how the recording was made or copied";

/// Rejects an unreadable or undecodable file before a pipeline is made, with the system's reason.
///
/// # Errors
/// Names the file, as `given`, the reason and what to do.
pub(super) fn check(given: &str, location: &Location) -> Result<()> {
    let Some(path) = path_of(location) else {
        return Err(Error::source_failure(
            Cause::NotFound,
            given,
            "not a path on this machine",
            "give the path of a file",
        ));
    };
    let refuse = |kind, cause: &str, advice: &str| Err(Error::source_failure(kind, given, cause, advice));
    if path.is_file()
        && let Some(format) = truncation::unsupported_file(&path)
    {
        let to = if format == "GIF" { "MP4, or PNG" } else { "JPEG or PNG" };
        return refuse(Cause::Format, &format!("{format} pictures are not supported"), &format!("convert it to {to}"));
    }
    // The type comes first: opening a FIFO blocks until a program writes into it.
    let meta = std::fs::metadata(&path).and_then(|meta| match meta.is_file() {
        true => std::fs::File::open(&path).and_then(|file| file.metadata()),
        false => Ok(meta),
    });
    match meta {
        Ok(meta) if meta.is_dir() => refuse(Cause::NotMedia, "is a folder", "give the files in it"),
        Ok(meta) if !meta.is_file() => refuse(
            Cause::NotMedia,
            "is a FIFO, a socket or a device, not a file",
            "write into a file, or send MPEG-TS over UDP or SRT",
        ),
        Ok(meta) if meta.len() == 0 => refuse(Cause::NotMedia, "the file is empty", "check how it was copied"),
        // GStreamer's parsebin can lose the demuxer's error: the pipeline then waits for ever.
        Ok(_) => match truncation::missing_index(&path) {
            Some(cut) => refuse(Cause::Damaged, &format!("the file is cut off: {cut}"), COPY_ADVICE),
            None => Ok(()),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => refuse(Cause::NotFound, "no such file", "check the path"),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            refuse(Cause::Forbidden, "permission denied", "check the file's permissions")
        }
        Err(e) => refuse(Cause::Other, &e.to_string(), "check the path and the disk"),
    }
}

/// The path that `location` names on this machine.
fn path_of(location: &Location) -> Option<PathBuf> {
    url::Url::parse(&location.uri).ok()?.to_file_path().ok()
}

/// The timecode of the first picture of the recording at `location`, if it has a timecode track.
pub(super) fn timecode(location: &Location) -> Option<TimecodeMark> {
    if location.kind != Kind::File {
        return None;
    }
    timecode_track::first(&path_of(location)?)
}

/// The end for the recording at `location` if its file is cut off.
pub(super) fn cut_off(location: &Location) -> Option<End> {
    let cut = truncation::cut_off(&path_of(location)?)?;
    Some(failed(Cause::Damaged, format!("the file is cut off: {cut}"), COPY_ADVICE))
}

/// The end for a recording that could not be read, where no element reports why.
pub(super) fn given_up() -> End {
    failed(Cause::Damaged, "the recording is damaged: its container cannot be read", COPY_ADVICE)
}

/// The end for an error of the pipeline that plays the file at `location`. `is_media`: a demuxer, a parser or a decoder was found
/// for it.
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
        gst::StreamError::TypeNotFound | gst::StreamError::WrongType if !is_media => Some(failed(
            Cause::NotMedia,
            "not a media file",
            "check the content of the file, for example with `ffprobe`",
        )),
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
