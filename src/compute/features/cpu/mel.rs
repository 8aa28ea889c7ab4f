//! Log-mel images and MFCC of mono sound, with librosa's conventions.
//!
//! `librosa.feature.melspectrogram` and `power_to_db`: frames are centred on multiples of `hop`, the sound is padded
//! with zeros on both ends (`center=True, pad_mode="constant"`), the window is a periodic Hann window as long as the
//! FFT, the power spectrum is summed by triangles of equal area (`norm="slaney"`) for both mel scales, and decibels
//! are relative to 1. The spectrum is computed in f64: next to a loud tone, f32 rounding alone would be tens of
//! decibels above the power of a quiet band.

use std::f64::consts::PI;
use std::fmt;

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

use super::spectrum::{LANES_MAX, PowerSpectra};
use crate::features::params::{MelParams, MelScale};

/// Makes log-mel images. Has the tables of the FFT, the filter bank and all scratch memory.
#[derive(Clone)]
pub struct LogMel {
    params: MelParams,
    spectra: PowerSpectra,
    filters: Vec<Filter>,
    /// Weights of all filters, one after the other.
    weights: Vec<f64>,
    /// The sound with zeros on both ends, and 0 in place of NaN and infinity.
    padded: Vec<f64>,
}

/// The bins of one band with non-zero weights.
#[derive(Clone, Copy, Debug)]
struct Filter {
    first: usize,
    bins: usize,
}

impl fmt::Debug for LogMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMel").field("params", &self.params).finish_non_exhaustive()
    }
}

impl LogMel {
    /// Makes the tables.
    ///
    /// # Errors
    /// One line saying which parameter is wrong and what is allowed ([`MelParams::validate`]).
    pub fn new(params: &MelParams) -> Result<Self, String> {
        params.validate()?;
        let (filters, weights) = filter_bank(params);
        Ok(Self {
            spectra: PowerSpectra::new(params.n_fft),
            filters,
            weights,
            padded: Vec::new(),
            params: params.clone(),
        })
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &MelParams {
        &self.params
    }

    /// The power spectra.
    pub(in crate::features) fn spectra(&self) -> &PowerSpectra {
        &self.spectra
    }

    /// The filter bank: first bin and number of bins per band, and the weights of all bands in order.
    pub(in crate::features) fn bank(&self) -> (impl Iterator<Item = (usize, usize)>, &[f64]) {
        (self.filters.iter().map(|f| (f.first, f.bins)), &self.weights)
    }

    /// Columns of the image of `samples` samples: `1 + samples / hop`.
    pub fn columns(&self, samples: usize) -> usize {
        1 + samples / self.params.hop
    }

    /// Writes decibels: `out` is `bands` × `columns(samples.len())`, row-major, lowest band first. They are within 0.00005 dB
    /// of the logarithm of [`LogMel::power`].
    ///
    /// Power is raised to `floor` before the logarithm; with `top_db`, everything is raised to that far below the
    /// image's maximum. Samples that are not finite count as 0, so the image is always finite.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn compute(&mut self, samples: &[f32], out: &mut [f32]) {
        self.power(samples, out);
        Arch::new().dispatch(Decibels { floor: self.params.floor, top_db: self.params.top_db, image: out });
    }

    /// Writes mel power (librosa's `melspectrogram` with `power=2`), shaped as in [`LogMel::compute`].
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn power(&mut self, samples: &[f32], out: &mut [f32]) {
        let (columns, half) = (self.columns(samples.len()), self.params.n_fft / 2);
        assert_eq!(out.len(), columns * self.params.bands, "a mel image is bands x columns");
        // The last vector of frames may reach beyond the last column.
        let end = (columns + LANES_MAX - 2) * self.params.hop + self.params.n_fft;
        self.padded.clear();
        self.padded.resize(half, 0.0);
        self.padded.extend(samples.iter().map(|s| if s.is_finite() { f64::from(*s) } else { 0.0 }));
        self.padded.resize(end.max(self.padded.len()), 0.0);
        Arch::new().dispatch(Bands { mel: self, columns, out });
    }
}

/// Fills an image with mel power, a task for [`Arch::dispatch`].
struct Bands<'a> {
    mel: &'a mut LogMel,
    columns: usize,
    out: &'a mut [f32],
}

