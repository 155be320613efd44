// Products of matrices of any format with many rows of float32: for floating-point weights, columns in an order of their own,
// routers, and exact mode. Both operands are split into two bfloat16 a value, see common/split.cuh, so that tensor cores
// multiply them with errors as small as those of sums in float32.
//
// A block takes 64 rows of a matrix and 64 of the activations, 64 columns at a time: four warps have 32 by 32 of these sums over
// the first 32 columns, four others the same sums over the others. Where that makes too few blocks for the device, each has a
// part of the columns, and the last block of a tile adds up the parts in their order. Bound by tensor cores; by latency where
// rows are few.
#include "common/element.cuh"
#include "common/split.cuh"
#include "tiles/own_product.cuh"

const int THREADS = 256;
const int ROWS = FLOAT_TILE;     // of the matrix, and of the activations
const int COLUMNS = 64;
const int PITCH = COLUMNS + 8;   // values from row to row: eight rows of 16 bytes touch every bank once
const int FOURS = ROWS * COLUMNS / 4 / THREADS;
const int SHARE = 32;            // rows of a warp's sums, and as many columns

// One operand: the upper and the lower halves of its values.
struct Operand {
    __align__(16) uint16_t halves[2][ROWS * PITCH];

    __device__ __forceinline__ const uint8_t* half(int which) const {
        return reinterpret_cast<const uint8_t*>(halves[which]);
    }
    static __device__ __forceinline__ uint32_t place(int row, int column) { return 2 * (row * PITCH + column); }
    __device__ __forceinline__ void put(int row, int column, const Split& first, const Split& second) {
        const int at = row * PITCH + column;
        *reinterpret_cast<uint2*>(halves[0] + at) = make_uint2(first.high, second.high);
        *reinterpret_cast<uint2*>(halves[1] + at) = make_uint2(first.low, second.low);
    }
};

// How four neighbouring values of a row of weights are read.
enum Way {
    FLOATS,         // as stored, 16 bytes
    HALVES,         // as stored, 8 bytes
    PACKED_HALVES,  // in two neighbouring lines of a tile
    ELEMENTS,       // one by one
};

DEVICE Way way_of(const Matrix& m) {
    const bool halves = m.format == F16 || m.format == BF16;
    if (m.packed) return halves && m.order == nullptr ? PACKED_HALVES : ELEMENTS;
    if (m.cols % 4 != 0) return ELEMENTS;
    return m.format == F32 ? FLOATS : halves ? HALVES : ELEMENTS;
}

