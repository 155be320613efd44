// What the kernels of experts for few rows do alike: a warp multiplies pairs of strips with pairs of rows of activations.
//
// A block keeps the rows of its items in shared memory. Its warps do not wait for each other; each copies the blocks of its
// strips to shared memory ahead of their use.
#pragma once
#include "common/ring.cuh"
#include "moe/few_part.cuh"
#include "moe/few_rows.cuh"

// Of a block: as many as leave each the registers it wants.
const int FEW_THREADS = 384;
// Pairs of blocks that a warp has in shared memory: one or two (`src/cuda/few_rows.rs`).
const int MOST_SLOTS = 2;

// Two strips that are multiplied with the same activations.
struct StripPair {
    const uint8_t *first, *second;
};

// How both strips of a pair are decoded: of one matrix, or of two.
template <uint32_t F>
struct OneMatrix {
    Fragment<F> both;
    __device__ __forceinline__ explicit OneMatrix(const Matrix& m) : both(m) {}
    __device__ __forceinline__ const Fragment<F>& first() const { return both; }
    __device__ __forceinline__ const Fragment<F>& second() const { return both; }
};
template <uint32_t F>
struct TwoMatrices {
    Fragment<F> one, other;
    __device__ __forceinline__ TwoMatrices(const Matrix& one, const Matrix& other) : one(one), other(other) {}
    __device__ __forceinline__ const Fragment<F>& first() const { return one; }
    __device__ __forceinline__ const Fragment<F>& second() const { return other; }
};

// A warp's units. `Half` is `FewItems`, and tells of its kernel: `pairs_of(item)` of strips, of `blocks_of(item)` blocks of 256
// columns each; `strips_of(item, pair)`, and `pair_bytes(item)` from one pair to the next; `column_of(item, entry)` where the
// activations of an entry begin; `fragments_of(item)`, to decode both strips with; and `put(item, pair, row, sum, sum)`, for rows
// of the item and one behind them.
template <uint32_t F, bool SPLIT, int FACTORS, class Half>
struct FewUnits {
    static constexpr int BYTES = Packing<F>::block_bytes(BLOCK / TILE);
    // Floats that a lane sums up of a strip with a pair of rows.
    static constexpr int SUMS = SPLIT ? 2 : 4;
    // Sums of both strips.
    using PairSums = FewSums<SPLIT>[2];
    // A unit of this warp: blocks `first`, `first + step` .. of a pair of an item are the warp's. No step: there is none.
    struct Place {
        int number, whole;  // of the block's units; and how many whole ones the warp has from here on
        int item, pair, pairs, first, step;
    };
    const Half& half;
    const FewPart& part;
    const Lane lane;
    const int warp, warps, slots;
    uint8_t* const copies;          // [slots][2][BYTES] of this warp
    RowPair<FACTORS>* const rows;   // [pairs of rows][blocks]
    // What is copied next: block `block` of the strips of unit `ahead`, which begin at `strips` for this lane.
    Place ahead;
    StripPair strips;
    int block, blocks;

    __device__ __forceinline__ FewUnits(const Half& half, uint8_t* shared_memory, int slots)
        : half(half), part(half.part), warp(threadIdx.x / WARP), warps(blockDim.x / WARP), slots(slots),
          copies(shared_memory + warp * (slots * 2 * BYTES)),
          rows(reinterpret_cast<RowPair<FACTORS>*>(shared_memory + warps * (slots * 2 * BYTES))), ahead(first_place()) {
        begin();
    }

    __device__ __forceinline__ int item_of(int number, int& pair) const {
        const bool shared = number < part.shared;
        const int first = shared ? part.items.routed : 0, pairs = half.pairs_of(first);
        const int unit = shared ? part.first_shared + number : part.first_routed + number - part.shared;
        pair = unit % pairs;
        return first + unit / pairs;
    }
    __device__ __forceinline__ void find(Place& at) const {
        at.item = item_of(at.number, at.pair), at.pairs = half.pairs_of(at.item);
    }
    // The warps have as many neighbouring whole units each, and share those that are left.
    __device__ __forceinline__ Place first_place() const {
        Place at = {};
        at.number = warp * part.turns, at.whole = part.turns, at.step = 1;
        if (at.whole > 0) {
            find(at);
        } else {
            go_to_shared(at);
        }
        return at;
    }
    __device__ __forceinline__ void go_to_shared(Place& at) const {
        at.number = part.turns * warps + warp / part.split, at.first = warp % part.split, at.step = part.split;
        if (at.number < part.units) {
            find(at);
        } else {
            at.step = 0;
        }
    }
    // True where the item is the same.
    __device__ __forceinline__ bool advance(Place& at) const {
        if (--at.whole <= 0) {
            if (at.whole < 0) {
                at.step = 0;
            } else {
                go_to_shared(at);
            }
            return false;
        }
        ++at.number;
        if (++at.pair < at.pairs && at.number != part.shared) return true;
        find(at);
        return false;
    }

