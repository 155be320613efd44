// `x += Σ share * output` over the choices of each row, in their order, then the shared expert. A block takes a row. Bound by
// bytes: the outputs are read once.
#include "moe/expert.cuh"

// Adds `share * output` of `row` to this thread's N columns, for all choices. Lanes find 32 entries together, so that no load of
// an output waits for another load. Every lane of a warp comes here; those with no columns are not `inside`.
template <int N>
DEVICE void add_outputs(const MoeArgs& args, uint64_t row, uint32_t col, bool inside, float (&sums)[N]) {
    const uint32_t lane = threadIdx.x % WARP;
    const auto add = [&](uint64_t entry, float share) {
        const float* output = args.outputs + entry * args.hidden + col;
        float values[N] = {};
        if constexpr (N == 4) {
            const float4 v = inside ? *reinterpret_cast<const float4*>(output) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            values[0] = v.x, values[1] = v.y, values[2] = v.z, values[3] = v.w;
        } else if (inside) {
            values[0] = *output;
        }
#pragma unroll
        for (int i = 0; i < N; ++i) sums[i] = fmaf(share, values[i], sums[i]);
    };
    for (uint32_t first = 0; first < args.top_k; first += WARP) {
        const uint32_t count = min(args.top_k - first, WARP);
        const uint64_t choice = row * args.top_k + first + lane;
        const uint32_t entry = lane < count ? args.entry_of[choice] : 0;
        const float share = lane < count ? args.shares[choice] : 0.0f;
#pragma unroll 5
        for (uint32_t k = 0; k < count; ++k) add(__shfl_sync(ALL_LANES, entry, k), __shfl_sync(ALL_LANES, share, k));
    }
    if (args.shared_width > 0) {
        add(static_cast<uint64_t>(args.count) * args.top_k + row, share_of_shared_expert(args, row));
    }
}

extern "C" __global__ void __launch_bounds__(256) moe_combine(const __grid_constant__ MoeArgs args) {
    after_previous_kernel();
    const uint64_t row = blockIdx.x;
    float* x = args.x + row * args.hidden;
    if (args.hidden % 4 == 0) {
        for (uint32_t start = 0; start < args.hidden; start += 4 * blockDim.x) {
            const uint32_t col = start + 4 * threadIdx.x;
            const bool inside = col < args.hidden;
            float sums[4] = {};
            add_outputs<4>(args, row, col, inside, sums);
            if (!inside) continue;
            float4* to = reinterpret_cast<float4*>(x + col);
            const float4 v = *to;
            *to = make_float4(v.x + sums[0], v.y + sums[1], v.z + sums[2], v.w + sums[3]);
        }
        return;
    }
    for (uint32_t start = 0; start < args.hidden; start += blockDim.x) {
        const uint32_t col = start + threadIdx.x;
        const bool inside = col < args.hidden;
        float sums[1] = {};
        add_outputs<1>(args, row, col, inside, sums);
        if (inside) x[col] += sums[0];
    }
}
