//! The segments of an export on one timeline, in nanoseconds and frames.

use serde::Deserialize;

use super::text::plain;
use touchline_core::clip::GapReason;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;
use touchline_core::segment::{RecordedSecond, Segment, SegmentKind, SegmentedStream};
use touchline_core::time::{NANOS_PER_SECOND, Pts};
use touchline_core::timecode::{FrameRate, Timecode};
use touchline_serve::publish::format::{class_title, parse_rfc3339, rfc3339};

const SECOND: i64 = NANOS_PER_SECOND as i64;
const DAY: i64 = 86_400 * SECOND;

/// How far wall time and PTS may drift apart before a segment is placed by wall time again. Below that, PTS is the better measure of
/// a distance: wall times jitter.
const DRIFT_MAX: i64 = SECOND / 2;

/// What positions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TimeBase {
    Wall,
    Pts,
}

impl TimeBase {
    pub(super) const NAMES: [&str; 2] = ["wall", "pts"];
}

/// A limit of the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Nanoseconds since 1970-01-01 UTC.
    Wall(i64),
    /// Nanoseconds.
    Pts(i64),
}

impl Moment {
    /// Reads RFC 3339, hours:minutes:seconds, or seconds.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.contains(['T', 't', '-']) {
            return parse_rfc3339(text).map(Moment::Wall);
        }
        let wrong = || format!("{text:?} is not a time; write 2026-03-29T14:00:00Z, 1:02:03.5 or 90");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |field: &str| !field.is_empty() && field.bytes().all(|b| b.is_ascii_digit());
        if !is_digits(fraction) || fraction.len() > 9 {
            return Err(wrong());
        }
        let fraction: i64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
        let fields: Vec<&str> = whole.split(':').collect();
        if fields.len() > 3 || !fields.iter().all(|field| is_digits(field) && field.len() <= 9) {
            return Err(wrong());
        }
        let mut seconds = 0i64;
        for (i, field) in fields.iter().enumerate() {
            let value: i64 = field.parse().map_err(|_| wrong())?;
            if i > 0 && value > 59 {
                return Err(wrong());
            }
            seconds = seconds * 60 + value;
        }
        let ns = seconds.checked_mul(SECOND).and_then(|ns| ns.checked_add(fraction));
        ns.map(Moment::Pts).ok_or_else(wrong)
    }
}

/// How seconds get positions.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExportPlacement {
    pub rate: FrameRate,
    /// Frame of the first second (wall time) or of PTS 0.
    pub offset: Option<i64>,
    pub base: Option<TimeBase>,
    /// Wall time of PTS 0.
    pub pts_zero_ns: Option<i64>,
    pub from: Option<Moment>,
    pub to: Option<Moment>,
}

/// A segment on the timeline.
#[derive(Clone, Debug)]
pub(super) struct PlacedSegment {
    pub segment: Segment,
    /// Start and end, nanoseconds from the timeline's zero. The offset is not in it.
    pub begin_ns: i64,
    pub end_ns: i64,
    /// Start and end as frames, with the offset.
    pub begin: i64,
    pub end: i64,
}

/// The segments of one stream on a timeline.
#[derive(Clone, Debug)]
pub(super) struct Export<'a> {
    /// Id of the stream, as in the records. Not safe to write.
    pub stream: &'a str,
    classes: &'a [String],
    pub rate: FrameRate,
    pub base: TimeBase,
    /// Offset of the media in WebVTT, nanoseconds.
    pub offset_ns: i64,
    /// Start and end of the recorded time.
    pub begin_ns: i64,
    pub end_ns: i64,
    pub begin: i64,
    pub end: i64,
    pub segments: Vec<PlacedSegment>,
}

