//! The segments of an export on one timeline, in nanoseconds and frames.

use schemars::JsonSchema;
use serde::Deserialize;

use super::text::plain;
use crate::record::SegmentContent;
use crate::record::format::{class_title, parse_rfc3339, rfc3339};
use touchline_core::cause::Cause;
use touchline_core::clip::GapReason;
use touchline_core::error::{Error, Result};
use touchline_core::labels::Modality;
use touchline_core::segment::{RecordedSecond, Segment, SegmentKind, SegmentedStream};
use touchline_core::time::{NANOS_PER_SECOND, Pts};
use touchline_core::timecode::{FrameRate, Timecode, TimecodeMark};

const SECOND: i64 = NANOS_PER_SECOND as i64;
const DAY: i64 = 86_400 * SECOND;

/// How far wall time and PTS may drift apart before a segment is placed by wall time again. Below that, PTS is the better measure of
/// a distance: wall times jitter.
const DRIFT_MAX: i64 = SECOND / 2;

/// Time base of the timecodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimeBase {
    /// The timecode of the media.
    Timecode,
    /// Wall time.
    Wall,
    /// PTS.
    Pts,
}

impl TimeBase {
    /// The names of all values.
    pub const NAMES: [&str; 3] = ["timecode", "wall", "pts"];
}

/// The rate where neither the media nor the caller names one.
pub const RATE: &str = "25";

/// A limit of the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nanoseconds since 1970-01-01 UTC.
    Wall(i64),
    /// Nanoseconds.
    Pts(i64),
}

impl Moment {
    /// Reads RFC 3339, hours:minutes:seconds, or seconds.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn parse(text: &str) -> Result<Self, String> {
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
#[derive(Clone, Debug, Default)]
pub struct ExportPlacement {
    /// Rate of the timecode [default: that of the media, else [`RATE`]].
    pub rate: Option<FrameRate>,
    /// Timecode of the first second (wall time) or of PTS 0.
    pub offset: Option<String>,
    /// Time base of the timecodes [default: the timecode of the media without `offset` and another `rate`; else wall time; else
    /// PTS; the first that every second has].
    pub base: Option<TimeBase>,
    /// Wall time of PTS 0, nanoseconds since 1970-01-01 UTC, for records without wall time.
    pub pts_zero_ns: Option<i64>,
    /// Exclude segments before this time.
    pub from: Option<Moment>,
    /// Exclude segments that begin at or after this time.
    pub to: Option<Moment>,
}

/// A segment on the timeline.
#[derive(Clone, Debug)]
pub struct PlacedSegment {
    /// The segment.
    pub segment: Segment,
    /// Start and end, nanoseconds from the timeline's zero. The offset is not in it.
    pub(super) begin_ns: i64,
    pub(super) end_ns: i64,
    /// Start and end as frames, with the offset.
    pub(super) begin: i64,
    pub(super) end: i64,
}

/// The segments of one stream on a timeline.
#[derive(Clone, Debug)]
pub struct Export<'a> {
    /// Id of the stream, as in the records. Not safe to write.
    pub stream: &'a str,
    /// The media have no sound: `otio` and `edl` then have pictures only. [`Export::new`] assumes sound.
    pub is_silent: bool,
    classes: &'a [String],
    pub(super) rate: FrameRate,
    pub(super) base: TimeBase,
    /// Whether positions are wall time; else they are PTS.
    pub(super) is_wall: bool,
    /// Offset of the media in WebVTT, nanoseconds.
    pub(super) offset_ns: i64,
    /// Start and end of the recorded time.
    pub(super) begin_ns: i64,
    pub(super) end_ns: i64,
    pub(super) begin: i64,
    pub(super) end: i64,
    /// The segments in order.
    pub segments: Vec<PlacedSegment>,
}