impl WithSimd for Bands<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { mel, columns, out } = self;
        let (lanes, hop) = (S::F64_LANES, mel.params.hop);
        for column in (0..columns).step_by(lanes) {
            let power = mel.spectra.compute(simd, &mel.padded[column * hop..], hop);
            let (power, _) = S::as_simd_f64s(power);
            let mut weights = &mel.weights[..];
            for (filter, row) in mel.filters.iter().zip(out.chunks_exact_mut(columns)) {
                let (own, rest) = weights.split_at(filter.bins);
                weights = rest;
                let mut sum = simd.splat_f64s(0.0);
                for (&p, &w) in power[filter.first..].iter().zip(own) {
                    sum = simd.add_f64s(sum, simd.mul_f64s(p, simd.splat_f64s(w)));
                }
                let mut sums = [0.0; LANES_MAX];
                S::as_mut_simd_f64s(&mut sums).0[0] = simd.min_f64s(sum, simd.splat_f64s(f64::from(f32::MAX)));
                let row = &mut row[column..];
                match row.first_chunk_mut::<LANES_MAX>() {
                    Some(row) if lanes == LANES_MAX => *row = sums.map(|s| s as f32),
                    _ => row.iter_mut().zip(&sums[..lanes]).for_each(|(o, s)| *o = *s as f32),
                }
            }
        }
    }
}

/// Turns power into decibels, a task for [`Arch::dispatch`].
struct Decibels<'a> {
    floor: f32,
    top_db: Option<f32>,
    image: &'a mut [f32],
}

impl NullaryFnOnce for Decibels<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { floor, top_db, image } = self;
        let mut loudest = [f32::NEG_INFINITY; 16];
        let (wide, tail) = image.as_chunks_mut::<16>();
        for values in wide {
            for (v, loudest) in values.iter_mut().zip(&mut loudest) {
                *v = decibels(larger(*v, floor));
                *loudest = larger(*v, *loudest);
            }
        }
        for v in tail {
            *v = decibels(larger(*v, floor));
            loudest[0] = larger(*v, loudest[0]);
        }
        if let Some(top_db) = top_db {
            let quietest = loudest.into_iter().fold(f32::NEG_INFINITY, larger) - top_db;
            image.iter_mut().for_each(|v| *v = larger(*v, quietest));
        }
    }
}

/// The larger of two numbers, neither of them NaN: one instruction, unlike `f32::max`.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// 10 log10 of a normal positive number, without calls, branches or tables, so that the compiler vectorises loops over it.
///
/// The number is 2^e m with m from √½ to √2; ln m is 2 artanh s with s = (m - 1) / (m + 1), |s| below 0.172, by its series
/// up to s⁹ (the remainder is below 10⁻⁹). The rest of the error is rounding: below 0.00005 dB for any `f32`, and
#[inline(always)]
fn decibels(power: f32) -> f32 {
    const ROOT_HALF: u32 = 0x3f35_04f3;
    const PER_OCTAVE: f32 = 3.010_3;
    const PER_E: f32 = 4.342_944_8;
    let bits = power.to_bits().wrapping_sub(ROOT_HALF);
    let exponent = (bits.cast_signed() >> 23) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff) + ROOT_HALF);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = 2.0 + z * (2.0 / 3.0 + z * (2.0 / 5.0 + z * (2.0 / 7.0 + z * (2.0 / 9.0))));
    exponent * PER_OCTAVE + s * series * PER_E
}

/// Mel-frequency cepstral coefficients: the orthonormal DCT-II of every column of a log-mel image, as
/// `librosa.feature.mfcc`.
#[derive(Clone, Debug)]
pub struct Mfcc {
    mel: LogMel,
    /// `coefficients` × `bands`.
    basis: Vec<f64>,
    coefficients: usize,
    decibels: Vec<f32>,
    sums: Vec<f64>,
}

impl Mfcc {
    /// The coefficient count of the study Touchline follows.
    pub const COEFFICIENTS: usize = 33;

    /// Makes the tables.
    ///
    /// # Errors
    /// One line if `params` is wrong ([`MelParams::validate`]) or `coefficients` is not 1 to `params.bands`.
    pub fn new(params: &MelParams, coefficients: usize) -> Result<Self, String> {
        let mel = LogMel::new(params)?;
        if coefficients == 0 || coefficients > params.bands {
            return Err(format!("coefficients = {coefficients}: must be 1 to mel.bands ({})", params.bands));
        }
        let bands = params.bands as f64;
        let basis = (0..coefficients)
            .flat_map(|k| {
                let norm = if k == 0 { (1.0 / bands).sqrt() } else { (2.0 / bands).sqrt() };
                (0..params.bands).map(move |n| norm * (PI * k as f64 * (n as f64 + 0.5) / bands).cos())
            })
            .collect();
        Ok(Self { mel, basis, coefficients, decibels: Vec::new(), sums: Vec::new() })
    }

