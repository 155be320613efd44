// Products of one row of a matrix as stored with rows of activations, by a warp.
#pragma once
#include "common/element.cuh"
#include "common/input.cuh"

// Sixteen bytes a lane and load, eight loads ahead.
const int ROW_LOADS = 8;

struct StoredRow {
    uint4 ahead[ROW_LOADS];
    const Matrix& m;
    uint32_t row;
    int begin, cols;  // the columns from `begin` to before `cols`
    int per_load;     // columns of a lane's load; 0: columns one by one

    __device__ __forceinline__ StoredRow(const Matrix& matrix, uint32_t row) : StoredRow(matrix, row, 0, matrix.cols) {}
    __device__ __forceinline__ StoredRow(const Matrix& matrix, uint32_t row, int begin, int end)
        : m(matrix), row(row), begin(begin), cols(end) {
        const int size = m.format == F32 ? 4 : 2;
        const bool vectors = m.format == F32 || m.format == F16 || m.format == BF16;
        per_load = vectors && m.cols * size % 16 == 0 ? 16 / size : 0;
        if (per_load > 0) load(begin);
    }
    __device__ __forceinline__ void load(int first) {
        const uint8_t* data = m.data + static_cast<uint64_t>(row) * m.cols * (16 / per_load);
#pragma unroll
        for (int i = 0; i < ROW_LOADS; ++i) {
            const int col = first + (i * WARP + threadIdx.x % WARP) * per_load;
            if (col < cols) ahead[i] = load_16(data + static_cast<uint64_t>(col) * (16 / per_load));
        }
    }
    // Adds the products of all loads, each of N columns in one tile or two fours of it, with the first `rows` of up to R rows.
    template <int R, int N, class Value>
    __device__ __forceinline__ void add(const Input& input, int rows, int first, float (&sums)[R], Value value) const {
#pragma unroll
        for (int i = 0; i < ROW_LOADS; ++i) {
            const int col = first + (i * WARP + threadIdx.x % WARP) * N;
            if (col >= cols) continue;
            const uint32_t words[4] = {ahead[i].x, ahead[i].y, ahead[i].z, ahead[i].w};
            for_pairs<R>(rows, [&](int r) {
                const float* x = input.floats + (r * input.tiles + col / TILE) * TILE_FLOATS + col % TILE;
#pragma unroll
                for (int four = 0; four < N / 4; ++four) {
                    const float4 v = reinterpret_cast<const float4*>(x)[four];
                    sums[r] = fmaf(value(words, 4 * four), v.x, sums[r]);
                    sums[r] = fmaf(value(words, 4 * four + 1), v.y, sums[r]);
                    sums[r] = fmaf(value(words, 4 * four + 2), v.z, sums[r]);
                    sums[r] = fmaf(value(words, 4 * four + 3), v.w, sums[r]);
                }
            });
        }
    }
    template <int R>
    __device__ __forceinline__ void multiply(const Input& input, float (&sums)[R], int rows = R) {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int r = 0; r < R; ++r) sums[r] = 0.0f;
        if (per_load == 0) {
            for (int col = begin + lane; col < cols; col += WARP) {
                const float weight = stored_element(m, row, col);
                for_pairs<R>(rows, [&](int r) { sums[r] = fmaf(weight, input.value(r, col), sums[r]); });
            }
        }
        for (int first = begin; per_load > 0 && first < cols; first += ROW_LOADS * WARP * per_load) {
            if (first > begin) load(first);
            if (m.format == F32) {
                add<R, 4>(input, rows, first, sums, [](const uint32_t (&w)[4], int i) { return __uint_as_float(w[i]); });
            } else if (m.format == BF16) {
                add<R, 8>(input, rows, first, sums, [](const uint32_t (&w)[4], int i) {
                    return __uint_as_float(i % 2 ? w[i / 2] & 0xffff0000 : w[i / 2] << 16);
                });
            } else {
                add<R, 8>(input, rows, first, sums, [](const uint32_t (&w)[4], int i) {
                    return half_bits(w[i / 2] >> (16 * (i % 2)) & 0xffff);
                });
            }
        }
#pragma unroll
        for (int r = 0; r < R; ++r) sums[r] = sum_lanes<32>(sums[r]);
    }
};
