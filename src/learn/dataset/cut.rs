//! Cuts a recording into seconds, as serving does, and turns a still into one second.

use std::ops::ControlFlow;
use std::path::Path;

use crossbeam_channel::bounded;

use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, ClipSecond};
use touchline_core::error::{Error, Result};
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY};
use touchline_media::Open;
use touchline_media::still::{read_still, scale_down};

/// Cuts a recording into seconds and calls `each` with every second. Ends at the first error.
///
/// # Errors
/// The errors of the source and of `each`.
pub fn seconds(
    opener: &dyn Open,
    path: &Path,
    config: ClipConfig,
    each: &mut dyn FnMut(ClipSecond) -> Result<()>,
) -> Result<()> {
    seconds_until(opener, path, config, &mut |second| each(second).map(ControlFlow::Continue))
}

/// Cuts a recording as [`seconds`] does, until `each` returns [`ControlFlow::Break`].
///
/// # Errors
/// The errors of the source and of `each`.
pub fn seconds_until(
    opener: &dyn Open,
    path: &Path,
    config: ClipConfig,
    each: &mut dyn FnMut(ClipSecond) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let (to, media) = bounded(MEDIA_CHANNEL_CAPACITY);
    let name = path.to_string_lossy();
    let _source = opener.open(&name, to)?;
    let mut builder = ClipBuilder::new(config);
    let mut out = Vec::new();
    for item in media {
        builder.push(item, &mut out);
        for output in out.drain(..) {
            match output {
                ClipOutput::Second(second) => {
                    let flow = each(second)?;
                    if flow.is_break() {
                        return Ok(());
                    }
                }
                ClipOutput::Ended(End::Finished) => return Ok(()),
                ClipOutput::Ended(End::Failed { kind, cause, advice }) => {
                    return Err(Error::source_failure(kind, name, cause, advice));
                }
                _ => {}
            }
        }
    }
    Err(Error::Internal(format!("{name}: the source stopped without reporting an end")))
}

/// Reads a still as one second: RGB only, scaled down to `frame_height` lines as a video of its size would be on ingest.
///
/// # Errors
/// [`Error::Data`] when the file cannot be read or decoded.
pub fn still(path: &Path, frame_height: u32) -> Result<ClipSecond> {
    let image = read_still(path).map_err(|e| Error::data(path, e, "use a JPEG, PNG or WebP picture"))?;
    Ok(ClipSecond::of_pictures(vec![touchline_media::still::frame(scale_down(image, frame_height))]))
}