    /// The log-mel part, and the basis, coefficients × bands.
    pub(in crate::features) fn parts(&self) -> (&LogMel, &[f64]) {
        (&self.mel, &self.basis)
    }

    /// Coefficients per column.
    pub fn coefficients(&self) -> usize {
        self.coefficients
    }

    /// Columns for `samples` samples: `1 + samples / hop`.
    pub fn columns(&self, samples: usize) -> usize {
        self.mel.columns(samples)
    }

    /// `out` is `coefficients` × `columns(samples.len())`, row-major.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn compute(&mut self, samples: &[f32], out: &mut [f32]) {
        let columns = self.columns(samples.len());
        let bands = self.mel.params.bands;
        assert_eq!(out.len(), columns * self.coefficients, "cepstra are coefficients x columns");
        self.decibels.resize(bands * columns, 0.0);
        self.mel.compute(samples, &mut self.decibels);
        // In f64, since high coefficients are small differences of large sums.
        self.sums.resize(columns, 0.0);
        for (out, basis) in out.chunks_exact_mut(columns).zip(self.basis.chunks_exact(bands)) {
            self.sums.fill(0.0);
            for (row, &weight) in self.decibels.chunks_exact(columns).zip(basis) {
                for (sum, &v) in self.sums.iter_mut().zip(row) {
                    *sum += f64::from(v) * weight;
                }
            }
            for (o, &sum) in out.iter_mut().zip(&self.sums) {
                *o = sum as f32;
            }
        }
    }
}

/// Triangles between neighbouring mel frequencies, each of area 1 on the Hz axis (times 1 Hz per bin width); and the
/// weights of their bins.
fn filter_bank(params: &MelParams) -> (Vec<Filter>, Vec<f64>) {
    let (low, high) = (to_mel(params.f_min.into(), params.scale), to_mel(params.f_max.into(), params.scale));
    let edge = |i: usize| to_hz(low + (high - low) * i as f64 / (params.bands + 1) as f64, params.scale);
    let bin = |k: usize| k as f64 * f64::from(params.sample_rate) / params.n_fft as f64;
    let mut weights = Vec::new();
    let filters = (0..params.bands).map(|band| {
        let (left, peak, right) = (edge(band), edge(band + 1), edge(band + 2));
        let weight = |k: usize| {
            let (rising, falling) = ((bin(k) - left) / (peak - left), (right - bin(k)) / (right - peak));
            rising.min(falling).max(0.0) * 2.0 / (right - left)
        };
        let bins = params.n_fft / 2 + 1;
        let first = (0..bins).find(|&k| weight(k) > 0.0).unwrap_or(0);
        let before = weights.len();
        weights.extend((first..bins).map(weight).take_while(|&w| w > 0.0));
        Filter { first, bins: weights.len() - before }
    });
    (filters.collect(), weights)
}

/// Slaney's scale: linear up to this, Hz; and how many mels that is.
const LINEAR_TO_HZ: f64 = 1000.0;
const LINEAR_TO_MEL: f64 = 15.0;

/// Slaney's scale above 1 kHz: 27 mels multiply the frequency by 6.4.
fn log_step() -> f64 {
    6.4f64.ln() / 27.0
}

fn to_mel(hz: f64, scale: MelScale) -> f64 {
    match scale {
        MelScale::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
        MelScale::Slaney if hz < LINEAR_TO_HZ => hz * LINEAR_TO_MEL / LINEAR_TO_HZ,
        MelScale::Slaney => LINEAR_TO_MEL + (hz / LINEAR_TO_HZ).ln() / log_step(),
    }
}

