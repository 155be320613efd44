// Softmax attention of one row over the pages of its sequence, for up to eight query heads that share a KV head.
//
// A block takes a part of the positions, each of its warps a query head: eight positions at a time, a lane C channels, with an
// online softmax (arXiv 1805.02867). What the warps of a block read in common comes from the first-level cache. Parts, where
// there are several, leave what they have seen in `partials`, and the last block to finish merges them in their order. Bound by
// the bytes of keys and values. With STEP the block that has the row's own position appends it first: no other block reads it.
#pragma once
#include "attention/head.cuh"

const int HEADS = 8;
const int AT_ONCE = 8;

// C consecutive channels as stored.
template <int C, uint32_t FORMAT>
struct Channels {
    static constexpr int BYTES = C * (FORMAT == KV_F32 ? 4 : FORMAT == KV_F16 ? 2 : 1);
    static constexpr int WORDS = (BYTES + 3) / 4;
    alignas(16) uint32_t words[WORDS];
    float scale;

    __device__ __forceinline__ void load(const void* store, const void* scales, uint64_t place) {
        const uint8_t* p = static_cast<const uint8_t*>(store) + place * BYTES / C;
        if constexpr (BYTES >= 16) {
#pragma unroll
            for (int i = 0; i < WORDS / 4; ++i) reinterpret_cast<uint4*>(words)[i] = reinterpret_cast<const uint4*>(p)[i];
        } else if constexpr (BYTES == 8) {
            *reinterpret_cast<uint2*>(words) = *reinterpret_cast<const uint2*>(p);
        } else if constexpr (BYTES == 4) {
            words[0] = *reinterpret_cast<const uint32_t*>(p);
        } else if constexpr (BYTES == 2) {
            words[0] = *reinterpret_cast<const uint16_t*>(p);
        } else {
            words[0] = *p;
        }
        if constexpr (FORMAT == KV_Q8_0) scale = half_bits(static_cast<const uint16_t*>(scales)[place / KV_BLOCK]);
    }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < WORDS; ++i) words[i] = 0;
        scale = 0.0f;
    }
    __device__ __forceinline__ float get(int i) const {
        if constexpr (FORMAT == KV_F32) return __uint_as_float(words[i]);
        if constexpr (FORMAT == KV_F16) return half_bits(words[i / 2] >> (16 * (i % 2)) & 0xffff);
        return static_cast<float>(static_cast<int8_t>(words[i / 4] >> (8 * (i % 4)) & 0xff)) * scale;
    }
};

// Sums of eight values over the lanes of a warp: lane l gets that of value l / 4.
DEVICE float sums_by_lane(float (&values)[AT_ONCE]) {
    const uint32_t lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 4; half > 0; half /= 2) {
        const bool upper = lane & (4 * half);
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float keep = upper ? values[i + half] : values[i], give = upper ? values[i] : values[i + half];
            values[i] = keep + __shfl_xor_sync(ALL_LANES, give, 4 * half);
        }
    }
    float sum = values[0] + __shfl_xor_sync(ALL_LANES, values[0], 2);
    return sum + __shfl_xor_sync(ALL_LANES, sum, 1);
}

// Where a lane's channel `c` is among the sums of a part: a warp reads and writes neighbours, where all its lanes have as many.
template <int C>
DEVICE uint32_t partial_channel(uint32_t dim, int c) {
    const uint32_t lane = threadIdx.x % WARP;
    return PARTIAL_SUMS + (dim == WARP * C ? c * WARP + lane : lane * C + c);
}

template <int C>
DEVICE void write_result(const AttentionArgs& args, uint64_t row, uint32_t head, const float (&sums)[C], float total) {
    const uint64_t at = row * args.heads + head;
    const uint32_t first = threadIdx.x % WARP * C;
    if (first >= args.head_dim) return;
    const float* gates = args.queries + at * args.query_stride + args.head_dim + first;
#pragma unroll
    for (int c = 0; c < C; ++c) {
        const float value = sums[c] / total;
        if (first + c < args.head_dim) {
            args.out[at * args.head_dim + first + c] = args.gated ? value * sigmoid(gates[c]) : value;
        }
    }
}

