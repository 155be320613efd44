// What the chunks of the gated delta rule need beside the state: see `chunk.cuh`. A block takes a chunk of a key head,
// and its value heads two by two. Bound by latency, and by the bytes of what it writes.
#include "delta_net/chunk.cuh"

const uint32_t WARPS = 8;
const uint32_t TOGETHER = 2;  // value heads
const uint32_t PITCH = CHUNK + 4;

// Gates of the rows of a chunk. Sums of log decays in two floats: differences of large ones are exponentiated.
struct Gates {
    float sum[CHUNK], rest[CHUNK], beta[CHUNK];

    __device__ __forceinline__ float decay(uint32_t row, uint32_t from) const {
        return expf((sum[row] - sum[from]) + (rest[row] - rest[from]));
    }
};

// The gates of value head `index` of a key head by one warp, a lane a row.
DEVICE void find_gates(const DeltaArgs& args, uint64_t first_row, uint32_t rows, uint32_t key_head, uint32_t index,
                       Gates& gates, ChunkHead& out) {
    const uint32_t lane = threadIdx.x % WARP, head = at(args.head, key_head, index);
    const uint64_t r = first_row + min(lane, rows - 1);
    const float a = args.a[r * args.a_stride + at(args.a_place, key_head, index)];
    const float b = args.b[r * args.b_stride + at(args.b_place, key_head, index)];
    double sum = lane < rows ? args.decay[head] * softplus(a + args.dt_bias[head]) : 0.0f;
#pragma unroll
    for (uint32_t d = 1; d < WARP; d *= 2) {
        const double before = __shfl_up_sync(ALL_LANES, sum, d);
        if (lane >= d) sum += before;
    }
    const double last = __shfl_sync(ALL_LANES, sum, WARP - 1);
    gates.sum[lane] = static_cast<float>(sum);
    gates.rest[lane] = static_cast<float>(sum - static_cast<double>(static_cast<float>(sum)));
    gates.beta[lane] = lane < rows ? sigmoid(b) : 0.0f;
    out.from_start[lane] = expf(static_cast<float>(sum));
    out.to_end[lane] = expf(static_cast<float>(last - sum));
}

