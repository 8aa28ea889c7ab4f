//! The labels of a recording, from records.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::shown;
use touchline_core::error::{Error, Result};
use touchline_core::markup::plain;
use touchline_core::redact::print_error_line;
use touchline_core::time::RunId;
use touchline_media::overlay::LabelContent;
use touchline_serve::outputs::label_content;

/// A record, with what labels need.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum LabelRecord {
    Second {
        stream: String,
        run: RunId,
        index: u64,
        window: LabelWindow,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct LabelWindow {
    label: Option<String>,
    #[serde(default)]
    unknown: bool,
    mean: BTreeMap<String, f32>,
}

/// The labels of the seconds that were decided.
#[derive(Debug, Default)]
pub(super) struct SecondsByRun {
    labels: BTreeMap<(u32, u64), Arc<LabelContent>>,
}

impl SecondsByRun {
    /// Reads a file of records.
    ///
    /// # Errors
    /// [`Error::Source`] for a file that cannot be read or has no second, [`Error::Usage`] for a stream that it does not have.
    pub fn read(path: &Path, requested: Option<&str>) -> Result<Self> {
        let place = shown(path);
        let advice = "give the file that --jsonl of touchline score wrote";
        let failed = |e: std::io::Error| {
            let text = e.to_string();
            let cause = text.split(" (os error").next().unwrap_or_default().to_lowercase();
            Error::source_error(&place, format!("cannot read it: {cause}"), advice)
        };
        let mut streams: BTreeMap<String, Self> = BTreeMap::new();
        let mut damaged = 0;
        for line in BufReader::new(File::open(path).map_err(failed)?).split(b'\n') {
            let line = line.map_err(failed)?;
            match serde_json::from_slice(&line) {
                Ok(LabelRecord::Second { stream, run, index, window }) => {
                    streams.entry(stream).or_default().put(run, index, &window);
                }
                Ok(LabelRecord::Other) => {}
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(_) => damaged += 1,
            }
        }
        if damaged > 0 {
            print_error_line(format_args!("touchline: {place}: skipped {damaged} damaged lines"));
        }
        if streams.is_empty() {
            return Err(Error::source_error(&place, "there is no second in it", advice));
        }
        let names = streams.keys().take(8).map(|id| format!("\"{}\"", plain(id))).collect::<Vec<_>>().join(", ");
        match requested {
            Some(id) => streams.remove(id).ok_or_else(|| {
                Error::Usage(format!("--stream \"{}\": {place} has no such stream; it has {names}", plain(id)))
            }),
            None if streams.len() == 1 => Ok(streams.pop_first().expect("there is one").1),
            None => Err(Error::Usage(format!("{place} has several streams; choose one with --stream: {names}"))),
        }
    }

    /// Adds a record that the program made.
    ///
    /// # Errors
    /// [`Error::Internal`] if it is not one.
    pub fn add(&mut self, record: &str) -> Result<()> {
        match serde_json::from_str(record) {
            Ok(LabelRecord::Second { run, index, window, .. }) => self.put(run, index, &window),
            Ok(LabelRecord::Other) => {}
            Err(e) => return Err(Error::Internal(format!("a record cannot be read: {e}"))),
        }
        Ok(())
    }

    fn put(&mut self, run: RunId, index: u64, window: &LabelWindow) {
        let Some(label) = &window.label else { return };
        let means = window.mean.iter().map(|(name, mean)| (name.as_str(), *mean));
        if let Some(content) = label_content(label, window.unknown, means) {
            self.labels.insert((run.0, index), Arc::new(content));
        }
    }

    /// What is shown in a second of a run.
    pub fn label(&self, run: RunId, second: u64) -> Option<Arc<LabelContent>> {
        self.labels.get(&(run.0, second)).cloned()
    }
}
