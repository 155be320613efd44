// Products of a packed strip with rows of activations: a warp takes blocks of 256 columns, a lane 4 rows by 32 columns.
#pragma once
#include <type_traits>

#include "common/input.cuh"

// What a lane has summed: rows of activations by slots of its quad.
template <int R>
using Sums = float[R][QUAD];

// Adds the products of one block with the only row, quantised; `tile` is this lane's, counted from the input's first column.
template <class P>
DEVICE void multiply_int8(const P& block, const Codebook& book, const Input& input, int tile, Sums<1>& all) {
    float scale[QUAD], min[QUAD];
    block.scales(book, 2, threadIdx.x % WARP, scale, min);
    float(&sums)[QUAD] = all[0];
    const uint4* codes = reinterpret_cast<const uint4*>(input.codes + 8 * tile);
    const uint4 first = codes[0], second = codes[1];
    const uint32_t x[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
    const float2 factors = input.factors[tile];
    int dots[QUAD];
    block.dot(book, x, dots);
#pragma unroll
    for (int slot = 0; slot < QUAD; ++slot) {
        if constexpr (P::MIN) sums[slot] = fmaf(-min[slot], factors.y, sums[slot]);
        sums[slot] = fmaf(static_cast<float>(dots[slot]) * factors.x, scale[slot], sums[slot]);
    }
}


// What a lane knows of eight columns of four slots: `weight = scale * code - min`.
struct Eight {
    float codes[QUAD][8], scale[QUAD], min[QUAD];
};

// Adds the products of columns `8 * eight ..` of a tile with one row in float32.
DEVICE void add_row_eight(const Eight& w, bool has_min, const uint32_t* order, const Input& input, int row, int tile,
                          int eight, float (&sums)[QUAD]) {
    float x[8];
    if (order == nullptr) {
        const float* values = input.floats + (row * input.tiles + tile) * TILE_FLOATS + 8 * eight;
        const float4 a = reinterpret_cast<const float4*>(values)[0], b = reinterpret_cast<const float4*>(values)[1];
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = input.value(row, __ldg(order + TILE * tile + 8 * eight + i));
    }
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; ++i) total += x[i];
#pragma unroll
    for (int slot = 0; slot < QUAD; ++slot) {
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) dot = fmaf(w.codes[slot][i], x[i], dot);
        if (has_min) sums[slot] = fmaf(-w.min[slot], total, sums[slot]);
        sums[slot] = fmaf(w.scale[slot], dot, sums[slot]);
    }
}

// The same for the first `rows` of up to R rows.
template <int R>
DEVICE void add_eight(const Eight& w, bool has_min, const uint32_t* order, const Input& input, int rows, int tile,
                      int eight, Sums<R>& sums) {
    for_pairs<R>(rows, [&](int row) { add_row_eight(w, has_min, order, input, row, tile, eight, sums[row]); });
}

// The same, once for all formats of a kernel. Formats with int8 products need this way for several rows, in exact mode and for
// columns that are out of order; a copy for each of them would be most of a kernel.
template <int R>
__device__ __noinline__ void add_eight_shared(const Eight& w, bool has_min, const uint32_t* order, const Input& input,
                                              int rows, int tile, int eight, Sums<R>& sums) {
    add_eight<R>(w, has_min, order, input, rows, tile, eight, sums);
}

// As `multiply_int8` with rows in float32.
template <class P, int R>
DEVICE void multiply_floats(const P& block, const Codebook& book, const Matrix& m, const Input& input, int rows,
                            int tile, Sums<R>& sums) {
    constexpr bool SHARED = P::INT8;
    const int lane = threadIdx.x % WARP;
    float local[R][QUAD];  // What is handed over lies in memory: the sums themselves stay in registers.
    if constexpr (SHARED) memcpy(local, sums, sizeof sums);
    Eight w;
#pragma unroll
    for (int eight = 0; eight < 4; ++eight) {
        if (eight == 0 || (P::HALVES && eight == 2)) block.scales(book, eight / 2, lane, w.scale, w.min);
#pragma unroll
        for (int slot = 0; slot < QUAD; ++slot) block.values(book, eight, slot, w.codes[slot]);
        if constexpr (SHARED) {
            add_eight_shared<R>(w, P::MIN, m.order, input, rows, tile, eight, local);
        } else {
            add_eight<R>(w, P::MIN, m.order, input, rows, tile, eight, sums);
        }
    }
    if constexpr (SHARED) memcpy(sums, local, sizeof sums);
}

template <class P, int R>
DEVICE void multiply(const P& block, const Codebook& book, const Matrix& m, const Input& input, int rows, int tile,
                     bool int8, Sums<R>& sums) {
    if constexpr (P::INT8 && R == 1) {
        if (int8) return multiply_int8(block, book, input, tile, sums);
    }
    multiply_floats<P, R>(block, book, m, input, rows, tile, sums);
}

// Sums over the tiles of a warp, halving what a lane still has to add: `out` is `[rows][16]` by slot.
template <int R>
DEVICE void reduce(const Sums<R>& sums, float* out, int rows = R) {
    const int lane = threadIdx.x % WARP;
    const bool upper = lane & 16, middle = lane & 8;
#pragma unroll
    for (int row = 0; row < R; ++row) {
        if (R > 1 && row >= rows) break;
        float pair[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float keep = upper ? sums[row][i + 2] : sums[row][i], give = upper ? sums[row][i] : sums[row][i + 2];
            pair[i] = keep + __shfl_xor_sync(ALL_LANES, give, 16);
        }
        const float keep = middle ? pair[1] : pair[0], give = middle ? pair[0] : pair[1];
        float sum = keep + __shfl_xor_sync(ALL_LANES, give, 8);
        sum += __shfl_xor_sync(ALL_LANES, sum, 4);
        if (!(lane & 4)) out[SLOTS * row + 4 * (lane % 4) + 2 * upper + middle] = sum;
    }
}

// A warp's way through the blocks of a strip: blocks `first`, `first + step`, ...; `block` holds the next one.
template <class P>
struct Walk {
    P block;
    const uint8_t* strip;
    int blocks, cols;

    __device__ __forceinline__ void load(int index) {
        const int tiles = min(BLOCK, cols - index * BLOCK) / TILE, lane = threadIdx.x % WARP;
        if (lane / 4 < tiles) {
            block.load(strip + static_cast<uint32_t>(index) * block.block_bytes(BLOCK / TILE), tiles, lane / 4, lane % 4);
        }
    }
    __device__ __forceinline__ Walk(const Matrix& m, int strip_index, int first)
        : strip(m.data + static_cast<uint64_t>(strip_index) * m.strip_bytes), blocks(ceil_div(m.cols, BLOCK)),
          cols(m.cols) {
        if constexpr (std::is_same<P, PackingAnyInt4>::value) block.choose(m.format);
        if (first < blocks) load(first);
    }
    // Adds the products of all the walk's blocks with the first `rows` of up to `R` rows.
    template <int R>
    __device__ __forceinline__ void multiply_all(int first, int step, const Codebook& book, const Matrix& m,
                                                 const Input& input, int rows, bool int8, Sums<R>& sums) {
        for (int index = first; index < blocks; index += step) {
            const P now = block;
            if (P::AHEAD && index + step < blocks) load(index + step);
            const int tile = index * (BLOCK / TILE) + threadIdx.x % WARP / 4;
            if (tile < cols / TILE) multiply<P, R>(now, book, m, input, rows, tile, int8, sums);
            if (!P::AHEAD && index + step < blocks) load(index + step);
        }
    }
};
