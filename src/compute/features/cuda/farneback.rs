//! Dense optical flow by polynomial expansion, for many pairs of one size: [`Farneback`] on a GPU.
//!
//! Each pyramid level has one launch to shrink the pictures, one to expand them, one to enlarge the flow of the coarser level,
//! and one per iteration. The number of pairs does not change the number of launches.
//!
//! [`Farneback`]: crate::features::cpu::farneback::Farneback

use super::pictures::AXIS_THREADS;
use super::tables::AxisTable;
use crate::features::cpu::farneback::{AveragingWindow, DualBasis, PyramidLevel, pyramid};
use crate::features::params::FarnebackParams;
use crate::gpu::GpuError;
use crate::gpu::launch::{Argument, GRID_SIDE, GrowingBuffer, Launcher, Pointer, SHARED_BYTES, Shape, table};

/// Columns and rows of a level that a block expands; must equal the constants in `expansion.cu`.
const EXPAND_COLUMNS: usize = 32;
const EXPAND_ROWS: usize = 8;

/// Coefficients of a pixel's polynomial, and terms of its equations.
const TERMS: usize = 5;

/// The most rows of a block. Each block first computes as many rows as its window is high, so small blocks repeat much work;
/// large blocks leave the device idle when there are few pairs.
const BAND_ROWS: usize = 56;

/// Columns of a block of an iteration, if its ring then fits shared memory.
const COLUMNS: usize = 128;

/// Dense flow between pictures of one size, with its tables.
pub struct DeviceFarneback<L: Launcher> {
    width: usize,
    height: usize,
    params: FarnebackParams,
    levels: Vec<DeviceLevel<L>>,
    /// Weights of the expansion, and its dual basis.
    weights: L::Memory,
    dual: L::Memory,
    window: DeviceWindow<L>,
}

struct DeviceLevel<L: Launcher> {
    width: usize,
    height: usize,
    horizontal: AxisTable<L>,
    vertical: AxisTable<L>,
    enlarge: Option<(AxisTable<L>, AxisTable<L>)>,
}

struct DeviceWindow<L: Launcher> {
    reach: usize,
    /// Weights of a Gaussian window.
    weights: Option<L::Memory>,
    scale: f64,
}

/// How an iteration is divided into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockShape {
    columns: usize,
    band: usize,
    ringed: bool,
    shared: usize,
}

impl BlockShape {
    fn of(width: usize, height: usize, reach: usize) -> Self {
        let band = height.div_ceil(height.div_ceil(BAND_ROWS));
        let needed = (width + 2 * reach).next_multiple_of(32);
        let least = (2 * reach + 32).next_multiple_of(32);
        let sums = |columns: usize| TERMS * size_of::<f64>() * columns;
        let ring = |columns: usize| TERMS * size_of::<f32>() * (2 * reach + 2) * columns;
        // As many columns as fit, since every block repeats 2 · reach columns of its neighbours.
        let ringed = (least..=COLUMNS.max(least)).rev().step_by(32).find(|c| sums(*c) + ring(*c) <= SHARED_BYTES);
        match ringed {
            Some(columns) => {
                let columns = columns.min(needed.max(least));
                Self { columns, band, ringed: true, shared: sums(columns) + ring(columns) }
            }
            None => {
                let columns = (least + 64).min(needed.max(least));
                Self { columns, band, ringed: false, shared: sums(columns) }
            }
        }
    }
}

impl<L: Launcher> DeviceFarneback<L> {
    /// Makes tables for pictures of `width` × `height` (any size from 1 × 1).
    ///
    /// # Errors
    /// [`GpuError::Refused`] as [`Farneback::new`]; or the device's error.
    ///
    /// [`Farneback::new`]: crate::features::cpu::farneback::Farneback::new
    pub fn new(launcher: &mut L, width: usize, height: usize, params: FarnebackParams) -> Result<Self, GpuError> {
        if width == 0 || height == 0 {
            return Err(GpuError::Refused(format!("flow of {width}x{height} pixels: both sides must be at least 1")));
        }
        params.validate().map_err(GpuError::Refused)?;
        let levels = pyramid(width, height, &params)
            .iter()
            .map(|level| DeviceLevel::new(launcher, level))
            .collect::<Result<_, GpuError>>()?;
        let (weights, dual) = DualBasis::new(params.poly_n, params.poly_sigma).tables();
        let window = AveragingWindow::new(params.winsize, params.gaussian);
        let (reach, gaussian, scale) = window.tables();
        let window = DeviceWindow { reach, weights: gaussian.map(|w| table(launcher, w)).transpose()?, scale };
        let (weights, dual) = (table(launcher, &weights)?, table(launcher, &dual)?);
        Ok(Self { width, height, params, levels, weights, dual, window })
    }

