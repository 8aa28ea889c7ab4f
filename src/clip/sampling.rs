//! Which frames of a second the models see.

use super::FlowPair;
use crate::ingest::frame::Frame;
use crate::time::{NANOS_PER_SECOND, Pts};

/// The sampling points of a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamplingPlan {
    /// Frames for the RGB model: the frame nearest to the middle of each of this many equal parts of the second.
    pub rgb_frames: u32,
    /// Pairs for the flow model, centred likewise.
    pub flow_pairs: u32,
    /// Nominal distance of the two frames of a pair, ns.
    pub flow_gap_ns: u64,
}

/// What the plan kept of one second's frames.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// In PTS order, each once.
    pub frames: Vec<Frame>,
    /// Indices into `frames`, ascending.
    pub rgb: Vec<usize>,
    pub pairs: Vec<FlowPair>,
}

impl SamplingPlan {
    /// Chooses from `frames` (in PTS order) of the second that starts at `start`; the others are dropped, so that their
    /// buffers go back to their pool.
    ///
    /// - RGB: for each of `rgb_frames` equal parts, the frame nearest to its middle, the earlier of two equally near.
    ///   A frame serves one part only: at a low frame rate there are fewer frames than parts.
    /// - Flow: for the middle `c` of each of `flow_pairs` equal parts, the first frame is the one nearest to
    ///   `c - gap / 2`, the second the later frame whose distance from the first is nearest to the gap (the shorter of
    ///   two equally near). The pair is taken when it is between half the gap and three times the gap long, and only
    ///   once.
    pub(super) fn choose(&self, start: Pts, frames: Vec<Frame>) -> Chosen {
        let times: Vec<u64> = frames.iter().map(|f| f.pts.0).collect();
        let (rgb, pairs) = (self.rgb_points(start.0, &times), self.flow_points(start.0, &times));

        let mut kept = vec![None; frames.len()];
        for &index in rgb.iter().chain(pairs.iter().flat_map(|(a, b)| [a, b])) {
            kept[index] = Some(0);
        }
        for (place, slot) in kept.iter_mut().flatten().enumerate() {
            *slot = place;
        }
        let place = |index: usize| kept[index].unwrap_or_default();
        Chosen {
            rgb: rgb.iter().map(|&i| place(i)).collect(),
            pairs: pairs
                .iter()
                .map(|&(a, b)| FlowPair { first: place(a), second: place(b), gap_ns: times[b] - times[a] })
                .collect(),
            frames: frames.into_iter().zip(&kept).filter(|(_, k)| k.is_some()).map(|(f, _)| f).collect(),
        }
    }

    fn rgb_points(&self, start: u64, times: &[u64]) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::new();
        for centre in centres(start, self.rgb_frames) {
            // Points ascend, and so do the frames nearest to them: a repeated one can only be the last.
            if let Some(index) = nearest(times, i128::from(centre))
                && chosen.last() != Some(&index)
            {
                chosen.push(index);
            }
        }
        chosen
    }

    fn flow_points(&self, start: u64, times: &[u64]) -> Vec<(usize, usize)> {
        let gap = self.flow_gap_ns;
        let mut chosen = Vec::new();
        for centre in centres(start, self.flow_pairs) {
            let Some(first) = nearest(times, i128::from(centre) - i128::from(gap / 2)) else { break };
            let wanted = i128::from(times[first]) + i128::from(gap);
            let Some(second) = nearest(&times[first + 1..], wanted).map(|i| first + 1 + i) else { continue };
            let actual = times[second] - times[first];
            let fits = actual > 0 && actual >= gap / 2 && actual <= gap.saturating_mul(3);
            if fits && chosen.last() != Some(&(first, second)) {
                chosen.push((first, second));
            }
        }
        chosen
    }
}

/// The middles of `parts` equal parts of the second that starts at `start`, ns.
fn centres(start: u64, parts: u32) -> impl Iterator<Item = u64> {
    (0..u64::from(parts)).map(move |i| start + (2 * i + 1) * NANOS_PER_SECOND / (2 * u64::from(parts)))
}

/// The index of the time nearest to `wanted`; the earliest of equally near ones. `times` ascend.
fn nearest(times: &[u64], wanted: i128) -> Option<usize> {
    let after = times.partition_point(|&t| i128::from(t) < wanted);
    let before = after.checked_sub(1).map(|i| times.partition_point(|&t| t < times[i]));
    match (before, times.get(after)) {
        (Some(b), Some(&a)) => Some(if wanted - i128::from(times[b]) <= i128::from(a) - wanted { b } else { after }),
        (Some(b), None) => Some(b),
        (None, Some(_)) => Some(after),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_takes_the_earlier_of_two_equally_near() {
        let times = [10, 20, 20, 30];
        for (wanted, index) in [(-5, 0), (10, 0), (14, 0), (15, 0), (16, 1), (20, 1), (25, 1), (26, 3), (99, 3)] {
            assert_eq!(nearest(&times, wanted), Some(index), "{wanted}");
        }
        assert_eq!(nearest(&[], 0), None);
    }

    #[test]
    fn centres_are_the_middles_of_equal_parts() {
        let ms = |start, parts| centres(start, parts).map(|c| c / 1_000_000).collect::<Vec<_>>();
        assert_eq!(ms(0, 5), [100, 300, 500, 700, 900]);
        assert_eq!(ms(2_000_000_000, 1), [2500]);
        assert_eq!(ms(0, 3), [166, 500, 833]);
        assert!(ms(0, 0).is_empty());
    }
}
