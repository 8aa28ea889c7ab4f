//! Decode tiers: pictures that are not sampled are not decoded, and the samples are the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use touchline_core::clip::{PlanSelector, SamplingPlan};
use touchline_core::item::{MediaItem, Track};
use touchline_core::selection::{DecodeStart, DecodeWindow};
use touchline_core::tier::{DecodeTier, SharedTier};
use touchline_core::time::Pts;
use touchline_media::gst::GstOptions;
use touchline_media::outlet::DropReason;

use super::frame_selection::{PLAN, cut_with};
use super::{LIMIT, open, text};
use crate::common::Fixtures;
use crate::common::wait::until;

/// The output of the clip builder as text, the number of converted pictures, and of those that were not decoded.
fn cut(uri: &str, plan: &SamplingPlan, tier: DecodeTier) -> (Vec<String>, usize, usize) {
    let tier = SharedTier::new(tier);
    let selection = PlanSelector::selection(plan).at(tier.clone());
    let options = GstOptions { selection: Some(selection), ..GstOptions::default() };
    let counters = options.counters.clone();
    let (seconds, [converted, _]) = cut_with(uri, plan, &tier, options);
    (seconds, converted, counters.left_out.load(Ordering::Relaxed) as usize)
}

const CODECS: [(&str, &str); 5] = [
    ("h264.mp4", "-c:v libx264 -preset veryfast -bf 3 -b_strategy 0 -g 50 -pix_fmt yuv420p"),
    ("h264.ts", "-c:v libx264 -preset veryfast -bf 3 -b_strategy 0 -g 50 -pix_fmt yuv420p"),
    (
        "hevc.mkv",
        "-c:v libx265 -preset veryfast -x265-params log-level=none:bframes=3:b-adapt=0:keyint=50 -pix_fmt yuv420p",
    ),
    ("mpeg2.ts", "-c:v mpeg2video -bf 2 -g 24 -q:v 4"),
    ("plain.mp4", "-c:v libx264 -preset ultrafast -bf 0 -g 50 -pix_fmt yuv420p"),
];

fn assert_same(all: &[String], some: &[String], name: &str) {
    for (all, some) in all.iter().zip(some) {
        assert_eq!(all, some, "{name}");
    }
    assert_eq!(all.len(), some.len(), "{name}");
}

/// Matroska has no decoding times, so GStreamer's parser marks a B-picture near the begin as one after a break.
#[test]
fn matroska_with_b_pictures_loses_none() {
    let dir = Fixtures::new();
    let source = "-f lavfi -i testsrc2=size=160x90:rate=25:duration=4 -c:v libx264 -preset veryfast -bf 2 -g 100 -pix_fmt yuv420p";
    let path = dir.make("b.mkv", source);
    let options = GstOptions::default();
    let counters = options.counters.clone();
    let (seconds, _) = cut_with(text(&path), &PLAN, &SharedTier::new(DecodeTier::Full), options);
    assert!(seconds.len() >= 4, "{seconds:?}");
    assert_eq!(counters.damage(), 0);
}

#[test]
fn lean_decoding_changes_no_sample() {
    let dir = Fixtures::new();
    let plan = SamplingPlan { rgb_frames: 2, flow_pairs: 1, ..PLAN };
    for rate in ["25", "30000/1001", "50"] {
        for (name, codec) in CODECS {
            if rate == "50" && name != "h264.ts" {
                continue;
            }
            let source = format!("-f lavfi -i testsrc2=size=320x180:rate={rate}:duration=8");
            let path = dir.make(&format!("{}-{name}", rate.replace('/', "-")), &format!("{source} {codec}"));
            let [(full, converted, all), (lean, of_lean, left_out)] =
                [DecodeTier::Full, DecodeTier::Lean].map(|tier| cut(text(&path), &plan, tier));
            assert_same(&full, &lean, &format!("{rate} {name}"));
            assert!(full.len() > 8 && all == 0, "{rate} {name}: {} items", full.len());
            assert!(of_lean <= converted, "{rate} {name}: {of_lean} of {converted}");
            // At least a fifth of the pictures after the first two groups.
            let has_b = name != "plain.mp4";
            assert_eq!(left_out > 30, has_b, "{rate} {name}: {left_out} pictures were not decoded");
        }
    }
}

#[test]
fn sparse_decoding_has_the_same_pictures_and_no_flow() {
    let dir = Fixtures::new();
    let (name, codec) = CODECS[0];
    let path = dir.make(name, &format!("-f lavfi -i testsrc2=size=320x180:rate=25:duration=8 {codec}"));
    let without_flow = SamplingPlan { flow_pairs: 0, ..PLAN };
    let (full, ..) = cut(text(&path), &without_flow, DecodeTier::Full);
    let (sparse, _, left_out) = cut(text(&path), &PLAN, DecodeTier::Sparse);
    assert_same(&full, &sparse, "sparse");
    let (_, _, of_lean) = cut(text(&path), &PLAN, DecodeTier::Lean);
    assert!(left_out > of_lean, "{left_out} and {of_lean}");
}

