//! Converts a mono stream from one sample rate to another and removes the filter's delay.
//!
//! Counts samples and knows no PTS. The clip builder places the output.

use std::fmt;
use std::ops::RangeInclusive;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Async, Fft, FixedAsync, FixedSync, Indexing, Resampler, SincInterpolationParameters, WindowFunction};

/// Supported sample rates, Hz. Broadcasts use none outside this range, and an invented rate could require filters of any size.
pub const SAMPLE_RATES: RangeInclusive<u32> = 1_000..=768_000;

/// Length of the anti-alias filter in samples at the lower of the two rates: with the squared Blackman-Harris window
/// the pass band reaches 97 % of the lower Nyquist frequency and the stop band lies below the resolution of 16 bit.
const FILTER_LEN: u32 = 512;

/// Resamples a mono stream that arrives in chunks of any length.
///
/// Output sample `k` lies at the time of input sample `k * rate_in / rate_out`: the delay of the filter is removed at
/// the start, and [`StreamResampler::finish`] outputs the rest. `n` input samples give exactly
/// `ceil(n * rate_out / rate_in)` output samples, however they are divided into chunks, so nothing drifts.
///
/// Uses the `rubato` crate: its synchronous FFT resampler, whose ratio is an exact fraction, for rates
/// that have a common divisor (all the usual ones); its sinc interpolator for odd pairs such as 44,101 → 16,000 Hz,
/// whose FFT blocks would be a second long. Equal rates are copied.
pub struct StreamResampler {
    rate_in: u32,
    rate_out: u32,
    /// `None` if the rates are equal.
    engine: Option<Box<dyn Resampler<f32>>>,
    /// Input of an incomplete block.
    pending: Vec<f32>,
    /// Output of one block.
    block: Vec<f32>,
    /// Output samples to drop: the delay of the filter.
    lead: usize,
    taken: u64,
    given: u64,
}

impl fmt::Debug for StreamResampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamResampler")
            .field("rate_in", &self.rate_in)
            .field("rate_out", &self.rate_out)
            .field("taken", &self.taken)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

impl StreamResampler {
    /// A resampler from `rate_in` to `rate_out` Hz; `None` if a rate is not in [`SAMPLE_RATES`].
    pub fn new(rate_in: u32, rate_out: u32) -> Option<Self> {
        if !SAMPLE_RATES.contains(&rate_in) || !SAMPLE_RATES.contains(&rate_out) {
            return None;
        }
        let engine = if rate_in == rate_out { None } else { Some(engine(rate_in, rate_out)?) };
        let (block, lead) = engine.as_ref().map_or((0, 0), |e| (e.output_frames_max(), e.output_delay()));
        Some(Self { rate_in, rate_out, engine, pending: Vec::new(), block: vec![0.0; block], lead, taken: 0, given: 0 })
    }

    /// Input rate, Hz.
    pub fn rate_in(&self) -> u32 {
        self.rate_in
    }

    /// Output rate, Hz.
    pub fn rate_out(&self) -> u32 {
        self.rate_out
    }

    /// Takes `mono` samples (finite values) and appends the available output to `out`. The output lags behind the input by the
    /// filter's delay and up to one block, together below 0.1 s.
    pub fn push(&mut self, mono: &[f32], out: &mut Vec<f32>) {
        self.taken += mono.len() as u64;
        let Some(engine) = &mut self.engine else {
            out.extend_from_slice(mono);
            self.given += mono.len() as u64;
            return;
        };
        self.pending.extend_from_slice(mono);
        let before = out.len();
        let mut used = 0;
        while self.pending.len() - used >= engine.input_frames_next() {
            used += run_block(engine.as_mut(), &self.pending[used..], None, &mut self.block, &mut self.lead, out);
        }
        self.pending.drain(..used);
        self.given += (out.len() - before) as u64;
    }

