//! Dense optical flow by polynomial expansion.
//!
//! Gunnar Farnebäck, "Two-Frame Motion Estimation Based on Polynomial Expansion" (SCIA 2003), with the parameters and
//! the numerical conventions of OpenCV's `calcOpticalFlowFarneback`, so that either can replace the other.
//! The picture is approximated around every pixel by a quadratic polynomial (`expansion`). A shift of the picture changes the
//! linear terms, from which the flow is solved by least squares over a window (`update`). Large motion is found first on
//! smaller versions of the pictures.
//!
//! Pictures are f32 gray levels 0..255, row-major. Work is split by rules that depend only on the picture's
//! size, so results are the same bit for bit for any number of threads.

mod expansion;
mod update;

use super::axis::Axis;
use crate::features::params::FarnebackParams;
pub(in crate::features) use expansion::DualBasis;
use expansion::{ExpandScratch, Polynomial};
pub(in crate::features) use update::AveragingWindow;
use update::UpdateScratch;

/// No pyramid level is smaller than this on either side, pixels.
const MIN_LEVEL_SIDE: f64 = 32.0;

/// Levels with at least this many pixels are split among threads by rows.
const PARALLEL_PIXELS: usize = 1 << 16;

/// The fewest rows of a task of a split level.
const BAND_ROWS: usize = 90;

/// One resolution of the pyramid.
#[derive(Debug)]
pub(in crate::features) struct PyramidLevel {
    pub width: usize,
    pub height: usize,
    /// Blur and shrink from the full picture.
    pub horizontal: Axis,
    pub vertical: Axis,
    /// Enlarges the flow of the next coarser level to this one, horizontally and vertically; `None` at the coarsest.
    pub enlarge: Option<(Axis, Axis)>,
}

/// The polynomial expansion of one picture at every pyramid level: all that flow needs. Made by
/// [`Farneback::expansion`]; a picture in two pairs needs to be expanded only once.
#[derive(Debug)]
pub struct Expansion {
    /// Finest first, as `Farneback::levels`.
    levels: Vec<Vec<Polynomial>>,
    scratch: ExpandScratch,
}

/// Dense flow between pictures of one size, with all memory it needs.
#[derive(Debug)]
pub struct Farneback {
    width: usize,
    height: usize,
    params: FarnebackParams,
    /// Finest first.
    levels: Vec<PyramidLevel>,
    basis: DualBasis,
    window: AveragingWindow,
    previous: Option<Box<(Expansion, Expansion)>>,
    /// Flow of the current level (dx, dy), and of the previous iteration or level.
    flow: [Vec<f32>; 2],
    before: [Vec<f32>; 2],
    scratch: UpdateScratch,
    line: Vec<f32>,
}

impl Farneback {
    /// Allocates tables and memory for `width` × `height` pictures (any size from 1 × 1).
    ///
    /// # Errors
    /// One line saying which parameter is wrong and what is allowed, if a side is 0 or
    /// [`FarnebackParams::validate`] refuses.
    pub fn new(width: usize, height: usize, params: FarnebackParams) -> Result<Self, String> {
        if width == 0 || height == 0 {
            return Err(format!("flow of {width}x{height} pixels: both sides must be at least 1"));
        }
        params.validate()?;
        let levels = pyramid(width, height, &params);
        let pixels = width * height;
        Ok(Self {
            width,
            height,
            params,
            basis: DualBasis::new(params.poly_n, params.poly_sigma),
            window: AveragingWindow::new(params.winsize, params.gaussian),
            previous: None,
            flow: [vec![0.0; pixels], vec![0.0; pixels]],
            before: [vec![0.0; pixels], vec![0.0; pixels]],
            scratch: UpdateScratch::default(),
            line: vec![0.0; width],
            levels,
        })
    }

