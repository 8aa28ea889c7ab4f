//! The execution plan of a graph for one picture size: where values are stored, and how steps are cut into tasks.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, bail};

use super::cost::LayerCost;
use super::graph::{CacheLine, Graph, INPUT, Op, PackedConv, PackedDepthwise, Window};
use super::hybrid::{self, PackedGate};
use super::kernel::{LANES, Reduction};
use super::quantise::Quantisation;
use super::winograd::WinogradPlan;

/// The weights that a piece of a sum reads for one group of blocks, bytes: they should stay in the second-level cache for all
/// pixels of a task.
const PIECE: usize = 160 << 10;

/// The input that a task reads for every group of blocks, bytes: it should stay in the second-level cache too.
const INPUT_SHARE: usize = 256 << 10;

/// Tasks per thread, if a step can be cut that far: enough that the wait for the last thread is short.
const TASKS_PER_THREAD: usize = 3;

/// A value in memory: blocks of 16 channels, each a plane with a border. The network's input is planes of single words.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValueLayout {
    pub blocks: usize,
    pub h: usize,
    pub w: usize,
    pub padding: usize,
    /// Words of 4 bytes of a pixel: 16, 8 of bf16, 4 of bytes, or 1 of the input.
    pub pixel: usize,
    /// Whether it is stored after GELU.
    pub gelu: bool,
    /// Number of the value.
    pub number: usize,
    /// First line in its part of the workspace.
    pub offset: usize,
    /// Whether it is in the part of the workspace that exists once per picture of a batch.
    pub kept: bool,
}

impl ValueLayout {
    /// Words per row.
    pub fn row(&self) -> usize {
        (self.w + 2 * self.padding) * self.pixel
    }

    /// Words per block.
    pub fn plane(&self) -> usize {
        (self.h + 2 * self.padding) * self.row()
    }

    /// Lines of the whole value, and one more: depthwise kernels of bytes read four pixels at a time.
    pub fn lines(&self) -> usize {
        (self.blocks * self.plane()).div_ceil(LANES) + 1
    }

    /// Offset of a pixel of block 0, words; `padding` pixels of the border come before it.
    pub fn at(&self, y: usize, x: usize, padding: usize) -> usize {
        (y + self.padding - padding) * self.row() + (x + self.padding - padding) * self.pixel
    }
}

/// Plan of a convolution. Its rows are those of the picture, or arbitrary pieces where rows do not matter.
#[derive(Clone, Debug)]
pub(super) struct ConvPlan {
    pub layer: Arc<PackedConv>,
    pub reduction: Reduction,
    /// Offset of the first tap of the first pixel, and words between the inputs of two rows.
    pub x_origin: usize,
    pub x_row: usize,
    pub y_origin: usize,
    pub y_row: usize,
    pub residual_origin: usize,
    pub residual_row: usize,
    pub rows: usize,
    /// Pixels of a row and of the last row.
    pub row_pixels: usize,
    pub last_row_pixels: usize,
    /// Blocks that are computed together.
    pub group: usize,
    /// Whether a task computes all pictures of a batch, so that it reads its weights once.
    pub together: bool,
    /// Pieces of the sum, in segments.
    pub pieces: Vec<(usize, usize)>,
    pub split: Split,
}

/// How a step is cut into tasks: rows × blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    pub rows: usize,
    pub rows_each: usize,
    pub blocks: usize,
    pub blocks_each: usize,
}

impl Split {
    pub fn tasks(&self) -> usize {
        self.rows.div_ceil(self.rows_each) * self.blocks.div_ceil(self.blocks_each)
    }

    /// The tasks of a thread's share.
    pub fn share(tasks: usize, thread: usize, threads: usize) -> Range<usize> {
        thread * tasks / threads..(thread + 1) * tasks / threads
    }

    /// Rows and blocks of a task. Tasks of the same rows are consecutive.
    pub fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let across = self.blocks.div_ceil(self.blocks_each);
        let (row, block) = (task / across * self.rows_each, task % across * self.blocks_each);
        (row..(row + self.rows_each).min(self.rows), block..(block + self.blocks_each).min(self.blocks))
    }
}