    /// Appends the rest of the output to `out` and prepares for another stream at the same rates.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        let total = self.total();
        if let Some(engine) = &mut self.engine {
            while self.given < total {
                let before = out.len();
                let rest = Some(self.pending.len());
                run_block(engine.as_mut(), &self.pending, rest, &mut self.block, &mut self.lead, out);
                self.pending.clear();
                let wanted = usize::try_from(total - self.given).unwrap_or(usize::MAX);
                out.truncate(before.saturating_add(wanted));
                self.given += (out.len() - before) as u64;
            }
            engine.reset();
            self.lead = engine.output_delay();
        }
        self.pending.clear();
        self.taken = 0;
        self.given = 0;
    }

    /// Number of output samples for the input so far.
    fn total(&self) -> u64 {
        let scaled = u128::from(self.taken) * u128::from(self.rate_out);
        scaled.div_ceil(u128::from(self.rate_in)) as u64
    }
}

/// Resamples a whole mono signal of `rate_in` Hz: `ceil(len * rate_out / rate_in)` samples; `None` if a rate is not
/// in [`SAMPLE_RATES`].
pub fn resample(mono: &[f32], rate_in: u32, rate_out: u32) -> Option<Vec<f32>> {
    let mut resampler = StreamResampler::new(rate_in, rate_out)?;
    let mut out = Vec::new();
    resampler.push(mono, &mut out);
    resampler.finish(&mut out);
    Some(out)
}

/// Processes one block. With `partial`, only that many samples exist and the rest is silence. Returns how much input was used.
fn run_block(
    engine: &mut dyn Resampler<f32>,
    input: &[f32],
    partial: Option<usize>,
    block: &mut [f32],
    lead: &mut usize,
    out: &mut Vec<f32>,
) -> usize {
    let capacity = block.len();
    let indexing = partial.map(|len| Indexing::new().partial_len(len));
    let source = InterleavedSlice::new(input, 1, input.len()).expect("one channel has as many values as frames");
    let mut target = InterleavedSlice::new_mut(block, 1, capacity).expect("one channel has as many values as frames");
    let (took, made) = engine
        .process_into_buffer(&source, &mut target, indexing.as_ref())
        .expect("the buffers have the sizes that the resampler requires");
    let skip = made.min(*lead);
    *lead -= skip;
    out.extend_from_slice(&block[skip..made]);
    took
}

fn engine(rate_in: u32, rate_out: u32) -> Option<Box<dyn Resampler<f32>>> {
    let divisor = gcd(rate_in, rate_out);
    let (unit_in, unit_out) = (rate_in / divisor, rate_out / divisor);
    let lower = rate_in.min(rate_out);
    // A very low rate has a shorter filter, so that the delay stays below a tenth of a second.
    let wanted = FILTER_LEN.min((lower / 16).next_power_of_two());
    // Doubled until long enough: even, so that half a block is a whole number of samples, and efficient for the FFT.
    let mut blocks = 2;
    while unit_in.min(unit_out) * blocks < wanted {
        blocks *= 2;
    }
    let frames_in = unit_in.checked_mul(blocks)?;
    if frames_in <= rate_in / 10 {
        let fft = Fft::new_custom(
            rate_in as usize,
            rate_out as usize,
            frames_in as usize,
            1,
            1,
            WindowFunction::BlackmanHarris2,
            FixedSync::Both,
        );
        return fft.ok().map(|e| Box::new(e) as Box<dyn Resampler<f32>>);
    }
    let ratio = f64::from(rate_out) / f64::from(rate_in);
    // The interpolator counts its filter at the input rate.
    let taps = (f64::from(wanted) / ratio.min(1.0)).ceil() as usize;
    let parameters = SincInterpolationParameters::new(taps, WindowFunction::BlackmanHarris2);
    let chunk = (rate_in / 50).max(1) as usize;
    let sinc = Async::new_sinc(ratio, 1.0, &parameters, chunk, 1, FixedAsync::Input);
    sinc.ok().map(|e| Box::new(e) as Box<dyn Resampler<f32>>)
}

