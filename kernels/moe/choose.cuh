// The choice of experts for one row by one warp, in registers: every kernel that wants to know makes it by itself, which takes
// less time than a kernel of its own would take to start. See `route.cu` for what is chosen.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

const int LOGITS_OF_LANE = 16;

struct Choices {
    float logits[LOGITS_OF_LANE];

    __device__ __forceinline__ Choices(const float* all, int experts) {
#pragma unroll
        for (int i = 0; i < LOGITS_OF_LANE; ++i) {
            const int expert = i * WARP + threadIdx.x % WARP;
            logits[i] = expert < experts ? all[expert] : -INFINITY;
        }
    }

    // Calls `use(k, expert, exp(logit - largest))` for every choice, in one lane each; returns what the last argument is to be
    // divided by.
    //
    // No more than the `top_k` lanes with the largest best logit can hold a choice, and what is smaller than the least of these
    // is none: few candidates are left, of which every lane ranks one.
    template <class Use>
    __device__ __forceinline__ float choose(const MoeArgs& args, Use use) {
        __shared__ uint2 candidates[WARP];
        const int lane = threadIdx.x % WARP, experts = args.experts;
        float largest = -INFINITY, failed = 0.0f, total = 0.0f;
        uint32_t ranks[LOGITS_OF_LANE];  // larger for larger logits, in their total order; 0: not to be chosen
#pragma unroll
        for (int i = 0; i < LOGITS_OF_LANE; ++i) {
            const bool exists = i * WARP + lane < experts;
            largest = fmaxf(largest, logits[i]);
            if (exists) failed += logits[i] - logits[i];
            const uint32_t bits = __float_as_uint(logits[i]);
            ranks[i] = exists ? max(1u, bits & 0x80000000 ? ~bits : bits | 0x80000000) : 0;
        }
        largest = max_lanes<32>(largest);
        failed = sum_lanes<32>(failed);
        if (!args.normalise) {
#pragma unroll
            for (int i = 0; i < LOGITS_OF_LANE; ++i) total += expf(logits[i] - largest);
            total = sum_lanes<32>(total);
        }
        const uint32_t best = best_of(ranks);
        const uint32_t last = __ballot_sync(ALL_LANES, place_among_lanes(best) == args.top_k - 1);
        const uint32_t least = __shfl_sync(ALL_LANES, best, __ffs(last) - 1);
        uint32_t found = 0;
#pragma unroll
        for (int i = 0; i < LOGITS_OF_LANE; ++i) {
            const bool candidate = ranks[i] >= least;
            const uint32_t lanes = __ballot_sync(ALL_LANES, candidate);
            const uint32_t place = found + __popc(lanes & ((1u << lane) - 1));
            if (candidate && place < WARP) candidates[place] = make_uint2(ranks[i], i * WARP + lane);
            found += __popc(lanes);
        }
        __syncwarp();
        float share = 0.0f;
        if (found <= WARP) {
            // In the order of experts, so that the lower lane wins where ranks are equal.
            const uint2 own = static_cast<uint32_t>(lane) < found ? candidates[lane] : make_uint2(0, 0);
            const uint32_t k = place_among_lanes(own.x);
            if (k < args.top_k) {
                share = share_of(own.x, largest);
                use(k, own.y, share);
            }
            if (args.normalise) total = sum_lanes<32>(share);
            return total + failed;
        }
        // Many are equal. One by one.
#pragma unroll 1
        for (uint32_t k = 0; k < args.top_k; ++k) {
            const uint32_t most = __reduce_max_sync(ALL_LANES, best_of(ranks));
            uint32_t expert = 0xffffffff;
#pragma unroll
            for (int i = LOGITS_OF_LANE - 1; i >= 0; --i) {
                if (ranks[i] == most) expert = i * WARP + lane;
            }
            const uint32_t chosen = __reduce_min_sync(ALL_LANES, expert);
#pragma unroll
            for (int i = 0; i < LOGITS_OF_LANE; ++i) {
                if (i * WARP + lane == chosen) ranks[i] = 0;
            }
            share = share_of(most, largest);
            if (args.normalise) total += share;
            if (lane == 0) use(k, chosen, share);
        }
        return total + failed;
    }

    static __device__ __forceinline__ uint32_t best_of(const uint32_t (&ranks)[LOGITS_OF_LANE]) {
        uint32_t best[LOGITS_OF_LANE / 2];
#pragma unroll
        for (int i = 0; i < LOGITS_OF_LANE / 2; ++i) best[i] = max(ranks[i], ranks[i + LOGITS_OF_LANE / 2]);
#pragma unroll
        for (int half = LOGITS_OF_LANE / 4; half > 0; half /= 2) {
#pragma unroll
            for (int i = 0; i < half; ++i) best[i] = max(best[i], best[i + half]);
        }
        return best[0];
    }

    // How many lanes have a larger value, or the same and a lower number.
    static __device__ __forceinline__ uint32_t place_among_lanes(uint32_t value) {
        const uint32_t lane = threadIdx.x % WARP;
        uint32_t place = 0;
#pragma unroll
        for (uint32_t d = 1; d < WARP; ++d) {
            const uint32_t other = __shfl_xor_sync(ALL_LANES, value, d);
            place += other > value || (other == value && (lane ^ d) < lane);
        }
        return place;
    }

    static __device__ __forceinline__ float share_of(uint32_t rank, float largest) {
        const uint32_t bits = rank & 0x80000000 ? rank & 0x7fffffff : ~rank;
        return expf(__uint_as_float(bits) - largest);
    }
};

// Matrix `m` of the first routed expert, as expert number `expert` has it.
DEVICE Matrix of_expert(Matrix m, uint32_t expert, uint64_t spacing) {
    m.data += expert * spacing;
    if (m.codebook != nullptr) {
        m.codebook = reinterpret_cast<const float*>(reinterpret_cast<const uint8_t*>(m.codebook) + expert * spacing);
    }
    return m;
}
