//! Frame selection: pictures that the models do not see are not converted, and no decision changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use touchline_compute::models::pack::Pack;
use touchline_core::clip::{ClipBuilder, ClipConfig, ClipOutput, LagLimits, PlanSelector, SamplingPlan};
use touchline_core::clock::SystemClock;
use touchline_core::expectation::WatchedSecond;
use touchline_core::item::{End, MediaItem, Pace};
use touchline_core::selection::FrameSelection;
use touchline_core::tier::SharedTier;
use touchline_core::vote::{VoteConfig, Voter};
use touchline_media::Open;
use touchline_media::gst::{GstOpener, GstOptions};
use touchline_serve::metrics::Metrics;
use touchline_serve::record::{Published, Recorder};
use touchline_serve::workers::{DecidedItem, Workers};

use super::{LIMIT, open, text};
use crate::common::Fixtures;

pub(super) const PLAN: SamplingPlan =
    SamplingPlan { rgb_frames: 5, flow_pairs: 5, flow_gap_ns: 40_000_000, signal_frames: 0 };

/// The output of the clip builder for a recording as text, and the numbers of converted and unconverted pictures.
fn cut(uri: &str, selection: Option<FrameSelection>) -> (Vec<String>, [usize; 2]) {
    cut_with(uri, &PLAN, &SharedTier::default(), GstOptions { selection, ..GstOptions::default() })
}

/// As [`cut`], with another plan, a tier, and these options.
pub(super) fn cut_with(
    uri: &str,
    plan: &SamplingPlan,
    tier: &SharedTier,
    options: GstOptions,
) -> (Vec<String>, [usize; 2]) {
    let config = ClipConfig {
        sample_rate: Some(32_000),
        plan: plan.clone(),
        lag: LagLimits::for_pace(Pace::File),
        behind_ns: 0,
    };
    let (mut builder, mut out, mut counts) = (ClipBuilder::new(config).at(tier.clone()), Vec::new(), [0, 0]);
    let (_source, from) = open(uri, options).unwrap();
    loop {
        let item = from.recv_timeout(LIMIT).expect("the recording has not ended");
        counts[0] += usize::from(matches!(item, MediaItem::Frame(_)));
        counts[1] += usize::from(matches!(item, MediaItem::Unconverted { .. }));
        let is_end = matches!(item, MediaItem::Ended(_));
        builder.push(item, &mut out);
        if is_end {
            break;
        }
    }
    let lines = out.iter().map(|o| match o {
        ClipOutput::Second(s) => {
            let sum = |data: &[u8]| data.iter().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(*b)));
            let frames: Vec<_> = s.frames.iter().map(|f| (f.pts, f.width, f.height, sum(&f.data))).collect();
            let sound: Vec<u32> = s.audio.iter().flatten().map(|v| v.to_bits()).collect();
            let (seen, absent) = (s.frames_seen, (s.rgb_absent, s.flow_absent, s.audio_absent));
            format!("{} {frames:?} {:?} {:?} {seen} {absent:?} {sound:?}", s.index, s.rgb, s.pairs)
        }
        other => format!("{other:?}"),
    });
    (lines.collect(), counts)
}

#[test]
fn seconds_are_the_same_with_unconverted_pictures() {
    let dir = Fixtures::new();
    let sound = "-f lavfi -i sine=frequency=440:sample_rate=44100:duration=6 -c:a aac";
    let h264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    // Name, pictures, and the maximum of converted pictures per second.
    for (name, picture, most) in [
        ("steady.mp4", "testsrc2=size=320x180:rate=30:duration=6", 12),
        ("ntsc.mp4", "testsrc2=size=320x180:rate=60000/1001:duration=6", 17),
        ("slow.mp4", "testsrc2=size=320x180:rate=7:duration=6", 7),
        // Intervals from one frame to two thirds of a second, and time stamps that jitter.
        ("varying.mkv", "testsrc2=size=320x180:rate=50:duration=6,select=gt(random(3)\\,0.4)+not(mod(n\\,33))", 17),
        ("jitter.mkv", "testsrc2=size=320x180:rate=25:duration=6,setpts=PTS+random(5)*0.015/TB", 17),
    ] {
        let path = dir.make(name, &format!("-f lavfi -i {picture} {sound} {h264} -vsync passthrough"));
        let (all, [frames, unselected]) = cut(text(&path), None);
        let (selected, [converted, unconverted]) = cut(text(&path), Some(PlanSelector::selection(&PLAN)));
        assert_eq!(all, selected, "{name}");
        assert_eq!((unselected, converted + unconverted), (0, frames), "{name}: every picture is reported");
        assert!(converted <= 6 * most, "{name}: {converted} of {frames}");
    }
}

