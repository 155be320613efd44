// The gated norm of what `delta_scan` leaves: `out = rms_norm(out) * silu(z)` for every value head of a row. A block
// takes a row, a warp a head. Bound by bytes.
#include "delta_net/head.cuh"

extern "C" __global__ void __launch_bounds__(256) delta_gate(const __grid_constant__ DeltaArgs args) {
    after_previous_kernel();
    const uint32_t lane = threadIdx.x % WARP;
    const uint64_t row = blockIdx.x;
    for (uint32_t number = threadIdx.x / WARP; number < args.key_heads * args.ratio; number += blockDim.x / WARP) {
        const uint32_t key_head = number / args.ratio, index = number % args.ratio;
        float* out = args.out + (row * args.key_heads * args.ratio + at(args.head, key_head, index)) * DIM;
        const float* z = args.z + row * args.z_stride + at(args.z_place, key_head, index);
        float values[DIM / WARP], squares = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < DIM / WARP; ++i) {
            values[i] = out[i * WARP + lane];
            squares += values[i] * values[i];
        }
        const float factor = 1.0f / sqrtf(sum_lanes<32>(squares) / static_cast<float>(DIM) + args.eps);
#pragma unroll
        for (uint32_t i = 0; i < DIM / WARP; ++i) {
            out[i * WARP + lane] = values[i] * factor * args.norm[i * WARP + lane] * silu(z[i * WARP + lane]);
        }
    }
}
