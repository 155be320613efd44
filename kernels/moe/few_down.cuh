// `outputs = down · activations` of few rows, for experts of one format that takes int8: a warp takes two neighbouring strips
// of an expert's matrix, with the rows that chose it. The choices were there before the kernel in front began: weights are asked
// for before its end. Bound by the bytes of the weights.
#pragma once
#include "moe/few.cuh"

template <uint32_t F>
struct DownHalf : FewItems {
    __device__ __forceinline__ int pairs_of(int) const { return args.hidden / (2 * SLOTS); }
    __device__ __forceinline__ int blocks_of(int item) const { return width(item) / BLOCK; }
    __device__ __forceinline__ StripPair strips_of(int item, int pair) const {
        const Matrix& m = expert(item).down;
        const uint8_t* first = m.data + distance(item) + 2 * static_cast<uint64_t>(pair) * m.strip_bytes;
        return {first, first + m.strip_bytes};
    }
    __device__ __forceinline__ uint32_t pair_bytes(int item) const { return 2 * expert(item).down.strip_bytes; }
    __device__ __forceinline__ uint32_t column_of(int, uint32_t entry) const { return activation_of(args, entry); }
    __device__ __forceinline__ OneMatrix<F> fragments_of(int item) const { return OneMatrix<F>(own(expert(item).down, item)); }
    __device__ __forceinline__ void put(int item, int pair, int row, float first, float second) const {
        const Lane lane;
        if (row >= part.list[item].count) return;
        const uint64_t entry = part.list[item].entries[row];
        float* out = args.outputs + entry * args.hidden + 2 * pair * SLOTS + lane.g + 8 * (lane.t / 2);
        out[0] = first, out[SLOTS] = second;
    }
};

template <uint32_t F>
DEVICE void few_down(const MoeArgs& far_args) {
    __shared__ MoeArgs copy;
    __shared__ FewPart part;
    // As lines are: a piece of memory that is copied across two lines of shared memory comes twice.
    DYNAMIC_SHARED(__align__(128) uint8_t, shared);
    const MoeArgs& args = near_copy(far_args, copy);
    const DownHalf<F> half = {{args, part}};
    const ItemCounts items = find_items(args, *reinterpret_cast<ItemScratch*>(shared), part.list);
    if (threadIdx.x == 0) {
        const uint32_t narrowest = min(args.width, args.shared_width > 0 ? args.shared_width : args.width);
        part.divide(items, half.pairs_of(0), half.pairs_of(0), narrowest / BLOCK);
    }
    __syncthreads();
    if (part.units == 0) {
        after_previous_kernel();
        return;
    }
    FewUnits<F, true, 2, DownHalf<F>> units(half, shared, args.down_slots);
    units.start();
    after_previous_kernel();
    units.copy_rows(args.row);
    __syncthreads();
    units.multiply();
}
