// How a warp reads tiles of a packed matrix in shared memory as the first operand of mma.m16n8k32: lane `4 g + t` has rows g and
// g + 8, columns 8 t .. 8 t + 7, which are eight neighbouring bytes of line t (src/quant/packed/layout.rs). The products do not mind
// that the columns are numbered otherwise than the instruction numbers them, as long as both operands do it alike.
//
// A fragment has: `begin`, for each block; `codes`: rows g and g + 8 of columns 8 t .. 8 t + 3, then of 8 t + 4 .. 8 t + 7, or
// `words`, where they are nibbles, as they stand; `scales` of the two rows. SIGNED: codes are signed bytes. MIN: there are minima.
// HALVES: the halves of a tile have integer weights of their own, see `weights`.
#pragma once
#include <type_traits>

#include "common/packing.cuh"

struct Lane {
    int g, t;
    __device__ __forceinline__ Lane() : g(threadIdx.x % WARP / 4), t(threadIdx.x % 4) {}
};

// Dot products that begin with this are the bits of floats that are larger by MAGIC_VALUE, where they are smaller than 2^22.
const int MAGIC = 0x4b400000;
const float MAGIC_VALUE = 12582912.0f;

// Adds the products of a tile to what is there, or, `put`, to `first` in its place.
template <bool SIGNED>
DEVICE void add_or_put(int (&d)[4], const uint32_t (&a)[4], uint2 b, bool put, int first = 0) {
    if (put) return multiply_tile<SIGNED>(d, a, b, first);
    add_tile<SIGNED>(d, a, b);
}

DEVICE uint2 word_pair(const uint8_t* p) { return *reinterpret_cast<const uint2*>(p); }

// Two bytes-of-four of rows g and g + 8 in line `line` of a tile whose lines are rotated from `half` on.
DEVICE uint2 line_words(const uint8_t* lines, int line, bool rotated, int g) {
    return word_pair(lines + 64 * line + (8 * g + (rotated ? 32 : 0)) % 64);
}

// Halves of rows g and g + 8 of sixteen in slot order.
DEVICE float2 two_halves(const uint8_t* sixteen, int g) {
    return unpack_halves(*reinterpret_cast<const uint32_t*>(sixteen + 4 * g));
}

DEVICE void split_nibbles(uint2 words, uint32_t (&a)[4]) {
    a[0] = words.x & 0x0f0f0f0f, a[1] = words.y & 0x0f0f0f0f;
    a[2] = words.x >> 4 & 0x0f0f0f0f, a[3] = words.y >> 4 & 0x0f0f0f0f;
}

struct NibbleFragment {
    static constexpr bool SIGNED = false, MIN = true, HALVES = false;
    // Of rows g and g + 8: low nibbles are columns 8 t .. 8 t + 3, high ones the next four.
    __device__ __forceinline__ uint2 words(const uint8_t* block, int tile, Lane lane) const {
        return line_words(block + 256 * tile, lane.t, lane.t >= 2, lane.g);
    }
    __device__ __forceinline__ void codes(const uint8_t* block, int, int tile, Lane lane, uint32_t (&a)[4]) const {
        split_nibbles(words(block, tile, lane), a);
    }
};

template <uint32_t F>
struct Fragment;

template <uint32_t F>
constexpr bool IS_NIBBLES = std::is_base_of<NibbleFragment, Fragment<F>>::value;

template <>
struct Fragment<Q4_0> : NibbleFragment {
    __device__ __forceinline__ explicit Fragment(const Matrix&) {}
    __device__ __forceinline__ void begin(const uint8_t*, int, Lane) {}
    __device__ __forceinline__ void scales(const uint8_t* block, int tiles, int tile, Lane lane, float2& scale,
                                           float2& min) const {
        scale = two_halves(block + 256 * tiles + 32 * tile, lane.g);
        min = make_float2(8.0f * scale.x, 8.0f * scale.y);
    }
};

template <>
struct Fragment<Q8_0> {
    static constexpr bool SIGNED = true, MIN = false, HALVES = false;
    __device__ __forceinline__ explicit Fragment(const Matrix&) {}
    __device__ __forceinline__ void begin(const uint8_t*, int, Lane) {}
    __device__ __forceinline__ void codes(const uint8_t* block, int, int tile, Lane lane, uint32_t (&a)[4]) const {
        const bool rotated = lane.t >= 2;
        const uint2 first = line_words(block + 512 * tile, 2 * lane.t, rotated, lane.g);
        const uint2 second = line_words(block + 512 * tile, 2 * lane.t + 1, rotated, lane.g);
        a[0] = first.x, a[1] = first.y, a[2] = second.x, a[3] = second.y;
    }
    __device__ __forceinline__ void scales(const uint8_t* block, int tiles, int tile, Lane lane, float2& scale,
                                           float2&) const {
        scale = two_halves(block + 512 * tiles + 32 * tile, lane.g);
    }
};

