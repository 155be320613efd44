// How a warp reads a block of a packed matrix (src/quant/packed): 16 rows by up to 8 tiles of 32 columns.
//
// Lane `4 tile + quad` takes slots `4 quad .. 4 quad + 3` of one tile: 4 rows by 32 columns, in 16-byte loads. Every format
// comes down to `weight = scale * code - min` with a scale and a minimum for each slot and tile (each half tile in Q6_K).
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

const int SLOTS = 16;
const int QUAD = 4;
const int TILE = 32;
const int BLOCK = 256;

DEVICE bool takes_int8(const Matrix& m) {
    return m.packed && m.order == nullptr && m.format != F16 && m.format != BF16 && m.format != F32;
}

// Codes of Bnb4 as bytes, as the processors' kernels round them: value = (entry - ZERO) * step.
struct Codebook {
    static constexpr float STEPS = 124.15f;
    static constexpr float ZERO = 124.25f;
    uint32_t entries[4];
    float step;
    const float* values;

    // Every lane of a warp comes here.
    __device__ __forceinline__ void load(const Matrix& m) {
        values = m.codebook;
        take(entry_of(m));
    }
    // This lane's entry, the one of its number modulo 16, for `take` to make the codebook of when it is there.
    static __device__ __forceinline__ float entry_of(const Matrix& m) { return __ldg(m.codebook + threadIdx.x % 16); }

    __device__ __forceinline__ void take(float entry) {
        const float largest = __uint_as_float(__reduce_max_sync(ALL_LANES, __float_as_uint(entry) & 0x7fffffff));
        const float factor = largest > 0.0f ? STEPS / largest : 0.0f;
        step = largest / STEPS;
        const uint32_t code = static_cast<uint32_t>(__fadd_rn(__fmul_rn(entry, factor), ZERO + 0.5f));
        uint32_t word = code << (8 * (threadIdx.x % 4));
        word |= __shfl_xor_sync(ALL_LANES, word, 1);
        word |= __shfl_xor_sync(ALL_LANES, word, 2);
#pragma unroll
        for (int i = 0; i < 4; ++i) entries[i] = __shfl_sync(ALL_LANES, word, 4 * i);
    }
};

// Bytes of the lines of four slots, `N` lines a tile; lines of a tile's second half are rotated by 32 bytes.
template <int N>
DEVICE void load_lines(uint32_t (&words)[N][QUAD], const uint8_t* tile, int quad) {
#pragma unroll
    for (int line = 0; line < N; ++line) {
        const int at = 2 * line >= N && N > 1 ? (quad + 2) % 4 : quad;
        const uint4 v = load_16(tile + 64 * line + 16 * at);
        words[line][0] = v.x, words[line][1] = v.y, words[line][2] = v.z, words[line][3] = v.w;
    }
}

// The lines of one half of a tile.
template <int N>
DEVICE void load_half_of_lines(uint32_t (&words)[N][QUAD], const uint8_t* tile, int quad, int half) {
    const uint8_t* first = tile + 64 * N * half + 16 * (half == 1 ? (quad + 2) % 4 : quad);
#pragma unroll
    for (int line = 0; line < N; ++line) {
        const uint4 v = load_16(first + 64 * line);
        words[line][0] = v.x, words[line][1] = v.y, words[line][2] = v.z, words[line][3] = v.w;
    }
}

// Codes of columns 4 * group .. from lines of nibbles.
DEVICE uint32_t nibbles(const uint32_t (&words)[4][QUAD], int group, int slot) {
    const uint32_t word = words[group / 2][slot];
    return (group % 2 ? word >> 4 : word) & 0x0f0f0f0f;
}

// Dot products of four slots' nibbles with 32 codes. The high nibbles stay where they are: their sum is 16 times too large.
DEVICE void dot_nibbles(const uint32_t (&words)[4][QUAD], const uint32_t (&x)[8], int (&dots)[QUAD]) {
#pragma unroll
    for (int slot = 0; slot < QUAD; ++slot) {
        int low = 0, high = 0;
#pragma unroll
        for (int line = 0; line < 4; ++line) {
            low = dot_unsigned(words[line][slot] & 0x0f0f0f0f, x[2 * line], low);
            high = dot_unsigned(words[line][slot] & 0xf0f0f0f0, x[2 * line + 1], high);
        }
        dots[slot] = low + (high >> 4);
    }
}

