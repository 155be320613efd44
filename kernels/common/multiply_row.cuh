// A block of a packed strip, 16 rows by 256 columns, times one quantised row on tensor cores.
//
// An instruction adds the products of 16 rows by 32 columns with eight columns of activations, of which a single row fills one.
// Here each tile of the row has columns of its own, and zeros elsewhere: tiles are added up one behind another, each in its
// columns, until every lane has the sums of tiles whose scales it multiplies, and none has to pick them out of others.
//
// High nibbles stay where they are. A byte is `low + 16 high`: what bytes give with the row's columns of their high nibbles, less
// what the low nibbles give with these, is 16 times what is wanted of the high ones.
#pragma once
#include "common/codebook_halves.cuh"

// Where a quantised row is: in shared memory, or where the kernel in front has put it, which is read past the first-level cache.
struct NearRow {
    const uint32_t* codes;
    const float2* factors;
    template <class T>
    static __device__ __forceinline__ T load(const T* p) { return *p; }
};
struct FarRow {
    const uint32_t* codes;
    const float2* factors;
    template <class T>
    static __device__ __forceinline__ T load(const T* p) { return __ldcg(p); }
};

// SPLIT: the halves of the row's tiles have factors of their own.
template <uint32_t F, bool SPLIT>
struct RowShape {
    static constexpr bool NIBBLES = IS_NIBBLES<F>;
    static constexpr bool HALVES = SPLIT || RowFragment<F>::HALVES;
    // Tiles of a lane, and how many of its sums belong to one: halves of it, unless these are of tiles of their own.
    static constexpr int OWN = NIBBLES && SPLIT ? 4 : 2, PARTS = HALVES && !NIBBLES ? 2 : 1;
    // The `i`-th tile of a lane.
    static __device__ __forceinline__ int tile(int i) {
        const Lane lane;
        if (!NIBBLES) return 2 * lane.t + i;
        return SPLIT ? 2 * i + lane.t / 2 : 4 * i + lane.t;
    }
};

// The activations of 256 columns as second operands, and the factors of the sums of this lane's tiles.
template <uint32_t F, bool SPLIT>
struct RowOperand {
    using Shape = RowShape<F, SPLIT>;
    static constexpr int TILES = BLOCK / TILE;
    static constexpr int OPERANDS = Shape::NIBBLES ? TILES / 2 : TILES;  // each for one tile, or for two
    uint2 operands[OPERANDS];
    float2 factors[Shape::OWN][Shape::PARTS];

    template <class Row>
    __device__ __forceinline__ void load(const Row& row, int block) {
        const Lane lane;
        const int first = block * TILES;
        const auto unless = [](bool zero, uint32_t word) { return zero ? 0 : word; };
        if constexpr (Shape::NIBBLES) {
            // Column 2 t has those of the low nibbles of lane t's tile, the next one those of the high ones.
            const bool high = lane.g % 2, half = !SPLIT || lane.g / 2 % 2 == lane.t / 2;
            uint32_t words[Shape::OWN];
#pragma unroll
            for (int i = 0; i < Shape::OWN; ++i) {
                const int tile = first + (SPLIT ? 2 * i + lane.g / 4 : 4 * i + lane.g / 2);
                words[i] = Row::load(row.codes + 8 * tile + 2 * lane.t + high);
            }
#pragma unroll
            for (int pair = 0; pair < OPERANDS; ++pair) {
                const uint32_t word = words[SPLIT ? pair : pair / 2];
                const int own = SPLIT ? lane.g / 4 : lane.g / 2 - 2 * (pair % 2);
                operands[pair] = make_uint2(unless(own != 0 || !half, word), unless(own != 1 || !half, word));
            }
        } else {
            uint2 words[Shape::PARTS];
#pragma unroll
            for (int i = 0; i < Shape::PARTS; ++i) {
                const int tile = first + (Shape::HALVES ? lane.g / 2 * 2 + i : lane.g);
                const uint2 own = Row::load(reinterpret_cast<const uint2*>(row.codes + 8 * tile + 2 * lane.t));
                words[i] = F == BNB4 ? by_nibble(own) : own;
            }
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                const uint2 own = words[tile % Shape::PARTS];
                const bool zero = Shape::HALVES ? lane.g / 2 != tile / 2 || lane.g % 2 != lane.t / 2 : lane.g != tile;
                operands[tile] = make_uint2(unless(zero, own.x), unless(zero, own.y));
            }
        }
#pragma unroll
        for (int i = 0; i < Shape::OWN; ++i) {
            const int tile = first + Shape::tile(i);
#pragma unroll
            for (int part = 0; part < Shape::PARTS; ++part) {
                const int half = Shape::NIBBLES ? lane.t % 2 : part;
                factors[i][part] = Row::load(row.factors + (SPLIT ? 2 * tile + half : tile));
                // High nibbles count sixteen times.
                if (Shape::NIBBLES) factors[i][part].x *= 0.0625f;
            }
        }
    }
};

template <class Shape, class Work>
DEVICE void for_sums(Work work) {
#pragma unroll
    for (int i = 0; i < Shape::OWN; ++i) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
#pragma unroll
            for (int part = 0; part < Shape::PARTS; ++part) work(i, row, part);
        }
    }
}

