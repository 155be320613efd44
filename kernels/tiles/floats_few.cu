// Products of float32 matrices as stored with up to 64 rows of float32: the router's, where several streams decode. A block
// has 16 rows of a matrix and every fourth part of their columns, a warp 64 columns at a time, which it loads from where they
// lie straight into the operands of tensor cores: which of sixteen columns is which of an instruction's is the same for both
// operands, and so is free. Sums of warps and then those of the four blocks of a cluster meet in shared memory, always in the
// same order. Precision is that of `tile_floats`. Bound by latency: weights are asked for before the wait for the kernel in
// front.
//
// Where `norm` has weights the rows are normed on their way: its weights are multiplied into the matrix, the factors of rows into
// the sums. Clusters of their own leave the normed rows for whoever wants them.
#include "common/fragment.cuh"
#include "common/split.cuh"
#include "norm/normed_row.cuh"
#include "tiles/own_product.cuh"

const int WARPS = 8;
const int PARTS = 4;      // blocks of a cluster
const int ROWS = 32;      // of the input, that a block takes
const int COLUMNS = 64;   // of a warp at a time
const int STEPS = COLUMNS / 16;
const int GROUP = 8;      // rows of the input that one instruction takes
const int GROUPS = 2;     // of rows, whose loads are under way together

// Sums of the squares of rows, where these are normed: of each warp, and of each block of the cluster.
struct RowSquares {
    float of_warps[WARPS][ROWS];
    alignas(16) float of_blocks[PARTS][ROWS];
    float factors[ROWS];
};

DEVICE Split upper_half(float4 v) { return Split(v.x, v.y); }
DEVICE Split lower_half(float4 v) { return Split(v.z, v.w); }
DEVICE float4 times(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }

extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)
#if HAS_CLUSTERS
    __cluster_dims__(4, 1, 1)
#endif
        tile_floats_few(const __grid_constant__ TileFloatsFewArgs all_args) {
#if HAS_CLUSTERS
    const TileFloatsArgs& args = all_args.products;
    const NormArgs& norm = all_args.norm;
    const bool norms = norm.weight != nullptr;
    if (blockIdx.y >= all_args.groups) {
        __shared__ float scratch[WARP];
        const RowNorm<2> of_row(norm);
        after_previous_kernel();
        const uint32_t row = (blockIdx.y - all_args.groups) * PARTS + blockIdx.x;
        if (blockIdx.z == 0 && row < norm.count) of_row.run(row, scratch);
        return;
    }
    __shared__ RowSquares squares;
    __shared__ float4 of_warps[WARPS][ROWS / GROUP * WARP];
    __shared__ float4 of_blocks[PARTS][ROWS / GROUP * WARP / PARTS];
    // Whoever writes to another block's shared memory waits until that block has begun.
    arrive_at_cluster_relaxed();
    int group = blockIdx.y;
    const Product& p = own_product(args, 16, group);
    const uint32_t part = blockIdx.x, warp = threadIdx.x / WARP, rows = p.matrix.rows, cols = args.cols;
    const Lane lane;
    const uint32_t row = 16 * group + lane.g;
    const float* weights = reinterpret_cast<const float*>(p.matrix.data) + static_cast<uint64_t>(row) * cols + 4 * lane.t;

    float4 ahead[STEPS][2];
    const auto load_weights = [&](uint32_t col) {
#pragma unroll
        for (int i = 0; i < STEPS; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                ahead[i][half] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (col >= cols || row + 8 * half >= rows) continue;
                const uint4 w = load_16(reinterpret_cast<const uint8_t*>(weights + 8 * half * cols + col + 16 * i));
                ahead[i][half] = make_float4(__uint_as_float(w.x), __uint_as_float(w.y), __uint_as_float(w.z), __uint_as_float(w.w));
            }
            if (!norms || col >= cols) continue;
            const float4 of_norm = *reinterpret_cast<const float4*>(norm.weight + col + 16 * i + 4 * lane.t);
            ahead[i][0] = times(ahead[i][0], of_norm), ahead[i][1] = times(ahead[i][1], of_norm);
        }
    };
    const uint32_t first_row = ROWS * blockIdx.z, count = min(static_cast<uint32_t>(ROWS), args.count - first_row);
    const float* inputs = args.input + static_cast<uint64_t>(first_row) * cols + 4 * lane.t;
    float sums[ROWS / GROUP][4] = {}, of_row[ROWS / GROUP] = {};
    uint32_t col = COLUMNS * (WARPS * part + warp);
    load_weights(col);
    after_previous_kernel();
    for (; col < cols; col += COLUMNS * WARPS * PARTS) {
        SplitOperand a[STEPS];
#pragma unroll
        for (int i = 0; i < STEPS; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Split upper = upper_half(ahead[i][half]), lower = lower_half(ahead[i][half]);
                a[i].high[half] = upper.high, a[i].low[half] = upper.low;
                a[i].high[half + 2] = lower.high, a[i].low[half + 2] = lower.low;
            }
        }
        load_weights(col + COLUMNS * WARPS * PARTS);
