// Packed RGB8 or NV12 of any size to the model's rectangle: normalised numbers, or gray for flow. Mirrors cpu/resize.rs
// (ResizePlan::picture, ResizePlan::gray) and, for NV12, cpu/nv12.rs.
//
// Block x: AXIS_THREADS columns of the rectangle. y: its row. z: the picture. `offsets` says at which byte of `pixels` each
// picture begins and `places` which of the outputs it becomes.

// Packed R, G, B.
struct Rgb8 {
    static const int CHANNELS = 3;
    const u8* data;
    int width;
    int height;

    __device__ inline void load(int x, int y, float* rgb) const {
        const u8* pixel = data + 3 * ((u64)y * width + x);
        rgb[0] = pixel[0];
        rgb[1] = pixel[1];
        rgb[2] = pixel[2];
    }
};

// A plane of luma, then one of pairs (Cb, Cr) at half the size, rounded up; rows without gaps. It becomes levels of RGB,
// rounded as a converter would round them, and only then is it resampled.
struct Nv12 {
    static const int CHANNELS = 3;
    const u8* data;
    int width;
    int height;
    // [luma gain, Cr to red, Cb to green, Cr to green, Cb to blue], of video-range levels.
    const float* matrix;

    __device__ inline void load(int x, int y, float* rgb) const {
        const u64 pitch = 2 * (u64)((width + 1) / 2);
        const u8* chroma = data + (u64)width * height + (u64)(y / 2) * pitch + 2 * (x / 2);
        const float luma = ((float)data[(u64)y * width + x] - 16.0f) * matrix[0];
        const float cb = (float)chroma[0] - 128.0f;
        const float cr = (float)chroma[1] - 128.0f;
        rgb[0] = level(luma + cr * matrix[1]);
        rgb[1] = level(luma + cb * matrix[2] + cr * matrix[3]);
        rgb[2] = level(luma + cb * matrix[4]);
    }

    static __device__ inline float level(float value) { return floorf(clamped(value, 0.0f, 255.0f) + 0.5f); }
};

// Value (level / 255 - mean) / std as level * gain + bias, padding 0. `normal` holds three gains and three biases. Output
// `place` begins at place * 3 * target_width * target_height; channel and pixel strides say whether planes or pixels lie
// together.
template <typename Format, typename T>
__device__ inline void picture(const Format& format, const Axis& horizontal, const Axis& vertical, T* out, int place,
                               const float* normal, int target_width, int target_height, int area_x, int area_y,
                               int area_width, int area_height, int channel_stride, int pixel_stride) {
    const int x = blockIdx.x * AXIS_THREADS + threadIdx.x;
    const int y = blockIdx.y;
    const int row = y - area_y;
    const int left = (int)blockIdx.x * AXIS_THREADS - area_x;
    const int first = larger(left, 0);
    const int last = smaller(left + AXIS_THREADS, area_width);
    float rgb[3] = {0.0f, 0.0f, 0.0f};
    const bool covered = row >= 0 && row < area_height && first < last;
    if (covered) mix(format, horizontal, vertical, row, first, last, x - area_x, rgb);
    if (x >= target_width) return;
    const bool inside = covered && x - area_x >= first && x - area_x < last;
    T* pixel = out + (u64)place * 3 * target_width * target_height + ((u64)y * target_width + x) * pixel_stride;
    for (int c = 0; c < 3; ++c) {
        pixel[(u64)c * channel_stride] = Number<T>::of(inside ? rgb[c] * normal[c] + normal[3 + c] : 0.0f);
    }
}

// Gray levels 0..255 (not rounded) of the covered area only: output `place` begins at place * area_width * area_height.
template <typename Format>
__device__ inline void gray(const Format& format, const Axis& horizontal, const Axis& vertical, float* out, int place,
                            int area_width, int area_height) {
    const int x = blockIdx.x * AXIS_THREADS + threadIdx.x;
    const int row = blockIdx.y;
    const int first = blockIdx.x * AXIS_THREADS;
    const int last = smaller(first + AXIS_THREADS, area_width);
    float rgb[3];
    mix(format, horizontal, vertical, row, first, last, x, rgb);
    if (x < area_width) {
        out[((u64)place * area_height + row) * area_width + x] = rgb[0] * 0.299f + rgb[1] * 0.587f + rgb[2] * 0.114f;
    }
}

#define AXES                                                                                                       \
    const int *h_starts, const float *h_weights, int h_taps, const int *v_starts, const float *v_weights, int v_taps
#define HORIZONTAL Axis{h_starts, h_weights, h_taps}
#define VERTICAL Axis{v_starts, v_weights, v_taps}
#define PICTURES const u8 *pixels, const u64 *offsets, const int *places, int width, int height
#define RGB8 Rgb8{pixels + offsets[blockIdx.z], width, height}
#define NV12 Nv12{pixels + offsets[blockIdx.z], width, height, matrix}
#define RECTANGLE                                                                                                  \
    int target_width, int target_height, int area_x, int area_y, int area_width, int area_height, int channel_stride, \
        int pixel_stride
#define RECTANGLE_GIVEN                                                                                            \
    target_width, target_height, area_x, area_y, area_width, area_height, channel_stride, pixel_stride

#define PICTURE_KERNELS(name, T)                                                                                   \
    extern "C" __global__ void picture_rgb8_##name(PICTURES, AXES, T* out, const float* normal, RECTANGLE) {       \
        picture(RGB8, HORIZONTAL, VERTICAL, out, places[blockIdx.z], normal, RECTANGLE_GIVEN);                     \
    }                                                                                                              \
    extern "C" __global__ void picture_nv12_##name(PICTURES, const float* matrix, AXES, T* out,                    \
                                                   const float* normal, RECTANGLE) {                               \
        picture(NV12, HORIZONTAL, VERTICAL, out, places[blockIdx.z], normal, RECTANGLE_GIVEN);                     \
    }

PICTURE_KERNELS(f32, float)
PICTURE_KERNELS(f16, f16)
PICTURE_KERNELS(bf16, bf16)

extern "C" __global__ void gray_rgb8(PICTURES, AXES, float* out, int area_width, int area_height) {
    gray(RGB8, HORIZONTAL, VERTICAL, out, places[blockIdx.z], area_width, area_height);
}

extern "C" __global__ void gray_nv12(PICTURES, const float* matrix, AXES, float* out, int area_width,
                                     int area_height) {
    gray(NV12, HORIZONTAL, VERTICAL, out, places[blockIdx.z], area_width, area_height);
}
