// `kernels/common/ptx.cuh` on the emulated device: the same functions, by its means.
#pragma once
#include "cuda_device.h"

#define DEVICE static __device__ __forceinline__
// What takes most of the time, over arrays of its own.
#define EMULATED_INNER __attribute__((optimize("O3"), no_sanitize("alignment,bounds"))) static

#define DYNAMIC_SHARED(type, name) EMULATED_DYNAMIC_SHARED(type, name)
#define EMULATED_DYNAMIC_SHARED(type, name) \
    type* const name = reinterpret_cast<std::remove_const_t<decltype(name)>>(emulated_thread->dynamic_shared)

#define HAS_CLUSTERS (EMULATED_ARCHITECTURE >= 90)

DEVICE void wait_for_previous_kernel() {
    if (HAS_CLUSTERS) emulated_thread->device->wait_for_previous_kernel(*emulated_thread);
}
DEVICE void start_next_kernel() {
    if (HAS_CLUSTERS) emulated_thread->device->start_next_kernel(*emulated_thread);
}

DEVICE void start_next_kernel_early() {
    if (HAS_CLUSTERS) emulated_thread->device->start_next_kernel_early(*emulated_thread);
}

DEVICE uint4 load_16(const uint8_t* p) { return *reinterpret_cast<const uint4*>(p); }
DEVICE uint2 load_8(const uint8_t* p) { return *reinterpret_cast<const uint2*>(p); }
DEVICE uint32_t load_4(const uint8_t* p) { return *reinterpret_cast<const uint32_t*>(p); }

DEVICE int dot_unsigned(uint32_t codes, uint32_t x, int sum) { return emulated_dp4a<uint8_t, int8_t>(codes, x, sum); }

DEVICE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
    // A selector above 7 means something else on a device.
    if (selector & 0x8888) emulated_fail(emulator::LAUNCH_FAILED, "a byte of a permutation that is none of eight");
    return __byte_perm(low, high, selector);
}

DEVICE uint32_t permute_bytes_or_signs(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
    uint32_t bytes = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t four = selector >> (4 * i) & 15, byte = both >> (8 * (four & 7)) & 0xff;
        bytes |= (four < 8 ? byte : byte < 128 ? 0 : 0xff) << (8 * i);
    }
    return bytes;
}

// Makes the compiler forget what `v` is, and so what it has loaded from places that depend on it: registers that would keep that
// until it is used again.
DEVICE void forget(int& v) { (void)v; }

DEVICE void emulated_copy(void* to, const void* from, uint32_t bytes, bool there) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes != 0) {
        emulated_fail(emulator::MISALIGNED_ADDRESS, "a copy to shared memory that is not aligned to its size");
    }
    emulated_thread->device->start_copy(*emulated_thread, to, from, bytes, there);
}
DEVICE void prefetch_line(const void*) {}
DEVICE void copy_16(void* to, const void* from, bool there) { emulated_copy(to, from, 16, there); }
DEVICE void copy_4(void* to, const void* from, bool there) { emulated_copy(to, from, 4, there); }
DEVICE void end_copy_group() { emulated_thread->device->end_copy_group(*emulated_thread); }
template <int GROUPS>
DEVICE void wait_for_copies_but() {
    emulated_thread->device->wait_for_copies_but(*emulated_thread, GROUPS);
}

