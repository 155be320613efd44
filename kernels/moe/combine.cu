// `x += Σ share * output` over the choices of each row, in their order, then the shared expert. A block takes 512 columns of a
// row. Bound by bytes, the outputs are read once; by latency where rows are few.
#include "moe/activations.cuh"

const int MOST_CHOSEN = 33;
const int BATCH = 11;  // outputs that are asked for together

DEVICE void add_share(float share, float value, float& sum) { sum = fmaf(share, value, sum); }
DEVICE void add_share(float share, float4 value, float4& sum) {
    add_share(share, value.x, sum.x), add_share(share, value.y, sum.y);
    add_share(share, value.z, sum.z), add_share(share, value.w, sum.w);
}

// Of the columns that begin at `column`, `V` has one or four.
template <class V>
DEVICE void combine(const MoeArgs& args, uint64_t row, uint32_t column, const uint32_t* entries, const float* shares,
                    int chosen) {
    V sum = {};
    for (int first = 0; first < chosen; first += BATCH) {
        V values[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            if (first + i >= chosen) break;
            const float* output = args.outputs + static_cast<uint64_t>(entries[first + i]) * args.hidden;
            values[i] = __ldcg(reinterpret_cast<const V*>(output + column));
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            if (first + i < chosen) add_share(shares[first + i], values[i], sum);
        }
    }
    V* x = reinterpret_cast<V*>(args.x + row * args.hidden + column);
    V before = __ldcg(x);
    add_share(1.0f, sum, before);
    *x = before;
}

extern "C" __global__ void __launch_bounds__(128) moe_combine(const __grid_constant__ MoeArgs args) {
    __shared__ uint32_t entries[MOST_CHOSEN];
    __shared__ float shares[MOST_CHOSEN];
    const uint32_t row = blockIdx.x, k = threadIdx.x, chosen = args.top_k + (args.shared_width > 0 ? 1 : 0);
    // What the choice left was there before the kernel in front began. Past the first-level cache: it may have older ones.
    if (k < args.top_k) {
        const uint32_t choice = row * args.top_k + k;
        entries[k] = args.entry_of == nullptr ? choice : __ldcg(args.entry_of + choice);
        shares[k] = __ldcg(args.shares + choice);
    } else if (k < chosen) {
        entries[k] = args.count * args.top_k + row;
        shares[k] = share_of_shared_expert(args, row);
    }
    after_previous_kernel();
    __syncthreads();
    const uint32_t first = 4 * (blockIdx.y * blockDim.x + threadIdx.x);
    if (args.hidden % 4 == 0) {
        if (first < args.hidden) combine<float4>(args, row, first, entries, shares, chosen);
    } else {
        for (uint32_t column = first; column < min(first + 4, args.hidden); ++column) {
            combine<float>(args, row, column, entries, shares, chosen);
        }
    }
}
