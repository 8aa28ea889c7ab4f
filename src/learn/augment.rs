//! Random views of training samples. They imitate the effects of a broadcast that photos and clean recordings lack.
//!
//! Photos are close-ups; broadcasts are wide, compressed and graded. Crops and reduced copies change the framing, blur and
//! JPEG remove detail, and colour changes imitate grading. Views are made from the picture itself, before the feature code.

use image::imageops::FilterType;
use image::{ImageBuffer, Rgb, RgbImage};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use touchline_core::clip::ClipSecond;
use touchline_core::frame::{Frame, RgbView};

/// Largest height of a view, in lines. A view of a large photo need not keep more detail than the model input has.
const VIEW_LINES: u32 = 320;

/// Returns the random generator for view `view` of sample `key`. It depends on the arguments only, so that views repeat exactly.
pub fn rng(seed: u64, key: u64, view: u32) -> SmallRng {
    // SplitMix64's multiplier spreads neighbouring keys.
    SmallRng::seed_from_u64(seed ^ key.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (u64::from(view) << 56))
}

/// Returns a random view of a picture, at most 320 lines high: crop, reduced copy on a plain ground, mirror, colour, blur, JPEG.
///
/// # Panics
/// If the picture is empty.
pub fn picture(view: RgbView<'_>, rng: &mut SmallRng) -> Frame {
    let mut image = crop(&image_of(view), rng);
    if rng.random_bool(0.15) {
        image = paste_small(&image, rng);
    }
    if rng.random_bool(0.5) {
        image::imageops::flip_horizontal_in_place(&mut image);
    }
    grade(&mut image, rng);
    if rng.random_bool(0.4) {
        image = soften(&image, rng);
    }
    if rng.random_bool(0.5) {
        image = compress(image, rng.random_range(20..=70));
    }
    touchline_media::still::frame(image)
}

/// Returns a random view of a second for the motion model, with at most `pairs` pairs, spread evenly over the second. All
/// frames get the same crop and the same mirroring, so that the motion between them is preserved.
pub fn second(clip: &ClipSecond, pairs: usize, rng: &mut SmallRng) -> ClipSecond {
    let n = clip.pairs.len().min(pairs);
    let chosen: Vec<_> = (0..n).map(|i| clip.pairs[(2 * i + 1) * clip.pairs.len() / (2 * n)]).collect();
    let mirrored = rng.random_bool(0.5);
    let (area, aspect) = (rng.random_range(0.35..=1.0), aspect(rng));
    let (left, top) = (rng.random::<f64>(), rng.random::<f64>());
    let view = |f: &Frame| {
        let mut image = cut(&image_of(f.view()), area, aspect, (left, top));
        if mirrored {
            image::imageops::flip_horizontal_in_place(&mut image);
        }
        Frame { pts: f.pts, ..touchline_media::still::frame(image) }
    };
    ClipSecond {
        pairs: chosen,
        flow_absent: clip.flow_absent,
        ..ClipSecond::of_pictures(clip.frames.iter().map(view).collect())
    }
}

/// Applies SpecAugment in place to an input of the sound model (three equal planes of `height` × `width` values): sets up to
/// two frequency bands and two time spans to the mean. Each covers at most a fifth of its axis. An input shorter than a plane
/// stays as it is.
///
/// Source: Park et al., *SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition*, Interspeech
/// 2019, without its time warp.
pub fn mask(input: &mut [f32], width: usize, height: usize, rng: &mut SmallRng) {
    let plane = width * height;
    let Some(first) = input.get(..plane).filter(|p| !p.is_empty()) else { return };
    let mean = first.iter().sum::<f32>() / plane as f32;
    let mut span = |length: usize| {
        let n = rng.random_range(0..=length / 5);
        let from = rng.random_range(0..=length - n);
        from..from + n
    };
    let (bands, times) = ([span(height), span(height)], [span(width), span(width)]);
    for plane in input.chunks_exact_mut(plane) {
        for (y, row) in plane.chunks_exact_mut(width).enumerate() {
            if bands.iter().any(|b| b.contains(&y)) {
                row.fill(mean);
            }
            for time in &times {
                row[time.clone()].fill(mean);
            }
        }
    }
}

