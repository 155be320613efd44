// The words of CUDA C++ for a compiler for processors: every kernel is compiled with this in front. Only what kernels here use,
// and what is near to it; a kernel that fails to compile for the emulated device wants one more function here.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "emulator.h"

#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static thread_local
#define __grid_constant__
#define __restrict__ __restrict
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
// `nvcc` here reads these where kernels are defined.
#ifndef EMULATED_KERNELS
#define __global__ __attribute__((visibility("hidden")))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __cluster_dims__(...)
#endif

// The thread that runs. No code of a module uses the register otherwise, and the functions that it calls keep it.
register emulator::Thread* emulated_thread asm("r15");

#define VECTORS(T, name, align1, align2, align4)   \
    struct name##1 { T x; };                       \
    struct __align__(align2) name##2 { T x, y; };  \
    struct name##3 { T x, y, z; };                 \
    struct __align__(align4) name##4 { T x, y, z, w; }; \
    static inline name##1 make_##name##1(T x) { return {x}; }                         \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                 \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }         \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTORS(signed char, char, 1, 2, 4)
VECTORS(unsigned char, uchar, 1, 2, 4)
VECTORS(short, short, 2, 4, 8)
VECTORS(unsigned short, ushort, 2, 4, 8)
VECTORS(int, int, 4, 8, 16)
VECTORS(unsigned int, uint, 4, 8, 16)
VECTORS(float, float, 4, 8, 16)
VECTORS(long long, longlong, 8, 16, 16)
VECTORS(unsigned long long, ulonglong, 8, 16, 16)
VECTORS(double, double, 8, 16, 16)
#undef VECTORS
using dim3 = emulator::Dim3;

#define threadIdx (emulated_thread->thread)
#define blockIdx (emulated_thread->block)
#define blockDim (emulated_thread->block_dim)
#define gridDim (emulated_thread->grid_dim)
#define warpSize 32

// Smaller and larger of two numbers; of a signed and an unsigned one, as unsigned numbers.
template <class A, class B>
using Common = std::conditional_t<std::is_floating_point_v<A> || std::is_floating_point_v<B>, decltype(A() + B()),
                                  std::common_type_t<A, B>>;
template <class A, class B>
static inline Common<A, B> min(A a, B b) {
    const Common<A, B> x = a, y = b;
    return y < x ? y : x;
}
template <class A, class B>
static inline Common<A, B> max(A a, B b) {
    const Common<A, B> x = a, y = b;
    return x < y ? y : x;
}

template <class To, class From>
static inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline uint32_t __float_as_uint(float x) { return same_bits<uint32_t>(x); }
static inline int __float_as_int(float x) { return same_bits<int>(x); }
static inline float __uint_as_float(uint32_t x) { return same_bits<float>(x); }
static inline float __int_as_float(int x) { return same_bits<float>(x); }

// Rounded to nearest, as without contraction everything here is.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fdividef(float a, float b) { return a / b; }
#define __expf expf
#define __logf logf
#define __log2f log2f
#define __exp2f exp2f
#define __sinf sinf
#define __cosf cosf
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __int2float_rn(int x) { return static_cast<float>(x); }
static inline float __uint2float_rn(uint32_t x) { return static_cast<float>(x); }
// What does not fit becomes the nearest number that does, what is no number becomes zero.
static inline int __float2int_rn(float x) {
    if (x != x) return 0;
    if (x >= 2147483648.0f) return INT32_MAX;
    if (x < -2147483648.0f) return INT32_MIN;
    return static_cast<int>(nearbyintf(x));
}
static inline int __float2int_rz(float x) { return __float2int_rn(truncf(x)); }
static inline int __float2int_rd(float x) { return __float2int_rn(floorf(x)); }
static inline int __float2int_ru(float x) { return __float2int_rn(ceilf(x)); }
using std::isfinite;
using std::isinf;
using std::isnan;

