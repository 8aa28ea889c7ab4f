//! Seconds that fusion decided wrongly, with a small picture of each.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::result::WrongExample;
use super::score::Material;
use super::scores::{ScoreTable, SoftSecond};
use touchline_core::frame::Frame;
use touchline_core::fusion::FusionTable;
use touchline_media::jpeg;

/// Maximum number of examples.
pub const SHOWN: usize = 24;

/// Width of a thumbnail in pixels.
const THUMBNAIL_WIDTH: u32 = 192;

/// JPEG quality, up to 100.
const QUALITY: u8 = 75;

/// Returns the seconds that the table decided wrongly, the most confident first, at most one per recording and [`SHOWN`] in all.
/// `thumbnail` returns the picture of a second, from the item's index in the dataset and the second's index.
pub fn wrong(
    table: &ScoreTable,
    seconds: &[&SoftSecond],
    fusion: &FusionTable,
    thumbnail: &mut dyn FnMut(usize, u32) -> Option<String>,
) -> Vec<WrongExample> {
    let mut found: Vec<_> = seconds
        .iter()
        .filter_map(|s| Some((*s, fusion.decide(&s.scores)?)))
        .filter(|(s, decision)| decision.label != s.truth)
        .collect();
    found.sort_by(|(a, x), (b, y)| {
        y.probability.total_cmp(&x.probability).then(a.item.cmp(&b.item)).then(a.second.cmp(&b.second))
    });
    let mut recordings = BTreeSet::new();
    found.retain(|(s, _)| recordings.insert(s.recording));
    let example = |(s, decision): (&SoftSecond, touchline_core::decision::Decision)| {
        let item = &table.items[s.item as usize];
        WrongExample {
            path: item.path.display().to_string(),
            second: s.second,
            truth: table.classes.name(s.truth).to_owned(),
            predicted: table.classes.name(decision.label).to_owned(),
            probability: f64::from(decision.probability),
            decided_by: Some(decision.modality),
            thumbnail: thumbnail(item.dataset_index as usize, s.second),
        }
    };
    found.into_iter().take(SHOWN).map(example).collect()
}

/// Returns the middle RGB frame of second `second` of item `index` as a JPEG in a `data:` URI; `None` when there is no frame or
/// the item cannot be read.
pub fn thumbnail(material: &dyn Material, index: usize, second: u32) -> Option<String> {
    let seconds = material.seconds(index).ok()?;
    let clip = seconds.get(second as usize)?;
    let middle = *clip.rgb.get(clip.rgb.len() / 2)?;
    jpeg_uri(clip.frames.get(middle)?)
}

/// Returns a frame as a small JPEG in a `data:` URI.
fn jpeg_uri(frame: &Frame) -> Option<String> {
    let jpeg = jpeg::encode_within(frame, (THUMBNAIL_WIDTH, u32::MAX), QUALITY).ok()?;
    Some(format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(jpeg)))
}

#[cfg(test)]
mod tests {
    use super::super::predict::clips;
    use super::super::scores::testing::{logits_for, table};
    use super::super::table::fit_table;
    use super::*;
    use crate::dataset::Kind;
    use touchline_core::decision::PerModality;
    use touchline_core::labels::Modality;

    #[test]
    fn examples_are_sorted_by_confidence_with_one_per_recording() {
        let mut t = table(3);
        let rgb = |label, by| PerModality {
            rgb: vec![logits_for(label, by, 3)],
            flow: Vec::new(),
            audio: Vec::<Vec<f32>>::new(),
        };
        t.add(Kind::Clip, 0, "a", vec![rgb(0, 5.0), rgb(1, 1.0), rgb(1, 2.0)]);
        t.add(Kind::Clip, 1, "b", vec![rgb(2, 3.0), rgb(1, 9.0)]);
        t.add(Kind::Picture, 1, "p", vec![rgb(2, 9.0)]);
        t.add(Kind::Clip, 2, "c", vec![rgb(2, 3.0)]);
        let soft = t.soften(&PerModality { rgb: 1.0, flow: 1.0, audio: 1.0 });
        let fusion = fit_table(&soft, &[Modality::Rgb], 3);
        let mut requested = Vec::new();
        let found = wrong(&t, &clips(&soft), &fusion, &mut |index, second| {
            requested.push((index, second));
            None
        });
        let brief: Vec<(&str, u32, &str, &str)> =
            found.iter().map(|w| (w.path.as_str(), w.second, w.truth.as_str(), w.predicted.as_str())).collect();
        assert_eq!(brief, [("b/1", 0, "b", "c"), ("a/0", 2, "a", "b")]);
        assert_eq!(requested, [(1, 0), (0, 2)]);
        assert_eq!(found[0].decided_by, Some(Modality::Rgb));
        assert!(found[0].probability > found[1].probability);
    }

    #[test]
    fn thumbnails_are_small_jpegs() {
        for (size, want) in [((640, 360), (192, 108)), ((90, 160), (90, 160)), ((1000, 1), (192, 1))] {
            let uri = jpeg_uri(&touchline_media::still::frame(image::RgbImage::new(size.0, size.1))).unwrap();
            let jpeg = BASE64_STANDARD.decode(uri.strip_prefix("data:image/jpeg;base64,").unwrap()).unwrap();
            let picture = image::load_from_memory(&jpeg).unwrap();
            assert_eq!((picture.width(), picture.height()), want);
        }
    }
}
