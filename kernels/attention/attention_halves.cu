// Softmax attention of one row over pages of halves on tensor cores, for up to eight query heads that share a KV head.
//
// A block takes a part of the positions, and each of its warps 16 of them at a time, which it copies to shared memory
// while it works on others: every key and value is read once, for all heads. The warps' sums meet in shared memory.
// Parts, where there are several, leave what they have seen in `partials`, which `attention_join` merges.
//
// Keys and values of earlier steps are asked for before the kernel waits for the projections, but for long contexts; the row's own,
// which the block of the last position appends, comes from shared memory. Bound by the bytes of keys and values in long contexts,
// by latency in short ones: a block has three barriers.
#include "attention/halves.cuh"

template <uint32_t DIM>
struct HalvesShared {
    static constexpr uint32_t PITCH = DIM + 4;
    struct alignas(16) Slot {
        union {
            struct {
                uint8_t keys[2 * DIM * POSITIONS];
                uint8_t values[2 * DIM * POSITIONS];
            };
            float sums[HEADS][PITCH];  // when the warp has seen all its positions
        };
        float2 seen[HEADS];  // maximum of the scores, sum of weights
    };
    uint4 queries[DIM / 16][WARP];  // second operands: two words of upper halves, two of lower ones
    float heads[HEADS + 1][DIM];    // queries on their way, then the gates; the new key
    uint4 own_key[DIM / 8], own_value[DIM / 8];
    float factors[HEADS][WARP];
    float2 seen[HEADS];  // by all whose sums are merged
    Slot slots[1];  // one for each warp
};

// The positions of one block, and the copies of its warps.
template <uint32_t DIM>
struct HalvesPart {
    const AttentionArgs& args;
    const uint32_t* pages;
    uint32_t kv_head, position;

    // Starts copies of positions `POSITIONS * tile ..` of keys or values; zeros from the row's own on.
    __device__ __forceinline__ void start(uint32_t tile, const void* store, uint8_t* to) const {
        const uint32_t lane = threadIdx.x % WARP, first = tile * POSITIONS;
        const uint32_t place = place_of(args, pages, kv_head, min(first + lane % POSITIONS, position));
#pragma unroll
        for (uint32_t i = 0; i < POSITIONS * DIM / 8; i += WARP) {
            const uint32_t row = (i + lane) / (DIM / 8), eight = (i + lane) % (DIM / 8);
            const uint64_t number = __shfl_sync(ALL_LANES, place, row);
            const uint8_t* from = static_cast<const uint8_t*>(store) + 2 * (number * DIM + 8 * eight);
            copy_16(to + in_tile<DIM>(row, eight), from, first + row < position);
        }
    }
    // Puts the row's own key or value, which this block has, in its place.
    __device__ __forceinline__ void put_own(uint32_t tile, const uint4* own, uint8_t* to) const {
        const uint32_t lane = threadIdx.x % WARP;
        __syncwarp();
        if (position / POSITIONS == tile && lane < DIM / 8) {
            *reinterpret_cast<uint4*>(to + in_tile<DIM>(position % POSITIONS, lane)) = own[lane];
        }
        __syncwarp();
    }
};

// Appends the row's own key and value by one warp, and leaves them in shared memory as well.
template <uint32_t DIM>
DEVICE void put_own_head(const AttentionArgs& args, const HeadNorm<DIM / WARP, true>& norm, uint32_t row, uint32_t kv_head,
                         uint32_t number, HalvesShared<DIM>& shared) {
    const uint32_t lane = threadIdx.x % WARP;
    float* key = shared.heads[HEADS];
    const uint64_t from = (static_cast<uint64_t>(row) * args.kv_heads + kv_head) * DIM;
    uint32_t* keys = static_cast<uint32_t*>(args.key_pages) + static_cast<uint64_t>(number) * (DIM / 2);
    uint32_t* values = static_cast<uint32_t*>(args.value_pages) + static_cast<uint64_t>(number) * (DIM / 2);
    norm.apply(args, args.keys + from, key);
#pragma unroll
    for (uint32_t i = 0; i < DIM / 2; i += WARP) {
        const uint32_t pair = i + lane;
        const float2 v = *reinterpret_cast<const float2*>(args.values + from + 2 * pair);
        const uint32_t own_key = pack_halves(key[2 * pair], key[2 * pair + 1]), own_value = pack_halves(v.x, v.y);
        keys[pair] = reinterpret_cast<uint32_t*>(shared.own_key)[pair] = own_key;
        values[pair] = reinterpret_cast<uint32_t*>(shared.own_value)[pair] = own_value;
    }
}

