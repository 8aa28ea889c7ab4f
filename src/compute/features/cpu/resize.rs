//! Packed RGB8 of any size → the model's rectangle: normalised planar f32, or gray f32 for flow.
//!
//! A [`ResizePlan`] has the data that depend only on the two sizes (geometry and filter tables) and can be shared by threads;
//! [`ResizeScratch`] is the scratch memory of a call. The only colour conversion is RGB → gray.

use super::axis::Axis;
use crate::features::params::{Filter, Fit, PictureParams};
use touchline_core::frame::RgbView;

/// BT.601 luma weights, as OpenCV's `COLOR_RGB2GRAY`.
pub const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// The rectangle of the target that the picture covers, in target pixels. The rest is padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Left edge, pixels.
    pub x: usize,
    /// Top edge, pixels.
    pub y: usize,
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
}

impl Area {
    /// The area of a `source` (width, height) picture in a `target` (width, height) rectangle.
    ///
    /// Only [`Fit::Pad`] leaves padding: the picture is scaled by one factor, rounded to whole pixels (at least 1) and
    /// centred; if the remainder is odd, the padding at the right and bottom is one pixel wider.
    pub fn of(source: (usize, usize), target: (usize, usize), fit: Fit) -> Self {
        let (width, height) = match fit {
            Fit::Crop | Fit::Stretch => target,
            Fit::Pad => {
                let scale = (target.0 as f64 / source.0 as f64).min(target.1 as f64 / source.1 as f64);
                let fitted = |source: usize, target: usize| ((source as f64 * scale).round() as usize).clamp(1, target);
                (fitted(source.0, target.0), fitted(source.1, target.1))
            }
        };
        Self { x: (target.0 - width) / 2, y: (target.1 - height) / 2, width, height }
    }
}

/// Geometry and filter tables to resize pictures of one size to another.
#[derive(Clone, Debug)]
pub struct ResizePlan {
    source: (usize, usize),
    target: (usize, usize),
    fit: Fit,
    filter: Filter,
    area: Area,
    horizontal: Axis,
    vertical: Axis,
}

/// Scratch of [`ResizePlan`]'s calls; grows to the size for the largest plan and does not shrink.
#[derive(Clone, Debug, Default)]
pub struct ResizeScratch {
    mixed: Vec<f32>,
    row: Vec<[f32; 3]>,
}

impl ResizePlan {
    /// Bilinear tables for `source` (width, height) pictures into a `target` (width, height) rectangle.
    ///
    /// # Panics
    /// If a side of either is 0.
    pub fn new(source: (usize, usize), target: (usize, usize), fit: Fit) -> Self {
        Self::filtered(source, target, fit, Filter::Bilinear)
    }

    /// As [`ResizePlan::new`], with any filter.
    ///
    /// # Panics
    /// If a side of either is 0.
    pub fn filtered(source: (usize, usize), target: (usize, usize), fit: Fit, filter: Filter) -> Self {
        assert!(source.0 > 0 && source.1 > 0 && target.0 > 0 && target.1 > 0, "a picture has at least one pixel");
        let area = Area::of(source, target, fit);
        // The part of the source that is shown: for Crop the centre with the target's aspect.
        let (shown_width, shown_height) = match fit {
            Fit::Pad | Fit::Stretch => (source.0 as f64, source.1 as f64),
            Fit::Crop => {
                let scale = (target.0 as f64 / source.0 as f64).max(target.1 as f64 / source.1 as f64);
                ((target.0 as f64 / scale).min(source.0 as f64), (target.1 as f64 / scale).min(source.1 as f64))
            }
        };
        let axis = |source: usize, target: usize, shown: f64| {
            let from = (source as f64 - shown) / 2.0;
            match filter {
                Filter::Bilinear => Axis::triangle(source, target, from, shown),
                Filter::Bicubic => Axis::cubic(source, target, from, shown),
            }
        };
        Self {
            source,
            target,
            fit,
            filter,
            area,
            horizontal: axis(source.0, area.width, shown_width),
            vertical: axis(source.1, area.height, shown_height),
        }
    }

    /// Whether this plan is [`ResizePlan::new`] of these arguments.
    pub fn is_for(&self, source: (usize, usize), target: (usize, usize), fit: Fit) -> bool {
        self.source == source && self.target == target && self.fit == fit
    }

