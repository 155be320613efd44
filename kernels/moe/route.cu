// Which experts each row visits: softmax over all logits, the best `top_k`, renormalised where the model says so. Equal
// logits go to the lower index. A row whose logits are not finite gets shares that are no numbers, and still `top_k`
// different experts: its own stream fails when it samples, the others go on.
//
// A block takes a row. Bound by latency: a few kilobytes of logits. With one row the items of the experts' kernels follow at
// once; with few those kernels find them by themselves, and with more `moe_group` makes them.
#include "moe/choose.cuh"

// The index decides among equal logits, the lower first.
DEVICE uint64_t rank_of(float logit, uint32_t expert) {
    return static_cast<uint64_t>(rank_of_logit(logit)) << 32 | (0xffffffff - expert);
}

// More experts or choices than `Choices` has room for: by one warp, one by one.
DEVICE void choose_any(const MoeArgs& args, const float* logits, uint32_t* choices, float* shares) {
    const uint32_t lane = threadIdx.x % WARP;
    float largest = -INFINITY, total = 0.0f, failed = 0.0f;
    for (uint32_t e = lane; e < args.experts; e += WARP) {
        largest = fmaxf(largest, logits[e]);
        failed += logits[e] - logits[e];  // 0, or no number where the logit is not finite
    }
    largest = max_lanes<32>(largest);
    failed = sum_lanes<32>(failed);
    if (!args.normalise) {
        for (uint32_t e = lane; e < args.experts; e += WARP) total += expf(logits[e] - largest);
        total = sum_lanes<32>(total);
    }
    uint64_t last = ~static_cast<uint64_t>(0);
    for (uint32_t k = 0; k < args.top_k; ++k) {
        uint64_t best = 0;
        for (uint32_t e = lane; e < args.experts; e += WARP) {
            const uint64_t rank = rank_of(logits[e], e);
            if (rank < last && rank > best) best = rank;
        }
#pragma unroll
        for (int d = 16; d > 0; d /= 2) {
            const uint64_t other = __shfl_xor_sync(ALL_LANES, best, d);
            if (other > best) best = other;
        }
        last = best;
        const uint32_t expert = 0xffffffff - static_cast<uint32_t>(best);
        const float share = expf(logits[expert] - largest);
        if (args.normalise) total += share;
        if (lane == 0) choices[k] = expert, shares[k] = share;
    }
    __syncwarp();
    for (uint32_t k = lane; k < args.top_k; k += WARP) shares[k] = shares[k] / total + failed;
}

extern "C" __global__ void __launch_bounds__(256) moe_route(const __grid_constant__ MoeArgs args) {
    __shared__ ChoiceRoom room;
    after_previous_kernel();
    const uint32_t row = blockIdx.x, top_k = args.top_k;
    const float* logits = args.logits + static_cast<uint64_t>(row) * args.experts;
    uint32_t* choices = args.choices + static_cast<uint64_t>(row) * top_k;
    float* shares = args.shares + static_cast<uint64_t>(row) * top_k;
    if (args.experts <= MOST_EXPERTS && top_k <= MOST_CHOICES && top_k > 0) {
        Choices choice(args, logits, 0);
        choice.choose(room);
        __syncthreads();
        const float total = choice.total(room);
        if (threadIdx.x < top_k) choices[threadIdx.x] = room.experts[threadIdx.x], shares[threadIdx.x] = room.shares[threadIdx.x] / total;
    } else {
        if (threadIdx.x < WARP) choose_any(args, logits, choices, shares);
        __syncthreads();
    }
    if (args.count > 1) return;
    // The items of the only row.
    for (uint32_t k = threadIdx.x; k < top_k; k += blockDim.x) {
        args.items[k] = Item{choices[k], k, 1, 0};
        args.entry_rows[k] = 0;
        args.entry_of[k] = k;
    }
    const bool shared = args.shared_width > 0;
    if (threadIdx.x != 0) return;
    *args.item_count = top_k + shared;
    if (!shared) return;
    args.items[top_k] = Item{args.experts, top_k, 1, 0};
    args.entry_rows[top_k] = 0;
}