impl<'a> Export<'a> {
    /// Places the selected segments of a stream. `place` names their origin in messages.
    ///
    /// # Errors
    /// If there is none ([`Cause::NotFound`]), or they have no unique positions.
    pub fn new(
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
            return Err(Error::source_failure(Cause::NotFound, place, cause, "choose another time"));
        };
        let has_wall = segments.iter().all(|s| s.began_ns.is_some());
        let base = base(&segments, has_wall, placement, place)?;
        let is_wall = base == TimeBase::Wall || (base == TimeBase::Timecode && has_wall);
        let rate = match (base, first.timecodes) {
            (TimeBase::Timecode, Some([mark, _])) => mark.rate,
            _ => placement.rate.unwrap_or(FrameRate::parse(RATE).expect("it is in the table")),
        };
        let offset = placement.offset.as_deref().map(|text| rate.parse_timecode(text)).transpose();
        let offset = offset.map_err(|e| Error::Usage(format!("offset: {e}")))?;
        let zero_ns = first.began_ns.filter(|_| is_wall).unwrap_or(0);
        let origin_ns = match offset {
            // Midnight: the timecode is the time of day.
            None => zero_ns.saturating_sub(zero_ns.rem_euclid(DAY)),
            Some(_) => zero_ns,
        };
        let mut placed: Vec<PlacedSegment> = Vec::with_capacity(segments.len());
        for segment in segments {
            let begin_ns = match segment.began_ns {
                Some(began) if is_wall => follow(placed.last(), &segment, began.saturating_sub(zero_ns)),
                _ => pts(segment.first),
            };
            let before = placed.last();
            let end_before = before.map_or(i64::MIN, |before| before.end_ns);
            if begin_ns < end_before.saturating_sub(SECOND) {
                return Err(overlap(&segment, is_wall, place));
            }
            let begin_ns = begin_ns.max(end_before);
            let end_ns = begin_ns.saturating_add(pts(segment.seconds()));
            let (begin, end) = match segment.timecodes.filter(|_| base == TimeBase::Timecode) {
                Some(marks) => media_frames(marks, &segment, before.map(|before| before.end), place)?,
                None => {
                    let frame = |ns: i64| {
                        let from_origin = ns.saturating_add(zero_ns.saturating_sub(origin_ns));
                        rate.frame_at(from_origin).saturating_add(offset.unwrap_or(0))
                    };
                    (frame(begin_ns), frame(end_ns))
                }
            };
            placed.push(PlacedSegment { begin, end, begin_ns, end_ns, segment });
        }
        let (first, last) = (&placed[0], &placed[placed.len() - 1]);
        // Positions of recordings count from PTS 0, and begin with an offset where the player's time does.
        let offset_ns = if base == TimeBase::Pts { rate.start_of(offset.unwrap_or(0)) } else { 0 };
        Ok(Self {
            stream,
            is_silent: false,
            classes,
            rate,
            base,
            is_wall,
            offset_ns,
            begin_ns: first.begin_ns,
            end_ns: last.end_ns,
            begin: first.begin,
            end: last.end,
            segments: placed,
        })
    }

    /// The frame at which the media begin, as far as that is known.
    pub(super) fn media_begin(&self) -> i64 {
        match self.base {
            _ if self.is_wall => self.begin,
            // PTS 0 is the beginning of a recording.
            TimeBase::Timecode => self.begin.saturating_sub(self.rate.frame_at(self.begin_ns)),
            _ => self.rate.frame_at(self.offset_ns),
        }
    }

    /// Only the segments of classes.
    pub fn of_classes(&self) -> Self {
        let mut only = self.clone();
        only.segments.retain(|placed| matches!(placed.segment.kind, SegmentKind::Class(_)));
        only
    }

    /// The class of a segment, safe to write.
    pub fn class(&self, placed: &PlacedSegment) -> Option<String> {
        match placed.segment.kind {
            SegmentKind::Class(class) => Some(plain(&self.classes[class.index()])),
            _ => None,
        }
    }

    /// The kind of a segment in files for programs: the class, or another word.
    pub(super) fn kind(&self, placed: &PlacedSegment) -> String {
        self.class(placed).unwrap_or_else(|| SegmentContent::from(placed.segment.kind).as_str().to_owned())
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

/// Time base of the timecodes.
fn base(segments: &[Segment], has_wall: bool, placement: &ExportPlacement, place: &str) -> Result<TimeBase> {
    let rate = segments.first().and_then(|segment| segment.timecodes).map(|[mark, _]| mark.rate);
    let has_rate =
        |segment: &Segment| segment.timecodes.is_some_and(|marks| marks.iter().all(|m| Some(m.rate) == rate));
    let has_timecode = segments.iter().all(has_rate);
    match placement.base {
        Some(TimeBase::Timecode) if !has_timecode => {
            let cause = "the media have no timecode in some seconds, or more than one rate of it";
            Err(Error::source_error(place, cause, "choose another time, or count from wall time or PTS"))
        }
        Some(TimeBase::Timecode) if placement.offset.is_some() => Err(Error::Usage(
            "the timecode of the media takes no offset; leave it out, or count from wall time or PTS".into(),
        )),
        Some(TimeBase::Timecode) if placement.rate.is_some_and(|requested| Some(requested) != rate) => {
            let name = rate.map(FrameRate::name).unwrap_or_default();
            Err(Error::Usage(format!("the timecode of the media counts at {name}; leave out the rate")))
        }
        Some(TimeBase::Wall) if !has_wall => Err(Error::Usage(format!(
            "{place} has seconds without wall time; count from PTS, or give the wall time of PTS 0 (began)"
        ))),
        Some(base) => Ok(base),
        None if has_timecode
            && placement.offset.is_none()
            && placement.rate.is_none_or(|requested| Some(requested) == rate) =>
        {
            Ok(TimeBase::Timecode)
        }
        None if has_wall => Ok(TimeBase::Wall),
        None => Ok(TimeBase::Pts),
    }
}

/// First and last frame of a segment by the timecode of its media, after a segment that ends at `before`. They do not wrap at midnight.
fn media_frames(
    [from, to]: [TimecodeMark; 2],
    segment: &Segment,
    before: Option<i64>,
    place: &str,
) -> Result<(i64, i64)> {
    let day = from.rate.frames_in_day();
    let backwards = |label: i64| {
        let cause = format!("the timecode of the media goes back at {}", from.rate.timecode(label));
        let advice = "export each part by itself, or count from wall time or PTS";
        Err(Error::source_error(place, cause, advice))
    };
    // The day in which a later frame is nearest.
    let after = |reached: i64, frame: i64| frame + (reached - frame + day / 2).div_euclid(day) * day;
    let frame = from.frame_at(Pts::from_second(segment.first));
    let begin = before.map_or(frame, |reached| after(reached, frame));
    // Frames of one picture more or less are rounding.
    let Some(begin) = before.map_or(Some(begin), |reached| (begin + 1 >= reached).then_some(begin.max(reached))) else {
        return backwards(begin);
    };
    let end = after(begin, to.frame_at(Pts::from_second(segment.last + 1)));
    if end <= begin { backwards(end) } else { Ok((begin, end)) }
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

fn overlap(segment: &Segment, is_wall: bool, place: &str) -> Error {
    let at = Pts::from_second(segment.first);
    let (cause, advice) = if is_wall {
        (
            format!("wall time goes back at {}", segment.began_ns.map(rfc3339).unwrap_or_default()),
            "the clock was set, or the files are not in order: export each part by itself",
        )
    } else {
        (
            format!("the time stamps start again at {at} (run {}), so positions by PTS are not unique", segment.run.0),
            "the source was opened more than once: export each part by itself, or count from wall time",
        )
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
#[path = "place_tests.rs"]
mod tests;
