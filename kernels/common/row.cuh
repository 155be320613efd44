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
    int per_load;  // columns of a lane's load; 0: columns one by one

    __device__ __forceinline__ StoredRow(const Matrix& matrix, uint32_t row) : m(matrix), row(row) {
        const int size = m.format == F32 ? 4 : 2;
        const bool vectors = m.format == F32 || m.format == F16 || m.format == BF16;
        per_load = vectors && m.cols * size % 16 == 0 ? 16 / size : 0;
        if (per_load > 0) load(0);
    }
    __device__ __forceinline__ void load(int first) {
        const uint8_t* data = m.data + static_cast<uint64_t>(row) * m.cols * (16 / per_load);
#pragma unroll
        for (int i = 0; i < ROW_LOADS; ++i) {
            const int col = first + (i * WARP + threadIdx.x % WARP) * per_load;
            if (col < static_cast<int>(m.cols)) ahead[i] = load_16(data + static_cast<uint64_t>(col) * (16 / per_load));
        }
    }
    template <int R>
    __device__ __forceinline__ void multiply(const Input& input, float (&sums)[R]) {
        const int lane = threadIdx.x % WARP, cols = m.cols;
#pragma unroll
        for (int r = 0; r < R; ++r) sums[r] = 0.0f;
        if (per_load == 0) {
            for (int col = lane; col < cols; col += WARP) {
                const float weight = stored_element(m, row, col);
#pragma unroll
                for (int r = 0; r < R; ++r) sums[r] = fmaf(weight, input.value(r, col), sums[r]);
            }
        }
        for (int first = 0; per_load > 0 && first < cols; first += ROW_LOADS * WARP * per_load) {
            if (first > 0) load(first);
#pragma unroll
            for (int i = 0; i < ROW_LOADS; ++i) {
                const int col = first + (i * WARP + lane) * per_load;
                if (col >= cols) continue;
                const uint32_t words[4] = {ahead[i].x, ahead[i].y, ahead[i].z, ahead[i].w};
#pragma unroll
                for (int w = 0; w < 4; ++w) {
                    if (m.format == F32) {
#pragma unroll
                        for (int r = 0; r < R; ++r)
                            sums[r] = fmaf(__uint_as_float(words[w]), input.value(r, col + w), sums[r]);
                        continue;
                    }
                    const bool brain = m.format == BF16;
                    const float low = brain ? bf16_bits(words[w] & 0xffff) : half_bits(words[w] & 0xffff);
                    const float high = brain ? bf16_bits(words[w] >> 16) : half_bits(words[w] >> 16);
#pragma unroll
                    for (int r = 0; r < R; ++r) {
                        sums[r] = fmaf(low, input.value(r, col + 2 * w), sums[r]);
                        sums[r] = fmaf(high, input.value(r, col + 2 * w + 1), sums[r]);
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < R; ++r) sums[r] = sum_lanes<32>(sums[r]);
    }
};
