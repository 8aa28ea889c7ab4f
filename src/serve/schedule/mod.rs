//! What is expected on a stream, and when: lists of classes, and schedules from iCalendar or CSV files.
//!
//! A schedule is read once, with its times resolved as far as a repeated entry allows. Class names are checked when the classes of
//! the pack are known. Where entries overlap, what any of them names is expected.

mod csv;
mod ical;
mod repeat;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};

use self::repeat::Repeat;
use crate::nearest::distance_if_near;
use touchline_core::expectation::{Expected, NO_PROGRAMME, UNKNOWN};
use touchline_core::labels::ClassSet;
use touchline_core::time::NANOS_PER_SECOND;

/// Largest file, bytes: years of a channel. A larger one is not a schedule.
const FILE_MAX: u64 = 1 << 20;

/// Repeated entries are resolved for this time at once, seconds, so that a second costs no calendar arithmetic.
const RESOLVED_S: i64 = 3600;

/// A schedule as it was read.
#[derive(Clone, PartialEq)]
pub struct Schedule {
    path: PathBuf,
    entries: Arc<Vec<ScheduleEntry>>,
}

/// An entry of a schedule.
#[derive(Debug, PartialEq)]
struct ScheduleEntry {
    /// Line of the file, from 1.
    line: usize,
    /// The names, as they are in the file.
    names: Vec<String>,
    when: When,
}

/// When an entry holds.
#[derive(Debug, PartialEq)]
enum When {
    /// Once, in seconds since 1970-01-01 UTC.
    Once(Range<i64>),
    /// Again and again.
    Repeated(Box<Repeat>),
}

/// A mistake in a schedule: its line and the text.
type Mistake = (usize, String);

impl Schedule {
    /// Reads the file at `path`. `zone` is that of times without one.
    ///
    /// # Errors
    /// Names the file, the line, the cause and what to do.
    pub fn read(path: &Path, zone: Option<&str>) -> Result<Self, String> {
        let shown = path.display();
        let failed = |e: &dyn fmt::Display| {
            format!("{shown}: cannot read the schedule: {e}; check the path and its permissions")
        };
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        let parse = match extension.as_ref().and_then(|extension| extension.to_str()) {
            Some("ics") => ical::parse,
            Some("csv") => csv::parse,
            _ => return Err(format!("{shown}: the name of a schedule ends in .ics or .csv; rename the file")),
        };
        let zone = zone.map(TimeZone::get).transpose().map_err(|e| format!("time_zone: {e}"))?;
        // Opening a FIFO would wait for its writer.
        if !std::fs::metadata(path).map_err(|e| failed(&e))?.is_file() {
            return Err(failed(&"it is not a file"));
        }
        let (mut text, file) = (String::new(), std::fs::File::open(path).map_err(|e| failed(&e))?);
        file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|e| failed(&e))?;
        if text.len() as u64 > FILE_MAX {
            return Err(format!("{shown}: the schedule is larger than {} MB; remove what is over", FILE_MAX >> 20));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let entries = parse(text, zone.as_ref()).map_err(|(line, text)| format!("{shown}:{line}: {text}"))?;
        Ok(Self { path: path.to_owned(), entries: Arc::new(entries) })
    }

    /// Name of the file, without its folder.
    pub fn name(&self) -> String {
        self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    fn resolve(&self, classes: &ClassSet) -> Result<Vec<Expected>, String> {
        let each = |entry: &ScheduleEntry| {
            expected(&entry.names, classes).map_err(|e| format!("{}:{}: {e}", self.path.display(), entry.line))
        };
        self.entries.iter().map(each).collect()
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} entries)", self.path.display(), self.entries.len())
    }
}

/// The expectation of a list of class names.
///
/// # Errors
/// Names the class that does not exist and the nearest one.
pub fn expected(names: &[String], classes: &ClassSet) -> Result<Expected, String> {
    let mut expected = Expected::default();
    for name in names {
        if !expected.add(name, classes) {
            return Err(no_class(name, classes));
        }
    }
    Ok(expected)
}

