// Products of up to four matrices with one row of activations: matrices of one format whose products take int8, and matrices
// that are multiplied in float32. Columns are whole blocks of 256.
//
// A block puts the row into shared memory, normed and quantised on the way, and walks strips of 16 weight rows; its warps
// share the columns of a strip, and their sums meet in shared memory. Bound by the bytes of the weights: the first of them
// are asked for before the kernel waits for its input. Code is kept short: a kernel of a few microseconds runs most of it
// for the first time.
#pragma once
#include "common/decode.cuh"

// Rows of a matrix as stored that a block takes at a time; its warps share their columns.
const int STORED_ROWS = 4;

// The format of `products_1_floats`, where nothing is quantised.
const uint32_t NO_FORMAT = 0xffffffff;

struct DecodeBlock {
    const ProductsArgs& args;
    const Input& input;
    float (*partial)[WARPS][SLOTS];  // [2]
    int parity = 0;
    float factor = 1.0f;

    static __device__ __forceinline__ int units(const Matrix& m) {
        return m.packed ? ceil_div(m.rows, SLOTS) : ceil_div(m.rows, STORED_ROWS);
    }
    __device__ __forceinline__ void publish(const Product& p, uint32_t row, float value) const {
        value *= factor;
        if (p.bias != nullptr) value += p.bias[row];
        p.out[row] = args.add ? p.out[row] + value : value;
    }
    // The sums of a strip, from what every warp has put into `partial`.
    __device__ __forceinline__ void publish_strip(const Product& p, int strip) {
        __syncthreads();
        const uint32_t row = strip * SLOTS + threadIdx.x;
        if (threadIdx.x < SLOTS && row < p.matrix.rows) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; ++w) sum += partial[parity][w][slot_of_row(threadIdx.x)];
            publish(p, row, sum);
        }
        parity ^= 1;
    }

    // Units of one matrix in float32, of which this block takes every `gridDim.x`-th.
    template <bool BRAIN, class Prepare>
    __device__ __forceinline__ void halves(const Product& p, int unit, Prepare prepare) {
        using P = PackingHalves<BRAIN>;
        const Matrix& m = p.matrix;
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, end = units(m), blocks = m.cols / BLOCK;
        for (; unit < end; unit += gridDim.x) {
            const uint8_t* data = m.data + static_cast<uint64_t>(unit) * m.strip_bytes;
            Sums<1> sums = {};
            // At least once, because every warp has to come to the barrier.
            for (int index = warp; index == warp || index < blocks; index += WARPS) {
                const int at = min(index, blocks - 1);
                P block;
                block.load(data + at * P::block_bytes(BLOCK / TILE), 0, lane / 4, lane % 4);
                prepare();
                const float* x = input.floats + (at * (BLOCK / TILE) + lane / 4) * TILE_FLOATS;
                if (index < blocks) block.multiply(x, sums[0]);
            }
            reduce<1>(sums, partial[parity][warp]);
            publish_strip(p, unit);
        }
    }
    template <class Prepare>
    __device__ __forceinline__ void stored(const Product& p, int unit, Prepare prepare) {
        const int PER_ROW = WARPS / STORED_ROWS;
        const Matrix& m = p.matrix;
        const int warp = threadIdx.x / WARP, part = ceil_div(m.cols, PER_ROW * TILE) * TILE, end = units(m);
        for (; unit < end; unit += gridDim.x) {
            const uint32_t row = unit * STORED_ROWS + warp / PER_ROW;
            const bool has = row < m.rows;
            const int begin = has ? warp % PER_ROW * part : 0, last = has ? min(begin + part, static_cast<int>(m.cols)) : 0;
            StoredRow walk(m, has ? row : 0, begin, last);
            prepare();
            float sums[1];
            walk.multiply<1>(input, sums);
            if (threadIdx.x % WARP == 0) partial[parity][warp][0] = sums[0];
            __syncthreads();
            if (threadIdx.x < STORED_ROWS && unit * STORED_ROWS + threadIdx.x < m.rows) {
                float sum = 0.0f;
#pragma unroll
                for (int s = 0; s < PER_ROW; ++s) sum += partial[parity][threadIdx.x * PER_ROW + s][0];
                publish(p, unit * STORED_ROWS + threadIdx.x, sum);
            }
            parity ^= 1;
        }
    }
    template <class Prepare>
    __device__ __forceinline__ void floats(const Product& p, int unit, Prepare prepare) {
        if (!p.matrix.packed) return stored(p, unit, prepare);
        if (p.matrix.format == F16) return halves<false>(p, unit, prepare);
        halves<true>(p, unit, prepare);
    }
};

