//! `/api/v1/summary`: hours by stream, day and class; the share of unknown time; availability.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::{DAY_MS, invalid, read, stream_ids, table, time, unreadable, wants_csv};
use crate::export::text_cell;
use crate::http::answer::{ApiError, json};
use crate::http::app_state::AppState;
use crate::http::extract::Parameters;
use crate::hub::{KeptTime, StreamName, TimeOfContent};
use crate::record::format::rfc3339;
use crate::record::{SegmentContent, to_json};

/// Days of an answer.
const DAYS_MAX: usize = 400;

/// Days before today that are shown by default: with today a week.
const DAYS_BEFORE: i64 = 6;

/// The time range that is added up, and its streams.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct SummaryQuery {
    /// From this time on, RFC 3339; by default from the start of the day six days before `to`.
    from: Option<String>,
    /// Before this time, RFC 3339; by default now.
    to: Option<String>,
    /// Time zone of the days, such as Europe/London; by default `time_zone` of the configuration, else UTC.
    zone: Option<String>,
    /// Ids of streams, separated by commas.
    stream: Option<String>,
    /// Groups of streams, separated by commas.
    group: Option<String>,
    /// json or csv; by default from the header Accept.
    #[param(pattern = "^(json|csv)$")]
    format: Option<String>,
}

/// Time per content of each stream.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Summary")]
pub(crate) struct SummaryOfTimeView {
    /// Start of the time, RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    from: String,
    /// End of the time, RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    to: String,
    /// Time zone of the days.
    time_zone: String,
    /// All streams together.
    total: TimesView,
    streams: Vec<StreamTimesView>,
}

/// Time per content of a stream.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StreamTimes")]
struct StreamTimesView {
    /// Id of the stream.
    stream: String,
    /// Name for people.
    label: Option<String>,
    group: Option<String>,
    /// All days together.
    total: TimesView,
    days: Vec<DayView>,
}

/// Time per content of a stream on a day.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DayTimes")]
struct DayView {
    /// The day in the time zone.
    #[schemars(extend("format" = "date"))]
    date: String,
    #[serde(flatten)]
    times: TimesView,
}

/// Time per content, seconds.
#[derive(Clone, Default, Serialize, JsonSchema)]
#[schemars(rename = "Times")]
struct TimesView {
    /// Time since the first record of the stream.
    expected_s: f64,
    /// Each class on air.
    classes: BTreeMap<String, f64>,
    /// No class on air, or one that the models were not sure of.
    unknown_s: f64,
    /// No programme.
    no_programme_s: f64,
    /// Nothing was decided although the stream played.
    undecided_s: f64,
    /// Unknown time as a share of the time with a decision; null without one.
    unknown_share: Option<f64>,
    /// Time with a decision or without programme as a share of the expected time; null without one.
    availability: Option<f64>,
}

impl TimesView {
    fn add(&mut self, time: &TimeOfContent) {
        let seconds = time.ms.max(0) as f64 / 1000.0;
        match (time.content.as_str(), &time.class) {
            ("class", Some(class)) => *self.classes.entry(class.clone()).or_default() += seconds,
            (content, _) if content == SegmentContent::Unknown.as_str() => self.unknown_s += seconds,
            (content, _) if content == SegmentContent::NoProgramme.as_str() => self.no_programme_s += seconds,
            _ => self.undecided_s += seconds,
        }
    }

    fn join(&mut self, other: &Self) {
        self.expected_s += other.expected_s;
        self.unknown_s += other.unknown_s;
        self.no_programme_s += other.no_programme_s;
        self.undecided_s += other.undecided_s;
        for (class, seconds) in &other.classes {
            *self.classes.entry(class.clone()).or_default() += seconds;
        }
    }

    fn with_shares(mut self) -> Self {
        let decided = self.classes.values().sum::<f64>() + self.unknown_s;
        let share = |part: f64, of: f64| (of > 0.0).then(|| (part / of).min(1.0));
        self.unknown_share = share(self.unknown_s, decided).map(round4);
        self.availability = share(decided + self.no_programme_s, self.expected_s).map(round4);
        self
    }
}

fn round4(share: f64) -> f64 {
    (share * 1e4).round() / 1e4
}

/// A day, or the part of it within the range.
struct Day {
    date: String,
    time: KeptTime,
}

