// Products of two tiles of a packed strip at a time with rows of quantised activations in shared memory, eight an instruction.
#pragma once
#include "common/fragment.cuh"
#include "common/split.cuh"

const int COLUMNS = 8;         // rows of activations that one instruction takes
const int PITCH = BLOCK + 32;  // bytes from row to row: a warp's reads of eight rows touch every bank once

// What a warp multiplies with: two tiles of its strip.
template <uint32_t F>
struct TilePair {
    static constexpr bool HALVES = Fragment<F>::HALVES;
    uint32_t codes[2][4];
    float2 scale[2];
    int2 weights[2][2];

    // `scales`: those of tiles `t` and `t + 4` of this lane's rows.
    __device__ __forceinline__ TilePair(const Fragment<F>& fragment, const uint8_t* block, int tiles, int first, Lane lane,
                                        const float2 (&scales)[2]) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            // A tile that is not there has the codes of another, with activations and scales of zero.
            const int tile = first + i;
            fragment.codes(block, tiles, min(tile, tiles - 1), lane, codes[i]);
            if constexpr (HALVES) {
                scale[i] = scales[0];
                weights[i][0] = fragment.weights(block, tiles, tile, 0, lane);
                weights[i][1] = fragment.weights(block, tiles, tile, 1, lane);
            } else {
                const float2 own = first < 4 ? scales[0] : scales[1];
                scale[i].x = __shfl_sync(ALL_LANES, own.x, tile % 4, 4);
                scale[i].y = __shfl_sync(ALL_LANES, own.y, tile % 4, 4);
            }
        }
    }
    // Dot products of tile `i`, in float32: see `scaled`.
    __device__ __forceinline__ void multiply(int i, uint2 b, float (&dots)[4]) const {
        int d[4];
        if constexpr (HALVES) {
            // Columns 0 to 15 are those of the first two lanes of four.
            const uint32_t first = threadIdx.x % 4 < 2 ? 0xffffffff : 0;
            uint32_t lower[4], upper[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) lower[j] = codes[i][j] & first, upper[j] = codes[i][j] & ~first;
            int e[4];
            multiply_tile<Fragment<F>::SIGNED>(d, lower, b);
            multiply_tile<Fragment<F>::SIGNED>(e, upper, b);
            const int2(&w)[2] = weights[i];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                dots[j] = static_cast<float>(j < 2 ? d[j] * w[0].x + e[j] * w[1].x : d[j] * w[0].y + e[j] * w[1].y);
            }
        } else {
            multiply_tile<Fragment<F>::SIGNED>(d, codes[i], b, MAGIC);
#pragma unroll
            for (int j = 0; j < 4; ++j) dots[j] = __int_as_float(d[j]);
        }
    }
    // A dot product times a scale of `quantise`, whose products with MAGIC_VALUE are exact: rounded once, as a product is.
    static __device__ __forceinline__ float scaled(float dot, float scale) {
        return HALVES ? dot * scale : fmaf(dot, scale, -MAGIC_VALUE * scale);
    }
};

// Adds the products of two tiles with N times eight rows of activations. `codes` and `scales` are where this lane's begin.
// All loads, then all products, then all sums: so that they hide each other's latency.
template <int N, uint32_t F>
DEVICE void multiply_pair(const TilePair<F>& pair, const uint8_t* codes, const float* scales, int rows, float (*sums)[4]) {
    uint2 b[2][N];
    float2 f[2][N];
    float dots[2][N][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
            b[i][n] = word_pair(codes + n * COLUMNS * PITCH + i * TILE);
            f[i][n] = *reinterpret_cast<const float2*>(scales + i * rows + n * COLUMNS);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int n = 0; n < N; ++n) pair.multiply(i, b[i][n], dots[i][n]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float dot = pair.scaled(dots[i][n][j], j % 2 ? f[i][n].y : f[i][n].x);
                sums[n][j] = fmaf(dot, j < 2 ? pair.scale[i].x : pair.scale[i].y, sums[n][j]);
            }
        }
    }
}

// Adds what the minima of a block subtract: their products with the sums of the activations of each tile, which are a matrix
// product of eight columns. Its columns 2 t and 2 t + 1 are tiles t and t + 4; both operands are split, and the upper halves
// are in the first eight columns of the instruction's sixteen, the lower ones in the others.
template <int N>
DEVICE void subtract_minima(const float2 (&minima)[2], const float* totals, int rows, int count, float (&sums)[N][4]) {
    const Lane lane;
    const Split first(-minima[0].x, -minima[1].x), second(-minima[0].y, -minima[1].y);
    const uint32_t a[4] = {first.high, second.high, first.low, second.low};
    const float *own = totals + lane.t * rows + lane.g, *others = own + 4 * rows;
#pragma unroll
    for (int n = 0; n < N; ++n) {
        if (n * COLUMNS >= count) break;
        const Split b(own[n * COLUMNS], others[n * COLUMNS]);
        multiply_bf16(sums[n], a, b.high, b.high);
        multiply_bf16(sums[n], a, b.low, b.low);
    }
}

// Adds the products of a block with N times eight rows: as straight code, because few rows are more frequent than many, and
// instructions around the products are most of what they cost.
template <int N, uint32_t F>
DEVICE void multiply_few(const Fragment<F>& fragment, const uint8_t* block, int tiles, const float2 (&scales)[2],
                         const uint8_t* codes, const float* factors, int rows, float (*sums)[4]) {
    const Lane lane;
#pragma unroll
    for (int first = 0; first < BLOCK / TILE; first += 2) {
        if (first >= tiles) break;
        const TilePair<F> pair(fragment, block, tiles, first, lane, scales);
        multiply_pair<N>(pair, codes + first * TILE, factors + first * rows, rows, sums);
    }
}
