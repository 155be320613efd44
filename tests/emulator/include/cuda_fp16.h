// Halves, as CUDA's header of this name has them; with a constructor and operators only where kernels use them.
#pragma once
#include "cuda_device.h"

struct __align__(2) __half {
    uint16_t bits;
};
struct __align__(4) __half2 {
    __half x, y;
};
using half = __half;
using half2 = __half2;

static inline float __half2float(__half h) {
    _Float16 x;
    memcpy(&x, &h.bits, sizeof x);
    return static_cast<float>(x);
}
static inline __half __float2half_rn(float v) {
    const _Float16 x = static_cast<_Float16>(v);
    __half h;
    memcpy(&h.bits, &x, sizeof x);
    return h;
}
static inline __half __float2half(float v) { return __float2half_rn(v); }
static inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
static inline unsigned short __half_as_ushort(__half h) { return h.bits; }
static inline float __low2float(__half2 h) { return __half2float(h.x); }
static inline float __high2float(__half2 h) { return __half2float(h.y); }
static inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
static inline __half2 __floats2half2_rn(float a, float b) { return {__float2half_rn(a), __float2half_rn(b)}; }
static inline __half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
static inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