static inline int __popc(uint32_t x) { return __builtin_popcount(x); }
static inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
static inline int __clz(uint32_t x) { return x == 0 ? 32 : __builtin_clz(x); }
static inline int __clzll(uint64_t x) { return x == 0 ? 64 : __builtin_clzll(x); }
static inline int __ffs(uint32_t x) { return __builtin_ffs(static_cast<int>(x)); }
static inline int __ffsll(uint64_t x) { return __builtin_ffsll(static_cast<long long>(x)); }
static inline uint32_t __brev(uint32_t x) {
    uint32_t y = 0;
    for (int i = 0; i < 32; ++i) y |= (x >> i & 1) << (31 - i);
    return y;
}
static inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) * b >> 32; }
static inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
static inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}
static inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t by) {
    return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> (by & 31));
}
static inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t by) {
    return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) << (by & 31) >> 32);
}
// Bytes of `a` and `b` by the nibbles of `choice`; the fourth bit of one asks for the byte's sign.
static inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t choice) {
    const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; ++i) out |= static_cast<uint32_t>(both >> (8 * (choice >> (4 * i) & 7)) & 0xff) << (8 * i);
    return out;
}
static inline uint32_t __vsub4(uint32_t a, uint32_t b) {
    uint32_t out = 0;
    for (int i = 0; i < 32; i += 8) out |= (((a >> i) - (b >> i)) & 0xff) << i;
    return out;
}
static inline uint32_t __vadd4(uint32_t a, uint32_t b) {
    uint32_t out = 0;
    for (int i = 0; i < 32; i += 8) out |= (((a >> i) + (b >> i)) & 0xff) << i;
    return out;
}
template <class A, class B>
static inline int emulated_dp4a(uint32_t a, uint32_t b, int sum) {
    uint32_t total = static_cast<uint32_t>(sum);
    for (int i = 0; i < 32; i += 8) {
        total += static_cast<uint32_t>(static_cast<A>(a >> i & 0xff) * static_cast<B>(b >> i & 0xff));
    }
    return static_cast<int>(total);
}
static inline int __dp4a(int a, int b, int sum) { return emulated_dp4a<int8_t, int8_t>(a, b, sum); }
static inline uint32_t __dp4a(uint32_t a, uint32_t b, uint32_t sum) {
    return static_cast<uint32_t>(emulated_dp4a<uint8_t, uint8_t>(a, b, static_cast<int>(sum)));
}