    /// Width, pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height, pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &FarnebackParams {
        &self.params
    }

    /// Pyramid levels in use, the full picture included. Small pictures have fewer than asked for.
    pub fn levels(&self) -> usize {
        self.levels.len()
    }

    /// Flow from `previous` to `next`: the point (x, y) of `previous` is at (x + dx, y + dy) in `next`.
    ///
    /// `previous` and `next` are `height` × `width` gray levels 0..255; `dx` and `dy`, of the same shape, are
    /// overwritten, in pixels. The flow is finite even where a picture is not, but then meaningless.
    ///
    /// # Panics
    /// If a slice is not `width * height` long.
    pub fn flow(&mut self, previous: &[f32], next: &[f32], dx: &mut [f32], dy: &mut [f32]) {
        let mut pair = self.previous.take().unwrap_or_else(|| Box::new((self.expansion(), self.expansion())));
        let (first, second) = &mut *pair;
        rayon::join(|| self.expand(previous, first), || self.expand(next, second));
        self.flow_between(first, second, dx, dy);
        self.previous = Some(pair);
    }

    /// Empty memory for [`Farneback::expand`].
    pub fn expansion(&self) -> Expansion {
        let levels = self.levels.iter().map(|l| vec![Polynomial::default(); l.width * l.height]).collect();
        Expansion { levels, scratch: ExpandScratch::default() }
    }

    /// Expands `picture` (`height` × `width` gray levels 0..255) into `into`, which must come from
    /// [`Farneback::expansion`] of the same size and parameters.
    ///
    /// # Panics
    /// If `picture` or `into` is of another size.
    pub fn expand(&self, picture: &[f32], into: &mut Expansion) {
        assert_eq!(picture.len(), self.width * self.height, "the picture is width x height");
        self.assert_fits(into);
        for (level, polynomials) in self.levels.iter().zip(&mut into.levels) {
            expansion::expand(level, &self.basis, picture, polynomials, &mut into.scratch);
        }
    }

    /// [`Farneback::flow`] of two pictures that have been expanded.
    ///
    /// # Panics
    /// If an expansion was made for another size or `dx` or `dy` is not `width * height` long.
    pub fn flow_between(&mut self, previous: &Expansion, next: &Expansion, dx: &mut [f32], dy: &mut [f32]) {
        let pixels = self.width * self.height;
        assert!(dx.len() == pixels && dy.len() == pixels, "flow is width x height");
        self.assert_fits(previous);
        self.assert_fits(next);
        for (i, level) in self.levels.iter().enumerate().rev() {
            let pixels = level.width * level.height;
            match (&level.enlarge, self.levels.get(i + 1)) {
                (Some(axes), Some(coarse)) => {
                    std::mem::swap(&mut self.flow, &mut self.before);
                    let gain = (1.0 / self.params.pyr_scale) as f32;
                    for (from, to) in self.before.iter().zip(&mut self.flow) {
                        let from = &from[..coarse.width * coarse.height];
                        enlarge(axes, gain, from, &mut to[..pixels], &mut self.line[..coarse.width]);
                    }
                }
                _ => self.flow.iter_mut().for_each(|plane| plane[..pixels].fill(0.0)),
            }
            for _ in 0..self.params.iterations {
                std::mem::swap(&mut self.flow, &mut self.before);
                let [old_x, old_y] = &self.before;
                let [new_x, new_y] = &mut self.flow;
                update::iterate(
                    &update::FlowInputs {
                        width: level.width,
                        height: level.height,
                        first: &previous.levels[i],
                        second: &next.levels[i],
                        dx: &old_x[..pixels],
                        dy: &old_y[..pixels],
                    },
                    &self.window,
                    &mut self.scratch,
                    &mut new_x[..pixels],
                    &mut new_y[..pixels],
                );
            }
        }
        dx.copy_from_slice(&self.flow[0]);
        dy.copy_from_slice(&self.flow[1]);
    }

    fn assert_fits(&self, expansion: &Expansion) {
        let fits = expansion.levels.len() == self.levels.len()
            && expansion.levels.iter().zip(&self.levels).all(|(e, l)| e.len() == l.width * l.height);
        assert!(fits, "the expansion was made for another size");
    }
}

