// A single row of activations for kernels of sixteen warps that read weights of one format: as `Input`, but in one pass, and for
// columns that are whole blocks. What comes before the reduction of a norm is put into shared memory; its factor, a number
// for the whole row, is multiplied into the results.
#pragma once
#include "common/fragment.cuh"
#include "common/input.cuh"
#include "common/quantise.cuh"

const int WARPS = 16;
const int EIGHT = 8;  // columns of a thread

// What is asked for before the wait: the norm's weights of this thread's first columns.
struct NormAhead {
    float4 weights[2];

    __device__ __forceinline__ NormAhead(const float* norm, int cols, int threads) {
        const int col = EIGHT * threadIdx.x;
        const bool has = norm != nullptr && col < cols && static_cast<int>(threadIdx.x) < threads;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            weights[i] = has ? reinterpret_cast<const float4*>(norm + col)[i] : make_float4(1.0f, 1.0f, 1.0f, 1.0f);
        }
    }
};

// The lower bytes of four numbers.
DEVICE uint32_t low_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

// Columns `col .. col + 7` of the row; a maximum by bits finds what is not finite. The four lanes of a tile do this together.
DEVICE void put_row(const Input& input, int col, const float (&v)[EIGHT], uint32_t forms) {
    const int tile = col / TILE, within = col % TILE;
    if (forms & INPUT_FLOATS) {
        float4* floats = reinterpret_cast<float4*>(input.floats + tile * TILE_FLOATS + within);
        floats[0] = make_float4(v[0], v[1], v[2], v[3]), floats[1] = make_float4(v[4], v[5], v[6], v[7]);
    }
    if (!(forms & INPUT_INT8)) return;
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < EIGHT; ++i) bits = max(bits, __float_as_uint(v[i]) & 0x7fffffff);
    bits = max(bits, __shfl_xor_sync(ALL_LANES, bits, 2));
    bits = max(bits, __shfl_xor_sync(ALL_LANES, bits, 1));
    const auto [scale, inverse] = int8_scale(bits);
    // A number from 2^23 to 2^24 is its lower bits, rounded.
    uint32_t codes[EIGHT];
#pragma unroll
    for (int i = 0; i < EIGHT; ++i) codes[i] = __float_as_uint(__fadd_rn(__fmul_rn(v[i], inverse), 12582912.0f));
    const uint32_t first = low_bytes(codes[0], codes[1], codes[2], codes[3]);
    const uint32_t second = low_bytes(codes[4], codes[5], codes[6], codes[7]);
    const int ones = 0x01010101;
    const int sum = sum_lanes<4>(__dp4a(static_cast<int>(second), ones, __dp4a(static_cast<int>(first), ones, 0)));
    *reinterpret_cast<uint2*>(input.codes + col / 4) = make_uint2(first, second);
    if (within == 0) input.factors[tile] = make_float2(scale, scale * static_cast<float>(sum));
}

DEVICE void load_eight(const float* from, float (&v)[EIGHT]) {
    const float4 a = __ldcg(reinterpret_cast<const float4*>(from)), b = __ldcg(reinterpret_cast<const float4*>(from) + 1);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

// A thread's first columns of the row.
struct RowAhead {
    float values[EIGHT];

    __device__ __forceinline__ RowAhead(const float* x, int cols, int threads) {
        const int col = EIGHT * threadIdx.x;
        if (col < cols && static_cast<int>(threadIdx.x) < threads) load_eight(x + col, values);
    }
};

// Puts `x * norm` into shared memory, with the block's first `threads` threads; columns are whole blocks of 256.
// `squares[warp]` is the sum of squares of each warp's columns. A barrier is the caller's.
DEVICE void fill_row(const Input& input, const float* x, const RowAhead& row, int cols, const float* norm,
                     const NormAhead& ahead, uint32_t forms, float* squares, int threads) {
    float sum = 0.0f, v[EIGHT];
    float4 weights[2] = {ahead.weights[0], ahead.weights[1]};
#pragma unroll
    for (int i = 0; i < EIGHT; ++i) v[i] = row.values[i];
#pragma unroll 1
    for (int col = EIGHT * threadIdx.x; col < cols; col += EIGHT * threads) {
        if (col >= EIGHT * threads) {
            load_eight(x + col, v);
            if (norm != nullptr) {
                weights[0] = reinterpret_cast<const float4*>(norm + col)[0];
                weights[1] = reinterpret_cast<const float4*>(norm + col)[1];
            }
        }
        if (norm != nullptr) {
            const float w[EIGHT] = {weights[0].x, weights[0].y, weights[0].z, weights[0].w,
                                    weights[1].x, weights[1].y, weights[1].z, weights[1].w};
#pragma unroll
            for (int i = 0; i < EIGHT; ++i) sum = fmaf(v[i], v[i], sum), v[i] *= w[i];
        }
        put_row(input, col, v, forms);
    }
    if (norm == nullptr) return;
    sum = sum_lanes<32>(sum);
    if (threadIdx.x % WARP == 0) squares[threadIdx.x / WARP] = sum;
}

// What results are multiplied with; after the barrier.
DEVICE float norm_factor(const float* norm, int cols, float eps, const float* squares, int threads) {
    if (norm == nullptr) return 1.0f;
    float sum = 0.0f;
#pragma unroll 8
    for (int warp = 0; warp < threads / static_cast<int>(WARP); ++warp) sum += squares[warp];
    return rsqrtf(__fdividef(sum, static_cast<float>(cols)) + eps);
}
