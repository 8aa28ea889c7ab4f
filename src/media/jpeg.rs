//! Frames as JPEG pictures, for pages and reports.

use std::io;

use image::imageops::FilterType;
use image::{ImageBuffer, Rgb};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use touchline_core::frame::Frame;

type View<'a> = ImageBuffer<Rgb<u8>, &'a [u8]>;

/// Returns `frame` as a JPEG of `quality` (1 to 100). Chroma keeps its resolution (4:4:4): frames are smaller than the pictures of the
/// stream, so their chroma is whole, and models may learn from them.
///
/// # Errors
/// When the encoder rejects the picture, or a side is longer than 65,535 pixels.
pub fn encode(frame: &Frame, quality: u8) -> io::Result<Vec<u8>> {
    encode_pixels(frame.view().data, (frame.width, frame.height), quality, SamplingFactor::F_1_1)
}

/// As [`encode`]; a frame of more than `width` × `height` pixels is scaled down (triangle filter). The aspect ratio stays.
///
/// # Errors
/// Those of [`encode`].
pub fn encode_within(frame: &Frame, (width, height): (u32, u32), quality: u8) -> io::Result<Vec<u8>> {
    let (wide, tall) = (u64::from(frame.width), u64::from(frame.height));
    // The limit that allows less, as a fraction of the frame's size.
    let (limit, of) = if u64::from(width) * tall < u64::from(height) * wide { (width, wide) } else { (height, tall) };
    if u64::from(limit) >= of {
        return encode(frame, quality);
    }
    let scaled = |side: u64| (side * u64::from(limit) / of).max(1) as u32;
    let small = image::imageops::resize(&view(frame)?, scaled(wide), scaled(tall), FilterType::Triangle);
    encode_pixels(small.as_raw(), small.dimensions(), quality, SamplingFactor::F_1_1)
}

/// As [`encode`], at most `width` wide and with chroma at half the resolution (4:2:0). Each pixel is the mean of four points of its area:
/// reading all of it would take most of the time, and does not show.
///
/// # Errors
/// Those of [`encode`].
pub fn encode_thumbnail(frame: &Frame, width: u32, quality: u8) -> io::Result<Vec<u8>> {
    let width = width.min(frame.width);
    let height =
        (u64::from(frame.height) * u64::from(width) / u64::from(frame.width)).clamp(1, 4 * u64::from(width)) as u32;
    let data = view(frame)?.into_raw();
    // Where the points at one and three quarters of each of `to` pixels are among `from`.
    let points = |to: u32, from: u32| {
        let point = move |quarters: u64| (quarters * u64::from(from) / (4 * u64::from(to))) as usize;
        (0..u64::from(to)).map(move |i| [point(4 * i + 1), point(4 * i + 3)])
    };
    let columns: Vec<[usize; 2]> = points(width, frame.width).map(|pair| pair.map(|x| 3 * x)).collect();
    let mut pixels = Vec::with_capacity(3 * (width * height) as usize);
    for rows in points(height, frame.height) {
        let [upper, lower] = rows.map(|y| &data[3 * y * frame.width as usize..]);
        for [left, right] in &columns {
            pixels.extend((0..3).map(|channel| {
                let [left, right] = [left + channel, right + channel];
                let sum = [upper[left], upper[right], lower[left], lower[right]].map(u32::from).iter().sum::<u32>();
                ((sum + 2) / 4) as u8
            }));
        }
    }
    encode_pixels(&pixels, (width, height), quality, SamplingFactor::F_2_2)
}

fn view(frame: &Frame) -> io::Result<View<'_>> {
    ImageBuffer::from_raw(frame.width, frame.height, frame.view().data).ok_or_else(too_little_data)
}

fn too_little_data() -> io::Error {
    io::Error::other("the frame has less data than its size requires")
}

