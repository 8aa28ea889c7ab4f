//! The pictures, pairs and sounds of a batch of seconds.

use super::pictures::{Format, Picture};
use touchline_core::clip::ClipSecond;
use touchline_core::decision::PerModality;

/// Two pictures of [`BatchInputs::pictures`] whose flow is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairIndex {
    /// Index of the earlier picture.
    pub first: usize,
    /// Index of the later picture.
    pub second: usize,
    /// Their distance in time, nanoseconds.
    pub gap_ns: u64,
}

/// The pictures and sounds of a batch, each once, and the inputs to make of them, in order.
#[derive(Clone, Debug, Default)]
pub struct BatchInputs<'a> {
    /// All pictures.
    pub pictures: Vec<Picture<'a>>,
    /// Pictures for the RGB model, as indices into `pictures`.
    pub rgb: Vec<usize>,
    /// Pairs for the flow model.
    pub pairs: Vec<PairIndex>,
    /// Mono samples, for the sound model.
    pub sounds: Vec<&'a [f32]>,
}

impl<'a> BatchInputs<'a> {
    /// Collects the inputs of `seconds`, in order, and counts those of each second. `wants` says which models exist; the sound
    /// of a second is skipped if `hears` returns false.
    ///
    /// # Panics
    /// If an index of a second's `rgb` or `pairs` is out of range.
    pub fn of(
        seconds: &[&'a ClipSecond],
        wants: PerModality<bool>,
        hears: impl Fn(&ClipSecond) -> bool,
    ) -> (Self, Vec<PerModality<usize>>) {
        let mut work = Self::default();
        let mut counts = Vec::with_capacity(seconds.len());
        for second in seconds {
            let mut count = PerModality::default();
            // A frame is uploaded once, even if several models use it.
            let mut known: Vec<Option<usize>> = vec![None; second.frames.len()];
            let mut number = |work: &mut Self, frame: usize| {
                *known[frame].get_or_insert_with(|| {
                    let view = second.frames[frame].view();
                    let (width, height) = (view.width, view.height);
                    work.pictures.push(Picture { data: view.data, width, height, format: Format::Rgb8 });
                    work.pictures.len() - 1
                })
            };
            if wants.rgb {
                for &frame in &second.rgb {
                    let picture = number(&mut work, frame);
                    work.rgb.push(picture);
                }
                count.rgb = second.rgb.len();
            }
            if wants.flow {
                for pair in &second.pairs {
                    let (first, last) = (number(&mut work, pair.first), number(&mut work, pair.second));
                    work.pairs.push(PairIndex { first, second: last, gap_ns: pair.gap_ns });
                }
                count.flow = second.pairs.len();
            }
            if let Some(samples) = second.audio.as_deref().filter(|_| wants.audio && hears(second)) {
                work.sounds.push(samples);
                count.audio = 1;
            }
            counts.push(count);
        }
        (work, counts)
    }
}