// Merges what the warps of a block have seen, and hands it to `put(head, channel, sums, seen)`, four channels of a head a
// thread: the sums, the maximum of the scores and the sum of weights. Warps that have seen nothing are not among the `parts`.
template <uint32_t DIM, class Put>
DEVICE void merge(HalvesShared<DIM>& shared, uint32_t count, uint32_t parts, Put put) {
    const uint32_t lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    for (uint32_t head = threadIdx.x / WARP; head < count; head += warps) {
        const float2 own = lane < parts ? shared.slots[lane].seen[head] : make_float2(-INFINITY, 0.0f);
        const float largest = max_lanes<32>(own.x), factor = own.x > -INFINITY ? exp2f(own.x - largest) : 0.0f;
        shared.factors[head][lane] = factor;
        const float total = sum_lanes<32>(factor * own.y);
        if (lane == 0) shared.seen[head] = make_float2(largest, total);
    }
    __syncthreads();
    for (uint32_t item = threadIdx.x; item < count * DIM / 4; item += blockDim.x) {
        const uint32_t head = item / (DIM / 4), channel = item % (DIM / 4) * 4;
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (uint32_t part = 0; part < parts; ++part) {
            const float4 own = *reinterpret_cast<const float4*>(&shared.slots[part].sums[head][channel]);
            sum = add_scaled(sum, own, shared.factors[head][part]);
        }
        put(head, channel, sum, shared.seen[head]);
    }
}

