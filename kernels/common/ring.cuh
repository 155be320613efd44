// Blocks of packed strips on their way to a warp, which copies its blocks of 256 columns to shared memory, several ahead of their
// use: the first ones before the row is there.
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
        : shared(shared + 16 * (threadIdx.x % WARP)), strip_of(strip_of), strip(nullptr), slots(slots),
          strips(first < blocks ? strips : 0), first(first), step(step), blocks(blocks), index(first) {}
    // This warp's blocks of the first `count` strips, and how many of them go to slots.
    __device__ __forceinline__ int blocks_of(int count) const { return min(count, strips) * ceil_div(blocks - first, step); }
    __device__ __forceinline__ int slots_of(int count) const { return min(slots, blocks_of(count)); }
    // Starts the copies of the blocks of slots `from .. slots`.
    __device__ __forceinline__ void start(int from = 0) { start_until(slots, from); }
    // And of those before `end`, whose strips are the only ones that are asked for.
    __device__ __forceinline__ void start_until(int end, int from = 0) {
#pragma unroll 1
        for (int i = from; i < end; ++i) fetch(i);
    }
    // The same one block behind another, because the kernels in front still run, and whatever they exchange would wait in a queue
    // behind all of them.
    __device__ __forceinline__ void start_in_turn() {
#pragma unroll 1
        for (int i = 0; i < slots; ++i) {
            if (i > 0) wait_for_copies_but<0>();
            fetch(i);
        }
    }
    // Starts the copies of the next block into slot `to`.
    __device__ __forceinline__ void fetch(int to) {
        if (number < strips) {
            if (index == first) strip = strip_of(number) + 16 * (threadIdx.x % WARP);
            copy_block<F>(shared + to * BYTES, strip + index * BYTES);
            index += step;
            if (index >= blocks) index = first, ++number;
        }
        end_copy_group();
    }
    // Waits for all blocks, where there was room for all of them from the start.
    __device__ __forceinline__ void settle() {
        whole = blocks_of(strips) <= slots;
        if (!whole) return;
        wait_for_copies_but<0>();
        __syncwarp();
    }
    // Where the first block is put.
    __device__ __forceinline__ const uint8_t* first_block() const { return shared - 16 * (threadIdx.x % WARP); }
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