#[test]
fn pictures_for_a_preview_are_converted() {
    let dir = Fixtures::new();
    let path = dir.clip("preview.mp4", 3);
    let calls = Arc::new(AtomicU64::new(0));
    let wanted = {
        let calls = calls.clone();
        move || calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
    };
    let (_, [before, _]) = cut(text(&path), Some(PlanSelector::selection(&PLAN)));
    let (_, [converted, unconverted]) = cut(text(&path), Some(PlanSelector::selection(&PLAN).unless(wanted)));
    assert_eq!(converted + unconverted, 90);
    assert!(converted >= before + 25, "{before} and {converted}");
}

/// The records of a recording in the format of `score`.
fn decisions(workers: &mut Workers, uri: &str, selection: Option<FrameSelection>) -> String {
    let pack = workers.pack();
    let options = GstOptions { frame_height: pack.frame_height, selection, ..GstOptions::default() };
    let classes = Arc::new(pack.classes.clone());
    let (recorder, mut voter) =
        (Recorder::new("r", classes.clone(), Pace::File), Voter::new(VoteConfig::default(), classes.len()));
    let (queue, to) = workers.add_stream("r", Pace::File, 0, SharedTier::default(), Box::new(|_| ())).unwrap();
    let _source = GstOpener::new(options, Arc::new(SystemClock::new())).unwrap().open(uri, to).unwrap();
    let mut lines = String::new();
    loop {
        let decided = workers.decided.recv_timeout(Duration::from_secs(60)).expect("a decision");
        assert_eq!(decided.queue, queue);
        match decided.item {
            DecidedItem::Outcome { outcome, .. } => {
                let mut events = Vec::new();
                let estimate = voter.push(&outcome, &mut events).cloned().expect("one vote per second");
                let (segments, watched) = (Vec::new(), WatchedSecond::default());
                let published =
                    Published { outcome, estimate, events, segments, watched, latency_ns: None, backlog: 0 };
                lines.extend(recorder.published(&published).into_iter().map(|line| line + "\n"));
            }
            DecidedItem::News(ClipOutput::Ended(end)) => {
                assert_eq!(end, End::Finished);
                return lines;
            }
            DecidedItem::News(_) => {}
        }
    }
}

#[test]
fn decisions_are_identical_with_unconverted_pictures() {
    let dir = Fixtures::new();
    let pack = Pack::open("weights/compact".as_ref()).unwrap();
    let plan = pack.plan.clone();
    let mut workers = Workers::start(pack, 1, Metrics::new(), Arc::new(SystemClock::new())).unwrap();
    let (steady, varying) = (dir.clip("a.mp4", 5), dir.path().join("b.mkv"));
    crate::common::ffmpeg(
        &format!("-i {} -vf select=gt(random(3)\\,0.3) -vsync passthrough -c:v libx264 -c:a copy", text(&steady)),
        &varying,
    );
    for path in [&steady, &varying] {
        let full = decisions(&mut workers, text(path), None);
        let selected = decisions(&mut workers, text(path), Some(PlanSelector::selection(&plan)));
        assert!(full.lines().count() >= 5, "{full}");
        assert_eq!(full, selected, "{}", path.display());
    }
}