/// Adds up hours by stream, day and class, the share of unknown time, and availability, from the store.
#[utoipa::path(get, path = "/api/v1/summary", operation_id = "summary", params(SummaryQuery), responses(
    (status = 200, description = "The sums. A table has a row for each stream, day, and content.",
        content((ref("#/components/schemas/Summary") = "application/json"), (String = "text/csv"))),
    (status = 400, description = "A parameter is unknown or has a wrong form."),
    (status = 404, description = "The program has no store."),
    (status = 422, description = "A value is not allowed, or the time has more than 400 days."),
    (status = 500, description = "The store cannot be read."),
    (status = 503),
))]
pub(crate) async fn summary(
    State(state): State<AppState>,
    headers: HeaderMap,
    Parameters(query): Parameters<SummaryQuery>,
) -> Result<Response, ApiError> {
    let is_csv = wants_csv(query.format.as_ref(), &headers)?;
    let zone_name = query.zone.clone().or_else(|| state.hub.time_zone()).unwrap_or_else(|| "UTC".to_owned());
    let zone = TimeZone::get(&zone_name).map_err(|_| invalid("zone", &format!("{zone_name:?} is not a time zone")))?;
    let clock = state.hub.clock();
    let mut time = time(query.from.as_deref(), query.to.as_deref(), &**clock, DAYS_BEFORE * DAY_MS)?;
    if query.from.is_none() {
        time.from_ms = start_of_day(time.from_ms, &zone)?;
    }
    let days = days(time, &zone)?;
    let wanted = stream_ids(&state.hub, query.stream.as_ref(), query.group.as_ref());
    let (names, elsewhere) = (state.hub.stream_names(), state.hub.names_elsewhere());
    let now_ms = clock.unix_ns().div_euclid(1_000_000);
    let view = read(&state, move |archive| {
        let times: Vec<KeptTime> = days.iter().map(|day| day.time).collect();
        let by_day = archive.times(&times).map_err(|e| unreadable(&e))?;
        let first = archive.first_times().map_err(|e| unreadable(&e))?;
        // Of the streams of other machines those that the store has.
        let elsewhere = elsewhere.into_iter().filter(|name| first.contains_key(&name.id));
        let names: Vec<StreamName> = names.into_iter().chain(elsewhere).collect();
        let streams = streams(&names, &by_day, &days, &first, now_ms);
        let streams = streams.into_iter().filter(|s| wanted.as_ref().is_none_or(|wanted| wanted.contains(&s.stream)));
        let streams: Vec<StreamTimesView> = streams.collect();
        let mut total = TimesView::default();
        streams.iter().for_each(|stream| total.join(&stream.total));
        let [from, to] = [time.from_ms, time.to_ms].map(|ms| rfc3339(ms.saturating_mul(1_000_000)));
        Ok(SummaryOfTimeView { from, to, time_zone: zone_name, total: total.with_shares(), streams })
    })
    .await?;
    if is_csv { as_table(&view) } else { Ok(json(to_json(&view))) }
}

/// The streams that exist, in their order, and then those that exist only in the store.
fn streams(
    names: &[StreamName],
    by_day: &[Vec<TimeOfContent>],
    days: &[Day],
    first: &BTreeMap<String, i64>,
    now_ms: i64,
) -> Vec<StreamTimesView> {
    let known: BTreeSet<&str> = names.iter().map(|name| name.id.as_str()).collect();
    let others: BTreeSet<&str> = by_day.iter().flatten().map(|time| time.stream.as_str()).collect();
    let others = others.difference(&known).map(|id| StreamName { id: (*id).to_owned(), label: None, group: None });
    let of = |StreamName { id, label, group }: StreamName| {
        let since_ms = first.get(&id).copied().unwrap_or(i64::MAX);
        let mut total = TimesView::default();
        let days: Vec<DayView> = days
            .iter()
            .zip(by_day)
            .map(|(Day { date, time }, found)| {
                let mut times = TimesView::default();
                found.iter().filter(|time| time.stream == id).for_each(|time| times.add(time));
                let expected_ms = time.to_ms.min(now_ms).saturating_sub(time.from_ms.max(since_ms));
                times.expected_s = expected_ms.max(0) as f64 / 1000.0;
                total.join(&times);
                DayView { date: date.clone(), times: times.with_shares() }
            })
            .collect();
        StreamTimesView { stream: id, label, group, total: total.with_shares(), days }
    };
    names.iter().cloned().chain(others).map(of).collect()
}

