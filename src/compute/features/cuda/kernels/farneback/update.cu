// One iteration: from the polynomials of two pictures and a flow to a better flow. Mirrors cpu/farneback/update.rs.
//
// As on the CPU, rows of equations stream through a ring as high as the window and are never stored whole. A thread has a
// column to itself, with its running sums in registers; what its neighbours need of it goes through shared memory.

// Terms of a pixel's normal equations, [g11, g12, g22, h1, h2], and of the polynomials they are made from.
#define TERMS 5

// What an iteration starts from, and how far the window reaches. Flow is [pair][dx, dy][height][width].
struct Pair {
    const float* first;
    const float* second;
    const float* dx;
    const float* dy;
    int width;
    int height;
};

// Near the picture's edge the expansion is less certain (it saw repeated pixels): weight by distance from the edge.
__device__ inline float edge_distance_weight(int distance) {
    return distance < 2 ? 0.14f : distance < 5 ? 0.4472f : 1.0f;
}

__device__ inline float edge_weight(int i, int length) {
    return edge_distance_weight(i) * edge_distance_weight(length - 1 - i);
}

// The first picture's polynomial against the one where the flow points in the second: half the difference of the linear
// terms and the mean of the others. Where the flow points outside, the second picture's linear terms count as 0 and its
// others as equal to the first's.
__device__ inline void compare(const Pair& pair, int x, int y, float dx, float dy, float* joint) {
    const u64 plane = (u64)pair.width * pair.height;
    const float* first = pair.first + (u64)y * pair.width + x;
    float a[TERMS];
    for (int i = 0; i < TERMS; ++i) a[i] = first[i * plane];
    const float u = (float)x + dx;
    const float v = (float)y + dy;
    float b[TERMS] = {0.0f, 0.0f, a[2], a[3], a[4]};
    // Written so that NaN is outside.
    if (u >= 0.0f && u < (float)(pair.width - 1) && v >= 0.0f && v < (float)(pair.height - 1)) {
        const int left = (int)u;
        const int top = (int)v;
        const float across = u - (float)left;
        const float down = v - (float)top;
        const float* upper = pair.second + (u64)top * pair.width + left;
        const float* lower = upper + pair.width;
        const float w00 = (1.0f - across) * (1.0f - down);
        const float w01 = across * (1.0f - down);
        const float w10 = (1.0f - across) * down;
        const float w11 = across * down;
        for (int i = 0; i < TERMS; ++i) {
            b[i] = (upper[0] * w00 + upper[1] * w01) + (lower[0] * w10 + lower[1] * w11);
            upper += plane;
            lower += plane;
        }
    }
    joint[0] = (a[0] - b[0]) * 0.5f;
    joint[1] = (a[1] - b[1]) * 0.5f;
    joint[2] = (a[2] + b[2]) * 0.5f;
    joint[3] = (a[3] + b[3]) * 0.5f;
    joint[4] = (a[4] + b[4]) * 0.25f;
}

// The normal equations of a pixel. Without a flow so far (`pair.dx` null) it is 0.
__device__ inline void equations(const Pair& pair, int x, int y, float* out) {
    const u64 at = (u64)y * pair.width + x;
    const float dx = pair.dx ? pair.dx[at] : 0.0f;
    const float dy = pair.dx ? pair.dy[at] : 0.0f;
    float joint[TERMS];
    compare(pair, x, y, dx, dy, joint);
    const float weight = edge_weight(x, pair.width) * edge_weight(y, pair.height);
    const float xx = joint[2] * weight;
    const float yy = joint[3] * weight;
    const float xy = joint[4] * weight;
    const float bx = joint[0] * weight + xx * dx + xy * dy;
    const float by = joint[1] * weight + xy * dx + yy * dy;
    out[0] = xx * xx + xy * xy;
    out[1] = (xx + yy) * xy;
    out[2] = yy * yy + xy * xy;
    out[3] = xx * bx + xy * by;
    out[4] = xy * bx + yy * by;
}

// The flow of one pixel. In f64: the determinant is a small difference of large products.
__device__ inline void solve(const double* g, float* dx, float* dy) {
    const double inverse = 1.0 / (g[0] * g[2] - g[1] * g[1] + 1e-3);
    const float x = (float)((g[2] * g[3] - g[1] * g[4]) * inverse);
    const float y = (float)((g[0] * g[4] - g[1] * g[3]) * inverse);
    // What is not finite in a picture must not spread through the iterations.
    const bool finite = is_finite(x + y);
    *dx = finite ? x : 0.0f;
    *dy = finite ? y : 0.0f;
}

// This thread's column of the equations. With a ring, row y lies in slot y mod slots; without (a window too large for the
// shared memory there is), a row is computed whenever it is asked for.
struct Column {
    Pair pair;
    float* ring;
    int slots;
    int x;

    __device__ inline void enter(int y) const {
        if (!ring) return;
        float terms[TERMS];
        equations(pair, x, y, terms);
        for (int i = 0; i < TERMS; ++i) ring[((y % slots) * TERMS + i) * blockDim.x] = terms[i];
    }

    __device__ inline void row(int y, float* terms) const {
        if (!ring) {
            equations(pair, x, y, terms);
            return;
        }
        for (int i = 0; i < TERMS; ++i) terms[i] = ring[((y % slots) * TERMS + i) * blockDim.x];
    }
};