impl<'a> Export<'a> {
    /// Places the selected segments of a stream.
    pub(super) fn new(
        stream: &'a str,
        classes: &'a [String],
        seconds: &SegmentedStream,
        placement: &ExportPlacement,
        place: &str,
    ) -> Result<Self> {
        let mut segments = seconds.segments(|second| is_selected(second, placement));
        for segment in &mut segments {
            let wall = |index: u64| placement.pts_zero_ns.map(|zero| zero.saturating_add(pts(index)));
            segment.began_ns = segment.began_ns.or_else(|| wall(segment.first));
            segment.ended_ns = segment.ended_ns.or_else(|| wall(segment.last + 1));
        }
        let Some(first) = segments.first() else {
            let cause = "nothing to export: the stream has no second in the selected time";
            return Err(Error::source_error(place, cause, "choose another --from-time and --to-time"));
        };
        let has_wall = segments.iter().all(|s| s.began_ns.is_some());
        let base = match placement.base {
            Some(TimeBase::Wall) if !has_wall => {
                return Err(Error::Usage(format!(
                    "--time wall: {place} has seconds without wall time; choose --time pts, or give the wall time of PTS 0 \
                     with --began"
                )));
            }
            Some(base) => base,
            None if has_wall => TimeBase::Wall,
            None => TimeBase::Pts,
        };
        let origin = match (base, first.began_ns) {
            (TimeBase::Wall, Some(began)) if placement.offset.is_some() => began,
            // Midnight: the timecode is the time of day.
            (TimeBase::Wall, Some(began)) => began.saturating_sub(began.rem_euclid(DAY)),
            _ => 0,
        };
        let zero_ns = match (base, first.began_ns) {
            (TimeBase::Wall, Some(began)) => began,
            _ => 0,
        };
        let offset = placement.offset.unwrap_or(0);
        let rate = placement.rate;
        let mut placed: Vec<PlacedSegment> = Vec::with_capacity(segments.len());
        for segment in segments {
            let begin_ns = match (base, segment.began_ns) {
                (TimeBase::Wall, Some(began)) => follow(placed.last(), &segment, began.saturating_sub(zero_ns)),
                _ => pts(segment.first),
            };
            let end_before = placed.last().map_or(i64::MIN, |before| before.end_ns);
            if begin_ns < end_before.saturating_sub(SECOND) {
                return Err(overlap(&segment, base, place));
            }
            let begin_ns = begin_ns.max(end_before);
            let end_ns = begin_ns.saturating_add(pts(segment.seconds()));
            let frame =
                |ns: i64| rate.frame_at(ns.saturating_add(zero_ns.saturating_sub(origin))).saturating_add(offset);
            placed.push(PlacedSegment { begin: frame(begin_ns), end: frame(end_ns), begin_ns, end_ns, segment });
        }
        let (first, last) = (&placed[0], &placed[placed.len() - 1]);
        // Positions of recordings count from PTS 0, and begin with an offset where the player's time does.
        let offset_ns = if base == TimeBase::Pts { rate.start_of(offset) } else { 0 };
        Ok(Self {
            stream,
            classes,
            rate,
            base,
            offset_ns,
            begin_ns: first.begin_ns,
            end_ns: last.end_ns,
            begin: first.begin,
            end: last.end,
            segments: placed,
        })
    }

    /// Only the segments of classes.
    pub(super) fn of_classes(&self) -> Self {
        let mut only = self.clone();
        only.segments.retain(|placed| matches!(placed.segment.kind, SegmentKind::Class(_)));
        only
    }

    /// The class of a segment, safe to write.
    pub(super) fn class(&self, placed: &PlacedSegment) -> Option<String> {
        match placed.segment.kind {
            SegmentKind::Class(class) => Some(plain(&self.classes[class.index()])),
            _ => None,
        }
    }

    /// The kind of a segment in files for programs: the class, or another word.
    pub(super) fn kind(&self, placed: &PlacedSegment) -> String {
        match placed.segment.kind {
            SegmentKind::Class(_) => self.class(placed).unwrap_or_default(),
            SegmentKind::Unknown => "unknown".into(),
            SegmentKind::NoProgramme => "no-programme".into(),
            SegmentKind::Undecided => "undecided".into(),
        }
    }

    /// The kind of a segment for people.
    pub(super) fn title(&self, placed: &PlacedSegment) -> String {
        match placed.segment.kind {
            SegmentKind::Class(_) => class_title(&self.class(placed).unwrap_or_default()),
            SegmentKind::Unknown => "Unknown".into(),
            SegmentKind::NoProgramme => "No programme".into(),
            SegmentKind::Undecided => "Not decided".into(),
        }
    }

    pub(super) fn timecode(&self, frame: i64) -> Timecode {
        self.rate.timecode(frame)
    }
}

fn pts(second: u64) -> i64 {
    second.saturating_mul(NANOS_PER_SECOND).try_into().unwrap_or(i64::MAX)
}

/// Where a segment with this position by wall time begins: where the PTS of the one before it says, unless they drifted apart.
fn follow(before: Option<&PlacedSegment>, segment: &Segment, by_wall: i64) -> i64 {
    let Some(before) = before.filter(|b| b.segment.run == segment.run && segment.first > b.segment.last) else {
        return by_wall;
    };
    let by_pts = before.begin_ns.saturating_add(pts(segment.first - before.segment.first));
    if by_pts.abs_diff(by_wall) <= DRIFT_MAX.unsigned_abs() { by_pts } else { by_wall }
}

fn overlap(segment: &Segment, base: TimeBase, place: &str) -> Error {
    let at = Pts::from_second(segment.first);
    let (cause, advice) = match base {
        TimeBase::Pts => (
            format!("the time stamps start again at {at} (run {}), so positions by PTS are not unique", segment.run.0),
            "the source was opened more than once: export each with --from-time and --to-time, or use --time wall",
        ),
        TimeBase::Wall => (
            format!("wall time goes back at {}", segment.began_ns.map(rfc3339).unwrap_or_default()),
            "the clock was set, or the files are not in order: export each part with --from-time and --to-time",
        ),
    };
    Error::source_error(place, cause, advice)
}

fn is_selected(second: &RecordedSecond, placement: &ExportPlacement) -> bool {
    let position = pts(second.index);
    let wall = second.wall_ns.or(placement.pts_zero_ns.map(|zero| zero.saturating_add(position)));
    let is_before = |moment: Moment| match moment {
        Moment::Wall(ns) => wall.is_none_or(|wall| wall < ns),
        Moment::Pts(ns) => position < ns,
    };
    !placement.from.is_some_and(is_before) && placement.to.is_none_or(|to| is_before(to) && has_time(to, wall))
}