// Scales and minima of Q4_K and Q5_K, whose records stand behind `BEFORE` bytes a tile: see `k_scales` in common/packing.cuh.
// Slots 2 g and 2 g + 1 are two of quad g / 2.
//
// A record's fields of six bits are taken where they stand: two bytes have those of slots 2 g and 2 g + 1, from their fifth bit on
// where g is odd. With the bits of 2^23 before it a field is a float without a conversion, and what it is multiplied with makes
// up for its place.
template <int BEFORE>
struct KScales {
    static constexpr float TWO_TO_23 = 8388608.0f;
    float2 d, dmin;
    static __device__ __forceinline__ float times_field(float factor, uint32_t bytes, uint32_t mask) {
        return fmaf(factor, __uint_as_float((bytes & mask) | 0x4b000000), -TWO_TO_23 * factor);
    }
    __device__ __forceinline__ void begin(const uint8_t* block, int tiles, Lane lane) {
        const uint8_t* records = block + BEFORE * tiles + 8 * (lane.g / 2) + 6;
        const bool odd = lane.g % 2;
        const float first = odd ? 0.0625f : 1.0f, second = first / 64.0f;
        const auto own = [&](int tile) { return half_bits(*reinterpret_cast<const uint16_t*>(records + 32 * (tile + 4 * odd))); };
        d = make_float2(first * own(0), second * own(2));
        dmin = make_float2(first * own(1), second * own(3));
    }
    __device__ __forceinline__ void scales(const uint8_t* block, int tiles, int tile, Lane lane, float2& scale,
                                           float2& min) const {
        const uint2 record = word_pair(block + BEFORE * tiles + 32 * tile + 8 * (lane.g / 2));
        const bool odd = lane.g % 2;
        const uint32_t first = odd ? 63 << 4 : 63, second = first << 6;
        const uint32_t codes = __byte_perm(record.x, record.y, odd ? 0x2121 : 0x1010);
        const uint32_t mins = __byte_perm(record.x, record.y, odd ? 0x5454 : 0x4343);
        scale = make_float2(times_field(d.x, codes, first), times_field(d.y, codes, second));
        min = make_float2(times_field(dmin.x, mins, first), times_field(dmin.y, mins, second));
    }
};

template <>
struct Fragment<Q4_K> : NibbleFragment, KScales<256> {
    __device__ __forceinline__ explicit Fragment(const Matrix&) {}
};

template <>
struct Fragment<Q5_K> : KScales<320> {
    static constexpr bool SIGNED = false, MIN = true, HALVES = false;
    __device__ __forceinline__ explicit Fragment(const Matrix&) {}
    __device__ __forceinline__ void codes(const uint8_t* block, int tiles, int tile, Lane lane, uint32_t (&a)[4]) const {
        split_nibbles(line_words(block + 256 * tile, lane.t, lane.t >= 2, lane.g), a);
        // The upper bits of columns 4 i .. are bit i of each byte.
        const uint2 bits = word_pair(block + 256 * tiles + 64 * tile + 8 * lane.g);
        const int first = 2 * lane.t;
        a[0] |= (bits.x >> first & 0x01010101) << 4, a[1] |= (bits.y >> first & 0x01010101) << 4;
        a[2] |= (bits.x >> (first + 1) & 0x01010101) << 4, a[3] |= (bits.y >> (first + 1) & 0x01010101) << 4;
    }
};

template <>
struct Fragment<Q6_K> {
    static constexpr bool SIGNED = true, MIN = false, HALVES = true;
    float2 d;
    __device__ __forceinline__ explicit Fragment(const Matrix&) {}
    __device__ __forceinline__ void begin(const uint8_t* block, int tiles, Lane lane) {
        d = two_halves(block + 416 * tiles, lane.g);
    }
    // Codes less 32, from -32 to 31: the upper bits of columns 16 h + 4 i .. are pair i of each byte of line h.
    __device__ __forceinline__ void codes(const uint8_t* block, int tiles, int tile, Lane lane, uint32_t (&a)[4]) const {
        split_nibbles(line_words(block + 256 * tile, lane.t, lane.t >= 2, lane.g), a);
        const uint2 crumbs = line_words(block + 256 * tiles + 128 * tile, lane.t / 2, lane.t >= 2, lane.g);
        const int first = 4 * (lane.t % 2);
        const auto join = [](uint32_t low, uint32_t pairs) {
            // Six bits less 32, without a borrow into the next byte.
            const uint32_t code = low | (pairs & 0x03030303) << 4;
            return __vsub4(code, 0x20202020);
        };
        a[0] = join(a[0], crumbs.x >> first), a[1] = join(a[1], crumbs.y >> first);
        a[2] = join(a[2], crumbs.x >> (first + 2)), a[3] = join(a[3], crumbs.y >> (first + 2));
    }
    __device__ __forceinline__ void scales(const uint8_t*, int, int, Lane, float2& scale, float2&) const { scale = d; }
    // What the halves of the tile count, of rows g and g + 8.
    __device__ __forceinline__ int2 weights(const uint8_t* block, int tiles, int tile, int half, Lane lane) const {
        const uint8_t* p = block + 384 * tiles + 32 * tile + 16 * half + 2 * lane.g;
        return make_int2(static_cast<int8_t>(p[0]), static_cast<int8_t>(p[1]));
    }
};

