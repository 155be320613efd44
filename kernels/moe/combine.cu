// The weighted sum of a row's experts: a block takes 512 columns of it.
#include "moe/combine.cuh"

extern "C" __global__ void __launch_bounds__(128) moe_combine(const __grid_constant__ MoeArgs args) {
    __shared__ Chosen all;
    const uint32_t row = blockIdx.x;
    all.find(args, row);
    after_previous_kernel();
    __syncthreads();
    const uint32_t first = 4 * (blockIdx.y * blockDim.x + threadIdx.x);
    if (args.hidden % 4 == 0) {
        if (first < args.hidden) combine<float4>(args, all, row, first);
    } else {
        for (uint32_t column = first; column < min(first + 4, args.hidden); ++column) combine<float>(args, all, row, column);
    }
}