// Lane `4 g + t` has rows g and g + 8 of `a`, bytes 4 t .. and 16 + 4 t ..; the same bytes of column g of `b`; and columns
// 2 t and 2 t + 1 of rows g and g + 8 of `d` (PTX ISA, matrix fragments for mma.m16n8k32).
struct EmulatedTile {
    int* d;
    const uint32_t* a;
    const uint32_t* b;
};
template <class A>
EMULATED_INNER void emulated_multiply_tile(emulator::Thread&, uint32_t, void* const* data) {
    int16_t a[16][32], b[8][32];
    int d[16][8];
    for (int number = 0; number < 32; ++number) {
        const EmulatedTile& lane = *static_cast<const EmulatedTile*>(data[number]);
        const int g = number / 4, t = number % 4;
        for (int byte = 0; byte < 4; ++byte) {
            for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][4 * t + byte + i / 2 * 16] = static_cast<A>(lane.a[i] >> 8 * byte);
            for (int i = 0; i < 2; ++i) b[g][4 * t + byte + 16 * i] = static_cast<int8_t>(lane.b[i] >> 8 * byte);
        }
    }
    for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
            int sum = 0;
            for (int k = 0; k < 32; ++k) sum += a[row][k] * b[column][k];
            d[row][column] = sum;
        }
    }
    for (int number = 0; number < 32; ++number) {
        for (int i = 0; i < 4; ++i) {
            static_cast<const EmulatedTile*>(data[number])->d[i] = d[number / 4 + i / 2 * 8][number % 4 * 2 + i % 2];
        }
    }
}
template <bool SIGNED>
DEVICE void multiply_tile(int (&d)[4], const uint32_t (&a)[4], uint2 b, int first = 0) {
    const uint32_t words[2] = {b.x, b.y};
    EmulatedTile own = {d, a, words};
    emulated_meet(0xffffffff, emulated_multiply_tile<std::conditional_t<SIGNED, int8_t, uint8_t>>, &own);
    for (int& sum : d) sum += first;
}

template <bool SIGNED>
DEVICE void add_tile(int (&d)[4], const uint32_t (&a)[4], uint2 b) {
    int products[4];
    multiply_tile<SIGNED>(products, a, b);
    for (int i = 0; i < 4; ++i) d[i] += products[i];
}

// Matrices in shared memory: lane `8 m + r` brings row r of matrix m, and lane `4 g + t` gets the two values that stand at
// (g, 2 t) and (g, 2 t + 1) of each matrix or of its transpose (PTX ISA, ldmatrix).
struct EmulatedMatrices {
    uint32_t* out;
    const void* row;
};
template <bool TURNED>
static void emulated_load_matrices(emulator::Thread&, uint32_t, void* const* data) {
    const auto lane = [&](int number) -> const EmulatedMatrices& {
        return *static_cast<const EmulatedMatrices*>(data[number]);
    };
    for (int number = 0; number < 32; ++number) {
        for (int m = 0; m < 4; ++m) {
            const auto value = [&](int row, int column) {
                const int from = TURNED ? column : row, at = TURNED ? row : column;
                return static_cast<uint32_t>(static_cast<const uint16_t*>(lane(8 * m + from).row)[at]);
            };
            const int g = number / 4, t = number % 4;
            lane(number).out[m] = value(g, 2 * t) | value(g, 2 * t + 1) << 16;
        }
    }
}
template <bool TURNED>
DEVICE void emulated_load(uint32_t (&out)[4], const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
        emulated_fail(emulator::MISALIGNED_ADDRESS, "a matrix whose rows are not aligned to 16 bytes");
    }
    EmulatedMatrices own = {out, row};
    emulated_meet(0xffffffff, emulated_load_matrices<TURNED>, &own);
}
DEVICE void load_matrices(uint32_t (&out)[4], const void* row) { emulated_load<false>(out, row); }
DEVICE void load_transposed(uint32_t (&out)[4], const void* row) { emulated_load<true>(out, row); }

static void emulated_turn(emulator::Thread&, uint32_t, void* const* data) {
    uint16_t matrix[8][8];
    for (int number = 0; number < 32; ++number) memcpy(&matrix[number / 4][number % 4 * 2], data[number], 4);
    for (int number = 0; number < 32; ++number) {
        const int g = number / 4, t = number % 4;
        *static_cast<uint32_t*>(data[number]) = matrix[2 * t][g] | static_cast<uint32_t>(matrix[2 * t + 1][g]) << 16;
    }
}
DEVICE uint32_t turn_matrix(uint32_t pair) {
    emulated_meet(0xffffffff, emulated_turn, &pair);
    return pair;
}