/// Returns a random view of a second of mono sound: a gain within ±9 dB, a cyclic shift and, in 40 % of the views, noise 15
/// to 30 dB below the sound.
pub fn sound(samples: &[f32], rng: &mut SmallRng) -> Vec<f32> {
    let gain = 10f32.powf(rng.random_range(-9.0..9.0f32) / 20.0);
    let shift = rng.random_range(0..samples.len().max(1));
    let rms = (samples.iter().map(|s| s * s).sum::<f32>() / samples.len().max(1) as f32).sqrt();
    let noise = if rng.random_bool(0.4) { rms * 10f32.powf(-rng.random_range(15.0..30.0f32) / 20.0) } else { 0.0 };
    // Uniform noise of unit power has amplitude sqrt(3).
    let amplitude = noise * 3f32.sqrt();
    (0..samples.len())
        .map(|i| gain * (samples[(i + shift) % samples.len()] + amplitude * rng.random_range(-1.0..1.0f32)))
        .collect()
}

fn image_of(view: RgbView<'_>) -> RgbImage {
    let (w, h) = (view.width as u32, view.height as u32);
    ImageBuffer::from_raw(w, h, view.data.to_vec()).expect("a view is packed RGB8")
}

/// Returns a random crop as Inception makes it: 25 to 100 % of the area, aspect ratio 3:4 to 16:9.
///
/// Source: Szegedy et al., *Going Deeper with Convolutions*, CVPR 2015 (other limits there).
fn crop(image: &RgbImage, rng: &mut SmallRng) -> RgbImage {
    let (area, aspect) = (rng.random_range(0.25..=1.0), aspect(rng));
    let place = (rng.random::<f64>(), rng.random::<f64>());
    cut(image, area, aspect, place)
}

/// Returns a random aspect ratio from 3:4 to 16:9, uniform in its logarithm.
fn aspect(rng: &mut SmallRng) -> f64 {
    rng.random_range(0.75f64.ln()..=1.78f64.ln()).exp()
}

/// Returns the crop with this share of the area and this aspect ratio. `place` is its position in the free space, 0 (left, top)
/// to 1 (right, bottom). A crop higher than [`VIEW_LINES`] is scaled down to that height.
fn cut(image: &RgbImage, area: f64, aspect: f64, place: (f64, f64)) -> RgbImage {
    let (w, h) = image.dimensions();
    let area = f64::from(w) * f64::from(h) * area;
    let cw = ((area * aspect).sqrt().round() as u32).clamp(1, w);
    let ch = ((area / aspect).sqrt().round() as u32).clamp(1, h);
    let along = |free: u32, place: f64| (f64::from(free) * place).round() as u32;
    let part = image::imageops::crop_imm(image, along(w - cw, place.0), along(h - ch, place.1), cw, ch).to_image();
    if ch <= VIEW_LINES {
        return part;
    }
    let width = (u64::from(cw) * u64::from(VIEW_LINES) / u64::from(ch)).max(1) as u32;
    image::imageops::resize(&part, width, VIEW_LINES, FilterType::Triangle)
}

/// Imitates a wide shot: pastes the picture at 45 to 90 % of its size on a ground of its mean colour.
fn paste_small(image: &RgbImage, rng: &mut SmallRng) -> RgbImage {
    let (w, h) = image.dimensions();
    let scale: f64 = rng.random_range(0.45..0.9);
    let (sw, sh) = (((f64::from(w) * scale) as u32).max(1), ((f64::from(h) * scale) as u32).max(1));
    let small = image::imageops::resize(image, sw, sh, FilterType::Triangle);
    let mut sum = [0u64; 3];
    for pixel in image.pixels() {
        for (s, v) in sum.iter_mut().zip(pixel.0) {
            *s += u64::from(v);
        }
    }
    let n = u64::from(w) * u64::from(h);
    let mut ground = RgbImage::from_pixel(w, h, Rgb(sum.map(|s| (s / n) as u8)));
    let (x, y) = (rng.random_range(0..=w - sw), rng.random_range(0..=h - sh));
    image::imageops::replace(&mut ground, &small, i64::from(x), i64::from(y));
    ground
}

/// Changes brightness, contrast and saturation, and tints each channel.
fn grade(image: &mut RgbImage, rng: &mut SmallRng) {
    let brightness: f32 = rng.random_range(-30.0..30.0);
    let contrast: f32 = rng.random_range(0.7..1.3);
    let saturation: f32 = rng.random_range(0.5..1.4);
    let tint: [f32; 3] = std::array::from_fn(|_| rng.random_range(0.92..1.08));
    for pixel in image.pixels_mut() {
        let [r, g, b] = pixel.0.map(f32::from);
        let gray = 0.299 * r + 0.587 * g + 0.114 * b;
        let channels = [r, g, b];
        pixel.0 = std::array::from_fn(|c| {
            let value = gray + (channels[c] - gray) * saturation;
            ((value - 128.0) * contrast + 128.0 + brightness).mul_add(tint[c], 0.0).clamp(0.0, 255.0) as u8
        });
    }
}