template <class Codes>
DEVICE void dot_bytes(Codes codes, const uint32_t (&x)[8], int (&dots)[QUAD]) {
#pragma unroll
    for (int slot = 0; slot < QUAD; ++slot) {
        int sum = 0;
#pragma unroll
        for (int group = 0; group < 8; ++group) sum = codes.dot(codes.word(group, slot), x[group], sum);
        dots[slot] = sum;
    }
}

DEVICE int dot_signed(uint32_t codes, uint32_t x, int sum) {
    return __dp4a(static_cast<int>(codes), static_cast<int>(x), sum);
}

DEVICE float unsigned_byte(uint32_t word, int i) { return static_cast<float>(word >> (8 * i) & 0xff); }

DEVICE float signed_byte(uint32_t word, int i) {
    return static_cast<float>(static_cast<int8_t>(word >> (8 * i) & 0xff));
}

// A packing has: `block_bytes(tiles)`; `load` of a lane's share; `scales` of its four slots; `dot` with 32 int8 codes;
// `values` of 8 columns before scales and minima. INT8: `dot` exists. MIN: there are minima. HALVES: scales differ between
// the halves of a tile; `dot` weighs them itself. AHEAD: a lane's share is small enough to load the next one beside it.
// CODEBOOK: codes choose from a table.
template <uint32_t F>
struct Packing;

template <bool BRAIN>
struct PackingHalves {
    static constexpr bool INT8 = false, MIN = false, HALVES = false, AHEAD = false, CODEBOOK = false;
    static constexpr int LINES = 16;
    uint32_t words[LINES][QUAD];

    static constexpr __device__ __forceinline__ int block_bytes(int tiles) { return 1024 * tiles; }
    __device__ __forceinline__ void load(const uint8_t* block, int, int tile, int quad) {
        load_lines<16>(words, block + 1024 * tile, quad);
    }
    __device__ __forceinline__ void scales(const Codebook&, int, int, float (&scale)[QUAD], float (&)[QUAD]) const {
#pragma unroll
        for (int slot = 0; slot < QUAD; ++slot) scale[slot] = 1.0f;
    }
    __device__ __forceinline__ void values(const Codebook&, int eight, int slot, float (&out)[8]) const {
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
            const uint32_t word = words[4 * eight + pair][slot];
            out[2 * pair] = BRAIN ? bf16_bits(word & 0xffff) : half_bits(word & 0xffff);
            out[2 * pair + 1] = BRAIN ? bf16_bits(word >> 16) : half_bits(word >> 16);
        }
    }
    __device__ __forceinline__ void dot(const Codebook&, const uint32_t (&)[8], int (&)[QUAD]) const {}
    // Adds the products of half of a tile's lines with the 16 columns at `x`.
    static __device__ __forceinline__ void multiply(const uint32_t (&half)[LINES / 2][QUAD], const float* x,
                                                    float (&sums)[QUAD]) {
#pragma unroll
        for (int four = 0; four < 4; ++four) {
            const float4 v = reinterpret_cast<const float4*>(x)[four];
            const float columns[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
                for (int slot = 0; slot < QUAD; ++slot) {
                    const uint32_t word = half[2 * four + pair][slot];
                    const float low = BRAIN ? bf16_bits(word & 0xffff) : half_bits(word & 0xffff);
                    const float high = BRAIN ? __uint_as_float(word & 0xffff0000) : half_bits(word >> 16);
                    sums[slot] = fmaf(low, columns[2 * pair], fmaf(high, columns[2 * pair + 1], sums[slot]));
                }
            }
        }
    }
};

template <>
struct Packing<F16> : PackingHalves<false> {};
template <>
struct Packing<BF16> : PackingHalves<true> {};

template <>
struct Packing<Q8_0> {
    static constexpr bool INT8 = true, MIN = false, HALVES = false, AHEAD = true, CODEBOOK = false;
    uint32_t words[8][QUAD];
    uint2 factors;

    static constexpr __device__ __forceinline__ int block_bytes(int tiles) { return (512 + 32) * tiles; }
    __device__ __forceinline__ void load(const uint8_t* block, int tiles, int tile, int quad) {
        load_lines<8>(words, block + 512 * tile, quad);
        factors = load_8(block + 512 * tiles + 32 * tile + 8 * quad);
    }
    __device__ __forceinline__ void scales(const Codebook&, int, int, float (&scale)[QUAD], float (&)[QUAD]) const {
#pragma unroll
        for (int slot = 0; slot < QUAD; ++slot) scale[slot] = half_of(factors, slot);
    }
    __device__ __forceinline__ uint32_t word(int group, int slot) const { return words[group][slot]; }
    static __device__ __forceinline__ int dot(uint32_t codes, uint32_t x, int sum) { return dot_signed(codes, x, sum); }
    __device__ __forceinline__ void dot(const Codebook&, const uint32_t (&x)[8], int (&dots)[QUAD]) const {
        dot_bytes<const Packing&>(*this, x, dots);
    }
    __device__ __forceinline__ void values(const Codebook&, int eight, int slot, float (&out)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] = signed_byte(words[2 * eight + i / 4][slot], i % 4);
    }
};

