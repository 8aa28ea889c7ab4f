//! HLS origins that fail, and advertisement breaks.

use std::time::Duration;

use touchline_core::cause::Cause;
use touchline_core::item::Discontinuity;
use touchline_core::time::WallSource;
use touchline_media::gst::GstOptions;
use touchline_media::supervise::Policy;

use crate::common::origin::{Behaviour, Origin, WINDOW, first_ms};
use crate::common::watched::{Event, Watched, quick};

/// Breaks the origin, waits for the failure, and repairs the origin. Returns the reported cause.
fn cause_of(behaviour: Behaviour) -> Cause {
    let origin = Origin::start();
    // The supervisor's stall times are long, so that the client reports its more precise cause first.
    let policy = Policy { stall: Duration::from_secs(14), pictures_stall: Duration::from_secs(20), ..quick() };
    let mut watched = Watched::start_with(&origin.url(), GstOptions::default(), policy);
    watched.until_classified();
    watched.skip();
    origin.set_behaviour(behaviour);
    let event = watched.until("failure", |event| {
        matches!(event, Event::State(touchline_media::supervise::SourceState::Waiting { .. }))
    });
    let Event::State(touchline_media::supervise::SourceState::Waiting { kind, cause, .. }) = event else {
        unreachable!("`until` matched it")
    };
    eprintln!("{behaviour:?}: {cause}");
    origin.set_behaviour(Behaviour::Normal);
    watched.until("return", Event::plays);
    watched.until_classified();
    kind
}

#[test]
fn each_http_status_has_its_cause() {
    assert_eq!(cause_of(Behaviour::Status(404)), Cause::NotFound);
    assert_eq!(cause_of(Behaviour::Status(503)), Cause::ServerError);
}

#[test]
fn a_playlist_that_stops_moving_is_a_stall() {
    assert_eq!(cause_of(Behaviour::Frozen), Cause::PlaylistStalled);
}

#[test]
fn a_channel_with_an_end_mark_is_retried() {
    let origin = Origin::start();
    let mut watched = Watched::start(&origin.url());
    watched.until_classified();
    // Only a playlist that has moved without an end mark proves a channel. The first one had seconds of its own window only.
    watched.until(
        "a second of a later playlist",
        |event| matches!(event, Event::Second { index, .. } if *index >= WINDOW as u64),
    );
    origin.set_behaviour(Behaviour::Ended);
    watched.until("end", |event| event.waits_for(Cause::Ended));
    // Without new segments in the playlist, the old ones are not played a second time.
    watched.until("another attempt", |event| event.waits_for(Cause::Ended));
    assert_eq!(watched.all().iter().filter(|event| event.plays()).count(), 1);
    origin.set_behaviour(Behaviour::Normal);
    watched.until("return", Event::plays);
    watched.until_classified();
}

#[test]
fn a_playlist_with_an_end_mark_from_the_start_ends() {
    let origin = Origin::start();
    origin.set_behaviour(Behaviour::Ended);
    let mut watched = Watched::start(&origin.url());
    watched.until_classified();
    watched.until("end", |event| matches!(event, Event::State(touchline_media::supervise::SourceState::Ended)));
    assert!(!watched.all().iter().any(|event| event.waits_for(Cause::Ended)));
}

#[test]
fn slow_servers_and_closed_connections_are_failures() {
    for behaviour in [Behaviour::SlowLoris, Behaviour::Closes] {
        let kind = cause_of(behaviour);
        assert!(matches!(kind, Cause::PlaylistStalled | Cause::NoAnswer | Cause::Other), "{behaviour:?}: {kind:?}");
    }
}

#[test]
fn the_stream_recovers_from_garbage_segments() {
    let kind = cause_of(Behaviour::Garbage);
    assert!(matches!(kind, Cause::PlaylistStalled | Cause::NotMedia | Cause::Damaged | Cause::Other), "{kind:?}");
}

#[test]
fn dates_of_segments_set_wall_time_and_advertisements_start_runs() {
    let origin = Origin::start();
    let mut watched = Watched::start(&origin.url());
    watched.until_classified();
    // Stream time 0 is the first segment of the loaded playlist, so the index of a second and its date advance together.
    let mut offset = None;
    for _ in 0..3 {
        let event = watched.until("date", |s| matches!(s, Event::Second { wall: Some(_), .. }));
        let Event::Second { index, wall: Some(wall), .. } = event else { unreachable!("`until` matched it") };
        assert_eq!(wall.source, WallSource::HlsProgramDateTime);
        assert!(wall.uncertainty_ns >= 100_000_000 && wall.uncertainty_ns < 200_000_000, "{wall:?}");
        // Segments last one second, so the date of the segment is that of the second.
        let ms = wall.unix_ns / 1_000_000 - first_ms();
        assert!((0..120_000).contains(&ms), "{wall:?}");
        let of_second = ms - 1_000 * index as i64;
        assert!(offset.is_none_or(|before: i64| (before - of_second).abs() <= 40), "{offset:?}, then {of_second}");
        offset = Some(of_second);
    }
    origin.advertise(true);
    watched.until("break", |event| matches!(event, Event::Run(Some(Discontinuity::Playlist))));
    watched.until("second", Event::is_second);
    origin.advertise(false);
    watched.until("end of the break", |event| matches!(event, Event::Run(Some(Discontinuity::Playlist))));
    watched.until("second", Event::is_second);
    let events = watched.all();
    assert_eq!(events.iter().filter(|event| event.plays()).count(), 1, "advertisements cause no reconnect");
}
