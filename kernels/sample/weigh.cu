// The second half of a choice, for rows that keep the whole vocabulary but for top-p and min-p: weights of all tokens, and the
// draw. It ends at once for rows whose token is chosen.
//
// A warp takes groups of 128 tokens. Bound by latency, as the first half; with top-p also by additions of 64 bits in shared
// memory, which few bins get.
#include "sample/select.cuh"

// The token at which the sum of weights, in the order of ids, passes the draw's target.
DEVICE void draw_by_id(const RowOf& row, Room& room, float most) {
    const uint32_t groups = row.args.groups, own = (groups + THREADS - 1) / THREADS;
    const uint32_t begin = min(threadIdx.x * own, groups), end = min(begin + own, groups);
    U64 sum = 0;
    for (uint32_t g = begin; g < end; ++g) sum += __ldcg(row.sums + g);
    const U64 before = sum_before(sum, room);
    if (threadIdx.x == THREADS - 1) room.total = before + sum;
    __syncthreads();
    const U64 target = __umul64hi(random_bits(row.row.seed, row.row.index), room.total);
    if (before <= target && target - before < sum) {
        sum = before;
        for (uint32_t g = begin; g < end; ++g) {
            const U64 value = __ldcg(row.sums + g);
            if (target - sum < value) {
                room.bin = g;
                room.above = sum;
                break;
            }
            sum += value;
        }
    }
    __syncthreads();
    if (threadIdx.x >= WARP) return;
    // Each lane four tokens in a row.
    const uint32_t first = room.bin * GROUP + threadIdx.x * (GROUP / WARP);
    U64 weights[GROUP / WARP], lane_sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < GROUP / WARP; ++i) {
        weights[i] = 0;
        if (first + i >= row.args.vocab) continue;
        const U64 weight = row.weigh(key_of(__ldcg(row.logits + first + i)), most);
        if (weight >= row.row.least_weight) weights[i] = weight;
        lane_sum += weights[i];
    }
    U64 up_to = lane_sum;
#pragma unroll
    for (uint32_t d = 1; d < WARP; d *= 2) {
        const U64 other = __shfl_up_sync(ALL_LANES, up_to, d);
        if (threadIdx.x >= d) up_to += other;
    }
    sum = room.above + up_to - lane_sum;
#pragma unroll
    for (uint32_t i = 0; i < GROUP / WARP; ++i) {
        if (sum <= target && target - sum < weights[i]) row.choose(first + i);
        sum += weights[i];
    }
}

// Draws of the smallest set of most likely tokens that has the mass of top-p.
DEVICE void draw_of_nucleus(const RowOf& row, Room& room, float most) {
    U64 eligible = 0;
    for (uint32_t i = threadIdx.x; i < FIRST_BINS; i += THREADS) {
        const U64 weight = __ldcg(row.weights + i);
        row.weights[i] = 0;
        room.first[i] = weight;
        eligible += weight;
    }
    const U64 before = sum_before(eligible, room);
    if (threadIdx.x == THREADS - 1) {
        room.eligible = before + eligible;
        room.total = __ldcg(&row.progress->total);
    }
    __syncthreads();
    const U64 mass = mass_of(row.row.top_p, room.total);
    uint32_t least = 0;
    if (mass <= room.eligible) {
        find_bin<FIRST_BINS>(room.first, mass - 1, room);
        least = room.bin * NEXT_BINS * NEXT_BINS;
    }
    __syncthreads();
    draw(row, room, Candidates(row, room, least), most);
}

extern "C" __global__ void __launch_bounds__(1024, 1) sample_weigh(const __grid_constant__ SampleArgs args) {
    __shared__ Room room;
    const RowOf row(args);
    after_previous_kernel();
    if (!row.asks(SAMPLE_CHOOSE) || row.asks(SAMPLE_GREEDY) || row.cuts_to_k()) return;
    // Of a row that failed, 0.
    const uint32_t largest = __ldcg(&row.progress->largest);
    if (largest == 0) return;
    const bool has_nucleus = row.row.top_p != 0;
    const float most = logit_of(largest);
    const uint32_t lane = threadIdx.x % WARP;
    if (has_nucleus) {
        for (uint32_t i = threadIdx.x; i < FIRST_BINS; i += THREADS) room.first[i] = 0;
        if (threadIdx.x == 0) room.total = 0;
        __syncthreads();
    }
    U64 total = 0;
    row.groups_of_all_blocks([&](uint32_t g) {
        U64 sum = 0;
#pragma unroll
        for (uint32_t i = 0; i < GROUP / WARP; ++i) {
            const uint32_t id = g * GROUP + i * WARP + lane;
            if (id >= args.vocab) continue;
            const uint32_t key = key_of(row.logits[id]);
            const U64 weight = row.weigh(key, most);
            total += weight;
            if (weight < row.row.least_weight) continue;
            sum += weight;
            if (has_nucleus) atomicAdd(room.first + key / (NEXT_BINS * NEXT_BINS), weight);
        }
        if (has_nucleus) return;
#pragma unroll
        for (uint32_t d = WARP / 2; d > 0; d /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, d);
        if (lane == 0) row.sums[g] = sum;
    });
    if (has_nucleus) {
        if (total != 0) atomicAdd(&room.total, total);
        __syncthreads();
        if (threadIdx.x == 0) atomicAdd(&row.progress->total, room.total);
        for (uint32_t i = threadIdx.x; i < FIRST_BINS; i += THREADS) {
            if (room.first[i] != 0) atomicAdd(row.weights + i, room.first[i]);
        }
    }
    if (!is_last_block(&row.progress->blocks, gridDim.x)) return;
    if (has_nucleus) draw_of_nucleus(row, room, most);
    else draw_by_id(row, room, most);
}