#pragma unroll
        for (int first = 0; first < ROWS / GROUP; first += GROUPS) {
            if (first * GROUP >= static_cast<int>(count)) break;
            float4 x[GROUPS][STEPS];
#pragma unroll
            for (int n = 0; n < GROUPS; ++n) {
                const uint32_t at = (first + n) * GROUP + lane.g;
                const float* input = inputs + at * cols + col;
#pragma unroll
                for (int i = 0; i < STEPS; ++i) {
                    x[n][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                    if (at < count) x[n][i] = __ldcg(reinterpret_cast<const float4*>(input + 16 * i));
                }
            }
#pragma unroll
            for (int n = 0; n < GROUPS; ++n) {
#pragma unroll
                for (int i = 0; i < STEPS; ++i) of_row[first + n] += squares_of(x[n][i]);
            }
#pragma unroll
            for (int i = 0; i < STEPS; ++i) {
#pragma unroll
                for (int n = 0; n < GROUPS; ++n) {
                    const Split upper = upper_half(x[n][i]), lower = lower_half(x[n][i]);
                    multiply_bf16(sums[first + n], a[i].high, upper.high, lower.high);
                    multiply_bf16(sums[first + n], a[i].high, upper.low, lower.low);
                    multiply_bf16(sums[first + n], a[i].low, upper.high, lower.high);
                }
            }
        }
    }

    const int groups = ceil_div(count, GROUP);
#pragma unroll
    for (int n = 0; n < ROWS / GROUP; ++n) {
        if (n < groups) of_warps[warp][n * WARP + threadIdx.x % WARP] = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
        if (!norms) continue;
        const float own = sum_lanes<4>(of_row[n]);
        if (lane.t == 0) squares.of_warps[warp][n * GROUP + lane.g] = own;
    }
    __syncthreads();
    wait_for_cluster();
    if (norms && threadIdx.x >= blockDim.x - PARTS * ROWS / 4) {
        // Every block of the cluster needs those of all.
        const int item = threadIdx.x - (blockDim.x - PARTS * ROWS / 4), four = item % (ROWS / 4);
        float all[4] = {};
#pragma unroll
        for (int i = 0; i < WARPS; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) all[j] += squares.of_warps[i][4 * four + j];
        }
        float4* place = reinterpret_cast<float4*>(&squares.of_blocks[part][4 * four]);
        put_in_cluster(place, item / (ROWS / 4), make_float4(all[0], all[1], all[2], all[3]));
    }
    // Each block of the cluster has a fourth of the sums.
    const int share = groups * WARP / PARTS, place = threadIdx.x;
    if (place < groups * WARP) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int i = 0; i < WARPS; ++i) {
            const float4 v = of_warps[i][place];
            sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
        }
        put_in_cluster(&of_blocks[part][place % share], place / share, sum);
    }
    arrive_at_cluster();
    wait_for_cluster();
    if (norms) {
        if (threadIdx.x < ROWS) {
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < PARTS; ++i) sum += squares.of_blocks[i][threadIdx.x];
            squares.factors[threadIdx.x] = norm_factor(sum, static_cast<float>(norm.width), norm.eps);
        }
        __syncthreads();
    }
    if (place >= share) return;
    float all[4] = {};
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
        const float4 v = of_blocks[i][place];
        all[0] += v.x, all[1] += v.y, all[2] += v.z, all[3] += v.w;
    }
    const int found = part * share + place, of = found % WARP;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t at = found / WARP * GROUP + of % 4 * 2 + i % 2, own = 16 * group + of / 4 + i / 2 * 8;
        if (at >= count || own >= rows) continue;
        const float of_all = norms ? all[i] * squares.factors[at] : all[i];
        const float sum = p.bias == nullptr ? of_all : of_all + p.bias[own];
        float* out = p.out + static_cast<uint64_t>(first_row + at) * p.out_stride + own;
        *out = args.add ? *out + sum : sum;
    }
#endif
}