#[derive(Clone, Debug)]
pub(super) enum StepKind {
    /// Copies the input to planes with a border.
    Planes {
        split: Split,
    },
    Conv(Box<ConvPlan>),
    Winograd(Box<WinogradPlan>),
    Depthwise {
        layer: Arc<PackedDepthwise>,
        split: Split,
    },
    MaxPool {
        window: Window,
        split: Split,
    },
    ScaleShift {
        scale: Arc<Vec<CacheLine>>,
        shift: Arc<Vec<CacheLine>>,
        bounds: (f32, f32),
        split: Split,
    },
    Gate(Arc<PackedGate>),
    Scale {
        gate: usize,
        split: Split,
    },
    ChannelNorm {
        epsilon: f32,
    },
    /// A task is a head.
    Attention,
    Average,
    WholePicture,
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub x: usize,
    pub y: usize,
    pub residual: Option<usize>,
    pub work: StepKind,
    pub tasks: usize,
    /// The next step that is a plain convolution, or the number of steps.
    pub next: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub values: Vec<ValueLayout>,
    /// Quantisation of the values, by channel.
    pub bytes: Vec<Arc<[Quantisation]>>,
    /// Border pixels, block by block, of values whose zero points are not all the byte 0; else empty.
    pub fills: Vec<Vec<f32>>,
    pub steps: Vec<Step>,
    /// Channels of the input.
    pub channels: usize,
    /// Number of first steps that process pictures one by one: their values are larger than their weights, and stay in the
    /// caches only if other pictures do not come between. Later steps, with large weights, process a batch at once.
    pub front: usize,
    /// Lines of the workspace for values of those first steps, and for the values of each picture.
    pub front_lines: usize,
    pub lines: usize,
    /// Lines of scratch that a thread needs per picture, and for steps that process pictures one by one.
    pub scratch: usize,
    pub scratch_alone: usize,
    /// Shape of the output for one picture: (channels) or (channels, h, w). Empty if the graph has no output.
    pub output: Vec<usize>,
}