// Formats whose codes are lines of nibbles.
struct Nibbles {
    static constexpr bool INT8 = true, MIN = true, HALVES = false, AHEAD = true, CODEBOOK = false;
    uint32_t words[4][QUAD];

    __device__ __forceinline__ void load_codes(const uint8_t* block, int tile, int quad) {
        load_lines<4>(words, block + 256 * tile, quad);
    }
    __device__ __forceinline__ void dot(const Codebook&, const uint32_t (&x)[8], int (&dots)[QUAD]) const {
        dot_nibbles(words, x, dots);
    }
    __device__ __forceinline__ void values(const Codebook&, int eight, int slot, float (&out)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] = unsigned_byte(nibbles(words, 2 * eight + i / 4, slot), i % 4);
    }
};

template <>
struct Packing<Q4_0> : Nibbles {
    uint2 factors;

    static constexpr __device__ __forceinline__ int block_bytes(int tiles) { return (256 + 32) * tiles; }
    __device__ __forceinline__ void load(const uint8_t* block, int tiles, int tile, int quad) {
        load_codes(block, tile, quad);
        factors = load_8(block + 256 * tiles + 32 * tile + 8 * quad);
    }
    __device__ __forceinline__ void scales(const Codebook&, int, int, float (&scale)[QUAD], float (&min)[QUAD]) const {
#pragma unroll
        for (int slot = 0; slot < QUAD; ++slot) {
            scale[slot] = half_of(factors, slot);
            min[slot] = 8.0f * scale[slot];
        }
    }
};

// Scales and minima of Q4_K and Q5_K: a record of a lane has four 6-bit scales, four 6-bit minima, and 16 bits of what all
// tiles share: `d` of slot i in tile 2 i, `dmin` in tile 2 i + 1. Every lane of the warp takes part.
DEVICE void k_scales(uint2 record, int lane, float (&scale)[QUAD], float (&min)[QUAD]) {
    const uint32_t minima = __funnelshift_r(record.x, record.y, 24);
    const float own = half_bits(record.y >> 16);
#pragma unroll
    for (int slot = 0; slot < QUAD; ++slot) {
        const float d = __shfl_sync(ALL_LANES, own, 8 * slot + lane % 4);
        const float dmin = __shfl_sync(ALL_LANES, own, 8 * slot + 4 + lane % 4);
        scale[slot] = d * static_cast<float>(record.x >> (6 * slot) & 63);
        min[slot] = dmin * static_cast<float>(minima >> (6 * slot) & 63);
    }
}

template <>
struct Packing<Q4_K> : Nibbles {
    uint2 record;

    static constexpr __device__ __forceinline__ int block_bytes(int tiles) { return (256 + 32) * tiles; }
    __device__ __forceinline__ void load(const uint8_t* block, int tiles, int tile, int quad) {
        load_codes(block, tile, quad);
        record = load_8(block + 256 * tiles + 32 * tile + 8 * quad);
    }
    __device__ __forceinline__ void scales(const Codebook&, int, int lane, float (&scale)[QUAD],
                                           float (&min)[QUAD]) const {
        k_scales(record, lane, scale, min);
    }
};

template <>
struct Packing<Q5_K> {
    static constexpr bool INT8 = true, MIN = true, HALVES = false, AHEAD = true, CODEBOOK = false;
    uint32_t words[4][QUAD];
    uint32_t bits[1][QUAD];
    uint2 record;

