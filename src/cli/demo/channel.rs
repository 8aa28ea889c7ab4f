//! The channels of the demonstration: a source that draws scenes and makes their sound, one after the other, at their own speed.

use std::f32::consts::TAU;
use std::time::Duration;

use crossbeam_channel::Sender;
use touchline_core::error::{Error, Result};
use touchline_core::frame::Frame;
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY, MediaItem, Pace};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pool;
use touchline_core::time::{NANOS_PER_SECOND, Pts};
use touchline_media::outlet::{Closed, Outlet};
use touchline_media::registry::{Scheme, Setup, Spec};
use touchline_media::{Open, Source, threaded};

use super::canvas::Canvas;
use super::people::chance;
use super::scenes::Scene;

/// The kind of source: `demo://0` and `demo://1`. The API does not offer it.
pub const DEMO: Spec =
    Spec { name: "demo", schemes: &[Scheme::new("demo")], pace: Pace::Live, is_in_api: false, ..Spec::RECORDING };

/// How long a scene lasts, seconds.
pub const SCENE_S: u64 = 20;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 360;
const FRAMES_PER_SECOND: u64 = 12;
const SAMPLE_RATE: u32 = 48_000;
const SAMPLES: u64 = SAMPLE_RATE as u64 / FRAMES_PER_SECOND;

/// The scene that channel `channel` shows in second `second`. A studio comes between the sports, and colour bars at times.
pub fn scene(channel: usize, second: u64) -> Scene {
    const PROGRAMMES: [[Scene; 9]; 2] = [
        [
            Scene::Tennis,
            Scene::Basketball,
            Scene::Studio,
            Scene::IceHockey,
            Scene::Soccer,
            Scene::Bars,
            Scene::Swimming,
            Scene::Athletics,
            Scene::Studio,
        ],
        [
            Scene::Soccer,
            Scene::Swimming,
            Scene::Athletics,
            Scene::Studio,
            Scene::Tennis,
            Scene::IceHockey,
            Scene::Bars,
            Scene::Studio,
            Scene::Basketball,
        ],
    ];
    let programme = &PROGRAMMES[channel % PROGRAMMES.len()];
    programme[(second / SCENE_S) as usize % programme.len()]
}

/// Opens channels.
pub struct Channels(pub Setup);

impl Open for Channels {
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let channel = uri.strip_prefix("demo://").and_then(|number| number.parse().ok()).ok_or_else(|| {
            Error::Usage(format!("{uri}: the channels of the demonstration are demo://0 and demo://1"))
        })?;
        let setup = self.0.clone();
        threaded::start(&format!("src/{}", setup.id), Pace::Live, to, move |outlet| {
            // A failed send means that the source was stopped, which is a regular end.
            let _ = play(outlet, &setup, channel);
            End::Finished
        })
    }
}

fn play(outlet: &Outlet, setup: &Setup, channel: usize) -> std::result::Result<(), Closed> {
    let (pictures, sound) = (Pool::new(MEDIA_CHANNEL_CAPACITY), Pool::new(MEDIA_CHANNEL_CAPACITY));
    let mut canvas = Canvas::new(WIDTH, HEIGHT);
    let mut noise = Noise::default();
    let began_ns = setup.clock.mono_ns();
    outlet.send(MediaItem::Opened(setup.wants))?;
    for number in 0u64.. {
        let pts = Pts(number * NANOS_PER_SECOND / FRAMES_PER_SECOND);
        let due = (began_ns + pts.0).saturating_sub(setup.clock.mono_ns());
        setup.clock.sleep_until_stopped(Duration::from_nanos(due), outlet.stopping());
        if outlet.stopped() {
            return Ok(());
        }
        let second = number / FRAMES_PER_SECOND;
        let scene = scene(channel, second);
        let since = (number % (SCENE_S * FRAMES_PER_SECOND)) as f32 / FRAMES_PER_SECOND as f32;
        let arrived_ns = setup.clock.mono_ns();
        if setup.wants.video {
            scene.draw(&mut canvas, since);
            let mut pixels = pictures.take();
            canvas.read(&mut pixels);
            outlet.send(MediaItem::Frame(Frame::new(pixels, WIDTH, HEIGHT, pts, arrived_ns)))?;
        }
        if setup.wants.audio {
            let mut samples = sound.take();
            let first = number * SAMPLES;
            samples.extend((0..SAMPLES).map(|n| noise.sample(scene, (first + n) as f32 / SAMPLE_RATE as f32)));
            outlet.send(MediaItem::Pcm(PcmChunk::new(samples, SAMPLE_RATE, 1, pts, arrived_ns)))?;
        }
    }
    Ok(())
}

/// The sound of the scenes: a crowd and the noises of the game.
#[derive(Default)]
struct Noise {
    count: u32,
    low: f32,
    lower: f32,
}

