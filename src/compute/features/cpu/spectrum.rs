//! Power spectra of overlapping frames of sound, several at once: a SIMD vector holds the same sample of several frames.
//!
//! The FFT of a single frame spends most of its time shuffling values within vectors. Frames side by side need no shuffles,
//! since all go through the same butterflies. Products and sums are never contracted
//! (no fused multiply-add), so the numbers do not depend on how wide the processor's vectors are, nor on which frames
//! lie next to each other.

use std::f64::consts::PI;
use std::sync::Arc;

use pulp::Simd;
use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// The most frames side by side: `f64` lanes of the widest vector.
pub(super) const LANES_MAX: usize = 8;

/// Makes the power spectra of frames of one size, Hann-windowed.
#[derive(Clone)]
pub(in crate::features) struct PowerSpectra {
    size: usize,
    window: Vec<f64>,
    transform: SpectrumTransform,
    /// Frame after frame while windowed, bin after bin once transformed: `power[bin * lanes + lane]`.
    power: Vec<f64>,
}

#[derive(Clone)]
enum SpectrumTransform {
    /// Powers of two.
    Together(Box<Butterflies>),
    /// Any other even size, frame by frame.
    Alone { fft: Arc<dyn RealToComplex<f64>>, frame: Vec<f64>, spectrum: Vec<Complex<f64>>, scratch: Vec<Complex<f64>> },
}

/// The tables of a transform, for the GPU.
pub(in crate::features) enum SpectrumTables<'a> {
    /// A real transform by a complex one of half as many samples: see [`Butterflies`].
    Together { twiddles: &'a [[f64; 6]], unfold: &'a [[f64; 2]], place: &'a [u32] },
    /// By the definition: cosine and sine of 2π k / size.
    Alone { turns: Vec<[f64; 2]> },
}

impl PowerSpectra {
    /// The window, with a factor of ½ in it where the transform is [`SpectrumTables::Together`], and the transform's.
    pub(in crate::features) fn tables(&self) -> (&[f64], SpectrumTables<'_>) {
        let transform = match &self.transform {
            SpectrumTransform::Together(b) => {
                SpectrumTables::Together { twiddles: &b.twiddles, unfold: &b.unfold, place: &b.place }
            }
            SpectrumTransform::Alone { .. } => {
                let turn = |k: usize| 2.0 * PI * k as f64 / self.size as f64;
                SpectrumTables::Alone { turns: (0..self.size).map(|k| [turn(k).cos(), turn(k).sin()]).collect() }
            }
        };
        (&self.window, transform)
    }

    /// `size`: samples of a frame, even.
    pub fn new(size: usize) -> Self {
        let hann = |n: usize| 0.5 - 0.5 * (2.0 * PI * n as f64 / size as f64).cos();
        let mut window: Vec<f64> = (0..size).map(hann).collect();
        let transform = if size.is_power_of_two() && size >= 16 {
            // The half that unfolding would have to take.
            window.iter_mut().for_each(|w| *w *= 0.5);
            SpectrumTransform::Together(Box::new(Butterflies::new(size / 2)))
        } else {
            let fft = RealFftPlanner::new().plan_fft_forward(size);
            let (frame, spectrum, scratch) = (fft.make_input_vec(), fft.make_output_vec(), fft.make_scratch_vec());
            SpectrumTransform::Alone { fft, frame, spectrum, scratch }
        };
        Self { size, window, transform, power: vec![0.0; (size / 2 + 1) * LANES_MAX] }
    }