    static constexpr __device__ __forceinline__ int block_bytes(int tiles) { return (256 + 64 + 32) * tiles; }
    __device__ __forceinline__ void load(const uint8_t* block, int tiles, int tile, int quad) {
        load_lines<4>(words, block + 256 * tile, quad);
        load_lines<1>(bits, block + 256 * tiles + 64 * tile, quad);
        record = load_8(block + 320 * tiles + 32 * tile + 8 * quad);
    }
    __device__ __forceinline__ void scales(const Codebook&, int, int lane, float (&scale)[QUAD],
                                           float (&min)[QUAD]) const {
        k_scales(record, lane, scale, min);
    }
    // The upper bits of columns 4 * group .. are bit `group` of each byte.
    __device__ __forceinline__ uint32_t word(int group, int slot) const {
        const uint32_t upper = group < 4 ? bits[0][slot] << (4 - group) : bits[0][slot] >> (group - 4);
        return nibbles(words, group, slot) | (upper & 0x10101010);
    }
    static __device__ __forceinline__ int dot(uint32_t codes, uint32_t x, int sum) {
        return dot_unsigned(codes, x, sum);
    }
    __device__ __forceinline__ void dot(const Codebook&, const uint32_t (&x)[8], int (&dots)[QUAD]) const {
        dot_bytes<const Packing&>(*this, x, dots);
    }
    __device__ __forceinline__ void values(const Codebook&, int eight, int slot, float (&out)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] = unsigned_byte(word(2 * eight + i / 4, slot), i % 4);
    }
};

template <>
struct Packing<Q6_K> {
    static constexpr bool INT8 = true, MIN = false, HALVES = true, AHEAD = true, CODEBOOK = false;
    uint32_t words[4][QUAD];
    uint32_t crumbs[2][QUAD];
    uint32_t weights[2];  // int8 of each slot, by half
    uint2 factors;

    static constexpr __device__ __forceinline__ int block_bytes(int tiles) { return (256 + 128 + 32) * tiles + 32; }
    __device__ __forceinline__ void load(const uint8_t* block, int tiles, int tile, int quad) {
        load_lines<4>(words, block + 256 * tile, quad);
        load_lines<2>(crumbs, block + 256 * tiles + 128 * tile, quad);
        const uint8_t* scales = block + 384 * tiles;
        weights[0] = load_4(scales + 32 * tile + 4 * quad);
        weights[1] = load_4(scales + 32 * tile + 16 + 4 * quad);
        factors = load_8(scales + 32 * tiles + 8 * quad);
    }
    // For integers, whose dot products the weights are in, `half` is 2.
    __device__ __forceinline__ void scales(const Codebook&, int half, int, float (&scale)[QUAD], float (&)[QUAD]) const {
#pragma unroll
        for (int slot = 0; slot < QUAD; ++slot) {
            const float weight = half == 2 ? 0.25f : 0.25f * signed_byte(weights[half & 1], slot);
            scale[slot] = half_of(factors, slot) * weight;
        }
    }
    // Four times the codes less 32, as signed bytes: the upper bits of columns 16 h + 4 i .. are pair i of each byte of
    // line h.
    __device__ __forceinline__ uint32_t word(int group, int slot) const {
        const uint32_t low = words[group / 2][slot], pairs = crumbs[group / 4][slot];
        const uint32_t lower = (group % 2 ? low >> 2 : low << 2) & 0x3c3c3c3c;
        return (lower | (pairs << (6 - 2 * (group % 4)) & 0xc0c0c0c0)) ^ 0x80808080;
    }
    __device__ __forceinline__ void dot(const Codebook&, const uint32_t (&x)[8], int (&dots)[QUAD]) const {
#pragma unroll
        for (int slot = 0; slot < QUAD; ++slot) {
            int sums[2] = {0, 0};
#pragma unroll
            for (int group = 0; group < 8; ++group)
                sums[group / 4] = dot_signed(word(group, slot), x[group], sums[group / 4]);
            dots[slot] = sums[0] * static_cast<int8_t>(weights[0] >> (8 * slot) & 0xff) +
                         sums[1] * static_cast<int8_t>(weights[1] >> (8 * slot) & 0xff);
        }
    }
    __device__ __forceinline__ void values(const Codebook&, int eight, int slot, float (&out)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) out[i] = signed_byte(word(2 * eight + i / 4, slot), i % 4);
    }
};

template <>
struct Packing<BNB4> {
    static constexpr bool INT8 = true, MIN = true, HALVES = false, AHEAD = true, CODEBOOK = true;
    uint32_t words[4][QUAD];
    uint2 absmax;

