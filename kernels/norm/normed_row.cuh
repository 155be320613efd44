// RMS norms of rows, one by a block: `out = x / sqrt(mean(x²) + eps) * weight`, as float32, quantised, or both.
#pragma once
#include "common/input.cuh"

// Where a normed row goes.
struct NormedRow {
    const NormArgs& args;
    float* out;
    Input quantised;

    __device__ __forceinline__ NormedRow(const NormArgs& args, uint64_t row)
        : args(args), out(args.out + row * args.width), quantised(nullptr, 1, args.width, 0) {
        quantised.codes = args.row.codes + row * (args.width / 4);
        quantised.factors = args.row.factors + row * (args.width / TILE);
    }
    // Columns `col .. col + 3`, those that there are, by whole warps: eight lanes quantise together.
    __device__ __forceinline__ void put(uint32_t col, float4 v, float4 weight, float factor) const {
        const uint32_t width = args.width;
        const float four[4] = {v.x * factor * weight.x, v.y * factor * weight.y, v.z * factor * weight.z, v.w * factor * weight.w};
        const float4 all = make_float4(four[0], four[1], four[2], four[3]);
        if (args.row.codes != nullptr) quantised.put(0, col, col < width, all, INPUT_INT8);
        if (args.out == nullptr) return;
        if (width % 4 == 0 && col < width) *reinterpret_cast<float4*>(out + col) = all;
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            if (width % 4 != 0 && col + i < width) out[col + i] = four[i];
        }
    }
};

// A block's norm of one row, of which each thread keeps LOADS times four columns in registers.
template <int LOADS>
struct RowNorm {
    const NormArgs& args;
    float4 weights[LOADS];

    // The weights are asked for here: before the wait.
    __device__ __forceinline__ explicit RowNorm(const NormArgs& args) : args(args) {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) weights[i] = four_of(args.weight, column(i), args.width);
    }
    static __device__ __forceinline__ uint32_t column(int load) { return 4 * (load * blockDim.x + threadIdx.x); }
    // Norms row `row` of those that are asked for, with all threads.
    __device__ __forceinline__ void run(uint32_t row, float* scratch) const {
        const uint32_t width = args.width;
        const float* x = args.x + static_cast<uint64_t>(args.pick == nullptr ? row : args.pick[row]) * width;
        const NormedRow normed(args, row);
        float4 values[LOADS];
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            values[i] = four_of(x, column(i), width);
            squares += squares_of(values[i]);
        }
        // Columns beyond those are read again for the second pass.
        const uint32_t held = 4 * LOADS * blockDim.x;
        for (uint32_t col = held + 4 * threadIdx.x; col < width; col += 4 * blockDim.x) squares += squares_of(four_of(x, col, width));
        const float factor = norm_factor(sum_block(squares, scratch), static_cast<float>(width), args.eps);
#pragma unroll
        for (int i = 0; i < LOADS; ++i) normed.put(column(i), values[i], weights[i], factor);
        // Whole warps, for lanes that quantise together.
        for (uint32_t first = held + 4 * (threadIdx.x - threadIdx.x % WARP); first < width; first += 4 * blockDim.x) {
            const uint32_t col = first + 4 * (threadIdx.x % WARP);
            normed.put(col, four_of(x, col, width), four_of(args.weight, col, width), factor);
        }
    }
};