    /// The power spectra of `S::F64_LANES` frames, the first at the start of `sound` and each `hop` samples after the
    /// one before: bin after bin, in each bin frame after frame.
    ///
    /// # Panics
    /// If `sound` is too short for them.
    #[inline(always)]
    pub fn compute<S: Simd>(&mut self, simd: S, sound: &[f64], hop: usize) -> &[f64] {
        let lanes = S::F64_LANES;
        let frame = |lane: usize| &sound[lane * hop..lane * hop + self.size];
        match &mut self.transform {
            SpectrumTransform::Together(butterflies) => {
                butterflies.load(simd, sound, hop, &self.window);
                butterflies.transform(simd);
                butterflies.power(simd, &mut self.power);
            }
            SpectrumTransform::Alone { fft, frame: windowed, spectrum, scratch } => {
                for lane in 0..lanes {
                    for ((to, &sample), w) in windowed.iter_mut().zip(frame(lane)).zip(&self.window) {
                        *to = sample * w;
                    }
                    fft.process_with_scratch(windowed, spectrum, scratch).expect("the buffers were made by the plan");
                    for (power, c) in self.power[lane..].iter_mut().step_by(lanes).zip(spectrum.iter()) {
                        *power = c.norm_sqr();
                    }
                }
            }
        }
        &self.power[..(self.size / 2 + 1) * lanes]
    }
}

/// A real transform of twice `half` samples by a complex one of `half`: even samples are the real parts, odd ones the
/// imaginary parts. Radix 4, decimated in frequency, in place; the output is in digit-reversed order and is read in that order.
#[derive(Clone)]
struct Butterflies {
    half: usize,
    re: Vec<f64>,
    im: Vec<f64>,
    /// e^(-2πi k / n), its square and its cube, for k below n / 4: of each n there is, the largest first.
    twiddles: Vec<[f64; 6]>,
    /// e^(-2πi k / (2 half)).
    unfold: Vec<[f64; 2]>,
    /// Where each bin of the complex transform lies.
    place: Vec<u32>,
}

impl Butterflies {
    fn new(half: usize) -> Self {
        let turn = |k: usize, n: usize| {
            let angle = -2.0 * PI * k as f64 / n as f64;
            [angle.cos(), angle.sin()]
        };
        let mut twiddles = Vec::new();
        let mut n = half;
        while n >= 4 {
            twiddles.extend((0..n / 4).map(|k| {
                let [once, twice, thrice] = [1, 2, 3].map(|times| turn(times * k, n));
                [once[0], once[1], twice[0], twice[1], thrice[0], thrice[1]]
            }));
            n /= 4;
        }
        let mut place = vec![0; half];
        reversed(&mut place, 0, 0, 1, half);
        Self {
            half,
            re: vec![0.0; half * LANES_MAX],
            im: vec![0.0; half * LANES_MAX],
            twiddles,
            unfold: (0..=half / 2).map(|k| turn(k, 2 * half)).collect(),
            place,
        }
    }

    /// Takes the frames, windowed.
    #[inline(always)]
    fn load<S: Simd>(&mut self, simd: S, sound: &[f64], hop: usize, window: &[f64]) {
        let lanes = S::F64_LANES;
        let mut frames = [&[][..]; LANES_MAX];
        for (lane, frame) in frames.iter_mut().enumerate().take(lanes) {
            *frame = &sound[lane * hop..][..2 * self.half].as_chunks::<2>().0[..self.half];
        }
        let window = &window.as_chunks::<2>().0[..self.half];
        let (re, _) = S::as_mut_simd_f64s(&mut self.re[..self.half * lanes]);
        let (im, _) = S::as_mut_simd_f64s(&mut self.im[..self.half * lanes]);
        for (n, (re, im)) in re.iter_mut().zip(im).enumerate() {
            let (mut even, mut odd) = ([0.0; LANES_MAX], [0.0; LANES_MAX]);
            for lane in 0..lanes {
                [even[lane], odd[lane]] = frames[lane][n];
            }
            *re = simd.mul_f64s(S::as_simd_f64s(&even).0[0], simd.splat_f64s(window[n][0]));
            *im = simd.mul_f64s(S::as_simd_f64s(&odd).0[0], simd.splat_f64s(window[n][1]));
        }
    }

