//! Reduces the number of sampled pictures under load.

use serde::{Deserialize, Serialize};

use super::{ClipSecond, FlowPair};

/// A share of the sampled frames and pairs, in fifths and never zero: the default plan samples five of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameShare(u8);

impl FrameShare {
    /// All frames and pairs.
    pub const ALL: FrameShare = FrameShare(5);

    /// All shares, the largest first.
    pub const STEPS: [FrameShare; 4] = [FrameShare::ALL, FrameShare(3), FrameShare(2), FrameShare(1)];

    /// The share as a number between 0 and 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ALL.0)
    }

    /// How many of `n` items are kept; at least one unless `n` is 0.
    pub fn of(self, n: usize) -> usize {
        (n * usize::from(self.0)).div_ceil(usize::from(Self::ALL.0))
    }

    /// Keeps a share of `all`, spread evenly: the middle of each of as many equal parts.
    fn keep_evenly<T: Copy>(self, all: &mut Vec<T>) {
        let (n, kept) = (all.len(), self.of(all.len()));
        for i in 0..kept {
            all[i] = all[(2 * i + 1) * n / (2 * kept)];
        }
        all.truncate(kept);
    }
}

impl ClipSecond {
    /// Keeps only a share of the frames and pairs. Sound is kept: it costs a fraction of the pictures.
    pub fn keep(&mut self, share: FrameShare) {
        if share == FrameShare::ALL {
            return;
        }
        self.frame_share = share;
        share.keep_evenly::<usize>(&mut self.rgb);
        share.keep_evenly::<FlowPair>(&mut self.pairs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_descend() {
        assert!(FrameShare::STEPS.windows(2).all(|two| two[1] < two[0]));
        assert!((FrameShare::STEPS[1].ratio() - 0.6).abs() < 1e-12);
    }

    #[test]
    fn kept_pictures_are_spread_over_the_second_and_never_none() {
        let kept_of = |share: FrameShare, n: usize| {
            let mut all: Vec<usize> = (0..n).collect();
            share.keep_evenly(&mut all);
            all
        };
        let [all, three, two, one] = FrameShare::STEPS;
        assert_eq!(kept_of(all, 5), [0, 1, 2, 3, 4]);
        assert_eq!(kept_of(three, 5), [0, 2, 4]);
        assert_eq!(kept_of(two, 5), [1, 3]);
        assert_eq!(kept_of(one, 5), [2]);
        assert_eq!((kept_of(one, 1), kept_of(one, 0)), (vec![0], vec![]));
        assert_eq!(kept_of(three, 2), [0, 1]);
        for n in 0..60 {
            for share in FrameShare::STEPS {
                let kept = kept_of(share, n);
                assert_eq!(kept.len(), share.of(n));
                assert!(kept.windows(2).all(|pair| pair[0] < pair[1]), "{share:?} of {n}: {kept:?}");
            }
        }
    }
}
