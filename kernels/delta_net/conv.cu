// The convolution and SiLU of many rows: a thread takes a channel of a sequence through all its rows. Bound by bytes: the
// projections are read once, what comes out is written once.
#include "delta_net/conv.cuh"

extern "C" __global__ void __launch_bounds__(256) delta_conv(const __grid_constant__ DeltaArgs args) {
    const uint32_t channel = blockIdx.x * blockDim.x + threadIdx.x;
    after_previous_kernel();
    if (channel >= args.channels) return;
    const Sequence sequence = args.sequences[blockIdx.y];
    const uint32_t keys = args.key_heads * args.key_dim;
    uint32_t place;
    if (channel < 2 * keys) {
        const uint32_t within = channel % keys;
        place = at(channel < keys ? args.q : args.k, within / args.key_dim, 0) + within % args.key_dim;
    } else {
        const uint32_t within = channel - 2 * keys, head = within / args.value_dim;
        // Value heads of a key head are neighbours, or key heads apart.
        const bool neighbours = args.head.index_step == 1;
        const uint32_t key_head = neighbours ? head / args.ratio : head % args.key_heads;
        const uint32_t index = neighbours ? head % args.ratio : head / args.key_heads;
        place = at(args.v, key_head, index) + within % args.value_dim;
    }
    const float* in = args.qkv + static_cast<uint64_t>(sequence.first_row) * args.qkv_stride + place;
    float* out = args.convolved + static_cast<uint64_t>(sequence.first_row) * args.channels + channel;

    float weights[MAX_TAPS] = {}, window[MAX_TAPS] = {};  // the last tap last
    for (uint32_t t = 0; t < args.taps; ++t) {
#pragma unroll
        for (uint32_t i = 0; i < MAX_TAPS; ++i) {
            if (i + args.taps == MAX_TAPS + t) weights[i] = args.conv[t * args.channels + channel];
        }
        const uint32_t back = args.taps - t;
        if (back > sequence.position) continue;
#pragma unroll
        for (uint32_t i = 0; i < MAX_TAPS; ++i) {
            if (i + args.taps == MAX_TAPS + t)
                window[i] = *history(args, sequence.slot, sequence.position - back, channel);
        }
    }
#pragma unroll 4
    for (uint32_t row = 0; row < sequence.rows; ++row) {
#pragma unroll
        for (uint32_t i = 0; i + 1 < MAX_TAPS; ++i) window[i] = window[i + 1];
        window[MAX_TAPS - 1] = in[static_cast<uint64_t>(row) * args.qkv_stride];
        float sum = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < MAX_TAPS; ++i) sum = fmaf(weights[i], window[i], sum);
        out[static_cast<uint64_t>(row) * args.channels] = silu(sum);
    }
    const uint32_t kept = min(args.taps, sequence.rows);
#pragma unroll
    for (uint32_t i = 0; i < MAX_TAPS; ++i) {
        const uint32_t back = MAX_TAPS - i;  // 1: the last row
        if (back <= kept) *history(args, sequence.slot, sequence.position + sequence.rows - back, channel) = window[i];
    }
}