    #[inline(always)]
    fn transform<S: Simd>(&mut self, simd: S) {
        let values = self.half * S::F64_LANES;
        let (re, _) = S::as_mut_simd_f64s(&mut self.re[..values]);
        let (im, _) = S::as_mut_simd_f64s(&mut self.im[..values]);
        let (twiddles, rest) = self.twiddles.split_at(self.half / 4);
        radix_4(simd, re, im, twiddles);
        // Each quarter to its end before the next: it then stays in the nearest cache.
        let quarter = self.half / 4;
        for (re, im) in re.chunks_exact_mut(quarter).zip(im.chunks_exact_mut(quarter)) {
            let (mut n, mut rest) = (quarter, rest);
            while n >= 4 {
                let (twiddles, smaller) = rest.split_at(n / 4);
                for (re, im) in re.chunks_exact_mut(n).zip(im.chunks_exact_mut(n)) {
                    radix_4(simd, re, im, twiddles);
                }
                (n, rest) = (n / 4, smaller);
            }
            if n == 2 {
                for (re, im) in re.as_chunks_mut::<2>().0.iter_mut().zip(im.as_chunks_mut::<2>().0) {
                    *re = [simd.add_f64s(re[0], re[1]), simd.sub_f64s(re[0], re[1])];
                    *im = [simd.add_f64s(im[0], im[1]), simd.sub_f64s(im[0], im[1])];
                }
            }
        }
    }

    /// Unfolds the complex spectrum into the real one's power, bins 0 to `half`.
    #[inline(always)]
    fn power<S: Simd>(&self, simd: S, power: &mut [f64]) {
        let (re, _) = S::as_simd_f64s(&self.re[..self.half * S::F64_LANES]);
        let (im, _) = S::as_simd_f64s(&self.im[..self.half * S::F64_LANES]);
        let (power, _) = S::as_mut_simd_f64s(&mut power[..(self.half + 1) * S::F64_LANES]);
        for (k, &[wr, wi]) in self.unfold.iter().enumerate() {
            let (a, b) = (self.place[k] as usize, self.place[(self.half - k) % self.half] as usize);
            let (wr, wi) = (simd.splat_f64s(wr), simd.splat_f64s(wi));
            // Spectrum of the even samples, and of the odd ones times e^(-2πi k / (2 half)).
            let (er, ei) = (simd.add_f64s(re[a], re[b]), simd.sub_f64s(im[a], im[b]));
            let (or, oi) = (simd.add_f64s(im[a], im[b]), simd.sub_f64s(re[b], re[a]));
            let tr = simd.sub_f64s(simd.mul_f64s(wr, or), simd.mul_f64s(wi, oi));
            let ti = simd.add_f64s(simd.mul_f64s(wr, oi), simd.mul_f64s(wi, or));
            power[k] = norm(simd, simd.add_f64s(er, tr), simd.add_f64s(ei, ti));
            power[self.half - k] = norm(simd, simd.sub_f64s(er, tr), simd.sub_f64s(ei, ti));
        }
    }
}

/// One pass over `re`, `im`: four transforms of a quarter of the length are left, one in each quarter.
#[inline(always)]
fn radix_4<S: Simd>(simd: S, re: &mut [S::f64s], im: &mut [S::f64s], twiddles: &[[f64; 6]]) {
    let quarter = twiddles.len();
    let (re0, rest) = re.split_at_mut(quarter);
    let (re1, rest) = rest.split_at_mut(quarter);
    let (re2, re3) = rest.split_at_mut(quarter);
    let (im0, rest) = im.split_at_mut(quarter);
    let (im1, rest) = rest.split_at_mut(quarter);
    let (im2, im3) = rest.split_at_mut(quarter);
    let (re3, im3) = (&mut re3[..quarter], &mut im3[..quarter]);
    for k in 0..quarter {
        let (sum_re, sum_im) = (simd.add_f64s(re0[k], re2[k]), simd.add_f64s(im0[k], im2[k]));
        let (dif_re, dif_im) = (simd.sub_f64s(re0[k], re2[k]), simd.sub_f64s(im0[k], im2[k]));
        let (odd_re, odd_im) = (simd.add_f64s(re1[k], re3[k]), simd.add_f64s(im1[k], im3[k]));
        // The odd ones' difference times -i.
        let (turned_re, turned_im) = (simd.sub_f64s(im1[k], im3[k]), simd.sub_f64s(re3[k], re1[k]));
        let [r1, i1, r2, i2, r3, i3] = twiddles[k];
        (re0[k], im0[k]) = (simd.add_f64s(sum_re, odd_re), simd.add_f64s(sum_im, odd_im));
        (re1[k], im1[k]) = times(simd, simd.add_f64s(dif_re, turned_re), simd.add_f64s(dif_im, turned_im), r1, i1);
        (re2[k], im2[k]) = times(simd, simd.sub_f64s(sum_re, odd_re), simd.sub_f64s(sum_im, odd_im), r2, i2);
        (re3[k], im3[k]) = times(simd, simd.sub_f64s(dif_re, turned_re), simd.sub_f64s(dif_im, turned_im), r3, i3);
    }
}