fn as_table(view: &SummaryOfTimeView) -> Result<Response, ApiError> {
    let head =
        ["stream", "group", "date", "content", "class", "seconds", "expected_s", "unknown_share", "availability"];
    let mut rows = Vec::new();
    for stream in &view.streams {
        for DayView { date, times } in &stream.days {
            let of_class =
                times.classes.iter().map(|(class, seconds)| (SegmentContent::Class, class.as_str(), *seconds));
            let others = [
                (SegmentContent::Unknown, "", times.unknown_s),
                (SegmentContent::NoProgramme, "", times.no_programme_s),
                (SegmentContent::Undecided, "", times.undecided_s),
            ];
            let share = |share: Option<f64>| share.map(|share| format!("{share:.4}")).unwrap_or_default();
            for (content, class, seconds) in of_class.chain(others) {
                rows.push([
                    text_cell(&stream.stream),
                    text_cell(stream.group.as_deref().unwrap_or_default()),
                    date.clone(),
                    content.as_str().to_owned(),
                    text_cell(class),
                    format!("{seconds:.0}"),
                    format!("{:.0}", times.expected_s),
                    share(times.unknown_share),
                    share(times.availability),
                ]);
            }
        }
    }
    table("summary", &head, rows, None)
}

fn start_of_day(ms: i64, zone: &TimeZone) -> Result<i64, ApiError> {
    let start = Timestamp::from_millisecond(ms).and_then(|at| at.to_zoned(zone.clone()).start_of_day());
    Ok(start.map_err(|e| invalid("from", &e.to_string()))?.timestamp().as_millisecond())
}

/// The days of a time.
fn days(time: KeptTime, zone: &TimeZone) -> Result<Vec<Day>, ApiError> {
    let wrong = |e: jiff::Error| invalid("from", &e.to_string());
    let mut begin = Timestamp::from_millisecond(time.from_ms).map_err(wrong)?.to_zoned(zone.clone());
    let mut days = Vec::new();
    while begin.timestamp().as_millisecond() < time.to_ms {
        if days.len() == DAYS_MAX {
            return Err(invalid("from", &format!("choose a time of {DAYS_MAX} days or less")));
        }
        let next = begin.tomorrow().and_then(|day| day.start_of_day()).map_err(wrong)?;
        let (from_ms, to_ms) = (begin.timestamp().as_millisecond(), next.timestamp().as_millisecond().min(time.to_ms));
        days.push(Day { date: begin.date().to_string(), time: KeptTime { from_ms, to_ms } });
        begin = next;
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::format::parse_rfc3339;

    fn ms(text: &str) -> i64 {
        parse_rfc3339(text).unwrap() / 1_000_000
    }

    #[test]
    fn days_are_those_of_the_zone_also_when_clocks_change() {
        let zone = TimeZone::get("Europe/London").unwrap();
        let time = KeptTime { from_ms: ms("2026-03-28T12:00:00Z"), to_ms: ms("2026-03-30T12:00:00Z") };
        let found = days(time, &zone).unwrap();
        let hours: Vec<_> =
            found.iter().map(|day| (day.date.as_str(), (day.time.to_ms - day.time.from_ms) / 3_600_000)).collect();
        assert_eq!(hours, [("2026-03-28", 12), ("2026-03-29", 23), ("2026-03-30", 13)], "a day in March has 23 hours");
        assert_eq!(start_of_day(time.to_ms, &zone).unwrap(), ms("2026-03-29T23:00:00Z"));
        let years = KeptTime { from_ms: ms("2020-01-01T00:00:00Z"), to_ms: ms("2026-01-01T00:00:00Z") };
        assert!(days(years, &zone).is_err());
    }

    #[test]
    fn shares_are_of_the_expected_time() {
        let names = [StreamName { id: "court".into(), label: None, group: Some("tennis".into()) }];
        let time = |stream: &str, content: &str, class: Option<&str>, s: i64| TimeOfContent {
            stream: stream.into(),
            content: content.into(),
            class: class.map(Into::into),
            ms: s * 1000,
        };
        let by_day = [vec![
            time("court", "class", Some("tennis"), 3000),
            time("court", "unknown", None, 1000),
            time("court", "no-programme", None, 500),
            time("court", "undecided", None, 100),
            time("gone", "class", Some("golf"), 60),
        ]];
        let day = Day { date: "2026-11-29".into(), time: KeptTime { from_ms: 0, to_ms: DAY_MS } };
        let first = BTreeMap::from([("court".to_owned(), 0), ("gone".to_owned(), 3_600_000)]);
        let found = streams(&names, &by_day, &[day], &first, 6_000_000);
        let court = &found[0].total;
        assert_eq!((court.expected_s, court.classes["tennis"]), (6000.0, 3000.0));
        assert_eq!((court.unknown_share, court.availability), (Some(0.25), Some(0.75)));
        assert_eq!((found[1].stream.as_str(), found[1].total.expected_s), ("gone", 2400.0), "since it is known");
        assert_eq!(TimesView::default().with_shares().availability, None);
    }
}
