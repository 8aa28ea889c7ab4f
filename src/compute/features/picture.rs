//! Frames → inputs of the RGB model.

use rayon::prelude::*;

use super::cpu::resize::ResizeScratch;
use super::params::PictureParams;
use super::reuse::{PlanCache, ScratchPool};
use touchline_core::clip::ClipSecond;
use touchline_core::frame::RgbView;

/// Resizes and normalises pictures by [`PictureParams`].
#[derive(Debug)]
pub struct PictureExtractor {
    params: PictureParams,
    plans: PlanCache,
    scratch: ScratchPool<ResizeScratch>,
}

impl PictureExtractor {
    /// Makes an extractor.
    ///
    /// # Errors
    /// One line saying which key is wrong and what is allowed ([`PictureParams::validate`]).
    pub fn new(params: &PictureParams) -> Result<Self, String> {
        params.validate()?;
        Ok(Self {
            plans: PlanCache::new((params.width, params.height), params.fit, params.filter),
            scratch: ScratchPool::new(2 * rayon::current_num_threads()),
            params: params.clone(),
        })
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &PictureParams {
        &self.params
    }

    /// Values of one input: 3 × height × width.
    pub fn input_len(&self) -> usize {
        3 * self.params.width * self.params.height
    }

    /// Writes one picture of any size to `out` as 3 × height × width. A picture without pixels becomes all 0.
    ///
    /// # Panics
    /// If `out.len()` is not [`PictureExtractor::input_len`] or `view` is not as long as its size says.
    pub fn view_into(&mut self, view: RgbView<'_>, out: &mut [f32]) {
        self.plans.prepare([(view.width, view.height)]);
        self.fill(view, out);
    }

    /// Appends the frames of `second.rgb`, in that order, as N × 3 × height × width; returns N.
    ///
    /// # Panics
    /// If an index of `second.rgb` is out of range.
    pub fn second_into(&mut self, second: &ClipSecond, out: &mut Vec<f32>) -> usize {
        let frame = |&i: &usize| second.frames[i].view();
        self.plans.prepare(second.rgb.iter().map(frame).map(|view| (view.width, view.height)));
        let (start, len) = (out.len(), self.input_len());
        out.resize(start + second.rgb.len() * len, 0.0);
        let inputs = out[start..].par_chunks_exact_mut(len).zip(&second.rgb);
        inputs.for_each(|(out, i)| self.fill(frame(i), out));
        second.rgb.len()
    }

    fn fill(&self, view: RgbView<'_>, out: &mut [f32]) {
        match self.plans.get((view.width, view.height)) {
            Some(plan) => {
                self.scratch.with(|_| true, ResizeScratch::default, |line| plan.picture(view, &self.params, line, out));
            }
            None => out.fill(0.0),
        }
    }
}