impl Plan {
    /// Values in the output for one picture.
    pub fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    /// # Errors
    /// When no window fits on a picture of this size.
    pub fn new(graph: &Graph, (h, w): (usize, usize), threads: usize) -> Result<Self> {
        let wide = graph.level.is_wide(graph.precision);
        let mut values: Vec<ValueLayout> = graph
            .channels
            .iter()
            .zip(graph.padding.iter().zip(&graph.gelu))
            .enumerate()
            .map(|(i, (&channels, (&padding, &gelu)))| {
                let per_word = graph.precision.per_word();
                let (blocks, pixel) = match i {
                    INPUT => (channels.div_ceil(per_word), 1),
                    _ => (channels.div_ceil(LANES), LANES / per_word),
                };
                ValueLayout { blocks, h, w, padding, pixel, gelu, number: i, offset: 0, kept: false }
            })
            .collect();
        let mut plan = Plan {
            values: Vec::new(),
            bytes: graph.bytes.clone(),
            fills: values.iter().zip(&graph.bytes).map(|(picture, bytes)| fill(picture, bytes)).collect(),
            steps: Vec::new(),
            channels: graph.channels[INPUT],
            front: 0,
            front_lines: 0,
            lines: 0,
            scratch: 0,
            scratch_alone: 0,
            output: Vec::new(),
        };
        let split = planes(&values[INPUT], threads);
        plan.steps.push(Step::new(INPUT, INPUT, StepKind::Planes { split }, split.tasks()));
        for op in &graph.ops {
            let step = match op {
                Op::Conv { x, residual, y, layer } => {
                    (values[*y].h, values[*y].w) = layer.window.outputs("convolution", (values[*x].h, values[*x].w))?;
                    let beside = residual.map(|residual| values[residual]);
                    if let Some(r) = beside {
                        let y = values[*y];
                        if (r.h, r.w) != (y.h, y.w) {
                            bail!("convolution: a residual of {}x{} does not fit {}x{}", r.h, r.w, y.h, y.w);
                        }
                    }
                    let plain = values[*y].gelu || beside.is_some_and(|r| r.padding > 0);
                    let tiled = WinogradPlan::new(layer, &values[*x], &values[*y], threads, wide);
                    if let Some(tiled) = tiled.filter(|_| !plain) {
                        plan.scratch_alone = plan.scratch_alone.max(tiled.scratch());
                        let tasks = tiled.split.tasks();
                        let work = StepKind::Winograd(Box::new(tiled));
                        plan.steps.push(Step { x: *x, y: *y, residual: *residual, work, tasks, next: 0 });
                        continue;
                    }
                    let conv = ConvPlan::new(layer, &values[*x], (&values[*y], beside.as_ref()), threads, wide);
                    if conv.pieces.len() > 1 {
                        let each = conv.split.rows_each * conv.row_pixels * conv.group;
                        plan.scratch = plan.scratch.max(each);
                    }
                    let tasks = conv.split.tasks();
                    Step { x: *x, y: *y, residual: *residual, work: StepKind::Conv(Box::new(conv)), tasks, next: 0 }
                }
                Op::Depthwise { x, y, layer } => {
                    (values[*y].h, values[*y].w) =
                        layer.window.outputs("depthwise convolution", (values[*x].h, values[*x].w))?;
                    let split = planes(&values[*y], threads);
                    let work = StepKind::Depthwise { layer: layer.clone(), split };
                    Step::new(*x, *y, work, split.tasks())
                }
                Op::MaxPool { x, y, window } => {
                    (values[*y].h, values[*y].w) = window.outputs("max pool", (values[*x].h, values[*x].w))?;
                    let split = planes(&values[*y], threads);
                    Step::new(*x, *y, StepKind::MaxPool { window: *window, split }, split.tasks())
                }
                Op::ScaleShift { x, y, scale, shift, bounds } => {
                    (values[*y].h, values[*y].w) = (values[*x].h, values[*x].w);
                    let split = planes(&values[*y], threads);
                    let work =
                        StepKind::ScaleShift { scale: scale.clone(), shift: shift.clone(), bounds: *bounds, split };
                    Step::new(*x, *y, work, split.tasks())
                }
                Op::Gate { x, y, layer } => {
                    without_border("squeeze and excite", &[values[*x]])?;
                    (values[*y].h, values[*y].w) = (1, 1);
                    plan.scratch_alone = plan.scratch_alone.max(layer.scratch().div_ceil(LANES));
                    Step::new(*x, *y, StepKind::Gate(layer.clone()), 1)
                }
                Op::Scale { x, gate, y } => {
                    (values[*y].h, values[*y].w) = (values[*x].h, values[*x].w);
                    let split = planes(&values[*y], threads);
                    let work = StepKind::Scale { gate: *gate, split };
                    Step { x: *x, y: *y, residual: Some(*gate), work, tasks: split.tasks(), next: 0 }
                }
                Op::ChannelNorm { x, y, epsilon } => {
                    without_border("norm over channels", &[values[*x], values[*y]])?;
                    (values[*y].h, values[*y].w) = (values[*x].h, values[*x].w);
                    Step::new(*x, *y, StepKind::ChannelNorm { epsilon: *epsilon }, 1)
                }
                Op::Attention { x, y, heads } => {
                    without_border("attention", &[values[*x], values[*y]])?;
                    (values[*y].h, values[*y].w) = (values[*x].h, values[*x].w);
                    let scratch = hybrid::attention_scratch(values[*y].blocks / heads, values[*y].h * values[*y].w);
                    plan.scratch_alone = plan.scratch_alone.max(scratch.div_ceil(LANES));
                    Step::new(*x, *y, StepKind::Attention, *heads)
                }
                Op::Average { x } => {
                    plan.output = vec![graph.channels[*x]];
                    Step::new(*x, *x, StepKind::Average, 1)
                }
                Op::WholePicture { x } => {
                    plan.output = vec![graph.channels[*x], values[*x].h, values[*x].w];
                    Step::new(*x, *x, StepKind::WholePicture, values[*x].blocks)
                }
            };
            plan.steps.push(step);
        }
        let mut next = plan.steps.len();
        for (number, step) in plan.steps.iter_mut().enumerate().rev() {
            step.next = next;
            if matches!(step.work, StepKind::Conv(_)) {
                next = number;
            }
        }
        plan.values = values;
        let light = |cost: &LayerCost| cost.products > 0 && cost.weight_bytes < cost.value_bytes;
        plan.front = plan.costs(1).iter().rposition(light).map_or(0, |last| last + 1);
        for step in &plan.steps[plan.front..] {
            for value in step.values() {
                plan.values[value].kept = true;
            }
        }
        plan.front_lines = place(&mut plan.values, &plan.steps, false);
        plan.lines = place(&mut plan.values, &plan.steps, true);
        Ok(plan)
    }
}

