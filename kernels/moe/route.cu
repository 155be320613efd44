// Which experts each row visits: softmax over all logits, the best `top_k`, renormalised where the model says so. Equal
// logits go to the lower index. A row whose logits are not finite gets shares that are no numbers, and still `top_k`
// different experts: its own stream fails when it samples, the others go on.
//
// A warp takes a row, and finds the choices one by one. Bound by latency: a few kilobytes of logits. With one row the items of
// the experts' kernels follow at once; with more, `moe_group` makes them.
#include "common/args.cuh"
#include "common/device.cuh"

// Larger for larger logits, in their total order; the index decides among equal ones, the lower first.
DEVICE uint64_t rank_of(float logit, uint32_t expert) {
    const uint32_t bits = __float_as_uint(logit);
    const uint32_t ordered = bits & 0x80000000 ? ~bits : bits | 0x80000000;
    return static_cast<uint64_t>(ordered) << 32 | (0xffffffff - expert);
}

extern "C" __global__ void __launch_bounds__(256) moe_route(const __grid_constant__ MoeArgs args) {
    DYNAMIC_SHARED(float, shared);  // [rows of the block, experts]
    after_previous_kernel();
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, experts = args.experts, top_k = args.top_k;
    const uint32_t row = blockIdx.x * (blockDim.x / WARP) + warp;
    if (row >= args.count) return;
    const bool alone = args.count == 1;
    if (alone && args.shared_width > 0 && lane == 0) {
        args.items[top_k] = Item{experts, top_k, 1, 0};
        args.entry_rows[top_k] = 0;
    }
    if (alone && lane == 0) *args.item_count = top_k + (args.shared_width > 0 ? 1 : 0);
    if (top_k == 0) return;

    float* logits = shared + warp * experts;
    float largest = -INFINITY, total = 0.0f, failed = 0.0f;
#pragma unroll 8
    for (uint32_t e = lane; e < experts; e += WARP) {
        const float logit = args.logits[static_cast<uint64_t>(row) * experts + e];
        logits[e] = logit;
        largest = fmaxf(largest, logit);
        failed += logit - logit;  // 0, or no number where the logit is not finite
    }
    largest = max_lanes<32>(largest);
    failed = sum_lanes<32>(failed);
    __syncwarp();
    if (!args.normalise) {
        for (uint32_t e = lane; e < experts; e += WARP) total += expf(logits[e] - largest);
        total = sum_lanes<32>(total);
    }

    uint32_t* choices = args.choices + static_cast<uint64_t>(row) * top_k;
    float* shares = args.shares + static_cast<uint64_t>(row) * top_k;
    // Every lane keeps the best of its own experts below the last choice.
    uint64_t last = ~static_cast<uint64_t>(0);
    const auto best_below = [&](uint64_t limit) {
        uint64_t best = 0;
#pragma unroll 4
        for (uint32_t e = lane; e < experts; e += WARP) {
            const uint64_t rank = rank_of(logits[e], e);
            if (rank < limit && rank > best) best = rank;
        }
        return best;
    };
    uint64_t own = best_below(last);
    for (uint32_t k = 0; k < top_k; ++k) {
        uint64_t best = own;
#pragma unroll
        for (int d = 16; d > 0; d /= 2) {
            const uint64_t other = __shfl_xor_sync(ALL_LANES, best, d);
            if (other > best) best = other;
        }
        if (own == best) own = best_below(best);
        last = best;
        const uint32_t expert = 0xffffffff - static_cast<uint32_t>(best);
        const float share = expf(logits[expert] - largest);
        if (args.normalise) total += share;
        if (lane != 0) continue;
        choices[k] = expert;
        shares[k] = share;
        if (!alone) continue;
        args.items[k] = Item{expert, k, 1, 0};
        args.entry_rows[k] = 0;
        args.entry_of[k] = k;
    }
    __syncwarp();
    for (uint32_t k = lane; k < top_k; k += WARP) shares[k] = shares[k] / total + failed;
}
