// Products of up to four packed matrices of F16 or of BF16 with one row of activations in float32: a block puts the row into shared
// memory and takes strips of 16 weight rows; a warp reads 16 columns of each tile of a block.
#pragma once
#include "common/decode.cuh"
#include "common/strip.cuh"

template <bool BRAIN>
DEVICE void decode_halves(const ProductsArgs& args) {
    using P = PackingHalves<BRAIN>;
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ float partial[2][WARPS][SLOTS];
    __shared__ float squares[WARPS];
    const Input input(shared, 1, args.cols, INPUT_FLOATS);
    const int warp = threadIdx.x / WARP, tile = threadIdx.x % WARP / 4, quad = threadIdx.x % 4;
    const int items = 2 * (args.cols / BLOCK), threads = WARP * min(WARPS, args.cols / BLOCK);
    // Strips of all matrices are counted through.
    const auto product_of = [&](uint32_t& strip) {
        uint32_t product = 0;
        while (product < args.products_count) {
            const uint32_t strips = ceil_div(args.products[product].matrix.rows, SLOTS);
            if (strip < strips) break;
            strip -= strips, ++product;
        }
        return product;
    };
    const auto load = [&](const Matrix& m, uint32_t strip, int item, uint32_t (&words)[P::LINES / 2][QUAD]) {
        const uint8_t* data = m.data + static_cast<uint64_t>(strip) * m.strip_bytes;
        const uint8_t* lines = data + item / 2 * P::block_bytes(BLOCK / TILE) + P::block_bytes(1) * tile;
        load_half_of_lines(words, lines, quad, item % 2);
    };
    uint32_t words[P::LINES / 2][QUAD], strip = blockIdx.x;
    uint32_t product = product_of(strip);
    if (product < args.products_count && warp < items) load(args.products[product].matrix, strip, warp, words);
    const NormAhead ahead(args.norm, args.cols, threads);
    after_previous_kernel();
    const float* x = args.input;
    if (args.pick != nullptr) x += static_cast<uint64_t>(*args.pick) * args.input_stride;
    const RowAhead first_columns(x, args.cols, threads);
    if (static_cast<int>(threadIdx.x) < threads) {
        fill_row(input, x, first_columns, args.cols, args.norm, ahead, INPUT_FLOATS, squares, threads);
    }
    __syncthreads();
    const float factor = norm_factor(args.norm, args.cols, args.eps, squares, threads);
    int parity = 0;
    for (uint32_t number = blockIdx.x; product < args.products_count; parity ^= 1) {
        const Product& p = args.products[product];
        Sums<1> sums = {};
        for (int item = warp; item < items; item += WARPS) {
            if (number != blockIdx.x || item != warp) load(p.matrix, strip, item, words);
            P::multiply(words, input.floats + (item / 2 * (BLOCK / TILE) + tile) * TILE_FLOATS + TILE / 2 * (item % 2), sums[0]);
        }
        reduce<1>(sums, partial[parity][warp]);
        __syncthreads();
        const uint32_t row = strip * SLOTS + threadIdx.x;
        if (threadIdx.x < SLOTS && row < p.matrix.rows) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; ++w) sum += partial[parity][w][slot_of_row(threadIdx.x)];
            sum *= factor;
            if (p.bias != nullptr) sum += p.bias[row];
            p.out[row] = args.add ? p.out[row] + sum : sum;
        }
        number += gridDim.x, strip = number;
        product = product_of(strip);
    }
}