/// The pictures before the first key picture of a window refer to some that are left out, and the decoder's probe drops them while others
/// still wait to be converted.
#[test]
fn times_of_dropped_pictures_come_in_order() {
    let dir = Fixtures::new();
    let path = dir.make(
        "open.mp4",
        "-f lavfi -i testsrc2=size=160x90:rate=25:duration=9 -c:v libx264 -preset veryfast -bf 3 -b_strategy 0 \
         -x264-params open-gop=1:keyint=25:min-keyint=25:scenecut=0 -pix_fmt yuv420p",
    );
    for _ in 0..5 {
        let window = Arc::new(DecodeWindow::new(DecodeStart::Key(Pts::from_second(7))));
        let selection = PlanSelector::selection(&PLAN).within(window);
        let options = GstOptions { selection: Some(selection), ..GstOptions::default() };
        let counters = options.counters.clone();
        let (_source, from) = open(text(&path), options).unwrap();
        // Nothing is received before the decoder is there: the times of what it left out wait.
        until("a dropped picture", || counters.dropped(DropReason::BeforeKeyFrame) > 0);
        let (mut latest, mut lost) = (Pts(0), 0);
        loop {
            let item = from.recv_timeout(LIMIT).expect("the recording has not ended");
            lost += usize::from(matches!(item, MediaItem::Lost { .. }));
            if let Some((Track::Video, pts)) = item.track_and_pts() {
                // Less than what the clip builder takes for a jump.
                assert!(pts.0 + 500_000_000 > latest.0, "{pts:?} after {latest:?}");
                latest = latest.max(pts);
            }
            if matches!(item, MediaItem::Ended(_)) {
                break;
            }
        }
        assert!(lost > 0 && latest > Pts::from_second(8), "{lost} lost pictures, the last one at {latest:?}");
    }
}

/// Fields of 50 moments a second, in frames of 25.
const FIELDS: &str = "-f lavfi -i testsrc2=size=320x192:rate=50:duration=8";
const MBAFF: &str = "-vf interlace=scan=tff -c:v libx264 -preset veryfast -flags +ilme+ildct \
                     -x264-params interlaced=1:tff=1:bframes=3:b-adapt=0:keyint=50 -pix_fmt yuv420p";

#[test]
fn tiers_change_no_sample_of_interlaced_h264() {
    let dir = Fixtures::new();
    let without_flow = SamplingPlan { flow_pairs: 0, ..PLAN };
    for name in ["mbaff.ts", "mbaff.mp4"] {
        let path = dir.make(name, &format!("{FIELDS} {MBAFF}"));
        let plan = SamplingPlan { rgb_frames: 2, flow_pairs: 1, ..PLAN };
        let [(full, ..), (lean, _, left_out)] =
            [DecodeTier::Full, DecodeTier::Lean].map(|tier| cut(text(&path), &plan, tier));
        assert_same(&full, &lean, name);
        assert!(full.len() > 8 && left_out > 30, "{name}: {left_out} pictures were not decoded");
        let (full, ..) = cut(text(&path), &without_flow, DecodeTier::Full);
        let (sparse, _, of_sparse) = cut(text(&path), &PLAN, DecodeTier::Sparse);
        assert_same(&full, &sparse, name);
        assert!(of_sparse > 30, "{name}: {of_sparse} pictures were not decoded");
        let (_, converted, left_out) = cut(text(&path), &PLAN, DecodeTier::Key);
        assert!((4..=5).contains(&converted) && converted + left_out == 200, "{name}: {converted} and {left_out}");
    }
}

#[test]
fn interlaced_hevc_is_decoded_as_a_whole() {
    let dir = Fixtures::new();
    let codec = "-c:v libx265 -preset veryfast -x265-params log-level=none:interlace=tff:bframes=3:b-adapt=0:keyint=50 \
                 -pix_fmt yuv420p";
    for name in ["fields.ts", "fields.mkv"] {
        let path = dir.make(name, &format!("-f lavfi -i testsrc2=size=320x96:rate=50:duration=8 {codec}"));
        let [(full, ..), (lean, _, left_out), (sparse, _, of_sparse)] =
            [(PLAN, DecodeTier::Full), (PLAN, DecodeTier::Lean), (PLAN, DecodeTier::Sparse)]
                .map(|(plan, tier)| cut(text(&path), &plan, tier));
        assert_same(&full, &lean, name);
        assert!(full.len() > 8 && (left_out, of_sparse) == (0, 0), "{name}: {left_out} and {of_sparse}");
        assert_eq!(sparse.len(), full.len(), "{name}");
        let (key, ..) = cut(text(&path), &PLAN, DecodeTier::Key);
        let decided = key.iter().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count();
        assert!(decided >= 4, "{name}: {key:?}");
    }
}

#[test]
fn only_key_pictures_are_decoded_in_the_lowest_tier() {
    let dir = Fixtures::new();
    for (name, codec) in CODECS {
        let path = dir.make(name, &format!("-f lavfi -i testsrc2=size=320x180:rate=25:duration=8 {codec}"));
        let (full, ..) = cut(text(&path), &PLAN, DecodeTier::Full);
        let (seconds, converted, left_out) = cut(text(&path), &PLAN, DecodeTier::Key);
        let keys = if name == "mpeg2.ts" { 9 } else { 4 };
        assert!((keys..=keys + 1).contains(&converted), "{name}: {converted} key pictures");
        assert_eq!(converted + left_out, 200, "{name}");
        // Every second is decided or a counted gap.
        let (decided, gaps): (Vec<_>, Vec<_>) = seconds
            .iter()
            .filter(|line| line.contains("NotDecoded") || line.starts_with(|c: char| c.is_ascii_digit()))
            .partition(|line| !line.contains("NotDecoded"));
        assert_eq!(decided.len() + gaps.len(), 8, "{name}: {seconds:?}");
        assert!(decided.len() >= 4, "{name}: {seconds:?}");
        assert_eq!(full.iter().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count(), 8);
    }
}