const fn gcd(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rate pairs of broadcast and file sound, an odd one and the extremes.
    const PAIRS: [(u32, u32); 12] = [
        (44_100, 16_000),
        (48_000, 16_000),
        (48_000, 32_000),
        (44_100, 32_000),
        (16_000, 32_000),
        (32_000, 32_000),
        (22_050, 16_000),
        (96_000, 16_000),
        (8_000, 16_000),
        (44_101, 16_000),
        (11_127, 32_000),
        (192_000, 22_050),
    ];

    #[test]
    fn an_impulse_keeps_its_position() {
        for (rate_in, rate_out) in PAIRS {
            for at_ms in [0u32, 3, 500, 990] {
                let mut input = vec![0.0f32; rate_in as usize];
                let at = at_ms as usize * rate_in as usize / 1000;
                input[at] = 1.0;
                let output = resample(&input, rate_in, rate_out).expect("the rates are supported");
                assert_eq!(output.len(), rate_out as usize, "{rate_in} -> {rate_out}");
                let peak = (0..output.len()).max_by(|&a, &b| output[a].abs().total_cmp(&output[b].abs())).unwrap();
                let wanted = at as f64 * f64::from(rate_out) / f64::from(rate_in);
                // The interpolator of odd pairs reports its delay in whole samples, so its error is up to one sample larger.
                let tolerance = if gcd(rate_in, rate_out) < 10 { 1.6 } else { 0.51 };
                assert!((peak as f64 - wanted).abs() <= tolerance, "{rate_in} -> {rate_out}: {peak} for {wanted}");
            }
        }
    }

    #[test]
    fn the_division_of_the_input_does_not_matter() {
        for (rate_in, rate_out) in [(44_100, 16_000), (16_000, 32_000), (44_101, 16_000), (32_000, 32_000)] {
            let input: Vec<f32> = (0..30_001).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
            let whole = resample(&input, rate_in, rate_out).unwrap();
            assert_eq!(whole.len() as u64, (30_001 * u64::from(rate_out)).div_ceil(u64::from(rate_in)));
            let mut resampler = StreamResampler::new(rate_in, rate_out).unwrap();
            // Twice, because finish prepares for another stream.
            for _ in 0..2 {
                let (mut pieces, mut rest, mut len) = (Vec::new(), &input[..], 1);
                while !rest.is_empty() {
                    let (piece, tail) = rest.split_at(len.min(rest.len()));
                    resampler.push(piece, &mut pieces);
                    (rest, len) = (tail, len % 1700 + 13);
                }
                resampler.finish(&mut pieces);
                assert_eq!(pieces, whole, "{rate_in} -> {rate_out}");
            }
        }
    }

    #[test]
    fn tones_above_the_new_nyquist_are_removed_and_tones_below_are_kept() {
        let tone = |rate: u32, hz: f64| -> Vec<f32> {
            (0..rate).map(|i| (std::f64::consts::TAU * hz * f64::from(i) / f64::from(rate)).sin() as f32).collect()
        };
        let rms = |x: &[f32]| (x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
        for rate_in in [44_100, 48_000, 44_101] {
            let high = resample(&tone(rate_in, 9_000.0), rate_in, 16_000).unwrap();
            assert!(rms(&high[1000..15_000]) < 1e-4, "{rate_in}: {}", rms(&high[1000..15_000]));
            let low = resample(&tone(rate_in, 7_300.0), rate_in, 16_000).unwrap();
            assert!((rms(&low[1000..15_000]) - 0.5f64.sqrt()).abs() < 1e-3, "{rate_in}");
        }
    }

    #[test]
    fn empty_input_gives_empty_output_and_impossible_rates_are_refused() {
        assert_eq!(resample(&[], 44_100, 16_000), Some(Vec::new()));
        assert_eq!(resample(&[0.5], 48_000, 16_000).map(|v| v.len()), Some(1));
        for rate in [0, 1, 999, 768_001, u32::MAX] {
            assert!(StreamResampler::new(rate, 16_000).is_none() && StreamResampler::new(48_000, rate).is_none());
        }
        for (a, b) in [(1_000, 768_000), (768_000, 1_000), (1_001, 767_999), (767_999, 1_001)] {
            assert!(resample(&[0.0; 100], a, b).is_some());
        }
    }
}