template <>
struct Fragment<BNB4> {
    static constexpr bool SIGNED = false, MIN = true, HALVES = false;
    Codebook book;
    __device__ __forceinline__ explicit Fragment(const Matrix& m) { book.load(m); }
    __device__ __forceinline__ void begin(const uint8_t*, int, Lane) {}
    // The entries of eight codes in the order of a word's nibbles: see `Packing<BNB4>::dot`.
    __device__ __forceinline__ uint2 look_up(uint32_t codes) const {
        const uint32_t choice = 0x32103210 | (codes & 0x88888888) >> 1, index = codes & 0x77777777;
        uint32_t found[2];
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const uint32_t lower = permute_bytes(book.entries[0], book.entries[1], index >> (16 * part));
            const uint32_t upper = permute_bytes(book.entries[2], book.entries[3], index >> (16 * part));
            found[part] = permute_bytes(lower, upper, choice >> (16 * part));
        }
        return make_uint2(found[0], found[1]);
    }
    __device__ __forceinline__ void codes(const uint8_t* block, int, int tile, Lane lane, uint32_t (&a)[4]) const {
        const uint2 words = line_words(block + 256 * tile, lane.t, lane.t >= 2, lane.g);
        const uint2 first = look_up(words.x), second = look_up(words.y);
        const uint32_t pairs[4] = {first.x, second.x, first.y, second.y};
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            a[row] = __byte_perm(pairs[row], pairs[row + 2], 0x6420);
            a[row + 2] = __byte_perm(pairs[row], pairs[row + 2], 0x7531);
        }
    }
    __device__ __forceinline__ void scales(const uint8_t* block, int tiles, int tile, Lane lane, float2& scale,
                                           float2& min) const {
        const float2 absmax = two_halves(block + 256 * tiles + 32 * (tile / 2), lane.g);
        scale = make_float2(absmax.x * book.step, absmax.y * book.step);
        min = make_float2(scale.x * Codebook::ZERO, scale.y * Codebook::ZERO);
    }
};

template <int TILES>
struct Int4Fragment : NibbleFragment {
    __device__ __forceinline__ void begin(const uint8_t*, int, Lane) {}
    __device__ __forceinline__ void scales(const uint8_t* block, int tiles, int tile, Lane lane, float2& scale,
                                           float2& min) const {
        const uint8_t* group = block + 256 * tiles + 48 * (tile / TILES);
        scale = two_halves(group, lane.g);
        min = make_float2(scale.x * group[32 + 2 * lane.g], scale.y * group[33 + 2 * lane.g]);
    }
};

template <>
struct Fragment<INT4_32> : Int4Fragment<1> {
    __device__ __forceinline__ explicit Fragment(const Matrix&) {}
};
template <>
struct Fragment<INT4_64> : Int4Fragment<2> {
    __device__ __forceinline__ explicit Fragment(const Matrix&) {}
};
template <>
struct Fragment<INT4_128> : Int4Fragment<4> {
    __device__ __forceinline__ explicit Fragment(const Matrix&) {}
};
template <>
struct Fragment<INT4_256> : Int4Fragment<8> {
    __device__ __forceinline__ explicit Fragment(const Matrix&) {}
};

// `KERNEL(format, name)` for each format that takes int8; kernels are called by these names (`INT8_FORMATS` in `src/cuda/args.rs`).
// A kernel of all formats takes the compiler several times as long, and gives each of them the registers of the largest.
#define FOR_INT8_FORMATS(KERNEL) \
    KERNEL(Q8_0, q8_0)           \
    KERNEL(Q4_0, q4_0)           \
    KERNEL(Q4_K, q4_k)           \
    KERNEL(Q5_K, q5_k)           \
    KERNEL(Q6_K, q6_k)           \
    KERNEL(BNB4, bnb4)           \
    KERNEL(INT4_32, int4_32)     \
    KERNEL(INT4_64, int4_64)     \
    KERNEL(INT4_128, int4_128)   \
    KERNEL(INT4_256, int4_256)
