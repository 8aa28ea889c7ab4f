//! The filter of a scaler along one axis.

/// Most input values of one output value, as in GStreamer.
const COUNT_MAX: usize = 128;

/// The filter that scales `input` values to `output` values as GStreamer's scalers do with all taps (`bilinear2`).
///
/// It is a triangle over twice `input / output` values, rounded up to a whole number and at least two. With an odd number, the window
/// begins at the same place as with the next smaller one, so a value at its end that the triangle just reaches is left out. Values beyond the
/// edge are those at the edge. A plane of exactly half the size has the mean of each two values instead.
#[derive(Debug)]
pub(super) struct ScaleFilter {
    /// For each output value the first input value that it is made of.
    firsts: Vec<usize>,
    /// Weights of each output value.
    count: usize,
    weights: Vec<i16>,
}

impl ScaleFilter {
    /// The weights of each output value are integers with the sum `one`. There are equally many for each, a multiple of `lanes`; zeros fill up.
    pub fn new(input: usize, output: usize, one: i16, lanes: usize) -> Self {
        let ratio = input as f64 / output as f64;
        Self::with_width((2.0 * ratio.max(1.0)).ceil() as usize, input, output, one, lanes)
    }

    /// As [`ScaleFilter::new`], for a plane of exactly half the size.
    pub fn half(input: usize, output: usize, one: i16, lanes: usize) -> Self {
        Self::with_width(2, input, output, one, lanes)
    }

    fn with_width(width: usize, input: usize, output: usize, one: i16, lanes: usize) -> Self {
        let (ratio, width) = (input as f64 / output as f64, width.min(COUNT_MAX));
        let window = width.min(input);
        let last = input as i64 - 1;
        let all: Vec<(usize, Vec<i16>)> = (0..output)
            .map(|at| {
                let centre = ((at as f64 + 0.5) * ratio - 0.5).clamp(0.0, last as f64);
                let from = centre.floor() as i64 - (window as i64 - 1) / 2;
                let first = from.clamp(0, last);
                let mut parts = vec![0.0; window];
                for place in from..from + window as i64 {
                    let part = 1.0 - (place as f64 - centre).abs() / (width as f64 / 2.0);
                    parts[(place.clamp(0, last) - first) as usize] += part.max(0.0);
                }
                let (zeros, weights) = rounded(&parts, f64::from(one));
                (first as usize + zeros, weights)
            })
            .collect();
        let count = all.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0).next_multiple_of(lanes);
        let mut weights = Vec::with_capacity(count * output);
        for (_, some) in &all {
            weights.extend_from_slice(some);
            weights.resize(weights.len().next_multiple_of(count), 0);
        }
        Self { firsts: all.iter().map(|(first, _)| *first).collect(), count, weights }
    }

    /// Whether every output value is its input value.
    pub fn is_identity(&self, input: usize) -> bool {
        self.firsts.len() == input && self.firsts.iter().enumerate().all(|(at, first)| at == *first)
    }

    /// For each output value the first input value that it is made of.
    pub fn firsts(&self) -> &[usize] {
        &self.firsts
    }

    /// Weights of each output value.
    pub fn count(&self) -> usize {
        self.count
    }

    /// [`ScaleFilter::count`] weights for each output value.
    pub fn weights(&self) -> &[i16] {
        &self.weights
    }
}

/// `parts` as integers with the sum `one`, without the zeros at both ends, and the number of zeros at the beginning. The sum of the first
/// parts is rounded and not each part, so that no error adds up.
fn rounded(parts: &[f64], one: f64) -> (usize, Vec<i16>) {
    let total: f64 = parts.iter().sum();
    let (mut sum, mut before) = (0.0, 0);
    let mut weights = Vec::with_capacity(parts.len());
    for part in parts {
        sum += part;
        let up_to = (one * sum / total).round() as i16;
        weights.push(up_to - before);
        before = up_to;
    }
    let zeros = weights.iter().take_while(|weight| **weight == 0).count();
    weights.drain(..zeros);
    while weights.last() == Some(&0) {
        weights.pop();
    }
    (zeros, weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weights of the output value `at`.
    fn weights(filter: &ScaleFilter, at: usize) -> (usize, &[i16]) {
        (filter.firsts[at], &filter.weights[at * filter.count..][..filter.count])
    }

    #[test]
    fn weights_add_up_and_stay_inside() {
        for (input, output) in [(1080, 256), (1920, 455), (7, 7), (3, 5), (1, 1), (8640, 16), (5, 1), (1, 4)] {
            let filter = ScaleFilter::new(input, output, 256, 4);
            assert!(filter.count().is_multiple_of(4));
            for at in 0..output {
                let (first, weights) = weights(&filter, at);
                let sum: i32 = weights.iter().map(|weight| i32::from(*weight)).sum();
                assert_eq!(sum, 256, "{input} to {output}, {at}");
                assert!(weights.iter().all(|weight| *weight >= 0));
                let used = weights.iter().rposition(|weight| *weight > 0).unwrap();
                assert!(first + used < input, "{input} to {output}, {at}");
            }
            assert_eq!(filter.firsts().len(), output);
            assert_eq!(filter.is_identity(input), input == output);
        }
    }

    #[test]
    fn a_triangle_is_centred_on_its_value() {
        // Half the size: two values on each side, at distances of a half and of one and a half of two.
        assert_eq!(weights(&ScaleFilter::new(8, 4, 256, 1), 1), (1, &[32, 96, 96, 32][..]));
        assert_eq!(weights(&ScaleFilter::half(8, 4, 256, 1), 1), (2, &[128, 128][..]));
        // At the edge the values beyond it are the first one.
        assert_eq!(weights(&ScaleFilter::new(8, 4, 256, 1), 0), (0, &[128, 96, 32, 0][..]));
        // Twice the size: between two values.
        assert_eq!(weights(&ScaleFilter::new(2, 4, 256, 1), 1), (0, &[192, 64][..]));
        // Two thirds of the size: a triangle over three values, and a fourth one that it just reaches is left out.
        assert_eq!(weights(&ScaleFilter::new(6, 4, 256, 1), 1), (1, &[96, 160, 0][..]));
    }
}