// Memory. All of it is the processor's, and coherent among the threads of a launch.
template <class T>
static inline T __ldg(const T* p) { return *p; }
template <class T>
static inline T __ldcg(const T* p) { return *p; }
template <class T>
static inline T __ldca(const T* p) { return *p; }
template <class T>
static inline T __ldcs(const T* p) { return *p; }
template <class T>
static inline T __ldcv(const T* p) { return *const_cast<const volatile T*>(p); }
template <class T>
static inline void __stcg(T* p, T v) { *p = v; }
template <class T>
static inline void __stcs(T* p, T v) { *p = v; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
template <class T>
static inline size_t __cvta_generic_to_shared(const T* p) { return reinterpret_cast<size_t>(p); }

// Launches of several streams may meet at one address.
template <class T, class Change>
static inline T emulated_atomic(T* p, Change change) {
    T old, wanted;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do wanted = change(old);
    while (!__atomic_compare_exchange(p, &old, &wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <class T>
using Same = std::common_type_t<T>;
template <class T>
static inline T atomicAdd(T* p, Same<T> v) { return emulated_atomic(p, [=](T old) { return T(old + v); }); }
template <class T>
static inline T atomicSub(T* p, Same<T> v) { return emulated_atomic(p, [=](T old) { return T(old - v); }); }
template <class T>
static inline T atomicMax(T* p, Same<T> v) { return emulated_atomic(p, [=](T old) { return old < v ? v : old; }); }
template <class T>
static inline T atomicMin(T* p, Same<T> v) { return emulated_atomic(p, [=](T old) { return v < old ? v : old; }); }
template <class T>
static inline T atomicOr(T* p, Same<T> v) { return emulated_atomic(p, [=](T old) { return T(old | v); }); }
template <class T>
static inline T atomicAnd(T* p, Same<T> v) { return emulated_atomic(p, [=](T old) { return T(old & v); }); }
template <class T>
static inline T atomicXor(T* p, Same<T> v) { return emulated_atomic(p, [=](T old) { return T(old ^ v); }); }
template <class T>
static inline T atomicExch(T* p, Same<T> v) { return emulated_atomic(p, [=](T) { return v; }); }
template <class T>
static inline T atomicCAS(T* p, Same<T> is, Same<T> v) {
    return emulated_atomic(p, [=](T old) { return old == is ? v : old; });
}
static inline uint32_t atomicInc(uint32_t* p, uint32_t last) {
    return emulated_atomic(p, [=](uint32_t old) { return old >= last ? 0 : old + 1; });
}

// Barriers and collectives.
[[noreturn]] static inline void emulated_fail(int code, const char* what) {
    emulated_thread->device->fail(*emulated_thread, code, what);
}
static inline void __syncthreads() { emulated_thread->device->block_barrier(*emulated_thread); }
static inline void emulated_meet(uint32_t mask, emulator::Collective collective, void* data) {
    emulated_thread->device->meet(*emulated_thread, mask, collective, data);
}
static inline void __syncwarp(uint32_t mask = 0xffffffff) { emulated_meet(mask, nullptr, nullptr); }
// Which lanes run together is the device's choice; here each one is by itself.
static inline uint32_t __activemask() { return 1u << emulated_thread->lane; }

// Calls `work(lane, what it brought)` for the lanes of `mask`.
template <class T, class Work>
static inline void for_lanes(uint32_t mask, void* const* data, Work work) {
    for (; mask != 0; mask &= mask - 1) {
        const int lane = __builtin_ctz(mask);
        work(lane, *static_cast<T*>(data[lane]));
    }
}

template <class T>
struct EmulatedShuffle {
    T value, result;
    uint32_t source;
};
template <class T>
__attribute__((noinline)) static void emulated_shuffle(emulator::Thread& thread, uint32_t mask, void* const* data) {
    for_lanes<EmulatedShuffle<T>>(mask, data, [&](int, EmulatedShuffle<T>& own) {
        if (!(mask >> own.source & 1)) {
            thread.device->fail(thread, emulator::LAUNCH_FAILED, "a shuffle reads a lane that is not in its mask");
        }
        own.result = static_cast<EmulatedShuffle<T>*>(data[own.source])->value;
    });
}
template <class T>
static inline T emulated_shuffle_from(uint32_t mask, T value, uint32_t source) {
    EmulatedShuffle<T> own = {value, value, source};
    emulated_meet(mask, emulated_shuffle<T>, &own);
    return own.result;
}
// Lanes beyond a segment of `width` get their own value.
template <class T>
static inline T __shfl_sync(uint32_t mask, T value, int lane, int width = 32) {
    const uint32_t own = emulated_thread->lane, first = own & ~(width - 1u);
    return emulated_shuffle_from(mask, value, first + (static_cast<uint32_t>(lane) & (width - 1u)));
}
template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T value, int by, int width = 32) {
    const uint32_t own = emulated_thread->lane, other = own ^ static_cast<uint32_t>(by);
    return emulated_shuffle_from(mask, value, other < (own & ~(width - 1u)) + width ? other : own);
}
template <class T>
static inline T __shfl_up_sync(uint32_t mask, T value, uint32_t by, int width = 32) {
    const uint32_t own = emulated_thread->lane;
    return emulated_shuffle_from(mask, value, by <= (own & (width - 1u)) ? own - by : own);
}
template <class T>
static inline T __shfl_down_sync(uint32_t mask, T value, uint32_t by, int width = 32) {
    const uint32_t own = emulated_thread->lane;
    return emulated_shuffle_from(mask, value, (own & (width - 1u)) + by < static_cast<uint32_t>(width) ? own + by : own);
}

struct EmulatedBallot {
    bool vote;
    uint32_t result;
};
static inline void emulated_ballot(emulator::Thread&, uint32_t mask, void* const* data) {
    uint32_t votes = 0;
    for_lanes<EmulatedBallot>(mask, data, [&](int lane, EmulatedBallot& own) { votes |= uint32_t(own.vote) << lane; });
    for_lanes<EmulatedBallot>(mask, data, [&](int, EmulatedBallot& own) { own.result = votes; });
}
static inline uint32_t __ballot_sync(uint32_t mask, bool vote) {
    EmulatedBallot own = {vote, 0};
    emulated_meet(mask, emulated_ballot, &own);
    return own.result;
}
static inline bool __any_sync(uint32_t mask, bool vote) { return __ballot_sync(mask, vote) != 0; }
static inline bool __all_sync(uint32_t mask, bool vote) { return __ballot_sync(mask, vote) == mask; }

template <class T>
struct EmulatedMatch {
    T value;
    uint32_t result;
};
template <class T>
static void emulated_match(emulator::Thread&, uint32_t mask, void* const* data) {
    for_lanes<EmulatedMatch<T>>(mask, data, [&](int, EmulatedMatch<T>& own) {
        own.result = 0;
        for_lanes<EmulatedMatch<T>>(mask, data, [&](int lane, EmulatedMatch<T>& other) {
            own.result |= uint32_t(other.value == own.value) << lane;
        });
    });
}
template <class T>
static inline uint32_t __match_any_sync(uint32_t mask, T value) {
    EmulatedMatch<T> own = {value, 0};
    emulated_meet(mask, emulated_match<T>, &own);
    return own.result;
}

template <class T, class Operation>
static void emulated_reduce(emulator::Thread&, uint32_t mask, void* const* data) {
    T total = *static_cast<T*>(data[__builtin_ctz(mask)]);
    for_lanes<T>(mask & (mask - 1), data, [&](int, T& own) { total = Operation()(total, own); });
    for_lanes<T>(mask, data, [&](int, T& own) { own = total; });
}
#define REDUCTION(name, T, expression)                                                      \
    static inline T __reduce_##name##_sync(uint32_t mask, T value) {                        \
        struct Operation {                                                                  \
            T operator()(T a, T b) const { return expression; }                             \
        };                                                                                  \
        emulated_meet(mask, emulated_reduce<T, Operation>, &value);                         \
        return value;                                                                       \
    }
REDUCTION(max, uint32_t, a > b ? a : b)
REDUCTION(min, uint32_t, a < b ? a : b)
REDUCTION(add, uint32_t, a + b)
REDUCTION(and, uint32_t, a & b)
REDUCTION(or, uint32_t, a | b)
REDUCTION(xor, uint32_t, a ^ b)
REDUCTION(max, int, a > b ? a : b)
REDUCTION(min, int, a < b ? a : b)
REDUCTION(add, int, static_cast<int>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b)))
#undef REDUCTION

#define EMULATED_COUNT_BARRIER(name, T, initial, expression)                                \
    static inline T name(bool vote) {                                                       \
        __shared__ uint32_t votes;                                                          \
        if (emulated_thread->thread.x + emulated_thread->thread.y + emulated_thread->thread.z == 0) votes = 0; \
        __syncthreads();                                                                    \
        if (vote) ++votes;                                                                  \
        __syncthreads();                                                                    \
        const uint32_t total = votes, threads = blockDim.x * blockDim.y * blockDim.z;       \
        (void)threads;                                                                      \
        __syncthreads();                                                                    \
        return expression;                                                                  \
    }
EMULATED_COUNT_BARRIER(__syncthreads_count, int, 0, static_cast<int>(total))
EMULATED_COUNT_BARRIER(__syncthreads_or, bool, 0, total != 0)
EMULATED_COUNT_BARRIER(__syncthreads_and, bool, 0, total == threads)
#undef EMULATED_COUNT_BARRIER