/// The levels of a picture, finest first, by OpenCV's rules: `levels` smaller versions at most beside the full
/// picture, sides rounded to even at .5, and a blur of the full picture whose width follows from the scale.
pub(in crate::features) fn pyramid(width: usize, height: usize, params: &FarnebackParams) -> Vec<PyramidLevel> {
    let mut scales = vec![1.0];
    let mut scale = 1.0;
    for _ in 0..params.levels {
        scale *= params.pyr_scale;
        if width as f64 * scale < MIN_LEVEL_SIDE || height as f64 * scale < MIN_LEVEL_SIDE {
            break;
        }
        scales.push(scale);
    }
    let side = |full: usize, scale: f64| ((full as f64 * scale).round_ties_even() as usize).max(1);
    let sizes: Vec<(usize, usize)> = scales.iter().map(|&s| (side(width, s), side(height, s))).collect();
    let coarser = sizes.iter().skip(1).map(Some).chain([None]);
    let levels = scales.iter().zip(&sizes).zip(coarser);
    levels
        .map(|((&scale, &(w, h)), coarser)| {
            let kernel = blur_kernel(scale);
            PyramidLevel {
                width: w,
                height: h,
                horizontal: Axis::blurred_bilinear(width, w, &kernel),
                vertical: Axis::blurred_bilinear(height, h, &kernel),
                enlarge: coarser.map(|&(cw, ch)| (Axis::bilinear(cw, w), Axis::bilinear(ch, h))),
            }
        })
        .collect()
}

/// The Gaussian blur before shrinking by `scale`. The full picture is smoothed too, with a binomial kernel.
fn blur_kernel(scale: f64) -> Vec<f64> {
    let sigma = (1.0 / scale - 1.0) * 0.5;
    if sigma <= 0.0 {
        return vec![0.25, 0.5, 0.25];
    }
    let length = ((sigma * 5.0).round_ties_even() as usize | 1).max(3);
    let middle = (length / 2) as f64;
    let kernel: Vec<f64> = (0..length).map(|i| (-(i as f64 - middle).powi(2) / (2.0 * sigma * sigma)).exp()).collect();
    let sum: f64 = kernel.iter().sum();
    kernel.into_iter().map(|k| k / sum).collect()
}

/// Resizes one flow plane and multiplies it by `gain`. `line` is scratch of one coarse row.
fn enlarge(axes: &(Axis, Axis), gain: f32, from: &[f32], to: &mut [f32], line: &mut [f32]) {
    let (horizontal, vertical) = axes;
    for (y, row) in to.chunks_exact_mut(horizontal.target()).enumerate() {
        vertical.mix_rows(y, from, line);
        line.iter_mut().for_each(|v| *v *= gain);
        horizontal.mix_line(line, row);
    }
}

