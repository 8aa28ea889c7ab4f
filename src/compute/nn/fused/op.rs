//! A graph as one candle op, with cached plans and memory.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use parking_lot::Mutex;

use super::cost::LayerCost;
use super::graph::{Graph, INPUT};
use super::level::{Level, Precision};
use super::plan::Plan;
use super::run::Workspace;
use crate::nn::f32_slice;

/// Pictures that go through the network together, layer by layer: enough that late layers, whose weights exceed the caches,
/// read their weights seldom, and few enough that the values of early layers stay in the caches.
const TOGETHER: usize = 8;

/// Picture sizes whose plans are cached: a network of a pack uses one.
const SIZES_KEPT: usize = 4;

/// A network on the CPU, from the picture to pooled features or a whole picture. Clones share weights and memory.
#[derive(Clone, Debug)]
pub struct Fused(Arc<FusedInner>);

#[derive(Debug)]
struct FusedInner {
    graph: Graph,
    sizes: Mutex<Vec<Arc<SizedPlan>>>,
}

/// The plan of a picture size, and idle memory for runs.
#[derive(Debug)]
struct SizedPlan {
    h: usize,
    w: usize,
    threads: usize,
    plan: Plan,
    idle: Mutex<Vec<Workspace>>,
}

impl Fused {
    /// Makes an op of a graph, which must have an output.
    pub fn new(graph: Graph) -> Self {
        Self(Arc::new(FusedInner { graph, sizes: Mutex::default() }))
    }

    /// Pictures (N, C, H, W) → pooled features (N, F), or (N, F, H', W') of a graph that ends in a whole picture. Neither the
    /// batch size nor the number of threads changes a bit of a picture's result.
    ///
    /// # Errors
    /// When `x` is not contiguous `f32` on the CPU with the channels of the graph, or is too small for a layer's window.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }

    /// As [`Fused::forward`] on slices: `pictures` is (N, C, h, w), and `output` has N outputs of the graph. After the call
    /// with the largest N nothing more is allocated.
    ///
    /// # Errors
    /// When the graph has no output, or the pictures are too small for a layer's window.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn forward_into(&self, pictures: &[f32], (h, w): (usize, usize), output: &mut [f32]) -> Result<()> {
        let size = self.size(h, w)?;
        if size.plan.output.is_empty() {
            bail!("{}: the graph has no output", self.name());
        }
        self.run(&size, pictures, output);
        Ok(())
    }

    /// Runs pictures of a size in groups of [`TOGETHER`].
    fn run(&self, size: &SizedPlan, pictures: &[f32], output: &mut [f32]) {
        let (picture, features) = (self.0.graph.channels[INPUT] * size.h * size.w, size.plan.output_len());
        let n = pictures.len() / picture;
        assert_eq!((n * picture, n * features), (pictures.len(), output.len()), "input and output of {n} pictures");
        let together = n.min(TOGETHER);
        let kept = size.idle.lock().pop();
        let mut workspace = match kept {
            Some(workspace) if workspace.pictures() >= together => workspace,
            _ => Workspace::new(&size.plan, together, size.threads),
        };
        for (input, output) in pictures.chunks(TOGETHER * picture).zip(output.chunks_mut(TOGETHER * features)) {
            workspace.run(&size.plan, self.computes_with(), input, output, input.len() / picture);
        }
        size.idle.lock().push(workspace);
    }

    /// Instruction set and precision.
    pub fn computes_with(&self) -> (Level, Precision) {
        (self.0.graph.level, self.0.graph.precision)
    }

    /// The cost of each layer on `n` pictures of a size: the median time of `rounds` runs on random values, its products, and
    /// the bytes that it must at least read and write.
    ///
    /// # Errors
    /// As [`Fused::forward`].
    pub fn profile(&self, (n, h, w): (usize, usize, usize), rounds: usize) -> Result<Vec<LayerCost>> {
        let size = self.size(h, w)?;
        let mut workspace = Workspace::new(&size.plan, n, size.threads);
        let input: Vec<f32> = (0..n * self.0.graph.channels[INPUT] * h * w).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut output = vec![0f32; n * size.plan.output_len()];
        let mut costs = size.plan.costs(n);
        let mut took = vec![Vec::new(); costs.len()];
        for _ in 0..rounds.max(1) {
            workspace.run(&size.plan, self.computes_with(), &input, &mut output, n);
            took.iter_mut().zip(workspace.step_ns(&size.plan, n)).for_each(|(took, ns)| took.push(ns));
        }
        for (cost, mut took) in costs.iter_mut().zip(took) {
            took.sort_unstable();
            cost.ns = took[took.len() / 2];
        }
        Ok(costs)
    }

    /// A plan for one thread and one picture, and the graph.
    pub(super) fn plan_alone(&self, h: usize, w: usize) -> Result<(Plan, &Graph)> {
        Ok((Plan::new(&self.0.graph, (h, w), 1)?, &self.0.graph))
    }

    fn size(&self, h: usize, w: usize) -> Result<Arc<SizedPlan>> {
        let threads = rayon::current_num_threads();
        let mut sizes = self.0.sizes.lock();
        if let Some(size) = sizes.iter().find(|size| (size.h, size.w, size.threads) == (h, w, threads)) {
            return Ok(size.clone());
        }
        let plan = Plan::new(&self.0.graph, (h, w), threads)?;
        let size = Arc::new(SizedPlan { h, w, threads, plan, idle: Mutex::default() });
        if sizes.len() == SIZES_KEPT {
            sizes.remove(0);
        }
        sizes.push(size.clone());
        Ok(size)
    }
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "fused network"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32_slice(self.name(), storage, layout)?;
        let (n, c, h, w) = layout.shape().dims4()?;
        let graph = &self.0.graph;
        if c != graph.channels[INPUT] || n == 0 {
            bail!("{}: expected {} channels, got shape {:?}", self.name(), graph.channels[INPUT], layout.dims());
        }
        let size = self.size(h, w)?;
        if size.plan.output.is_empty() {
            bail!("{}: the graph has no output", self.name());
        }
        let mut output = vec![0f32; n * size.plan.output_len()];
        self.run(&size, x, &mut output);
        let shape: Vec<usize> = std::iter::once(n).chain(size.plan.output.iter().copied()).collect();
        Ok((CpuStorage::F32(output), shape.into()))
    }
}
