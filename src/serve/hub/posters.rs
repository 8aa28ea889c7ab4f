//! Pictures for the segments of a stream.
//!
//! Which second of a segment is its strongest, and where a segment begins, is known when it is closed. So a few strong seconds are kept as
//! pictures: one of each stretch of seconds with the same label.

use std::collections::VecDeque;

use axum::body::Bytes;
use parking_lot::Mutex;

use super::preview::encode_thumbnail;
use touchline_core::decision::SecondPrediction;
use touchline_core::frame::Frame;
use touchline_core::labels::ClassId;
use touchline_core::segment::{Segment, SegmentKind};
use touchline_core::time::RunId;

/// The longest stretch, seconds: a segment may begin within one.
const STRETCH_S: u64 = 60;

/// Stretches that are kept, at most. Older ones of the same label become one, so that they are enough for any length.
const STRETCHES_MAX: usize = 32;

/// Width of a poster, pixels: that of a list on a dense screen, and of the details.
const WIDTH: u32 = 320;

/// A second must be so much more probable than the last picture of its stretch: most are about equal.
const STRONGER: f32 = 0.01;

/// Seconds of a run with the same label.
struct Stretch {
    run: RunId,
    class: ClassId,
    is_unknown: bool,
    /// Number of its first second.
    first: u64,
    /// The largest probability of which a picture was asked for.
    asked: f32,
    picture: Option<PosterPicture>,
}

#[derive(Clone)]
struct PosterPicture {
    index: u64,
    probability: f32,
    jpeg: Bytes,
}

/// The pictures of a stream.
#[derive(Default)]
pub struct PosterBook {
    stretches: Mutex<VecDeque<Stretch>>,
}

impl PosterBook {
    /// Whether a picture of a decided second is wanted: it is the strongest of its stretch so far. Then [`PosterBook::put`] should follow.
    pub fn wants(&self, second: &SecondPrediction) -> bool {
        let (label, probability) = (second.decision.label, second.decision.probability);
        let mut stretches = self.stretches.lock();
        let is_unknown = second.is_unknown();
        if let Some(last) = stretches.back_mut()
            && (last.run, last.class, last.is_unknown) == (second.run, label, is_unknown)
            && (last.first..last.first + STRETCH_S).contains(&second.index)
        {
            let is_stronger = probability > last.asked + STRONGER;
            if is_stronger {
                last.asked = probability;
            }
            return is_stronger;
        }
        let (run, class, first) = (second.run, label, second.index);
        stretches.push_back(Stretch { run, class, is_unknown, first, asked: probability, picture: None });
        if stretches.len() > STRETCHES_MAX {
            join_oldest(&mut stretches);
        }
        true
    }

    /// A frame as a poster: a JPEG of at most 320 pixels.
    ///
    /// # Errors
    /// A frame that cannot be encoded.
    pub fn picture(frame: &Frame) -> std::io::Result<Bytes> {
        encode_thumbnail(frame, WIDTH)
    }

    /// Takes the picture of a second, unless its stretch has a stronger one.
    pub fn put(&self, second: &SecondPrediction, jpeg: Bytes) {
        let (index, probability) = (second.index, second.decision.probability);
        let mut stretches = self.stretches.lock();
        let holds = |stretch: &&mut Stretch| {
            (stretch.run, stretch.class) == (second.run, second.decision.label) && stretch.first <= index
        };
        if let Some(stretch) = stretches.iter_mut().rev().find(holds)
            && stretch.picture.as_ref().is_none_or(|picture| picture.probability < probability)
        {
            stretch.picture = Some(PosterPicture { index, probability, jpeg });
        }
    }

    /// The picture of the strongest second of a segment, as far as it is kept. A segment without a class has that of any label.
    pub(super) fn best(&self, segment: &Segment) -> Option<Bytes> {
        let stretches = self.stretches.lock();
        let is_of = |stretch: &&Stretch| match segment.kind {
            SegmentKind::Class(class) => stretch.class == class,
            SegmentKind::Unknown => true,
            SegmentKind::NoProgramme | SegmentKind::Undecided => false,
        };
        let pictures = stretches.iter().filter(|stretch| stretch.run == segment.run).filter(is_of);
        let pictures = pictures.filter_map(|stretch| stretch.picture.as_ref());
        let within = pictures.filter(|picture| (segment.first..=segment.last).contains(&picture.index));
        // The first of several that are as probable.
        let best = within.rev().max_by(|a, b| a.probability.total_cmp(&b.probability));
        best.map(|picture| picture.jpeg.clone())
    }
}