// Decoding is long for many formats: one copy of it serves all loads.
__device__ __noinline__ uint4 four_elements(const Matrix& m, uint32_t row, uint32_t col) {
    uint32_t words[4];
#pragma unroll 1
    for (uint32_t i = 0; i < 4; ++i) {
        const bool there = col + i < m.cols;
        words[i] = !there ? 0 : __float_as_uint(m.packed ? packed_element(m, row, col + i) : stored_element(m, row, col + i));
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// Columns `col ..` of a row of weights as they lie there: four floats, or four halves in the first two words.
DEVICE uint4 load_weights(const Matrix& m, Way way, uint32_t row, uint32_t col) {
    if (row >= m.rows || col >= m.cols) return make_uint4(0, 0, 0, 0);
    const uint64_t flat = static_cast<uint64_t>(row) * m.cols + col;
    uint2 halves;
    switch (way) {
        case FLOATS: return *reinterpret_cast<const uint4*>(m.data + 4 * flat);
        case HALVES: halves = *reinterpret_cast<const uint2*>(m.data + 2 * flat); break;
        case PACKED_HALVES: {
            // As `packed_element` finds them.
            const uint32_t column = col % 32, within = (4 * slot_of_row(row % 16) + (column >= 16 ? 32 : 0)) % 64;
            const uint8_t* line = m.data + static_cast<uint64_t>(row / 16) * m.strip_bytes + col / 32 * 1024 + 32 * column;
            halves.x = *reinterpret_cast<const uint32_t*>(line + within);
            halves.y = *reinterpret_cast<const uint32_t*>(line + 64 + within);
            break;
        }
        default: return four_elements(m, row, col);
    }
    return make_uint4(halves.x, halves.y, 0, 0);
}

// Four values as `load_weights` brought them, split.
DEVICE void put_weights(Operand& to, int row, int column, const Matrix& m, Way way, uint4 v) {
    if (way == FLOATS || way == ELEMENTS) {
        const Split first(__uint_as_float(v.x), __uint_as_float(v.y));
        to.put(row, column, first, Split(__uint_as_float(v.z), __uint_as_float(v.w)));
    } else if (m.format == F16) {
        const Split first(half_bits(v.x & 0xffff), half_bits(v.x >> 16));
        to.put(row, column, first, Split(half_bits(v.y & 0xffff), half_bits(v.y >> 16)));
    } else {
        to.put(row, column, Split::of_bf16(v.x), Split::of_bf16(v.y));
    }
}

// Columns `col ..` of a row of activations, in the order of the matrix's columns.
DEVICE float4 load_inputs(const float* row, const Matrix& m, uint32_t col) {
    if (m.order == nullptr && m.cols % 4 == 0) return *reinterpret_cast<const float4*>(row + col);
    const auto at = [&](uint32_t col) {
        return col >= m.cols ? 0.0f : row[m.order == nullptr ? col : m.order[col]];
    };
    return make_float4(at(col), at(col + 1), at(col + 2), at(col + 3));
}

using Sums = float[SHARE / 16][SHARE / 8][4];

// Adds the products of this warp's half of the columns in shared memory.
DEVICE void multiply(const Operand& inputs, const Operand& weights, int top, int left, int half, Sums& sums) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int k = half * COLUMNS / 2; k < (half + 1) * COLUMNS / 2; k += 16) {
        SplitPair b[SHARE / 16];
#pragma unroll
        for (int n = 0; n < SHARE / 16; ++n) {
            const int row = left + 16 * n + lane / 16 * 8 + lane % 8;
            b[n].load(weights.half(0), weights.half(1), Operand::place(row, k + lane / 8 % 2 * 8));
        }
#pragma unroll
        for (int m = 0; m < SHARE / 16; ++m) {
            SplitOperand a;
            const uint32_t place = Operand::place(top + 16 * m + lane % 16, k + lane / 16 * 8);
            load_matrices(a.high, inputs.half(0) + place);
            load_matrices(a.low, inputs.half(1) + place);
            multiply_split(sums[m], a, b);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) tile_floats(const __grid_constant__ TileFloatsArgs args) {
    __shared__ Operand weights, inputs;
    after_previous_kernel();
    int group = blockIdx.x;
    const Product& p = own_product(args, ROWS, group);
    const Matrix& m = p.matrix;
    const uint32_t first_row = group * ROWS, first = blockIdx.y * ROWS;
    const uint32_t begin = blockIdx.z * args.columns, end = min(m.cols, begin + args.columns);
    const Way way = way_of(m);

    const uint32_t column = threadIdx.x % (COLUMNS / 4) * 4, line = threadIdx.x / (COLUMNS / 4);
    uint4 next_weights[FOURS];
    float4 next_inputs[FOURS];
    const auto load = [&](uint32_t start) {
        const uint32_t col = start + column;
#pragma unroll
        for (int i = 0; i < FOURS; ++i) {
            const uint32_t row = line + i * (ROWS / FOURS), at = first + row;
            next_weights[i] = load_weights(m, way, first_row + row, col);
            next_inputs[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (at < args.count && col < m.cols) {
                next_inputs[i] = load_inputs(args.input + static_cast<uint64_t>(at) * args.cols, m, col);
            }
        }
    };
    const int warp = threadIdx.x / WARP, half = warp / 4, top = warp / 2 % 2 * SHARE, left = warp % 2 * SHARE;
    Sums sums = {};
    load(begin);
    for (uint32_t start = begin; start < end; start += COLUMNS) {
#pragma unroll
        for (int i = 0; i < FOURS; ++i) {
            const int row = line + i * (ROWS / FOURS);
            const float4 v = next_inputs[i];
            put_weights(weights, row, column, m, way, next_weights[i]);
            inputs.put(row, column, Split(v.x, v.y), Split(v.z, v.w));
        }
        __syncthreads();
        if (start + COLUMNS < end) load(start + COLUMNS);
        multiply(inputs, weights, top, left, half, sums);
        __syncthreads();
    }

    // The second four warps hand their sums to the first four; a thread's are 128 floats apart.
    const int thread = threadIdx.x % (THREADS / 2);
    float* others = reinterpret_cast<float*>(&inputs) + thread;
    const auto for_all = [&](auto work) {
#pragma unroll
        for (int i = 0; i < SHARE; ++i) work(i * (THREADS / 2), sums[i / 16][i / 4 % 4][i % 4]);
    };
    if (half == 1) for_all([&](int at, float sum) { others[at] = sum; });
    __syncthreads();
    if (half == 0) for_all([&](int at, float& sum) { sum += others[at]; });

    if (gridDim.z > 1) {
        const uint32_t tile = blockIdx.y * gridDim.x + blockIdx.x;
        float* parts = args.parts + static_cast<uint64_t>(tile) * gridDim.z * ROWS * ROWS + thread;
        float* own = parts + blockIdx.z * ROWS * ROWS;
        if (half == 0) for_all([&](int at, float sum) { own[at] = sum; });
        if (!is_last_block(args.counters + tile, gridDim.z)) return;
        if (half == 0) {
            for_all([&](int, float& sum) { sum = 0.0f; });
            for (uint32_t part = 0; part < gridDim.z; ++part) {
                for_all([&](int at, float& sum) { sum += __ldcg(parts + part * ROWS * ROWS + at); });
            }
        }
    }
    if (half == 1) return;

    const uint32_t lane = threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < SHARE; ++i) {
        const uint32_t at = first + top + i / 16 * 16 + i / 2 % 2 * 8 + lane / 4;
        const uint32_t row = first_row + left + i / 4 % 4 * 8 + lane % 4 * 2 + i % 2;
        if (at >= args.count || row >= m.rows) continue;
        const float all = sums[i / 16][i / 4 % 4][i % 4], sum = p.bias == nullptr ? all : all + p.bias[row];
        float* out = p.out + static_cast<uint64_t>(at) * p.out_stride + row;
        *out = args.add ? *out + sum : sum;
    }
}
