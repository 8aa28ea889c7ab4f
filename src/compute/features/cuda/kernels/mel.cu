// Power spectra to log-mel images, MFCC and the sound model's input. Mirrors cpu/mel.rs and sound.rs.

// Threads of the block that turns an image into decibels.
#define DECIBEL_THREADS 256

// Mel power, [sound][band][column]: each band is a weighted sum of `counts` bins from `firsts` on; its weights begin at
// `begins`. Block x: the column. y: the sound. Threads take bands.
extern "C" __global__ void mel_bands(const double* power, int spectrum_bins, const int* firsts, const int* counts,
                                     const int* begins, const double* weights, float* image, int bands) {
    const int column = blockIdx.x;
    const int columns = gridDim.x;
    const double* bins = power + ((u64)blockIdx.y * columns + column) * spectrum_bins;
    for (int band = threadIdx.x; band < bands; band += blockDim.x) {
        const double* own = weights + begins[band];
        const double* from = bins + firsts[band];
        double sum = 0.0;
        for (int k = 0; k < counts[band]; ++k) sum += from[k] * own[k];
        image[((u64)blockIdx.y * bands + band) * columns + column] = (float)fmin(sum, 3.4028234663852886e38);
    }
}

// 10 log10 of a normal positive number, by the very steps of the CPU's `decibels`.
__device__ inline float decibels(float power) {
    const u32 root_half = 0x3f3504f3u;
    const u32 bits = __float_as_uint(power) - root_half;
    const float exponent = (float)((int)bits >> 23);
    const float m = __uint_as_float((bits & 0x007fffffu) + root_half);
    const float s = (m - 1.0f) / (m + 1.0f);
    const float z = s * s;
    const float series =
        2.0f + z * (2.0f / 3.0f + z * (2.0f / 5.0f + z * (2.0f / 7.0f + z * (2.0f / 9.0f))));
    return exponent * 3.0103f + s * series * 4.3429448f;
}

__device__ inline float louder(float a, float b) { return a > b ? a : b; }

// Images of `count` values from power to decibels, in place: raised to `floor` before the logarithm and, if `top_db` is not
// negative, to that far below the image's maximum. Block x: the image.
extern "C" __global__ void mel_decibels(float* images, int count, float floor, float top_db) {
    __shared__ float loudest[DECIBEL_THREADS];
    float* image = images + (u64)blockIdx.x * count;
    const int thread = threadIdx.x;
    float own = -3.402823466e38f;
    for (int i = thread; i < count; i += DECIBEL_THREADS) {
        const float value = decibels(louder(image[i], floor));
        image[i] = value;
        own = louder(value, own);
    }
    if (top_db < 0.0f) return;
    loudest[thread] = own;
    __syncthreads();
    for (int step = DECIBEL_THREADS / 2; step > 0; step /= 2) {
        if (thread < step) loudest[thread] = louder(loudest[thread], loudest[thread + step]);
        __syncthreads();
    }
    const float quietest = loudest[0] - top_db;
    for (int i = thread; i < count; i += DECIBEL_THREADS) image[i] = louder(image[i], quietest);
}

// The orthonormal DCT-II of every column: out is [sound][coefficient][column]. In f64: high coefficients are small
// differences of large sums. Block x: threads of columns, y: the coefficient, z: the sound.
extern "C" __global__ void mel_cepstra(const float* images, int bands, int columns, const double* basis, float* out) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    const float* image = images + (u64)blockIdx.z * bands * columns + column;
    const double* own = basis + (u64)blockIdx.y * bands;
    double sum = 0.0;
    for (int n = 0; n < bands; ++n) sum += (double)image[(u64)n * columns] * own[n];
    out[((u64)blockIdx.z * gridDim.y + blockIdx.y) * columns + column] = (float)sum;
}

// The sound model's input: the image resized (rows first, as SoundExtractor does), normalised, three times the same. Block
// x: threads of columns of the input, y: its row, z: the sound, which becomes output places[z].
template <typename T>
__device__ inline void sound_image(const float* images, int bands, int columns, const Axis& horizontal,
                                   const Axis& vertical, float mean, float gain, const int* places, T* out, int width,
                                   int height, int channel_stride, int pixel_stride) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y;
    if (x >= width) return;
    const float* image = images + (u64)blockIdx.z * bands * columns + (u64)vertical.starts[y] * columns
                       + horizontal.starts[x];
    float sum = 0.0f;
    for (int j = 0; j < horizontal.taps; ++j) {
        float down = 0.0f;
        for (int i = 0; i < vertical.taps; ++i) {
            down += image[(u64)i * columns + j] * vertical.weights[y * vertical.taps + i];
        }
        sum += down * horizontal.weights[x * horizontal.taps + j];
    }
    const T value = Number<T>::of((sum - mean) * gain);
    T* pixel = out + (u64)places[blockIdx.z] * 3 * width * height + ((u64)y * width + x) * pixel_stride;
    for (int c = 0; c < 3; ++c) pixel[(u64)c * channel_stride] = value;
}

#define SOUND_KERNEL(name, T)                                                                                      \
    extern "C" __global__ void sound_image_##name(const float* images, int bands, int columns, const int* h_starts, \
                                                  const float* h_weights, int h_taps, const int* v_starts,         \
                                                  const float* v_weights, int v_taps, float mean, float gain,      \
                                                  const int* places, T* out, int width, int height,                \
                                                  int channel_stride, int pixel_stride) {                          \
        sound_image(images, bands, columns, Axis{h_starts, h_weights, h_taps}, Axis{v_starts, v_weights, v_taps},  \
                    mean, gain, places, out, width, height, channel_stride, pixel_stride);                         \
    }

SOUND_KERNEL(f32, float)
SOUND_KERNEL(f16, f16)
SOUND_KERNEL(bf16, bf16)
