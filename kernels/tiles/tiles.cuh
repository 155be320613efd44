// Products of strips with up to 64 rows of quantised activations on tensor cores: what all kernels for many rows share.
//
// A warp has a strip of 16 weight rows and the sums of all rows of activations with it. The block walks the columns, 256 at a
// time: the activations, which all warps read, and each warp's block of its strip are copied into shared memory while those
// before them are multiplied. Integers are summed over a tile of 32 columns, which share their scales; the sums of tiles are
// floats. Bound by the floating-point instructions of the scales: four for each sum of a tile.
#pragma once
#include <type_traits>

#include "common/device.cuh"
#include "tiles/args.cuh"
#include "tiles/fragment.cuh"

const int WARPS = 8;
const int ROWS = 64;
const int COLUMNS = 8;  // rows of activations that one instruction takes
const int PITCH = BLOCK + 32;  // bytes from row to row: a warp's reads of eight rows touch every bank once
const int STRIP_BLOCK = 4352;  // bytes of the largest block of a strip: Q8_0

struct Stage {
    uint8_t codes[ROWS * PITCH];
    float2 factors[BLOCK / TILE][ROWS];
    uint8_t weights[WARPS][STRIP_BLOCK];
};

// Rows of activations in global memory.
struct Activations {
    const uint32_t* codes;
    const float2* factors;
    const uint32_t* tile;  // [ROWS] in shared memory: the first tile of each row
    int count;
};

using Sums = float[ROWS / COLUMNS][4];

// Starts the copies of columns `256 chunk ..` of the activations and of this warp's strip, where it has one.
template <uint32_t F>
DEVICE void start_copies(Stage& stage, const Activations& x, const Matrix& m, int strip, int chunk) {
    const int tiles = min(BLOCK, static_cast<int>(m.cols) - chunk * BLOCK) / TILE;
    for (int i = threadIdx.x; i < ROWS * BLOCK / 16; i += blockDim.x) {
        const int row = i / (BLOCK / 16), part = i % (BLOCK / 16);
        const bool there = row < x.count && part < 2 * tiles;
        const uint32_t* from = x.codes + 8 * (static_cast<uint64_t>(there ? x.tile[row] : 0) + chunk * (BLOCK / TILE));
        copy_16(stage.codes + row * PITCH + 16 * part, there ? from + 4 * part : x.codes, there);
    }
    for (int i = threadIdx.x; i < ROWS * BLOCK / TILE; i += blockDim.x) {
        const int row = i / (BLOCK / TILE), tile = i % (BLOCK / TILE);
        const bool there = row < x.count && tile < tiles;
        const float2* from = x.factors + (there ? x.tile[row] + chunk * (BLOCK / TILE) + tile : 0);
        copy_8(&stage.factors[tile][row], from, there);
    }
    if (strip >= 0) {
        const int warp = threadIdx.x / WARP;
        const int whole = Packing<F>::block_bytes(BLOCK / TILE), bytes = Packing<F>::block_bytes(tiles);
        const uint8_t* from = m.data + static_cast<uint64_t>(strip) * m.strip_bytes + static_cast<uint32_t>(chunk * whole);
        for (int at = 16 * (threadIdx.x % WARP); at < bytes; at += 16 * WARP) {
            copy_16(stage.weights[warp] + at, from + at, true);
        }
    }
    end_copy_group();
}

// Adds the products of one block of this warp's strip.
template <uint32_t F>
DEVICE void multiply_block(Fragment<F>& fragment, const Stage& stage, int tiles, int count, Sums& sums) {
    const Lane lane;
    const uint8_t* block = stage.weights[threadIdx.x / WARP];
    fragment.begin(block, tiles, lane);
    for (int tile = 0; tile < tiles; ++tile) {
        uint32_t a[4];
        float2 scale, least = make_float2(0.0f, 0.0f);
        fragment.codes(block, tiles, tile, lane, a);
        fragment.scales(block, tiles, tile, lane, scale, least);
        int2 weights[2];
        if constexpr (Fragment<F>::HALVES) {
            weights[0] = fragment.weights(block, tiles, tile, 0, lane);
            weights[1] = fragment.weights(block, tiles, tile, 1, lane);
        }
#pragma unroll
        for (int n = 0; n < ROWS / COLUMNS; ++n) {
            if (n * COLUMNS >= count) break;
            const uint2 b = word_pair(stage.codes + (n * COLUMNS + lane.g) * PITCH + tile * TILE + 8 * lane.t);
            const float4 f = *reinterpret_cast<const float4*>(&stage.factors[tile][n * COLUMNS + 2 * lane.t]);
            int d[4];
            if constexpr (Fragment<F>::HALVES) {
                // Columns 0 to 15 are those of the first two lanes of four.
                const uint32_t first = lane.t < 2 ? 0xffffffff : 0;
                const uint32_t lower[4] = {a[0] & first, a[1] & first, a[2] & first, a[3] & first};
                const uint32_t upper[4] = {a[0] & ~first, a[1] & ~first, a[2] & ~first, a[3] & ~first};
                int e[4];
                multiply_tile<Fragment<F>::SIGNED>(d, lower, b);
                multiply_tile<Fragment<F>::SIGNED>(e, upper, b);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    d[i] = i < 2 ? d[i] * weights[0].x + e[i] * weights[1].x : d[i] * weights[0].y + e[i] * weights[1].y;
                }
            } else {
                multiply_tile<Fragment<F>::SIGNED>(d, a, b);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if constexpr (Fragment<F>::MIN) {
                    sums[n][i] = fmaf(i < 2 ? -least.x : -least.y, i % 2 ? f.w : f.y, sums[n][i]);
                }
                const float dot = static_cast<float>(d[i]) * (i % 2 ? f.z : f.x);
                sums[n][i] = fmaf(dot, i < 2 ? scale.x : scale.y, sums[n][i]);
            }
        }
    }
}

// `sums = strip · x`, for every warp of the block; a warp whose `strip` is negative only helps. Its matrix is as wide as those
// of the others.
template <uint32_t F>
DEVICE void multiply_strip(Stage* stages, const Activations& x, const Matrix& m, int strip, Sums& sums) {
    const int chunks = ceil_div(m.cols, BLOCK);
    Fragment<F> fragment(m);
#pragma unroll
    for (int n = 0; n < ROWS / COLUMNS; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] = 0.0f;
    }
    start_copies<F>(stages[0], x, m, strip, 0);
    for (int chunk = 0; chunk < chunks; ++chunk) {
        if (chunk + 1 < chunks) {
            start_copies<F>(stages[(chunk + 1) % 2], x, m, strip, chunk + 1);
            wait_for_copies_but<1>();
        } else {
            wait_for_copies_but<0>();
        }
        __syncthreads();
        const int tiles = min(BLOCK, static_cast<int>(m.cols) - chunk * BLOCK) / TILE;
        if (strip >= 0) multiply_block<F>(fragment, stages[chunk % 2], tiles, x.count, sums);
        __syncthreads();
    }
}

// Calls `put(row, i, sum)` for each sum of this lane: weight row `row` of the strip, row `i` of the activations.
template <class Put>
DEVICE void for_sums(const Sums& sums, int count, Put&& put) {
    const Lane lane;
#pragma unroll
    for (int n = 0; n < ROWS / COLUMNS; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = n * COLUMNS + 2 * lane.t + i % 2;
            if (row < count) put(lane.g + 8 * (i / 2), row, sums[n][i]);
        }
    }
}
