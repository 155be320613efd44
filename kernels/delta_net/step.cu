// The gated delta rule (arXiv 2412.06464, eq. 10) for one row of each sequence and heads of 128 channels: convolution,
// delta rule and gated norm in one.
//
// `S = decay S; u = beta (v - Sᵀk); S = S + k uᵀ; out = Sᵀq`, where `out` of the new state is `decay Sᵀq + u (k · q)`
// of the old one, so that both products with it share a pass.
//
// A block has a value head, a warp 8 rows of its state, a thread four columns of them: 64 KB are under way at once. Bound by
// the bytes of the states, read in each step and written in few (`recent.cuh`), where rows are many, and by latency where they are
// few: all that does not come from the projections is asked for before the kernel waits for them, and queries and keys are
// normalised after the products that they go into.
#include "common/quantise.cuh"
#include "delta_net/recent.cuh"

const uint32_t GROUPS = 16;  // of state rows: one for each warp
const uint32_t OWN = DIM / GROUPS;
const uint32_t FOURS = DIM / 4;  // of a row
// Sequences whose blocks come about when those that now begin have their states.
const uint32_t AHEAD = 4;

DEVICE float4 scaled(float4 v, float factor) { return make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor); }

DEVICE float dot(float4 a, float4 b) { return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, a.w * b.w))); }

