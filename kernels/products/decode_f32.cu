// Products of up to four matrices in float32, as stored, with one row of activations: the router's. A block takes four rows,
// four warps each; lanes keep their weights in registers, times those of the norm.
#include "common/args.cuh"
#include "common/device.cuh"

const int ROWS = 4;
const int WARPS_OF_ROW = 4;
const int LOADS = 4;  // of sixteen bytes, ahead of their use
const int COLUMNS_OF_LOADS = 4 * WARP * LOADS;

DEVICE float4 four_floats(const float* p) { return *reinterpret_cast<const float4*>(p); }

extern "C" __global__ void __launch_bounds__(512, 2) products_1_f32(const __grid_constant__ ProductsArgs far_args) {
    __shared__ ProductsArgs copy;
    if (far_args.early) start_next_kernel_early();
    const ProductsArgs& args = near_copy(far_args, copy);
    DYNAMIC_SHARED(float4, row_of_input);
    __shared__ float2 parts[ROWS * WARPS_OF_ROW];
    const int lane = threadIdx.x % WARP, part = threadIdx.x / WARP % WARPS_OF_ROW;
    // Rows of all matrices are counted through.
    const auto product_of = [&](uint32_t& row) {
        uint32_t product = 0;
        while (product + 1 < args.products_count && row >= args.products[product].matrix.rows) {
            row -= args.products[product++].matrix.rows;
        }
        return product;
    };
    uint32_t row = blockIdx.x * ROWS + threadIdx.x / WARP / WARPS_OF_ROW;
    const Matrix& m = args.products[product_of(row)].matrix;
    const int width = args.cols / WARPS_OF_ROW, begin = part * width, end = row < m.rows ? begin + width : begin;
    const float* weights = reinterpret_cast<const float*>(m.data) + static_cast<uint64_t>(row) * args.cols;
    float4 ahead[LOADS];
    const auto load = [&](int first) {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int col = first + 4 * (i * WARP + lane);
            ahead[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (col >= end) continue;
            const uint4 w = load_16(reinterpret_cast<const uint8_t*>(weights + col));
            ahead[i] = make_float4(__uint_as_float(w.x), __uint_as_float(w.y), __uint_as_float(w.z), __uint_as_float(w.w));
        }
        if (args.norm == nullptr) return;
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int col = first + 4 * (i * WARP + lane);
            const float4 n = four_floats(args.norm + min(col, static_cast<int>(args.cols) - 4));
            ahead[i] = make_float4(ahead[i].x * n.x, ahead[i].y * n.y, ahead[i].z * n.z, ahead[i].w * n.w);
        }
    };
    load(begin);
    wait_for_previous_kernel();
    if (!args.early) start_next_kernel();
    const float* x = args.input;
    if (args.pick != nullptr) x += static_cast<uint64_t>(*args.pick) * args.input_stride;
    // Once for all warps: every block reads the same few lines of the second-level cache.
    for (int i = threadIdx.x; i < static_cast<int>(args.cols) / 4; i += blockDim.x) {
        row_of_input[i] = __ldcg(reinterpret_cast<const float4*>(x) + i);
    }
    __syncthreads();
    float sum = 0.0f, squares = 0.0f;
    for (int first = begin; first < end; first += COLUMNS_OF_LOADS) {
        if (first > begin) load(first);
        float4 v[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const int col = first + 4 * (i * WARP + lane);
            v[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (col < end) v[i] = row_of_input[col / 4];
        }
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            sum = fmaf(ahead[i].x, v[i].x, fmaf(ahead[i].y, v[i].y, fmaf(ahead[i].z, v[i].z, fmaf(ahead[i].w, v[i].w, sum))));
            squares = fmaf(v[i].x, v[i].x, fmaf(v[i].y, v[i].y, fmaf(v[i].z, v[i].z, fmaf(v[i].w, v[i].w, squares))));
        }
    }
    sum = sum_lanes<32>(sum);
    squares = sum_lanes<32>(squares);
    if (lane == 0) parts[threadIdx.x / WARP] = make_float2(sum, squares);
    __syncthreads();
    uint32_t out = blockIdx.x * ROWS + threadIdx.x;
    if (threadIdx.x >= ROWS) return;
    const Product& p = args.products[product_of(out)];
    if (out >= p.matrix.rows) return;
    float2 total = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < WARPS_OF_ROW; ++i) {
        const float2 own = parts[threadIdx.x * WARPS_OF_ROW + i];
        total.x += own.x, total.y += own.y;
    }
    if (args.norm != nullptr) total.x *= rsqrtf(total.y / static_cast<float>(args.cols) + args.eps);
    if (p.bias != nullptr) total.x += p.bias[out];
    p.out[out] = args.add ? p.out[out] + total.x : total.x;
}
