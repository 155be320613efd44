// Heads of queries, keys and values: norm and rotation, and where and how keys and values are stored.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

// Of keys and values.
enum KvFormat : uint32_t { KV_F16, KV_Q8_0, KV_F32 };
const uint32_t MAX_HEAD = 256;
const uint32_t KV_BLOCK = 32;

// Channels `first ..` of C, zeros beyond the last. Heads of which a lane takes four or eight channels are whole fours.
template <int C>
DEVICE void load_channels(const float* x, uint32_t first, uint32_t dim, float (&out)[C]) {
    if constexpr (C % 4 == 0) {
#pragma unroll
        for (int c = 0; c < C; c += 4) {
            const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            const float4 v = first + c < dim ? *reinterpret_cast<const float4*>(x + first + c) : zero;
            out[c] = v.x, out[c + 1] = v.y, out[c + 2] = v.z, out[c + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int c = 0; c < C; ++c) out[c] = first + c < dim ? x[first + c] : 0.0f;
    }
}

// `rope(x / sqrt(mean(x²) + eps) * norm)` of a head by one warp, of which a lane takes C channels. What does not depend
// on `x` is loaded ahead of it. ALIKE: the channels of a lane are all turned the same way, because C divides the pairs.
template <int C, bool ALIKE = false>
struct HeadNorm {
    float weights[C], cosines[C], sines[C];  // sines with the sign of what they are multiplied with

    __device__ __forceinline__ HeadNorm(const AttentionArgs& args, const float* norm, uint32_t row) {
        const uint32_t first = threadIdx.x % WARP * C, pairs = args.pairs;
        const float* angles = args.angles + static_cast<uint64_t>(row) * 2 * pairs;
        load_channels<C>(norm, first, args.head_dim, weights);
        if constexpr (ALIKE) {
            const uint32_t pair = first < pairs ? first : first - pairs;
            const uint32_t last = first < 2 * pairs ? args.head_dim : 0;  // nothing is loaded beyond it
            load_channels<C>(angles + pair, 0, last, cosines);
            load_channels<C>(angles + pairs + pair, 0, last, sines);
#pragma unroll
            for (int c = 0; c < C; ++c) {
                if (last == 0) cosines[c] = 1.0f;
                if (first < pairs) sines[c] = -sines[c];
            }
        } else {
#pragma unroll
            for (int c = 0; c < C; ++c) {
                const uint32_t i = first + c, pair = i < pairs ? i : i - pairs;
                cosines[c] = i < 2 * pairs ? angles[pair] : 1.0f;
                sines[c] = i < 2 * pairs ? angles[pairs + pair] : 0.0f;
                if (i < pairs) sines[c] = -sines[c];
            }
        }
    }
    // `out` is shared memory of `head_dim` floats.
    __device__ __forceinline__ void apply(const AttentionArgs& args, const float* x, float* out) const {
        float values[C];
        load_channels<C>(x, threadIdx.x % WARP * C, args.head_dim, values);
        apply(args, values, out);
    }
    // Of this lane's channels, which it has loaded.
    __device__ __forceinline__ void apply(const AttentionArgs& args, float (&values)[C], float* out) const {
        const uint32_t first = threadIdx.x % WARP * C, dim = args.head_dim, pairs = args.pairs;
        float squares = 0.0f;
#pragma unroll
        for (int c = 0; c < C; ++c) squares = fmaf(values[c], values[c], squares);
        const float factor = rsqrtf(sum_lanes<32>(squares) / static_cast<float>(dim) + args.eps);
#pragma unroll
        for (int c = 0; c < C; ++c) {
            if (first + c < dim) out[first + c] = values[c] = values[c] * factor * weights[c];
        }
        __syncwarp();
        if constexpr (ALIKE) {
            const uint32_t other = first < pairs ? first + pairs : first < 2 * pairs ? first - pairs : first;
            float others[C];
            load_channels<C>(out, other, dim, others);
            __syncwarp();
#pragma unroll
            for (int c = 0; c < C; ++c) out[first + c] = fmaf(values[c], cosines[c], others[c] * sines[c]);
        } else {
#pragma unroll
            for (int c = 0; c < C; ++c) {
                const uint32_t i = first + c, other = i < pairs ? i + pairs : i - pairs;
                if (i < 2 * pairs) values[c] = fmaf(values[c], cosines[c], out[other] * sines[c]);
            }
            __syncwarp();
#pragma unroll
            for (int c = 0; c < C; ++c) {
                if (first + c < 2 * pairs) out[first + c] = values[c];
            }
        }
        __syncwarp();
    }
};

// Number of the head at `position` of a sequence among all heads of this layer's keys or values.
DEVICE uint32_t place_of(const AttentionArgs& args, const uint32_t* pages, uint32_t kv_head, uint32_t position) {
    const uint32_t page = position / args.page_tokens;
    return (pages[page] * args.kv_heads + kv_head) * args.page_tokens + position - page * args.page_tokens;
}

// Stores a head by one warp, of which a lane takes C channels.
template <int C, uint32_t FORMAT>
DEVICE void store_head(const AttentionArgs& args, const float* x, void* store, void* scales, uint64_t place) {
    const uint32_t lane = threadIdx.x % WARP, first = lane * C, dim = args.head_dim;
    if constexpr (FORMAT != KV_Q8_0) {
        float values[C];
        load_channels<C>(x, first, dim, values);
        if (first >= dim) return;
        if constexpr (FORMAT == KV_F32) {
            float* to = static_cast<float*>(store) + place + first;
#pragma unroll
            for (int c = 0; c < C; ++c) to[c] = values[c];
        } else {
            alignas(16) uint16_t halves[C];
#pragma unroll
            for (int c = 0; c < C; ++c) halves[c] = half_of_float(values[c]);
            uint16_t* to = static_cast<uint16_t*>(store) + place + first;
            if constexpr (C == 8) {
                *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(halves);
            } else if constexpr (C == 4) {
                *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(halves);
            } else {
#pragma unroll
                for (int c = 0; c < C; ++c) to[c] = halves[c];
            }
        }
    } else {
        // Whole blocks of 32: every lane is here.
        for (uint32_t i = lane; i < dim; i += WARP) {
            const float largest = max_lanes<32>(fabsf(x[i])), total = sum_lanes<32>(fabsf(x[i]));
            const uint16_t scale = half_of_float(isnan(total) ? total : __fdiv_rn(largest, 127.0f));
            const float stored = half_bits(scale);
            const float inverse = stored > 0.0f && isfinite(stored) ? __fdiv_rn(1.0f, stored) : 0.0f;
            const float code = fminf(fmaxf(rintf(__fmul_rn(x[i], inverse)), -127.0f), 127.0f);
            static_cast<int8_t*>(store)[place + i] = static_cast<int8_t>(code);
            if (lane == 0) static_cast<uint16_t*>(scales)[(place + i) / KV_BLOCK] = scale;
        }
    }
}

// Norms, turns and stores the key and the value of a row as head `number` of all, by one warp, of which a lane takes C
// channels. The key stays in `scratch`, shared memory of `head_dim` floats.
template <int C, uint32_t FORMAT>
DEVICE void append(const AttentionArgs& args, const HeadNorm<C>& norm, uint32_t row, uint32_t kv_head, uint32_t number,
                   float* scratch) {
    const uint64_t place = static_cast<uint64_t>(number) * args.head_dim;
    const uint64_t from = (static_cast<uint64_t>(row) * args.kv_heads + kv_head) * args.head_dim;
    norm.apply(args, args.keys + from, scratch);
    store_head<C, FORMAT>(args, scratch, args.key_pages, args.key_scales, place);
    store_head<C, FORMAT>(args, args.values + from, args.value_pages, args.value_scales, place);
}

// What a part has seen of a head: its maximum, the sum of weights, and from here on the weighted sums of values.
const uint32_t PARTIAL_SUMS = 4;

DEVICE float* partial_of(const AttentionArgs& args, uint64_t row, uint32_t head, uint32_t split) {
    return args.partials + ((row * args.heads + head) * args.splits + split) * (args.head_dim + PARTIAL_SUMS);
}

// `KERNEL(format, name, channels)` for each format of keys and values, and the channels of a head that a lane takes; kernels are
// called by these (`src/cuda/attention.rs`). A kernel of all of them takes the compiler four times as long.
#define FOR_CHANNELS(KERNEL, FORMAT, format) \
    KERNEL(FORMAT, format, 1)                \
    KERNEL(FORMAT, format, 2)                \
    KERNEL(FORMAT, format, 4)                \
    KERNEL(FORMAT, format, 8)
#define FOR_KV_FORMATS(KERNEL)          \
    FOR_CHANNELS(KERNEL, KV_F16, f16)   \
    FOR_CHANNELS(KERNEL, KV_Q8_0, q8_0) \
    FOR_CHANNELS(KERNEL, KV_F32, f32)