    /// Width and height of the pictures it takes.
    pub fn source(&self) -> (usize, usize) {
        self.source
    }

    /// The tables along the two axes, horizontal and vertical.
    pub fn axes(&self) -> (&Axis, &Axis) {
        (&self.horizontal, &self.vertical)
    }

    /// The rectangle of the target that the picture covers.
    pub fn area(&self) -> Area {
        self.area
    }

    /// Normalised planar picture: `out` is 3 × `params.height` × `params.width`, value
    /// `(level / 255 - mean) / std`, padding 0.
    ///
    /// # Panics
    /// If `view`, `params` or `out` is of another size than the plan.
    pub fn picture(&self, view: RgbView<'_>, params: &PictureParams, line: &mut ResizeScratch, out: &mut [f32]) {
        assert_eq!((params.width, params.height), self.target, "the plan was made for another input size");
        let (width, height) = self.target;
        assert_eq!(out.len(), 3 * width * height, "a picture is 3 x height x width values");
        let Area { x, y, width: covered, height: rows } = self.area;
        if (covered, rows) != self.target {
            out.fill(0.0);
        }
        let (gain, bias) = normal(params);
        let cubic = self.filter == Filter::Bicubic;
        let (red, rest) = out.split_at_mut(width * height);
        let (green, blue) = rest.split_at_mut(width * height);
        self.rows(view, line, |i, row| {
            let at = (y + i) * width + x..(y + i) * width + x + covered;
            let planes = red[at.clone()].iter_mut().zip(&mut green[at.clone()]).zip(&mut blue[at]);
            for (((r, g), b), pixel) in planes.zip(row) {
                // A cubic overshoots beside edges. The levels end where those of a picture do.
                let pixel = if cubic { pixel.map(|level| level.clamp(0.0, 255.0)) } else { *pixel };
                *r = pixel[0] * gain[0] + bias[0];
                *g = pixel[1] * gain[1] + bias[1];
                *b = pixel[2] * gain[2] + bias[2];
            }
        });
    }

    /// Gray levels 0..255 (not rounded) of the covered area only: `out` is `area().height` × `area().width`.
    ///
    /// # Panics
    /// If `view` or `out` is of another size than the plan.
    pub fn gray(&self, view: RgbView<'_>, line: &mut ResizeScratch, out: &mut [f32]) {
        let covered = self.area.width;
        assert_eq!(out.len(), covered * self.area.height, "gray covers the plan's area");
        self.rows(view, line, |i, row| {
            for (o, pixel) in out[i * covered..(i + 1) * covered].iter_mut().zip(row) {
                *o = pixel[0] * LUMA[0] + pixel[1] * LUMA[1] + pixel[2] * LUMA[2];
            }
        });
    }

    /// Passes every resized row of the area to `sink` in order, as levels 0..255.
    fn rows(&self, view: RgbView<'_>, line: &mut ResizeScratch, mut sink: impl FnMut(usize, &[[f32; 3]])) {
        assert_eq!((view.width, view.height), self.source, "the plan was made for another picture size");
        assert_eq!(view.data.len(), view.width * view.height * 3, "a frame is packed RGB8");
        // Rows first: their sums are contiguous in memory, and the strided horizontal step then visits each row once.
        let stride = 3 * self.source.0;
        line.mixed.resize(stride + 1, 0.0);
        line.row.resize(self.area.width, [0.0; 3]);
        for i in 0..self.area.height {
            self.vertical.mix_rows(i, view.data, &mut line.mixed[..stride]);
            self.horizontal.mix_rgb_line(&line.mixed, &mut line.row);
            sink(i, &line.row);
        }
    }
}

