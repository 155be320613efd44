// Heads of 128 channels: four blocks share a value head, 32 of its columns each; a thread keeps 16 rows of one column of the
// state in registers.
#pragma once
#include "delta_net/conv.cuh"

const uint32_t DIM = 128;
const uint32_t PARTS = 4;
const uint32_t COLUMNS = DIM / PARTS;  // of a block: one for each lane
const uint32_t GROUPS = 8;             // of state rows: one for each warp
const uint32_t OWN = DIM / GROUPS;
const float QUERY_SCALE = 0.08838834764831845f;  // 1 / sqrt(DIM)

// The convolution of one channel, its weights and history loaded ahead of its input.
struct Convolution {
    float weights[MAX_TAPS], past[MAX_TAPS];  // the input's last

    __device__ __forceinline__ Convolution(const DeltaArgs& args, uint32_t slot, uint32_t position, uint32_t channel,
                                           bool used) {
#pragma unroll
        for (uint32_t back = 0; back < MAX_TAPS; ++back) {
            const bool has = used && back < args.taps;
            weights[back] = has ? args.conv[(args.taps - 1 - back) * args.channels + channel] : 0.0f;
            past[back] = has && back > 0 && back <= position ? *history(args, slot, position - back, channel) : 0.0f;
        }
    }
    __device__ __forceinline__ float apply(float x) const {
        float sum = 0.0f;
#pragma unroll
        for (int back = MAX_TAPS - 1; back > 0; --back) sum = fmaf(weights[back], past[back], sum);
        return silu(fmaf(weights[0], x, sum));
    }
};
