// Softmax attention of one row over the pages of its sequence, for up to eight query heads that share a KV head.
//
// A block takes a part of the positions; its warps take four positions at a time, a lane C channels of every head, with an
// online softmax (arXiv 1805.02867). Warps meet in shared memory; parts, where there are several, in `partials`, which the
// last block to finish merges in their order. Bound by the bytes of keys and values. With STEP the block that has the row's
// own position appends it first: no other block reads it.
#pragma once
#include "attention/head.cuh"

const int HEADS = 8;
const int AT_ONCE = 4;
const int ATTENTION_WARPS = 8;

// C consecutive channels as stored.
template <int C, uint32_t FORMAT>
struct Channels {
    static constexpr int BYTES = C * (FORMAT == KV_F32 ? 4 : FORMAT == KV_F16 ? 2 : 1);
    static constexpr int WORDS = (BYTES + 3) / 4;
    uint32_t words[WORDS];
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
        if constexpr (FORMAT == KV_Q8_0) scale = __half2float(static_cast<const __half*>(scales)[place / KV_BLOCK]);
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

// Sums of 32 values over the lanes of a warp: lane l gets that of value l.
DEVICE float sums_by_lane(float (&values)[32]) {
    const uint32_t lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = 16; half > 0; half /= 2) {
        const bool upper = lane & half;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float keep = upper ? values[i + half] : values[i], give = upper ? values[i] : values[i + half];
            values[i] = keep + __shfl_xor_sync(ALL_LANES, give, half);
        }
    }
    return values[0];
}

// What a block or a part has seen of a head: its maximum, the sum of weights, then the weighted sum of values.
DEVICE float* partial_of(const AttentionArgs& args, uint64_t row, uint32_t head, uint32_t split) {
    return args.partials + ((row * args.heads + head) * args.splits + split) * (args.head_dim + 2);
}

DEVICE void write_result(const AttentionArgs& args, uint64_t row, uint32_t head, uint32_t channel, float value) {
    const uint64_t at = row * args.heads + head;
    if (args.gated) value *= sigmoid(args.queries[at * args.query_stride + args.head_dim + channel]);
    args.out[at * args.head_dim + channel] = value;
}

template <bool STEP, int C, uint32_t FORMAT>
__device__ __noinline__ void attend(const AttentionArgs& args, float* shared) {
    const uint32_t group = args.heads / args.kv_heads, chunks = (group + HEADS - 1) / HEADS;
    const uint32_t kv_head = blockIdx.x / chunks, first_head = kv_head * group + blockIdx.x % chunks * HEADS;
    const int heads = min(HEADS, static_cast<int>((kv_head + 1) * group - first_head));
    const uint32_t split = blockIdx.y, row = blockIdx.z, dim = args.head_dim;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const Row at = args.rows[row];
    const uint32_t* pages = args.pages + args.sequences[at.sequence].first_page;
    const uint32_t seen = at.position + 1, per_split = (seen + args.splits - 1) / args.splits;
    const uint32_t begin = min(seen, split * per_split), end = min(seen, begin + per_split);

    float* queries = shared;                                         // [HEADS][dim]
    float* maxima = queries + HEADS * dim;                           // [ATTENTION_WARPS][HEADS]
    float* totals = maxima + ATTENTION_WARPS * HEADS;                // [ATTENTION_WARPS][HEADS]
    float* sums = totals + ATTENTION_WARPS * HEADS;                  // [ATTENTION_WARPS][HEADS][dim]
    if (static_cast<int>(warp) < heads) {
        const float* query = args.queries + (static_cast<uint64_t>(row) * args.heads + first_head + warp) * args.query_stride;
        prepare_head(args, query, args.query_norm, row, queries + warp * dim);
    }
    if (STEP && end == seen && begin < end && warp == ATTENTION_WARPS - 1) append(args, row, kv_head, sums);
    __syncthreads();

    const bool has_channels = lane * C < dim;
    const float scale = 1.0f / sqrtf(static_cast<float>(dim));
    float q[HEADS][C], acc[HEADS][C];
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
#pragma unroll
        for (int c = 0; c < C; ++c) {
            q[h][c] = has_channels && h < heads ? queries[h * dim + lane * C + c] * scale : 0.0f;
            acc[h][c] = 0.0f;
        }
    }
    // Lane l has head l % 8 of position l / 8.
    float maximum = -INFINITY, total = 0.0f;
    for (uint32_t first = begin + warp * AT_ONCE; first < end; first += ATTENTION_WARPS * AT_ONCE) {
        Channels<C, FORMAT> keys[AT_ONCE], values[AT_ONCE];
#pragma unroll
        for (int p = 0; p < AT_ONCE; ++p) {
            keys[p].clear(), values[p].clear();
            if (first + p >= end || !has_channels) continue;
            const uint64_t place = place_of(args, pages, kv_head, first + p) + lane * C;
            keys[p].load(args.key_pages, args.key_scales, place);
            values[p].load(args.value_pages, args.value_scales, place);
        }
        float dots[AT_ONCE * HEADS];
#pragma unroll
        for (int p = 0; p < AT_ONCE; ++p) {
#pragma unroll
            for (int h = 0; h < HEADS; ++h) {
                float dot = 0.0f;
#pragma unroll
                for (int c = 0; c < C; ++c) dot = fmaf(q[h][c], keys[p].get(c), dot);
                dots[p * HEADS + h] = dot;
            }
        }
        float score = sums_by_lane(dots);
        if (first + lane / HEADS >= end) score = -INFINITY;
        float largest = fmaxf(score, __shfl_xor_sync(ALL_LANES, score, 8));
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 16));
        largest = fmaxf(largest, maximum);
        const float weight = expf(score - largest), correction = expf(maximum - largest);
        maximum = largest;
        float added = weight + __shfl_xor_sync(ALL_LANES, weight, 8);
        added += __shfl_xor_sync(ALL_LANES, added, 16);
        total = fmaf(total, correction, added);
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            const float factor = __shfl_sync(ALL_LANES, correction, h);
#pragma unroll
            for (int c = 0; c < C; ++c) acc[h][c] *= factor;
        }
