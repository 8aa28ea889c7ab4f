//! What a batch of seconds asks of the device.

use super::pictures::{Format, Picture};
use touchline_core::clip::ClipSecond;
use touchline_core::decision::PerModality;

/// Two pictures of [`BatchInputs::pictures`] whose flow is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairIndex {
    pub first: usize,
    pub second: usize,
    /// Their distance in time.
    pub gap_ns: u64,
}

/// Pictures and sounds of a batch, each once, and what is to be made of them, in the order of the inputs.
#[derive(Clone, Debug, Default)]
pub struct BatchInputs<'a> {
    pub pictures: Vec<Picture<'a>>,
    /// Pictures for the RGB model, as indices into `pictures`.
    pub rgb: Vec<usize>,
    pub pairs: Vec<PairIndex>,
    /// Mono samples, for the sound model.
    pub sounds: Vec<&'a [f32]>,
}

impl<'a> BatchInputs<'a> {
    /// What `seconds` ask for, in order, and how many inputs each of them has. `wants` says which models there are; sound
    /// that `hears` denies is passed over.
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
            // A frame goes over once, whoever looks at it.
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
