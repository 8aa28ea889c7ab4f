//! Figures for the card of a pack.

use std::collections::BTreeMap;

use super::scores::SoftSecond;
use super::table::confusion;
use crate::dataset::Kind;
use crate::measure::Confusion;
use touchline_core::fusion::FusionTable;
use touchline_core::labels::{ClassId, Modality};
use touchline_core::vote::VideoVote;

/// Returns accuracy and macro F1 on the test side, by name: for each modality on seconds of clips, seconds of sound, pictures and
/// frames; for fusion by the table on seconds and whole clips. Validation contributes only the macro F1 of RGB on clips. Figures
/// are rounded to four decimals, and those without samples are left out.
pub fn card_figures(
    test: &[SoftSecond],
    validation: &[SoftSecond],
    fusion: &FusionTable,
    classes: usize,
) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    let mut put = |name: String, value: f64| out.insert(name, (value * 1e4).round() / 1e4);
    for (kind, unit) in [
        (Kind::Clip, "clip_seconds"),
        (Kind::Sound, "sound_seconds"),
        (Kind::Picture, "pictures"),
        (Kind::Frame, "frames"),
    ] {
        for modality in Modality::ALL {
            let c = confusion(test.iter().filter(|s| s.kind == kind), modality, classes);
            if c.total() > 0 {
                put(format!("test_{unit}_{modality}_n"), c.total() as f64);
                put(format!("test_{unit}_{modality}_accuracy"), c.accuracy());
                put(format!("test_{unit}_{modality}_macro_f1"), c.macro_f1());
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
