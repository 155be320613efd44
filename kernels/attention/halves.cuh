// Attention on tensor cores over keys and values in halves: what the kernels for one row and for many share.
//
// A warp has up to eight query heads of a row that share a KV head, and sees 16 positions at a time. Positions are the
// rows of the first product and channels those of the second, heads are the columns of both, so that a lane has the
// same two heads throughout. Queries and weights are sums of two halves: only the keys and values are rounded, as they
// are stored.
#pragma once
#include "attention/head.cuh"

const uint32_t HEADS = 8;
const uint32_t POSITIONS = 16;
// Of a context, at most.
const uint32_t MOST_PARTS = 64;
const float LOG2_E = 1.4426950408889634f;

// Where eight channels of a row stand in a tile of positions: eight rows of a column lie in all banks.
template <uint32_t DIM>
DEVICE uint32_t in_tile(uint32_t row, uint32_t eight) {
    return 2 * DIM * row + 16 * (eight ^ row % 8);
}

// What two halves leave of two values.
DEVICE uint32_t pack_rest(float a, float b, uint32_t halves) {
    return pack_halves(a - half_bits(halves & 0xffff), b - half_bits(halves >> 16));
}

// Puts a query, of which this lane has its channels, into its column of the second operand of the first product, by one warp: norm,
// rotation, and the scale of the softmax to base 2. `x` is shared memory of `DIM` floats; without a query the column is zero.
template <uint32_t DIM>
DEVICE void put_query(const AttentionArgs& args, const HeadNorm<DIM / WARP, true>& norm, float (&query)[DIM / WARP], bool there,
                      uint32_t column, uint4 (&queries)[DIM / 16][WARP], float* x) {
    const uint32_t lane = threadIdx.x % WARP;
    if (there) norm.apply(args, query, x);
    const float scale = LOG2_E * rsqrtf(static_cast<float>(DIM));
#pragma unroll
    for (uint32_t i = 0; i < DIM / 2; i += WARP) {
        const uint32_t channel = 2 * (i + lane), within = channel % 16;
        const float first = there ? x[channel] * scale : 0.0f, second = there ? x[channel + 1] * scale : 0.0f;
        uint32_t* words = reinterpret_cast<uint32_t*>(&queries[channel / 16][4 * column + within % 8 / 2]);
        const uint32_t halves = pack_halves(first, second);
        words[within / 8] = halves;
        words[2 + within / 8] = pack_rest(first, second, halves);
    }
    __syncwarp();
}

// What a lane `4 g + t` has seen of heads 2 t and 2 t + 1, with an online softmax (arXiv 1805.02867): the weights of
// its own positions, and sums over all of the warp's for channels g and g + 8 of each 16, of both heads.
template <uint32_t DIM>
struct Seen {
    float largest[2] = {-INFINITY, -INFINITY}, totals[2] = {};
    float sums[DIM / 16][4] = {};
    float corrections[2];
    uint32_t high[2], low[2];  // weights of the positions in hand

    // Scores of positions `first ..`, those up to `position`; calls `after_keys` when it does not need the keys any
    // more.
    template <class AfterKeys>
    __device__ __forceinline__ void weigh(const uint4 (&queries)[DIM / 16][WARP], const uint8_t* keys, uint32_t first,
                                          uint32_t position, AfterKeys after_keys) {
        const uint32_t lane = threadIdx.x % WARP, g = lane / 4;
        float dots[4][4] = {};
#pragma unroll
        for (uint32_t k = 0; k < DIM / 16; ++k) {
            uint32_t a[4];
            load_matrices(a, keys + in_tile<DIM>(lane % 16, 2 * k + lane / 16));
            const uint4 q = queries[k][lane];
            multiply_f16(dots[k % 2], a, q.x, q.y);
            multiply_f16(dots[2 + k % 2], a, q.z, q.w);
        }
        after_keys();
        float weights[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            const bool seen = first + g + i / 2 * 8 <= position;
            weights[i] = seen ? (dots[0][i] + dots[1][i]) + (dots[2][i] + dots[3][i]) : -INFINITY;
        }
#pragma unroll
        for (uint32_t e = 0; e < 2; ++e) {
            float most = fmaxf(weights[e], weights[2 + e]);
#pragma unroll
            for (uint32_t d = 4; d < WARP; d *= 2) most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, d));
            most = fmaxf(most, largest[e]);
            corrections[e] = exp2f(largest[e] - most);
            largest[e] = most;
            weights[e] = exp2f(weights[e] - most), weights[2 + e] = exp2f(weights[2 + e] - most);
            totals[e] = fmaf(totals[e], corrections[e], weights[e] + weights[2 + e]);
        }
#pragma unroll
        for (uint32_t i = 0; i < 2; ++i) {
            const uint32_t upper = pack_halves(weights[2 * i], weights[2 * i + 1]);
            high[i] = turn_matrix(upper);
            low[i] = turn_matrix(pack_rest(weights[2 * i], weights[2 * i + 1], upper));
        }
    }
    // The values of the positions in hand.
    __device__ __forceinline__ void add(const uint8_t* values) {
        const uint32_t lane = threadIdx.x % WARP;
#pragma unroll
        for (uint32_t m = 0; m < DIM / 16; ++m) {
            uint32_t a[4];
            load_transposed(a, values + in_tile<DIM>(lane / 16 * 8 + lane % 8, 2 * m + lane / 8 % 2));
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) sums[m][i] *= corrections[i % 2];
            multiply_f16(sums[m], a, high[0], high[1]);
            multiply_f16(sums[m], a, low[0], low[1]);
        }
    }
    // Adds up the weights of all positions.
    __device__ __forceinline__ void end() {
#pragma unroll
        for (uint32_t e = 0; e < 2; ++e) {
#pragma unroll
            for (uint32_t d = 4; d < WARP; d *= 2) totals[e] += __shfl_xor_sync(ALL_LANES, totals[e], d);
        }
    }
};
