//! A graph as one candle op, with its plans and memory kept.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::graph::{Graph, INPUT};
use super::level::{Level, Precision};
use super::plan::{LayerCost, Plan};
use super::run::Workspace;
use crate::nn::f32_slice;

/// Pictures that go through the network together, layer by layer: enough that late layers, whose weights are larger than
/// the caches, read them seldom, and few enough that early layers' values stay in them.
const TOGETHER: usize = 8;

/// Sizes of pictures whose plans are kept: a network of a pack sees one.
const SIZES_KEPT: usize = 4;

/// A network from its picture to its pooled features, or another end, ready to run on the CPU. Cheap to clone; clones share the weights and
/// the memory.
#[derive(Clone, Debug)]
pub struct Fused(Arc<FusedInner>);

#[derive(Debug)]
struct FusedInner {
    graph: Graph,
    sizes: Mutex<Vec<Arc<SizedPlan>>>,
}

/// A plan and the memory of runs that are over, for the next ones.
#[derive(Debug)]
struct SizedPlan {
    h: usize,
    w: usize,
    threads: usize,
    plan: Plan,
    idle: Mutex<Vec<Workspace>>,
}

impl Fused {
    /// The graph, which must have an end, as an op.
    pub fn new(graph: Graph) -> Self {
        Self(Arc::new(FusedInner { graph, sizes: Mutex::default() }))
    }

    /// Pictures (N, C, H, W) → pooled features (N, F), or (N, F, H', W') of a graph that ends in a whole picture. What a picture
    /// gives is the same, bit for bit, whatever else is in the batch and however many threads there are.
    ///
    /// # Errors
    /// When `x` is not contiguous `f32` on the CPU of as many channels as the graph wants, or is too small for a layer's
    /// window.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }

    /// The same without tensors: `pictures` are (N, C, h, w) as they lie, `output` is as long as N times the graph's end. Once the
    /// largest N has been seen, memory is kept from call to call.
    ///
    /// # Errors
    /// When the graph has no end, or the pictures are too small for a layer's window.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn forward_into(&self, pictures: &[f32], (h, w): (usize, usize), output: &mut [f32]) -> Result<()> {
        let size = self.size(h, w)?;
        if size.plan.output.is_empty() {
            bail!("{}: the graph has no end", self.name());
        }
        self.run(&size, pictures, output);
        Ok(())
    }

    /// Runs pictures of a size, some together.
    fn run(&self, size: &SizedPlan, pictures: &[f32], output: &mut [f32]) {
        let (picture, features) = (self.0.graph.channels[INPUT] * size.h * size.w, size.plan.output_len());
        let n = pictures.len() / picture;
        assert_eq!((n * picture, n * features), (pictures.len(), output.len()), "input and output of {n} pictures");
        let together = n.min(TOGETHER);
        let kept = size.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut workspace = match kept {
            Some(workspace) if workspace.pictures() >= together => workspace,
            _ => Workspace::new(&size.plan, together, size.threads),
        };
        for (input, output) in pictures.chunks(TOGETHER * picture).zip(output.chunks_mut(TOGETHER * features)) {
            workspace.run(&size.plan, self.computes_with(), input, output, input.len() / picture);
        }
        size.idle.lock().unwrap_or_else(PoisonError::into_inner).push(workspace);
    }

    /// The instruction set it uses and the numbers it computes with.
    pub fn computes_with(&self) -> (Level, Precision) {
        (self.0.graph.level, self.0.graph.precision)
    }

    /// What each layer costs on `n` pictures of a size: the median of `rounds` runs on random values, its products and
    /// the bytes it reads and writes at least.
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
        let mut sizes = self.0.sizes.lock().unwrap_or_else(PoisonError::into_inner);
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
            bail!("{}: wants {} channels, got shape {:?}", self.name(), graph.channels[INPUT], layout.dims());
        }
        let size = self.size(h, w)?;
        if size.plan.output.is_empty() {
            bail!("{}: the graph has no end", self.name());
        }
        let mut output = vec![0f32; n * size.plan.output_len()];
        self.run(&size, x, &mut output);
        let shape: Vec<usize> = std::iter::once(n).chain(size.plan.output.iter().copied()).collect();
        Ok((CpuStorage::F32(output), shape.into()))
    }
}
