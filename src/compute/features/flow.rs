//! Pairs of frames → inputs of the flow model.

use rayon::prelude::*;

use super::cpu::farneback::Farneback;
use super::cpu::resize::{Area, ResizeScratch};
use super::params::{Filter, FlowParams};
use super::reuse::{PlanCache, ScratchPool};
use touchline_core::clip::ClipSecond;
use touchline_core::frame::RgbView;

/// Picture sizes whose memory each thread keeps: enough for streams of a few aspect ratios.
const SIZES_KEPT: usize = 4;

/// Computes and encodes optical flow by [`FlowParams`].
///
/// Both pictures are converted to gray and resized to the part of the input that they cover. Flow is computed on that part,
/// in its pixels; padding has flow 0. Flow is scaled from the pair's distance in time to the nominal one and
/// encoded as three channels: dx and dy clipped to ±`clip_px` and divided by it (−1..1), and the magnitude divided by
/// `clip_px` and clipped to 0..1.
#[derive(Debug)]
pub struct FlowExtractor {
    params: FlowParams,
    plans: PlanCache,
    scratch: ScratchPool<PairScratch>,
}

#[derive(Debug)]
struct PairScratch {
    farneback: Farneback,
    line: ResizeScratch,
    first: Vec<f32>,
    second: Vec<f32>,
    dx: Vec<f32>,
    dy: Vec<f32>,
}

impl FlowExtractor {
    /// Makes an extractor.
    ///
    /// # Errors
    /// One line saying which key is wrong and what is allowed ([`FlowParams::validate`]).
    pub fn new(params: &FlowParams) -> Result<Self, String> {
        params.validate()?;
        Ok(Self {
            plans: PlanCache::new((params.width, params.height), params.fit, Filter::Bilinear),
            scratch: ScratchPool::new(SIZES_KEPT * rayon::current_num_threads()),
            params: params.clone(),
        })
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &FlowParams {
        &self.params
    }

    /// Values of one input: 3 × height × width.
    pub fn input_len(&self) -> usize {
        3 * self.params.width * self.params.height
    }

    /// Appends the flow of `second.pairs`, in that order, as N × 3 × height × width; returns N.
    ///
    /// A pair is all 0 if there is nothing to compare: a picture has no pixels, the two differ in shape so that they
    /// cover different parts of the input, or their distance is 0.
    ///
    /// # Panics
    /// If an index of a pair is out of range.
    pub fn second_into(&mut self, second: &ClipSecond, out: &mut Vec<f32>) -> usize {
        let frame = |i: usize| second.frames[i].view();
        let views = second.pairs.iter().flat_map(|pair| [frame(pair.first), frame(pair.second)]);
        self.plans.prepare(views.map(|view| (view.width, view.height)));
        let (start, len) = (out.len(), self.input_len());
        out.resize(start + second.pairs.len() * len, 0.0);
        let inputs = out[start..].par_chunks_exact_mut(len).zip(&second.pairs);
        inputs.for_each(|(out, pair)| self.fill(frame(pair.first), frame(pair.second), pair.gap_ns, out));
        second.pairs.len()
    }

    /// `out` must be all 0, and stays 0 where there is no flow.
    fn fill(&self, first: RgbView<'_>, second: RgbView<'_>, gap_ns: u64, out: &mut [f32]) {
        assert_eq!(out.len(), self.input_len(), "flow is 3 x height x width values");
        let plan = |view: RgbView<'_>| self.plans.get((view.width, view.height));
        let (Some(first_plan), Some(second_plan)) = (plan(first), plan(second)) else { return };
        let area = first_plan.area();
        if second_plan.area() != area || gap_ns == 0 {
            return;
        }
        let suits = |s: &PairScratch| (s.farneback.width(), s.farneback.height()) == (area.width, area.height);
        let make = || {
            let plane = vec![0.0; area.width * area.height];
            PairScratch {
                farneback: Farneback::new(area.width, area.height, self.params.farneback)
                    .expect("the parameters were validated and the area has pixels"),
                line: ResizeScratch::default(),
                first: plane.clone(),
                second: plane.clone(),
                dx: plane.clone(),
                dy: plane,
            }
        };
        self.scratch.with(suits, make, |s| {
            first_plan.gray(first, &mut s.line, &mut s.first);
            second_plan.gray(second, &mut s.line, &mut s.second);
            s.farneback.flow(&s.first, &s.second, &mut s.dx, &mut s.dy);
            let nominal_ns = f64::from(self.params.gap_ms) * 1e6;
            let gain = (nominal_ns / gap_ns as f64 / f64::from(self.params.clip_px)) as f32;
            encode(&s.dx, &s.dy, gain, area, self.params.width, out);
        });
    }
}

/// Writes `gain` × flow into the `area` of the three planes of `out`, whose rows are `width` long.
fn encode(dx: &[f32], dy: &[f32], gain: f32, area: Area, width: usize, out: &mut [f32]) {
    let plane = out.len() / 3;
    let (out_x, rest) = out.split_at_mut(plane);
    let (out_y, out_magnitude) = rest.split_at_mut(plane);
    for (i, (dx, dy)) in dx.chunks_exact(area.width).zip(dy.chunks_exact(area.width)).enumerate() {
        let start = (area.y + i) * width + area.x;
        let row = start..start + area.width;
        let places = out_x[row.clone()].iter_mut().zip(&mut out_y[row.clone()]).zip(&mut out_magnitude[row]);
        for (((x, y), magnitude), (&dx, &dy)) in places.zip(dx.iter().zip(dy)) {
            let (dx, dy) = (dx * gain, dy * gain);
            *x = dx.clamp(-1.0, 1.0);
            *y = dy.clamp(-1.0, 1.0);
            *magnitude = (dx * dx + dy * dy).sqrt().min(1.0);
        }
    }
}
