// `out = x / sqrt(mean(x²) + eps) * weight`, a block for each row, as float32, quantised, or both. Bound by latency.
#include "common/input.cuh"

// Loads of four columns that a thread has in registers.
const int LOADS = 2;

extern "C" __global__ void __launch_bounds__(1024) rms_norm(const __grid_constant__ NormArgs args) {
    __shared__ float scratch[32];
    if (args.early) start_next_kernel_early();
    const uint32_t width = args.width;
    float4 weights[LOADS], values[LOADS];
#pragma unroll
    for (int i = 0; i < LOADS; ++i) weights[i] = four_of(args.weight, 4 * (i * blockDim.x + threadIdx.x), width);
    wait_for_previous_kernel();
    if (!args.early) start_next_kernel();
    const uint64_t row = args.pick == nullptr ? blockIdx.x : args.pick[blockIdx.x];
    const float* x = args.x + row * width;
    float* out = args.out + static_cast<uint64_t>(blockIdx.x) * width;
    Input quantised(nullptr, 1, width, 0);
    quantised.codes = args.row.codes + static_cast<uint64_t>(blockIdx.x) * (width / 4);
    quantised.factors = args.row.factors + static_cast<uint64_t>(blockIdx.x) * (width / TILE);
    const auto squares_of = [](float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; };
    const auto put = [&](uint32_t col, float4 v, float4 w, float factor) {
        const float four[4] = {v.x * factor * w.x, v.y * factor * w.y, v.z * factor * w.z, v.w * factor * w.w};
        const float4 all = make_float4(four[0], four[1], four[2], four[3]);
        if (args.row.codes != nullptr) quantised.put(0, col, col < width, all, INPUT_INT8);
        if (args.out == nullptr) return;
        if (width % 4 == 0 && col < width) *reinterpret_cast<float4*>(out + col) = all;
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            if (width % 4 != 0 && col + i < width) out[col + i] = four[i];
        }
    };
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < LOADS; ++i) {
        values[i] = four_of(x, 4 * (i * blockDim.x + threadIdx.x), width);
        squares += squares_of(values[i]);
    }
    // Columns beyond those are read again for the second pass.
    const uint32_t held = 4 * LOADS * blockDim.x;
    for (uint32_t col = held + 4 * threadIdx.x; col < width; col += 4 * blockDim.x) squares += squares_of(four_of(x, col, width));
    const float factor = 1.0f / sqrtf(sum_block(squares, scratch) / static_cast<float>(width) + args.eps);
#pragma unroll
    for (int i = 0; i < LOADS; ++i) put(4 * (i * blockDim.x + threadIdx.x), values[i], weights[i], factor);
    // Whole warps, for lanes that quantise together.
    for (uint32_t first = held + 4 * (threadIdx.x - threadIdx.x % WARP); first < width; first += 4 * blockDim.x) {
        const uint32_t col = first + 4 * (threadIdx.x % WARP);
        put(col, four_of(x, col, width), four_of(args.weight, col, width), factor);
    }
}
