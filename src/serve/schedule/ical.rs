//! Schedules in iCalendar (RFC 5545): the events of a calendar. Their categories, or else their summaries, name classes.
//!
//! Read are the times, daily and weekly repetitions, their exceptions and single repetitions that were moved. An event with another
//! rule is refused, because a schedule with a wrong time is worse than none.

use std::collections::HashMap;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, ToSpan};

use super::repeat::{EntryLength, Repeat, RepeatRule};
use super::{Mistake, ScheduleEntry, When, names, unix_s, zone_of_local};

/// A property: `NAME;PARAMETER=VALUE:value`.
struct CalendarProperty {
    line: usize,
    name: String,
    parameters: Vec<(String, String)>,
    value: String,
}

impl CalendarProperty {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn mistake(&self, text: String) -> Mistake {
        (self.line, text)
    }
}

/// A time of a calendar, with the zone that it is in.
struct CalendarTime {
    local: DateTime,
    zone: TimeZone,
    /// A day without a time.
    is_day: bool,
}

impl CalendarTime {
    fn unix_s(&self) -> Result<i64, String> {
        unix_s(self.local, &self.zone)
    }
}

/// An event with its properties.
struct CalendarEvent {
    line: usize,
    properties: Vec<CalendarProperty>,
}

/// Reads `text`. `zone` is that of times without one.
pub(super) fn parse(text: &str, zone: Option<&TimeZone>) -> Result<Vec<ScheduleEntry>, Mistake> {
    let mut events = events(text)?;
    // Single repetitions that were moved or cancelled, by the event that they belong to.
    let mut replaced: HashMap<String, Vec<i64>> = HashMap::new();
    for event in &events {
        if let (Some(uid), Some(id)) = (event.find("UID"), event.find("RECURRENCE-ID")) {
            let start = times(id, zone)?.iter().map(CalendarTime::unix_s).collect::<Result<Vec<_>, _>>();
            replaced.entry(uid.value.clone()).or_default().extend(start.map_err(|e| id.mistake(e))?);
        }
    }
    events.retain(|event| event.find("STATUS").is_none_or(|status| !status.value.eq_ignore_ascii_case("CANCELLED")));
    events.iter().map(|event| event.entry(zone, &replaced)).collect()
}

/// The events of the calendar.
fn events(text: &str) -> Result<Vec<CalendarEvent>, Mistake> {
    let mut events: Vec<CalendarEvent> = Vec::new();
    // The components that are open: BEGIN without END.
    let mut open: Vec<(usize, String)> = Vec::new();
    for (line, text) in unfolded(text) {
        let property = property(line, &text)?;
        let value = property.value.trim().to_ascii_uppercase();
        match property.name.as_str() {
            "BEGIN" => {
                if value == "VEVENT" {
                    events.push(CalendarEvent { line, properties: Vec::new() });
                }
                open.push((line, value));
            }
            "END" => match open.pop() {
                Some((_, begun)) if begun == value => {}
                _ => return Err((line, format!("END:{value} has no BEGIN:{value}; export the calendar again"))),
            },
            _ if open.last().is_some_and(|(_, component)| component == "VEVENT") => {
                events.last_mut().expect("BEGIN:VEVENT added one").properties.push(property);
            }
            _ if open.is_empty() => {
                return Err((line, "the file does not begin with BEGIN:VCALENDAR; export it as iCalendar".into()));
            }
            _ => {}
        }
    }
    match open.pop() {
        Some((line, begun)) => Err((line, format!("BEGIN:{begun} has no END:{begun}; the file is cut off"))),
        None => Ok(events),
    }
}

/// The lines with their numbers. A line that begins with a space continues the one before it.
fn unfolded(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match (line.strip_prefix([' ', '\t']), lines.last_mut()) {
            (Some(rest), Some((_, before))) => before.push_str(rest),
            _ if line.trim().is_empty() => {}
            _ => lines.push((number, line.to_owned())),
        }
    }
    lines
}

