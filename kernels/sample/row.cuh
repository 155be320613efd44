// The row of a block: which it is, its tokens in groups, and the end of its choice.
#pragma once
#include "sample/likelihood.cuh"

const uint32_t THREADS = 1024;
const uint32_t GROUP = 128;        // tokens that a warp takes together
const uint32_t FIRST_BINS = 4096;  // of the first 12 bits of a key
const uint32_t NEXT_BINS = 1024;   // of the next 10, and the last 10

// What the step was told of the row is there before the first of its kernels begins.
struct RowOf {
    const SampleArgs& args;
    const SampleRow row;
    SampleProgress* progress;
    float* logits;       // [vocab]
    uint32_t* history;   // [vocab]
    uint32_t* largest;   // [groups]
    U64* sums;           // [groups]
    uint32_t* counts;    // [FIRST_BINS]
    U64* weights;        // [FIRST_BINS]

    __device__ __forceinline__ explicit RowOf(const SampleArgs& args)
        : args(args), row(args.rows[blockIdx.y]), progress(args.progress + row.slot) {
        const uint64_t slot = row.slot;
        logits = args.logits + static_cast<uint64_t>(blockIdx.y) * args.vocab;
        history = args.history + slot * args.vocab;
        largest = args.largest + slot * args.groups;
        sums = args.sums + slot * args.groups;
        counts = args.counts + slot * FIRST_BINS;
        weights = args.weights + slot * FIRST_BINS;
    }

    __device__ __forceinline__ bool asks(uint32_t flag) const { return row.flags & flag; }
    __device__ __forceinline__ bool cuts_to_k() const { return row.top_k > 0 && row.top_k < args.vocab; }

    // The weight of a token, where `most` is the largest logit.
    __device__ __forceinline__ U64 weigh(uint32_t key, float most) const {
        return weight_of(__fdiv_rn(__fsub_rn(logit_of(key), most), row.temperature));
    }

    // Calls `use(group)` for this warp's share of the groups, with all blocks of the row.
    template <class Use>
    __device__ __forceinline__ void groups_of_all_blocks(Use use) const {
        const uint32_t warp = threadIdx.x / WARP, warps = THREADS / WARP;
        for (uint32_t g = blockIdx.x * warps + warp; g < args.groups; g += gridDim.x * warps) use(g);
    }
    // The same with this block alone, for groups whose largest key is `least` or more: a lane looks at one of them, so that all are
    // asked for at once.
    template <class Use>
    __device__ __forceinline__ void groups_from(uint32_t least, Use use) const {
        const uint32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = THREADS / WARP;
        for (uint32_t first = warp; first < args.groups; first += THREADS) {
            const uint32_t own = first + lane * warps;
            const bool has = own < args.groups && __ldcg(largest + own) >= least;
            for (uint32_t left = __ballot_sync(ALL_LANES, has); left != 0; left &= left - 1) use(first + (__ffs(left) - 1) * warps);
        }
    }

    // What one thread says of the whole row. Leaves `progress` as it was before the step.
    __device__ __forceinline__ void choose(uint32_t token) const {
        if (asks(SAMPLE_PENALTIES)) history[token] += history[token] != 0xffffffff;
        end(token, SAMPLE_CHOSEN, 0);
    }
    __device__ __forceinline__ void end(uint32_t token, uint32_t status, uint32_t logit) const {
        SampleResult result = {token, status, logit, 0};
        args.results[blockIdx.y] = result;
        // A failed row's stream ends, but a step that was queued before that is known still looks its token up.
        args.chosen[row.slot] = status == SAMPLE_CHOSEN ? token : 0;
        SampleProgress none = {};
        *progress = none;
    }
};
