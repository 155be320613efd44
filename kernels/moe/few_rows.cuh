// Products of a packed strip with two quantised rows on tensor cores, by a warp.
//
// An instruction multiplies a tile of 16 rows by 32 columns with eight columns of activations. These are four tiles of both
// rows, or two tiles by halves, so that no lane is without work when scales are multiplied: of each tile of the matrix
// only its own columns count, all others are zero, and the products of those tiles add up side by side. Of nibbles it multiplies
// the low ones of two tiles, or the high ones, 16 columns of each.
#pragma once
#include "common/fragment.cuh"

// 256 columns of two rows in shared memory. FACTORS: those of a tile, one or one for each half: a scale, of which formats of
// nibbles have a sixteenth here, and the scale times the sum of the codes.
template <int FACTORS>
struct RowPair {
    uint32_t codes[BLOCK / TILE][2][TILE / 4];  // [tile][row]
    float2 factors[BLOCK / TILE][2][FACTORS];
};

// What a lane sums up of one strip: of its rows g and g + 8, with both rows of activations or, SPLIT, with one of them.
template <bool SPLIT>
using FewSums = float[SPLIT ? 2 : 4];

// The second operands of a group of tiles. SPLIT: products are those of halves of tiles, which weights or factors want. Column g of
// the operand of a tile is not zero where it is one of that tile: row g % 2 of it where tiles are whole, half g % 2 of row
// g / 2 % 2 where they are split. So the operands of a group of tiles fill all columns.
template <bool SPLIT>
struct FewOperand {
    static constexpr int TOGETHER = SPLIT ? 2 : 4, GROUPS = BLOCK / TILE / TOGETHER;
    uint2 codes[TOGETHER];
    float scales[2], offsets[2], totals[SPLIT ? 1 : 2];

    template <int FACTORS>
    __device__ __forceinline__ FewOperand(const RowPair<FACTORS>& rows, int group, Lane lane) {
        const int row = SPLIT ? lane.g / 2 % 2 : lane.g % 2, within = lane.g / (SPLIT ? 4 : 2);
        const bool has_half = !SPLIT || lane.g % 2 == lane.t / 2;
        const uint2 own = *reinterpret_cast<const uint2*>(&rows.codes[group * TOGETHER + within][row][2 * lane.t]);
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) codes[i] = within == i && has_half ? own : make_uint2(0, 0);
        float2 factors[2];
        const int tile = tile_of(group, lane);
        if constexpr (SPLIT && FACTORS == 1) {
            // The sum of a tile counts once.
            factors[0] = rows.factors[tile][lane.t % 2][0], factors[1] = make_float2(factors[0].x, 0.0f);
        } else {
            const float2* both = SPLIT ? rows.factors[tile][lane.t % 2] : rows.factors[tile][0];
            const float4 four = *reinterpret_cast<const float4*>(both);
            factors[0] = make_float2(four.x, four.y), factors[1] = make_float2(four.z, four.w);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) scales[i] = factors[i].x, offsets[i] = -MAGIC_VALUE * factors[i].x;
        if constexpr (SPLIT) {
            totals[0] = factors[0].y + factors[1].y;
        } else {
            totals[0] = factors[0].y, totals[1] = factors[1].y;
        }
    }
    // The tile whose products are this lane's.
    static __device__ __forceinline__ int tile_of(int group, Lane lane) {
        return group * TOGETHER + lane.t / (SPLIT ? 2 : 1);
    }
};