/// Rows of a level that one task works on: all of them, unless the level is large enough to be worth splitting.
/// Depends on the size only, so that results do not depend on the number of threads.
fn band_rows(width: usize, height: usize) -> usize {
    if width * height < PARALLEL_PIXELS { height } else { height.div_ceil((height / BAND_ROWS).max(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texture(width: usize, height: usize, shift: (f64, f64)) -> Vec<f32> {
        // Wavelengths from 10 to 70 pixels. A shift of half the shortest would be ambiguous if it were alone.
        let waves = [(0.31, 0.12, 0.4), (-0.17, 0.27, 1.9), (0.05, -0.13, 2.7), (0.53, 0.36, 0.1), (0.08, 0.06, 1.0)];
        let at = |x: f64, y: f64| waves.iter().map(|(a, b, c)| (a * x + b * y + c).sin()).sum::<f64>() * 25.0 + 128.0;
        (0..width * height).map(|i| at((i % width) as f64 - shift.0, (i / width) as f64 - shift.1) as f32).collect()
    }

    fn flow(width: usize, height: usize, shift: (f64, f64), params: FarnebackParams) -> (Vec<f32>, Vec<f32>) {
        let mut out = (vec![0.0; width * height], vec![0.0; width * height]);
        let (a, b) = (texture(width, height, (0.0, 0.0)), texture(width, height, shift));
        Farneback::new(width, height, params).unwrap().flow(&a, &b, &mut out.0, &mut out.1);
        out
    }

    fn inner_error(width: usize, height: usize, flow: &(Vec<f32>, Vec<f32>), want: (f64, f64)) -> f64 {
        let border = 16;
        let mut sum = (0.0, 0usize);
        for y in border..height - border {
            for x in border..width - border {
                let i = y * width + x;
                sum.0 += (f64::from(flow.0[i]) - want.0).hypot(f64::from(flow.1[i]) - want.1);
                sum.1 += 1;
            }
        }
        sum.0 / sum.1 as f64
    }

    #[test]
    fn the_shift_of_a_texture_is_found() {
        for shift in [(0.0, 0.0), (1.3, -0.7), (-4.0, 2.5), (3.5, 4.0)] {
            for gaussian in [false, true] {
                let params = FarnebackParams { gaussian, ..Default::default() };
                let error = inner_error(121, 95, &flow(121, 95, shift, params), shift);
                assert!(error < 0.1, "shift {shift:?}, gaussian {gaussian}: off by {error} px");
            }
        }
    }

    #[test]
    fn levels_stop_before_32_pixels() {
        let levels = |w, h, levels| {
            let farneback = Farneback::new(w, h, FarnebackParams { levels, ..Default::default() }).unwrap();
            farneback.levels()
        };
        assert_eq!(levels(64, 64, 5), 2);
        assert_eq!(levels(63, 640, 5), 1);
        assert_eq!(levels(640, 360, 5), 4);
        assert_eq!(levels(640, 360, 1), 2);
        assert_eq!(levels(640, 360, 0), 1);
    }

    #[test]
    fn tiny_and_flat_pictures_have_zero_flow() {
        for (w, h) in [(1, 1), (1, 40), (40, 1), (2, 3), (9, 7), (70, 70)] {
            let picture = vec![77.0; w * h];
            for gaussian in [false, true] {
                for poly_n in [5, 7] {
                    let params = FarnebackParams { gaussian, poly_n, ..Default::default() };
                    let mut out = (vec![f32::NAN; w * h], vec![f32::NAN; w * h]);
                    let mut farneback = Farneback::new(w, h, params).unwrap();
                    farneback.flow(&picture, &picture, &mut out.0, &mut out.1);
                    assert!(out.0.iter().chain(&out.1).all(|v| v.abs() < 1e-3), "{w}x{h}");
                }
            }
        }
    }

    #[test]
    fn pictures_that_are_not_finite_give_finite_flow() {
        let (w, h) = (80, 50);
        let mut bad = texture(w, h, (0.0, 0.0));
        bad[w * 20 + 30] = f32::NAN;
        bad[w * 40 + 7] = f32::INFINITY;
        let mut out = (vec![0.0; w * h], vec![0.0; w * h]);
        let mut farneback = Farneback::new(w, h, FarnebackParams::default()).unwrap();
        farneback.flow(&bad, &texture(w, h, (1.0, 0.0)), &mut out.0, &mut out.1);
        assert!(out.0.iter().chain(&out.1).all(|v| v.is_finite()));
    }

    #[test]
    fn results_depend_neither_on_threads_nor_on_earlier_calls() {
        // Large enough that levels are split into bands.
        let (w, h) = (401, 293);
        let pictures = [texture(w, h, (0.0, 0.0)), texture(w, h, (2.0, 1.0)), texture(w, h, (-3.0, 0.5))];
        for gaussian in [false, true] {
            let params = FarnebackParams { gaussian, ..Default::default() };
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let mut farneback = Farneback::new(w, h, params).unwrap();
                    let mut out = (vec![0.0; w * h], vec![0.0; w * h]);
                    farneback.flow(&pictures[1], &pictures[2], &mut out.0, &mut out.1);
                    farneback.flow(&pictures[0], &pictures[1], &mut out.0, &mut out.1);
                    out
                })
            };
            let fresh = flow(w, h, (2.0, 1.0), params);
            assert!(run(1) == fresh && run(3) == fresh);
        }
    }

    #[test]
    fn an_expansion_can_be_used_twice() {
        let (w, h) = (75, 61);
        let mut farneback = Farneback::new(w, h, FarnebackParams::default()).unwrap();
        let pictures = [texture(w, h, (0.0, 0.0)), texture(w, h, (1.0, 1.0)), texture(w, h, (2.0, 1.5))];
        let expansions = pictures.each_ref().map(|picture| {
            let mut expansion = farneback.expansion();
            farneback.expand(picture, &mut expansion);
            expansion
        });
        for i in 0..2 {
            let (mut once, mut again) = ([vec![0.0; w * h], vec![0.0; w * h]], [vec![0.0; w * h], vec![0.0; w * h]]);
            let [dx, dy] = &mut once;
            farneback.flow_between(&expansions[i], &expansions[i + 1], dx, dy);
            let [dx, dy] = &mut again;
            farneback.flow(&pictures[i], &pictures[i + 1], dx, dy);
            assert_eq!(once, again);
        }
    }
}
