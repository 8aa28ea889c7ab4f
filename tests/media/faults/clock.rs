//! Cameras whose clocks are wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use touchline_core::incident::Incident;
use touchline_core::time::WallSource;
use touchline_media::gst::GstOptions;

use crate::common::camera::{Camera, CameraOptions};
use crate::common::watched::{Event, Watched, quick};

const DAY_S: f64 = 86_400.0;

fn watch(clock: fn(u64) -> f64) -> (Camera, Watched) {
    let camera = Camera::start(CameraOptions { clock, ..CameraOptions::default() });
    let (rtsp_transport, connect_timeout) = ("tcp".into(), Duration::from_secs(6));
    let options = GstOptions { rtsp_transport, connect_timeout, ..GstOptions::default() };
    let watched = Watched::start_with(&camera.url(""), options, quick());
    (camera, watched)
}

fn incidents(watched: &Watched, incident: Incident) -> usize {
    watched.all().iter().filter(|event| matches!(event, Event::Incident(found) if *found == incident)).count()
}

#[test]
fn a_clock_that_jumps_by_years_is_ignored_and_reported_once() {
    let (_camera, mut watched) = watch(|n| [-9e9, 0.0, 400.0 * DAY_S, -DAY_S][n as usize % 4]);
    watched.until("incident", |event| matches!(event, Event::Incident(Incident::ClockImplausible)));
    // By then the clock has jumped several times.
    watched.until("second", |event| matches!(event, Event::Second { index: 8.., .. }));
    assert_eq!(
        (incidents(&watched, Incident::ClockImplausible), incidents(&watched, Incident::ClockPlausible)),
        (1, 0)
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
    for event in watched.all() {
        if let Event::Second { wall: Some(wall), index, .. } = event {
            let off_s = (now - wall.unix_ns) / 1_000_000_000;
            assert!((-1..120).contains(&off_s), "second {index} is {off_s} s off: {wall:?}");
            assert!(index < 8, "the clock is no longer used: {wall:?}");
        }
    }
}

#[test]
fn a_corrected_clock_is_used_again() {
    let (_camera, mut watched) = watch(|n| if n < 6 { -4000.0 * DAY_S } else { 0.0 });
    watched.until("incident", |event| matches!(event, Event::Incident(Incident::ClockImplausible)));
    watched.until("recovery", |event| matches!(event, Event::Incident(Incident::ClockPlausible)));
    let has_wall_time =
        |e: &Event| matches!(e, Event::Second { wall: Some(w), .. } if w.source == WallSource::RtcpSenderReport);
    watched.until("wall time", has_wall_time);
    assert_eq!(incidents(&watched, Incident::ClockImplausible), 1);
}
