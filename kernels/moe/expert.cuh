// Products of one strip of an expert of any format, by all warps of a block or by one.
#pragma once
#include "moe/activations.cuh"
#include "common/row.cuh"
#include "common/strip.cuh"

const int WARPS = 8;

// `out[warp][i][slot]`: this warp's share of strip `strip` times the first `rows` of up to `R` rows of the input.
template <class P, int R>
__device__ __noinline__ void packed_strip(const Matrix& m, int strip, const Input& input, int rows, bool int8, float* out) {
    const int warp = threadIdx.x / WARP, blocks = ceil_div(m.cols, BLOCK);
    Codebook book;
    if constexpr (P::CODEBOOK) book.load(m);
    Walk<P> walk(m, strip, warp);
    Sums<R> sums = {};
    walk.template multiply_all<R>(warp, WARPS, book, m, input, rows, int8, sums);
    reduce<R>(sums, out + warp * R * SLOTS, rows);
}

// As `packed_strip` for a matrix as stored; every warp takes whole rows, so that only the first warp's sums are not zero.
template <int R>
__device__ __noinline__ void stored_strip(const Matrix& m, int strip, const Input& input, int rows, float* out) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    for (int i = lane; i < R * SLOTS; i += WARP) {
        if (warp > 0) out[warp * R * SLOTS + i] = 0.0f;
    }
    for (int row_in = warp; row_in < SLOTS; row_in += WARPS) {
        const uint32_t row = strip * SLOTS + row_in;
        float sums[R] = {};
        if (row < m.rows) StoredRow(m, row).multiply<R>(input, sums, rows);
#pragma unroll
        for (int i = 0; i < R; ++i) {
            if (lane == 0) out[i * SLOTS + slot_of_row(row_in)] = sums[i];
        }
    }
}

template <int R>
DEVICE void strip_products(const Matrix& m, int strip, const Input& input, int rows, uint32_t forms, float* out) {
    if (m.packed) {
        const bool int8 = forms & INPUT_INT8 && takes_int8(m);
        with_packing(m.format, [&](auto tag) { packed_strip<decltype(tag), R>(m, strip, input, rows, int8, out); });
    } else {
        stored_strip<R>(m, strip, input, rows, out);
    }
}

// One warp's products of a whole strip with one row: `out[slot]`.
template <class P>
__device__ __noinline__ void packed_by_warp(const Matrix& m, int strip, const Input& input, bool int8, float* out) {
    Codebook book;
    if constexpr (P::CODEBOOK) book.load(m);
    Walk<P> walk(m, strip, 0);
    Sums<1> sums = {};
    walk.template multiply_all<1>(0, 1, book, m, input, 1, int8, sums);
    reduce<1>(sums, out);
}

static __device__ __noinline__ void stored_by_warp(const Matrix& m, int strip, const Input& input, float* out) {
    for (int row_in = 0; row_in < SLOTS; ++row_in) {
        const uint32_t row = strip * SLOTS + row_in;
        float sums[1] = {};
        if (row < m.rows) StoredRow(m, row).multiply<1>(input, sums);
        if (threadIdx.x % WARP == 0) out[slot_of_row(row_in)] = sums[0];
    }
}

DEVICE void strip_by_warp(const Matrix& m, int strip, const Input& input, uint32_t forms, float* out) {
    if (!m.packed) return stored_by_warp(m, strip, input, out);
    const bool int8 = forms & INPUT_INT8 && takes_int8(m);
    with_packing(m.format, [&](auto tag) { packed_by_warp<decltype(tag)>(m, strip, input, int8, out); });
}