// The integer products of a group of tiles, of which `first` is the first, or sixteen times them where codes are nibbles; with the
// bits of MAGIC_VALUE, unless halves have weights. Sixteen times a tile's are at most 16 * 32 * 15 * 128, less than 2^22.
template <uint32_t F, bool SPLIT>
DEVICE void multiply_codes(const Fragment<F>& fragment, const uint8_t* block, const FewOperand<SPLIT>& x, int first, Lane lane,
                           int (&d)[4]) {
    constexpr int TILES = BLOCK / TILE, TOGETHER = FewOperand<SPLIT>::TOGETHER;
    if constexpr (IS_NIBBLES<F>) {
        // High nibbles stay where they are, and the halves of an operand are of two tiles.
        int low[4], high[4];
#pragma unroll
        for (int i = 0; i < TOGETHER; i += 2) {
            const int tile = first + i;
            const uint2 even = fragment.words(block, tile, lane), odd = fragment.words(block, tile + 1, lane);
            const uint32_t words[4] = {even.x, even.y, odd.x, odd.y};
            uint32_t a[2][4];
#pragma unroll
            for (int j = 0; j < 4; ++j) a[0][j] = words[j] & 0x0f0f0f0f, a[1][j] = words[j] & 0xf0f0f0f0;
            const uint2 of_low = make_uint2(x.codes[i].x, x.codes[i + 1].x);
            const uint2 of_high = make_uint2(x.codes[i].y, x.codes[i + 1].y);
            add_or_put<false>(low, a[0], of_low, i == 0);
            add_or_put<false>(high, a[1], of_high, i == 0, MAGIC);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) d[i] = 16 * low[i] + high[i];
    } else {
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            uint32_t a[4];
            fragment.codes(block, TILES, first + i, lane, a);
            add_or_put<Fragment<F>::SIGNED>(d, a, x.codes[i], i == 0, Fragment<F>::HALVES ? 0 : MAGIC);
        }
    }
}

// Adds the products of group `group` of a block, which `fragment` has begun, with two rows.
template <uint32_t F, bool SPLIT>
DEVICE void multiply_group(const Fragment<F>& fragment, const uint8_t* block, const FewOperand<SPLIT>& x, int group, Lane lane,
                           FewSums<SPLIT>& sums) {
    constexpr bool HALVES = Fragment<F>::HALVES;
    static_assert(SPLIT || !HALVES);
    constexpr int TILES = BLOCK / TILE;
    int d[4];
    multiply_codes<F, SPLIT>(fragment, block, x, group * FewOperand<SPLIT>::TOGETHER, lane, d);
    const int tile = FewOperand<SPLIT>::tile_of(group, lane);
    float2 scale, least = make_float2(0.0f, 0.0f);
    fragment.scales(block, TILES, tile, lane, scale, least);
    // Of row g, then of g + 8: with both rows, or with both halves of one.
    float products[4];
    if constexpr (HALVES) {
        const int2 lower = fragment.weights(block, TILES, tile, 0, lane);
        const int2 upper = fragment.weights(block, TILES, tile, 1, lane);
        const int weights[4] = {lower.x, upper.x, lower.y, upper.y};
#pragma unroll
        for (int i = 0; i < 4; ++i) products[i] = static_cast<float>(d[i] * weights[i]) * x.scales[i % 2];
    } else {
        // A scale has two bits fewer than a float, so that what is subtracted is exact.
#pragma unroll
        for (int i = 0; i < 4; ++i) products[i] = fmaf(__int_as_float(d[i]), x.scales[i % 2], x.offsets[i % 2]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float& sum = sums[SPLIT ? i / 2 : i];
        if constexpr (Fragment<F>::MIN) {
            const float total = x.totals[SPLIT ? 0 : i % 2];
            if (!SPLIT || i % 2 == 0) sum = fmaf(-(i < 2 ? least.x : least.y), total, sum);
        }
        sum = fmaf(products[i], i < 2 ? scale.x : scale.y, sum);
    }
}

// The whole sum of one weight row with one row of activations: lane `4 g + t`'s are g + 8 (t / 2), and t % 2.
DEVICE float whole_sum(const float (&sums)[2]) {
    const bool upper = threadIdx.x & 2;
    return (upper ? sums[1] : sums[0]) + __shfl_xor_sync(ALL_LANES, upper ? sums[0] : sums[1], 2);
}
DEVICE float whole_sum(const float (&sums)[4]) {
    const bool upper = threadIdx.x & 2, odd = threadIdx.x & 1;
    float pair[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float keep = upper ? sums[i + 2] : sums[i], give = upper ? sums[i] : sums[i + 2];
        pair[i] = keep + __shfl_xor_sync(ALL_LANES, give, 2);
    }
    return (odd ? pair[1] : pair[0]) + __shfl_xor_sync(ALL_LANES, odd ? pair[0] : pair[1], 1);
}

// `src/cuda/few_rows.rs` knows the sizes.
static_assert(sizeof(RowPair<1>) == 640 && sizeof(RowPair<2>) == 768);