fn encode_pixels(
    pixels: &[u8],
    (width, height): (u32, u32),
    quality: u8,
    chroma: SamplingFactor,
) -> io::Result<Vec<u8>> {
    let side = |length: u32| {
        u16::try_from(length).map_err(|_| io::Error::other(format!("JPEG has no pictures of {width}x{height} pixels")))
    };
    // A tenth of the pixels' size, rarely exceeded.
    let mut jpeg = Vec::with_capacity(pixels.len() / 10);
    let mut encoder = Encoder::new(&mut jpeg, quality);
    encoder.set_sampling_factor(chroma);
    encoder.encode(pixels, side(width)?, side(height)?, ColorType::Rgb).map_err(io::Error::other)?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::still;

    fn frame(width: u32, height: u32) -> Frame {
        still::frame(image::RgbImage::from_pixel(width, height, Rgb([90, 120, 60])))
    }

    fn size(jpeg: io::Result<Vec<u8>>) -> (u32, u32) {
        let picture = image::load_from_memory(&jpeg.unwrap()).unwrap().into_rgb8();
        let [red, green, blue] = picture.get_pixel(0, 0).0.map(i32::from);
        assert!((red - 90).abs() < 4 && (green - 120).abs() < 4 && (blue - 60).abs() < 4, "{red} {green} {blue}");
        picture.dimensions()
    }

    #[test]
    fn pictures_keep_their_size_or_are_scaled_down_to_the_limit() {
        assert_eq!(size(encode(&frame(64, 48), 80)), (64, 48));
        assert_eq!(size(encode_within(&frame(1920, 1080), (960, 960), 80)), (960, 540));
        assert_eq!(size(encode_within(&frame(608, 1080), (960, 960), 80)), (540, 960));
        assert_eq!(size(encode_within(&frame(640, 360), (960, 960), 80)), (640, 360));
        assert_eq!(size(encode_within(&frame(640, 360), (160, u32::MAX), 80)), (160, 90));
        assert_eq!(size(encode_within(&frame(2000, 1), (100, 100), 80)), (100, 1));
        assert_eq!(size(encode_thumbnail(&frame(1280, 720), 320, 80)), (320, 180));
        assert_eq!(size(encode_thumbnail(&frame(100, 50), 320, 80)), (100, 50));
        assert_eq!(size(encode_thumbnail(&frame(1, 2000), 320, 80)), (1, 4));
    }

    #[test]
    fn only_thumbnails_lose_chroma() {
        // Columns of equal luma, red and blue in turn.
        let column = |x: u32, _| if x.is_multiple_of(2) { Rgb([200, 60, 60]) } else { Rgb([60, 104, 255]) };
        let frame = still::frame(image::RgbImage::from_fn(64, 64, column));
        let contrast = |jpeg: io::Result<Vec<u8>>| {
            let picture = image::load_from_memory(&jpeg.unwrap()).unwrap().into_rgb8();
            i32::from(picture.get_pixel(30, 30).0[0]) - i32::from(picture.get_pixel(31, 30).0[0])
        };
        let [whole, within] = [encode(&frame, 90), encode_within(&frame, (960, 960), 90)].map(contrast);
        assert!(whole > 90 && within > 90, "{whole} {within}");
        let thumbnail = contrast(encode_thumbnail(&frame, 64, 90));
        assert!(thumbnail < 50, "{thumbnail}");
    }

    #[test]
    fn a_pixel_of_a_thumbnail_is_a_mean_of_its_area() {
        // Black and white lines, each two pixels high.
        let line = |_, y: u32| Rgb([if y % 4 < 2 { 0 } else { 240 }; 3]);
        let frame = still::frame(image::RgbImage::from_fn(320, 240, line));
        for (width, wanted) in [(80, 120), (320, 0)] {
            let jpeg = encode_thumbnail(&frame, width, 90).unwrap();
            let picture = image::load_from_memory(&jpeg).unwrap().into_rgb8();
            let red = i32::from(picture.get_pixel(0, 0).0[0]);
            assert!((red - wanted).abs() < 8, "{width}: {red}");
        }
    }
}
