// Rows of activations in shared memory, as floats, as int8 with a scale for every 32 columns, or as both.
//
// Quantising is what the processors' kernels do (src/cpu/kernels.rs, quantize_tile): `x ≈ scale * code`,
// `scale = max |x| / 127`; values that are not finite make the scale NaN, which keeps the failure visible.
#pragma once
#include "common/args.cuh"
#include "common/packing.cuh"
#include "common/quantise.cuh"

// Floats of a tile, padded so that lanes of eight tiles read different banks.
const int TILE_FLOATS = 36;

// Rows that are multiplied together: with two of them the sums of eight slots hide each other's latency. Kernels of many rows
// keep room for whole pairs, and stop behind the last one that has a row: few of an expert's groups are full.
const int PAIR = 2;

// Calls `work(row)` for the first `rows` of up to R rows, pair by pair; the second row of the last pair may be none.
template <int R, class Work>
DEVICE void for_pairs(int rows, Work work) {
#pragma unroll
    for (int first = 0; first < R; first += PAIR) {
        if (R > PAIR && first >= rows) break;
#pragma unroll
        for (int row = first; row < first + PAIR && row < R; ++row) work(row);
    }
}

struct Input {
    float* floats;      // [rows, tiles, TILE_FLOATS]
    uint32_t* codes;    // [rows, tiles, 8], four columns a word
    float2* factors;    // [rows, tiles]: scale, and scale times the sum of the codes: what a minimum is multiplied with
    int tiles;

    __device__ __forceinline__ Input(uint8_t* shared, int rows, int cols, uint32_t forms) : tiles(ceil_div(cols, TILE)) {
        floats = reinterpret_cast<float*>(shared);
        if (forms & INPUT_FLOATS) shared += sizeof(float) * TILE_FLOATS * tiles * rows;
        codes = reinterpret_cast<uint32_t*>(shared);
        factors = reinterpret_cast<float2*>(codes + 8 * tiles * rows);
    }

    // Of all that was taken of shared memory for one row, so that what follows is aligned.
    __device__ __forceinline__ int bytes(uint32_t forms) const {
        const int floats_bytes = forms & INPUT_FLOATS ? static_cast<int>(sizeof(float)) * TILE_FLOATS * tiles : 0;
        return ceil_div(floats_bytes + 40 * tiles, 16) * 16;
    }

    __device__ __forceinline__ float value(int row, int col) const {
        return floats[(row * tiles + col / TILE) * TILE_FLOATS + col % TILE];
    }

    // Columns `col .. col + 3` of `row`; the eight lanes of a tile of int8 call this together. `inside`: whether the row
    // has these columns.
    __device__ __forceinline__ void put(int row, int col, bool inside, float4 v, uint32_t forms) const {
        const int tile = row * tiles + col / TILE;
        if (inside && forms & INPUT_FLOATS) {
            *reinterpret_cast<float4*>(floats + tile * TILE_FLOATS + col % TILE) = v;
        }
        if (!(forms & INPUT_INT8)) return;
        const float largest =
            max_lanes<8>(fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
        // A maximum passes NaN over, a sum does not.
        const float total = sum_lanes<8>(fabsf(v.x) + fabsf(v.y) + fabsf(v.z) + fabsf(v.w));
        const float scale = without_two_bits(isfinite(total) ? __fdiv_rn(largest, 127.0f) : __int_as_float(0x7fffffff));
        const float inverse = scale > 0.0f ? __fdiv_rn(127.0f, largest) : 0.0f;
        const int a = __float2int_rn(__fmul_rn(v.x, inverse)), b = __float2int_rn(__fmul_rn(v.y, inverse));
        const int c = __float2int_rn(__fmul_rn(v.z, inverse)), d = __float2int_rn(__fmul_rn(v.w, inverse));
        const int sum = sum_lanes<8>(a + b + c + d);
        if (!inside) return;
        codes[8 * tile + col % TILE / 4] = (a & 0xff) | (b & 0xff) << 8 | (c & 0xff) << 16 | (d & 0xff) << 24;
        if (col % TILE == 0) factors[tile] = make_float2(scale, scale * static_cast<float>(sum));
    }
};

// Columns `col .. col + 3` of `x`, zeros beyond the last.
DEVICE float4 four_of(const float* x, int col, int cols) {
    if (col + 3 < cols && reinterpret_cast<uintptr_t>(x) % 16 == 0) return *reinterpret_cast<const float4*>(x + col);
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (col < cols) v.x = x[col];
    if (col + 1 < cols) v.y = x[col + 1];
    if (col + 2 < cols) v.z = x[col + 2];
    if (col + 3 < cols) v.w = x[col + 3];
    return v;
}

// RMS norms of float32: the sum of four squares, and what a row of `width` columns is multiplied with whose squares add up to `squares`.
DEVICE float squares_of(float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; }
DEVICE float norm_factor(float squares, float width, float eps) { return 1.0f / sqrtf(squares / width + eps); }

// Fills `n` rows, `row(i)` each, with all threads of the block: `x / sqrt(mean(x²) + eps) * norm` where `norm` is not null.
// `scratch` takes 32 floats for each row. A barrier before they are read is the caller's.
template <class RowOf>
DEVICE void fill(const Input& input, RowOf row, int n, int cols, const float* norm, float eps, uint32_t forms,
                 float* scratch) {
    const int step = 4 * blockDim.x, rounds = ceil_div(cols, step), first = 4 * threadIdx.x;
    for (int i = 0; i < n; ++i) {
        const float* x = row(i);
        float factor = 1.0f;
        if (norm != nullptr) {
            float squares = 0.0f;
            for (int round = 0; round < rounds; ++round) {
                const float4 v = four_of(x, round * step + first, cols);
                squares += squares_of(v);
            }
            factor = norm_factor(sum_block(squares, scratch + 32 * i), static_cast<float>(cols), eps);
        }
        for (int round = 0; round < rounds; ++round) {
            const int col = round * step + first;
            float4 v = four_of(x, col, cols);
            if (norm != nullptr) {
                const float4 w = four_of(norm, col, cols);
                v = make_float4(v.x * factor * w.x, v.y * factor * w.y, v.z * factor * w.z, v.w * factor * w.w);
            }
            input.put(i, col, col < input.tiles * TILE, v, forms);
        }
    }
}