fn property(line: usize, text: &str) -> Result<CalendarProperty, Mistake> {
    let is_quoted = |at: usize| text[..at].matches('"').count() % 2 == 1;
    let colon = text.match_indices(':').map(|(at, _)| at).find(|at| !is_quoted(*at));
    let colon = colon.ok_or_else(|| (line, "the line is not NAME:VALUE; export the calendar again".to_owned()))?;
    let (head, value) = (&text[..colon], &text[colon + 1..]);
    let mut parts: Vec<&str> = Vec::new();
    let mut from = 0;
    for (at, _) in head.match_indices(';').filter(|(at, _)| !is_quoted(*at)) {
        parts.push(&head[from..at]);
        from = at + 1;
    }
    parts.push(&head[from..]);
    let parameters = parts[1..].iter().map(|part| part.split_once('=').unwrap_or((part, "")));
    let parameters = parameters.map(|(name, value)| (name.to_ascii_uppercase(), value.trim_matches('"').to_owned()));
    Ok(CalendarProperty {
        line,
        name: parts[0].trim().to_ascii_uppercase(),
        parameters: parameters.collect(),
        value: value.trim().to_owned(),
    })
}

impl CalendarEvent {
    fn find(&self, name: &str) -> Option<&CalendarProperty> {
        self.properties.iter().find(|property| property.name == name)
    }

    fn mistake(&self, text: &str) -> Mistake {
        (self.line, text.to_owned())
    }

    fn entry(&self, zone: Option<&TimeZone>, replaced: &HashMap<String, Vec<i64>>) -> Result<ScheduleEntry, Mistake> {
        if let Some(other) = self.find("RDATE").or(self.find("EXRULE")) {
            return Err(other.mistake(format!("{} is not supported; write the entries one by one", other.name)));
        }
        let begin = self.find("DTSTART").ok_or_else(|| self.mistake("the event has no DTSTART; add its start"))?;
        let start = one_time(begin, zone)?;
        let start_s = start.unix_s().map_err(|e| begin.mistake(e))?;
        let length = self.length(&start, start_s, zone)?;
        let names = self.names()?;
        let Some(rule) = self.find("RRULE") else {
            let end_s = match length {
                EntryLength::Exact(seconds) => start_s + seconds,
                EntryLength::Days(days) => {
                    let end = start.local.checked_add(days.days()).map_err(|e| begin.mistake(e.to_string()))?;
                    unix_s(end, &start.zone).map_err(|e| begin.mistake(e))?
                }
            };
            return Ok(ScheduleEntry { line: self.line, names, when: When::Once(start_s..end_s) });
        };
        let mut except = Vec::new();
        for property in self.properties.iter().filter(|property| property.name == "EXDATE") {
            for time in times(property, zone)? {
                except.push(time.unix_s().map_err(|e| property.mistake(e))?);
            }
        }
        let uid = self.find("UID").map(|uid| uid.value.as_str());
        except.extend(uid.and_then(|uid| replaced.get(uid)).into_iter().flatten());
        let CalendarTime { local: first, zone, .. } = start;
        let parsed = RepeatRule::parse(&rule.value, &zone).map_err(|e| rule.mistake(e))?;
        let repeat = Repeat { first, zone, length, rule: parsed, except }.settle().map_err(|e| rule.mistake(e))?;
        Ok(ScheduleEntry { line: self.line, names, when: When::Repeated(Box::new(repeat)) })
    }

    fn length(&self, start: &CalendarTime, start_s: i64, zone: Option<&TimeZone>) -> Result<EntryLength, Mistake> {
        let length = match (self.find("DTEND"), self.find("DURATION")) {
            (Some(property), _) => {
                let end = one_time(property, zone)?;
                if start.is_day && end.is_day {
                    let days =
                        start.local.date().until(end.local.date()).map_err(|e| property.mistake(e.to_string()))?;
                    EntryLength::Days(i64::from(days.get_days()))
                } else {
                    EntryLength::Exact(end.unix_s().map_err(|e| property.mistake(e))? - start_s)
                }
            }
            (None, Some(property)) => duration(&property.value, start.is_day).map_err(|e| property.mistake(e))?,
            (None, None) if start.is_day => EntryLength::Days(1),
            (None, None) => return Err(self.mistake("the event has no DTEND; add its end, or a DURATION")),
        };
        match length {
            EntryLength::Exact(amount) | EntryLength::Days(amount) if amount <= 0 => {
                Err(self.mistake("the event does not end after its start; correct DTSTART or DTEND"))
            }
            length => Ok(length),
        }
    }