/// Gain and bias per channel that normalise levels 0..255.
pub(in crate::features) fn normal(params: &PictureParams) -> ([f32; 3], [f32; 3]) {
    (params.std.map(|std| 1.0 / (255.0 * std)), std::array::from_fn(|c| -params.mean[c] / params.std[c]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(width: usize, height: usize, fit: Fit) -> PictureParams {
        PictureParams { width, height, fit, filter: Filter::Bilinear, mean: [0.5, 0.25, 0.0], std: [0.5, 0.25, 1.0] }
    }

    fn picture(data: &[u8], size: (usize, usize), params: &PictureParams) -> Vec<f32> {
        let mut out = vec![f32::NAN; 3 * params.width * params.height];
        let plan = ResizePlan::new(size, (params.width, params.height), params.fit);
        plan.picture(RgbView { data, width: size.0, height: size.1 }, params, &mut ResizeScratch::default(), &mut out);
        out
    }

    #[test]
    fn pad_centres_and_rounds() {
        let area_of = |w, h| Area::of((w, h), (224, 224), Fit::Pad);
        assert_eq!(area_of(640, 360), Area { x: 0, y: 49, width: 224, height: 126 });
        assert_eq!(area_of(360, 640), Area { x: 49, y: 0, width: 126, height: 224 });
        assert_eq!(area_of(4096, 1), Area { x: 0, y: 111, width: 224, height: 1 });
        assert_eq!(area_of(1, 1), Area { x: 0, y: 0, width: 224, height: 224 });
        assert_eq!(area_of(7, 5), Area { x: 0, y: 32, width: 224, height: 160 });
    }

    #[test]
    fn padding_is_zero_and_the_area_is_normalised() {
        let data = [255, 255, 255, 255, 255, 255]; // 2 x 1, white
        let p = params(4, 4, Fit::Pad);
        let out = picture(&data, (2, 1), &p);
        for (c, white) in [1.0, 3.0, 1.0].into_iter().enumerate() {
            for y in 0..4 {
                for x in 0..4 {
                    let want = if (1..3).contains(&y) { white } else { 0.0 };
                    assert!((out[(c * 4 + y) * 4 + x] - want).abs() < 1e-6, "channel {c} at {x},{y}");
                }
            }
        }
    }

    #[test]
    fn crop_shows_the_centre() {
        // Four columns of 2 pixels: the outer two are removed when a 4 x 2 picture fills a square.
        let columns = [10u8, 100, 200, 250];
        let data: Vec<u8> = (0..2).flat_map(|_| columns.iter().flat_map(|&v| [v, v, v])).collect();
        let p = PictureParams { mean: [0.0; 3], std: [1.0; 3], ..params(2, 2, Fit::Crop) };
        let out = picture(&data, (4, 2), &p);
        for (i, v) in out.iter().enumerate() {
            let want = [100.0, 200.0][i % 2] / 255.0;
            assert!((v - want).abs() < 1e-6, "{i}: {v}");
        }
    }

    #[test]
    fn stretch_keeps_channels_apart() {
        let data = [0, 128, 255]; // one pixel
        let p = PictureParams { mean: [0.0; 3], std: [1.0 / 255.0; 3], ..params(3, 5, Fit::Stretch) };
        let out = picture(&data, (1, 1), &p);
        for (c, want) in [0.0, 128.0, 255.0].into_iter().enumerate() {
            assert!(out[c * 15..(c + 1) * 15].iter().all(|v| (v - want).abs() < 1e-3));
        }
    }

    #[test]
    fn gray_has_luma_weights() {
        let data = [255, 0, 0, 0, 255, 0, 0, 0, 255];
        let plan = ResizePlan::new((3, 1), (3, 1), Fit::Stretch);
        let mut out = [0.0; 3];
        plan.gray(RgbView { data: &data, width: 3, height: 1 }, &mut ResizeScratch::default(), &mut out);
        assert!(out.iter().zip([76.245, 149.685, 29.07]).all(|(a, b)| (a - b).abs() < 1e-3), "{out:?}");
    }

    #[test]
    fn odd_and_extreme_sizes_stay_within_the_levels() {
        let mut line = ResizeScratch::default();
        for source in [(1, 1), (1, 300), (300, 1), (2, 3), (17, 31), (223, 127)] {
            let data: Vec<u8> = (0..source.0 * source.1 * 3).map(|i| (i * 97 % 251) as u8).collect();
            let view = RgbView { data: &data, width: source.0, height: source.1 };
            for target in [(1, 1), (5, 1), (1, 9), (33, 21)] {
                for fit in [Fit::Pad, Fit::Crop, Fit::Stretch] {
                    let plan = ResizePlan::new(source, target, fit);
                    let area = plan.area();
                    assert!(area.x + area.width <= target.0 && area.y + area.height <= target.1);
                    let mut gray = vec![f32::NAN; area.width * area.height];
                    plan.gray(view, &mut line, &mut gray);
                    assert!(gray.iter().all(|v| (-0.01..=251.0).contains(v)), "{source:?} {target:?} {fit:?}");
                }
            }
        }
    }
}
