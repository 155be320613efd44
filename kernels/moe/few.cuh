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

// Two strips that are multiplied with the same activations.
struct StripPair {
    const uint8_t *first, *second;
};

// How both strips of a pair are decoded: of one matrix, or of two.
template <uint32_t F>
struct OneMatrix {
    Fragment<F> both;
    __device__ __forceinline__ explicit OneMatrix(const Matrix& m) : both(m) {}
    __device__ __forceinline__ Fragment<F>& first() { return both; }
    __device__ __forceinline__ Fragment<F>& second() { return both; }
};
template <uint32_t F>
struct TwoMatrices {
    Fragment<F> one, other;
    __device__ __forceinline__ TwoMatrices(const Matrix& one, const Matrix& other) : one(one), other(other) {}
    __device__ __forceinline__ Fragment<F>& first() { return one; }
    __device__ __forceinline__ Fragment<F>& second() { return other; }
};

// A warp's units. `Half` is `FewItems`, and tells of its kernel: `pairs_of(item)` of strips, of `blocks_of(item)` blocks of 256
// columns each; `strips_of(item, pair)`; `column_of(item, entry)` where the activations of an entry begin;
// `fragments_of(item)`, to decode both strips with; and `put(item, pair, row, sum, sum)`, for rows of the item and one behind
// them.
template <uint32_t F, bool SPLIT, int FACTORS, class Half>
struct FewUnits {
    static constexpr int BYTES = Packing<F>::block_bytes(BLOCK / TILE);
    // Floats that a lane sums up of a strip with a pair of rows.
    static constexpr int SUMS = SPLIT ? 2 : 4;
    // Sums of both strips.
    using PairSums = FewSums<SPLIT>[2];
    // Unit `number` of the block, of which blocks `first`, `first + step` .. are this warp's.
    struct Place {
        int turn, number, item, pair, first, step;
    };
    const Half& half;
    const FewPart& part;
    const Lane lane;
    const int warp, warps, slots;
    uint8_t* const copies;          // [slots][2][BYTES] of this warp
    RowPair<FACTORS>* const rows;   // [pairs of rows][blocks]
    // What is copied next: block `block` of the strips of unit `ahead`.
    Place ahead;
    StripPair strips;
    int block, blocks;

    __device__ __forceinline__ FewUnits(const Half& half, uint8_t* shared_memory, int slots)
        : half(half), part(half.part), warp(threadIdx.x / WARP), warps(blockDim.x / WARP), slots(slots),
          copies(shared_memory + warp * (slots * 2 * BYTES)),
          rows(reinterpret_cast<RowPair<FACTORS>*>(shared_memory + warps * (slots * 2 * BYTES))),
          ahead(place(0)) {
        begin();
    }

    __device__ __forceinline__ bool is_there(const Place& at) const {
        return at.turn <= part.turns && at.number < part.units;
    }
    __device__ __forceinline__ int item_of(int number, int& pair) const {
        const bool shared = number < part.shared;
        const int first = shared ? part.items.routed : 0, pairs = half.pairs_of(first);
        const int unit = shared ? part.first_shared + number : part.first_routed + number - part.shared;
        pair = unit % pairs;
        return first + unit / pairs;
    }
    __device__ __forceinline__ Place place(int turn) const {
        const bool whole = turn < part.turns;
        Place at;
        at.turn = turn, at.number = turn * warps + (whole ? warp : warp / part.split);
        at.first = whole ? 0 : warp % part.split, at.step = whole ? 1 : part.split;
        at.item = item_of(min(at.number, part.units - 1), at.pair);
        return at;
    }
    __device__ __forceinline__ void advance(Place& at) const {
        const int number = at.number + warps;
        if (at.turn + 1 == part.turns || (at.number < part.shared && number >= part.shared)) {
            at = place(at.turn + 1);
            return;
        }
        ++at.turn, at.number = number, at.pair += warps;
        if (number >= part.units) return;
        while (at.pair >= half.pairs_of(at.item)) at.pair -= half.pairs_of(at.item), ++at.item;
    }

    __device__ __forceinline__ void begin() {
        if (!is_there(ahead)) return;
        strips = half.strips_of(ahead.item, ahead.pair);
        block = ahead.first, blocks = half.blocks_of(ahead.item);
        strips.first += ahead.first * BYTES, strips.second += ahead.first * BYTES;
    }
    // Starts the copies of the next blocks of both strips into slot `to`.
    __device__ __forceinline__ void fetch(int to) {
        if (is_there(ahead)) {
            const uint32_t own = 16 * (threadIdx.x % WARP);
            uint8_t* target = copies + to * (2 * BYTES) + own;
            copy_block<F>(target, strips.first + own);
            copy_block<F>(target + BYTES, strips.second + own);
            strips.first += ahead.step * BYTES, strips.second += ahead.step * BYTES;
            block += ahead.step;
            if (block >= blocks) {
                advance(ahead);
                begin();
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
            for (int row = 0; row < (of.count + 1) / 2 * 2; ++row) {
                // A pair of one row has it twice: the second sum is nobody's.
                const uint32_t column = half.column_of(item, of.entries[min(row, of.count - 1)]);
                for (int at = 0; at < of_row; at += 16 * WARP) {
                    if (++turn == warps) turn = 0;
                    const int col = at + 16 * (threadIdx.x % WARP);
                    if (turn != warp || col >= of_row) continue;
                    RowPair<FACTORS>& pair = to[col / BLOCK];
                    const int tile = col % BLOCK / TILE, half_tile = col / 16 % 2;
                    const uint4 codes = __ldcg(reinterpret_cast<const uint4*>(input.codes + (column + col) / 4));
                    *reinterpret_cast<uint4*>(pair.codes[tile][row % 2] + 4 * half_tile) = codes;
                    if (half_tile >= FACTORS) continue;
                    const uint32_t factor = (column + col) / TILE * FACTORS + half_tile;
                    pair.factors[tile][row % 2][half_tile] = __ldcg(input.factors + factor);
                }
                if (row % 2 == 1) to += half.blocks_of(first);
            }
        }
    }

    // Multiplies all units, once the rows are there. All warps come back together.
    __device__ __forceinline__ void multiply() {
        int slot = 0;
        Place own = place(0);
        int of_fragments = own.item;
        auto fragments = half.fragments_of(own.item);
        for (; is_there(own); advance(own)) {
            if (Packing<F>::CODEBOOK && own.item != of_fragments) fragments = half.fragments_of(own.item);
            of_fragments = own.item;
            const int count = part.list[own.item].count, of_item = half.blocks_of(own.item);
            const RowPair<FACTORS>* x = rows + row_pair(own.item);
            // Of both pairs of rows.
            PairSums sums[2] = {};
#pragma unroll 1
            for (int i = own.first; i < of_item; i += own.step) {
                wait_for_oldest(slots);
                __syncwarp();
                const uint8_t* here = copies + slot * (2 * BYTES);
#pragma unroll 1
                for (int row = 0; row < count; row += 2) {
                    const FewOperand<SPLIT> operand(x[row / 2 * of_item + i], lane);
                    multiply_two_rows<F, SPLIT>(fragments.first(), here, operand, lane, sums[0][0]);
                    multiply_two_rows<F, SPLIT>(fragments.second(), here + BYTES, operand, lane, sums[0][1]);
                    if (count > 2) swap(sums[0], sums[1]);
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
        const Place own = place(part.turns);
        if (!is_there(own) || own.first != 0) return;
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
