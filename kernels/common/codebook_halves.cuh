// A codebook of Bnb4 in halves, for products that add them up.
//
// A byte permutation looks up four codes among eight entries. Where a code's fourth bit is set it takes the sign of the entry
// instead, which is 0 for entries below 128: what belongs to the other half of the codebook drops out by itself, and tensor
// cores put the halves together. The values of a half have one sign, as a rule, which its sums get; so entries below 128 are
// as fine as bytes of both signs. Other codebooks are rounded to half as many steps, as processors do that have no more.
#pragma once
#include "common/fragment.cuh"

struct CodebookHalves {
    uint32_t entries[4];  // of the first eight codes, and of the others
    // A block's sum is `others + first_counts * first`. Its value: times `step`, less `zero` times that of the activations.
    int first_counts;
    float step, zero;

    // Every lane of a warp comes here. `value` is the codebook's of the lane's number modulo 16.
    __device__ __forceinline__ void take(float value) {
        const float largest = __uint_as_float(__reduce_max_sync(ALL_LANES, __float_as_uint(value) & 0x7fffffff));
        const bool first = threadIdx.x % 16 < 8;
        const bool rises = !__any_sync(ALL_LANES, first ? value > 0.0f : value < 0.0f);
        const bool mixed = !rises && __any_sync(ALL_LANES, first ? value < 0.0f : value > 0.0f);
        const float steps = mixed ? 62.56f : Codebook::STEPS, offset = mixed ? 62.76f : Codebook::ZERO;
        const float inverse = largest > 0.0f ? steps / largest : 0.0f;
        const int entry = static_cast<int>(__fadd_rn(__fmul_rn(value, inverse), offset + 0.5f)) - (mixed ? 0 : 124);
        uint32_t word = static_cast<uint32_t>(abs(entry)) << (8 * (threadIdx.x % 4));
        word |= __shfl_xor_sync(ALL_LANES, word, 1);
        word |= __shfl_xor_sync(ALL_LANES, word, 2);
#pragma unroll
        for (int i = 0; i < 4; ++i) entries[i] = __shfl_sync(ALL_LANES, word, 4 * i);
        first_counts = mixed ? 1 : -1;
        step = largest / steps * (rises || mixed ? 1.0f : -1.0f);
        zero = (mixed ? offset : offset - 124.0f) * (largest / steps);
    }
};

// Eight bytes in the order in which `codes_of_half` has those columns.
DEVICE uint2 by_nibble(uint2 columns) {
    return make_uint2(__byte_perm(columns.x, columns.y, 0x5140), __byte_perm(columns.x, columns.y, 0x7362));
}

// What columns 8 t + 0, 4, 1, 5 and then 2, 6, 3, 7 of rows g and g + 8 have of the entries `low` and `high` of one half, whose
// codes are those with a fourth bit that is not set.
DEVICE void codes_of_half(uint32_t low, uint32_t high, uint2 codes, uint32_t (&a)[4]) {
    a[0] = permute_bytes_or_signs(low, high, codes.x), a[1] = permute_bytes_or_signs(low, high, codes.y);
    a[2] = permute_bytes_or_signs(low, high, codes.x >> 16), a[3] = permute_bytes_or_signs(low, high, codes.y >> 16);
}

// Fragments for `multiply_row`.
template <uint32_t F>
struct RowFragment : Fragment<F> {
    __device__ __forceinline__ explicit RowFragment(const Matrix& m) : Fragment<F>(m) {}
};

template <>
struct RowFragment<BNB4> {
    static constexpr bool SIGNED = false, MIN = true, HALVES = false;
    CodebookHalves book;
    __device__ __forceinline__ explicit RowFragment(const Matrix& m) { book.take(Codebook::entry_of(m)); }
    __device__ __forceinline__ void begin(const uint8_t*, int, Lane) {}
    __device__ __forceinline__ void scales(const uint8_t* block, int tiles, int tile, Lane lane, float2& scale,
                                           float2& min) const {
        const float2 absmax = two_halves(block + 256 * tiles + 32 * (tile / 2), lane.g);
        scale = make_float2(absmax.x * book.step, absmax.y * book.step);
        min = make_float2(absmax.x * book.zero, absmax.y * book.zero);
    }
};
