// The weighted sum of a row's experts, and the norm of the row for the layer behind. A block has a row, a thread four columns of it;
// rows are those of whole warps.
#include "moe/combine.cuh"
#include "norm/normed_row.cuh"

extern "C" __global__ void __launch_bounds__(1024) moe_combine_norm(const __grid_constant__ CombineNormArgs both) {
    const MoeArgs& args = both.moe;
    const NormArgs& norm = both.norm;
    __shared__ Chosen all;
    __shared__ float scratch[WARP];
    const uint32_t row = blockIdx.x, column = 4 * threadIdx.x;
    all.find(args, row);
    const float4 weight = four_of(norm.weight, column, args.hidden);
    after_previous_kernel(norm.early);
    __syncthreads();
    const float4 x = combine<float4>(args, all, row, column);
    const NormedRow normed(norm, row);
    const float factor = norm_factor(sum_block(squares_of(x), scratch), static_cast<float>(norm.width), norm.eps);
    normed.put(column, x, weight, factor);
}
