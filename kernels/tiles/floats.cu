// Products of matrices of any format with many rows of float32: for floating-point weights, columns in an order of their own,
// routers, and exact mode. A block takes 32 rows of a matrix and 64 of the activations, 32 columns at a time; a thread sums two
// by four of them. Bound by floating-point instructions.
#include "common/element.cuh"
#include "tiles/args.cuh"

const int THREADS = 256;
const int WEIGHT_ROWS = 32;
const int INPUT_ROWS = 64;
const int COLUMNS = 32;

DEVICE float element(const Matrix& m, uint32_t row, uint32_t col) {
    if (row >= m.rows || col >= m.cols) return 0.0f;
    if (m.packed) return packed_element(m, row, col);
    return m.format == F32 ? reinterpret_cast<const float*>(m.data)[static_cast<uint64_t>(row) * m.cols + col]
                           : stored_element(m, row, col);
}

extern "C" __global__ void __launch_bounds__(THREADS) tile_floats(const __grid_constant__ TileFloatsArgs args) {
    __shared__ __align__(16) float weights[COLUMNS][WEIGHT_ROWS + 2];
    __shared__ __align__(16) float inputs[COLUMNS][INPUT_ROWS + 4];
    after_previous_kernel();
    int group = blockIdx.x;
    uint32_t which = 0;
    for (; which + 1 < args.products_count; ++which) {
        const int groups = ceil_div(args.products[which].matrix.rows, WEIGHT_ROWS);
        if (group < groups) break;
        group -= groups;
    }
    const Product& p = args.products[which];
    const Matrix& m = p.matrix;
    const uint32_t first_row = group * WEIGHT_ROWS, first = blockIdx.y * INPUT_ROWS;
    const uint32_t column = threadIdx.x % COLUMNS, line = threadIdx.x / COLUMNS;

    float next_weights[WEIGHT_ROWS * COLUMNS / THREADS], next_inputs[INPUT_ROWS * COLUMNS / THREADS];
    const auto load = [&](uint32_t start) {
        const uint32_t col = start + column;
#pragma unroll
        for (int i = 0; i < WEIGHT_ROWS * COLUMNS / THREADS; ++i) {
            next_weights[i] = element(m, first_row + line + i * (THREADS / COLUMNS), col);
        }
        const uint32_t from = m.order == nullptr || col >= m.cols ? col : m.order[col];
#pragma unroll
        for (int i = 0; i < INPUT_ROWS * COLUMNS / THREADS; ++i) {
            const uint32_t row = first + line + i * (THREADS / COLUMNS);
            const bool there = row < args.count && col < m.cols;
            next_inputs[i] = there ? args.input[static_cast<uint64_t>(row) * args.cols + from] : 0.0f;
        }
    };
    const int x = threadIdx.x % (INPUT_ROWS / 4), y = threadIdx.x / (INPUT_ROWS / 4);
    float sums[2][4] = {};
    load(0);
    for (uint32_t start = 0; start < m.cols; start += COLUMNS) {
#pragma unroll
        for (int i = 0; i < WEIGHT_ROWS * COLUMNS / THREADS; ++i) {
            weights[column][line + i * (THREADS / COLUMNS)] = next_weights[i];
        }
#pragma unroll
        for (int i = 0; i < INPUT_ROWS * COLUMNS / THREADS; ++i) {
            inputs[column][line + i * (THREADS / COLUMNS)] = next_inputs[i];
        }
        __syncthreads();
        if (start + COLUMNS < m.cols) load(start + COLUMNS);
#pragma unroll
        for (int col = 0; col < COLUMNS; ++col) {
            const float2 w = *reinterpret_cast<const float2*>(&weights[col][2 * y]);
            const float4 v = *reinterpret_cast<const float4*>(&inputs[col][4 * x]);
            const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                sums[0][i] = fmaf(w.x, values[i], sums[0][i]);
                sums[1][i] = fmaf(w.y, values[i], sums[1][i]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const uint32_t row = first_row + 2 * y + r;
        if (row >= m.rows) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint32_t at = first + 4 * x + i;
            if (at >= args.count) continue;
            const float sum = p.bias == nullptr ? sums[r][i] : sums[r][i] + p.bias[row];
            float* out = p.out + static_cast<uint64_t>(at) * p.out_stride + row;
            *out = args.add ? *out + sum : sum;
        }
    }
}
