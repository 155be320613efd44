// Products of up to four matrices of one format that takes int8 with one row of activations. Columns are whole blocks of 256.
//
// A block puts the row into shared memory, normed and quantised on the way, and walks strips of 16 weight rows; its warps
// share the columns of a strip, and their sums meet in shared memory. Bound by the bytes of the weights: as many of them as
// shared memory has room for are copied there before the kernel waits for its input. Code is kept short: a kernel of a few
// microseconds runs most of it for the first time.
#pragma once
#include "common/decode.cuh"
#include "common/multiply_row.cuh"
#include "common/ring.cuh"
#include "products/strips.cuh"

// Strips that a block sums up before their sums meet.
const int ROUND = 8;

template <uint32_t F>
DEVICE void decode_products(const ProductsArgs& args) {
    // Aligned as lines are: see moe/few_down.cuh.
    DYNAMIC_SHARED(__align__(128) uint8_t, shared);
    __shared__ float squares[WARPS], factor;
    __shared__ SumPlace places[ROUND][SLOTS];
    __shared__ float sums_of_round[ROUND][WARPS][SLOTS];
    const Input input(shared, 1, args.cols, INPUT_INT8);
    const ProductStrips all(args);
    const int strips = all.own();
    const Shares share(args.cols / BLOCK, WARPS);
    const auto strip_of = [&](int number) { return all.strip(share.set + number * share.sets); };
    using Copies = Ring<F, decltype(strip_of)>;
    uint8_t* copied = shared + input.bytes(INPUT_INT8) + threadIdx.x / WARP * args.slots * Copies::BYTES;
    Copies ring(copied, args.slots, share.of(strips), share.first, share.across, share.blocks, strip_of);
    ring.start_in_turn();
    const int threads = WARP * min(WARPS, args.cols / BLOCK);
    const NormAhead ahead(args.norm, args.cols, threads);
    // Where this thread puts the sum of a strip of the round that begins with strip `first`.
    const auto find_places = [&](int first) {
        uint32_t strip = blockIdx.x + (first + threadIdx.x / SLOTS) * gridDim.x;
        if (static_cast<int>(threadIdx.x) >= min(ROUND, strips - first) * SLOTS) return;
        const Product& p = all.product_of(strip);
        const uint32_t within = threadIdx.x % SLOTS;
        places[threadIdx.x / SLOTS][within].find(p, strip * SLOTS + within, 0, args.add);
    };
    // Those of the first round now: what is added to was there before the kernel in front began, and the argument's lines come from
    // afar when they are read for the first time.
    find_places(0);
    RowFragment<F> fragment(args.products[0].matrix);  // all of them have one codebook
    after_previous_kernel();
    const bool quantised = args.row.codes != nullptr;
    if (!quantised) {
        const float* x = args.input;
        if (args.pick != nullptr) x += static_cast<uint64_t>(*args.pick) * args.input_stride;
        const RowAhead first_columns(x, args.cols, threads);
        if (static_cast<int>(threadIdx.x) < threads) {
            fill_row(input, x, first_columns, args.cols, args.norm, ahead, INPUT_INT8, squares, threads);
        }
        __syncthreads();
        // Those that put sums find it behind the next barrier.
        if (threadIdx.x == blockDim.x - 1) factor = norm_factor(args.norm, args.cols, args.eps, squares, threads);
    }
    ring.settle();
    RowOperand<F, false> row;
    const auto load_row = [&](int block) {
        if (quantised) {
            row.load(FarRow{args.row.codes, args.row.factors}, block);
        } else {
            row.load(NearRow{input.codes, input.factors}, block);
        }
    };
    // Where a warp has the same part of the row for all strips.
    const bool one_part = share.blocks <= share.across;
    if (one_part && share.first < share.blocks) load_row(share.first);
    const uint8_t* block = ring.first_block();
    for (int first = 0; first < strips; first += ROUND) {
        const int count = min(ROUND, strips - first);
        float* put = sums_of_round[share.set][share.first];
        const int step = share.sets * WARPS * SLOTS;
        if (one_part && ring.whole) {
            // What is there already takes no more than this.
#pragma unroll 1
            for (int i = share.set; i < count; i += share.sets) {
                float own[2] = {};
                if (share.first < share.blocks) multiply_row<F, false>(fragment, block, row, own);
                put_sums(own, put);
                block += Copies::BYTES, put += step;
            }
        } else {
#pragma unroll 1
            for (int i = share.set; i < count; i += share.sets) {
                float own[2] = {};
                for (int at = share.first; at < share.blocks; at += share.across) {
                    if (!one_part) load_row(at);
                    multiply_row<F, false>(fragment, ring.take(), row, own);
                    ring.release();
                }
                put_sums(own, put);
                put += step;
            }
        }
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < count * SLOTS) {
            const int number = threadIdx.x / SLOTS, within = threadIdx.x % SLOTS;
            float sum = 0.0f;
#pragma unroll 8
            for (int w = 0; w < share.across; ++w) sum += sums_of_round[number][w][within];
            if (args.norm != nullptr) sum *= factor;
            places[number][within].put(sum);
        }
        if (first + ROUND >= strips) break;
        find_places(first + ROUND);
        __syncthreads();
    }
}