/// Scales the picture down to 30 to 80 % and up again: the softness of a scaled or badly focused feed.
fn soften(image: &RgbImage, rng: &mut SmallRng) -> RgbImage {
    let (w, h) = image.dimensions();
    let scale: f64 = rng.random_range(0.3..0.8);
    let (sw, sh) = (((f64::from(w) * scale) as u32).max(1), ((f64::from(h) * scale) as u32).max(1));
    let small = image::imageops::resize(image, sw, sh, FilterType::Triangle);
    image::imageops::resize(&small, w, h, FilterType::Triangle)
}

/// Encodes as JPEG and decodes again, for block and colour artefacts. Returns the picture unchanged when the codec fails.
fn compress(image: RgbImage, quality: u8) -> RgbImage {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let encoded = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(&image);
    match encoded.and_then(|()| image::load_from_memory_with_format(bytes.get_ref(), image::ImageFormat::Jpeg)) {
        Ok(decoded) => decoded.into_rgb8(),
        Err(_) => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(w: usize, h: usize) -> Vec<u8> {
        (0..w * h).flat_map(|i| [(i % w * 255 / w) as u8, (i / w * 255 / h) as u8, 90]).collect()
    }

    #[test]
    fn views_differ_by_number_and_are_reproducible_by_seed() {
        let data = gradient(200, 120);
        let view = RgbView { data: &data, width: 200, height: 120 };
        let make = |n| picture(view, &mut rng(1, 42, n));
        assert_eq!(make(1).data.as_slice(), make(1).data.as_slice());
        assert_ne!(make(1).data.as_slice(), make(2).data.as_slice());
    }

    #[test]
    fn any_size_has_views() {
        for (w, h) in [(1, 1), (1, 50), (50, 1), (7, 5), (640, 361)] {
            let data = gradient(w, h);
            for n in 0..30 {
                let view = RgbView { data: &data, width: w, height: h };
                let augmented = picture(view, &mut rng(3, (w * h) as u64, n));
                assert!(augmented.width > 0 && augmented.height > 0 && augmented.height <= VIEW_LINES);
            }
        }
    }

    #[test]
    fn a_second_keeps_its_motion_and_sound_its_length() {
        let frames: Vec<Frame> = (0..4)
            .map(|i| {
                let data: Vec<u8> = gradient(64, 48).iter().map(|v| v.wrapping_add(i * 9)).collect();
                touchline_media::still::frame(RgbImage::from_raw(64, 48, data).unwrap())
            })
            .collect();
        let pair = |first, second| touchline_core::clip::FlowPair { first, second, gap_ns: 40_000_000 };
        let clip = ClipSecond { pairs: vec![pair(0, 1), pair(1, 2), pair(2, 3)], ..ClipSecond::of_pictures(frames) };
        for n in 0..10 {
            let augmented = second(&clip, 2, &mut rng(1, 5, n));
            assert_eq!(augmented.pairs.len(), 2);
            let sizes: Vec<_> = augmented.frames.iter().map(|f| (f.width, f.height)).collect();
            assert!(sizes.iter().all(|s| *s == sizes[0]), "one crop for all frames: {sizes:?}");
            // The frames differ by a constant. Cropped at the same place they still do.
            let (a, b) = (augmented.frames[0].data.as_slice(), augmented.frames[1].data.as_slice());
            assert!(a.iter().zip(b).all(|(a, b)| b.wrapping_sub(*a) == 9));
        }
        assert_eq!(second(&clip, 9, &mut rng(1, 5, 0)).pairs.len(), 3);
        let tone: Vec<f32> = (0..100).map(|i| (i as f32 * 0.3).sin()).collect();
        let other = sound(&tone, &mut rng(1, 1, 1));
        assert!(other.len() == 100 && other.iter().all(|v| v.is_finite()) && other != tone);
    }

    #[test]
    fn masks_cover_bands_and_spans_alike_in_all_planes() {
        let plane: Vec<f32> = (0..20 * 30).map(|i| i as f32).collect();
        let mut input = [plane.clone(), plane.clone(), plane.clone()].concat();
        mask(&mut input, 30, 20, &mut rng(1, 2, 3));
        let masked: Vec<bool> = input[..600].iter().zip(&plane).map(|(a, b)| a != b).collect();
        let share = masked.iter().filter(|m| **m).count() as f64 / 600.0;
        assert!(share > 0.0 && share < 0.65, "{share}");
        for plane in input.chunks(600) {
            assert_eq!(plane, &input[..600]);
        }
        mask(&mut [], 30, 20, &mut rng(1, 2, 3));
    }
}
