//! Measures the activation ranges of a network on real pictures, for int8.

use candle_core::{Result, Tensor, bail};

use super::graph::{Graph, INPUT, Op};
use super::kernel::LANES;
use super::level::Precision;
use super::op::Fused;
use super::quantise::Range;
use super::run::Workspace;
use crate::nn::f32_slice;

/// Statistics of the activations of a network, channel by channel.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    values: Vec<Vec<ChannelStatistics>>,
    /// Whether only depthwise convolutions and averages read the value.
    apart: Vec<bool>,
    pictures: usize,
}

/// Statistics of a channel.
#[derive(Clone, Copy, Debug)]
struct ChannelStatistics {
    low: f32,
    high: f32,
    sum: f64,
    count: u64,
}

impl Observed {
    /// Number of observed pictures.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// The ranges for int8: for every value in graph order, a range per channel.
    ///
    /// Where every channel is read alone, each has its own range. Otherwise the reading layer folds the channels' scales into
    /// its weights, whose magnitudes would then differ too much. So each scale is replaced by the geometric mean of the
    /// channel's own and that of the whole value. Source of the idea: Nagel et al., *Data-Free Quantization Through Weight Equalization
    /// and Bias Correction*, ICCV 2019, which scales weights of neighbouring layers in this way.
    ///
    /// # Errors
    /// When no picture was observed, or a value was not finite.
    pub fn ranges(&self) -> Result<Vec<Vec<Range>>> {
        if self.values.is_empty() {
            bail!("no picture was observed");
        }
        let mut all = Vec::with_capacity(self.values.len());
        for (number, (channels, apart)) in self.values.iter().zip(&self.apart).enumerate() {
            let low = channels.iter().map(|seen| seen.low).fold(0.0, f32::min);
            let high = channels.iter().map(|seen| seen.high).fold(0.0, f32::max);
            let ranges: Vec<Range> = channels
                .iter()
                .map(|seen| {
                    let mean = (seen.sum / seen.count.max(1) as f64) as f32;
                    let drawn = |own: f32, whole: f32| if *apart { own } else { (own * whole).sqrt().copysign(own) };
                    Range { low: drawn(seen.low, low), high: drawn(seen.high, high), mean }
                })
                .collect();
            if let Some(range) = ranges.iter().find(|range| !range.is_sound()) {
                bail!(
                    "a channel of value {number} of the network has the range {range:?} on {} pictures",
                    self.pictures
                );
            }
            all.push(ranges);
        }
        Ok(all)
    }
}

impl ChannelStatistics {
    const NOTHING: ChannelStatistics = ChannelStatistics { low: 0.0, high: 0.0, sum: 0.0, count: 0 };

    fn see(&mut self, values: impl Iterator<Item = f32>) {
        let (mut low, mut high, mut sum, mut count) = (self.low, self.high, 0f32, 0);
        for value in values {
            low = low.min(value);
            high = high.max(value);
            sum += value;
            count += 1;
        }
        (self.low, self.high) = (low, high);
        self.count += count;
        self.sum += f64::from(sum);
        if !sum.is_finite() {
            // min and max ignore NaN.
            self.high = f32::INFINITY;
        }
    }
}

/// See [`Observed::apart`].
fn apart(graph: &Graph) -> Vec<bool> {
    let mut apart = vec![true; graph.channels.len()];
    for op in &graph.ops {
        match op {
            Op::Conv { x, residual, .. } => {
                apart[*x] = false;
                residual.iter().for_each(|value| apart[*value] = false);
            }
            Op::Depthwise { .. }
            | Op::MaxPool { .. }
            | Op::ScaleShift { .. }
            | Op::Gate { .. }
            | Op::Scale { .. }
            | Op::ChannelNorm { .. }
            | Op::Attention { .. }
            | Op::Average { .. }
            | Op::WholePicture { .. } => {}
        }
    }
    // The output of a pool has the quantisation of its input.
    for op in graph.ops.iter().rev() {
        if let Op::MaxPool { x, y, .. } = op {
            apart[*x] &= apart[*y];
        }
    }
    apart
}

impl Fused {
    /// Adds the activations on the pictures `x` (N, C, H, W) to `observed`.
    ///
    /// # Errors
    /// As [`Fused::forward`]; when the network does not compute in `f32`, or `observed` belongs to another network.
    pub fn observe(&self, x: &Tensor, observed: &mut Observed) -> Result<()> {
        let (level, precision) = self.computes_with();
        if precision != Precision::F32 {
            bail!("activations are observed in f32, not in {}", precision.name());
        }
        let (n, c, h, w) = x.dims4()?;
        let (plan, graph) = self.plan_alone(h, w)?;
        if c != graph.channels[INPUT] {
            bail!("got {c} channels, expected {}", graph.channels[INPUT]);
        }
        if observed.values.is_empty() {
            observed.values =
                graph.channels.iter().map(|channels| vec![ChannelStatistics::NOTHING; *channels]).collect();
            observed.apart = apart(graph);
        }
        if !observed.values.iter().map(Vec::len).eq(graph.channels.iter().copied()) {
            bail!("another network was observed before");
        }
        let mut workspace = Workspace::new(&plan, 1, 1);
        let mut output = vec![0f32; plan.output_len()];
        let (storage, layout) = x.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { bail!("pictures are not on the CPU") };
        let pictures = f32_slice("observation", storage, layout)?;
        for picture in pictures.chunks_exact(c * h * w) {
            for (plane, seen) in picture.chunks_exact(h * w).zip(&mut observed.values[INPUT]) {
                seen.see(plane.iter().copied());
            }
            workspace.run_watched(&plan, (level, precision), picture, &mut output, &mut |value, block, row| {
                let channels = &mut observed.values[value][block * LANES..];
                for (lane, seen) in channels.iter_mut().take(LANES).enumerate() {
                    seen.see(row.iter().skip(lane).step_by(LANES).copied());
                }
            });
        }
        observed.pictures += n;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(values: &[f32]) -> ChannelStatistics {
        let mut statistics = ChannelStatistics::NOTHING;
        values.chunks(2).for_each(|values| statistics.see(values.iter().copied()));
        statistics
    }

    fn ranges(channels: &[&[f32]], apart: bool) -> Result<Vec<Range>> {
        let values = vec![channels.iter().map(|values| statistics(values)).collect()];
        Ok(Observed { values, apart: vec![apart], pictures: 1 }.ranges()?.remove(0))
    }

    #[test]
    fn channels_that_are_read_separately_have_their_own_ranges() -> Result<()> {
        let channels: &[&[f32]] = &[&[1.0, 3.0, -2.0, 0.0], &[0.25], &[0.0, 0.0]];
        let own = ranges(channels, true)?;
        assert_eq!(own[0], Range { low: -2.0, high: 3.0, mean: 0.5 });
        assert_eq!(own[1], Range { low: 0.0, high: 0.25, mean: 0.25 });
        assert_eq!(own[2], Range { low: 0.0, high: 0.0, mean: 0.0 });
        let drawn = ranges(channels, false)?;
        assert_eq!(drawn[0], own[0]);
        assert_eq!((drawn[1].low, drawn[1].high), (0.0, 0.75f32.sqrt()));
        assert_eq!((drawn[2].low, drawn[2].high), (0.0, 0.0));
        Ok(())
    }

    #[test]
    fn values_that_are_not_finite_have_no_range() {
        assert!(ranges(&[&[1.0, f32::NAN]], true).is_err());
        assert!(ranges(&[&[f32::NEG_INFINITY]], false).is_err());
        assert!(Observed::default().ranges().is_err());
    }
}
