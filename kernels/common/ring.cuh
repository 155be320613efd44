// Products of packed strips with one quantised row on tensor cores.
//
// A warp copies its blocks of 256 columns to shared memory, several ahead of their use: the first ones before the row is
// there. An instruction multiplies a tile of 16 rows by 32 columns with eight columns of activations, of which a single row
// fills one. Here the operand's columns are the row's eight tiles of a block, so that it stays the same for all tiles of the
// matrix: each leaves its own sums in a column of its own, side by side with those of the others, and no lane is without work
// when scales are multiplied.
#pragma once
#include "common/decode.cuh"

// How `warps` warps of a block share strips: sets of warps take strips in turn, and the warps of a set the blocks of 256 columns.
struct Shares {
    int blocks, across, sets, set, first;

    __device__ __forceinline__ Shares(int blocks, int warps) : blocks(blocks) {
        across = blocks > warps / 2 ? warps : blocks > warps / 4 ? warps / 2 : warps / 4;
        sets = warps / across;
        const int warp = threadIdx.x / WARP;
        set = warp / across, first = warp % across;
    }
    // How many of `strips` strips the set of this warp takes.
    __device__ __forceinline__ int of(int strips) const { return set < strips ? (strips - 1 - set) / sets + 1 : 0; }
};

// Waits for the oldest of `groups` groups of copies, six at most.
DEVICE void wait_for_oldest(int groups) {
    if (groups == 3) return wait_for_copies_but<2>();
    if (groups == 6) return wait_for_copies_but<5>();
    if (groups == 2) return wait_for_copies_but<1>();
    if (groups == 4) return wait_for_copies_but<3>();
    if (groups == 5) return wait_for_copies_but<4>();
    wait_for_copies_but<0>();
}

// Starts the copies of a whole block; `to` and `from` are this lane's.
template <uint32_t F>
DEVICE void copy_block(uint8_t* to, const uint8_t* from) {
    constexpr int BYTES = Packing<F>::block_bytes(BLOCK / TILE);
#pragma unroll
    for (int at = 0; at < BYTES; at += 16 * WARP) {
        const int lanes = (BYTES - at) / 16;
        if (lanes >= static_cast<int>(WARP) || static_cast<int>(threadIdx.x % WARP) < lanes) {
            copy_16(to + at, from + at, true);
        }
    }
}

// A warp's way through strips: of each its blocks `first`, `first + step` .. of `blocks`. `strip_of(i)` is where the `i`-th of
// `strips` strips begins, `slots` the number of blocks that `shared` has room for.
template <uint32_t F, class StripOf>
struct Ring {
    static constexpr int BYTES = Packing<F>::block_bytes(BLOCK / TILE);
    uint8_t* shared;
    StripOf strip_of;
    const uint8_t* strip;
    int slots, strips, first, step, blocks, number = 0, index, slot = 0;
    bool whole = false;

    __device__ __forceinline__ Ring(uint8_t* shared, int slots, int strips, int first, int step, int blocks,
                                    StripOf strip_of)
        : shared(shared + 16 * (threadIdx.x % WARP)), strip_of(strip_of), slots(slots), strips(first < blocks ? strips : 0),
          first(first), step(step), blocks(blocks), index(first) {
        strip = this->strips > 0 ? strip_of(0) + 16 * (threadIdx.x % WARP) : nullptr;
    }
    // Starts the copies of the first blocks. `in_turn`: one block behind another, because the kernels in front still run, and
    // whatever they exchange would wait in a queue behind all of them.
    __device__ __forceinline__ void start(bool in_turn) {
#pragma unroll 1
        for (int i = 0; i < slots; ++i) {
            if (in_turn && i > 0) wait_for_copies_but<0>();
            fetch(i);
        }
    }
    // Starts the copies of the next block into slot `to`.
    __device__ __forceinline__ void fetch(int to) {
        if (number < strips) {
            copy_block<F>(shared + to * BYTES, strip + index * BYTES);
            index += step;
            if (index >= blocks) {
                index = first;
                ++number;
                if (number < strips) strip = strip_of(number) + 16 * (threadIdx.x % WARP);
            }
        }
        end_copy_group();
    }
    // Waits for all blocks, where there was room for all of them from the start.
    __device__ __forceinline__ void settle() {
        whole = strips * ceil_div(blocks - first, step) <= slots;
        if (!whole) return;
        wait_for_copies_but<0>();
        __syncwarp();
    }
    // The next block, once it is there; until `release`.
    __device__ __forceinline__ const uint8_t* take() const {
        if (!whole) {
            wait_for_oldest(slots);
            __syncwarp();
        }
        return shared + slot * BYTES - 16 * (threadIdx.x % WARP);
    }
    __device__ __forceinline__ void release() {
        if (!whole) {
            __syncwarp();
            fetch(slot);
        }
        if (++slot == slots) slot = 0;
    }
};

