//! Entries that repeat by days or weeks: the part of RFC 5545's recurrence rules that schedules of channels use.

use std::ops::Range;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

use super::{overlaps, unix_s};

/// Longest entry, days.
const LENGTH_MAX_DAYS: i64 = 31;

/// Most repetitions of a rule that counts them.
const COUNT_MAX: u32 = 10_000;

/// Most days or weeks between two repetitions.
const INTERVAL_MAX: u32 = 1000;

/// Seconds of a day without a change of the clocks.
const DAY_S: i64 = 86_400;

/// The length of an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum EntryLength {
    /// Seconds.
    Exact(i64),
    /// Days: until midnight, also if a change of the clocks makes one longer.
    Days(i64),
}

/// An entry that repeats.
#[derive(Debug, PartialEq)]
pub(super) struct Repeat {
    /// Start of the first.
    pub(super) first: DateTime,
    pub(super) zone: TimeZone,
    pub(super) length: EntryLength,
    pub(super) rule: RepeatRule,
    /// Starts that are left out, seconds since 1970-01-01 UTC.
    pub(super) except: Vec<i64>,
}

/// A recurrence rule.
#[derive(Debug, PartialEq)]
pub(super) struct RepeatRule {
    is_weekly: bool,
    interval: i64,
    /// Days of the week, from Monday. Empty: all for a daily rule, that of the first entry for a weekly one.
    days: Vec<Weekday>,
    /// Day on which a week begins.
    week_start: Weekday,
    end: RepeatEnd,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum RepeatEnd {
    Never,
    Count(u32),
    /// The last start, seconds since 1970-01-01 UTC.
    Until(i64),
}

impl RepeatRule {
    /// Parses the value of RRULE. `zone` is that of the entry.
    pub(super) fn parse(text: &str, zone: &TimeZone) -> Result<Self, String> {
        let mut rule = Self {
            is_weekly: false,
            interval: 1,
            days: Vec::new(),
            week_start: Weekday::Monday,
            end: RepeatEnd::Never,
        };
        let mut has_frequency = false;
        for part in text.split(';') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.to_ascii_uppercase();
            let number = |max: u32| {
                let number = value.parse::<u32>().ok().filter(|n| (1..=max).contains(n));
                number.ok_or_else(|| format!("{name}={value} is not allowed in RRULE; choose 1 to {max}"))
            };
            match name.to_ascii_uppercase().as_str() {
                "FREQ" if value == "DAILY" || value == "WEEKLY" => {
                    has_frequency = true;
                    rule.is_weekly = value == "WEEKLY";
                }
                "INTERVAL" => rule.interval = i64::from(number(INTERVAL_MAX)?),
                "COUNT" => rule.end = RepeatEnd::Count(number(COUNT_MAX)?),
                "UNTIL" => rule.end = RepeatEnd::Until(until(&value, zone)?),
                "WKST" => rule.week_start = weekday(&value)?,
                "BYDAY" => rule.days = value.split(',').map(weekday).collect::<Result<_, _>>()?,
                _ => {
                    return Err(format!(
                        "{part} in RRULE is not supported; use FREQ=DAILY or WEEKLY with INTERVAL, COUNT, UNTIL, BYDAY and WKST, \
                         or write the entries one by one"
                    ));
                }
            }
        }
        if has_frequency { Ok(rule) } else { Err("RRULE has no FREQ; write FREQ=DAILY or FREQ=WEEKLY".into()) }
    }

    /// Whether a day from `first` on is a day of the rule, its end apart.
    fn has(&self, first: Date, day: Date) -> bool {
        let days = days_between(first, day);
        let is_day = match self.days.as_slice() {
            [] => !self.is_weekly || day.weekday() == first.weekday(),
            days => days.contains(&day.weekday()),
        };
        let since_week_start = |day: Date| i64::from(day.weekday().since(self.week_start));
        let periods = if self.is_weekly { (days + since_week_start(first) - since_week_start(day)) / 7 } else { days };
        days >= 0 && is_day && periods % self.interval == 0
    }
}

