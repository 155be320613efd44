// Likelihoods as whole numbers, bit by bit those of `src/model/likelihood.rs` and `src/model/philox.rs`, where they are
// explained. Operations with names of their own are not contracted.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

using U64 = unsigned long long;

// Larger for larger logits, equal for both zeros; larger than 0 for every number.
DEVICE uint32_t key_of(float logit) {
    const uint32_t bits = __float_as_uint(logit);
    if (bits == 0x80000000) return 0x80000000;
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

DEVICE float logit_of(uint32_t key) { return __uint_as_float(key & 0x80000000 ? key & 0x7fffffff : ~key); }

const uint32_t KEY_OF_NONE = 0x007fffff;  // of a token that must not be chosen, whose logit is minus infinity

// floor(2^44 e^x) for x of 0 or less.
DEVICE U64 weight_of(float x) {
    if (x < -31.0f) return 0;
    const float round = 12582912.0f;
    const float n = __fsub_rn(__fadd_rn(__fmul_rn(x, 1.4426950408889634f), round), round);
    const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.693359375f)), __fmul_rn(n, -2.1219444e-4f));
    float p = 1.9875691e-4f;
    p = __fadd_rn(__fmul_rn(p, r), 1.3981999e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 8.333452e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.1665796e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 1.6666665e-1f);
    p = __fadd_rn(__fmul_rn(p, r), 5.0e-1f);
    const float e_to_r = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
    const float scale = __uint_as_float(static_cast<uint32_t>(static_cast<int>(n) + 127 + 44) << 23);
    return static_cast<U64>(__fmul_rn(e_to_r, scale));
}

// The smallest whole number that is at least `share`, in units of 2^-64, of `total`.
DEVICE U64 mass_of(U64 share, U64 total) { return __umul64hi(share, total) + (share * total != 0); }

// Philox4x32-10: draw `index` of the sequence that `seed` names.
DEVICE U64 random_bits(U64 seed, U64 index) {
    uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const uint32_t high2 = __umulhi(0xCD9E8D57u, c2), low2 = 0xCD9E8D57u * c2;
        c0 = high2 ^ c1 ^ k0;
        c1 = low2;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return static_cast<U64>(c1) << 32 | c0;
}