    fn names(&self) -> Result<Vec<String>, Mistake> {
        let categories = self.properties.iter().filter(|property| property.name == "CATEGORIES");
        let mut found: Vec<String> = categories.flat_map(|property| names(&unescaped(&property.value))).collect();
        if found.is_empty() {
            found.extend(self.find("SUMMARY").iter().flat_map(|property| names(&unescaped(&property.value))));
        }
        if found.is_empty() {
            return Err(self.mistake("the event names no class; write it in CATEGORIES or SUMMARY, as in tennis"));
        }
        Ok(found)
    }
}

/// The text of a value in which commas and semicolons are escaped.
fn unescaped(value: &str) -> String {
    value.replace("\\n", " ").replace("\\N", " ").replace('\\', "")
}

fn one_time(property: &CalendarProperty, zone: Option<&TimeZone>) -> Result<CalendarTime, Mistake> {
    let [time] = <[CalendarTime; 1]>::try_from(times(property, zone)?)
        .map_err(|_| property.mistake(format!("{} is not one time; write one", property.name)))?;
    Ok(time)
}

/// The times of a property, which commas separate.
fn times(property: &CalendarProperty, zone: Option<&TimeZone>) -> Result<Vec<CalendarTime>, Mistake> {
    let each = |text: &str| -> Result<CalendarTime, String> {
        if text.len() == 8 {
            let zone = zone_of(property, text, zone)?;
            return Ok(CalendarTime { local: date(text)?.at(0, 0, 0, 0), zone, is_day: true });
        }
        match text.strip_suffix(['Z', 'z']) {
            Some(text) => Ok(CalendarTime { local: date_time(text)?, zone: TimeZone::UTC, is_day: false }),
            None => Ok(CalendarTime { local: date_time(text)?, zone: zone_of(property, text, zone)?, is_day: false }),
        }
    };
    property.value.split(',').map(|text| each(text.trim()).map_err(|e| property.mistake(e))).collect()
}

/// The zone of a time without `Z`: its TZID, or the configured one.
fn zone_of(property: &CalendarProperty, text: &str, zone: Option<&TimeZone>) -> Result<TimeZone, String> {
    let Some(id) = property.parameter("TZID") else { return zone_of_local(zone, text) };
    TimeZone::get(id).map_err(|_| {
        format!("{id:?} is not a time zone of the IANA database; write one such as Europe/London, or the time in UTC")
    })
}

/// A day: `20260701`.
pub(super) fn date(text: &str) -> Result<Date, String> {
    Date::strptime("%Y%m%d", text).map_err(|_| format!("{text:?} is not a date; write it as in 20260701"))
}

/// A time: `20260701T140000`.
pub(super) fn date_time(text: &str) -> Result<DateTime, String> {
    DateTime::strptime("%Y%m%dT%H%M%S", text)
        .map_err(|_| format!("{text:?} is not a time; write it as in 20260701T140000Z"))
}

/// A duration: `PT2H30M`, `P1D`. Of an event of whole days, it is whole days.
fn duration(text: &str, is_day: bool) -> Result<EntryLength, String> {
    let wrong = || format!("{text:?} is not a duration; write it as in PT2H30M");
    let span: Span = text.parse().map_err(|_| wrong())?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(wrong());
    }
    let exact: SignedDuration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let seconds = exact.as_secs();
    Ok(if is_day && seconds % 86_400 == 0 { EntryLength::Days(seconds / 86_400) } else { EntryLength::Exact(seconds) })
}
