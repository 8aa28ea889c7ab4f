//! Fingerprints of pictures. Scaling and encoding hardly change them.

use std::cell::RefCell;

use image::RgbImage;
use image::imageops::FilterType;
use image_hasher::{HashAlg, Hasher, HasherConfig};
use serde::{Deserialize, Serialize};

use touchline_core::frame::RgbView;

/// The perceptual hash of a picture. Each bit states whether a low frequency (DCT) of the brightness is above the median.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Print {
    pub hash: u64,
    /// Standard deviation of the brightness, 0 to 127. The hash of a picture with little contrast is noise.
    pub spread: u8,
}

thread_local! {
    /// One hasher per thread, because creating a hasher prepares the transform.
    static HASHER: RefCell<Hasher<[u8; 8]>> = RefCell::new(
        HasherConfig::with_bytes_type::<[u8; 8]>()
            .hash_size(8, 8)
            .hash_alg(HashAlg::Median)
            .preproc_dct()
            .resize_filter(FilterType::Triangle)
            .to_hasher(),
    );
}

impl Print {
    /// Returns the fingerprint of a picture.
    pub fn of(picture: RgbView<'_>) -> Self {
        let image = RgbImage::from_raw(picture.width as u32, picture.height as u32, picture.data.to_vec())
            .expect("a view holds width × height × 3 bytes");
        let hash = HASHER.with_borrow(|hasher| hasher.hash_image(&image)).into_inner();
        Self { hash: u64::from_be_bytes(hash), spread: spread(picture) }
    }

    /// Returns the number of bits that differ, 0 to 64.
    pub const fn distance(self, other: Self) -> u32 {
        (self.hash ^ other.hash).count_ones()
    }
}

/// Returns the standard deviation of the brightness, rounded down; 0 for an empty picture.
fn spread(picture: RgbView<'_>) -> u8 {
    let (mut n, mut sum, mut squares) = (0u64, 0u64, 0u64);
    for pixel in picture.data.as_chunks::<3>().0 {
        // Rec. 601 luma, in 256ths.
        let y = (77 * u64::from(pixel[0]) + 150 * u64::from(pixel[1]) + 29 * u64::from(pixel[2])) >> 8;
        (n, sum, squares) = (n + 1, sum + y, squares + y * y);
    }
    if n == 0 {
        return 0;
    }
    let variance =
        (u128::from(n) * u128::from(squares) - u128::from(sum) * u128::from(sum)) / (u128::from(n) * u128::from(n));
    // The variance of bytes is at most 127.5², so its root fits.
    variance.isqrt() as u8
}
