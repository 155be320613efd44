// The choice of experts for one row by all warps of a block: every kernel that wants to know makes it by itself, which takes less
// time than a kernel of its own would take to start. See `route.cu` for what is chosen.
//
// Each warp's logits are two groups. As many groups as there are choices have a logit that is no less than the least of the
// `top_k` largest among the groups' largest: what is smaller is not chosen. Few candidates are left, of which every warp ranks
// some. In three parts, with a barrier behind each: what else a block has to do goes on between them.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

const int MOST_EXPERTS = 512;
const int MOST_CHOICES = 16;
const int MOST_CANDIDATES = 2 * WARP;

// Larger for larger logits, in their total order.
DEVICE uint32_t rank_of_logit(float logit) {
    const uint32_t bits = __float_as_uint(logit);
    return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000);
}

DEVICE float logit_of_rank(uint32_t rank) {
    return __uint_as_float(rank & 0x80000000 ? rank & 0x7fffffff : ~rank);
}

struct ChoiceRoom {
    uint32_t largest[WARP];  // rank of each group
    float sums[WARP];        // of each warp's weights, where all weights count; NaN where a logit is not finite
    uint32_t found;
    uint2 candidates[MOST_CANDIDATES];  // rank, expert
    uint32_t ranks[MOST_EXPERTS];
    // Best first: what was chosen, and exp(logit - largest).
    uint32_t experts[MOST_CHOICES];
    float shares[MOST_CHOICES];
};

// Where so many are equal that candidates are too many: by one warp. Called with numbers alone, so that choices need not be in
// memory for it.
static __device__ __noinline__ void choose_one_by_one(ChoiceRoom& room, uint32_t experts, uint32_t top_k, float largest) {
    const uint32_t lane = threadIdx.x % WARP;
    uint32_t before = 0xffffffff, expert_before = 0;
#pragma unroll 1
    for (uint32_t k = 0; k < top_k; ++k) {
        uint32_t best = 0, best_expert = 0xffffffff;
        for (uint32_t i = lane; i < experts; i += WARP) {
            const uint32_t rank = room.ranks[i];
            const bool taken = k > 0 && (rank > before || (rank == before && i <= expert_before));
            if (!taken && rank > best) best = rank, best_expert = i;
        }
        before = __reduce_max_sync(ALL_LANES, best);
        expert_before = __reduce_min_sync(ALL_LANES, best == before ? best_expert : 0xffffffff);
        if (lane == 0) room.experts[k] = expert_before, room.shares[k] = expf(logit_of_rank(before) - largest);
    }
}

// For warps `first ..` of the block, 8 to 16 of them and half as many as there are choices at least, of whose threads each has
// two experts at most.
struct Choices {
    const MoeArgs& args;
    uint32_t thread, threads;
    float logits[2];
    uint32_t ranks[2];  // larger for larger logits, in their total order; 0: not to be chosen
    float largest;

    // Of a row with logits `row`, which are read past the first-level cache: it may have older ones.
    __device__ __forceinline__ Choices(const MoeArgs& args, const float* row, uint32_t first)
        : args(args), thread(threadIdx.x - WARP * first), threads(blockDim.x - WARP * first) {
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) logits[i] = expert(i) < args.experts ? __ldcg(row + expert(i)) : 0.0f;
    }
    __device__ __forceinline__ uint32_t expert(uint32_t i) const { return i * threads + thread; }

    // Leaves the choice in `room`, where it is behind one more barrier, with two between its parts: the block's other warps, if there
    // are any, come to as many meanwhile.
    __device__ __forceinline__ void choose(ChoiceRoom& room) {
        compare(room);
        __syncthreads();
        filter(room);
        __syncthreads();
        rank(room);
    }

    __device__ __forceinline__ void compare(ChoiceRoom& room) {
        const uint32_t lane = threadIdx.x % WARP, warp = thread / WARP;
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            ranks[i] = expert(i) < args.experts ? max(1u, rank_of_logit(logits[i])) : 0;
            if (expert(i) < args.experts) room.ranks[expert(i)] = ranks[i];
            const uint32_t best = __reduce_max_sync(ALL_LANES, ranks[i]);
            if (lane == 0) room.largest[2 * warp + i] = best;
        }
        const bool failed = __any_sync(ALL_LANES, !isfinite(logits[0]) || !isfinite(logits[1]));
        if (lane == 0) room.sums[warp] = failed ? __int_as_float(0x7fffffff) : 0.0f;
        if (thread == 0) room.found = 0;
    }

    __device__ __forceinline__ void filter(ChoiceRoom& room) {
        const uint32_t lane = threadIdx.x % WARP, warp = thread / WARP;
        const uint32_t of_group = lane < 2 * threads / WARP ? room.largest[lane] : 0;
        largest = logit_of_rank(__reduce_max_sync(ALL_LANES, of_group));
        uint32_t place = 0;
#pragma unroll 8
        for (uint32_t d = 1; d < WARP; ++d) {
            const uint32_t other = __shfl_xor_sync(ALL_LANES, of_group, d);
            place += other > of_group || (other == of_group && (lane ^ d) < lane);
        }
        const uint32_t last = __ballot_sync(ALL_LANES, place == args.top_k - 1);
        const uint32_t least = __shfl_sync(ALL_LANES, of_group, __ffs(last) - 1);
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            if (ranks[i] == 0 || ranks[i] < least) continue;
            const uint32_t number = atomicAdd(&room.found, 1);
            if (number < MOST_CANDIDATES) room.candidates[number] = make_uint2(ranks[i], expert(i));
        }
        if (args.normalise) return;
        float weights = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) weights += ranks[i] > 0 ? expf(logits[i] - largest) : 0.0f;
        weights = sum_lanes<32>(weights);
        if (lane == 0) room.sums[warp] += weights;
    }

    __device__ __forceinline__ void rank(ChoiceRoom& room) const {
        const uint32_t lane = threadIdx.x % WARP, warp = thread / WARP, found = room.found;
        if (found > MOST_CANDIDATES) {
            if (warp == 0) choose_one_by_one(room, args.experts, args.top_k, largest);
            return;
        }
        uint2 own[2];
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            const uint32_t number = i * WARP + lane;
            own[i] = number < found ? room.candidates[number] : make_uint2(0, 0);
        }
        for (uint32_t number = warp; number < found; number += threads / WARP) {
            const uint2 candidate = room.candidates[number];
            uint32_t k = 0;
#pragma unroll
            for (uint32_t i = 0; i < 2; ++i) {
                const bool before = own[i].x > candidate.x || (own[i].x == candidate.x && own[i].y < candidate.y);
                k += __popc(__ballot_sync(ALL_LANES, before));
            }
            if (k >= args.top_k || lane != 0) continue;
            room.experts[k] = candidate.y, room.shares[k] = expf(logit_of_rank(candidate.x) - largest);
        }
    }

    // What shares are to be divided by, in every lane of a warp, behind the third barrier.
    __device__ __forceinline__ float total(const ChoiceRoom& room) const {
        const uint32_t lane = threadIdx.x % WARP;
        float sum = lane < threads / WARP ? room.sums[lane] : 0.0f;
        if (args.normalise && lane < args.top_k) sum += room.shares[lane];
        return sum_lanes<32>(sum);
    }
};

// Matrix `m` of the first routed expert, as expert number `expert` has it.
DEVICE Matrix of_expert(Matrix m, uint32_t expert, uint64_t spacing) {
    m.data += expert * spacing;
    return m;
}
