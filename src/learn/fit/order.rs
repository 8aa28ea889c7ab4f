//! The order of the training samples.

/// Returns the sample indices of epoch `epoch` (from 1), which uses `n` of `all` samples. Successive epochs continue one pass over
/// the samples; the next pass (from 1) has another order, from `shuffled`.
pub(super) fn epoch_order(all: usize, n: usize, epoch: u32, shuffled: impl Fn(u64) -> Vec<u32>) -> Vec<u32> {
    let (mut from, mut left) = ((epoch as usize - 1) * n, n);
    let mut order = Vec::with_capacity(n);
    while left > 0 {
        let (pass, at) = (from / all, from % all);
        let take = left.min(all - at);
        order.extend_from_slice(&shuffled(pass as u64 + 1)[at..at + take]);
        (from, left) = (from + take, left - take);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_used_once_before_any_is_used_twice() {
        let shuffled = |pass: u64| (0..10u32).map(|i| (i * 3 + pass as u32) % 10).collect::<Vec<_>>();
        assert_eq!(epoch_order(10, 10, 2, shuffled), shuffled(2), "whole epochs are passes");
        let taken: Vec<u32> = (1..=5).flat_map(|epoch| epoch_order(10, 4, epoch, shuffled)).collect();
        assert_eq!(taken, [shuffled(1), shuffled(2)].concat());
    }
}
