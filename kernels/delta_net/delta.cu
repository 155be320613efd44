// The gated delta rule (arXiv 2412.06464, eq. 10) for heads of 128 channels:
//
// `S = decay S; u = beta (v - Sᵀk); S = S + k uᵀ; out = Sᵀq`, where `out` of the new state is `decay Sᵀq + u (k · q)` of the
// old one, so that both products with it share a pass.
//
// Four blocks share a value head, 32 of its columns each; a thread keeps 16 rows of one column in registers through all rows
// of a sequence. Bound by the latency of two barriers a row. `delta_rows` reads what `delta_conv` wrote; `delta_gate` follows
// it. `step.cu` does all of it for one row.
#include "delta_net/head.cuh"

struct Staged {
    float q[DIM];
    float k[DIM];
    float v[COLUMNS];
};

extern "C" __global__ void __launch_bounds__(256) delta_rows(const __grid_constant__ DeltaArgs args) {
    __shared__ Staged staged[2];
    __shared__ float squares[2][GROUPS];
    __shared__ float2 recalled[GROUPS][COLUMNS];
    __shared__ float along[GROUPS];
    const uint32_t part = blockIdx.x, key_head = blockIdx.y / args.ratio, index = blockIdx.y % args.ratio;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head = at(args.head, key_head, index);
    const uint32_t keys = args.key_heads * DIM;
    after_previous_kernel();
    const Sequence sequence = args.sequences[blockIdx.z];

    float* states = args.states + (static_cast<uint64_t>(sequence.slot) * args.key_heads * args.ratio + head) * DIM * DIM +
                    warp * OWN * DIM + part * COLUMNS + lane;
    float state[OWN];
#pragma unroll
    for (uint32_t i = 0; i < OWN; ++i) state[i] = sequence.position == 0 ? 0.0f : states[i * DIM];

    // Thread `t` takes channel t of the query, or t - 128 of the key; the first warp the values', too.
    const uint32_t channel = (threadIdx.x < DIM ? 0 : keys) + key_head * DIM + threadIdx.x % DIM;
    const uint32_t value_channel = 2 * keys + head * DIM + part * COLUMNS + lane;
    float own, value = 0.0f, decay, beta;
    const float rate = args.decay[head], bias = args.dt_bias[head];
    // What comes from memory, two rows ahead of its use.
    struct Raw {
        float own, value, a, b;
    };
    const auto fetch = [&](uint32_t row) {
        const uint64_t r = sequence.first_row + min(row, sequence.rows - 1);
        Raw raw;
        raw.own = args.convolved[r * args.channels + channel];
        raw.value = warp == 0 ? args.convolved[r * args.channels + value_channel] : 0.0f;
        raw.a = args.a[r * args.a_stride + at(args.a_place, key_head, index)];
        raw.b = args.b[r * args.b_stride + at(args.b_place, key_head, index)];
        return raw;
    };
    Raw next = fetch(0), later = fetch(1);
    const auto load = [&](uint32_t row) {
        own = next.own, value = next.value;
        decay = expf(rate * softplus(next.a + bias));
        beta = sigmoid(next.b);
        const float sum = sum_lanes<32>(own * own);
        if (lane == 0) squares[row % 2][warp] = sum;
        next = later;
        later = fetch(row + 2);
    };

    load(0);
    __syncthreads();
    for (uint32_t row = 0; row < sequence.rows; ++row) {
        Staged& now = staged[row % 2];
        const float* sums = squares[row % 2] + (threadIdx.x < DIM ? 0 : GROUPS / 2);
        const float length = sqrtf(sums[0] + sums[1] + sums[2] + sums[3] + L2_EPS);
        (threadIdx.x < DIM ? now.q : now.k)[threadIdx.x % DIM] =
            own * ((threadIdx.x < DIM ? QUERY_SCALE : 1.0f) / length);
        if (warp == 0) now.v[lane] = value;
        const float row_decay = decay, row_beta = beta;
        __syncthreads();

        float2 products = make_float2(0.0f, 0.0f);
        float overlap = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < OWN; ++i) {
            const float k = now.k[warp * OWN + i], q = now.q[warp * OWN + i];
            products.x = fmaf(state[i], k, products.x);
            products.y = fmaf(state[i], q, products.y);
            overlap = fmaf(k, q, overlap);
        }
        recalled[warp][lane] = products;
        if (lane == 0) along[warp] = overlap;
        if (row + 1 < sequence.rows) load(row + 1);
        __syncthreads();

        float2 total = make_float2(0.0f, 0.0f);
        float overlaps = 0.0f;
#pragma unroll
        for (uint32_t group = 0; group < GROUPS; ++group) {
            total.x += recalled[group][lane].x;
            total.y += recalled[group][lane].y;
            overlaps += along[group];
        }
        const float update = row_beta * (now.v[lane] - row_decay * total.x);
        const float result = fmaf(update, overlaps, row_decay * total.y);
#pragma unroll
        for (uint32_t i = 0; i < OWN; ++i) state[i] = fmaf(now.k[warp * OWN + i], update, row_decay * state[i]);
        if (warp == 0) {
            const uint64_t r = sequence.first_row + row;
            args.out[(r * args.key_heads * args.ratio + head) * DIM + part * COLUMNS + lane] = result;
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < OWN; ++i) states[i * DIM] = state[i];
    if (index == 0 && part == 0) remember(args, sequence, channel);
    if (warp == 0) remember(args, sequence, value_channel);
}

// `out = rms_norm(out) * silu(z)` for every value head of a row: a block takes a row, a warp a head.
extern "C" __global__ void __launch_bounds__(256) delta_gate(const __grid_constant__ DeltaArgs args) {
    after_previous_kernel();
    const uint32_t lane = threadIdx.x % WARP;
    const uint64_t row = blockIdx.x;
    for (uint32_t number = threadIdx.x / WARP; number < args.key_heads * args.ratio; number += blockDim.x / WARP) {
        const uint32_t key_head = number / args.ratio, index = number % args.ratio;
        float* out = args.out + (row * args.key_heads * args.ratio + at(args.head, key_head, index)) * DIM;
        const float* z = args.z + row * args.z_stride + at(args.z_place, key_head, index);
        float values[DIM / WARP], squares = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < DIM / WARP; ++i) {
            values[i] = out[i * WARP + lane];
            squares += values[i] * values[i];
        }
        const float factor = 1.0f / sqrtf(sum_lanes<32>(squares) / static_cast<float>(DIM) + args.eps);
#pragma unroll
        for (uint32_t i = 0; i < DIM / WARP; ++i) {
            out[i * WARP + lane] = values[i] * factor * args.norm[i * WARP + lane] * silu(z[i * WARP + lane]);
        }
    }
}