/// Makes one of the oldest two neighbours of one label, or removes the oldest stretch.
fn join_oldest(stretches: &mut VecDeque<Stretch>) {
    let is_alike = |a: &Stretch, b: &Stretch| (a.run, a.class, a.is_unknown) == (b.run, b.class, b.is_unknown);
    let alike = (1..stretches.len()).find(|&at| is_alike(&stretches[at - 1], &stretches[at]));
    let Some(removed) = stretches.remove(alike.map_or(0, |at| at - 1)) else { return };
    if let Some(next) = alike.and_then(|at| stretches.get_mut(at - 1)) {
        next.first = removed.first;
        let probability = |picture: &Option<PosterPicture>| picture.as_ref().map_or(0.0, |picture| picture.probability);
        if probability(&removed.picture) >= probability(&next.picture) {
            next.picture = removed.picture;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{classes, predicted};
    use touchline_core::decision::SecondOutcome;
    use touchline_core::segment::{RecordedSecond, SegmentCloser};

    fn second(index: u64, class: &str, probability: f32) -> SecondPrediction {
        match predicted(index, class, probability).outcome {
            SecondOutcome::Predicted(second) => second,
            SecondOutcome::Gap(_) => unreachable!("it is decided"),
        }
    }

    /// Offers a second. Its picture is its number.
    fn offer(book: &PosterBook, second: &SecondPrediction) -> bool {
        let is_wanted = book.wants(second);
        if is_wanted {
            book.put(second, Bytes::from(second.index.to_string()));
        }
        is_wanted
    }

    fn segment(class: Option<&str>, first: u64, last: u64) -> Segment {
        let mut closer = SegmentCloser::default();
        closer.push(RecordedSecond { wall_ns: None, ..predicted(first, "tennis", 0.9).recorded() }, 1);
        let segment = closer.finish().remove(0).segment;
        let kind = class.map_or(SegmentKind::Unknown, |name| SegmentKind::Class(classes().id(name).unwrap()));
        Segment { kind, first, last, ..segment }
    }

    fn best(book: &PosterBook, class: Option<&str>, first: u64, last: u64) -> Option<u64> {
        book.best(&segment(class, first, last)).map(|jpeg| String::from_utf8_lossy(&jpeg).parse().unwrap())
    }

    #[test]
    fn a_segment_has_the_picture_of_its_strongest_second() {
        let book = PosterBook::default();
        let shown =
            [("tennis", 0.7), ("tennis", 0.9), ("tennis", 0.8), ("soccer", 0.99), ("tennis", 0.85), ("tennis", 0.95)];
        let wanted: Vec<bool> =
            (0..).zip(shown).map(|(index, (class, sure))| offer(&book, &second(index, class, sure))).collect();
        assert_eq!(wanted, [true, true, false, true, true, true], "pictures are made of few seconds");
        assert_eq!(best(&book, Some("tennis"), 0, 5), Some(5));
        assert_eq!(best(&book, Some("tennis"), 0, 2), Some(1));
        assert_eq!(best(&book, Some("soccer"), 0, 5), Some(3));
        assert_eq!(best(&book, None, 0, 5), Some(3), "of any label");
        assert_eq!(best(&book, Some("tennis"), 2, 3), None, "it is not in the segment");
        let other_run = Segment { run: RunId(7), ..segment(Some("tennis"), 0, 5) };
        assert_eq!(book.best(&other_run), None);
        let bars = Segment { kind: SegmentKind::NoProgramme, ..segment(None, 0, 5) };
        assert_eq!(book.best(&bars), None);
        book.put(&second(2, "tennis", 0.2), Bytes::from_static(b"2"));
        assert_eq!(best(&book, Some("tennis"), 0, 2), Some(1), "a late picture of a weaker second is not taken");
    }

    #[test]
    fn a_long_day_has_few_pictures_and_its_strongest_is_among_them() {
        let book = PosterBook::default();
        let sure = |index: u64| if index == 5000 { 0.97 } else { 0.8 + 0.01 * (index % 7) as f32 };
        let wanted = (0..86_400).filter(|index| offer(&book, &second(*index, "tennis", sure(*index)))).count();
        assert!(wanted < 86_400 / STRETCH_S as usize * 6, "{wanted}");
        assert_eq!(book.stretches.lock().len(), STRETCHES_MAX);
        assert_eq!(best(&book, Some("tennis"), 0, 86_399), Some(5000));
        for index in 86_400..87_000 {
            offer(&book, &second(index, if index % 2 == 0 { "soccer" } else { "tennis" }, 0.9));
        }
        assert_eq!(book.stretches.lock().len(), STRETCHES_MAX);
        assert_eq!(best(&book, Some("soccer"), 86_990, 87_000), Some(86_990));
    }
}
