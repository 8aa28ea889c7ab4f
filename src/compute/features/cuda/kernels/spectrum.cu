// Power spectra of overlapping pieces of sound. Mirrors cpu/spectrum.rs, whose tables it takes: in f64, since next to a loud
// tone f32 rounding alone would be tens of decibels above what a quiet band holds.
//
// Block x: the column. y: the sound. Sounds lie in one buffer, `samples` long each, one after the other. Power comes out as
// [sound][column][bin].

// Sample n of the frame around multiple `column` of the hop: zeros on both ends, and 0 in place of NaN and infinity.
__device__ inline double sample(const float* sound, int samples, int column, int hop, int size, int n) {
    const int at = column * hop - size / 2 + n;
    if (at < 0 || at >= samples) return 0.0;
    const float value = sound[at];
    return is_finite(value) ? (double)value : 0.0;
}

// Powers of two: a real transform of `size` samples by a complex one of half as many, radix 4, decimated in frequency, in
// place. `twiddles`: six numbers a butterfly of each length, the largest first. `place`: where each bin of the complex
// transform lies. Shared memory: `size` f64.
extern "C" __global__ void spectrum_together(const float* sounds, int samples, int hop, int size, const double* window,
                                             const double* twiddles, const double* unfold, const u32* place,
                                             double* power) {
    SHARED_MEMORY(memory);
    const int half = size / 2;
    double* re = (double*)memory;
    double* im = re + half;
    const float* sound = sounds + (u64)blockIdx.y * samples;
    const int column = blockIdx.x;
    for (int n = threadIdx.x; n < half; n += blockDim.x) {
        re[n] = sample(sound, samples, column, hop, size, 2 * n) * window[2 * n];
        im[n] = sample(sound, samples, column, hop, size, 2 * n + 1) * window[2 * n + 1];
    }
    __syncthreads();

    int n = half;
    for (; n >= 4; n /= 4) {
        const int quarter = n / 4;
        for (int i = threadIdx.x; i < half / 4; i += blockDim.x) {
            const int k = i % quarter;
            const int at0 = i / quarter * n + k;
            const int at1 = at0 + quarter;
            const int at2 = at1 + quarter;
            const int at3 = at2 + quarter;
            const double sum_re = re[at0] + re[at2], sum_im = im[at0] + im[at2];
            const double dif_re = re[at0] - re[at2], dif_im = im[at0] - im[at2];
            const double odd_re = re[at1] + re[at3], odd_im = im[at1] + im[at3];
            // The odd ones' difference times -i.
            const double turned_re = im[at1] - im[at3], turned_im = re[at3] - re[at1];
            const double* w = twiddles + 6 * k;
            re[at0] = sum_re + odd_re;
            im[at0] = sum_im + odd_im;
            const double a_re = dif_re + turned_re, a_im = dif_im + turned_im;
            re[at1] = a_re * w[0] - a_im * w[1];
            im[at1] = a_re * w[1] + a_im * w[0];
            const double b_re = sum_re - odd_re, b_im = sum_im - odd_im;
            re[at2] = b_re * w[2] - b_im * w[3];
            im[at2] = b_re * w[3] + b_im * w[2];
            const double c_re = dif_re - turned_re, c_im = dif_im - turned_im;
            re[at3] = c_re * w[4] - c_im * w[5];
            im[at3] = c_re * w[5] + c_im * w[4];
        }
        twiddles += 6 * quarter;
        __syncthreads();
    }
    if (n == 2) {
        for (int i = threadIdx.x; i < half / 2; i += blockDim.x) {
            const double sum_re = re[2 * i] + re[2 * i + 1], sum_im = im[2 * i] + im[2 * i + 1];
            const double dif_re = re[2 * i] - re[2 * i + 1], dif_im = im[2 * i] - im[2 * i + 1];
            re[2 * i] = sum_re;
            im[2 * i] = sum_im;
            re[2 * i + 1] = dif_re;
            im[2 * i + 1] = dif_im;
        }
        __syncthreads();
    }

    // Unfolds the complex spectrum into the real one's power, bins 0 to half.
    double* out = power + ((u64)blockIdx.y * gridDim.x + column) * (half + 1);
    for (int k = threadIdx.x; k <= half / 2; k += blockDim.x) {
        const u32 a = place[k];
        const u32 b = place[(half - k) % half];
        const double wr = unfold[2 * k], wi = unfold[2 * k + 1];
        // Spectrum of the even samples, and of the odd ones times e^(-2 pi i k / size).
        const double er = re[a] + re[b], ei = im[a] - im[b];
        const double odd_r = im[a] + im[b], odd_i = re[b] - re[a];
        const double tr = wr * odd_r - wi * odd_i;
        const double ti = wr * odd_i + wi * odd_r;
        // Bin half / 2 is its own mirror image: one write.
        if (k != half - k) out[half - k] = (er - tr) * (er - tr) + (ei - ti) * (ei - ti);
        out[k] = (er + tr) * (er + tr) + (ei + ti) * (ei + ti);
    }
}

// Frames that `spectrum_alone` holds at a time, samples.
#define ALONE_SAMPLES 512

// Any other even size, by the definition: every thread sums bins of its own. `turns`: cosine and sine of 2 pi k / size.
extern "C" __global__ void spectrum_alone(const float* sounds, int samples, int hop, int size, const double* window,
                                          const double* turns, double* power) {
    __shared__ double frame[ALONE_SAMPLES];
    const float* sound = sounds + (u64)blockIdx.y * samples;
    const int column = blockIdx.x;
    const int bins = size / 2 + 1;
    double* out = power + ((u64)blockIdx.y * gridDim.x + column) * bins;
    for (int first = 0; first < bins; first += blockDim.x) {
        const int bin = first + threadIdx.x;
        double re = 0.0, im = 0.0;
        // Where on the circle the next sample lies: bin * n modulo size, without a product that could overflow.
        int at = 0;
        for (int piece = 0; piece < size; piece += ALONE_SAMPLES) {
            const int count = smaller(ALONE_SAMPLES, size - piece);
            for (int n = threadIdx.x; n < count; n += blockDim.x) {
                frame[n] = sample(sound, samples, column, hop, size, piece + n) * window[piece + n];
            }
            __syncthreads();
            for (int n = 0; n < count && bin < bins; ++n) {
                re += frame[n] * turns[2 * at];
                im -= frame[n] * turns[2 * at + 1];
                at += bin;
                if (at >= size) at -= size;
            }
            __syncthreads();
        }
        if (bin < bins) out[bin] = re * re + im * im;
    }
}
