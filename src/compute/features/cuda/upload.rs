//! The upload of a batch: one block of bytes with pictures, sounds, and index lists.

use super::pictures::Picture;
use super::work::BatchInputs;
use crate::gpu::launch::Plain;

/// Alignment of every part, bytes: for vector loads and f64.
const ALIGNMENT: usize = 16;

/// The plan of an upload. It is reused, so that a steady stream allocates nothing.
#[derive(Debug, Default)]
pub struct Upload {
    bytes: usize,
    /// Offset of each picture of the batch.
    pictures: Vec<usize>,
    /// Offset of each sound, with its index in the batch.
    sounds: Vec<(usize, usize)>,
    /// Offset of each list, and its range in `lists`.
    places: Vec<(usize, std::ops::Range<usize>)>,
    lists: Vec<u8>,
}

impl Upload {
    pub(super) fn clear(&mut self) {
        self.bytes = 0;
        self.pictures.clear();
        self.sounds.clear();
        self.places.clear();
        self.lists.clear();
    }

    /// Length so far, bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to upload.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn place(&mut self, bytes: usize) -> usize {
        let at = self.bytes.next_multiple_of(ALIGNMENT);
        self.bytes = at + bytes;
        at
    }

    /// Reserves space for every picture. Returns their offsets.
    pub(super) fn pictures(&mut self, pictures: &[Picture<'_>]) -> Vec<u64> {
        for picture in pictures {
            let at = self.place(picture.data.len());
            self.pictures.push(at);
        }
        self.pictures.iter().map(|at| *at as u64).collect()
    }

    /// Reserves space for sounds of one length, without gaps. Returns the offset of the first.
    pub(super) fn sounds(&mut self, numbers: &[usize], samples: usize) -> usize {
        let at = self.place(numbers.len() * samples * size_of::<f32>());
        self.sounds.extend(numbers.iter().enumerate().map(|(i, n)| (at + i * samples * size_of::<f32>(), *n)));
        at
    }

    /// Adds a list. Returns its offset.
    pub(super) fn list<T: Plain>(&mut self, values: &[T]) -> usize {
        let at = self.place(size_of_val(values));
        let start = self.lists.len();
        T::append(values, &mut self.lists);
        self.places.push((at, start..self.lists.len()));
        at
    }

    /// Writes everything to `to`, which has [`Upload::len`] bytes. Gaps between parts are not written; nothing reads them.
    pub(super) fn fill(&self, work: &BatchInputs<'_>, to: &mut [u8]) {
        for (&at, picture) in self.pictures.iter().zip(&work.pictures) {
            to[at..at + picture.data.len()].copy_from_slice(picture.data);
        }
        for &(at, number) in &self.sounds {
            let samples = work.sounds[number];
            for (to, sample) in to[at..].as_chunks_mut::<4>().0.iter_mut().zip(samples) {
                *to = sample.to_ne_bytes();
            }
        }
        for (at, range) in &self.places {
            to[*at..*at + range.len()].copy_from_slice(&self.lists[range.clone()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::cuda::Format;

    #[test]
    fn parts_lie_at_the_returned_offsets() {
        let (a, b) = ([1u8, 2, 3], [4u8; 6]);
        let picture = |data| Picture { data, width: 1, height: 1, format: Format::Rgb8 };
        let (x, y) = ([1.0f32, 2.0], [3.0f32, 4.0]);
        let work = BatchInputs {
            pictures: vec![picture(&a[..]), picture(&b[..])],
            sounds: vec![&x, &y],
            ..BatchInputs::default()
        };
        let mut upload = Upload::default();
        for _ in 0..2 {
            upload.clear();
            assert!(upload.is_empty());
            assert_eq!(upload.pictures(&work.pictures), [0, 16]);
            let sounds = upload.sounds(&[1, 0], 2);
            let list = upload.list(&[7i32, -1]);
            assert_eq!((sounds, list, upload.len()), (32, 48, 56));
            let mut bytes = vec![0xee; upload.len()];
            upload.fill(&work, &mut bytes);
            assert_eq!((&bytes[..3], &bytes[16..22]), (&a[..], &b[..]));
            let floats: Vec<f32> = bytes[32..48].as_chunks::<4>().0.iter().map(|b| f32::from_ne_bytes(*b)).collect();
            assert_eq!(floats, [3.0, 4.0, 1.0, 2.0]);
            assert_eq!(bytes[48..], [7i32.to_ne_bytes(), (-1i32).to_ne_bytes()].concat());
        }
    }
}
