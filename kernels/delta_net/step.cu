// The gated delta rule (arXiv 2412.06464, eq. 10) for one row of each sequence and heads of 128 channels: convolution,
// delta rule and gated norm in one.
//
// `S = decay S; u = beta (v - Sᵀk); S = S + k uᵀ; out = Sᵀq`, where `out` of the new state is `decay Sᵀq + u (k · q)`
// of the old one, so that both products with it share a pass.
//
// A thread has 16 rows of one column of the state. Bound by the bytes of the state, read once and written once, and by
// latency: all that does not come from the projections is asked for before the kernel waits for them, queries and keys
// are normalised after the products that they go into, and the four blocks of a head, a cluster, exchange their sums of
// squares for the norm.
#include "common/quantise.cuh"
#include "delta_net/head.cuh"

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

extern "C" __global__ void __launch_bounds__(256, 4)
#if HAS_CLUSTERS
    __cluster_dims__(4, 1, 1)
#endif
        delta_step(const __grid_constant__ DeltaArgs args) {
#if HAS_CLUSTERS
    const uint32_t GROUPS = 8;  // of state rows: one for each warp
    const uint32_t OWN = DIM / GROUPS;
    __shared__ __align__(16) float queries[DIM], keys[DIM];
    __shared__ float squares[GROUPS];
    __shared__ float2 recalled[GROUPS][COLUMNS];
    __shared__ float along[GROUPS];
    __shared__ float parts[PARTS];
    // Whoever writes to another block's shared memory waits until that block has begun.
    arrive_at_cluster_relaxed();
    const uint32_t part = blockIdx.x, key_head = blockIdx.y / args.ratio, index = blockIdx.y % args.ratio;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head = at(args.head, key_head, index);
    const uint32_t heads = args.key_heads * args.ratio, flat_keys = args.key_heads * DIM;
    const Sequence sequence = args.sequences[blockIdx.z];
    const uint32_t slot = sequence.slot, position = sequence.position;
    const uint64_t row = sequence.first_row;

    // Thread `t` takes channel t of the query, or t - 128 of the key; the first warp the block's values, too.
    const bool is_query = threadIdx.x < DIM;
    const uint32_t within = threadIdx.x % DIM, channel = (is_query ? 0 : flat_keys) + key_head * DIM + within;
    const uint32_t column = part * COLUMNS + lane, value_channel = 2 * flat_keys + head * DIM + column;
    const Convolution own(args, slot, position, channel, true), of_value(args, slot, position, value_channel, warp == 0);
    float* states = args.states + (static_cast<uint64_t>(slot) * heads + head) * DIM * DIM + warp * OWN * DIM + column;
    float state[OWN];
#pragma unroll
    for (uint32_t i = 0; i < OWN; ++i) state[i] = position == 0 ? 0.0f : states[i * DIM];
    const float rate = args.decay[head], bias = args.dt_bias[head], norm = args.norm[column];

    after_previous_kernel();
    const float x = args.qkv[row * args.qkv_stride + at(is_query ? args.q : args.k, key_head, 0) + within];
    float v = 0.0f, z = 0.0f;
    if (warp == 0) {
        v = args.qkv[row * args.qkv_stride + at(args.v, key_head, index) + column];
        z = args.z[row * args.z_stride + at(args.z_place, key_head, index) + column];
    }
    const float a = args.a[row * args.a_stride + at(args.a_place, key_head, index)];
    const float b = args.b[row * args.b_stride + at(args.b_place, key_head, index)];
    const float mixed = own.apply(x);
    (is_query ? queries : keys)[within] = mixed;
    const float sum = sum_lanes<32>(mixed * mixed);
    if (lane == 0) squares[warp] = sum;
    if (index == 0 && part == 0) *history(args, slot, position, channel) = x;
    if (warp == 0) *history(args, slot, position, value_channel) = v;
    const float value = of_value.apply(v);
    const float decay = expf(rate * softplus(a + bias)), beta = sigmoid(b);
    __shared__ float values[COLUMNS];
    if (warp == 0) values[lane] = value;
    __syncthreads();

    float k[OWN];
    float2 products = make_float2(0.0f, 0.0f);
    float overlap = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < OWN; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(keys + warp * OWN + i);
        const float4 q = *reinterpret_cast<const float4*>(queries + warp * OWN + i);
        k[i] = four.x, k[i + 1] = four.y, k[i + 2] = four.z, k[i + 3] = four.w;
        const float qs[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            products.x = fmaf(state[i + j], k[i + j], products.x);
            products.y = fmaf(state[i + j], qs[j], products.y);
            overlap = fmaf(k[i + j], qs[j], overlap);
        }
    }
    recalled[warp][lane] = products;
    if (lane == 0) along[warp] = overlap;
    __syncthreads();

    float2 total = make_float2(0.0f, 0.0f);
    float overlaps = 0.0f;
#pragma unroll
    for (uint32_t group = 0; group < GROUPS; ++group) {
        total.x += recalled[group][lane].x;
        total.y += recalled[group][lane].y;
        overlaps += along[group];
    }
    const float q_scale = QUERY_SCALE * rsqrtf(squares[0] + squares[1] + squares[2] + squares[3] + L2_EPS);
    const float k_scale = rsqrtf(squares[4] + squares[5] + squares[6] + squares[7] + L2_EPS);
    const float update = beta * (values[lane] - decay * k_scale * total.x);
    const float result = q_scale * fmaf(update * k_scale, overlaps, decay * total.y);
    if (warp == 0) {
        const float mine = sum_lanes<32>(result * result);
        wait_for_cluster();
        if (lane < PARTS) put_in_cluster(parts + part, lane, mine);
    } else {
        wait_for_cluster();
    }
    arrive_at_cluster();
#pragma unroll
    for (uint32_t i = 0; i < OWN; ++i) states[i * DIM] = fmaf(k[i] * k_scale, update, decay * state[i]);
    wait_for_cluster();
    if (warp != 0) return;
    const float mean = (parts[0] + parts[1] + parts[2] + parts[3]) / static_cast<float>(DIM);
    const float out = silu(z) * (result * rsqrtf(mean + args.eps) * norm);
    const uint64_t place = (row * heads + head) * DIM + column;
    if (args.row.codes != nullptr) {
        put_tile(args.row, place, out);
    } else {
        args.out[place] = out;
    }
#endif
}