template <uint32_t DIM>
DEVICE void attend_halves(const AttentionArgs& args, HalvesShared<DIM>& shared) {
    constexpr uint32_t C = DIM / WARP, SLOT = 64 * DIM + 64;
    // As `halves_bytes` in src/cuda/attention.rs counts it.
    static_assert(sizeof(shared.slots) == SLOT && sizeof(shared) == 72 * DIM + 1088 + SLOT);
    const uint32_t group = args.heads / args.kv_heads, chunks = (group + HEADS - 1) / HEADS;
    const uint32_t kv_head = blockIdx.x / chunks, first_in_group = blockIdx.x % chunks * HEADS;
    const uint32_t first_head = kv_head * group + first_in_group, count = min(HEADS, group - first_in_group);
    const uint32_t lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    const uint32_t warp = __shfl_sync(ALL_LANES, threadIdx.x / WARP, 0);  // so that the compiler sees that lanes agree
    const uint32_t g = lane / 4, t = lane % 4, split = blockIdx.y, row = blockIdx.z;
    const Row at = args.rows[row];
    const HalvesPart<DIM> part = {args, args.pages + args.sequences[at.sequence].first_page, kv_head, at.position};
    const uint32_t tiles = at.position / POSITIONS + 1, per_split = (tiles + args.splits - 1) / args.splits;
    const uint32_t begin = min(tiles, split * per_split), end = min(tiles, begin + per_split);
    const bool appends = begin < end && end == tiles;
    auto& slot = shared.slots[warp];
    const auto start_first = [&] {
        if (begin + warp >= end) return;
        part.start(begin + warp, args.key_pages, slot.keys);
        end_copy_group();
        part.start(begin + warp, args.value_pages, slot.values);
        end_copy_group();
    };
    // Blocks of a long context take all that a multiprocessor has, and so begin when the kernel in front has nearly ended: what they
    // then need first must not wait behind their copies.
    const bool is_long = args.splits > 1;
    if (!is_long) start_first();
    const uint32_t own = place_of(args, part.pages, kv_head, at.position);
    const auto norm_of = [&](uint32_t job) { return HeadNorm<C, true>(args, job < HEADS ? args.query_norm : args.key_norm, row); };
    HeadNorm<C, true> norm = norm_of(warp);
    after_previous_kernel();

    // A warp for each query, and one for the new key and value; fewer take turns.
    float query[C], gates[C];
    const auto load_query = [&](uint32_t job) {
        if (job >= count) return;
        const float* from = args.queries + (static_cast<uint64_t>(row) * args.heads + first_head + job) * args.query_stride;
        load_channels<C>(from, lane * C, DIM, query);
        if (args.gated) load_channels<C>(from + DIM, lane * C, DIM, gates);
    };
    load_query(warp);
    if (is_long) start_first();
    for (uint32_t job = warp; job <= HEADS; job += warps) {
        if (job != warp) norm = norm_of(job), load_query(job);
        if (job < HEADS) {
            const bool gated = job < count && args.gated;
            float* x = shared.heads[job];
            put_query<DIM>(args, norm, query, job < count, job, shared.queries, x);
#pragma unroll
            for (uint32_t c = 0; c < C; ++c) x[lane * C + c] = gated ? sigmoid(gates[c]) : 1.0f;
        } else if (appends) {
            put_own_head<DIM>(args, norm, row, kv_head, own, shared);
        }
    }
    __syncthreads();

    Seen<DIM> seen;
    for (uint32_t tile = begin + warp; tile < end; tile += warps) {
        const bool more = tile + warps < end;
        const auto replace = [&](const void* store, uint8_t* place) {
            __syncwarp();
            if (more) part.start(tile + warps, store, place);
            end_copy_group();
        };
        wait_for_copies_but<1>();
        part.put_own(tile, shared.own_key, slot.keys);
        seen.weigh(shared.queries, slot.keys, tile * POSITIONS, at.position, [&] { replace(args.key_pages, slot.keys); });
        wait_for_copies_but<1>();
        part.put_own(tile, shared.own_value, slot.values);
        seen.add(slot.values);
        replace(args.value_pages, slot.values);
    }
    if (begin + warp < end) {
        seen.end();
#pragma unroll
        for (uint32_t e = 0; e < 2; ++e) {
            if (g == 0) slot.seen[2 * t + e] = make_float2(seen.largest[e], seen.totals[e]);
#pragma unroll
            for (uint32_t m = 0; m < DIM / 16; ++m) {
                slot.sums[2 * t + e][16 * m + g] = seen.sums[m][e];
                slot.sums[2 * t + e][16 * m + g + 8] = seen.sums[m][2 + e];
            }
        }
    }
    __syncthreads();

    const auto finish = [&](uint32_t head, uint32_t channel, float4 sum, float2 all) {
        const float4 gate = *reinterpret_cast<const float4*>(&shared.heads[head][channel]);
        const float share = 1.0f / all.y;
        float* out = args.out + (static_cast<uint64_t>(row) * args.heads + first_head + head) * DIM + channel;
        *reinterpret_cast<float4*>(out) = make_float4(sum.x * share * gate.x, sum.y * share * gate.y, sum.z * share * gate.z,
                                                      sum.w * share * gate.w);
    };
    const auto leave = [&](uint32_t head, uint32_t channel, float4 sum, float2 all) {
        if (args.splits == 1) return finish(head, channel, sum, all);
        float* to = partial_of(args, row, first_head + head, split);
        if (channel == 0) *reinterpret_cast<float2*>(to) = all;
        *reinterpret_cast<float4*>(to + PARTIAL_SUMS + channel) = sum;
    };
    merge<DIM>(shared, count, min(warps, end - begin), leave);
}

// Warps of a block at most: what the shared memory and the registers of a multiprocessor take.
const uint32_t MOST_WARPS = 12;

extern "C" __global__ void __launch_bounds__(MOST_WARPS* WARP, 1)
    attention_halves_128(const __grid_constant__ AttentionArgs args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    attend_halves<128>(args, *reinterpret_cast<HalvesShared<128>*>(shared));
}

extern "C" __global__ void __launch_bounds__(MOST_WARPS* WARP, 1)
    attention_halves_256(const __grid_constant__ AttentionArgs args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    attend_halves<256>(args, *reinterpret_cast<HalvesShared<256>*>(shared));
}