// Not inlined: it needs many registers, and few blocks come here.
static __device__ __noinline__ void floats_behind(const ProductsArgs& args, float (*partial)[WARPS][SLOTS], float factor,
                                                  int index, int unit) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    const Input input(shared, 1, args.cols, args.forms);
    DecodeBlock block{args, input, partial, 0, factor};
    __syncthreads();
    block.floats(args.products[index], unit, []() {});
    __syncthreads();
}

template <uint32_t F>
DEVICE void decode_products(const ProductsArgs& args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ float partial[2][WARPS][SLOTS];
    __shared__ float squares[WARPS];
    const Input input(shared, 1, args.cols, args.forms);
    DecodeBlock block{args, input, partial};
    const NormAhead ahead(args.norm, args.cols, blockDim.x);
    bool ready = false;
    const auto prepare = [&]() {
        if (ready) return;
        ready = true;
        after_previous_kernel();
        const float* x = args.input;
        if (args.pick != nullptr) x += static_cast<uint64_t>(*args.pick) * args.input_stride;
        fill_row(input, x, args.cols, args.norm, ahead, args.forms, squares, blockDim.x);
        __syncthreads();
        block.factor = norm_factor(args.norm, args.cols, args.eps, squares);
    };
    if constexpr (F == NO_FORMAT) {
        uint32_t before = 0;
        for (uint32_t i = 0; i < args.products_count; ++i) {
            const int unit = (blockIdx.x + gridDim.x - before % gridDim.x) % gridDim.x;
            before += block.units(args.products[i].matrix);
            block.floats(args.products[i], unit, prepare);
        }
        return;
    } else {
        // Strips of the matrices that take int8 are counted through.
        using P = Packing<F>;
        uint32_t ends[PRODUCTS], total = 0;
#pragma unroll
        for (uint32_t i = 0; i < PRODUCTS; ++i) {
            const Matrix& m = args.products[i].matrix;
            if (i < args.products_count && m.format == F && m.packed) total += ceil_div(m.rows, SLOTS);
            ends[i] = total;
        }
        // The product that a strip belongs to; `strip` becomes its number there.
        const auto product_of = [&](uint32_t& strip) {
            uint32_t product = 0, first = 0;
#pragma unroll
            for (uint32_t i = 0; i + 1 < PRODUCTS; ++i) {
                if (strip >= ends[i]) product = i + 1, first = ends[i];
            }
            strip -= first;
            return product;
        };
        const auto strip_of = [&](int number) {
            uint32_t strip = blockIdx.x + number * gridDim.x;
            const Matrix& m = args.products[product_of(strip)].matrix;
            return m.data + static_cast<uint64_t>(strip) * m.strip_bytes;
        };
        const int strips = blockIdx.x < total ? (total - 1 - blockIdx.x) / gridDim.x + 1 : 0;
        Stream<P, decltype(strip_of)> stream(strips, args.cols / BLOCK, strip_of);
        Codebook book;
        uint32_t of_book = PRODUCTS;
        prepare();
        for (int number = 0; number < strips; ++number) {
            uint32_t strip = blockIdx.x + number * gridDim.x;
            const uint32_t product = product_of(strip);
            if constexpr (P::CODEBOOK) {
                if (product != of_book) book.load(args.products[product].matrix);
                of_book = product;
            }
            Sums<1> sums = {};
            stream.multiply(book, input, sums);
            reduce<1>(sums, partial[block.parity][threadIdx.x / WARP]);
            block.publish_strip(args.products[product], strip);
        }
        // The others, from the last block on: it had the fewest so far.
        uint32_t before = 0;
        for (uint32_t i = 0; i < args.products_count && args.forms & INPUT_FLOATS; ++i) {
            const Matrix& m = args.products[i].matrix;
            if (m.format == F && m.packed) continue;
            const uint32_t from_last = gridDim.x - 1 - blockIdx.x;
            const int unit = (from_last + gridDim.x - before % gridDim.x) % gridDim.x;
            before += block.units(m);
            if (unit < block.units(m)) floats_behind(args, partial, block.factor, i, unit);
        }
    }
}
