//! The tables of `--summary` and `--segments`.

use std::path::Path;

use super::scorer::Labelled;
use touchline_core::cause::Cause;
use touchline_core::error::{Error, Result};
use touchline_core::labels::ClassSet;
use touchline_core::segment::{Segment, SegmentKind};
use touchline_media::truncation;
use touchline_serve::export::{SEGMENT_COLUMNS, segment_cells, text_cell};
use touchline_serve::sink::jsonl::hold_pipe;

/// A CSV, flushed after each file, so that a crash loses none.
struct CsvFile {
    writer: csv::Writer<std::fs::File>,
    place: String,
    flag: &'static str,
}

impl CsvFile {
    fn create(path: &Path, flag: &'static str) -> Result<Self> {
        let place = path.display().to_string();
        let _held = hold_pipe(path)?;
        let writer = csv::Writer::from_path(path).map_err(|e| unwritable(&place, flag, &e))?;
        Ok(Self { writer, place, flag })
    }

    fn write<T: AsRef<[u8]>>(&mut self, rows: impl IntoIterator<Item = impl IntoIterator<Item = T>>) -> Result<()> {
        let written = rows.into_iter().try_for_each(|row| self.writer.write_record(row));
        written.map_err(|e| unwritable(&self.place, self.flag, &e))?;
        self.writer.flush().map_err(|e| unwritable(&self.place, self.flag, &e))
    }
}

/// The CSV of segments.
pub(super) struct SegmentTable(CsvFile);

impl SegmentTable {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let mut file = CsvFile::create(path, "--segments")?;
        file.write([std::iter::once("path").chain(SEGMENT_COLUMNS)])?;
        Ok(Self(file))
    }

    pub(super) fn rows(&mut self, path: &Path, segments: &[Segment], classes: &ClassSet) -> Result<()> {
        let row = |segment: &Segment| {
            let class = match segment.kind {
                SegmentKind::Class(class) => Some(classes.name(class)),
                _ => None,
            };
            std::iter::once(text_cell(&path.to_string_lossy())).chain(segment_cells(segment, class))
        };
        self.0.write(segments.iter().map(row))
    }
}

/// The CSV of labels.
pub(super) struct Summary(CsvFile);

impl Summary {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let mut file = CsvFile::create(path, "--summary")?;
        file.write([["path", "label", "probability", "seconds", "gaps", "state"]])?;
        Ok(Self(file))
    }

    pub(super) fn row(&mut self, path: &Path, labelled: &Labelled) -> Result<()> {
        let (label, probability) = labelled
            .label
            .as_ref()
            .map_or((String::new(), String::new()), |(label, p)| (label.clone(), format!("{p:.4}")));
        let (seconds, gaps) = (labelled.seconds.to_string(), labelled.gaps.to_string());
        self.0.write([[
            path.to_string_lossy().as_ref(),
            label.as_str(),
            probability.as_str(),
            seconds.as_str(),
            gaps.as_str(),
            labelled.state.as_str(),
        ]])
    }

    /// The row of a file that could not be decided.
    pub(super) fn failed(&mut self, path: &Path, error: &Error) -> Result<()> {
        let state = if truncation::cut_off(path).is_some() {
            "cut-off"
        } else if matches!(error, Error::Source { kind: Cause::Damaged, .. }) {
            "damaged"
        } else {
            "failed"
        };
        self.0.write([[path.to_string_lossy().as_ref(), "", "", "0", "0", state]])
    }
}

fn unwritable(place: &str, flag: &str, e: &dyn std::fmt::Display) -> Error {
    let advice = format!("free space, check the permissions or choose another {flag}");
    Error::output(place, format!("cannot write: {e}"), advice)
}