fn no_class(name: &str, classes: &ClassSet) -> String {
    let known = classes.names().iter().map(String::as_str).chain([UNKNOWN, NO_PROGRAMME]);
    // Parts of three letters too: ice, icehockey.
    match known.filter_map(|known| Some((distance_if_near(name, known, 3)?, known))).min() {
        Some((_, nearest)) => format!("the pack has no class {name:?}; did you mean {nearest}?"),
        None => format!(
            "the pack has no class {name:?}; choose from {}, {UNKNOWN} and {NO_PROGRAMME}",
            classes.names().join(", ")
        ),
    }
}

/// What is expected on a stream at each second.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// Where no entry of the schedule holds.
    otherwise: Expected,
    schedule: Option<Schedule>,
    /// By entry of the schedule.
    by_entry: Vec<Expected>,
    patience_s: u32,
    /// The time that `resolved` is for, and the entries that hold within it.
    window: Range<i64>,
    resolved: Vec<(Range<i64>, usize)>,
}

impl Expectations {
    /// `names` are expected where no entry of `schedule` holds. Something else is unexpected after `patience_s` seconds.
    ///
    /// # Errors
    /// Names the class that does not exist, the nearest one, and the file and line of the schedule.
    pub fn new(
        names: &[String],
        schedule: Option<&Schedule>,
        patience_s: u32,
        classes: &ClassSet,
    ) -> Result<Self, String> {
        let otherwise = expected(names, classes)?;
        let by_entry = schedule.map(|schedule| schedule.resolve(classes)).transpose()?.unwrap_or_default();
        let schedule = schedule.cloned();
        Ok(Self { otherwise, schedule, by_entry, patience_s, window: 0..0, resolved: Vec::new() })
    }

    /// Seconds of something else after which it is unexpected.
    pub const fn patience_s(&self) -> u32 {
        self.patience_s
    }

    /// What is expected at a wall time, nanoseconds since 1970-01-01 UTC. Without a time, no entry of the schedule holds.
    pub fn at(&mut self, unix_ns: Option<i64>) -> Expected {
        let (Some(unix_ns), Some(schedule)) = (unix_ns, &self.schedule) else { return self.otherwise.clone() };
        let now = unix_ns.div_euclid(NANOS_PER_SECOND as i64);
        if !self.window.contains(&now) {
            let from = now - now.rem_euclid(RESOLVED_S);
            self.window = from..from + RESOLVED_S;
            self.resolved.clear();
            for (number, entry) in schedule.entries.iter().enumerate() {
                let of_entry = entry.when.within(&self.window);
                self.resolved.extend(of_entry.into_iter().map(|range| (range, number)));
            }
        }
        let mut holding = self.resolved.iter().filter(|(range, _)| range.contains(&now)).peekable();
        if holding.peek().is_none() {
            return self.otherwise.clone();
        }
        let mut expected = Expected::default();
        holding.for_each(|(_, number)| expected.extend(&self.by_entry[*number]));
        expected
    }
}

impl When {
    /// The times within `window` at which it holds, in seconds since 1970-01-01 UTC.
    fn within(&self, window: &Range<i64>) -> Vec<Range<i64>> {
        match self {
            Self::Once(range) => Vec::from_iter(overlaps(range, window).then(|| range.clone())),
            Self::Repeated(repeat) => repeat.within(window),
        }
    }
}

fn overlaps(a: &Range<i64>, b: &Range<i64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The names in `text`, which spaces, commas or semicolons separate.
fn names(text: &str) -> Vec<String> {
    let parts = text.split([' ', '\t', ',', ';']).filter(|name| !name.is_empty());
    parts.map(str::to_ascii_lowercase).collect()
}

/// The zone of a time that has none.
fn zone_of_local(zone: Option<&TimeZone>, text: &str) -> Result<TimeZone, String> {
    let text =
        || format!("{text} is a local time, and no time zone is configured; set time_zone, or write the time in UTC");
    zone.cloned().ok_or_else(text)
}

/// The second at which `time` is in `zone`.
fn unix_s(time: civil::DateTime, zone: &TimeZone) -> Result<i64, String> {
    // A time that a change of the clocks skips or repeats is resolved as RFC 5545 does: by the offset before it.
    let time: Timestamp = zone.to_timestamp(time).map_err(|e| format!("{time} is out of range: {e}"))?;
    Ok(time.as_second())
}
