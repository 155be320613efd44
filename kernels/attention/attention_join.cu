// Merges what the parts of a context have seen (`attention_halves.cu`): a kernel of its own, because a megabyte of parts is more
// than one block reads in the time in which all blocks start.
//
// A block has 64 channels of a head of one row, a thread four of them and every sixteenth part. The parts' sums of weights decide what
// each counts; every warp finds that out by itself. Bound by latency: all loads are asked for at once.
#include "attention/halves.cuh"

const uint32_t CHANNELS = 64;  // of a block
const uint32_t FOURS = CHANNELS / 4;
const uint32_t SETS = 16;  // of parts
const uint32_t EACH = MOST_PARTS / SETS;
const uint32_t SEEN = MOST_PARTS / WARP;

extern "C" __global__ void __launch_bounds__(FOURS* SETS) attention_join(const __grid_constant__ AttentionArgs args) {
    __shared__ float4 of_sets[SETS][FOURS];
    const uint32_t lane = threadIdx.x % WARP, head = blockIdx.y, row = blockIdx.z, parts = args.splits;
    const uint32_t set = threadIdx.x / FOURS, channel = blockIdx.x * CHANNELS + threadIdx.x % FOURS * 4;
    const bool puts = set == 0 && channel < args.head_dim;
    const float* query = args.queries + (static_cast<uint64_t>(row) * args.heads + head) * args.query_stride;
    float4 gate = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
    if (puts && args.gated) {
        gate = __ldcg(reinterpret_cast<const float4*>(query + args.head_dim + channel));
        gate = make_float4(sigmoid(gate.x), sigmoid(gate.y), sigmoid(gate.z), sigmoid(gate.w));
    }
    after_previous_kernel();

    float4 sums[EACH];
#pragma unroll
    for (uint32_t i = 0; i < EACH; ++i) {
        const uint32_t part = i * SETS + set;
        sums[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (part < parts && channel < args.head_dim) {
            sums[i] = __ldcg(reinterpret_cast<const float4*>(partial_of(args, row, head, part) + PARTIAL_SUMS + channel));
        }
    }
    float2 seen[SEEN];
    float largest = -INFINITY, factors[SEEN], total = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < SEEN; ++i) {
        const uint32_t part = i * WARP + lane;
        seen[i] = make_float2(-INFINITY, 0.0f);
        if (part < parts) seen[i] = __ldcg(reinterpret_cast<const float2*>(partial_of(args, row, head, part)));
        largest = fmaxf(largest, seen[i].x);
    }
    largest = max_lanes<32>(largest);
#pragma unroll
    for (uint32_t i = 0; i < SEEN; ++i) {
        // A part that has seen nothing does not count.
        factors[i] = seen[i].x > -INFINITY ? exp2f(seen[i].x - largest) : 0.0f;
        total = fmaf(factors[i], seen[i].y, total);
    }
    total = sum_lanes<32>(total);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (uint32_t i = 0; i < EACH; ++i) {
        const uint32_t part = i * SETS + set;
        const float factor = __shfl_sync(ALL_LANES, factors[i * SETS / WARP], part % WARP);
        sum = add_scaled(sum, sums[i], factor);
    }
    of_sets[set][threadIdx.x % FOURS] = sum;
    __syncthreads();
    if (!puts) return;
#pragma unroll
    for (uint32_t i = 1; i < SETS; ++i) sum = add_scaled(sum, of_sets[i][threadIdx.x], 1.0f);
    const float share = 1.0f / total;
    float* out = args.out + (static_cast<uint64_t>(row) * args.heads + head) * args.head_dim + channel;
    *reinterpret_cast<float4*>(out) =
        make_float4(sum.x * share * gate.x, sum.y * share * gate.y, sum.z * share * gate.z, sum.w * share * gate.w);
}
