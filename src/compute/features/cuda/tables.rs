//! Resampling tables on a GPU, and a cache of resize plans, as on the CPU.

use crate::features::cpu::axis::Axis;
use crate::features::cpu::resize::{Area, ResizePlan};
use crate::features::params::Fit;
use crate::gpu::GpuError;
use crate::gpu::launch::{Argument, Launcher, table};

/// An [`Axis`] on a GPU.
pub(super) struct AxisTable<L: Launcher> {
    starts: L::Memory,
    weights: L::Memory,
    taps: usize,
}

impl<L: Launcher> AxisTable<L> {
    pub fn new(launcher: &mut L, axis: &Axis) -> Result<Self, GpuError> {
        let (starts, weights) = axis.table();
        let starts: Vec<i32> = starts.iter().map(|&s| i32::try_from(s).expect("a picture's side fits")).collect();
        Ok(Self { starts: table(launcher, &starts)?, weights: table(launcher, weights)?, taps: axis.taps() })
    }

    /// The three arguments that kernels take for an axis.
    pub fn arguments(&self, launcher: &L) -> [Argument; 3] {
        [launcher.pointer(&self.starts).into(), launcher.pointer(&self.weights).into(), self.taps.into()]
    }
}

/// A [`ResizePlan`] on a GPU.
pub(super) struct DevicePlan<L: Launcher> {
    plan: ResizePlan,
    horizontal: AxisTable<L>,
    vertical: AxisTable<L>,
}

impl<L: Launcher> DevicePlan<L> {
    pub fn area(&self) -> Area {
        self.plan.area()
    }

    /// The six arguments that kernels take for both axes.
    pub fn axes(&self, launcher: &L) -> [Argument; 6] {
        let [a, b, c] = self.horizontal.arguments(launcher);
        let [d, e, f] = self.vertical.arguments(launcher);
        [a, b, c, d, e, f]
    }
}

/// Plans kept for sizes that are not in the current batch, as on the CPU.
const PLANS_KEPT: usize = 16;

/// A cache of plans from picture sizes to one input rectangle.
pub(super) struct DevicePlans<L: Launcher> {
    target: (usize, usize),
    fit: Fit,
    /// Most recently used last.
    plans: Vec<DevicePlan<L>>,
}

impl<L: Launcher> DevicePlans<L> {
    pub fn new(target: (usize, usize), fit: Fit) -> Self {
        Self { target, fit, plans: Vec::new() }
    }

    /// Drops the plans that have not been used for longest. Call it between batches.
    pub fn trim(&mut self) {
        let surplus = self.plans.len().saturating_sub(PLANS_KEPT);
        self.plans.drain(..surplus);
    }

    /// Makes the plan for a picture size unless it is cached, and returns its area; `None` for a picture without pixels.
    pub fn area(&mut self, launcher: &mut L, source: (usize, usize)) -> Result<Option<Area>, GpuError> {
        if source.0 == 0 || source.1 == 0 {
            return Ok(None);
        }
        match self.plans.iter().position(|p| p.plan.is_for(source, self.target, self.fit)) {
            Some(i) => self.plans[i..].rotate_left(1),
            None => {
                let plan = ResizePlan::new(source, self.target, self.fit);
                let (horizontal, vertical) = plan.axes();
                let (horizontal, vertical) =
                    (AxisTable::new(launcher, horizontal)?, AxisTable::new(launcher, vertical)?);
                self.plans.push(DevicePlan { plan, horizontal, vertical });
            }
        }
        Ok(self.plans.last().map(DevicePlan::area))
    }

    /// The plan of a size for which [`DevicePlans::area`] gave one.
    pub fn get(&self, source: (usize, usize)) -> &DevicePlan<L> {
        let plan = self.plans.iter().find(|p| p.plan.is_for(source, self.target, self.fit));
        plan.expect("`area` was called for this size")
    }
}
