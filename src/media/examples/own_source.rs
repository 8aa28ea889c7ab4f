//! A source of your own: `mypattern://?seconds=3` draws a moving bar and plays a tone. It is registered once, opened by its URI, and
//! its items are printed.
//!
//! ```sh
//! cargo run -p touchline-media --example own_source
//! ```
//!
//! To watch it with the program, call `register` at the beginning of `main` in `src/main.rs`, and give `mypattern://` as a stream.

use std::f32::consts::TAU;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use touchline_core::clock::SystemClock;
use touchline_core::error::{Error, Result};
use touchline_core::frame::Frame;
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY, MediaItem, Pace, Tracks};
use touchline_core::pcm::PcmChunk;
use touchline_core::pool::Pool;
use touchline_core::time::Pts;
use touchline_media::outlet::{Closed, Outlet};
use touchline_media::registry::{OwnOpener, Scheme, Setup, Spec, register};
use touchline_media::{Open, Source, threaded};

/// Everything that the program needs to know of it. A live source would start from `Spec::LIVE`.
const MY_PATTERN: Spec = Spec { name: "mypattern", schemes: &[Scheme::new("mypattern")], ..Spec::RECORDING };

const WIDTH: u32 = 320;
const HEIGHT: u32 = 180;
const FRAMES_PER_SECOND: u64 = 25;
const SAMPLE_RATE: u32 = 48_000;

struct MyPattern(Setup);

impl Open for MyPattern {
    fn open(&self, uri: &str, to: Sender<MediaItem>) -> Result<Box<dyn Source>> {
        let seconds = match uri.split_once("?seconds=") {
            None => 3,
            Some((_, text)) => text
                .parse::<u64>()
                .map_err(|e| Error::Usage(format!("mypattern: seconds={text}: {e}; give a whole number")))?,
        };
        let setup = self.0.clone();
        threaded::start(&format!("src/{}", setup.id), Pace::File, to, move |outlet| {
            // A failed send means that the source was stopped, which is a regular end.
            let _ = play(outlet, &setup, seconds);
            End::Finished
        })
    }
}

fn play(outlet: &Outlet, setup: &Setup, seconds: u64) -> Result<(), Closed> {
    let (pictures, sound) = (Pool::new(MEDIA_CHANNEL_CAPACITY), Pool::new(MEDIA_CHANNEL_CAPACITY));
    outlet.send(MediaItem::Opened(setup.wants))?;
    for number in 0..seconds * FRAMES_PER_SECOND {
        let pts = Pts(number * 1_000_000_000 / FRAMES_PER_SECOND);
        let arrived_ns = setup.clock.mono_ns();
        if setup.wants.video {
            let mut pixels = pictures.take();
            draw(&mut pixels, number);
            outlet.send(MediaItem::Frame(Frame::new(pixels, WIDTH, HEIGHT, pts, arrived_ns)))?;
        }
        if setup.wants.audio {
            let samples = u64::from(SAMPLE_RATE) / FRAMES_PER_SECOND;
            let mut tone = sound.take();
            tone.extend((0..samples).map(|n| {
                let second = (number * samples + n) as f32 / SAMPLE_RATE as f32;
                0.2 * (TAU * 440.0 * second).sin()
            }));
            outlet.send(MediaItem::Pcm(PcmChunk::new(tone, SAMPLE_RATE, 1, pts, arrived_ns)))?;
        }
    }
    Ok(())
}

/// A white bar on green that moves by four pixels a picture.
fn draw(pixels: &mut Vec<u8>, number: u64) {
    let bar = (number * 4 % u64::from(WIDTH)) as u32;
    for _ in 0..HEIGHT {
        for x in 0..WIDTH {
            pixels.extend(if x.abs_diff(bar) < 8 { [255, 255, 255] } else { [20, 120, 40] });
        }
    }
}

fn main() -> Result<()> {
    register(MY_PATTERN, |setup| Ok(Arc::new(MyPattern(setup.clone()))))?;

    let setup = Setup {
        id: "example".into(),
        wants: Tracks { video: true, audio: true },
        frame_height: 360,
        clock: Arc::new(SystemClock::new()),
        counters: Arc::default(),
    };
    let (to, from) = bounded(MEDIA_CHANNEL_CAPACITY);
    let uri = std::env::args().nth(1).unwrap_or_else(|| "mypattern://?seconds=1".into());
    let _source = OwnOpener(setup).open(&uri, to)?;
    for item in from {
        match item {
            MediaItem::Opened(tracks) => println!("opened: {tracks:?}"),
            MediaItem::Frame(frame) => println!("picture {}×{} at {:?}", frame.width, frame.height, at(frame.pts)),
            MediaItem::Pcm(chunk) => println!("{} samples at {:?}", chunk.frames(), at(chunk.pts)),
            MediaItem::Ended(end) => println!("ended: {end:?}"),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}

fn at(pts: Pts) -> Duration {
    Duration::from_nanos(pts.0)
}
