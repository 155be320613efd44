// `out = x / sqrt(mean(x²) + eps) * weight`, a block for each row. Bound by bytes: a row is read once and written once.
#include "common/input.cuh"

extern "C" __global__ void __launch_bounds__(256) rms_norm(const __grid_constant__ NormArgs args) {
    after_previous_kernel();
    __shared__ float scratch[32];
    const uint32_t i = blockIdx.x, width = args.width;
    const float* x = args.x + static_cast<uint64_t>(args.pick == nullptr ? i : args.pick[i]) * width;
    float squares = 0.0f;
    for (uint32_t col = threadIdx.x; col < width; col += blockDim.x) squares += x[col] * x[col];
    const float factor = 1.0f / sqrtf(sum_block(squares, scratch) / static_cast<float>(width) + args.eps);
    float* out = args.out + static_cast<uint64_t>(i) * width;
    for (uint32_t col = threadIdx.x; col < width; col += blockDim.x) out[col] = x[col] * factor * args.weight[col];
}
