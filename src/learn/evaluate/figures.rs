//! The figures that go on a pack's card.

use std::collections::BTreeMap;

use super::scores::SoftSecond;
use super::table::confusion;
use crate::dataset::Kind;
use crate::measure::Confusion;
use touchline_core::fusion::FusionTable;
use touchline_core::labels::{ClassId, Modality};
use touchline_core::vote::VideoVote;

/// Accuracy and macro F1 on the held-back test side: seconds of clips, pieces of sound and pictures for each modality;
/// seconds and whole clips for fusion by the table. From validation only what the table's default rests on. To four
/// decimals; what has no samples is left out.
pub fn card_figures(
    test: &[SoftSecond],
    validation: &[SoftSecond],
    fusion: &FusionTable,
    classes: usize,
) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    let mut put = |name: String, value: f64| out.insert(name, (value * 1e4).round() / 1e4);
    for (kind, word) in [
        (Kind::Clip, "clip_seconds"),
        (Kind::Sound, "sound_seconds"),
        (Kind::Picture, "pictures"),
        (Kind::Frame, "frames"),
    ] {
        for modality in Modality::ALL {
            let c = confusion(test.iter().filter(|s| s.kind == kind), modality, classes);
            if c.total() > 0 {
                put(format!("test_{word}_{modality}_n"), c.total() as f64);
                put(format!("test_{word}_{modality}_accuracy"), c.accuracy());
                put(format!("test_{word}_{modality}_macro_f1"), c.macro_f1());
            }
        }
    }
    let mut fused = Confusion::new(classes);
    let mut videos: BTreeMap<u32, (ClassId, VideoVote)> = BTreeMap::new();
    for second in test.iter().filter(|s| s.kind == Kind::Clip) {
        let Some(decision) = fusion.decide(&second.scores) else { continue };
        fused.add(second.truth, decision.label);
        let (_, vote) = videos.entry(second.recording).or_insert_with(|| (second.truth, VideoVote::new(classes)));
        vote.add(decision.label, &decision.probabilities);
    }
    if fused.total() > 0 {
        put("test_clip_seconds_fusion_accuracy".into(), fused.accuracy());
        put("test_clip_seconds_fusion_macro_f1".into(), fused.macro_f1());
    }
    let mut video = Confusion::new(classes);
    for (truth, vote) in videos.values() {
        if let Some(label) = vote.label() {
            video.add(*truth, label.label);
        }
    }
    if video.total() > 0 {
        put("test_videos_n".into(), video.total() as f64);
        put("test_videos_fusion_accuracy".into(), video.accuracy());
        put("test_videos_fusion_macro_f1".into(), video.macro_f1());
    }
    let c = confusion(validation.iter().filter(|s| s.kind == Kind::Clip), Modality::Rgb, classes);
    if c.total() > 0 {
        put("validation_clip_seconds_rgb_macro_f1".into(), c.macro_f1());
    }
    out
}