// The activations of 256 columns as the second operand, column g of which, lane `4 g + t`'s, is tile g: columns 8 t .. of it. And
// the factors of tiles 2 t and 2 t + 1; SPLIT: of both halves of either.
template <bool SPLIT>
struct RowOperand {
    uint2 own;
    float4 factors[SPLIT ? 2 : 1];

    // Of shared memory.
    __device__ __forceinline__ void load(const Input& input, int block) {
        const Lane lane;
        const int first = block * (BLOCK / TILE);
        own = word_pair(reinterpret_cast<const uint8_t*>(input.codes + 8 * (first + lane.g) + 2 * lane.t));
        factors[0] = *reinterpret_cast<const float4*>(input.factors + first + 2 * lane.t);
    }
    // Of a row that the kernel in front has quantised, past the first-level cache.
    __device__ __forceinline__ void load(const QuantisedRow& row, int block) {
        const Lane lane;
        const int first = block * (BLOCK / TILE);
        own = __ldcg(reinterpret_cast<const uint2*>(row.codes + 8 * (first + lane.g) + 2 * lane.t));
        const float4* from = reinterpret_cast<const float4*>(row.factors + (SPLIT ? 2 : 1) * (first + 2 * lane.t));
        factors[0] = __ldcg(from);
        if constexpr (SPLIT) factors[1] = __ldcg(from + 1);
    }
};

// Adds the products of a block: lane `4 g + t` the sums of tiles 2 t and 2 t + 1 of rows g and g + 8.
template <uint32_t F, bool SPLIT>
DEVICE void multiply_row(Fragment<F>& fragment, const uint8_t* block, const RowOperand<SPLIT>& x, float (&sums)[2]) {
    constexpr bool HALVES = Fragment<F>::HALVES;
    constexpr int TILES = BLOCK / TILE, PARTS = HALVES || SPLIT ? 2 : 1;
    const Lane lane;
    fragment.begin(block, TILES, lane);
    const uint2 own = F == BNB4 ? by_nibble(x.own) : x.own;
    // Of what an instruction leaves, a tile by all tiles of the row, one column is wanted.
    int d[PARTS][2][2];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        uint32_t a[4];
        if constexpr (F == BNB4) {
            fragment.codes_by_nibble(block, tile, lane, a);
        } else {
            fragment.codes(block, TILES, tile, lane, a);
        }
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            // Columns 0 to 15 of a tile are those of the first two lanes of four.
            const bool counts = PARTS == 1 || lane.t / 2 == part;
            int product[4];
            multiply_tile<Fragment<F>::SIGNED>(product, a, counts ? own : make_uint2(0, 0));
            if (lane.t == tile / 2) d[part][tile % 2][0] = product[tile % 2], d[part][tile % 2][1] = product[2 + tile % 2];
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int tile = 2 * lane.t + i;
        // Factor and total of the tile, or of its first and its second half.
        float4 f = i == 0 ? x.factors[0] : make_float4(x.factors[0].z, x.factors[0].w, 0.0f, 0.0f);
        if constexpr (SPLIT) f = x.factors[i];
        const float total = SPLIT ? f.y + f.w : f.y;
        float2 scale, least = make_float2(0.0f, 0.0f);
        fragment.scales(block, TILES, tile, lane, scale, least);
        float products[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            int first = d[0][i][row], second = PARTS > 1 ? d[PARTS - 1][i][row] : 0;
            if constexpr (HALVES) {
                const int2 lower = fragment.weights(block, TILES, tile, 0, lane);
                const int2 upper = fragment.weights(block, TILES, tile, 1, lane);
                first *= row == 0 ? lower.x : lower.y, second *= row == 0 ? upper.x : upper.y;
            }
            products[row] = SPLIT ? fmaf(static_cast<float>(first), f.x, static_cast<float>(second) * f.z)
                                  : static_cast<float>(first + second) * f.x;
        }
        if constexpr (Fragment<F>::MIN) {
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
