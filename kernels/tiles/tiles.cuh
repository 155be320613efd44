// Products of strips with up to 64 rows of quantised activations on tensor cores: what all kernels for many rows share.
//
// A warp has a strip of 16 weight rows and the sums of all rows of activations with it. The block walks the columns,
// 256 at a time: the activations, which all warps read, and each warp's block of its strip are copied into shared
// memory, two or three steps ahead of their use where rows and format leave room for that, so that copies go on while
// warps wait for each other. Integers are summed over a tile of 32 columns, which share their scales; the sums of tiles
// are floats. Bound by floating-point instructions, four for each sum of a tile, where rows are many, and by bytes
// where they are few.
#pragma once
#include <type_traits>

#include "common/device.cuh"
#include "common/fragment.cuh"
#include "tiles/args.cuh"

const int WARPS = 8;
const int ROWS = 64;    // of activations, at most
const int COLUMNS = 8;  // rows of activations that one instruction takes
const int PITCH = BLOCK + 32;  // bytes from row to row: a warp's reads of eight rows touch every bank once
const int MOST_STAGES = 4;

// Rows of activations in global memory.
struct Activations {
    const uint32_t* codes;
    const float2* factors;
    const uint32_t* tile;  // [count] in shared memory: the first tile of each row
    int count;
};

// Shared memory of a block, as so many stages as it has room for: 256 columns of the activations, rounded up to whole
// instructions, and a block of each warp's strip.
template <uint32_t F>
struct Stages {
    uint8_t* first;
    int rows, bytes, count;

    __device__ __forceinline__ Stages(uint8_t* shared, uint32_t room, int rows_used)
        : first(shared), rows(ceil_div(rows_used, COLUMNS) * COLUMNS),
          bytes(rows * (PITCH + BLOCK / TILE * static_cast<int>(sizeof(float2))) + WARPS * weight_bytes()),
          count(min(MOST_STAGES, static_cast<int>(room) / bytes)) {}

    static __device__ __forceinline__ int weight_bytes() { return Packing<F>::block_bytes(BLOCK / TILE); }
    __device__ __forceinline__ uint8_t* codes(int stage) const { return first + stage * bytes; }
    // [BLOCK / TILE][rows]
    __device__ __forceinline__ float2* factors(int stage) const {
        return reinterpret_cast<float2*>(codes(stage) + rows * PITCH);
    }
    // Of this warp.
    __device__ __forceinline__ uint8_t* weights(int stage) const {
        return reinterpret_cast<uint8_t*>(factors(stage) + BLOCK / TILE * rows) + threadIdx.x / WARP * weight_bytes();
    }
    // Waits for the oldest of all copies that a step has left under way.
    __device__ __forceinline__ void wait() const {
        switch (count) {
            case 4: return wait_for_copies_but<2>();
            case 3: return wait_for_copies_but<1>();
            default: return wait_for_copies_but<0>();
        }
    }
};

using Sums = float[ROWS / COLUMNS][4];

// Starts the copies of columns `256 chunk ..` of the activations and of this warp's strip, where it has one.
template <uint32_t F>
DEVICE void start_copies(const Stages<F>& stages, int stage, const Activations& x, const Matrix& m, int strip, int chunk) {
    const int tiles = min(BLOCK, static_cast<int>(m.cols) - chunk * BLOCK) / TILE;
    uint8_t* codes = stages.codes(stage);
    for (int i = threadIdx.x; i < stages.rows * BLOCK / 16; i += blockDim.x) {
        const int row = i / (BLOCK / 16), part = i % (BLOCK / 16);
        const bool there = row < x.count && part < 2 * tiles;
        const uint32_t* from = x.codes + 8 * (static_cast<uint64_t>(there ? x.tile[row] : 0) + chunk * (BLOCK / TILE));
        copy_16(codes + row * PITCH + 16 * part, there ? from + 4 * part : x.codes, there);
    }
    float2* factors = stages.factors(stage);
    for (int i = threadIdx.x; i < stages.rows * BLOCK / TILE; i += blockDim.x) {
        const int row = i / (BLOCK / TILE), tile = i % (BLOCK / TILE);
        const bool there = row < x.count && tile < tiles;
        const float2* from = x.factors + (there ? x.tile[row] + chunk * (BLOCK / TILE) + tile : 0);
        copy_8(factors + tile * stages.rows + row, from, there);
    }
    if (strip >= 0) {
        const int bytes = Packing<F>::block_bytes(tiles);
        const uint8_t* from =
            m.data + static_cast<uint64_t>(strip) * m.strip_bytes + static_cast<uint32_t>(chunk * stages.weight_bytes());
        uint8_t* to = stages.weights(stage);
        for (int at = 16 * (threadIdx.x % WARP); at < bytes; at += 16 * WARP) copy_16(to + at, from + at, true);
    }
}

// Adds the products of one block of this warp's strip.
template <uint32_t F>
DEVICE void multiply_block(Fragment<F>& fragment, const Stages<F>& stages, int stage, int tiles, int count, Sums& sums) {
    const Lane lane;
    const uint8_t *block = stages.weights(stage), *codes = stages.codes(stage);
    const float2* factors = stages.factors(stage);
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
            const uint2 b = word_pair(codes + (n * COLUMNS + lane.g) * PITCH + tile * TILE + 8 * lane.t);
            const float4 f = *reinterpret_cast<const float4*>(factors + tile * stages.rows + n * COLUMNS + 2 * lane.t);
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

// The products of strips `strip`, `strip + step` .. before `end` with `x`, for every warp of the block: each in turn
// calls `put(strip, sums)`. `turns` is the most that a warp of the block has, `room` the bytes of `shared`. All warps
// come back together.
template <uint32_t F, class Put>
DEVICE void multiply_strips(uint8_t* shared, uint32_t room, const Activations& x, const Matrix& m, int strip, int step, int end,
                            int turns, Put&& put) {
    const int chunks = ceil_div(m.cols, BLOCK), steps = turns * chunks;
    const Stages<F> stages(shared, room, x.count);
    Fragment<F> fragment(m);
    Sums sums = {};
    // What is copied next, and where to.
    int next_strip = strip, next_chunk = 0, next_stage = 0;
    const auto start = [&](int number) {
        if (number < steps) start_copies<F>(stages, next_stage, x, m, next_strip < end ? next_strip : -1, next_chunk);
        end_copy_group();
        if (++next_stage == stages.count) next_stage = 0;
        if (++next_chunk == chunks) next_chunk = 0, next_strip += step;
    };
    for (int i = 0; i + 1 < stages.count; ++i) start(i);
    int chunk = 0, stage = 0;
    for (int number = 0; number < steps; ++number) {
        stages.wait();
        // All have their copies, and are done with those that the next ones replace.
        __syncthreads();
        start(number + stages.count - 1);
        const int tiles = min(BLOCK, static_cast<int>(m.cols) - chunk * BLOCK) / TILE;
        if (strip < end) multiply_block<F>(fragment, stages, stage, tiles, x.count, sums);
        if (++stage == stages.count) stage = 0;
        if (++chunk < chunks) continue;
        if (strip < end) put(strip, sums);
        chunk = 0, strip += step;
#pragma unroll
        for (int n = 0; n < ROWS / COLUMNS; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[n][i] = 0.0f;
        }
    }
    __syncthreads();
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
