// Products of float32 matrices on tensor cores: each value is the sum of two bfloat16, and of the four products of two
// such sums the three larger ones are added up, in float32. What is left out is 2^-17 of a product at most; the range
// is that of float32.
#pragma once
#include "common/device.cuh"

// Two values: the first in the lower half of each word.
struct Split {
    uint32_t high, low;

    __device__ __forceinline__ Split(float first, float second) {
        high = pack_bf16(first, second);
        low = pack_bf16(first - __uint_as_float(high << 16), second - __uint_as_float(high & 0xffff0000));
    }
    // Two values that are bfloat16, as they lie in a word.
    static __device__ __forceinline__ Split of_bf16(uint32_t both) { return Split(both); }

  private:
    __device__ __forceinline__ explicit Split(uint32_t both) : high(both), low(0) {}
};

// The first operand of 16 x 16 values of a product, from where a product of 16 x 8 values and its neighbour have left
// them.
struct SplitOperand {
    uint32_t high[4], low[4];

    __device__ __forceinline__ SplitOperand(const float (&left)[4], const float (&right)[4]) {
        const float* from[2] = {left, right};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const Split pair(from[i / 2][i % 2 * 2], from[i / 2][i % 2 * 2 + 1]);
            high[i] = pair.high, low[i] = pair.low;
        }
    }
    __device__ __forceinline__ SplitOperand() {}
};

// Second operands of two products with 16 x 8 values: `place` is where this lane's row of eight values is in either
// half of a matrix in shared memory.
struct SplitPair {
    uint32_t high[4], low[4];

    __device__ __forceinline__ void load(const uint8_t* high_half, const uint8_t* low_half, uint32_t place) {
        load_matrices(high, high_half + place);
        load_matrices(low, low_half + place);
    }
    __device__ __forceinline__ void load_turned(const uint8_t* high_half, const uint8_t* low_half, uint32_t place) {
        load_transposed(high, high_half + place);
        load_transposed(low, low_half + place);
    }
};

// `sums[n] += a b[n]` for all second operands of N pairs. The sums take turns: each addition depends on the one before.
template <int N>
DEVICE void multiply_split(float (*sums)[4], const SplitOperand& a, const SplitPair (&b)[N]) {
    const auto pass = [&](const uint32_t (&left)[4], auto right) {
#pragma unroll
        for (int n = 0; n < 2 * N; ++n) {
            const uint32_t* words = right(b[n / 2]) + n % 2 * 2;
            multiply_bf16(sums[n], left, words[0], words[1]);
        }
    };
    const auto high = [](const SplitPair& pair) { return pair.high; };
    const auto low = [](const SplitPair& pair) { return pair.low; };
    pass(a.high, high);
    pass(a.high, low);
    pass(a.low, high);
}
