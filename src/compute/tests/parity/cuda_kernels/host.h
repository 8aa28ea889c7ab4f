// A processor in place of a GPU, for the kernels' sources as they are: blocks one after the other, the threads of a block as
// fibers that change at each barrier, or, with TOUCHLINE_THREADS, as real threads, so that the thread sanitizer sees what
// they do to shared memory. Not here: anything about speed, warps or the memory model beyond barriers.
#pragma once

#define TOUCHLINE_HOST 1

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#ifdef TOUCHLINE_THREADS
#include <pthread.h>

#include <thread>
#else
#include <ucontext.h>
#endif

#define __global__
#define __device__
// Blocks run one after the other: what is static belongs to one of them at a time.
#define __shared__ static
#define __align__(n) alignas(n)

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
};

static Dim3 blockIdx, blockDim, gridDim;

inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float __uint_as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// IEEE binary16, round to nearest even, without the compiler's type, which not every target has.
inline uint16_t host_float_to_half(float value) {
    const uint32_t bits = __float_as_uint(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7e00u;
    // Halfway between the largest half and the next power of two rounds up, out of range.
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
    if (magnitude < 0x38800000u) {
        // Below the smallest normal half: multiples of 2^-24, which adding a half rounds to.
        return sign | (uint16_t)(__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u);
    }
    const uint32_t rebiased = magnitude - 0x38000000u;
    return sign | (uint16_t)((rebiased + 0xfffu + (rebiased >> 13 & 1u)) >> 13);
}

inline float host_half_to_float(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 31u;
    const uint32_t fraction = half & 0x3ffu;
    if (exponent == 0) {
        const float value = std::ldexp((float)fraction, -24);
        return sign ? -value : value;
    }
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    return __uint_as_float(sign | (exponent + 112u) << 23 | fraction << 13);
}

static std::vector<double> shared_block;

inline unsigned char* host_shared_memory() { return (unsigned char*)shared_block.data(); }

inline void prepare_block(size_t shared_bytes) {
    // What the last block left is no value for this one: a kernel that reads what it has not written shows.
    shared_block.assign(shared_bytes / 8 + 1, std::nan(""));
}

template <typename Body>
void for_each_block(Dim3 grid, const Body& body) {
    gridDim = grid;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx.x = x, blockIdx.y = y, blockIdx.z = z;
                body();
            }
}

inline Dim3 thread_at(unsigned i) {
    Dim3 at;
    at.x = i % blockDim.x, at.y = i / blockDim.x % blockDim.y, at.z = i / blockDim.x / blockDim.y;
    return at;
}

#ifdef TOUCHLINE_THREADS

static thread_local Dim3 threadIdx;
// All threads of a block; and those with the one that hands out blocks.
static pthread_barrier_t block_barrier, round_barrier;
static std::vector<std::thread> workers;
// Empty to end the workers.
static std::function<void()> running_kernel;

inline void __syncthreads() { pthread_barrier_wait(&block_barrier); }

inline void work(unsigned i) {
    for (;;) {
        pthread_barrier_wait(&round_barrier);
        if (!running_kernel) return;
        threadIdx = thread_at(i);
        running_kernel();
        pthread_barrier_wait(&round_barrier);
    }
}

inline void end_workers() {
    if (workers.empty()) return;
    running_kernel = nullptr;
    pthread_barrier_wait(&round_barrier);
    for (auto& worker : workers) worker.join();
    workers.clear();
    pthread_barrier_destroy(&block_barrier);
    pthread_barrier_destroy(&round_barrier);
}

// Workers stay from block to block: starting them would take nearly all of the time.
inline void run_kernel(Dim3 grid, Dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
    const unsigned threads = block.x * block.y * block.z;
    if (workers.size() != threads) {
        end_workers();
        pthread_barrier_init(&block_barrier, nullptr, threads);
        pthread_barrier_init(&round_barrier, nullptr, threads + 1);
        for (unsigned i = 0; i < threads; ++i) workers.emplace_back(work, i);
    }
    blockDim = block;
    running_kernel = kernel;
    for_each_block(grid, [&] {
        prepare_block(shared_bytes);
        pthread_barrier_wait(&round_barrier);
        pthread_barrier_wait(&round_barrier);
    });
}

#else

inline void end_workers() {}

static Dim3 threadIdx;

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool done = true;
};

static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static unsigned running_fiber;
static unsigned barriers_met;
static std::function<void()> running_kernel;

inline void __syncthreads() {
    ++barriers_met;
    swapcontext(&fibers[running_fiber].context, &scheduler);
}

inline void fiber_main() {
    running_kernel();
    fibers[running_fiber].done = true;
    swapcontext(&fibers[running_fiber].context, &scheduler);
}

inline void run_kernel(Dim3 grid, Dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
    blockDim = block;
    const unsigned threads = block.x * block.y * block.z;
    if (fibers.size() < threads) fibers.resize(threads);
    running_kernel = kernel;
    for_each_block(grid, [&] {
        prepare_block(shared_bytes);
        for (unsigned i = 0; i < threads; ++i) {
            Fiber& fiber = fibers[i];
            if (fiber.stack.empty()) fiber.stack.resize(64 << 10);
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, fiber_main, 0);
            fiber.done = false;
        }
        for (unsigned left = threads; left > 0;) {
            barriers_met = 0;
            const unsigned began = left;
            for (unsigned i = 0; i < threads; ++i) {
                if (fibers[i].done) continue;
                running_fiber = i;
                threadIdx = thread_at(i);
                swapcontext(&scheduler, &fibers[i].context);
                left -= fibers[i].done;
            }
            // A device would wait for ever, or worse.
            if (barriers_met != 0 && barriers_met != began) {
                std::fprintf(stderr, "a barrier that %u of %u threads came to\n", barriers_met, began);
                std::exit(3);
            }
        }
    });
}

#endif