    __device__ __forceinline__ void begin() {
        if (ahead.step == 0) return;
        strips = half.strips_of(ahead.item, ahead.pair);
        strips.first += 16 * (threadIdx.x % WARP), strips.second += 16 * (threadIdx.x % WARP);
        block = ahead.first, blocks = half.blocks_of(ahead.item);
    }
    // Starts the copies of the next blocks of both strips into slot `to`.
    __device__ __forceinline__ void fetch(int to) {
        if (ahead.step > 0) {
            uint8_t* target = copies + to * (2 * BYTES) + 16 * (threadIdx.x % WARP);
            copy_block<F>(target, strips.first + block * BYTES);
            copy_block<F>(target + BYTES, strips.second + block * BYTES);
            block += ahead.step;
            if (block >= blocks) {
                if (advance(ahead)) {
                    const uint32_t bytes = half.pair_bytes(ahead.item);
                    strips.first += bytes, strips.second += bytes, block = 0;
                } else {
                    begin();
                }
            }
        }
        end_copy_group();
    }
    __device__ __forceinline__ void start() {
#pragma unroll 1
        for (int i = 0; i < slots; ++i) fetch(i);
    }

    // Where the rows of an item begin in `rows`: those of the routed ones are behind those of the shared expert.
    __device__ __forceinline__ int row_pair(int item) const {
        int pair, before = 0;
        const bool routed = half.is_routed(item);
        const int first = item_of(routed ? part.shared : 0, pair);
        if (routed && part.shared > 0) {
            const int last = item_of(part.shared - 1, pair);
            const int end = part.list[last].first_pair + (part.list[last].count + 1) / 2;
            before = (end - part.list[item_of(0, pair)].first_pair) * half.blocks_of(last);
        }
        return before + (part.list[item].first_pair - part.list[first].first_pair) * half.blocks_of(item);
    }
    // Copies the rows of the block's items to shared memory, with all threads of the block. A barrier is the caller's.
    __device__ __forceinline__ void copy_rows(const QuantisedRow& input) const {
        int pair;
        if (part.shared > 0) copy_rows_of(item_of(0, pair), item_of(part.shared - 1, pair), input);
        if (part.shared < part.units) copy_rows_of(item_of(part.shared, pair), item_of(part.units - 1, pair), input);
    }
    __device__ __forceinline__ void copy_rows_of(int first, int last, const QuantisedRow& input) const {
        const int of_row = half.blocks_of(first) * BLOCK;
        RowPair<FACTORS>* to = rows + row_pair(first);
        // A warp takes 512 columns of a row at a time.
        int turn = 0;
        for (int item = first; item <= last; ++item) {
            const FewItem& of = part.list[item];
            // The second row of a pair of one is whatever was there: its sums are nobody's.
            for (int row = 0; row < of.count; ++row) {
                const uint32_t column = half.column_of(item, of.entries[row]);
                for (int at = 0; at < of_row; at += 16 * WARP) {
                    if (++turn == warps) turn = 0;
                    const int col = at + 16 * (threadIdx.x % WARP);
                    if (turn != warp || col >= of_row) continue;
                    RowPair<FACTORS>& pair = to[col / BLOCK];
                    const int tile = col % BLOCK / TILE, half_tile = col / 16 % 2;
                    const uint4 codes = __ldcg(reinterpret_cast<const uint4*>(input.codes + (column + col) / 4));
                    *reinterpret_cast<uint4*>(pair.codes[tile][row % 2] + 4 * half_tile) = codes;
                    if (half_tile >= FACTORS) continue;
                    float2 factor = __ldcg(input.factors + (column + col) / TILE * FACTORS + half_tile);
                    // Integer products of nibbles are sixteen times what they are: `multiply_codes`.
                    if (IS_NIBBLES<F>) factor.x *= 0.0625f;
                    pair.factors[tile][row % 2][half_tile] = factor;
                }
                if (row % 2 == 1) to += half.blocks_of(first);
            }
            if (of.count % 2 == 1) to += half.blocks_of(first);
        }
    }

