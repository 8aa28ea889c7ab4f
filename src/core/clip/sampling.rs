//! The sampling plan: which frames of a second the models see.

use serde::{Deserialize, Serialize};

use super::FlowPair;
use super::run::FRAMES_PER_SECOND_MAX;
use crate::frame::Frame;
use crate::tier::DecodeTier;
use crate::time::{NANOS_PER_SECOND, Pts};

/// A picture of a second that is not closed.
#[derive(Clone, Debug)]
pub(super) enum PendingFrame {
    Frame(Frame),
    /// The source did not convert it, because it will not be sampled: it has a time but no pixels.
    Unconverted(Pts),
}

impl PendingFrame {
    pub fn pts(&self) -> u64 {
        match self {
            PendingFrame::Frame(frame) => frame.pts.0,
            PendingFrame::Unconverted(pts) => pts.0,
        }
    }

    /// Width and height; `None` without pixels.
    fn size(&self) -> Option<(u32, u32)> {
        match self {
            PendingFrame::Frame(frame) => Some((frame.width, frame.height)),
            PendingFrame::Unconverted(_) => None,
        }
    }

    fn frame(self) -> Option<Frame> {
        match self {
            PendingFrame::Frame(frame) => Some(frame),
            PendingFrame::Unconverted(_) => None,
        }
    }
}

/// The sampling points of a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplingPlan {
    /// Frames for the RGB model: the frame nearest to the middle of each of this many equal parts of the second.
    pub rgb_frames: u32,
    /// Pairs for the flow model, centred in the same way.
    pub flow_pairs: u32,
    /// Nominal distance of the two frames of a pair, ns.
    pub flow_gap_ns: u64,
    /// Frames for the signal detectors, chosen as those of the RGB model. None in tiers that decode only some pictures.
    #[serde(default)]
    pub signal_frames: u32,
}

/// The sampled frames of one second.
#[derive(Debug, Default)]
pub(super) struct SampledFrames {
    /// In PTS order, each once.
    pub frames: Vec<Frame>,
    /// Indices into `frames`, ascending.
    pub rgb: Vec<usize>,
    pub pairs: Vec<FlowPair>,
}

impl SamplingPlan {
    /// Samples `seen` (in PTS order, at most [`FRAMES_PER_SECOND_MAX`]), the pictures of the second that starts at `start`. The
    /// others are dropped, so that their buffers return to the pool. Leaves `seen` empty.
    ///
    /// - RGB: for each of `rgb_frames` equal parts, the frame nearest to its middle, the earlier of two equally near.
    ///   A frame serves one part only: at a low frame rate there are fewer frames than parts.
    /// - Flow: for the middle `c` of each of `flow_pairs` equal parts, the first frame is the one nearest to
    ///   `c - gap / 2`, the second the later frame whose distance from the first is nearest to the gap (the shorter of
    ///   two equally near). The pair is taken when it is between half the gap and three times the gap long, its two
    ///   pictures are of one size, and only once.
    /// - Signals: as RGB, for each of `signal_frames` parts.
    ///
    /// An unconverted picture is one that is not sampled ([`super::PlanSelector`]). Where that prediction was wrong because times
    /// went back, the choice is made among the converted pictures.
    pub(super) fn choose(&self, start: Pts, seen: &mut Vec<PendingFrame>) -> SampledFrames {
        let mut points = self.points(start.0, seen);
        if !points.all().all(|index| matches!(seen[index], PendingFrame::Frame(_))) {
            seen.retain(|s| matches!(s, PendingFrame::Frame(_)));
            points = self.points(start.0, seen);
        }
        // Flow between two picture sizes is meaningless: the source changed there.
        points.pairs.retain(|pair| seen[pair.first].size() == seen[pair.second].size());
        let mut kept = [false; FRAMES_PER_SECOND_MAX];
        points.all().for_each(|index| kept[index] = true);
        let SampledPoints { mut rgb, mut pairs, signal: _ } = points;
        // Index of a kept frame after the others are removed.
        let place = |index: &mut usize| *index = kept[..*index].iter().filter(|k| **k).count();
        rgb.iter_mut().for_each(place);
        pairs.iter_mut().flat_map(|p| [&mut p.first, &mut p.second]).for_each(place);
        let mut frames = Vec::with_capacity(kept.iter().filter(|k| **k).count());
        frames.extend(seen.drain(..).zip(kept).filter(|(_, kept)| *kept).filter_map(|(seen, _)| seen.frame()));
        SampledFrames { frames, rgb, pairs }
    }

