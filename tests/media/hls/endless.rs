//! Endless streams over HTTP without a playlist: live sources, which are reopened when they end.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use touchline_media::supervise::SourceState;
use touchline_media::uri::Pacing;

use super::case::{Case, Expect, Site, run};
use super::material::file;
use super::play::{Next, PlayOptions};
use super::server::{Answer, Body};
use crate::common::{Fixtures, ffmpeg};

/// Plays until the third connection, or until there are `seconds` seconds.
fn twice(seconds: usize) -> PlayOptions {
    let mut plays = 0;
    let on_state = move |state: &SourceState| match state {
        SourceState::Playing => {
            plays += 1;
            if plays > 2 { Next::Stop } else { Next::Continue }
        }
        // A live source must reach neither state.
        SourceState::Ended | SourceState::Failed { .. } => Next::Stop,
        _ => Next::Continue,
    };
    PlayOptions { pacing: Pacing::Auto, on_state: Box::new(on_state), seconds, ..PlayOptions::recording() }
}

/// Sends `bytes` evenly over `seconds` seconds.
fn trickle(out: &mut dyn Write, bytes: &[u8], seconds: f64) -> std::io::Result<()> {
    let began = Instant::now();
    let mut sent = 0;
    while sent < bytes.len() {
        let due = (bytes.len() as f64 * (began.elapsed().as_secs_f64() + 0.5) / seconds) as usize;
        let due = (due / 188 * 188).clamp(sent, bytes.len());
        // The last incomplete packet is sent with the one before it.
        let due = if bytes.len() - due < 188 { bytes.len() } else { due };
        out.write_all(&bytes[sent..due])?;
        sent = due;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Checks that the source reconnects after the end of its connection, starts a new run, and never ends or fails.
fn reconnects(case: Case, wanted: usize) -> Case {
    let case = case.options(twice(wanted)).mute();
    case.check(move |outcome, _| {
        let plays = outcome.states.iter().filter(|s| **s == SourceState::Playing).count();
        let is_final = |s: &&SourceState| matches!(s, SourceState::Ended | SourceState::Failed { .. });
        match outcome.states.iter().find(is_final) {
            Some(state) => Err(format!("a live source reached {state:?}")),
            None if plays < 2 || outcome.runs.len() < 2 => Err(format!("it played {plays} times")),
            // On a busy machine the server may send no picture in one of the seconds.
            None if outcome.decided() + 1 < wanted => Err(format!("{} seconds of {wanted}", outcome.decided())),
            None => Ok(()),
        }
    })
}

#[test]
fn endless_streams_over_http_are_live() {
    let dir = Fixtures::new();
    let jpeg = |n: usize| {
        let path = dir.path().join(format!("{n}.jpg"));
        ffmpeg(
            &format!("-f lavfi -i testsrc2=size=320x240:rate=1:duration=4,trim=start={n}:duration=1 -frames:v 1"),
            &path,
        );
        std::fs::read(path).expect("ffmpeg wrote it")
    };
    let pictures: Arc<Vec<Vec<u8>>> = Arc::new((0..3).map(jpeg).collect());
    let ts = || {
        let body = Body::Stream(Arc::new(|out| trickle(out, &file("brts/all.ts"), 12.0)));
        Answer::of(body).with("Content-Type", "video/mp2t")
    };
    let mjpeg = |boundary: &'static str, length: bool| {
        let pictures = pictures.clone();
        let body = Body::Stream(Arc::new(move |out| {
            for n in 0..60 {
                let picture = &pictures[n / 3 % pictures.len()];
                write!(out, "--{boundary}\r\nContent-Type: image/jpeg\r\n")?;
                if length {
                    write!(out, "Content-Length: {}\r\n", picture.len())?;
                }
                out.write_all(b"\r\n")?;
                out.write_all(picture)?;
                out.write_all(b"\r\n")?;
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        }));
        Answer::of(body).with("Content-Type", format!("multipart/x-mixed-replace; boundary={boundary}"))
    };
    let of = |name: &str, path: &str, answer: Answer, wanted: usize| {
        let route = path.split('?').next().unwrap_or_default();
        let case = Case::new(name, Site::new().answers(route, answer), Expect::Anything).at(path);
        reconnects(case, wanted)
    };
    // A connection lasts twelve seconds with MPEG-TS and six with MJPEG, so the wanted seconds need a second connection.
    run(vec![
        of("MPEG-TS", "live.ts", ts(), 15),
        of("MPEG-TS without a name", "stream/channel/7", ts(), 15),
        of("MJPEG", "mjpeg", mjpeg("myboundary", true), 8),
        of("MJPEG without lengths", "video.cgi?camera=1", mjpeg("frame", false), 8),
    ]);
}