// Lane `4 g + t` has columns 2 t and 2 t + 1 of rows g and g + 8 of `a`, then columns 8 further on; those rows of column g of `b`;
// and columns 2 t and 2 t + 1 of rows g and g + 8 of `d` (PTX ISA, matrix fragments for mma.m16n8k16).
struct EmulatedProduct {
    float* d;
    const uint32_t* a;
    const uint32_t* b;
};
template <class Decode>
EMULATED_INNER void emulated_multiply(emulator::Thread&, uint32_t, void* const* data) {
    double a[16][16], b[16][8], d[16][8];
    for (int number = 0; number < 32; ++number) {
        const EmulatedProduct& lane = *static_cast<const EmulatedProduct*>(data[number]);
        const int g = number / 4, t = number % 4;
        for (int e = 0; e < 2; ++e) {
            for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][2 * t + e + i / 2 * 8] = Decode()(lane.a[i] >> 16 * e);
            for (int i = 0; i < 2; ++i) b[2 * t + e + 8 * i][g] = Decode()(lane.b[i] >> 16 * e);
        }
        for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][2 * t + i % 2] = lane.d[i];
    }
    for (int row = 0; row < 16; ++row) {
        for (int k = 0; k < 16; ++k) {
            for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
        }
    }
    for (int number = 0; number < 32; ++number) {
        for (int i = 0; i < 4; ++i) {
            static_cast<const EmulatedProduct*>(data[number])->d[i] =
                static_cast<float>(d[number / 4 + i / 2 * 8][number % 4 * 2 + i % 2]);
        }
    }
}
DEVICE float half_bits(uint32_t bits) {
    const uint16_t own = static_cast<uint16_t>(bits);
    _Float16 v;
    memcpy(&v, &own, sizeof v);
    return static_cast<float>(v);
}
DEVICE float2 unpack_halves(uint32_t both) { return {half_bits(both & 0xffff), half_bits(both >> 16)}; }
DEVICE uint16_t half_of_float(float v) {
    const _Float16 half = static_cast<_Float16>(v);
    uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}
DEVICE uint32_t pack_halves(float first, float second) {
    return half_of_float(first) | static_cast<uint32_t>(half_of_float(second)) << 16;
}
static inline uint32_t emulated_bf16(float v) {
    const uint32_t bits = __float_as_uint(v);
    return v != v ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
DEVICE uint32_t pack_bf16(float first, float second) { return emulated_bf16(first) | emulated_bf16(second) << 16; }
struct EmulatedBf16 {
    float operator()(uint32_t bits) const { return __uint_as_float(bits << 16); }
};
struct EmulatedHalf {
    float operator()(uint32_t bits) const { return half_bits(bits); }
};
template <class Decode>
DEVICE void emulated_product(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t b[2] = {b0, b1};
    EmulatedProduct own = {d, a, b};
    emulated_meet(0xffffffff, emulated_multiply<Decode>, &own);
}
DEVICE void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulated_product<EmulatedBf16>(d, a, b0, b1);
}
DEVICE void multiply_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulated_product<EmulatedHalf>(d, a, b0, b1);
}

#if HAS_CLUSTERS
DEVICE void arrive_at_cluster_relaxed() { emulated_thread->device->arrive_at_cluster(*emulated_thread); }
DEVICE void arrive_at_cluster() { emulated_thread->device->arrive_at_cluster(*emulated_thread); }
DEVICE void wait_for_cluster() { emulated_thread->device->wait_for_cluster(*emulated_thread); }
DEVICE void put_in_cluster(float4* place, uint32_t rank, float4 value) {
    *static_cast<float4*>(emulated_thread->device->in_cluster(*emulated_thread, place, rank)) = value;
}
#endif
