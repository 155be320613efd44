// `x += Σ share * down · activations` over the experts of one row: a block takes 16 rows of every expert's matrix, a warp an
// expert, and their sums meet in shared memory in the order of the choices. For experts of any formats; see `decode_down.cuh`
// for those that are alike. Bound by the bytes of the weights.
#include "moe/expert.cuh"

const int MAX_EXPERTS = 33;

extern "C" __global__ void __launch_bounds__(512, 1) moe_down_1(const __grid_constant__ MoeArgs args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ float outputs[MAX_EXPERTS][SLOTS];
    const uint32_t experts = args.top_k + (args.shared_width > 0 ? 1 : 0), warp = threadIdx.x / WARP;
    const int widest = max(args.top_k > 0 ? args.width : 0, args.shared_width);
    const uint32_t bytes = ceil_div(widest, TILE) * ((args.down_forms & INPUT_FLOATS ? 4 * TILE_FLOATS : 0) +
                                                     (args.down_forms & INPUT_INT8 ? 40 : 0));
    for (uint32_t e = warp; e < experts; e += blockDim.x / WARP) {
        const Matrix& m = args.table[e < args.top_k ? __ldcg(args.choices + e) : args.experts].down;
        const Input input(shared + warp * ceil_div(bytes, 16) * 16, 1, m.cols, args.down_forms);
        after_previous_kernel();
        const float* x = activations_of(args, e);
        const int cols = m.cols, lane = threadIdx.x % WARP;
        for (int first = 0; first < cols; first += 4 * WARP) {
            const int col = first + 4 * lane;
            input.put(0, col, col < input.tiles * TILE, four_of(x, col, cols), args.down_forms);
        }
        __syncwarp();
        strip_by_warp(m, blockIdx.x, input, args.down_forms, outputs[e]);
        __syncwarp();
    }
    __syncthreads();
    const uint32_t row = blockIdx.x * SLOTS + threadIdx.x;
    if (threadIdx.x >= SLOTS || row >= args.hidden) return;
    float sum = 0.0f;
    for (uint32_t e = 0; e < experts; ++e) {
        const float share = e < args.top_k ? args.shares[e] : share_of_shared_expert(args, 0);
        sum = fmaf(share, outputs[e][slot_of_row(threadIdx.x)], sum);
    }
    args.x[row] += sum;
}