    /// Width and height, pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Flow of `count` pairs, pair × (dx, dy) × height × width f32, pixels. `gray` holds `pictures` pictures of gray levels
    /// 0..255, picture × height × width f32, and `pairs`, two i32 a pair, which of them is a pair's first and which its
    /// second. The result is in `scratch` until its next use.
    ///
    /// # Errors
    /// The device's error; [`GpuError::Refused`] for more pairs or pictures than the grid of a launch allows.
    pub fn flow(
        &self,
        launcher: &mut L,
        (gray, pictures): (Pointer, usize),
        (pairs, count): (Pointer, usize),
        scratch: &mut GrowingBuffer<L::Memory>,
    ) -> Result<Pointer, GpuError> {
        if pictures > GRID_SIDE || 2 * count > GRID_SIDE {
            return Err(GpuError::Refused(format!(
                "flow of {count} pairs in one batch; at most {} are possible",
                GRID_SIDE / 2
            )));
        }
        let pixels = self.width * self.height;
        // Levels are computed one after the other in the same memory, sized for the finest.
        let small_bytes = pictures * pixels * size_of::<f32>();
        let flow_bytes = count * 2 * pixels * size_of::<f32>();
        let small = scratch.take(launcher, (1 + TERMS) * small_bytes + 2 * flow_bytes)?;
        let polynomials = small.plus(small_bytes);
        let mut flow = polynomials.plus(TERMS * small_bytes);
        let mut before = flow.plus(flow_bytes);
        for (i, level) in self.levels.iter().enumerate().rev() {
            self.expand(launcher, level, (gray, pictures), small, polynomials)?;
            let mut started = false;
            if let (Some((horizontal, vertical)), Some(coarse)) = (&level.enlarge, self.levels.get(i + 1)) {
                std::mem::swap(&mut flow, &mut before);
                let mut arguments: Vec<Argument> = vec![before.into(), coarse.width.into(), coarse.height.into()];
                arguments.extend(horizontal.arguments(launcher));
                arguments.extend(vertical.arguments(launcher));
                arguments.push(((1.0 / self.params.pyr_scale) as f32).into());
                arguments.extend([flow.into(), level.width.into(), level.height.into()] as [Argument; 3]);
                let shape = Shape::new([level.width.div_ceil(128), level.height, 2 * count], 128);
                launcher.launch("farneback_enlarge", shape, &arguments)?;
                started = true;
            }
            let blocks = BlockShape::of(level.width, level.height, self.window.reach);
            let weights = self.window.weights.as_ref().map_or(Argument::Null, |w| launcher.pointer(w).into());
            let inner = blocks.columns - 2 * self.window.reach;
            let grid = [level.width.div_ceil(inner), level.height.div_ceil(blocks.band), count];
            let shape = Shape::new(grid, blocks.columns).with_shared(blocks.shared);
            for _ in 0..self.params.iterations {
                std::mem::swap(&mut flow, &mut before);
                let arguments = [
                    polynomials.into(),
                    pairs.into(),
                    // The initial flow is 0 and is not read.
                    if started { before.into() } else { Argument::Null },
                    flow.into(),
                    level.width.into(),
                    level.height.into(),
                    self.window.reach.into(),
                    blocks.band.into(),
                    weights,
                    self.window.scale.into(),
                    usize::from(blocks.ringed).into(),
                ];
                launcher.launch("farneback_iterate", shape, &arguments)?;
                started = true;
            }
        }
        Ok(flow)
    }

    fn expand(
        &self,
        launcher: &mut L,
        level: &DeviceLevel<L>,
        (gray, pictures): (Pointer, usize),
        small: Pointer,
        polynomials: Pointer,
    ) -> Result<(), GpuError> {
        let mut arguments: Vec<Argument> = vec![gray.into(), self.width.into(), self.height.into()];
        arguments.extend(level.horizontal.arguments(launcher));
        arguments.extend(level.vertical.arguments(launcher));
        arguments.extend([small.into(), level.width.into(), level.height.into()] as [Argument; 3]);
        let shape = Shape::new([level.width.div_ceil(AXIS_THREADS), level.height, pictures], AXIS_THREADS);
        launcher.launch("farneback_shrink", shape, &arguments)?;
        let arguments = [
            small.into(),
            level.width.into(),
            level.height.into(),
            launcher.pointer(&self.weights).into(),
            launcher.pointer(&self.dual).into(),
            polynomials.into(),
        ];
        let grid = [level.width.div_ceil(EXPAND_COLUMNS), level.height.div_ceil(EXPAND_ROWS), pictures];
        let shape = Shape { block: [EXPAND_COLUMNS as u32, EXPAND_ROWS as u32, 1], ..Shape::new(grid, 1) };
        let kernel = if self.params.poly_n == 5 { "farneback_expand_5" } else { "farneback_expand_7" };
        launcher.launch(kernel, shape, &arguments)
    }
}

impl<L: Launcher> DeviceLevel<L> {
    fn new(launcher: &mut L, level: &PyramidLevel) -> Result<Self, GpuError> {
        let mut enlarge = None;
        if let Some((horizontal, vertical)) = &level.enlarge {
            enlarge = Some((AxisTable::new(launcher, horizontal)?, AxisTable::new(launcher, vertical)?));
        }
        Ok(Self {
            width: level.width,
            height: level.height,
            horizontal: AxisTable::new(launcher, &level.horizontal)?,
            vertical: AxisTable::new(launcher, &level.vertical)?,
            enlarge,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_every_window_size() {
        for reach in 0..=127 {
            for (width, height) in [(1, 1), (33, 57), (224, 224), (640, 360), (8192, 3)] {
                let blocks = BlockShape::of(width, height, reach);
                assert!(blocks.columns > 2 * reach && blocks.columns <= 1024 && blocks.columns.is_multiple_of(32));
                assert!(blocks.shared <= SHARED_BYTES && (1..=BAND_ROWS).contains(&blocks.band), "{blocks:?}");
            }
        }
        let usual = BlockShape::of(224, 224, 7);
        assert_eq!(usual, BlockShape { columns: 128, band: 56, ringed: true, shared: 128 * (40 + 320) });
        assert!(BlockShape::of(224, 224, 15).ringed && !BlockShape::of(224, 224, 40).ringed);
    }
}
