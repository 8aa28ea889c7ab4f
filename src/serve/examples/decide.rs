//! Replays a file through the engine, without the server, and prints the decision of each second.
//!
//! ```sh
//! cargo run -p touchline-serve --example decide -- match.mp4
//! cargo run -p touchline-serve --example decide -- 'testsrc://?seconds=3' weights/reference
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::bounded;
use touchline_compute::infer::Engine;
use touchline_compute::models::pack::Pack;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, ClipSecond, LagLimits, PlanSelector};
use touchline_core::clock::{Clock, SystemClock};
use touchline_core::error::{Error, Result};
use touchline_core::item::{End, MEDIA_CHANNEL_CAPACITY};
use touchline_core::time::{WallSource, WallTime};
use touchline_core::vote::VideoVote;
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_serve::metrics::Metrics;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let uri = arguments.next().ok_or_else(|| Error::Usage("give a file or a URI, and if you like a pack".into()))?;
    let dir = arguments.next().map_or_else(|| PathBuf::from("weights/compact"), PathBuf::from);

    let pack = Pack::open(&dir)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let options = GstOptions {
        frame_height: pack.frame_height,
        want_video: pack.wants().video,
        want_audio: pack.wants().audio,
        // Only pictures that the pack chooses are converted.
        selection: Some(PlanSelector::selection(&pack.plan)),
        ..GstOptions::default()
    };
    let (to, media) = bounded(MEDIA_CHANNEL_CAPACITY);
    let source = GstOpener::new(options, clock.clone())?.open(&uri, to)?;
    let mut builder = ClipBuilder::new(ClipConfig {
        sample_rate: pack.sample_rate(),
        plan: pack.plan.clone(),
        lag: LagLimits::for_pace(source.pace()),
        behind_ns: 0,
    });
    let mut video = VideoVote::new(pack.classes.len());
    let mut engine = Engine::load(pack)?;
    let mut outputs = Vec::new();
    for item in media {
        builder.push(item, &mut outputs);
        for output in outputs.drain(..) {
            match output {
                ClipOutput::Second(second) => decide(&mut engine, &second, &*clock, &mut video)?,
                ClipOutput::Gap(gap) => println!("{:>5} s  gap: {}", gap.index, gap.reason.as_str()),
                ClipOutput::Ended(End::Failed { kind, cause, advice }) => {
                    return Err(Error::source_failure(kind, uri, cause, advice));
                }
                _ => {}
            }
        }
    }
    if let Some(label) = video.label() {
        println!("  all    {} ({:.3})", engine.pack().classes.name(label.label), label.probability);
    }
    Ok(())
}

fn decide(engine: &mut Engine, second: &ClipSecond, clock: &dyn Clock, video: &mut VideoVote) -> Result<()> {
    let scored = engine.score(&[second], &Metrics::new())?.remove(0);
    let now = WallTime { unix_ns: clock.unix_ns(), source: WallSource::Arrival, uncertainty_ns: 0 };
    let Some(prediction) = engine.decide(second, scored, now) else {
        println!("{:>5} s  neither pictures nor sound", second.index);
        return Ok(());
    };
    let decision = &prediction.decision;
    let name = engine.pack().classes.name(decision.label);
    println!("{:>5} s  {name} ({:.3}), decided by {}", second.index, decision.probability, decision.modality);
    video.add(decision.label, &decision.probabilities);
    Ok(())
}
