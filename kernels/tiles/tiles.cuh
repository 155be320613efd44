// Products of strips with up to 64 rows of quantised activations on tensor cores: what all kernels for many rows share.
//
// A warp has a strip of 16 weight rows and the sums of all rows of activations with it. The block walks the columns,
// 256 at a time: the activations, which all warps read, and each warp's block of its strip are copied into shared
// memory, two or three steps ahead of their use where rows and format leave room for that, so that copies go on while
// warps wait for each other. Integers are summed over a tile of 32 columns, which share their scales; the sums of tiles
// are floats. What the minima of weights subtract is a product of its own, once for 256 columns. Bound by floating-point
// instructions, three for each sum of a tile, where rows are many, and by bytes where they are few.
#pragma once
#include "common/device.cuh"
#include "common/tile_pair.cuh"
#include "tiles/args.cuh"

const int WARPS = 8;
const int ROWS = 64;    // of activations, at most
const int MOST_STAGES = 4;

// Rows of activations in global memory.
struct Activations {
    const uint32_t* codes;
    const float2* factors;
    const uint32_t* tile;  // [count] in shared memory: the first tile of each row
    int count;
};

// Shared memory of a block, as so many stages as it has room for: 256 columns of the activations, rounded up to whole
// instructions, and a block of the strip of each of the `warps` that take these columns. Of those warps this is number `own`.
template <uint32_t F>
struct Stages {
    uint8_t* first;
    int rows, bytes, count, own;

    __device__ __forceinline__ Stages(uint8_t* shared, uint32_t room, int rows_used, int warps, int own_number)
        : first(shared), rows(ceil_div(rows_used, COLUMNS) * COLUMNS),
          bytes(rows * (PITCH + BLOCK / TILE * static_cast<int>(sizeof(float2))) + warps * weight_bytes()),
          count(min(MOST_STAGES, static_cast<int>(room) / bytes)), own(own_number) {}