    static constexpr __device__ __forceinline__ int block_bytes(int tiles) { return (256 + 16) * tiles; }
    __device__ __forceinline__ void load(const uint8_t* block, int tiles, int tile, int quad) {
        load_lines<4>(words, block + 256 * tile, quad);
        absmax = load_8(block + 256 * tiles + 32 * (tile / 2) + 8 * quad);
    }
    // For integers, whose entries are bytes, `half` is 2.
    __device__ __forceinline__ void scales(const Codebook& book, int half, int, float (&scale)[QUAD],
                                           float (&min)[QUAD]) const {
#pragma unroll
        for (int slot = 0; slot < QUAD; ++slot) {
            scale[slot] = half_of(absmax, slot) * (half == 2 ? book.step : 1.0f);
            min[slot] = half == 2 ? scale[slot] * Codebook::ZERO : 0.0f;
        }
    }
    // Both words of a line: a byte permutation looks up four codes by their lower three bits, in either half of the table;
    // another one chooses by the fourth.
    __device__ __forceinline__ void dot(const Codebook& book, const uint32_t (&x)[8], int (&dots)[QUAD]) const {
#pragma unroll
        for (int slot = 0; slot < QUAD; ++slot) {
            int sum = 0;
#pragma unroll
            for (int line = 0; line < 4; ++line) {
                const uint32_t codes = words[line][slot];
                const uint32_t choice = 0x32103210 | (codes & 0x88888888) >> 1;
                uint32_t found[2];
#pragma unroll
                for (int part = 0; part < 2; ++part) {
                    const uint32_t index = codes >> (16 * part) & 0x7777;
                    const uint32_t lower = __byte_perm(book.entries[0], book.entries[1], index);
                    const uint32_t upper = __byte_perm(book.entries[2], book.entries[3], index);
                    found[part] = __byte_perm(lower, upper, choice >> (16 * part) & 0x7777);
                }
                sum = dot_unsigned(__byte_perm(found[0], found[1], 0x6420), x[2 * line], sum);
                sum = dot_unsigned(__byte_perm(found[0], found[1], 0x7531), x[2 * line + 1], sum);
            }
            dots[slot] = sum;
        }
    }
    __device__ __forceinline__ void values(const Codebook& book, int eight, int slot, float (&out)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            out[i] = __ldg(book.values + (nibbles(words, 2 * eight + i / 4, slot) >> (8 * (i % 4)) & 15));
        }
    }
};

struct Int4 : Nibbles {
    uint2 factors;
    uint32_t zeros;

    __device__ __forceinline__ void load_in_group(const uint8_t* block, int tiles, int tile, int group_of_tile, int quad) {
        load_codes(block, tile, quad);
        const uint8_t* group = block + 256 * tiles + 48 * group_of_tile;
        factors = load_8(group + 8 * quad);
        zeros = load_4(group + 32 + 4 * quad);
    }
    __device__ __forceinline__ void scales(const Codebook&, int, int, float (&scale)[QUAD], float (&min)[QUAD]) const {
#pragma unroll
        for (int slot = 0; slot < QUAD; ++slot) {
            scale[slot] = half_of(factors, slot);
            min[slot] = scale[slot] * unsigned_byte(zeros, slot);
        }
    }
};

template <int TILES>
struct PackingInt4 : Int4 {
    static constexpr __device__ __forceinline__ int block_bytes(int tiles) { return 256 * tiles + 48 * (tiles / TILES); }
    __device__ __forceinline__ void load(const uint8_t* block, int tiles, int tile, int quad) {
        load_in_group(block, tiles, tile, tile / TILES, quad);
    }
};

template <>
struct Packing<INT4_32> : PackingInt4<1> {};
template <>
struct Packing<INT4_64> : PackingInt4<2> {};
template <>
struct Packing<INT4_128> : PackingInt4<4> {};
template <>
struct Packing<INT4_256> : PackingInt4<8> {};

// Groups of any size: what kernels of every format have for the four of these.
struct PackingAnyInt4 : Int4 {
    int shift;  // a group has 1 << shift tiles

    __device__ __forceinline__ void choose(uint32_t format) { shift = format - INT4_32; }
    __device__ __forceinline__ int block_bytes(int tiles) const { return 256 * tiles + 48 * (tiles >> shift); }
    __device__ __forceinline__ void load(const uint8_t* block, int tiles, int tile, int quad) {
        load_in_group(block, tiles, tile, tile >> shift, quad);
    }
};

// Calls `work` with the packing of `format` as its argument's type.
template <class Work>
DEVICE void with_packing(uint32_t format, Work&& work) {
    switch (format) {
        case F16: return work(Packing<F16>{});
        case BF16: return work(Packing<BF16>{});
        case Q8_0: return work(Packing<Q8_0>{});
        case Q4_0: return work(Packing<Q4_0>{});
        case Q4_K: return work(Packing<Q4_K>{});
        case Q5_K: return work(Packing<Q5_K>{});
        case Q6_K: return work(Packing<Q6_K>{});
        case BNB4: return work(Packing<BNB4>{});
        default: return work(PackingAnyInt4{});
    }
}
