//! Cameras that say what time it is, and are wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use touchline_core::incident::Incident;
use touchline_core::time::WallSource;
use touchline_media::gst::GstOptions;

use super::PATIENCE;
use crate::common::camera::{Camera, Habits};
use crate::common::watched::{Said, Watched, quick};

const DAY_S: f64 = 86_400.0;

fn watch(clock: fn(u64) -> f64) -> (Camera, Watched) {
    let camera = Camera::start(Habits { clock, ..Habits::default() });
    let (rtsp_transport, connect_timeout) = ("tcp".into(), Duration::from_secs(6));
    let options = GstOptions { rtsp_transport, connect_timeout, ..GstOptions::default() };
    let watched = Watched::start_with(&camera.url(""), options, quick());
    (camera, watched)
}

fn incidents(watched: &Watched, incident: Incident) -> usize {
    watched.all().iter().filter(|(_, said)| matches!(said, Said::Incident(found) if *found == incident)).count()
}

#[test]
fn a_clock_that_jumps_by_years_stays_out_of_wall_time_and_is_told_of_once() {
    let (_camera, mut watched) = watch(|n| [-9e9, 0.0, 400.0 * DAY_S, -DAY_S][n as usize % 4]);
    watched.until("incident", PATIENCE, |said| matches!(said, Said::Incident(Incident::ClockImplausible)));
    // Some rounds of its clock later.
    watched.until("second", PATIENCE, |said| matches!(said, Said::Second { index: 8.., .. }));
    assert_eq!(
        (incidents(&watched, Incident::ClockImplausible), incidents(&watched, Incident::ClockPlausible)),
        (1, 0)
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
    for (_, said) in watched.all() {
        if let Said::Second { wall: Some(wall), index, .. } = said {
            let off_s = (now - wall.unix_ns) / 1_000_000_000;
            assert!((-1..120).contains(&off_s), "second {index} is {off_s} s off: {wall:?}");
            assert!(index < 8, "nobody believes it any more: {wall:?}");
        }
    }
}

#[test]
fn a_clock_that_was_set_right_counts_again() {
    let (_camera, mut watched) = watch(|n| if n < 6 { -4000.0 * DAY_S } else { 0.0 });
    watched.until("incident", PATIENCE, |said| matches!(said, Said::Incident(Incident::ClockImplausible)));
    watched.until("return", PATIENCE, |said| matches!(said, Said::Incident(Incident::ClockPlausible)));
    let is_told =
        |said: &Said| matches!(said, Said::Second { wall: Some(w), .. } if w.source == WallSource::RtcpSenderReport);
    watched.until("wall time", PATIENCE, is_told);
    assert_eq!(incidents(&watched, Incident::ClockImplausible), 1);
}
