// The items of a step of few rows, and which units of them a block has: a unit is a pair of strips with all rows of an item.
#pragma once
#include "moe/activations.cuh"
#include "moe/items.cuh"

// First come units of the shared expert, which have most rows, then routed ones, neighbours of each kind: they have few items.
// Each of the block's warps has `turns` neighbours, whatever rows their items have: those of the shared expert are a few warps'.
// Those that are left are too few for all warps, of which `split` share one and
// divide its columns.
struct FewPart {
    ItemCounts items;
    int first_shared, shared, first_routed, units;
    int turns, split;  // whole units of a warp, and warps that share one of those that are left
    FewItem list[MOST_ITEMS];

    // Of items whose matrices have so many pairs of strips, of `blocks` blocks at least. By one thread.
    __device__ __forceinline__ void divide(const ItemCounts& counts, int pairs_routed, int pairs_shared, int blocks) {
        const int grid = gridDim.x, own = blockIdx.x, other = grid - 1 - own, warps = blockDim.x / WARP;
        const int all_routed = counts.routed * pairs_routed, all_shared = (counts.all - counts.routed) * pairs_shared;
        items = counts;
        first_routed = all_routed * own / grid;
        // The other way round, so that what rounding gives one block it takes from another.
        first_shared = all_shared * other / grid;
        shared = all_shared * (other + 1) / grid - first_shared;
        units = shared + all_routed * (own + 1) / grid - first_routed;
        turns = units / warps, split = 1;
        while (2 * split * (units - turns * warps) <= warps && 2 * split <= blocks) split *= 2;
    }
};

// What both kernels know of the items.
struct FewItems {
    const MoeArgs& args;
    const FewPart& part;

    __device__ __forceinline__ bool is_routed(int item) const { return item < part.items.routed; }
    __device__ __forceinline__ const Expert& expert(int item) const { return is_routed(item) ? args.routed : args.shared; }
    // How far behind those the matrices of the item's own expert lie.
    __device__ __forceinline__ uint64_t distance(int item) const {
        return is_routed(item) ? part.list[item].expert * args.spacing : 0;
    }
    __device__ __forceinline__ uint32_t width(int item) const { return is_routed(item) ? args.width : args.shared_width; }
    __device__ __forceinline__ Matrix own(const Matrix& m, int item) const {
        return of_expert(m, is_routed(item) ? part.list[item].expert : 0, args.spacing);
    }
};