/// Whether a second with this wall time can be compared with `moment`.
const fn has_time(moment: Moment, wall: Option<i64>) -> bool {
    matches!(moment, Moment::Pts(_)) || wall.is_some()
}

/// A probability with four decimals.
pub(super) fn probability(millionths: u32) -> String {
    let rounded = (millionths + 50) / 100;
    format!("{}.{:04}", rounded / 10_000, rounded % 10_000)
}

/// The modalities that decided seconds of the segment, most seconds first.
pub(super) fn modalities(segment: &Segment) -> Vec<(&'static str, u32)> {
    let count = |modality: Modality| *segment.decided_by.get(modality);
    let mut all =
        [("rgb", count(Modality::Rgb)), ("flow", count(Modality::Flow)), ("audio", count(Modality::Audio))].to_vec();
    all.retain(|(_, seconds)| *seconds > 0);
    all.sort_by_key(|(_, seconds)| std::cmp::Reverse(*seconds));
    all
}

/// Why seconds of the segment were not decided, with their number.
pub(super) fn gaps(segment: &Segment) -> Vec<(&'static str, u32)> {
    let reasons = GapReason::ALL.iter().map(|reason| reason.as_str()).zip(segment.gaps);
    reasons.chain([("missing", segment.missing)]).filter(|(_, seconds)| *seconds > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixture;
    use super::*;

    #[test]
    fn limits_are_read() {
        assert_eq!(Moment::parse("90"), Ok(Moment::Pts(90 * SECOND)));
        assert_eq!(Moment::parse("1:02:03.5"), Ok(Moment::Pts(3723 * SECOND + SECOND / 2)));
        assert_eq!(Moment::parse("1970-01-01T00:00:01Z"), Ok(Moment::Wall(SECOND)));
        for text in ["", "1:60", "-1", "1:2:3:4", "x", "1.", "99999999999", "2026-13-01T00:00:00Z"] {
            assert!(Moment::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pts_count_from_zero_and_the_offset_is_added() {
        let fixture = Fixture::recording();
        let export = fixture.export(&["--rate", "25", "--offset", "10:00:00:00"]);
        assert_eq!((export.base, export.begin, export.end), (TimeBase::Pts, 900_000, 900_000 + 70 * 25));
        let text: Vec<_> = export.segments.iter().map(|p| export.timecode(p.begin).to_string()).collect();
        assert_eq!(text, ["10:00:00:00", "10:00:20:00", "10:00:30:00", "10:00:50:00"]);
        assert_eq!((export.begin_ns, export.offset_ns), (0, 36_000 * SECOND));
    }

    #[test]
    fn wall_time_is_the_time_of_day() {
        let fixture = Fixture::live();
        let export = fixture.export(&["--rate", "29.97df"]);
        assert_eq!(export.base, TimeBase::Wall);
        // Drop-frame timecode is 0.1 frames an hour behind the clock: the frame nearest to 14:00 is labelled 14:00:00;02.
        assert_eq!(export.timecode(export.begin).to_string(), "14:00:00;02");
        let export = fixture.export(&["--rate", "25", "--offset", "01:00:00:00"]);
        assert_eq!(export.timecode(export.begin).to_string(), "01:00:00:00");
        // Segments that follow each other have no frame between them, although the wall times jitter.
        for pair in export.segments.windows(2) {
            assert_eq!(pair[0].end, pair[1].begin);
        }
        let export = fixture.export(&["--time", "pts"]);
        assert_eq!((export.base, export.begin), (TimeBase::Pts, 0));
    }

    #[test]
    fn a_range_is_cut_out() {
        let fixture = Fixture::live();
        let range = ["--from-time", "2026-03-29T14:00:10Z", "--to-time", "2026-03-29T14:00:25Z"];
        let export = fixture.export(&range);
        assert_eq!(export.segments.iter().map(|p| p.segment.seconds()).collect::<Vec<_>>(), [10, 5]);
        let export = fixture.export(&["--from-time", "10", "--to-time", "0:25"]);
        assert_eq!(export.segments.iter().map(|p| p.segment.seconds()).collect::<Vec<_>>(), [10, 5]);
        let error = fixture.refused(&["--from-time", "1000"]);
        assert!(error.contains("nothing to export") && error.contains("--from-time"), "{error}");
        // A recording has no wall time.
        assert!(Fixture::recording().refused(&range).contains("nothing to export"));
        let began = ["--began", "2026-03-29T14:00:00Z"];
        let recording = Fixture::recording();
        let export = recording.export(&[&began[..], &range[..]].concat());
        assert_eq!(export.segments.len(), 2);
    }

    #[test]
    fn positions_that_are_not_unique_are_refused() {
        let fixture = Fixture::twice();
        let error = fixture.refused(&[]);
        assert!(error.contains("opened more than once") && error.contains("--time wall"), "{error}");
        assert!(fixture.refused(&["--time", "wall"]).contains("--began"));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([probability(912_345), probability(1_000_000), probability(49)], ["0.9123", "1.0000", "0.0000"]);
    }
}
