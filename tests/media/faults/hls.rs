//! HLS origins that fail, and breaks for advertisements.

use std::time::Duration;

use touchline_core::cause::Cause;
use touchline_core::item::Discontinuity;
use touchline_core::time::WallSource;
use touchline_media::gst::GstOptions;
use touchline_media::supervise::Policy;

use super::PATIENCE;
use crate::common::origin::{Mood, Origin, first_ms};
use crate::common::watched::{Said, Watched, quick};

/// Breaks the origin and mends it again; gives the cause that was found.
fn broken_and_mended(mood: Mood) -> Cause {
    let origin = Origin::start();
    // The client finds out before the supervisor does: it says why.
    let policy = Policy { stall: Duration::from_secs(14), pictures_stall: Duration::from_secs(20), ..quick() };
    let mut watched = Watched::start_with(&origin.url(), GstOptions::default(), policy);
    watched.until_classified(PATIENCE);
    watched.skip();
    origin.mood(mood);
    let (_, said) = watched.until("failure", PATIENCE, |said| {
        matches!(said, Said::State(touchline_media::supervise::SourceState::Waiting { .. }))
    });
    let Said::State(touchline_media::supervise::SourceState::Waiting { kind, cause, .. }) = said else {
        unreachable!("that was waited for")
    };
    eprintln!("{mood:?}: {cause}");
    origin.mood(Mood::Well);
    watched.until("return", PATIENCE, Said::plays);
    watched.until_classified(PATIENCE);
    kind
}

#[test]
fn statuses_are_told_apart() {
    assert_eq!(broken_and_mended(Mood::Status(404)), Cause::NotFound);
    assert_eq!(broken_and_mended(Mood::Status(503)), Cause::ServerError);
}

#[test]
fn a_playlist_that_stops_moving_is_a_stall() {
    assert_eq!(broken_and_mended(Mood::Frozen), Cause::PlaylistStalled);
}

#[test]
fn a_channel_that_says_that_it_is_over_is_waited_for() {
    let origin = Origin::start();
    let mut watched = Watched::start(&origin.url());
    watched.until_classified(PATIENCE);
    origin.mood(Mood::Over);
    watched.until("end", PATIENCE, |said| said.waits_for(Cause::Ended));
    // As long as nothing new is in the playlist, what it still holds is not watched a second time.
    watched.until("another attempt", PATIENCE, |said| said.waits_for(Cause::Ended));
    assert_eq!(watched.all().iter().filter(|(_, said)| said.plays()).count(), 1);
    origin.mood(Mood::Well);
    watched.until("return", PATIENCE, Said::plays);
    watched.until_classified(PATIENCE);
}

#[test]
fn a_playlist_that_was_whole_from_the_beginning_is_over_at_its_end() {
    let origin = Origin::start();
    origin.mood(Mood::Over);
    let mut watched = Watched::start(&origin.url());
    watched.until_classified(PATIENCE);
    watched.until("end", PATIENCE, |said| matches!(said, Said::State(touchline_media::supervise::SourceState::Ended)));
    assert!(!watched.all().iter().any(|(_, said)| said.waits_for(Cause::Ended)));
}

#[test]
fn a_server_that_dawdles_or_hangs_up_is_left() {
    for mood in [Mood::SlowLoris, Mood::Hangs] {
        let kind = broken_and_mended(mood);
        assert!(matches!(kind, Cause::PlaylistStalled | Cause::NoAnswer | Cause::Other), "{mood:?}: {kind:?}");
    }
}

#[test]
fn garbage_does_no_harm() {
    let kind = broken_and_mended(Mood::Garbage);
    assert!(matches!(kind, Cause::PlaylistStalled | Cause::NotMedia | Cause::Damaged | Cause::Other), "{kind:?}");
}

#[test]
fn segments_bring_their_dates_and_advertisements_begin_runs() {
    let origin = Origin::start();
    let mut watched = Watched::start(&origin.url());
    watched.until_classified(PATIENCE);
    // Stream time 0 is the first segment of the playlist that was loaded, so second and date go on together.
    let mut offset = None;
    for _ in 0..3 {
        let (_, said) = watched.until("date", PATIENCE, |s| matches!(s, Said::Second { wall: Some(_), .. }));
        let Said::Second { index, wall: Some(wall), .. } = said else { unreachable!("that was waited for") };
        assert_eq!(wall.source, WallSource::HlsProgramDateTime);
        assert!(wall.uncertainty_ns >= 100_000_000 && wall.uncertainty_ns < 200_000_000, "{wall:?}");
        // A segment begins each second: its date is that of the second, whichever it is.
        let ms = wall.unix_ns / 1_000_000 - first_ms();
        assert!((0..120_000).contains(&ms), "{wall:?}");
        let of_second = ms - 1_000 * index as i64;
        assert!(offset.is_none_or(|before: i64| (before - of_second).abs() <= 40), "{offset:?}, then {of_second}");
        offset = Some(of_second);
    }
    origin.advertise(true);
    watched.until("break", PATIENCE, |said| matches!(said, Said::Run(Some(Discontinuity::Playlist))));
    watched.until("second", PATIENCE, Said::is_second);
    origin.advertise(false);
    watched.until("end of the break", PATIENCE, |said| matches!(said, Said::Run(Some(Discontinuity::Playlist))));
    watched.until("second", PATIENCE, Said::is_second);
    let said = watched.all();
    assert_eq!(said.iter().filter(|(_, said)| said.plays()).count(), 1, "no reconnect for advertisements");
}
