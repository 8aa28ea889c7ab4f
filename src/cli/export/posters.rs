//! Pictures of the segments, embedded in the page.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::cli::paths::shown;
use crate::cli::progress::Bar;
use touchline_core::error::{Error, Result};
use touchline_core::labels::OTHER;
use touchline_core::redact::print_error_line;
use touchline_core::time::NANOS_PER_SECOND;
use touchline_media::gst::clips::thumbnail;
use touchline_serve::export::{Export, Posters, plain};

/// Longest side, pixels.
const SIDE: u32 = 320;

/// Browsers are slow to open a page with more pictures.
const POSTERS_MAX: usize = 300;

/// A picture of each segment with a sport, or of the longest 300, from the middle of the second with the largest probability.
///
/// # Errors
/// If the recording `media` cannot be opened. A single picture that cannot be decoded is reported on standard error and left out.
pub(super) fn posters(export: &Export<'_>, media: &Path) -> Result<Posters> {
    let place = shown(media);
    if !media.is_file() {
        let advice = "give the recording with --media FILE, or leave out --posters";
        return Err(Error::source_error(place, "--posters needs the recording, and this is not a file", advice));
    }
    let is_sport = |i: &usize| export.class(&export.segments[*i]).is_some_and(|class| class != OTHER);
    let mut chosen: Vec<usize> = (0..export.segments.len()).filter(is_sport).collect();
    chosen.sort_by_key(|i| std::cmp::Reverse(export.segments[*i].segment.seconds()));
    if chosen.len() > POSTERS_MAX {
        print_error_line(format_args!("{place}: pictures of the longest {POSTERS_MAX} of {} segments", chosen.len()));
        chosen.truncate(POSTERS_MAX);
    }
    let mut bar = Bar::new("pictures", chosen.len() as u64);
    let mut posters = Posters::new();
    for (done, i) in chosen.into_iter().enumerate() {
        let placed = &export.segments[i];
        let second = placed.segment.peak_index.unwrap_or(placed.segment.first);
        match thumbnail(media, second * NANOS_PER_SECOND + NANOS_PER_SECOND / 2, SIDE) {
            Ok(jpeg) => {
                posters.insert(i, format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)));
            }
            Err(cause) => bar.line(&format!("{place}: no picture of second {second}: {}", plain(&cause.to_string()))),
        }
        bar.set(done as u64 + 1);
    }
    bar.finish();
    Ok(posters)
}