// `pairs` holds for each pair the numbers of its first and its second picture in `polynomials`. Box window: `weights` null,
// `scale` what sums are multiplied by. Gaussian: `weights` at distances 0..=reach.
//
// A block has blockDim.x columns, the outer `reach` on either side only to be summed, and goes down `band` rows. Block x:
// columns. y: band. z: pair. Shared memory: 5 f64 a column, then, if `ringed`, 5 * (2 * reach + 2) f32 a column.
extern "C" __global__ void farneback_iterate(const float* polynomials, const int* pairs, const float* before,
                                             float* flow, int width, int height, int reach, int band,
                                             const float* weights, double scale, int ringed) {
    SHARED_MEMORY(memory);
    double* sums = (double*)memory;
    float* ring = (float*)(sums + TERMS * blockDim.x);
    const int thread = threadIdx.x;
    const int inner = blockDim.x - 2 * reach;
    const int x = (int)blockIdx.x * inner + thread - reach;
    const u64 plane = (u64)width * height;
    const u64 at_flow = (u64)blockIdx.z * 2 * plane;

    Column column;
    column.pair.first = polynomials + (u64)pairs[2 * blockIdx.z] * TERMS * plane;
    column.pair.second = polynomials + (u64)pairs[2 * blockIdx.z + 1] * TERMS * plane;
    column.pair.dx = before ? before + at_flow : 0;
    column.pair.dy = before ? before + at_flow + plane : 0;
    column.pair.width = width;
    column.pair.height = height;
    column.ring = ringed ? ring + thread : 0;
    column.slots = 2 * reach + 2;
    // The edge's equations count for what is outside.
    column.x = smaller(larger(x, 0), width - 1);

    const int start = blockIdx.y * band;
    const int end = smaller(start + band, height);
    const int last = height - 1;
    for (int y = larger(start - reach, 0); y < smaller(start + reach, height); ++y) column.enter(y);

    // Box: a running sum must not drift, hence f64.
    double total[TERMS] = {0.0, 0.0, 0.0, 0.0, 0.0};
    for (int y = start; y < end; ++y) {
        if (y + reach <= last) column.enter(y + reach);
        if (weights) {
            float terms[TERMS];
            float smooth[TERMS];
            column.row(y, terms);
            for (int i = 0; i < TERMS; ++i) smooth[i] = terms[i] * weights[0];
            for (int d = 1; d <= reach; ++d) {
                float above[TERMS];
                column.row(larger(y - d, 0), above);
                column.row(smaller(y + d, last), terms);
                for (int i = 0; i < TERMS; ++i) smooth[i] += (above[i] + terms[i]) * weights[d];
            }
            for (int i = 0; i < TERMS; ++i) total[i] = (double)smooth[i];
        } else if (y == start) {
            for (int offset = -reach; offset <= reach; ++offset) {
                float terms[TERMS];
                column.row(smaller(larger(y + offset, 0), last), terms);
                for (int i = 0; i < TERMS; ++i) total[i] += (double)terms[i];
            }
        } else {
            float enters[TERMS];
            float leaves[TERMS];
            column.row(smaller(y + reach, last), enters);
            column.row(larger(y - reach - 1, 0), leaves);
            for (int i = 0; i < TERMS; ++i) total[i] += (double)enters[i] - (double)leaves[i];
        }
        for (int i = 0; i < TERMS; ++i) sums[i * blockDim.x + thread] = total[i];
        __syncthreads();

        if (thread >= reach && thread < reach + inner && x < width) {
            double across[TERMS];
            for (int i = 0; i < TERMS; ++i) {
                const double* middle = sums + i * blockDim.x + thread;
                if (weights) {
                    float sum = (float)middle[0] * weights[0];
                    for (int d = 1; d <= reach; ++d) sum += ((float)middle[-d] + (float)middle[d]) * weights[d];
                    across[i] = (double)sum;
                } else {
                    double sum = 0.0;
                    for (int d = -reach; d <= reach; ++d) sum += middle[d];
                    across[i] = sum * scale;
                }
            }
            float dx, dy;
            solve(across, &dx, &dy);
            const u64 at = (u64)y * width + x;
            flow[at_flow + at] = dx;
            flow[at_flow + plane + at] = dy;
        }
        __syncthreads();
    }
}

// Enlarges the flow of the next coarser level and multiplies it by `gain` (`enlarge` in cpu/farneback/mod.rs). Block x:
// threads of columns, y: row, z: plane, two of which are a pair.
extern "C" __global__ void farneback_enlarge(const float* coarse, int coarse_width, int coarse_height,
                                             const int* h_starts, const float* h_weights, int h_taps,
                                             const int* v_starts, const float* v_weights, int v_taps, float gain,
                                             float* flow, int width, int height) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y;
    if (x >= width) return;
    const float* from = coarse + (u64)blockIdx.z * coarse_width * coarse_height;
    float sum = 0.0f;
    for (int j = 0; j < h_taps; ++j) {
        float down = 0.0f;
        for (int i = 0; i < v_taps; ++i) {
            down += from[(u64)(v_starts[y] + i) * coarse_width + h_starts[x] + j] * v_weights[y * v_taps + i];
        }
        sum += down * gain * h_weights[x * h_taps + j];
    }
    flow[((u64)blockIdx.z * height + y) * width + x] = sum;
}