/// # Errors
/// When a value of a step that takes its pixels as one row has a border.
fn without_border(op: &str, values: &[ValueLayout]) -> Result<()> {
    match values.iter().find(|value| value.padding > 0) {
        Some(value) => bail!("{op}: value {} has a border, which another layer reads", value.number),
        None => Ok(()),
    }
}

/// See [`Plan::fills`].
fn fill(picture: &ValueLayout, bytes: &[Quantisation]) -> Vec<f32> {
    if bytes.iter().all(|bytes| bytes.zero == 0.0) {
        return Vec::new();
    }
    let mut words = vec![0u32; picture.blocks * picture.pixel];
    for (channel, bytes) in bytes.iter().enumerate() {
        words[channel / 4] |= (bytes.zero as u32) << (8 * (channel % 4));
    }
    words.into_iter().map(f32::from_bits).collect()
}

/// How a step over the planes of a picture is cut: rows by thread, and some blocks per task.
fn planes(y: &ValueLayout, threads: usize) -> Split {
    let rows_each = y.h.div_ceil(threads);
    let parts = TASKS_PER_THREAD * threads / y.h.div_ceil(rows_each);
    Split { rows: y.h, rows_each, blocks: y.blocks, blocks_each: y.blocks.div_ceil(parts.max(1)) }
}