    /// The plan of a stream in `tier`.
    pub(super) fn in_tier(&self, tier: DecodeTier) -> Self {
        match tier.has_flow() {
            true => self.clone(),
            false => Self { flow_pairs: 0, signal_frames: 0, ..self.clone() },
        }
    }

    /// Whether `seen[index]` is sampled from `seen`, the pictures of the second that starts at `start`, if all have one size.
    pub(super) fn samples(&self, start: u64, seen: &[PendingFrame], index: usize) -> bool {
        self.points(start, seen).all().any(|sampled| sampled == index)
    }

    fn points(&self, start: u64, seen: &[PendingFrame]) -> SampledPoints {
        SampledPoints {
            rgb: evenly(self.rgb_frames, start, seen),
            pairs: self.flow_points(start, seen),
            signal: evenly(self.signal_frames, start, seen),
        }
    }

    /// As indices into `frames`.
    fn flow_points(&self, start: u64, frames: &[PendingFrame]) -> Vec<FlowPair> {
        let gap = self.flow_gap_ns;
        let mut chosen: Vec<FlowPair> = Vec::with_capacity(frames.len().min(self.flow_pairs as usize));
        for centre in centres(start, self.flow_pairs) {
            let Some(first) = nearest(frames, pts, i128::from(centre) - i128::from(gap / 2)) else { break };
            let wanted = i128::from(pts(&frames[first])) + i128::from(gap);
            let after = first + 1;
            let Some(second) = nearest(&frames[after..], pts, wanted).map(|i| after + i) else { continue };
            let pair = FlowPair { first, second, gap_ns: pts(&frames[second]) - pts(&frames[first]) };
            let fits = pair.gap_ns > 0 && pair.gap_ns >= gap / 2 && pair.gap_ns <= gap.saturating_mul(3);
            if fits && chosen.last() != Some(&pair) {
                chosen.push(pair);
            }
        }
        chosen
    }
}

/// The sampled frames of one second as indices into all.
struct SampledPoints {
    rgb: Vec<usize>,
    pairs: Vec<FlowPair>,
    signal: Vec<usize>,
}

impl SampledPoints {
    /// All indices, some of them repeatedly.
    fn all(&self) -> impl Iterator<Item = usize> {
        let pairs = self.pairs.iter().flat_map(|pair| [pair.first, pair.second]);
        self.rgb.iter().chain(&self.signal).copied().chain(pairs)
    }
}

/// The frame nearest to the middle of each of `parts` equal parts, each once, as indices into `frames`.
fn evenly(parts: u32, start: u64, frames: &[PendingFrame]) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::with_capacity(frames.len().min(parts as usize));
    for centre in centres(start, parts) {
        // Points ascend, and so do the frames nearest to them: a repeated one can only be the last.
        if let Some(index) = nearest(frames, pts, i128::from(centre))
            && chosen.last() != Some(&index)
        {
            chosen.push(index);
        }
    }
    chosen
}

fn pts(seen: &PendingFrame) -> u64 {
    seen.pts()
}

/// The middles of `parts` equal parts of the second that starts at `start`, ns.
pub(super) fn centres(start: u64, parts: u32) -> impl Iterator<Item = u64> {
    (0..u64::from(parts)).map(move |i| start + (2 * i + 1) * NANOS_PER_SECOND / (2 * u64::from(parts)))
}

/// The index of the item whose time is nearest to `wanted`; the earliest of equally near ones. Times ascend.
fn nearest<T>(items: &[T], time: impl Fn(&T) -> u64, wanted: i128) -> Option<usize> {
    let after = items.partition_point(|item| i128::from(time(item)) < wanted);
    let before = after.checked_sub(1).map(|i| items.partition_point(|item| time(item) < time(&items[i])));
    match (before, items.get(after)) {
        (Some(b), Some(a)) => {
            let is_nearer = wanted - i128::from(time(&items[b])) <= i128::from(time(a)) - wanted;
            Some(if is_nearer { b } else { after })
        }
        (Some(b), None) => Some(b),
        (None, Some(_)) => Some(after),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_prefers_the_earlier_of_two_equal_distances() {
        let times = [10, 20, 20, 30];
        for (wanted, index) in [(-5, 0), (10, 0), (14, 0), (15, 0), (16, 1), (20, 1), (25, 1), (26, 3), (99, 3)] {
            assert_eq!(nearest(&times, |&t| t, wanted), Some(index), "{wanted}");
        }
        assert_eq!(nearest(&[0; 0], |&t| t, 0), None);
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
