//! The segments of a stream as files for edit suites, players and people. One file per format.
//!
//! `touchline export` and the API call [`render`]. Reading files and pictures of a recording is the caller's part.

mod csv;
mod daterange;
mod edl;
mod html;
mod otio;
mod place;
mod segment_row;
#[cfg(test)]
mod testing;
mod text;
mod webvtt;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use self::place::{Export, ExportPlacement, Moment, PlacedSegment, RATE, TimeBase};
pub(crate) use self::segment_row::cells_of_record;
pub use self::segment_row::{SEGMENT_COLUMNS, segment_cells, text_cell};
pub use self::text::plain;
use touchline_core::cause::Cause;
use touchline_core::error::{Error, Result};

/// Pictures of segments as `data:` URLs, by position in [`Export::segments`].
pub type Posters = BTreeMap<usize, String>;

/// The form of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// OpenTimelineIO.
    Otio,
    /// CMX 3600.
    Edl,
    /// Chapters.
    WebVtt,
    /// The cues of chapters with JSON.
    #[serde(rename = "webvtt-metadata")]
    WebVttMetadata,
    /// A row per segment.
    Csv,
    /// One self-contained page.
    Html,
    /// `EXT-X-DATERANGE` lines.
    DateRange,
}

impl Format {
    /// The names of all formats.
    pub const NAMES: [&str; 7] = ["otio", "edl", "webvtt", "webvtt-metadata", "csv", "html", "daterange"];

    /// The media type of its files. With a playlist, `daterange` is one.
    pub const fn media_type(self) -> &'static str {
        match self {
            Format::Otio => "application/json",
            Format::Edl => "text/plain; charset=utf-8",
            Format::WebVtt | Format::WebVttMetadata => "text/vtt; charset=utf-8",
            Format::Csv => "text/csv; charset=utf-8",
            Format::Html => "text/html; charset=utf-8",
            Format::DateRange => "text/plain; charset=utf-8",
        }
    }

    /// How the names of its files end.
    pub const fn extension(self) -> &'static str {
        match self {
            Format::Otio => "otio",
            Format::Edl => "edl",
            Format::WebVtt | Format::WebVttMetadata => "vtt",
            Format::Csv => "csv",
            Format::Html => "html",
            Format::DateRange => "txt",
        }
    }
}

/// The choices of one export that not every format has.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Write the segments as consecutive clips (otio) or events (edl) instead of markers on the whole recording.
    pub cut: bool,
    /// Include unknown and undecided time and time without programme. csv and html always include them.
    pub all: bool,
    /// File or URL that otio and edl refer to.
    pub media: Option<String>,
    /// StreamOwner and text of an HLS media playlist to insert date ranges into.
    pub playlist: Option<(String, String)>,
    /// Pictures in html.
    pub posters: Posters,
}

/// The file. `place` names the origin of the records in messages.
///
/// # Errors
/// If an option does not belong to the format, there is nothing to export ([`Cause::NotFound`]), or it does not fit the format.
pub fn render(export: &Export<'_>, format: Format, options: &ExportOptions, place: &str) -> Result<String> {
    options.check(format)?;
    let shown = if options.all { export.clone() } else { export.of_classes() };
    // Csv and html have everything in any case.
    if !matches!(format, Format::Csv | Format::Html) && shown.segments.is_empty() {
        let cause = "nothing to export: no class was on air in the selected time";
        let advice = "choose another time, or all for the time without a class";
        return Err(Error::source_failure(Cause::NotFound, place, cause, advice));
    }
    let media = options.media.as_deref();
    Ok(match format {
        Format::Csv => csv::render(export)?,
        Format::Html => html::render(export, &options.posters),
        Format::Otio => otio::render(&shown, media, options.cut),
        Format::Edl => edl::render(&shown, media, options.cut)?,
        Format::WebVtt => webvtt::chapters(&shown),
        Format::WebVttMetadata => webvtt::metadata(&shown),
        Format::DateRange => {
            let lines = daterange::lines(&shown)?;
            match &options.playlist {
                Some((name, playlist)) => daterange::with_lines(playlist, &lines)
                    .map_err(|(cause, advice)| Error::source_error(plain(name), cause, advice))?,
                None => lines,
            }
        }
    })
}

impl ExportOptions {
    /// Refuses options that do not belong to the format.
    ///
    /// # Errors
    /// Names the option.
    pub fn check(&self, format: Format) -> Result<()> {
        let refuse = |text: &str| Err(Error::Usage(format!("{text} only; leave it out")));
        match format {
            _ if self.cut && !matches!(format, Format::Otio | Format::Edl) => {
                refuse("cut is for the formats otio and edl")
            }
            _ if !self.posters.is_empty() && format != Format::Html => refuse("posters are for the format html"),
            _ if self.playlist.is_some() && format != Format::DateRange => {
                refuse("only the format daterange has a playlist")
            }
            _ => Ok(()),
        }
    }
}
