//! A server whose stream plays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{PastClock, Script, Server, Shot, add, afternoon, court, feed, new_hub, step};
use touchline_core::clip::Absent;
use touchline_core::clock::Clock;
use touchline_core::decision::SecondOutcome;
use touchline_core::item::Tracks;
use touchline_core::tier::DecodeTier;
use touchline_serve::hub::{Hub, StreamHandle};
use touchline_serve::record::StreamState;

/// A server with a stream that has played for ten minutes. It offers moving pictures while a client watches.
pub struct Studio {
    pub hub: Hub,
    pub clock: Arc<PastClock>,
    pub cam: StreamHandle,
    pub script: Script,
    pub server: Server,
    is_closed: Arc<AtomicBool>,
    pictures: Option<std::thread::JoinHandle<()>>,
}

impl Studio {
    pub fn open() -> Self {
        let (hub, clock) = new_hub();
        let cam = add(&hub, "court-1", "rtsp://ann:s3cretpw@cam.example:554/live/court-1");
        cam.set_tracks(Tracks { video: true, audio: true });
        cam.set_state(StreamState::Playing);
        let script = feed(&cam, &clock, &afternoon());
        let is_closed = Arc::new(AtomicBool::new(false));
        let pictures = std::thread::spawn({
            let (cam, is_closed) = (cam.clone(), is_closed.clone());
            move || {
                for n in (0_u16..).take_while(|_| !is_closed.load(Ordering::Relaxed)) {
                    if cam.preview_wanted() {
                        cam.offer_preview(court(f32::from(n % 300) / 300.0));
                    }
                    std::thread::sleep(Duration::from_millis(150));
                }
            }
        });
        let server = Server::start(hub.clone());
        Self { hub, clock, cam, script, server, is_closed, pictures: Some(pictures) }
    }

    pub fn shot(&mut self, shot: Shot) {
        step(&self.cam, &self.clock, &mut self.script, shot);
    }

    /// Publishes a second that was decoded in a tier without flow.
    pub fn shot_without_flow(&mut self, shot: Shot, tier: DecodeTier) {
        let mut published = self.script.next(shot, self.clock.unix_ns() - 1_000_000_000).expect("a second or a gap");
        if let SecondOutcome::Predicted(second) = &mut published.outcome {
            (second.tier, second.scores.flow, second.absent.flow) = (tier, None, Some(Absent::NoTrack));
        }
        self.cam.publish(&published);
    }
}

impl Drop for Studio {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
        let _ = self.pictures.take().unwrap().join();
    }
}
