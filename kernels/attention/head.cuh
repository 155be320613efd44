// Heads of queries, keys and values: norm and rotation, and where and how keys and values are stored.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

// Order of `KvFormat`.
enum KvFormat : uint32_t { KV_F16 = 0, KV_Q8_0 = 1, KV_F32 = 2 };
const uint32_t MAX_HEAD = 256;
const uint32_t KV_BLOCK = 32;

// `out = rope(x / sqrt(mean(x²) + eps) * norm)` by one warp; `out` is shared memory of `head_dim` floats.
DEVICE void prepare_head(const AttentionArgs& args, const float* x, const float* norm, uint32_t row, float* out) {
    const uint32_t lane = threadIdx.x % WARP, dim = args.head_dim, pairs = args.pairs;
    float squares = 0.0f;
    for (uint32_t i = lane; i < dim; i += WARP) squares += x[i] * x[i];
    const float factor = 1.0f / sqrtf(sum_lanes<32>(squares) / static_cast<float>(dim) + args.eps);
    for (uint32_t i = lane; i < dim; i += WARP) out[i] = x[i] * factor * norm[i];
    __syncwarp();
    const float* angles = args.angles + static_cast<uint64_t>(row) * 2 * pairs;
    for (uint32_t i = lane; i < pairs; i += WARP) {
        const float a = out[i], b = out[i + pairs], cosine = angles[i], sine = angles[pairs + i];
        out[i] = a * cosine - b * sine;
        out[i + pairs] = b * cosine + a * sine;
    }
    __syncwarp();
}

// Index of the first channel of a head at `position` of a sequence, in this layer's keys or values.
DEVICE uint64_t place_of(const AttentionArgs& args, const uint32_t* pages, uint32_t kv_head, uint32_t position) {
    const uint64_t page = pages[position / args.page_tokens];
    return ((page * args.kv_heads + kv_head) * args.page_tokens + position % args.page_tokens) * args.head_dim;
}

// Stores a head by one warp.
DEVICE void store_head(const AttentionArgs& args, const float* x, void* store, void* scales, uint64_t place) {
    const uint32_t lane = threadIdx.x % WARP;
    for (uint32_t i = lane; i < args.head_dim; i += WARP) {
        if (args.kv_format == KV_F16) static_cast<__half*>(store)[place + i] = __float2half_rn(x[i]);
        if (args.kv_format == KV_F32) static_cast<float*>(store)[place + i] = x[i];
        if (args.kv_format != KV_Q8_0) continue;
        // Whole blocks of 32: every lane is here.
        const float largest = max_lanes<32>(fabsf(x[i])), total = sum_lanes<32>(fabsf(x[i]));
        const __half scale = __float2half_rn(isnan(total) ? total : __fdiv_rn(largest, 127.0f));
        const float stored = __half2float(scale);
        const float inverse = stored > 0.0f && isfinite(stored) ? __fdiv_rn(1.0f, stored) : 0.0f;
        const float code = fminf(fmaxf(rintf(__fmul_rn(x[i], inverse)), -127.0f), 127.0f);
        static_cast<int8_t*>(store)[place + i] = static_cast<int8_t>(code);
        if (lane == 0) static_cast<__half*>(scales)[(place + i) / KV_BLOCK] = scale;
    }
}

// Norms, turns and stores the key and the value of a row by one warp; `scratch` is shared memory of `head_dim` floats.
DEVICE void append(const AttentionArgs& args, uint32_t row, uint32_t kv_head, float* scratch) {
    const Row at = args.rows[row];
    const uint32_t* pages = args.pages + args.sequences[at.sequence].first_page;
    const uint64_t place = place_of(args, pages, kv_head, at.position);
    const uint64_t from = (static_cast<uint64_t>(row) * args.kv_heads + kv_head) * args.head_dim;
    prepare_head(args, args.keys + from, args.key_norm, row, scratch);
    store_head(args, scratch, args.key_pages, args.key_scales, place);
    store_head(args, args.values + from, args.value_pages, args.value_scales, place);
}
