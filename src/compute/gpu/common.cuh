// The prelude of all kernels: element types, rounding to them, and vectors of eight. It precedes the other files, which
// include nothing, on the device and in the host build of the tests, which defines TOUCHLINE_HOST.
//
// The half types are bits in a struct, converted here: the runtime compiler then needs none of the toolkit's headers.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef TOUCHLINE_HOST
#define SHARED_MEMORY(name) unsigned char* name = host_shared_memory()
#else
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

struct f16 {
    u16 bits;
};

struct bf16 {
    u16 bits;
};

__device__ inline float to_float(float value) { return value; }

__device__ inline float to_float(bf16 value) { return __uint_as_float((u32)value.bits << 16); }

#ifdef TOUCHLINE_HOST
__device__ inline float to_float(f16 value) { return host_half_to_float(value.bits); }
__device__ inline u16 half_bits(float value) { return host_float_to_half(value); }
#else
__device__ inline float to_float(f16 value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}

__device__ inline u16 half_bits(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

template <typename T>
struct Number;

template <>
struct Number<float> {
    static __device__ inline float of(float value) { return value; }
};

template <>
struct Number<f16> {
    static __device__ inline f16 of(float value) {
        f16 half;
        half.bits = half_bits(value);
        return half;
    }
};

template <>
struct Number<bf16> {
    // To the nearest, ties to even. A NaN keeps a bit set: rounding could carry it into infinity.
    static __device__ inline bf16 of(float value) {
        u32 bits = __float_as_uint(value);
        bf16 half;
        half.bits = (bits & 0x7fffffffu) > 0x7f800000u ? (u16)(bits >> 16 | 1u)
                                                         : (u16)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
        return half;
    }
};

// Eight neighbouring values, read and written at once.
template <typename T>
struct __align__(16) Eight {
    T at[8];
};

__device__ inline bool is_finite(float value) { return fabsf(value) <= 3.402823466e38f; }

__device__ inline float clamped(float value, float low, float high) { return fminf(fmaxf(value, low), high); }

__device__ inline int smaller(int a, int b) { return a < b ? a : b; }

__device__ inline int larger(int a, int b) { return a > b ? a : b; }
