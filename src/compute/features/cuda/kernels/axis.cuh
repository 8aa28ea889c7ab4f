// Linear resampling along two axes by tables: the device's side of cpu/axis.rs, which makes the tables.

// Threads of a block that resamples, and source columns it holds at a time.
#define AXIS_THREADS 128

// Output i is the sum over k of weights[i * taps + k] * input[starts[i] + k].
struct Axis {
    const int* starts;
    const float* weights;
    int taps;
};

// Outputs first..last of row `row`, one thread an output: `column` is this thread's, `sum` its values. As on the CPU, rows
// are mixed first (mix_rows), for one piece of the source columns after the other, and those then along the row (mix_line).
//
// Every thread of the block has to come here with the same row, first and last; first < last.
template <typename Source>
__device__ inline void mix(const Source& source, const Axis& horizontal, const Axis& vertical, int row, int first,
                           int last, int column, float* sum) {
    __shared__ float mixed[Source::CHANNELS][AXIS_THREADS];
    const int thread = threadIdx.x;
    const int top = vertical.starts[row];
    const float* down = vertical.weights + row * vertical.taps;
    const int end = horizontal.starts[last - 1] + horizontal.taps;
    const bool mine = column >= first && column < last;
    const int start = mine ? horizontal.starts[column] : 0;
    const float* across = horizontal.weights + (mine ? column : 0) * horizontal.taps;
    for (int c = 0; c < Source::CHANNELS; ++c) sum[c] = 0.0f;
    for (int piece = horizontal.starts[first]; piece < end; piece += AXIS_THREADS) {
        const int x = piece + thread;
        if (x < end) {
            float down_sum[Source::CHANNELS];
            for (int c = 0; c < Source::CHANNELS; ++c) down_sum[c] = 0.0f;
            for (int k = 0; k < vertical.taps; ++k) {
                float value[Source::CHANNELS];
                source.load(x, top + k, value);
                for (int c = 0; c < Source::CHANNELS; ++c) down_sum[c] += value[c] * down[k];
            }
            for (int c = 0; c < Source::CHANNELS; ++c) mixed[c][thread] = down_sum[c];
        }
        __syncthreads();
        if (mine) {
            const int from = larger(start, piece);
            const int to = smaller(start + horizontal.taps, smaller(piece + AXIS_THREADS, end));
            for (int i = from; i < to; ++i) {
                for (int c = 0; c < Source::CHANNELS; ++c) sum[c] += mixed[c][i - piece] * across[i - start];
            }
        }
        __syncthreads();
    }
}
