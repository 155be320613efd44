// `x += Σ share * output` over the choices of each row, in their order, then the shared expert. Bound by bytes, the outputs are read
// once; by latency where rows are few.
#pragma once
#include "moe/activations.cuh"

const int MOST_CHOSEN = 33;
const int BATCH = 11;  // outputs that are asked for together

DEVICE void add_share(float share, float value, float& sum) { sum = fmaf(share, value, sum); }
DEVICE void add_share(float share, float4 value, float4& sum) {
    add_share(share, value.x, sum.x), add_share(share, value.y, sum.y);
    add_share(share, value.z, sum.z), add_share(share, value.w, sum.w);
}

// The outputs that are added up of a row, and their shares.
struct Chosen {
    uint32_t entries[MOST_CHOSEN];
    float shares[MOST_CHOSEN];

    // A thread each, of which there are enough: a loop here is 1 % of a step of few rows. A barrier is the caller's. What the choice
    // left was there before the kernel in front began. Past the first-level cache: it may have older ones.
    __device__ __forceinline__ void find(const MoeArgs& args, uint32_t row) {
        const uint32_t k = threadIdx.x;
        if (k >= count(args)) return;
        if (k < args.top_k) {
            const uint32_t choice = row * args.top_k + k;
            entries[k] = args.entry_of == nullptr ? choice : __ldcg(args.entry_of + choice);
            shares[k] = __ldcg(args.shares + choice);
        } else {
            entries[k] = args.count * args.top_k + row;
            shares[k] = share_of_shared_expert(args, row);
        }
    }
    static __device__ __forceinline__ uint32_t count(const MoeArgs& args) { return args.top_k + (args.shared_width > 0 ? 1 : 0); }
};

// Of the columns that begin at `column`, `V` has one or four. Gives back what they are then.
template <class V>
DEVICE V combine(const MoeArgs& args, const Chosen& all, uint64_t row, uint32_t column) {
    const int chosen = Chosen::count(args);
    V sum = {};
    for (int first = 0; first < chosen; first += BATCH) {
        V values[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            if (first + i >= chosen) break;
            const float* output = args.outputs + static_cast<uint64_t>(all.entries[first + i]) * args.hidden;
            values[i] = __ldcg(reinterpret_cast<const V*>(output + column));
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            if (first + i < chosen) add_share(all.shares[first + i], values[i], sum);
        }
    }
    V* x = reinterpret_cast<V*>(args.x + row * args.hidden + column);
    V now = __ldcg(x);
    add_share(1.0f, sum, now);
    *x = now;
    return now;
}
