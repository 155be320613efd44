// The choice of experts for one row by one warp, in registers: every kernel that wants to know makes it by itself, which takes
// less time than a kernel of its own would take to start. See `route.cu` for what is chosen.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

const int LOGITS_OF_LANE = 16;
const int MOST_EXPERTS = LOGITS_OF_LANE * WARP;

struct Choices {
    float logits[LOGITS_OF_LANE];

    __device__ __forceinline__ Choices(const float* all, int experts) {
#pragma unroll
        for (int i = 0; i < LOGITS_OF_LANE; ++i) {
            const int expert = i * WARP + threadIdx.x % WARP;
            logits[i] = expert < experts ? all[expert] : -INFINITY;
        }
    }

    // Calls `use(k, expert, exp(logit - largest))` for every choice, in every lane; returns what the last argument is to be
    // divided by.
    template <class Use>
    __device__ __forceinline__ float choose(const MoeArgs& args, Use use) {
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
#pragma unroll 1
        for (uint32_t k = 0; k < args.top_k; ++k) {
            uint32_t best[LOGITS_OF_LANE / 2];
#pragma unroll
            for (int i = 0; i < LOGITS_OF_LANE / 2; ++i) best[i] = max(ranks[i], ranks[i + LOGITS_OF_LANE / 2]);
#pragma unroll
            for (int half = LOGITS_OF_LANE / 4; half > 0; half /= 2) {
#pragma unroll
                for (int i = 0; i < half; ++i) best[i] = max(best[i], best[i + half]);
            }
            const uint32_t most = __reduce_max_sync(ALL_LANES, best[0]);
            // The lowest of those that are as large; trees, because each step waits for the one before.
            uint32_t lowest[LOGITS_OF_LANE];
#pragma unroll
            for (int i = 0; i < LOGITS_OF_LANE; ++i) lowest[i] = ranks[i] == most ? i * WARP + lane : 0xffffffff;
#pragma unroll
            for (int half = LOGITS_OF_LANE / 2; half > 0; half /= 2) {
#pragma unroll
                for (int i = 0; i < half; ++i) lowest[i] = min(lowest[i], lowest[i + half]);
            }
            const uint32_t chosen = __reduce_min_sync(ALL_LANES, lowest[0]);
#pragma unroll
            for (int i = 0; i < LOGITS_OF_LANE; ++i) {
                if (i * WARP + lane == chosen) ranks[i] = 0;
            }
            const uint32_t bits = most & 0x80000000 ? most & 0x7fffffff : ~most;
            const float share = expf(__uint_as_float(bits) - largest);
            if (args.normalise) total += share;
            use(k, chosen, share);
        }
        return total + failed;
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