// Normalises the queries and keys of a chunk, a warp a row.
DEVICE void find_keys(const DeltaArgs& args, uint64_t first_row, uint32_t rows, uint32_t key_head, ChunkKeys& keys) {
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const uint32_t column = 4 * lane;
    float4 x[2][CHUNK / WARPS];
#pragma unroll
    for (uint32_t i = 0; i < CHUNK / WARPS; ++i) {
        const uint32_t row = warp + WARPS * i;
        const float* from = args.convolved + (first_row + row) * args.channels + key_head * DIM + column;
#pragma unroll
        for (uint32_t which = 0; which < 2; ++which) {
            x[which][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (row < rows) x[which][i] = *reinterpret_cast<const float4*>(from + which * args.key_heads * DIM);
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < CHUNK / WARPS; ++i) {
#pragma unroll
        for (uint32_t which = 0; which < 2; ++which) {
            const float4 v = x[which][i];
            const float squares = sum_lanes<32>(v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w);
            const float factor = (which == 0 ? QUERY_SCALE : 1.0f) / sqrtf(squares + L2_EPS);
            const Split first(v.x * factor, v.y * factor), second(v.z * factor, v.w * factor);
            const uint32_t place = in_keys(warp + WARPS * i, column);
            auto& halves = which == 0 ? keys.q : keys.k;
            *reinterpret_cast<uint2*>(halves[0] + place) = make_uint2(first.high, second.high);
            *reinterpret_cast<uint2*>(halves[1] + place) = make_uint2(first.low, second.low);
        }
    }
}

// `(1 + a)^-1 beta` by one warp, a lane a column: forward substitution. `a[j * PITCH + i]` is row i, column j.
DEVICE void invert(const float* a, const Gates& gates, ChunkHead& out) {
    const uint32_t lane = threadIdx.x % WARP;
    float column[CHUNK];
#pragma unroll
    for (uint32_t i = 0; i < CHUNK; ++i) column[i] = i == lane ? 1.0f : 0.0f;
#pragma unroll
    for (uint32_t j = 0; j + 1 < CHUNK; ++j) {
#pragma unroll
        for (uint32_t four = (j + 1) / 4 * 4; four < CHUNK; four += 4) {
            const float4 v = *reinterpret_cast<const float4*>(a + j * PITCH + four);
            const float factors[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
                if (four + i > j) column[four + i] = fmaf(-factors[i], column[j], column[four + i]);
            }
        }
    }
    const float beta = gates.beta[lane];
#pragma unroll
    for (uint32_t i = 0; i < CHUNK; ++i) {
        const Split value(column[i] * beta, 0.0f);
        const uint32_t place = in_triangle(i, lane);
        *reinterpret_cast<uint16_t*>(out.t[0] + place) = static_cast<uint16_t>(value.high);
        *reinterpret_cast<uint16_t*>(out.t[1] + place) = static_cast<uint16_t>(value.low);
    }
}

extern "C" __global__ void __launch_bounds__(WARPS* WARP, 3) delta_prepare(const __grid_constant__ DeltaArgs args) {
    __shared__ ChunkKeys keys;
    __shared__ Gates gates[TOGETHER];
    __shared__ __align__(16) float triangles[TOGETHER][CHUNK * PITCH];
    const uint32_t key_head = blockIdx.x, chunk = blockIdx.y, ratio = args.ratio;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    after_previous_kernel();
    const Sequence sequence = args.sequences[blockIdx.z];
    if (chunk * CHUNK >= sequence.rows) return;
    const uint64_t first_row = sequence.first_row + chunk * CHUNK;
    const uint32_t rows = min(CHUNK, sequence.rows - chunk * CHUNK), number = first_chunk(sequence, blockIdx.z) + chunk;
    ChunkHead* heads = chunk_heads(args, number) + key_head * ratio;

    find_keys(args, first_row, rows, key_head, keys);
    if (warp < min(ratio, TOGETHER)) find_gates(args, first_row, rows, key_head, warp, gates[warp], heads[warp]);
    __syncthreads();

    // Warps 0 to 3 have the products of keys with keys, the others those of queries: 16 rows of 16 products a warp.
    const uint32_t top = warp / 2 % 2 * 16, left = warp % 2 * 16;
    const auto& operand = warp < 4 ? keys.k : keys.q;
    float products[2][4] = {};
#pragma unroll 2
    for (uint32_t k = 0; k < DIM; k += 16) {
        SplitOperand a;
        SplitPair b[1];
        const uint32_t place = in_keys(top + lane % 16, k + lane / 16 * 8);
        load_matrices(a.high, operand[0] + place);
        load_matrices(a.low, operand[1] + place);
        b[0].load(keys.k[0], keys.k[1], in_keys(left + lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * 8));
        multiply_split(products, a, b);
    }

    for (uint32_t first = 0; first < ratio; first += TOGETHER) {
        const uint32_t count = min(ratio - first, TOGETHER);
        if (first > 0) {
            __syncthreads();
            if (warp < count) {
                find_gates(args, first_row, rows, key_head, first + warp, gates[warp], heads[first + warp]);
            }
            __syncthreads();
        }
        for (uint32_t which = 0; which < count; ++which) {
            const Gates& own = gates[which];
            ChunkHead& head = heads[first + which];
#pragma unroll
            for (uint32_t pair = 0; pair < 4; ++pair) {
                const uint32_t i = top + lane / 4 + pair % 2 * 8, j = left + pair / 2 * 8 + lane % 4 * 2;
                float values[2];
#pragma unroll
                for (uint32_t e = 0; e < 2; ++e) {
                    const bool below = warp < 4 ? j + e < i : j + e <= i;
                    values[e] = below ? own.decay(i, j + e) * products[pair / 2][pair % 2 * 2 + e] : 0.0f;
                }
                if (warp < 4) {
                    triangles[which][j * PITCH + i] = own.beta[i] * values[0];
                    triangles[which][(j + 1) * PITCH + i] = own.beta[i] * values[1];
                } else {
                    const Split both(values[0], values[1]);
                    *reinterpret_cast<uint32_t*>(head.m[0] + in_triangle(i, j)) = both.high;
                    *reinterpret_cast<uint32_t*>(head.m[1] + in_triangle(i, j)) = both.low;
                }
            }
        }
        __syncthreads();
        if (warp < count) invert(triangles[warp], gates[warp], heads[first + warp]);
    }

    // Warps that have nothing to invert copy; in a sequence's last rows they keep the inputs of the convolution, too.
    if (warp >= TOGETHER) {
        const uint4* from = reinterpret_cast<const uint4*>(&keys);
        uint4* to = reinterpret_cast<uint4*>(chunk_keys(args, number) + key_head);
        const uint32_t first = threadIdx.x - TOGETHER * WARP, step = (WARPS - TOGETHER) * WARP;
        for (uint32_t i = first; i < sizeof(ChunkKeys) / 16; i += step) to[i] = from[i];
        if ((chunk + 1) * CHUNK < sequence.rows) return;
        const uint32_t flat_keys = args.key_heads * DIM;
        for (uint32_t i = first; i < (2 + ratio) * DIM; i += step) {
            const uint32_t which = i / DIM, within = i % DIM;
            const uint32_t start = which < 2 ? which * flat_keys + key_head * DIM
                                             : 2 * flat_keys + at(args.head, key_head, which - 2) * DIM;
            remember(args, sequence, start + within);
        }
    }
}
