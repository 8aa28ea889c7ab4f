// Flow to the flow model's input: dx, dy and magnitude. Mirrors `encode` in flow.rs.

// `gains` holds for each pair what turns its flow into shares of the clip, `places` which of the outputs it becomes. A pair
// with nothing to compare has no flow and place of its own: its gain is 0 and `flow` is read nowhere. Block x: threads of
// columns of the rectangle, y: its row, z: the pair.
template <typename T>
__device__ inline void encode(const float* flow, const float* gains, const int* places, T* out, int target_width,
                              int target_height, int area_x, int area_y, int area_width, int area_height,
                              int channel_stride, int pixel_stride) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y;
    if (x >= target_width) return;
    const float gain = gains[blockIdx.z];
    const int column = x - area_x;
    const int row = y - area_y;
    float dx = 0.0f;
    float dy = 0.0f;
    if (gain != 0.0f && column >= 0 && column < area_width && row >= 0 && row < area_height) {
        const u64 plane = (u64)area_width * area_height;
        const float* pixel = flow + (u64)blockIdx.z * 2 * plane + (u64)row * area_width + column;
        dx = pixel[0] * gain;
        dy = pixel[plane] * gain;
    }
    T* to = out + (u64)places[blockIdx.z] * 3 * target_width * target_height
          + ((u64)y * target_width + x) * pixel_stride;
    to[0] = Number<T>::of(clamped(dx, -1.0f, 1.0f));
    to[channel_stride] = Number<T>::of(clamped(dy, -1.0f, 1.0f));
    to[2 * (u64)channel_stride] = Number<T>::of(fminf(sqrtf(dx * dx + dy * dy), 1.0f));
}

#define ENCODE_KERNEL(name, T)                                                                                     \
    extern "C" __global__ void flow_encode_##name(const float* flow, const float* gains, const int* places, T* out, \
                                                  int target_width, int target_height, int area_x, int area_y,    \
                                                  int area_width, int area_height, int channel_stride,            \
                                                  int pixel_stride) {                                              \
        encode(flow, gains, places, out, target_width, target_height, area_x, area_y, area_width, area_height,     \
               channel_stride, pixel_stride);                                                                      \
    }

ENCODE_KERNEL(f32, float)
ENCODE_KERNEL(f16, f16)
ENCODE_KERNEL(bf16, bf16)