impl Repeat {
    /// Checks it, and replaces a count by the last start.
    pub(super) fn settle(mut self) -> Result<Self, String> {
        let days = match self.length {
            EntryLength::Exact(seconds) => seconds.div_euclid(DAY_S),
            EntryLength::Days(days) => days,
        };
        if days > LENGTH_MAX_DAYS {
            return Err(format!("the entry is longer than {LENGTH_MAX_DAYS} days and repeats; make it shorter"));
        }
        let first = self.first.date();
        if !self.rule.has(first, first) {
            return Err("the start is not a day of its RRULE; correct DTSTART or BYDAY".into());
        }
        if let RepeatEnd::Count(count) = self.rule.end {
            let days = std::iter::successors(Some(first), |day| day.tomorrow().ok());
            let last = days.filter(|day| self.rule.has(first, *day)).nth(count as usize - 1);
            let last = last.ok_or("the RRULE goes beyond the year 9999; lower COUNT or INTERVAL")?;
            self.rule.end = RepeatEnd::Until(self.start(last)?);
        }
        Ok(self)
    }

    /// Start of the repetition on `day`.
    fn start(&self, day: Date) -> Result<i64, String> {
        unix_s(day.to_datetime(self.first.time()), &self.zone)
    }

    fn on(&self, day: Date) -> Option<Range<i64>> {
        let start = self.start(day).ok()?;
        let is_over = matches!(self.rule.end, RepeatEnd::Until(last) if start > last);
        if is_over || self.except.contains(&start) {
            return None;
        }
        let end = match self.length {
            EntryLength::Exact(seconds) => start + seconds,
            EntryLength::Days(days) => self.start(day.checked_add(days.days()).ok()?).ok()?,
        };
        Some(start..end)
    }

    /// The repetitions within `window`, in seconds since 1970-01-01 UTC.
    pub(super) fn within(&self, window: &Range<i64>) -> Vec<Range<i64>> {
        let day_of = |unix_s: i64| Timestamp::from_second(unix_s).ok().map(|time| self.zone.to_datetime(time).date());
        let (Some(from), Some(to)) = (day_of(window.start), day_of(window.end)) else { return Vec::new() };
        let longest: Span = (LENGTH_MAX_DAYS + 1).days();
        let from = from.checked_sub(longest).unwrap_or(Date::MIN).max(self.first.date());
        let days = std::iter::successors(Some(from), |day| day.tomorrow().ok()).take_while(|day| *day <= to);
        let starts = days.filter(|day| self.rule.has(self.first.date(), *day));
        starts.filter_map(|day| self.on(day)).filter(|range| overlaps(range, window)).collect()
    }
}

fn days_between(from: Date, to: Date) -> i64 {
    from.until(to).map_or(-1, |span| i64::from(span.get_days()))
}

fn weekday(name: &str) -> Result<Weekday, String> {
    Ok(match name {
        "MO" => Weekday::Monday,
        "TU" => Weekday::Tuesday,
        "WE" => Weekday::Wednesday,
        "TH" => Weekday::Thursday,
        "FR" => Weekday::Friday,
        "SA" => Weekday::Saturday,
        "SU" => Weekday::Sunday,
        _ => return Err(format!("{name} in RRULE is not a day of the week; write MO, TU, WE, TH, FR, SA or SU")),
    })
}

/// The last start that UNTIL allows: a time, or the end of a day.
fn until(text: &str, zone: &TimeZone) -> Result<i64, String> {
    let (time, zone) = match text.strip_suffix('Z') {
        Some(text) => (super::ical::date_time(text), TimeZone::UTC),
        None if text.len() == 8 => {
            let day = super::ical::date(text)?;
            (Ok(day.at(23, 59, 59, 0)), zone.clone())
        }
        None => (super::ical::date_time(text), zone.clone()),
    };
    unix_s(time?, &zone)
}
