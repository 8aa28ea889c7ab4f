// Polynomial expansion: the quadratic that fits the picture best around every pixel. Mirrors cpu/farneback/expansion.rs.
//
// Polynomials lie in planes, [picture][x, y, xx, yy, xy][height][width], where the CPU has the five together: neighbouring
// threads then read neighbouring values.

// Columns and rows of a level that a block expands.
#define EXPAND_COLUMNS 32
#define EXPAND_ROWS 8

struct Plane {
    static const int CHANNELS = 1;
    const float* data;
    int width;

    __device__ inline void load(int x, int y, float* value) const { value[0] = data[(u64)y * width + x]; }
};

// Blurs and shrinks full pictures to a level. Block x: AXIS_THREADS columns of the level. y: its row. z: the picture.
extern "C" __global__ void farneback_shrink(const float* full, int full_width, int full_height, const int* h_starts,
                                            const float* h_weights, int h_taps, const int* v_starts,
                                            const float* v_weights, int v_taps, float* small, int width, int height) {
    const Plane source = {full + (u64)blockIdx.z * full_width * full_height, full_width};
    const int first = blockIdx.x * AXIS_THREADS;
    const int x = first + threadIdx.x;
    const int y = blockIdx.y;
    float value;
    mix(source, Axis{h_starts, h_weights, h_taps}, Axis{v_starts, v_weights, v_taps}, y, first,
        smaller(first + AXIS_THREADS, width), x, &value);
    if (x < width) small[((u64)blockIdx.z * height + y) * width + x] = value;
}

// `weights`: Gaussian, Gaussian * distance and Gaussian * distance^2 at distances 0..=N, one after the other. `dual`:
// linear, square, square_of_mean, mixed. Pixels outside the picture are those at its edge.
template <int N>
__device__ inline void expand(const float* small, int width, int height, const float* weights, const float* dual,
                              float* polynomials) {
    __shared__ float pixels[EXPAND_ROWS + 2 * N][EXPAND_COLUMNS + 2 * N];
    __shared__ float moments[3][EXPAND_ROWS][EXPAND_COLUMNS + 2 * N];
    const float* picture = small + (u64)blockIdx.z * width * height;
    const int left = (int)blockIdx.x * EXPAND_COLUMNS - N;
    const int top = (int)blockIdx.y * EXPAND_ROWS - N;
    const int threads = EXPAND_COLUMNS * EXPAND_ROWS;
    const int thread = threadIdx.y * EXPAND_COLUMNS + threadIdx.x;
    const int columns = EXPAND_COLUMNS + 2 * N;
    for (int i = thread; i < columns * (EXPAND_ROWS + 2 * N); i += threads) {
        const int x = smaller(larger(left + i % columns, 0), width - 1);
        const int y = smaller(larger(top + i / columns, 0), height - 1);
        pixels[i / columns][i % columns] = picture[(u64)y * width + x];
    }
    __syncthreads();

    // Vertical moments 0, 1 and 2 with N pixels to spare on either side.
    for (int i = thread; i < columns * EXPAND_ROWS; i += threads) {
        const int x = i % columns;
        const int y = i / columns;
        float s0 = pixels[y + N][x] * weights[0];
        float s1 = 0.0f;
        float s2 = 0.0f;
        for (int k = 1; k <= N; ++k) {
            const float up = pixels[y + N - k][x];
            const float down = pixels[y + N + k][x];
            s0 += weights[k] * (down + up);
            s1 += weights[N + 1 + k] * (down - up);
            s2 += weights[2 * (N + 1) + k] * (down + up);
        }
        moments[0][y][x] = s0;
        moments[1][y][x] = s1;
        moments[2][y][x] = s2;
    }
    __syncthreads();

    // Horizontal moments of those, and the dual basis.
    const int x = blockIdx.x * EXPAND_COLUMNS + threadIdx.x;
    const int y = blockIdx.y * EXPAND_ROWS + threadIdx.y;
    if (x >= width || y >= height) return;
    const float* m0 = moments[0][threadIdx.y] + threadIdx.x + N;
    const float* m1 = moments[1][threadIdx.y] + threadIdx.x + N;
    const float* m2 = moments[2][threadIdx.y] + threadIdx.x + N;
    float mean = m0[0] * weights[0];
    float sx = 0.0f;
    float sxx = 0.0f;
    float sy = m1[0] * weights[0];
    float sxy = 0.0f;
    float syy = m2[0] * weights[0];
    for (int k = 1; k <= N; ++k) {
        const float g = weights[k];
        const float gd = weights[N + 1 + k];
        const float gdd = weights[2 * (N + 1) + k];
        const float sum = m0[k] + m0[-k];
        mean += g * sum;
        sxx += gdd * sum;
        sx += gd * (m0[k] - m0[-k]);
        sy += g * (m1[k] + m1[-k]);
        sxy += gd * (m1[k] - m1[-k]);
        syy += g * (m2[k] + m2[-k]);
    }
    const u64 plane = (u64)width * height;
    float* out = polynomials + blockIdx.z * 5 * plane + (u64)y * width + x;
    out[0] = sx * dual[0];
    out[plane] = sy * dual[0];
    out[2 * plane] = mean * dual[2] + sxx * dual[1];
    out[3 * plane] = mean * dual[2] + syy * dual[1];
    out[4 * plane] = sxy * dual[3];
}

// Block x: EXPAND_COLUMNS columns, y: EXPAND_ROWS rows, z: the picture.
#define EXPAND_KERNEL(N)                                                                                           \
    extern "C" __global__ void farneback_expand_##N(const float* small, int width, int height,                     \
                                                    const float* weights, const float* dual, float* polynomials) { \
        expand<N>(small, width, height, weights, dual, polynomials);                                               \
    }

EXPAND_KERNEL(5)
EXPAND_KERNEL(7)
