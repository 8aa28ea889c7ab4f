use super::super::testing::{BEGAN_NS, Fixture, anywhere, at, between, from};
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
    let export = fixture.export(&at("25", "10:00:00:00"));
    assert_eq!((export.base, export.begin, export.end), (TimeBase::Pts, 900_000, 900_000 + 70 * 25));
    let text: Vec<_> = export.segments.iter().map(|p| export.timecode(p.begin).to_string()).collect();
    assert_eq!(text, ["10:00:00:00", "10:00:20:00", "10:00:30:00", "10:00:50:00"]);
    assert_eq!((export.begin_ns, export.offset_ns), (0, 36_000 * SECOND));
}

#[test]
fn the_timecode_of_the_media_comes_first() {
    for (rate, first, frames) in [
        ("25", "10:00:00:00", [0, 500, 750, 1250]),
        ("29.97df", "00:59:59;20", [0, 599, 899, 1499]),
        ("59.94", "01:00:00:00", [0, 1199, 1798, 2997]),
    ] {
        let fixture = Fixture::coded(rate, first, 0);
        let export = fixture.export(&anywhere());
        assert_eq!(
            (export.base, export.rate.name(), export.timecode(export.begin).to_string().as_str()),
            (TimeBase::Timecode, rate, first)
        );
        let begin = export.begin;
        assert_eq!(export.segments.iter().map(|p| p.begin - begin).collect::<Vec<_>>(), frames, "{rate}");
        assert!(export.segments.windows(2).all(|pair| pair[0].end == pair[1].begin));
        assert_eq!((export.media_begin(), export.begin_ns, export.offset_ns), (begin, 0, 0));
        // A part has the timecode of the whole.
        let part = fixture.export(&between("35", "45"));
        let frame = |second: i64| begin + part.rate.frame_at(second * SECOND);
        assert_eq!((part.begin, part.end, part.media_begin()), (frame(35), frame(45), begin), "{rate}");
        // An offset or another rate means counting.
        let counted = fixture.export(&at("24", ""));
        assert_eq!((counted.base, counted.begin), (TimeBase::Pts, 0));
        assert_eq!(fixture.export(&at(rate, &export.timecode(export.begin + 7).to_string())).begin, begin + 7);
    }
}

#[test]
fn timecode_that_does_not_fit_is_refused_or_not_used() {
    let requested = from(TimeBase::Timecode);
    assert!(Fixture::recording().refused(&requested).contains("no timecode"));
    let fixture = Fixture::coded("25", "10:00:00:00", 0);
    assert!(
        fixture
            .refused(&ExportPlacement { rate: Some(FrameRate::parse("30").unwrap()), ..requested.clone() })
            .contains("counts at 25")
    );
    assert!(
        fixture
            .refused(&ExportPlacement { offset: Some("01:00:00:00".into()), ..requested.clone() })
            .contains("no offset")
    );
    // It jumps ahead, back, and over midnight.
    let ahead = Fixture::coded("25", "10:00:00:00", 100);
    let export = ahead.export(&requested);
    assert_eq!(export.segments.iter().map(|p| p.end - p.begin).collect::<Vec<_>>(), [500, 250, 600, 500]);
    assert!(Fixture::coded("25", "10:00:00:00", -2000).refused(&requested).contains("goes back at"));
    let midnight = Fixture::coded("25", "23:59:45:00", 0);
    let export = midnight.export(&requested);
    let text: Vec<_> = export.segments.iter().map(|p| export.timecode(p.begin).to_string()).collect();
    assert_eq!(text, ["23:59:45:00", "00:00:05:00", "00:00:15:00", "00:00:35:00"]);
    assert_eq!(export.end - export.begin, 70 * 25);
}

#[test]
fn wall_time_is_the_time_of_day() {
    let fixture = Fixture::live();
    let export = fixture.export(&at("29.97df", ""));
    assert_eq!(export.base, TimeBase::Wall);
    // Drop-frame timecode is 0.1 frames an hour behind the clock: the frame nearest to 14:00 is labelled 14:00:00;02.
    assert_eq!(export.timecode(export.begin).to_string(), "14:00:00;02");
    let export = fixture.export(&at("25", "01:00:00:00"));
    assert_eq!(export.timecode(export.begin).to_string(), "01:00:00:00");
    // Segments that follow each other have no frame between them, although the wall times jitter.
    for pair in export.segments.windows(2) {
        assert_eq!(pair[0].end, pair[1].begin);
    }
    let export = fixture.export(&from(TimeBase::Pts));
    assert_eq!((export.base, export.begin), (TimeBase::Pts, 0));
}

#[test]
fn a_range_is_cut_out() {
    let fixture = Fixture::live();
    let range = between("2026-03-29T14:00:10Z", "2026-03-29T14:00:25Z");
    let export = fixture.export(&range);
    assert_eq!(export.segments.iter().map(|p| p.segment.seconds()).collect::<Vec<_>>(), [10, 5]);
    let export = fixture.export(&between("10", "0:25"));
    assert_eq!(export.segments.iter().map(|p| p.segment.seconds()).collect::<Vec<_>>(), [10, 5]);
    let error = fixture.refused(&between("1000", ""));
    assert!(error.contains("nothing to export") && error.contains("another time"), "{error}");
    // A recording has no wall time.
    assert!(Fixture::recording().refused(&range).contains("nothing to export"));
    let recording = Fixture::recording();
    let export = recording.export(&ExportPlacement { pts_zero_ns: Some(BEGAN_NS), ..range });
    assert_eq!(export.segments.len(), 2);
}

#[test]
fn positions_that_are_not_unique_are_refused() {
    let fixture = Fixture::twice();
    let error = fixture.refused(&anywhere());
    assert!(error.contains("opened more than once") && error.contains("from wall time"), "{error}");
    assert!(fixture.refused(&from(TimeBase::Wall)).contains("(began)"));
}

#[test]
fn figures_are_short() {
    assert_eq!([probability(912_345), probability(1_000_000), probability(49)], ["0.9123", "1.0000", "0.0000"]);
}
