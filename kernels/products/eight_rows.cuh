// Products of up to four matrices of one format that takes int8 with up to eight quantised rows of activations, as
// `decode_products` has them with one: weights are on their way to shared memory before the kernel waits for the rows, which the
// block then has there, each warp a share of the columns of a strip. Bound by the bytes of the weights.
#pragma once
#include "common/ring.cuh"
#include "common/tile_pair.cuh"
#include "products/strips.cuh"

// Sums of strips, by warps, that are there before they meet.
const int LEFT_SUMS = 2 * WARPS;

// 256 columns of eight rows.
struct EightRows {
    static constexpr int TILES = BLOCK / TILE;
    uint8_t codes[COLUMNS][PITCH];
    float scales[TILES][COLUMNS], totals[TILES][COLUMNS];  // totals: scales times the sums of the codes

    // Adds the products of a block of a strip.
    template <uint32_t F>
    __device__ __forceinline__ void multiply(Fragment<F>& fragment, const uint8_t* block, float (&sums)[1][4]) const {
        const Lane lane;
        fragment.begin(block, TILES, lane);
        // Four lanes have the same rows of the strip: each finds the scales and minima of two tiles.
        float2 own[2], minima[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) fragment.scales(block, TILES, lane.t + 4 * i, lane, own[i], minima[i]);
        if constexpr (Fragment<F>::MIN) subtract_minima<1>(minima, &totals[0][0], COLUMNS, COLUMNS, sums);
        multiply_few<1>(fragment, block, TILES, own, &codes[lane.g][8 * lane.t], &scales[0][2 * lane.t], COLUMNS, sums);
    }
};
static_assert(sizeof(EightRows) == 2816);  // as src/cuda/eight_rows.rs counts it

// What a thread copies of the rows: number `within` of so many that a row has in block `block` of the columns.
struct RowPiece {
    int row, block, within;

    __device__ __forceinline__ RowPiece(int item, int in_row)
        : row(item / in_row % COLUMNS), block(item / in_row / COLUMNS), within(item % in_row) {}
};

// Puts `count` rows of `blocks` times 256 columns into shared memory, with all threads of the block, and zeros for what is left of
// eight. A thread asks for several pieces before it waits for any: beside copies of weights each takes long.
DEVICE void fill_eight(EightRows* to, const QuantisedRow& rows, int count, int blocks) {
    // Pieces of sixteen codes, and tiles with their factors, half as many.
    constexpr int PIECES = BLOCK / 16, TILES = EightRows::TILES, TOGETHER = 2;
    const int threads = blockDim.x, thread = threadIdx.x;
    for (int first = 0; first < blocks * COLUMNS * PIECES; first += TOGETHER * threads) {
        uint4 codes[TOGETHER];
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            const RowPiece at(first + i * threads + thread, PIECES);
            codes[i] = make_uint4(0, 0, 0, 0);
            if (at.row >= count || at.block >= blocks) continue;
            codes[i] = __ldcg(reinterpret_cast<const uint4*>(rows.codes) + (at.row * blocks + at.block) * PIECES + at.within);
        }
        const RowPiece tile(first / TOGETHER + thread, TILES);
        float2 factor = make_float2(0.0f, 0.0f);
        if (tile.row < count && tile.block < blocks) {
            factor = __ldcg(rows.factors + (tile.row * blocks + tile.block) * TILES + tile.within);
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            const RowPiece at(first + i * threads + thread, PIECES);
            if (at.block < blocks) *reinterpret_cast<uint4*>(&to[at.block].codes[at.row][16 * at.within]) = codes[i];
        }
        if (tile.block >= blocks) continue;
        to[tile.block].scales[tile.within][tile.row] = factor.x, to[tile.block].totals[tile.within][tile.row] = factor.y;
    }
}

template <uint32_t F>
DEVICE void eight_rows_products(const ProductsArgs& args) {
    // Aligned as lines are: see moe/few_down.cuh.
    DYNAMIC_SHARED(__align__(128) uint8_t, shared);
    __shared__ float sums_of_round[LEFT_SUMS][4][WARP];
    __shared__ SumPlace places[WARP * WARPS];
    const ProductStrips all(args);
    const Shares share(args.cols / BLOCK, WARPS);
    const int strips = all.own(), count = args.count, lane = threadIdx.x % WARP;
    const auto strip_of = [&](int number) { return all.strip(share.set + number * share.sets); };
    using Copies = Ring<F, decltype(strip_of)>;
    EightRows* rows = reinterpret_cast<EightRows*>(shared);
    uint8_t* copied = shared + share.blocks * sizeof(EightRows) + threadIdx.x / WARP * args.slots * Copies::BYTES;
    Copies ring(copied, args.slots, share.of(strips), share.first, share.across, share.blocks, strip_of);
    ring.start_in_turn();
    // A thread puts one sum of a round.
    const int together = min(LEFT_SUMS / share.across, static_cast<int>(blockDim.x) / (SLOTS * COLUMNS));
    const int number = threadIdx.x / (SLOTS * COLUMNS), sum_of = threadIdx.x / WARP % 4;
    const auto find_places = [&](int first) {
        const int i = lane % 4 * 2 + sum_of % 2;
        uint32_t strip = blockIdx.x + (first + number) * gridDim.x;
        places[threadIdx.x].out = nullptr;
        if (number >= min(together, strips - first) || i >= count) return;
        const Product& p = all.product_of(strip);
        places[threadIdx.x].find(p, strip * SLOTS + lane / 4 + 8 * (sum_of / 2), i, args.add);
    };
    // Those of the first round now: see `decode_products`.
    find_places(0);
    Fragment<F> fragment(args.products[0].matrix);  // all of them have one codebook
    after_previous_kernel();
    fill_eight(rows, args.row, count, share.blocks);
    __syncthreads();
    ring.settle();
    for (int first = 0; first < strips; first += together) {
        for (int of_round = share.set; of_round < min(together, strips - first); of_round += share.sets) {
            float sums[1][4] = {};
            for (int at = share.first; at < share.blocks; at += share.across) {
                rows[at].multiply(fragment, ring.take(), sums);
                ring.release();
            }
#pragma unroll
            for (int sum = 0; sum < 4; ++sum) sums_of_round[of_round * share.across + share.first][sum][lane] = sums[0][sum];
        }
        __syncthreads();
        // Of a strip that is not there it is put nowhere.
        if (number < together) {
            float sum = 0.0f;
#pragma unroll 8
            for (int w = 0; w < share.across; ++w) sum += sums_of_round[number * share.across + w][sum_of][lane];
            places[threadIdx.x].put(sum);
        }
        if (first + together >= strips) break;
        find_places(first + together);
        __syncthreads();
    }
}