extern "C" __global__ void __launch_bounds__(32 * GROUPS, 2) delta_step(const __grid_constant__ DeltaArgs args) {
    __shared__ __align__(16) float mixed[3][DIM];  // queries, keys, values
    __shared__ float squares[3 * DIM / WARP];
    __shared__ __align__(16) float4 recalled[2][GROUPS][FOURS];  // products of the state with keys and queries
    __shared__ float along[GROUPS];
    __shared__ float2 gates;  // decay and beta
    __shared__ __align__(16) float updates[DIM];
    __shared__ float parts[DIM / WARP];
    __shared__ __align__(16) float rows[MOST_RECENT][2][DIM];  // those that are not in the state yet
    __shared__ float behind[PERIOD];                           // what is left of each of them, and of the state
    __shared__ float2 met[MOST_RECENT];                        // products of their keys with the key and the query, with that
    const uint32_t key_head = blockIdx.x / args.ratio, index = blockIdx.x % args.ratio;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head = at(args.head, key_head, index);
    const uint32_t heads = args.key_heads * args.ratio, flat_keys = args.key_heads * DIM;
    const Sequence sequence = args.sequences[blockIdx.y];
    const uint32_t slot = sequence.slot, position = sequence.position;
    const uint64_t row = sequence.first_row;
    float4* states = reinterpret_cast<float4*>(args.states) +
                     ((static_cast<uint64_t>(slot) * heads + head) * DIM + warp * OWN) * FOURS + lane;
    float4 state[OWN];
#pragma unroll
    for (uint32_t i = 0; i < OWN; ++i) {
        state[i] = position == 0 ? make_float4(0.0f, 0.0f, 0.0f, 0.0f) : __ldcs(states + i * FOURS);
    }
    Recent& recent = recent_of(args, slot, head);
    const uint32_t count = recent_rows(recent, 0, position);
    if (blockIdx.y + AHEAD < gridDim.y) {
        // So that memory has more to read than the threads that run now have registers for.
        const uint32_t next = args.sequences[blockIdx.y + AHEAD].slot;
        prefetch_line(args.states + (static_cast<uint64_t>(next) * heads + head) * DIM * DIM +
                      threadIdx.x * (DIM * DIM / (WARP * GROUPS)));
        if (threadIdx.x == 0) prefetch_line(recent_of(args, next, head).count);
    }
    // The first 128 threads have a channel of the query, and of the output; the next ones of the key and of the value.
    const uint32_t kind = threadIdx.x / DIM, within = threadIdx.x % DIM;
    const bool convolves = kind < 3, is_query = kind == 0;
    const uint32_t channel =
        (kind == 2 ? 2 * flat_keys + head * DIM : (is_query ? 0 : flat_keys) + key_head * DIM) + within;
    const Convolution own(args, slot, position, channel, convolves);
    const float rate = args.decay[head], bias = args.dt_bias[head], norm = args.norm[within];
    const bool takes = takes_in(slot, position, count);
    if (warp / 2 < count) copy_16(&rows[warp / 2][warp % 2][4 * lane], &recent.rows[warp / 2][warp % 2][4 * lane], true);
    end_copy_group();
    if (warp < PERIOD) {
        // The last of these warps has the state's.
        const float own = decay_behind(recent, warp < MOST_RECENT ? static_cast<int>(warp) : -1, count);
        if (lane == 0) behind[warp] = own;
    }

    after_previous_kernel();
    const uint32_t place = kind == 2 ? at(args.v, key_head, index) : at(is_query ? args.q : args.k, key_head, 0);
    const float x = convolves ? args.qkv[row * args.qkv_stride + place + within] : 0.0f;
    const float z = is_query ? args.z[row * args.z_stride + at(args.z_place, key_head, index) + within] : 0.0f;
    // By a warp that has no channel.
    if (warp == GROUPS - 1) {
        const float a = args.a[row * args.a_stride + at(args.a_place, key_head, index)];
        const float b = args.b[row * args.b_stride + at(args.b_place, key_head, index)];
        if (lane == 0) gates = make_float2(expf(rate * softplus(a + bias)), sigmoid(b));
    }
    if (convolves) {
        const float value = own.apply(x), sum = sum_lanes<32>(value * value);
        mixed[kind][within] = value;
        if (lane == 0) squares[warp] = sum;
        if (kind == 2 || index == 0) *history(args, slot, position, channel) = x;
    }
    wait_for_copies_but<0>();
    __syncthreads();

    const float decay = gates.x, beta = gates.y;
    const float *queries = mixed[0] + warp * OWN, *keys = mixed[1] + warp * OWN;
    float4 with_key = make_float4(0.0f, 0.0f, 0.0f, 0.0f), with_query = with_key;
    float overlap = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < OWN; ++i) {
        with_key = add_scaled(with_key, state[i], keys[i]);
        with_query = add_scaled(with_query, state[i], queries[i]);
        overlap = fmaf(keys[i], queries[i], overlap);
    }
    recalled[0][warp][lane] = with_key;
    recalled[1][warp][lane] = with_query;
    if (lane == 0) along[warp] = overlap;
    if (warp < count) {
        const float4 own = *reinterpret_cast<const float4*>(&rows[warp][0][4 * lane]);
        const float of_key = sum_lanes<32>(dot(own, *reinterpret_cast<const float4*>(mixed[1] + 4 * lane)));
        const float of_query = sum_lanes<32>(dot(own, *reinterpret_cast<const float4*>(mixed[0] + 4 * lane)));
        if (lane == 0) met[warp] = make_float2(behind[warp] * of_key, behind[warp] * of_query);
    }
    __syncthreads();

    float result = 0.0f;
    if (is_query) {
        const float *of_key = &recalled[0][0][0].x + within, *of_query = &recalled[1][0][0].x + within;
        float total = 0.0f, answer = 0.0f, overlaps = 0.0f;
#pragma unroll
        for (uint32_t group = 0; group < GROUPS; ++group) {
            total += of_key[group * DIM];
            answer += of_query[group * DIM];
            overlaps += along[group];
        }
        total *= behind[MOST_RECENT], answer *= behind[MOST_RECENT];
#pragma unroll
        for (uint32_t i = 0; i < MOST_RECENT; ++i) {
            if (i >= count) break;
            total = fmaf(met[i].x, rows[i][1][within], total), answer = fmaf(met[i].y, rows[i][1][within], answer);
        }
        const float q_scale = QUERY_SCALE * rsqrtf(squares[0] + squares[1] + squares[2] + squares[3] + L2_EPS);
        const float k_scale = rsqrtf(squares[4] + squares[5] + squares[6] + squares[7] + L2_EPS);
        const float update = k_scale * beta * (mixed[2][within] - decay * k_scale * total);
        updates[within] = update;
        result = q_scale * fmaf(update, overlaps, decay * answer);
        const float sum = sum_lanes<32>(result * result);
        if (lane == 0) parts[warp] = sum;
    }
    __syncthreads();

    if (takes) {
        const float left = decay * behind[MOST_RECENT];
#pragma unroll
        for (uint32_t i = 0; i < OWN; ++i) state[i] = scaled(state[i], left);
        for (uint32_t row = 0; row < count; ++row) {
            const float4 update = *reinterpret_cast<const float4*>(&rows[row][1][4 * lane]);
#pragma unroll
            for (uint32_t i = 0; i < OWN; ++i) {
                state[i] = add_scaled(state[i], update, decay * behind[row] * rows[row][0][warp * OWN + i]);
            }
        }
        const float4 update = *reinterpret_cast<const float4*>(updates + 4 * lane);
#pragma unroll
        for (uint32_t i = 0; i < OWN; ++i) __stcs(states + i * FOURS, add_scaled(state[i], update, keys[i]));
        if (threadIdx.x == DIM) *reinterpret_cast<uint4*>(recent.count) = make_uint4(0, 0, 0, 0);
    } else if (kind == 1) {
        // The row is left beside the state.
        recent.rows[count][0][within] = mixed[1][within], recent.rows[count][1][within] = updates[within];
        if (within > 0) return;
        recent.decays[count] = decay;
        *reinterpret_cast<uint4*>(recent.count) = make_uint4(count + 1, count + 1, count + 1, count + 1);
    }
    if (!is_query) return;
    const float mean = (parts[0] + parts[1] + parts[2] + parts[3]) / static_cast<float>(DIM);
    const float out = silu(z) * (result * rsqrtf(mean + args.eps) * norm);
    const uint64_t to = (row * heads + head) * DIM + within;
    if (args.row.codes != nullptr) {
        put_tile(args.row, to, out);
    } else {
        args.out[to] = out;
    }
}