    static __device__ __forceinline__ int weight_bytes() { return Packing<F>::block_bytes(BLOCK / TILE); }
    __device__ __forceinline__ uint8_t* codes(int stage) const { return first + stage * bytes; }
    // [BLOCK / TILE][rows], as are the next ones: scales, and scales times the sums of the codes.
    __device__ __forceinline__ float* scales(int stage) const {
        return reinterpret_cast<float*>(codes(stage) + rows * PITCH);
    }
    __device__ __forceinline__ float* totals(int stage) const { return scales(stage) + BLOCK / TILE * rows; }
    // Of this warp.
    __device__ __forceinline__ uint8_t* weights(int stage) const {
        return reinterpret_cast<uint8_t*>(totals(stage) + BLOCK / TILE * rows) + own * weight_bytes();
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

// Tiles of block `chunk` of a strip. Formats with a scale for 256 columns have whole blocks only, which saves their kernels
// what others need for the last one.
template <uint32_t F>
DEVICE int tiles_of(const Matrix& m, int chunk) {
    if constexpr (F == Q4_K || F == Q5_K || F == Q6_K || F == INT4_256) return BLOCK / TILE;
    return min(BLOCK, static_cast<int>(m.cols) - chunk * BLOCK) / TILE;
}

// Starts the copies of columns `256 chunk ..` of the activations: the share of `thread` of `threads` that copy them, whole
// warps. Each has the same columns of every row that it copies.
template <uint32_t F>
DEVICE void copy_activations(const Stages<F>& stages, int stage, const Activations& x, const Matrix& m, int chunk, int thread,
                             int threads) {
    const int tiles = tiles_of<F>(m, chunk);
    const uint32_t first = chunk * (BLOCK / TILE);
    {
        const int columns = BLOCK / 16, part = thread % columns, end = part < 2 * tiles ? x.count : 0;
        const uint8_t* from = reinterpret_cast<const uint8_t*>(x.codes) + static_cast<uint64_t>(first) * TILE + 16 * part;
        uint8_t* to = stages.codes(stage) + 16 * part;
#pragma unroll 2
        for (int row = thread / columns; row < stages.rows; row += threads / columns) {
            const bool there = row < end;
            copy_16(to + row * PITCH, there ? from + static_cast<uint64_t>(x.tile[row]) * TILE : from, there);
        }
    }
    const int tile = thread % (BLOCK / TILE), end = tile < tiles ? x.count : 0;
    const float2* from = x.factors + first + tile;
    float *scales = stages.scales(stage) + tile * stages.rows, *totals = stages.totals(stage) + tile * stages.rows;
#pragma unroll 1
    for (int row = thread / (BLOCK / TILE); row < stages.rows; row += threads / (BLOCK / TILE)) {
        const bool there = row < end;
        const float2* factor = there ? from + x.tile[row] : from;
        copy_4(scales + row, &factor->x, there);
        copy_4(totals + row, &factor->y, there);
    }
}

// Starts the copies of columns `256 chunk ..` of this warp's strip.
template <uint32_t F>
DEVICE void copy_weights(const Stages<F>& stages, int stage, const Matrix& m, int strip, int chunk) {
    const int tiles = tiles_of<F>(m, chunk);
    const int bytes = Packing<F>::block_bytes(tiles);
    const uint8_t* from =
        m.data + static_cast<uint64_t>(strip) * m.strip_bytes + static_cast<uint32_t>(chunk * stages.weight_bytes());
    uint8_t* to = stages.weights(stage);
    const int lane = 16 * (threadIdx.x % WARP);
    if (tiles == BLOCK / TILE) {
        // Of a size that the compiler knows: one instruction for each copy.
#pragma unroll
        for (int at = 0; at < stages.weight_bytes(); at += 16 * WARP) {
            if (at + lane < stages.weight_bytes()) copy_16(to + lane + at, from + lane + at, true);
        }
    } else {
        for (int at = lane; at < bytes; at += 16 * WARP) copy_16(to + at, from + at, true);
    }
}

// Adds the products of one block of this warp's strip. With up to STRAIGHT rows by code of their own.
template <uint32_t F, int STRAIGHT = 2 * COLUMNS>
DEVICE void multiply_block(Fragment<F>& fragment, const Stages<F>& stages, int stage, int tiles, int count, Sums& sums) {
    const Lane lane;
    const uint8_t* block = stages.weights(stage);
    const uint8_t* codes = stages.codes(stage) + lane.g * PITCH + 8 * lane.t;
    const float* factors = stages.scales(stage) + 2 * lane.t;
    fragment.begin(block, tiles, lane);
    // Four lanes have the same rows: each finds the scales and minima of two tiles.
    float2 scales[2], minima[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        scales[i] = minima[i] = make_float2(0.0f, 0.0f);
        const int tile = lane.t + 4 * i;
        if (tile < tiles) fragment.scales(block, tiles, tile, lane, scales[i], minima[i]);
    }
    if constexpr (Fragment<F>::MIN) subtract_minima<ROWS / COLUMNS>(minima, stages.totals(stage), stages.rows, count, sums);
    if (count <= COLUMNS) return multiply_few<1>(fragment, block, tiles, scales, codes, factors, stages.rows, sums);
    if (count <= 2 * COLUMNS) return multiply_few<2>(fragment, block, tiles, scales, codes, factors, stages.rows, sums);
    if constexpr (STRAIGHT == 4 * COLUMNS) {
        if (count <= STRAIGHT) return multiply_few<4>(fragment, block, tiles, scales, codes, factors, stages.rows, sums);
    }
#pragma unroll 1
    for (int first = 0; first < tiles; first += 2) {
        const TilePair<F> pair(fragment, block, tiles, first, lane, scales);
#pragma unroll
        for (int n = 0; n < ROWS / COLUMNS; n += 2) {
            if (n * COLUMNS >= count) break;
            if ((n + 1) * COLUMNS < count) {
                multiply_pair<2>(pair, codes + n * COLUMNS * PITCH, factors + n * COLUMNS, stages.rows, sums + n);
            } else {
                multiply_pair<1>(pair, codes + n * COLUMNS * PITCH, factors + n * COLUMNS, stages.rows, sums + n);
            }
        }
        codes += 2 * TILE, factors += 2 * stages.rows;
    }
}

// The products of strips `strip`, `strip + step` .. before `end` with `x`, for every warp of the block: each in turn
// calls `put(strip, sums)`. `turns` is the most that a warp of the block has, `room` the bytes of `shared`. All warps
// come back together.
template <uint32_t F, class Put>
DEVICE void multiply_strips(uint8_t* shared, uint32_t room, const Activations& x, const Matrix& m, int strip, int step, int end,
                            int turns, Put&& put) {
    const int chunks = ceil_div(m.cols, BLOCK), steps = turns * chunks;
    const Stages<F> stages(shared, room, x.count, WARPS, threadIdx.x / WARP);
    Fragment<F> fragment(m);
    Sums sums = {};
    // What is copied next, and where to.
    int next_strip = strip, next_chunk = 0, next_stage = 0;
    const auto start = [&](int number) {
        if (number < steps) {
            copy_activations<F>(stages, next_stage, x, m, next_chunk, threadIdx.x, blockDim.x);
            if (next_strip < end) copy_weights<F>(stages, next_stage, m, next_strip, next_chunk);
        }
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
        const int tiles = tiles_of<F>(m, chunk);
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

// Calls `put(row, i, sum)` for the sums of this lane with eight rows of activations, of which `first` is the first: weight
// row `row` of the strip, row `i` of the activations.
template <class Put>
DEVICE void for_four_sums(const float (&sums)[4], int first, int count, Put&& put) {
    const Lane lane;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int row = first + 2 * lane.t + i % 2;
        if (row < count) put(lane.g + 8 * (i / 2), row, sums[i]);
    }
}

// The same for all sums of this lane.
template <class Put>
DEVICE void for_sums(const Sums& sums, int count, Put&& put) {
#pragma unroll
    for (int n = 0; n < ROWS / COLUMNS; ++n) for_four_sums(sums[n], n * COLUMNS, count, put);
}
