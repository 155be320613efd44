// The first half of a choice, for every row of logits: penalties, the check that all are finite, and the largest. What needs no
// sum over the whole vocabulary ends here: the last block of a row takes the most likely token, or draws among the top-k.
//
// A warp takes groups of 128 tokens. Bound by latency: 600 KB from the second-level cache, over all multiprocessors.
#include "sample/select.cuh"

// The logit as the stream's tokens so far leave it.
DEVICE float penalised(const RowOf& row, uint32_t id, float logit) {
    if (row.asks(SAMPLE_PENALTIES)) {
        const uint32_t seen = row.history[id], times = seen & 0x7fffffff;
        if (seen != 0) {
            const SampleRow& s = row.row;
            logit = logit < 0.0f ? __fmul_rn(logit, s.repetition_penalty) : __fdiv_rn(logit, s.repetition_penalty);
            if (times > 0) {
                const float count = static_cast<float>(times);
                logit = __fsub_rn(logit, __fadd_rn(__fmul_rn(s.frequency_penalty, count), s.presence_penalty));
            }
            logit = fminf(fmaxf(logit, -3.4028235e38f), 3.4028235e38f);
        }
    }
    const bool ends = row.asks(SAMPLE_NO_END) && (row.args.ends[id / 32] >> (id % 32) & 1);
    return ends ? -INFINITY : logit;
}

// Draws among the `top_k` most likely tokens, and those as likely as the last of them.
DEVICE void draw_of_k(const RowOf& row, Room& room, uint32_t largest) {
    for (uint32_t i = threadIdx.x; i < FIRST_BINS; i += THREADS) {
        room.first[i] = __ldcg(row.counts + i);
        row.counts[i] = 0;
    }
    __syncthreads();
    // The k-th largest key. Its first bits are known before any candidate is looked at.
    const U64 target = row.row.top_k - 1;
    find_bin<FIRST_BINS>(room.first, target, room);
    const uint32_t bin = room.bin;
    __syncthreads();
    const Candidates near(row, room, bin * NEXT_BINS * NEXT_BINS);
    const uint32_t least = select_rank(target, room, [&](auto use) {
        near.each([&](uint32_t key, uint32_t) { use(key, 1); });
    }).rank;

    const Candidates candidates(row, room, least);
    const float most = logit_of(largest);
    if (threadIdx.x == 0) room.total = room.eligible = 0;
    for (uint32_t i = threadIdx.x; i < FIRST_BINS; i += THREADS) room.first[i] = 0;
    __syncthreads();
    U64 total = 0, eligible = 0;
    candidates.each([&](uint32_t key, uint32_t) {
        const U64 weight = row.weigh(key, most);
        total += weight;
        if (weight < row.row.least_weight) return;
        eligible += weight;
        atomicAdd(room.first + key / (NEXT_BINS * NEXT_BINS), weight);
    });
    if (total != 0) atomicAdd(&room.total, total);
    if (eligible != 0) atomicAdd(&room.eligible, eligible);
    __syncthreads();
    draw(row, room, candidates, most);
}

extern "C" __global__ void __launch_bounds__(1024, 1) sample_rank(const __grid_constant__ SampleArgs args) {
    __shared__ Room room;
    const RowOf row(args);
    after_previous_kernel();
    if (!row.asks(SAMPLE_CHOOSE)) return;
    const bool greedy = row.asks(SAMPLE_GREEDY), draws_of_k = row.cuts_to_k() && !greedy;
    uint32_t* counts = reinterpret_cast<uint32_t*>(room.first);
    __shared__ uint32_t block_largest, block_wrong;
    __shared__ U64 block_best;
    if (threadIdx.x == 0) block_largest = block_wrong = 0, block_best = 0;
    if (draws_of_k) {
        for (uint32_t i = threadIdx.x; i < FIRST_BINS; i += THREADS) counts[i] = 0;
    }
    __syncthreads();
    const uint32_t lane = threadIdx.x % WARP;
    uint32_t warp_largest = 0, wrong = 0, own_largest = 0, own_id = 0;
    row.groups_of_all_blocks([&](uint32_t g) {
        uint32_t largest = 0;
#pragma unroll
        for (uint32_t i = 0; i < GROUP / WARP; ++i) {
            const uint32_t id = g * GROUP + i * WARP + lane;
            if (id >= args.vocab) continue;
            const float logit = row.logits[id];
            // The larger, the lower the id; 0 for none.
            if (!isfinite(logit)) {
                wrong = max(wrong, ~id);
                continue;
            }
            const float left = penalised(row, id, logit);
            if (left != logit) row.logits[id] = left;
            const uint32_t key = key_of(left);
            largest = max(largest, key);
            // Ids grow: of equal ones the first stays.
            if (key > own_largest) own_largest = key, own_id = id;
            if (draws_of_k) atomicAdd(counts + key / (NEXT_BINS * NEXT_BINS), 1u);
        }
        largest = __reduce_max_sync(ALL_LANES, largest);
        if (lane == 0) row.largest[g] = largest;
        warp_largest = max(warp_largest, largest);
    });
    wrong = __reduce_max_sync(ALL_LANES, wrong);
    // Of the largest the lowest id.
    const uint32_t first = __reduce_max_sync(ALL_LANES, own_largest == warp_largest ? ~own_id : 0);
    if (lane == 0) {
        atomicMax(&block_largest, warp_largest);
        atomicMax(&block_wrong, wrong);
        if (greedy) atomicMax(&block_best, static_cast<U64>(warp_largest) << 32 | first);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicMax(&row.progress->largest, block_largest);
        if (block_wrong != 0) atomicMax(&row.progress->wrong, block_wrong);
        if (greedy) atomicMax(&row.progress->total, block_best);
    }
    if (draws_of_k) {
        for (uint32_t i = threadIdx.x; i < FIRST_BINS; i += THREADS) {
            if (counts[i] != 0) atomicAdd(row.counts + i, counts[i]);
        }
    }
    if (!is_last_block(&row.progress->blocks, gridDim.x)) return;

    const uint32_t largest = __ldcg(&row.progress->largest), not_finite = __ldcg(&row.progress->wrong);
    const U64 best = __ldcg(&row.progress->total);
    // Before one of them begins anew with it.
    __syncthreads();
    if (not_finite != 0 || largest <= KEY_OF_NONE) {
        if (draws_of_k) {
            for (uint32_t i = threadIdx.x; i < FIRST_BINS; i += THREADS) row.counts[i] = 0;
        }
        if (threadIdx.x == 0) {
            const uint32_t id = ~not_finite;
            if (not_finite != 0) row.end(id, SAMPLE_NOT_FINITE, __float_as_uint(__ldcg(row.logits + id)));
            else row.end(0, SAMPLE_NONE_LEFT, 0);
        }
    } else if (greedy) {
        if (threadIdx.x == 0) row.choose(~static_cast<uint32_t>(best));
    } else if (draws_of_k) {
        draw_of_k(row, room, largest);
    }
}
