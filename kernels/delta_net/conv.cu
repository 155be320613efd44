// The convolution and SiLU of many rows: a thread takes a channel of a sequence through some of its rows. Bound by
// bytes: the projections are read once, what comes out is written once. `delta_prepare` puts the last inputs into the
// history: here others may still read it.
#include "delta_net/conv.cuh"

// Rows of a thread.
const uint32_t CONV_ROWS = 16;

extern "C" __global__ void __launch_bounds__(256) delta_conv(const __grid_constant__ DeltaArgs args) {
    const uint32_t channel = blockIdx.x * blockDim.x + threadIdx.x;
    after_previous_kernel();
    if (channel >= args.channels) return;
    const Sequence sequence = args.sequences[blockIdx.y];
    const uint32_t place = place_of_channel(args, channel);
    const float* in = args.qkv + static_cast<uint64_t>(sequence.first_row) * args.qkv_stride + place;
    float* out = args.convolved + static_cast<uint64_t>(sequence.first_row) * args.channels + channel;

    float weights[MAX_TAPS];  // the last tap last
#pragma unroll
    for (uint32_t i = 0; i < MAX_TAPS; ++i) {
        const uint32_t back = MAX_TAPS - 1 - i;
        weights[i] = back < args.taps ? args.conv[(args.taps - 1 - back) * args.channels + channel] : 0.0f;
    }
    for (uint32_t first = blockIdx.z * CONV_ROWS; first < sequence.rows; first += gridDim.z * CONV_ROWS) {
        float window[MAX_TAPS];
#pragma unroll
        for (uint32_t i = 0; i < MAX_TAPS; ++i) {
            const uint32_t back = MAX_TAPS - i;  // 1: the row before
            window[i] = 0.0f;
            if (back >= args.taps) continue;
            if (back <= first) {
                window[i] = in[static_cast<uint64_t>(first - back) * args.qkv_stride];
            } else if (back <= first + sequence.position) {
                window[i] = *history(args, sequence.slot, sequence.position + first - back, channel);
            }
        }
        const uint32_t end = min(sequence.rows, first + CONV_ROWS);
#pragma unroll 4
        for (uint32_t row = first; row < end; ++row) {
#pragma unroll
            for (uint32_t i = 0; i + 1 < MAX_TAPS; ++i) window[i] = window[i + 1];
            window[MAX_TAPS - 1] = in[static_cast<uint64_t>(row) * args.qkv_stride];
            float sum = 0.0f;
#pragma unroll
            for (uint32_t i = 0; i < MAX_TAPS; ++i) sum = fmaf(weights[i], window[i], sum);
            out[static_cast<uint64_t>(row) * args.channels] = silu(sum);
        }
    }
}
