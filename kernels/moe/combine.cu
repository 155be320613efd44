// `x += Σ share * output` over the choices of each row, in their order, then the shared expert. A block takes a row. Bound by
// bytes: the outputs are read once.
#include "moe/expert.cuh"

extern "C" __global__ void __launch_bounds__(256) moe_combine(const __grid_constant__ MoeArgs args) {
    after_previous_kernel();
    const uint64_t row = blockIdx.x;
    const uint32_t entries = args.count * args.top_k;
    for (uint32_t col = threadIdx.x; col < args.hidden; col += blockDim.x) {
        float sum = 0.0f;
        for (uint32_t k = 0; k < args.top_k; ++k) {
            const uint64_t entry = args.entry_of[row * args.top_k + k];
            sum = fmaf(args.shares[row * args.top_k + k], args.outputs[entry * args.hidden + col], sum);
        }
        if (args.shared_width > 0) {
            sum = fmaf(share_of_shared_expert(args, row), args.outputs[(entries + row) * args.hidden + col], sum);
        }
        args.x[row * args.hidden + col] += sum;
    }
}