impl Noise {
    fn sample(&mut self, scene: Scene, seconds: f32) -> f32 {
        self.count = self.count.wrapping_add(1);
        let white = 2.0 * chance(self.count) - 1.0;
        self.low += 0.08 * (white - self.low);
        self.lower += 0.006 * (self.low - self.lower);
        let swell = 0.6 + 0.4 * (seconds * 0.7).sin();
        let crowd = (self.low - self.lower) * swell;
        // A short sound every `period` seconds, which fades within `length` seconds.
        let beat = |period: f32, length: f32| (-(seconds % period) / length).exp();
        match scene {
            Scene::Tennis => 0.05 * crowd + 0.5 * beat(1.3, 0.012) * white,
            Scene::Soccer => 0.5 * crowd,
            Scene::Basketball => 0.3 * crowd + 0.5 * beat(0.55, 0.03) * (TAU * 95.0 * seconds).sin(),
            Scene::IceHockey => 0.3 * crowd + 0.12 * white * beat(0.45, 0.18) + 0.5 * beat(2.7, 0.008) * white,
            Scene::Swimming => 0.25 * crowd + 0.25 * self.low * (1.0 + (TAU * 1.7 * seconds).sin()),
            Scene::Athletics => 0.4 * crowd + 0.2 * white * beat(0.5, 0.015),
            Scene::Studio => {
                // A voice: harmonics of 130 Hz in syllables.
                let voice: f32 = (1..12).map(|n| (TAU * 130.0 * n as f32 * seconds).sin() / n as f32).sum();
                0.12 * voice * (TAU * 3.5 * seconds).sin().max(0.0)
            }
            Scene::Bars => 0.1 * (TAU * 1000.0 * seconds).sin(),
        }
    }
}

#[cfg(test)]
mod tests {
    use touchline_compute::infer::Engine;
    use touchline_compute::models::pack::Pack;
    use touchline_core::clip::ClipSecond;
    use touchline_core::labels::OTHER;
    use touchline_media::still;
    use touchline_serve::metrics::Metrics;

    use super::*;

    fn picture(scene: Scene, seconds: f32) -> Vec<u8> {
        let mut canvas = Canvas::new(WIDTH, HEIGHT);
        scene.draw(&mut canvas, seconds);
        let mut pixels = Vec::new();
        canvas.read(&mut pixels);
        pixels
    }

    #[test]
    fn the_shipped_pack_recognises_every_sport_that_is_drawn() {
        let pack = Pack::open(std::path::Path::new("weights/compact")).unwrap();
        let mut engine = Engine::load(pack).unwrap();
        let programme: Vec<Scene> = (0..9).map(|n| scene(0, n * SCENE_S)).collect();
        let sports = programme.into_iter().filter(|scene| scene.class().is_some_and(|class| class != OTHER));
        let mut seen = 0;
        for scene in sports {
            let seconds: Vec<ClipSecond> = [2.0, 9.0, 16.0]
                .map(|at| {
                    let image = image::RgbImage::from_raw(WIDTH, HEIGHT, picture(scene, at)).unwrap();
                    ClipSecond::of_pictures(vec![still::frame(image)])
                })
                .into();
            let scored = engine.score(&seconds.iter().collect::<Vec<_>>(), &Metrics::new()).unwrap();
            let classes = engine.pack().classes.clone();
            let right = scored.iter().filter(|second| {
                let scores = second.scores.rgb.as_ref().unwrap();
                Some(classes.name(scores.label)) == scene.class()
            });
            assert!(right.count() >= 2, "{scene:?}");
            seen += 1;
        }
        assert_eq!(seen, 6);
    }

    #[test]
    fn channels_show_different_scenes_and_repeat() {
        let all: Vec<[Scene; 2]> = (0..9).map(|n| [0, 1].map(|channel| scene(channel, n * SCENE_S))).collect();
        assert!(all.iter().all(|[first, second]| first != second), "{all:?}");
        assert!(all.windows(2).all(|pair| pair[0][0] != pair[1][0] && pair[0][1] != pair[1][1]), "{all:?}");
        assert_eq!(scene(0, 9 * SCENE_S), scene(0, 0));
        assert_eq!((scene(0, SCENE_S - 1), scene(0, SCENE_S)), (Scene::Tennis, Scene::Basketball));
    }

    #[test]
    fn scenes_move_and_are_drawn_the_same_way_again() {
        for scene in (0..9).map(|n| scene(0, n * SCENE_S)) {
            assert!(picture(scene, 3.0) == picture(scene, 3.0), "{scene:?}");
            assert!(scene == Scene::Bars || picture(scene, 3.0) != picture(scene, 3.5), "{scene:?}");
        }
    }
}