impl ConvPlan {
    fn new(
        layer: &Arc<PackedConv>,
        x: &ValueLayout,
        (y, residual): (&ValueLayout, Option<&ValueLayout>),
        threads: usize,
        wide: bool,
    ) -> ConvPlan {
        let Window { kernel, stride, padding } = layer.window;
        let step = x.pixel * stride;
        let mut segments = Vec::new();
        for block in 0..x.blocks {
            for ky in 0..kernel {
                let row = block * x.plane() + ky * x.row();
                if layer.planar {
                    segments.push(row as u32);
                } else {
                    segments.extend((0..kernel).map(|kx| (row + kx * x.pixel) as u32));
                }
            }
        }
        let run = if layer.planar { kernel } else { x.pixel };
        // A 1×1 convolution between pictures without borders can be cut anywhere.
        let flat = !layer.planar && layer.window == Window { kernel: 1, stride: 1, padding: 0 } && x.padding == 0;
        let flat = flat && y.padding == 0 && residual.is_none_or(|residual| residual.padding == 0);
        let pixels = y.h * y.w;
        let row_pixels = if flat { flat_row(pixels) } else { y.w };
        let rows = if flat { pixels.div_ceil(row_pixels) } else { y.h };
        let last_row_pixels = if flat { pixels - (rows - 1) * row_pixels } else { y.w };
        let (x_row, y_row) =
            if flat { (row_pixels * x.pixel, row_pixels * y.pixel) } else { (stride * x.row(), y.row()) };
        let blocks = y.blocks;
        // With bytes, every line of weights should serve more pixels.
        let is_narrow = matches!(row_pixels, 1..=7 | 15 | 17..=21) && blocks >= 4 && !layer.planar;
        let group = if !wide {
            1
        } else if is_narrow && x.pixel > LANES / 4 {
            4
        } else {
            2
        };
        let per_row = x.blocks * x.pixel * size_of::<f32>() * if flat { row_pixels } else { stride * x.w };
        let rows_each = (INPUT_SHARE / per_row.max(1)).clamp(1, rows);
        let (wanted, groups) = (TASKS_PER_THREAD * threads, blocks.div_ceil(group));
        // With few outputs, cut finer along rows; else along blocks, in whole groups.
        let mut parts = rows.div_ceil(rows_each);
        if rows >= 4 * threads {
            parts = parts.next_multiple_of(threads);
        }
        let across = wanted.div_ceil(parts).min(groups);
        if parts * across < wanted {
            parts = wanted.div_ceil(across).min(rows);
        }
        let split =
            Split { rows, rows_each: rows.div_ceil(parts), blocks, blocks_each: groups.div_ceil(across) * group };
        let fits = (PIECE / (run * group * size_of::<CacheLine>())).max(1);
        let pieces = if segments.len() > fits + fits / 4 && split.rows_each * row_pixels > 28 {
            let count = segments.len().div_ceil(fits);
            let each = segments.len().div_ceil(count);
            (0..segments.len()).step_by(each).map(|s| (s, (s + each).min(segments.len()))).collect()
        } else {
            vec![(0, segments.len())]
        };
        ConvPlan {
            layer: layer.clone(),
            reduction: Reduction { segments, run, step },
            x_origin: x.at(0, 0, padding),
            x_row,
            y_origin: y.at(0, 0, 0),
            y_row,
            residual_origin: residual.map_or(0, |residual| residual.at(0, 0, 0)),
            residual_row: if flat { y_row } else { residual.map_or(0, ValueLayout::row) },
            rows,
            row_pixels,
            last_row_pixels,
            group,
            together: split.rows_each == rows,
            pieces,
            split,
        }
    }
}

/// Pixels per row where rows may be cut anywhere: a multiple of the widest tile.
fn flat_row(pixels: usize) -> usize {
    match pixels {
        0..=49 => pixels,
        50..=400 => 14,
        _ => 28,
    }
}

impl Step {
    fn new(x: usize, y: usize, work: StepKind, tasks: usize) -> Self {
        Self { x, y, residual: None, work, tasks, next: 0 }
    }

    /// Whether a task computes its part of all pictures, so that it reads its weights once.
    pub fn takes_all(&self) -> bool {
        matches!(&self.work, StepKind::Conv(conv) if conv.together)
    }

    fn values(&self) -> impl Iterator<Item = usize> {
        [Some(self.x), Some(self.y), self.residual].into_iter().flatten()
    }
}

/// Places the values of a part of the workspace, reusing memory of values that are no longer read. Returns the lines used.
fn place(values: &mut [ValueLayout], steps: &[Step], kept: bool) -> usize {
    let mut last = vec![0; values.len()];
    let mut first = vec![usize::MAX; values.len()];
    for (at, step) in steps.iter().enumerate() {
        for value in step.values() {
            last[value] = at;
            first[value] = first[value].min(at);
        }
    }
    let mut placed: Vec<usize> = Vec::new();
    let mut total = 0;
    for value in 0..values.len() {
        if first[value] == usize::MAX || values[value].kept != kept {
            continue;
        }
        let lines = values[value].lines();
        let mut taken: Vec<Range<usize>> = placed
            .iter()
            .filter(|other| last[**other] >= first[value] && first[**other] <= last[value])
            .map(|other| values[*other].offset..values[*other].offset + values[*other].lines())
            .collect();
        taken.sort_by_key(|range| range.start);
        let mut offset = 0;
        for range in taken {
            if range.start >= offset + lines {
                break;
            }
            offset = offset.max(range.end);
        }
        values[value].offset = offset;
        total = total.max(offset + lines);
        placed.push(value);
    }
    total
}
