// One channel of a depthwise convolution and its gradients. Mirrors nn/depthwise_plane.rs and the ops of nn/depthwise.rs; the
// phases and vectors there are for a processor's vector units and have no counterpart here.
//
// Tensors are planes: (samples, channels, height, width) or, channel-major, (channels, samples, height, width). Kernels are
// square, `kernel` taps a side.

struct Geometry {
    int height;
    int width;
    int kernel;
    int stride;
    int padding;
    int out_height;
    int out_width;
};

#define GEOMETRY int height, int width, int kernel, int stride, int padding, int out_height, int out_width
#define GEOMETRY_GIVEN Geometry{height, width, kernel, stride, padding, out_height, out_width}

// The channel of plane `i`.
__device__ inline int channel_of(u64 i, int samples, int channels, int channel_major) {
    return channel_major ? (int)(i / samples) : (int)(i % channels);
}

// out = clamp(kernel * input + bias). Block x: threads of output pixels of all planes. `bias` may be null.
template <typename T>
__device__ inline void forward(const T* input, const T* weights, const float* bias, T* out, u64 planes, int samples,
                               int channels, int channel_major, const Geometry& g, float low, float high) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u64 out_len = (u64)g.out_height * g.out_width;
    if (at >= planes * out_len) return;
    const u64 plane = at / out_len;
    const int pixel = (int)(at % out_len);
    const int top = pixel / g.out_width * g.stride - g.padding;
    const int left = pixel % g.out_width * g.stride - g.padding;
    const int channel = channel_of(plane, samples, channels, channel_major);
    const T* taps = weights + (u64)channel * g.kernel * g.kernel;
    const T* from = input + plane * g.height * g.width;
    float sum = bias ? bias[channel] : 0.0f;
    for (int ky = 0; ky < g.kernel; ++ky) {
        const int y = top + ky;
        if (y < 0 || y >= g.height) continue;
        for (int kx = 0; kx < g.kernel; ++kx) {
            const int x = left + kx;
            if (x < 0 || x >= g.width) continue;
            sum += to_float(from[(u64)y * g.width + x]) * to_float(taps[ky * g.kernel + kx]);
        }
    }
    out[at] = Number<T>::of(clamped(sum, low, high));
}

#define FORWARD_KERNEL(name, T)                                                                                    \
    extern "C" __global__ void depthwise_forward_##name(const T* input, const T* weights, const float* bias, T* out, \
                                                        u64 planes, int samples, int channels, int channel_major,  \
                                                        GEOMETRY, float low, float high) {                         \
        forward(input, weights, bias, out, planes, samples, channels, channel_major, GEOMETRY_GIVEN, low, high);   \
    }

FORWARD_KERNEL(f32, float)
FORWARD_KERNEL(f16, f16)
FORWARD_KERNEL(bf16, bf16)

// Gradient of the input: every input pixel collects from the outputs whose windows lie over it. Block x: threads of input
// pixels of all planes.
extern "C" __global__ void depthwise_backward_input(const float* out_grad, const float* weights, float* input_grad,
                                                    u64 planes, int samples, int channels, int channel_major,
                                                    GEOMETRY) {
    const u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    const u64 len = (u64)height * width;
    if (at >= planes * len) return;
    const u64 plane = at / len;
    const int y = (int)(at % len) / width;
    const int x = (int)(at % len) % width;
    const float* taps = weights + (u64)channel_of(plane, samples, channels, channel_major) * kernel * kernel;
    const float* from = out_grad + plane * out_height * out_width;
    float sum = 0.0f;
    for (int ky = 0; ky < kernel; ++ky) {
        const int down = y + padding - ky;
        if (down < 0 || down % stride != 0 || down / stride >= out_height) continue;
        for (int kx = 0; kx < kernel; ++kx) {
            const int across = x + padding - kx;
            if (across < 0 || across % stride != 0 || across / stride >= out_width) continue;
            sum += from[(u64)(down / stride) * out_width + across / stride] * taps[ky * kernel + kx];
        }
    }
    input_grad[at] = sum;
}

// Threads of the block that sums one tap's gradient.
#define WEIGHT_THREADS 256

// Gradient of the weights, over the whole batch in an order that depends on the sizes only, so that a run repeats bit for
// bit. Block x: the tap. y: the channel.
extern "C" __global__ void depthwise_backward_weight(const float* input, const float* out_grad, float* weight_grad,
                                                     int samples, int channels, int channel_major, GEOMETRY) {
    __shared__ float sums[WEIGHT_THREADS];
    const int thread = threadIdx.x;
    const int ky = blockIdx.x / kernel;
    const int kx = blockIdx.x % kernel;
    const int channel = blockIdx.y;
    const int out_len = out_height * out_width;
    float sum = 0.0f;
    for (int sample = 0; sample < samples; ++sample) {
        const u64 plane = channel_major ? (u64)channel * samples + sample : (u64)sample * channels + channel;
        const float* from = input + plane * height * width;
        const float* grad = out_grad + plane * out_len;
        for (int i = thread; i < out_len; i += WEIGHT_THREADS) {
            const int y = i / out_width * stride - padding + ky;
            const int x = i % out_width * stride - padding + kx;
            if (y >= 0 && y < height && x >= 0 && x < width) sum += grad[i] * from[(u64)y * width + x];
        }
    }
    sums[thread] = sum;
    __syncthreads();
    for (int step = WEIGHT_THREADS / 2; step > 0; step /= 2) {
        if (thread < step) sums[thread] += sums[thread + step];
        __syncthreads();
    }
    if (thread == 0) weight_grad[(u64)channel * kernel * kernel + blockIdx.x] = sums[0];
}