template <bool STEP, int C, uint32_t FORMAT>
DEVICE void attend(const AttentionArgs& args) {
    DYNAMIC_SHARED(__align__(16) float, shared);
    const uint32_t group = args.heads / args.kv_heads, chunks = (group + HEADS - 1) / HEADS;
    const uint32_t kv_head = blockIdx.x / chunks, first_head = kv_head * group + blockIdx.x % chunks * HEADS;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head = first_head + warp;
    const bool has_head = head < (kv_head + 1) * group;
    const uint32_t split = blockIdx.y, row = blockIdx.z, dim = args.head_dim;
    const Row at = args.rows[row];
    const uint32_t* pages = args.pages + args.sequences[at.sequence].first_page;
    const uint32_t seen = at.position + 1;
    const uint32_t per_split = ((seen + args.splits - 1) / args.splits + AT_ONCE - 1) / AT_ONCE * AT_ONCE;
    const uint32_t begin = min(seen, split * per_split), end = min(seen, begin + per_split);
    const bool appends = STEP && end == seen && begin < end && warp == HEADS - 1;
    const uint32_t own = appends ? place_of(args, pages, kv_head, at.position) : 0;
    after_previous_kernel();

    // A warp for each query, and one for the new key and value.
    float* query = shared + warp * dim;
    if (appends) append<C, FORMAT>(args, HeadNorm<C>(args, args.key_norm, row), row, kv_head, own, shared + HEADS * dim);
    if (has_head) {
        const float* from = args.queries + (static_cast<uint64_t>(row) * args.heads + head) * args.query_stride;
        HeadNorm<C>(args, args.query_norm, row).apply(args, from, query);
    }
    __syncthreads();
    const bool has_channels = lane * C < dim && has_head;
    const float scale = rsqrtf(static_cast<float>(dim));
    float q[C], sums[C];
#pragma unroll
    for (int c = 0; c < C; ++c) q[c] = has_channels ? query[lane * C + c] * scale : 0.0f, sums[c] = 0.0f;
    float maximum = -INFINITY, total = 0.0f;
    // Lane l has position l / 4 of the eight.
    for (uint32_t first = begin; first < end && has_head; first += AT_ONCE) {
        const uint32_t mine = min(first + lane / 4, end - 1);
        const uint32_t place = place_of(args, pages, kv_head, mine);
        Channels<C, FORMAT> keys[AT_ONCE], values[AT_ONCE];
#pragma unroll
        for (int p = 0; p < AT_ONCE; ++p) {
            const uint64_t channel = static_cast<uint64_t>(__shfl_sync(ALL_LANES, place, 4 * p)) * dim + lane * C;
            keys[p].clear(), values[p].clear();
            if (!has_channels) continue;
            keys[p].load(args.key_pages, args.key_scales, channel);
            values[p].load(args.value_pages, args.value_scales, channel);
        }
        float dots[AT_ONCE];
#pragma unroll
        for (int p = 0; p < AT_ONCE; ++p) {
            dots[p] = 0.0f;
#pragma unroll
            for (int c = 0; c < C; ++c) dots[p] = fmaf(q[c], keys[p].get(c), dots[p]);
        }
        float score = sums_by_lane(dots);
        if (first + lane / 4 >= end) score = -INFINITY;
        float largest = fmaxf(score, maximum);
#pragma unroll
        for (int d = 4; d < 32; d *= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, d));
        const float weight = expf(score - largest), correction = expf(maximum - largest);
        maximum = largest;
        float added = weight;
#pragma unroll
        for (int d = 4; d < 32; d *= 2) added += __shfl_xor_sync(ALL_LANES, added, d);
        total = fmaf(total, correction, added);
#pragma unroll
        for (int c = 0; c < C; ++c) sums[c] *= correction;
#pragma unroll
        for (int p = 0; p < AT_ONCE; ++p) {
            const float share = __shfl_sync(ALL_LANES, weight, 4 * p);
#pragma unroll
            for (int c = 0; c < C; ++c) sums[c] = fmaf(share, values[p].get(c), sums[c]);
        }
    }
    if (args.splits == 1) {
        if (has_head) write_result<C>(args, row, head, sums, total);
        return;
    }
    if (has_head) {
        float* partial = partial_of(args, row, head, split);
        if (lane == 0) partial[0] = maximum, partial[1] = total;
#pragma unroll
        for (int c = 0; c < C; ++c) {
            if (lane * C + c < dim) partial[partial_channel<C>(dim, c)] = sums[c];
        }
    }
    if (!is_last_block(args.counters + row * gridDim.x + blockIdx.x, args.splits)) return;
    if (!has_head) return;
    // Merges all parts of this warp's head, in their order.
    float largest = -INFINITY;
    for (uint32_t s = lane; s < args.splits; s += WARP) largest = fmaxf(largest, __ldcg(partial_of(args, row, head, s)));
    largest = max_lanes<32>(largest);
    total = 0.0f;
#pragma unroll
    for (int c = 0; c < C; ++c) sums[c] = 0.0f;
#pragma unroll 4
    for (uint32_t s = 0; s < args.splits; ++s) {
        const float* partial = partial_of(args, row, head, s);
        const float factor = expf(__ldcg(partial) - largest);
        total = fmaf(factor, __ldcg(partial + 1), total);
#pragma unroll
        for (int c = 0; c < C; ++c) {
            if (lane * C + c >= dim) continue;
            sums[c] = fmaf(factor, __ldcg(partial + partial_channel<C>(dim, c)), sums[c]);
        }
    }
    write_result<C>(args, row, head, sums, total);
}