/// (`re` + i `im`) · (`r` + i `i`). A function and not a closure, here and below: closures are not inlined into code made
/// for wider vectors, and a call there costs more than its work.
#[inline(always)]
fn times<S: Simd>(simd: S, re: S::f64s, im: S::f64s, r: f64, i: f64) -> (S::f64s, S::f64s) {
    let (r, i) = (simd.splat_f64s(r), simd.splat_f64s(i));
    (
        simd.sub_f64s(simd.mul_f64s(re, r), simd.mul_f64s(im, i)),
        simd.add_f64s(simd.mul_f64s(re, i), simd.mul_f64s(im, r)),
    )
}

#[inline(always)]
fn norm<S: Simd>(simd: S, re: S::f64s, im: S::f64s) -> S::f64s {
    simd.add_f64s(simd.mul_f64s(re, re), simd.mul_f64s(im, im))
}

/// Where a transform of `n` at `start` puts its bins, which are bins `first`, `first + step`, ... of the whole.
fn reversed(place: &mut [u32], start: usize, first: usize, step: usize, n: usize) {
    let radix = match n {
        1 => {
            place[first] = start as u32;
            return;
        }
        2 => 2,
        _ => 4,
    };
    for r in 0..radix {
        reversed(place, start + r * n / radix, first + r * step, radix * step, n / radix);
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Scalar, WithSimd};

    use super::*;

    struct Run<'a> {
        spectra: &'a mut PowerSpectra,
        sound: &'a [f64],
        hop: usize,
    }

    impl WithSimd for Run<'_> {
        /// The spectra, one per frame.
        type Output = Vec<Vec<f64>>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let power = self.spectra.compute(simd, self.sound, self.hop);
            (0..S::F64_LANES).map(|lane| power[lane..].iter().step_by(S::F64_LANES).copied().collect()).collect()
        }
    }

    fn sound(samples: usize) -> Vec<f64> {
        (0..samples).map(|i| ((i * 7919 % 1013) as f64 / 506.5) - 1.0 + (0.11 * i as f64).sin()).collect()
    }

    #[test]
    fn every_size_matches_the_definition_at_every_vector_width() {
        for size in [16, 18, 32, 64, 100, 128, 256, 400, 512, 1024, 2048] {
            let hop = size / 4 + 1;
            let sound = sound(size + LANES_MAX * hop);
            let mut spectra = PowerSpectra::new(size);
            let together = Arch::new().dispatch(Run { spectra: &mut spectra, sound: &sound, hop });
            for (lane, got) in together.iter().enumerate() {
                let frame = &sound[lane * hop..][..size];
                let alone = Run { spectra: &mut spectra, sound: frame, hop }.with_simd(Scalar::new()).remove(0);
                assert_eq!(*got, alone, "size {size}, frame {lane}");
                let total: f64 = alone.iter().sum();
                for (k, &power) in got.iter().enumerate() {
                    let (mut re, mut im) = (0.0, 0.0);
                    for (n, &sample) in frame.iter().enumerate() {
                        let angle = 2.0 * PI * (k * n % size) as f64 / size as f64;
                        let windowed = sample * (0.5 - 0.5 * (2.0 * PI * n as f64 / size as f64).cos());
                        (re, im) = (re + windowed * angle.cos(), im - windowed * angle.sin());
                    }
                    let error = (power - (re * re + im * im)).abs();
                    assert!(error < 1e-12 * total, "size {size}, frame {lane}, bin {k}: off by {error:e} of {total:e}");
                }
            }
        }
    }
}
