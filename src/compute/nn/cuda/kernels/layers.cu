// Layers of networks other than matrix products and convolutions, in (N, H, W, C), the layout of tensor cores. Channels are
// a multiple of eight, and a thread processes eight at a time. Mirrors nn/activation.rs
// (`finish`), nn/depthwise.rs (`FusedDepthwise`), nn/pool.rs and nn/scale_shift.rs, whose tensors are planes.

// y = clamp(y + bias + residual), in place; `residual` may be null. Block x: threads of eights.
template <typename T>
__device__ inline void finish(T* y, const float* bias, const T* residual, int channels, u64 eights, float low,
                              float high) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= eights) return;
    const int channel = (int)(at * 8 % channels);
    Eight<T> values = ((const Eight<T>*)y)[at];
    Eight<T> others;
    if (residual) others = ((const Eight<T>*)residual)[at];
    for (int i = 0; i < 8; ++i) {
        float value = to_float(values.at[i]) + bias[channel + i];
        if (residual) value += to_float(others.at[i]);
        values.at[i] = Number<T>::of(clamped(value, low, high));
    }
    ((Eight<T>*)y)[at] = values;
}

// out = clamp(scale * x + shift). Block x: threads of eights.
template <typename T>
__device__ inline void scale_shift(const T* x, const float* scale, const float* shift, T* out, int channels,
                                   u64 eights, float low, float high) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= eights) return;
    const int channel = (int)(at * 8 % channels);
    Eight<T> values = ((const Eight<T>*)x)[at];
    for (int i = 0; i < 8; ++i) {
        const float value = to_float(values.at[i]) * scale[channel + i] + shift[channel + i];
        values.at[i] = Number<T>::of(clamped(value, low, high));
    }
    ((Eight<T>*)out)[at] = values;
}

// out = clamp(kernel * x + bias), every channel with a kernel of its own; `weights` are (kernel * kernel, C). Block x:
// threads of eights of the output.
template <typename T>
__device__ inline void depthwise(const T* x, const float* weights, const float* bias, T* out, int channels, int height,
                                 int width, int kernel, int stride, int padding, int out_height, int out_width,
                                 u64 eights, float low, float high) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= eights) return;
    const int groups = channels / 8;
    const int channel = (int)(at % groups) * 8;
    const u64 pixel = at / groups;
    const int out_x = (int)(pixel % out_width);
    const int out_y = (int)(pixel / out_width % out_height);
    const u64 sample = pixel / out_width / out_height;
    float sums[8];
    for (int i = 0; i < 8; ++i) sums[i] = bias[channel + i];
    for (int ky = 0; ky < kernel; ++ky) {
        const int from_y = out_y * stride - padding + ky;
        if (from_y < 0 || from_y >= height) continue;
        for (int kx = 0; kx < kernel; ++kx) {
            const int from_x = out_x * stride - padding + kx;
            if (from_x < 0 || from_x >= width) continue;
            const u64 from = ((sample * height + from_y) * width + from_x) * channels + channel;
            const Eight<T> values = *(const Eight<T>*)(x + from);
            const Eight<float> taps = *(const Eight<float>*)(weights + (u64)(ky * kernel + kx) * channels + channel);
            for (int i = 0; i < 8; ++i) sums[i] += to_float(values.at[i]) * taps.at[i];
        }
    }
    Eight<T> result;
    for (int i = 0; i < 8; ++i) result.at[i] = Number<T>::of(clamped(sums[i], low, high));
    ((Eight<T>*)out)[at] = result;
}

// Maximum over square windows; pixels outside the picture are ignored. Block x: threads of eights of the output.
template <typename T>
__device__ inline void max_pool(const T* x, T* out, int channels, int height, int width, int kernel, int stride,
                                int padding, int out_height, int out_width, u64 eights) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= eights) return;
    const int groups = channels / 8;
    const int channel = (int)(at % groups) * 8;
    const u64 pixel = at / groups;
    const int out_x = (int)(pixel % out_width);
    const int out_y = (int)(pixel / out_width % out_height);
    const u64 sample = pixel / out_width / out_height;
    float best[8];
    for (int i = 0; i < 8; ++i) best[i] = -__uint_as_float(0x7f800000u);
    for (int ky = 0; ky < kernel; ++ky) {
        const int from_y = out_y * stride - padding + ky;
        if (from_y < 0 || from_y >= height) continue;
        for (int kx = 0; kx < kernel; ++kx) {
            const int from_x = out_x * stride - padding + kx;
            if (from_x < 0 || from_x >= width) continue;
            const u64 from = ((sample * height + from_y) * width + from_x) * channels + channel;
            const Eight<T> values = *(const Eight<T>*)(x + from);
            for (int i = 0; i < 8; ++i) best[i] = fmaxf(best[i], to_float(values.at[i]));
        }
    }
    Eight<T> result;
    for (int i = 0; i < 8; ++i) result.at[i] = Number<T>::of(best[i]);
    ((Eight<T>*)out)[at] = result;
}

// Mean over all pixels, (N, pixels, C) to (N, C). Block x: threads of eights of the output.
template <typename T>
__device__ inline void average(const T* x, T* out, int channels, int pixels, u64 eights) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= eights) return;
    const int groups = channels / 8;
    const T* from = x + at / groups * pixels * channels + at % groups * 8;
    float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (int pixel = 0; pixel < pixels; ++pixel) {
        const Eight<T> values = *(const Eight<T>*)(from + (u64)pixel * channels);
        for (int i = 0; i < 8; ++i) sums[i] += to_float(values.at[i]);
    }
    Eight<T> result;
    for (int i = 0; i < 8; ++i) result.at[i] = Number<T>::of(sums[i] / (float)pixels);
    ((Eight<T>*)out)[at] = result;
}

#define LAYER_KERNELS(name, T)                                                                                     \
    extern "C" __global__ void layer_finish_##name(T* y, const float* bias, const T* residual, int channels,       \
                                                   u64 eights, float low, float high) {                            \
        finish(y, bias, residual, channels, eights, low, high);                                                    \
    }                                                                                                              \
    extern "C" __global__ void layer_scale_shift_##name(const T* x, const float* scale, const float* shift, T* out, \
                                                        int channels, u64 eights, float low, float high) {         \
        scale_shift(x, scale, shift, out, channels, eights, low, high);                                            \
    }                                                                                                              \
    extern "C" __global__ void layer_depthwise_##name(                                                             \
        const T* x, const float* weights, const float* bias, T* out, int channels, int height, int width,          \
        int kernel, int stride, int padding, int out_height, int out_width, u64 eights, float low, float high) {   \
        depthwise(x, weights, bias, out, channels, height, width, kernel, stride, padding, out_height, out_width,  \
                  eights, low, high);                                                                              \
    }                                                                                                              \
    extern "C" __global__ void layer_max_pool_##name(const T* x, T* out, int channels, int height, int width,      \
                                                     int kernel, int stride, int padding, int out_height,          \
                                                     int out_width, u64 eights) {                                  \
        max_pool(x, out, channels, height, width, kernel, stride, padding, out_height, out_width, eights);         \
    }                                                                                                              \
    extern "C" __global__ void layer_average_##name(const T* x, T* out, int channels, int pixels, u64 eights) {    \
        average(x, out, channels, pixels, eights);                                                                 \
    }

LAYER_KERNELS(f32, float)
LAYER_KERNELS(f16, f16)
LAYER_KERNELS(bf16, bf16)