#pragma unroll
        for (int p = 0; p < AT_ONCE; ++p) {
#pragma unroll
            for (int h = 0; h < HEADS; ++h) {
                const float share = __shfl_sync(ALL_LANES, weight, p * HEADS + h);
#pragma unroll
                for (int c = 0; c < C; ++c) acc[h][c] = fmaf(share, values[p].get(c), acc[h][c]);
            }
        }
    }
    if (lane < HEADS) maxima[warp * HEADS + lane] = maximum, totals[warp * HEADS + lane] = total;
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
#pragma unroll
        for (int c = 0; c < C; ++c) {
            if (has_channels) sums[(warp * HEADS + h) * dim + lane * C + c] = acc[h][c];
        }
    }
    __syncthreads();

    for (uint32_t i = threadIdx.x; i < heads * dim; i += blockDim.x) {
        const uint32_t h = i / dim, channel = i % dim;
        float largest = -INFINITY, weights = 0.0f, sum = 0.0f;
        for (int w = 0; w < ATTENTION_WARPS; ++w) largest = fmaxf(largest, maxima[w * HEADS + h]);
        for (int w = 0; w < ATTENTION_WARPS && begin < end; ++w) {
            const float factor = expf(maxima[w * HEADS + h] - largest);
            weights = fmaf(factor, totals[w * HEADS + h], weights);
            sum = fmaf(factor, sums[(w * HEADS + h) * dim + channel], sum);
        }
        if (args.splits == 1) {
            write_result(args, row, first_head + h, channel, sum / weights);
            continue;
        }
        float* partial = partial_of(args, row, first_head + h, split);
        if (channel == 0) partial[0] = largest, partial[1] = weights;
        partial[2 + channel] = sum;
    }
    if (args.splits == 1) return;

    __shared__ bool last;
    __threadfence();
    __syncthreads();
    uint32_t* counter = args.counters + row * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == args.splits - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) *counter = 0;
    for (uint32_t i = threadIdx.x; i < heads * dim; i += blockDim.x) {
        const uint32_t h = i / dim, channel = i % dim;
        float largest = -INFINITY, weights = 0.0f, sum = 0.0f;
        for (uint32_t s = 0; s < args.splits; ++s) {
            largest = fmaxf(largest, __ldcg(partial_of(args, row, first_head + h, s)));
        }
        for (uint32_t s = 0; s < args.splits; ++s) {
            const float* partial = partial_of(args, row, first_head + h, s);
            const float factor = expf(__ldcg(partial) - largest);
            weights = fmaf(factor, __ldcg(partial + 1), weights);
            sum = fmaf(factor, __ldcg(partial + 2 + channel), sum);
        }
        write_result(args, row, first_head + h, channel, sum / weights);
    }
}

template <bool STEP, int C>
DEVICE void attend_in(const AttentionArgs& args, float* shared) {
    switch (args.kv_format) {
        case KV_F16: return attend<STEP, C, KV_F16>(args, shared);
        case KV_Q8_0: return attend<STEP, C, KV_Q8_0>(args, shared);
        default: return attend<STEP, C, KV_F32>(args, shared);
    }
}

// Channels a lane takes: the fewest that cover a head.
template <bool STEP>
DEVICE void attention(const AttentionArgs& args, float* shared) {
    after_previous_kernel();
    if (args.head_dim <= 32) return attend_in<STEP, 1>(args, shared);
    if (args.head_dim <= 64) return attend_in<STEP, 2>(args, shared);
    if (args.head_dim <= 128) return attend_in<STEP, 4>(args, shared);
    return attend_in<STEP, 8>(args, shared);
}
