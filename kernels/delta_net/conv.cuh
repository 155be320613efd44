// Inputs of the convolution in front of the delta rule, and its history.
//
// A slot remembers the last `taps` inputs of every channel, that of position p at p % taps: a step reads positions before its
// own and writes its own, so that blocks that share a channel need no order among each other.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

const uint32_t MAX_TAPS = 8;

// Added to the squared length of queries and keys (transformers' `l2norm`).
const float L2_EPS = 1e-6f;

DEVICE uint32_t at(const Place& place, uint32_t key_head, uint32_t index) {
    return place.base + key_head * place.step + index * place.index_step;
}

DEVICE float* history(const DeltaArgs& args, uint32_t slot, uint32_t position, uint32_t channel) {
    return args.conv_state + (static_cast<uint64_t>(slot) * args.taps + position % args.taps) * args.channels + channel;
}

// Convolution and SiLU of one channel at position `position`, whose input is `x`.
DEVICE float convolve(const DeltaArgs& args, uint32_t slot, uint32_t position, uint32_t channel, float x) {
    float sum = 0.0f;
    for (uint32_t t = 0; t + 1 < args.taps; ++t) {
        const uint32_t back = args.taps - 1 - t;
        if (back > position) continue;
        sum = fmaf(args.conv[t * args.channels + channel], *history(args, slot, position - back, channel), sum);
    }
    return silu(fmaf(args.conv[(args.taps - 1) * args.channels + channel], x, sum));
}

// The same in two halves: what earlier inputs add, before the kernel waits for its input, and the rest.
struct Convolution {
    float past, weight;

    __device__ __forceinline__ Convolution(const DeltaArgs& args, uint32_t slot, uint32_t position, uint32_t channel, bool used)
        : past(0.0f), weight(used ? args.conv[(args.taps - 1) * args.channels + channel] : 0.0f) {
        float weights[MAX_TAPS], inputs[MAX_TAPS];
#pragma unroll
        for (uint32_t back = 1; back < MAX_TAPS; ++back) {
            const bool has = used && back < args.taps && back <= position;
            weights[back] = has ? args.conv[(args.taps - 1 - back) * args.channels + channel] : 0.0f;
            inputs[back] = has ? *history(args, slot, position - back, channel) : 0.0f;
        }
#pragma unroll
        for (uint32_t back = MAX_TAPS - 1; back > 0; --back) past = fmaf(weights[back], inputs[back], past);
    }
    __device__ __forceinline__ float apply(float x) const { return silu(fmaf(weight, x, past)); }
};

// Where channel `channel` of the convolution is in a row of the projections.
DEVICE uint32_t place_of_channel(const DeltaArgs& args, uint32_t channel) {
    const uint32_t keys = args.key_heads * args.key_dim;
    if (channel < 2 * keys) {
        const uint32_t within = channel % keys;
        return at(channel < keys ? args.q : args.k, within / args.key_dim, 0) + within % args.key_dim;
    }
    const uint32_t within = channel - 2 * keys, head = within / args.value_dim;
    // Value heads of a key head are neighbours, or key heads apart.
    const bool neighbours = args.head.index_step == 1;
    const uint32_t key_head = neighbours ? head / args.ratio : head % args.key_heads;
    const uint32_t index = neighbours ? head % args.ratio : head / args.key_heads;
    return at(args.v, key_head, index) + within % args.value_dim;
}

// Puts the last inputs of one channel of a sequence's rows into the history.
DEVICE void remember(const DeltaArgs& args, const Sequence& sequence, uint32_t channel) {
    const uint32_t place = place_of_channel(args, channel);
    for (uint32_t back = 1; back <= min(args.taps, sequence.rows); ++back) {
        const uint64_t row = sequence.first_row + sequence.rows - back;
        *history(args, sequence.slot, sequence.position + sequence.rows - back, channel) =
            args.qkv[row * args.qkv_stride + place];
    }
}