    // Adds the products of the blocks of both strips at `here` with a pair of rows.
    template <class Fragments>
    __device__ __forceinline__ void multiply_pair(const Fragments& fragments, const uint8_t* here, const RowPair<FACTORS>& x,
                                                  PairSums& sums) const {
        using Operand = FewOperand<SPLIT>;
        Fragment<F> first = fragments.first(), second = fragments.second();
        first.begin(here, BLOCK / TILE, lane), second.begin(here + BYTES, BLOCK / TILE, lane);
#pragma unroll
        for (int group = 0; group < Operand::GROUPS; ++group) {
            const Operand operand(x, group, lane);
            multiply_group<F, SPLIT>(first, here, operand, group, lane, sums[0]);
            multiply_group<F, SPLIT>(second, here + BYTES, operand, group, lane, sums[1]);
        }
    }
    // Multiplies all units, once the rows are there. Every warp comes here; they do not come back together.
    __device__ __forceinline__ void multiply() {
        int slot = 0;
        Place own = first_place();
        int of_fragments = own.item;
        auto fragments = half.fragments_of(own.item);
        const RowPair<FACTORS>* x;
        int count, of_item;
        for (bool same = false; own.step > 0; same = advance(own)) {
            if (!same) {
                if (Packing<F>::CODEBOOK && own.item != of_fragments) fragments = half.fragments_of(own.item);
                of_fragments = own.item;
                x = rows + row_pair(own.item);
                count = part.list[own.item].count, of_item = half.blocks_of(own.item);
            }
            // Of both pairs of rows.
            PairSums sums[2] = {};
#pragma unroll 1
            for (int i = own.first; i < of_item; i += own.step) {
                if (slots == 1) {
                    wait_for_copies_but<0>();
                } else {
                    wait_for_copies_but<MOST_SLOTS - 1>();
                }
                __syncwarp();
                int here = slot * (2 * BYTES);
                multiply_pair(fragments, copies + here, x[i], sums[0]);
                if (count > 2) {
                    forget(here);
                    multiply_pair(fragments, copies + here, x[of_item + i], sums[1]);
                }
                __syncwarp();
                fetch(slot);
                if (++slot == slots) slot = 0;
            }
            if (own.step == 1) {
                put(own, count, sums);
            } else {
                // This warp's last unit: its copies are done with.
                float* left = reinterpret_cast<float*>(copies) + threadIdx.x % WARP;
                for_sums(sums, [&](int i, float& sum) { left[WARP * i] = sum; });
            }
        }
        if (part.split > 1) join();
    }
    // Adds up what the warps that share a unit have left, in their order.
    __device__ __forceinline__ void join() {
        __syncthreads();
        Place own = {};
        go_to_shared(own);
        if (own.step == 0 || own.first != 0) return;
        PairSums sums[2] = {};
        for (int other = 0; other < own.step; ++other) {
            const float* left = reinterpret_cast<const float*>(copies + other * (slots * 2 * BYTES)) + threadIdx.x % WARP;
            for_sums(sums, [&](int i, float& sum) { sum += left[WARP * i]; });
        }
        put(own, part.list[own.item].count, sums);
    }
    __device__ __forceinline__ void put(const Place& own, int count, PairSums (&sums)[2]) const {
#pragma unroll 1
        for (int row = 0; row < count; row += 2) {
            half.put(own.item, own.pair, row + lane.t % 2, whole_sum(sums[0][0]), whole_sum(sums[0][1]));
            swap(sums[0], sums[1]);
        }
    }
    // Calls `work` with the number of each sum, and the sum.
    template <class Work>
    static __device__ __forceinline__ void for_sums(PairSums (&sums)[2], Work&& work) {
#pragma unroll
        for (int i = 0; i < 4 * SUMS; ++i) work(i, sums[i / (2 * SUMS)][i / SUMS % 2][i % SUMS]);
    }
    static __device__ __forceinline__ void swap(PairSums& one, PairSums& other) {
#pragma unroll
        for (int i = 0; i < 2 * SUMS; ++i) {
            float &first = one[i / SUMS][i % SUMS], &second = other[i / SUMS][i % SUMS];
            const float sum = first;
            first = second, second = sum;
        }
    }
};
