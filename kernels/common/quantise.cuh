// Quantising a single row, and what a kernel has computed of rows for the kernel behind it: see common/input.cuh.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

// What codes are multiplied with, and values to become codes.
struct Int8Scale {
    float scale, inverse;
};

// A scale of which three times is a float: see `TilePair::scaled` in common/tile_pair.cuh.
DEVICE float without_two_bits(float scale) { return __uint_as_float(__float_as_uint(scale) & ~3u); }

// Of values whose largest has these bits, but for its sign; no number where one of them is not finite.
DEVICE Int8Scale int8_scale(uint32_t bits) {
    const float largest = __uint_as_float(bits);
    const float scale = bits < 0x7f800000 ? largest * (1.0f / 127.0f) : __uint_as_float(0x7fffffff);
    return {without_two_bits(scale), scale > 0.0f ? __fdividef(127.0f, largest) : 0.0f};
}

// The columns of a warp, a whole tile.
DEVICE void put_tile(const QuantisedRow& row, uint64_t column, float value) {
    const uint32_t bits = __reduce_max_sync(ALL_LANES, __float_as_uint(value) & 0x7fffffff);
    const auto [scale, inverse] = int8_scale(bits);
    const int code = __float2int_rn(__fmul_rn(value, inverse));
    const int sum = __reduce_add_sync(ALL_LANES, code);
    reinterpret_cast<int8_t*>(row.codes)[column] = static_cast<int8_t>(code);
    if (column % WARP == 0) row.factors[column / WARP] = make_float2(scale, scale * static_cast<float>(sum));
}

// Quantises the columns of sixteen lanes that are STRIDE apart, half a tile, for the kernel behind. Every lane of the warp comes
// here; `counts`: whether those of this one's half have columns.
template <int STRIDE>
DEVICE void put_half_tile(const QuantisedRow& row, uint32_t column, float value, bool counts) {
    uint32_t bits = counts ? __float_as_uint(value) & 0x7fffffff : 0;
#pragma unroll
    for (int d = 8; d > 0; d /= 2) bits = max(bits, __shfl_xor_sync(ALL_LANES, bits, d * STRIDE));
    const auto [scale, inverse] = int8_scale(bits);
    const int code = counts ? __float2int_rn(__fmul_rn(value, inverse)) : 0;
    int sum = code;
#pragma unroll
    for (int d = 8; d > 0; d /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, d * STRIDE);
    if (!counts) return;
    reinterpret_cast<int8_t*>(row.codes)[column] = static_cast<int8_t>(code);
    if (column % (WARP / 2) == 0) row.factors[column / (WARP / 2)] = make_float2(scale, scale * static_cast<float>(sum));
}