fn to_hz(mel: f64, scale: MelScale) -> f64 {
    match scale {
        MelScale::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
        MelScale::Slaney if mel < LINEAR_TO_MEL => mel * LINEAR_TO_HZ / LINEAR_TO_MEL,
        MelScale::Slaney => LINEAR_TO_HZ * ((mel - LINEAR_TO_MEL) * log_step()).exp(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> MelParams {
        MelParams {
            sample_rate: 16_000,
            n_fft: 512,
            hop: 160,
            bands: 40,
            f_min: 20.0,
            f_max: 8000.0,
            scale: MelScale::Slaney,
            floor: 1e-10,
            top_db: Some(80.0),
        }
    }

    fn image(mel: &mut LogMel, samples: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; mel.params.bands * mel.columns(samples.len())];
        mel.compute(samples, &mut out);
        out
    }

    #[test]
    fn mel_scales_are_invertible_and_have_known_values() {
        for scale in [MelScale::Slaney, MelScale::Htk] {
            for hz in [0.0, 20.0, 440.0, 999.0, 1000.0, 1001.0, 4000.0, 16_000.0] {
                assert!((to_hz(to_mel(hz, scale), scale) - hz).abs() < 1e-8 * (1.0 + hz), "{scale:?} {hz}");
            }
        }
        assert!((to_mel(1000.0, MelScale::Slaney) - 15.0).abs() < 1e-12);
        assert!((to_mel(1000.0, MelScale::Htk) - 999.985_538).abs() < 1e-5);
    }

    #[test]
    fn silence_is_flat_and_finite() {
        let mut mel = LogMel::new(&params()).unwrap();
        for samples in [0, 1, 159, 160, 16_000] {
            let out = image(&mut mel, &vec![0.0; samples]);
            assert!(out.iter().all(|&v| (v + 100.0).abs() < 1e-4));
        }
    }

    #[test]
    fn samples_that_are_not_finite_count_as_zero() {
        let mut mel = LogMel::new(&params()).unwrap();
        let clean: Vec<f32> = (0..4000).map(|i| if i % 500 == 3 { 0.0 } else { (i as f32 * 0.3).sin() }).collect();
        let broken = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let dirty: Vec<f32> =
            clean.iter().enumerate().map(|(i, &v)| if i % 500 == 3 { broken[i % 3] } else { v }).collect();
        assert_eq!(image(&mut mel, &clean), image(&mut mel, &dirty));
        assert!(image(&mut mel, &[f32::MAX; 700]).iter().all(|v| v.is_finite()));
    }

    #[test]
    fn a_tone_is_loudest_in_its_band_and_the_range_is_clipped() {
        let mut mel = LogMel::new(&params()).unwrap();
        let tone: Vec<f32> = (0..16_000).map(|i| (2.0 * PI * 1000.0 * f64::from(i) / 16_000.0).sin() as f32).collect();
        let out = image(&mut mel, &tone);
        let columns = mel.columns(tone.len());
        assert_eq!(columns, 101);
        let column: Vec<f32> = (0..40).map(|band| out[band * columns + 50]).collect();
        let loudest = (0..40).max_by(|&a, &b| column[a].total_cmp(&column[b])).unwrap();
        let (low, high) = (to_mel(20.0, MelScale::Slaney), to_mel(8000.0, MelScale::Slaney));
        let want = (15.0 - low) / (high - low) * 41.0 - 1.0;
        assert!((loudest as f64 - want).abs() <= 0.5, "band {loudest}, expected about {want}");
        let (max, min) = out.iter().fold((f32::MIN, f32::MAX), |(a, b), &v| (a.max(v), b.min(v)));
        assert!((max - min - 80.0).abs() < 1e-3);
    }

    #[test]
    fn decibels_match_the_logarithm() {
        let mut worst = 0f64;
        for bits in (f32::MIN_POSITIVE.to_bits()..f32::MAX.to_bits()).step_by(4999) {
            let power = f32::from_bits(bits);
            worst = worst.max((f64::from(decibels(power)) - 10.0 * f64::from(power).log10()).abs());
        }
        assert!(worst < 5e-5, "off by {worst} dB");
    }

    #[test]
    fn no_state_is_kept_between_calls() {
        let mut mel = LogMel::new(&params()).unwrap();
        let noise: Vec<f32> = (0..9000).map(|i| ((i * 7919 % 1013) as f32 / 506.5) - 1.0).collect();
        let first = image(&mut mel, &noise[..1234]);
        image(&mut mel, &noise);
        assert_eq!(first, image(&mut mel, &noise[..1234]));
    }

    #[test]
    fn mfcc_of_a_flat_column_is_its_mean_only() {
        let mut mfcc = Mfcc::new(&params(), Mfcc::COEFFICIENTS).unwrap();
        let mut out = vec![f32::NAN; 33 * mfcc.columns(500)];
        mfcc.compute(&[0.0; 500], &mut out);
        let columns = mfcc.columns(500);
        for (i, v) in out.iter().enumerate() {
            let want = if i < columns { -100.0 * 40f32.sqrt() } else { 0.0 };
            assert!((v - want).abs() < 1e-2, "{i}: {v}");
        }
        assert!(Mfcc::new(&params(), 41).is_err() && Mfcc::new(&params(), 0).is_err());
    }
}