// The integer sums of rows g and g + 8: `[tile][row][part]`.
template <uint32_t F, bool SPLIT>
DEVICE void sum_codes(const RowFragment<F>& fragment, const uint8_t* block, const RowOperand<F, SPLIT>& x,
                      int (&sums)[RowShape<F, SPLIT>::OWN][2][RowShape<F, SPLIT>::PARTS]) {
    using Shape = RowShape<F, SPLIT>;
    constexpr int TILES = BLOCK / TILE;
    const Lane lane;
    if constexpr (Shape::NIBBLES) {
        int bytes[Shape::OWN][4], low[Shape::OWN][4];
#pragma unroll
        for (int pair = 0; pair < TILES / 2; ++pair) {
            const int into = SPLIT ? pair : pair / 2;
            const bool put = SPLIT || pair % 2 == 0;
            const uint2 even = fragment.words(block, 2 * pair, lane), odd = fragment.words(block, 2 * pair + 1, lane);
            const uint32_t a[4] = {even.x, even.y, odd.x, odd.y};
            const uint32_t of_low[4] = {a[0] & 0x0f0f0f0f, a[1] & 0x0f0f0f0f, a[2] & 0x0f0f0f0f, a[3] & 0x0f0f0f0f};
            add_or_put<false>(bytes[into], a, x.operands[pair], put);
            add_or_put<false>(low[into], of_low, x.operands[pair], put);
        }
        for_sums<Shape>([&](int i, int row, int) {
            sums[i][row][0] = 16 * low[i][2 * row] + (bytes[i][2 * row + 1] - low[i][2 * row + 1]);
        });
    } else if constexpr (F == BNB4) {
        // Halves of the codebook apart; halves of tiles: even and odd tiles, too.
        constexpr int APART = Shape::PARTS;
        int d[2][APART][4];
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            const uint2 first = line_words(block + 256 * tile, lane.t, lane.t >= 2, lane.g);
            const uint2 others = make_uint2(first.x ^ 0x88888888, first.y ^ 0x88888888);
            uint32_t a[4];
            codes_of_half(fragment.book.entries[0], fragment.book.entries[1], first, a);
            add_or_put<false>(d[0][tile % APART], a, x.operands[tile], tile < APART);
            codes_of_half(fragment.book.entries[2], fragment.book.entries[3], others, a);
            add_or_put<false>(d[1][tile % APART], a, x.operands[tile], tile < APART);
        }
        for_sums<Shape>([&](int i, int row, int part) {
            const int at = 2 * row + (Shape::PARTS == 2 ? part : i);
            sums[i][row][part] = d[1][i % APART][at] + fragment.book.first_counts * d[0][i % APART][at];
        });
    } else {
        // Even and odd tiles apart.
        int d[2][4];
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            uint32_t a[4];
            fragment.codes(block, TILES, tile, lane, a);
            add_or_put<RowFragment<F>::SIGNED>(d[tile % 2], a, x.operands[tile], tile < 2);
        }
        for_sums<Shape>([&](int i, int row, int part) {
            sums[i][row][part] = d[i][2 * row + (Shape::PARTS == 2 ? part : i)];
        });
    }
}

// Adds the products of a block: every lane some tiles' of rows g and g + 8.
template <uint32_t F, bool SPLIT>
DEVICE void multiply_row(RowFragment<F>& fragment, const uint8_t* block, const RowOperand<F, SPLIT>& x, float (&sums)[2]) {
    using Shape = RowShape<F, SPLIT>;
    constexpr int TILES = BLOCK / TILE;
    const Lane lane;
    fragment.begin(block, TILES, lane);
    int codes[Shape::OWN][2][Shape::PARTS];
    sum_codes<F, SPLIT>(fragment, block, x, codes);
#pragma unroll
    for (int i = 0; i < Shape::OWN; ++i) {
        const int tile = Shape::tile(i);
        float2 scale, least = make_float2(0.0f, 0.0f);
        fragment.scales(block, TILES, tile, lane, scale, least);
        float products[2], total = x.factors[i][0].y;
#pragma unroll
        for (int part = 0; part < Shape::PARTS; ++part) {
            int weights[2] = {1, 1};
            if constexpr (RowFragment<F>::HALVES) {
                const int2 own = fragment.weights(block, TILES, tile, part, lane);
                weights[0] = own.x, weights[1] = own.y;
            }
            const float2 factor = x.factors[i][part];
            if (SPLIT && part > 0) total += factor.y;
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                const float sum = static_cast<float>(codes[i][row][part] * weights[row]);
                products[row] = part == 0 ? sum * factor.x : fmaf(sum, factor.x, products[row]);
            }
        }
        if constexpr (RowFragment<F>::MIN) {
            sums[0] = fmaf(-least.x, total, sums[0]), sums[1] = fmaf(-least.y, total, sums[1]);
        }
        sums[0] = fmaf(products[0], scale.x, sums[0]), sums[1] = fmaf(products[1], scale.y, sums[1]);
    }
}

// Puts the sums of the strip's sixteen rows, over all tiles, into `out[row]`.
DEVICE void put_sums(const float (&sums)[2], float* out) {
    const Lane lane;
    const bool odd = lane.t & 1;
    const float keep = odd ? sums[1] : sums[0], give = odd ? sums[0] : sums[1];
    float sum = keep + __shfl_xor_sync(ALL_LANES, give, 1);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);
    if (lane.t < 2) out[lane.g + 8 * odd] = sum;
}
