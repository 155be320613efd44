// `activations = silu(gate · x) * (up · x)` of few rows, for experts of one format that takes int8: a warp takes 16 rows of
// both matrices of an expert, with the rows that chose it, and quantises what it has computed. Bound by the bytes of the weights.
#pragma once
#include "moe/few.cuh"
#include "tiles/args.cuh"

template <uint32_t F>
struct GateUpHalf : FewItems {
    __device__ __forceinline__ int pairs_of(int item) const { return width(item) / SLOTS; }
    __device__ __forceinline__ int blocks_of(int) const { return args.hidden / BLOCK; }
    __device__ __forceinline__ StripPair strips_of(int item, int pair) const {
        const Expert& of = expert(item);
        const uint64_t at = distance(item) + static_cast<uint64_t>(pair) * of.gate.strip_bytes;
        return {of.gate.data + at, of.up.data + at};
    }
    __device__ __forceinline__ uint32_t pair_bytes(int item) const { return expert(item).gate.strip_bytes; }
    __device__ __forceinline__ uint32_t column_of(int item, uint32_t entry) const {
        return (is_routed(item) ? entry / args.top_k : entry - args.count * args.top_k) * args.hidden;
    }
    __device__ __forceinline__ TwoMatrices<F> fragments_of(int item) const {
        return {own(expert(item).gate, item), own(expert(item).up, item)};
    }
    // The sixteen lanes of a row have half a tile of it.
    __device__ __forceinline__ void put(int item, int pair, int row, float gate, float up) const {
        const Lane lane;
        const FewItem& of = part.list[item];
        const bool counts = row < of.count;
        const uint32_t first = counts ? activation_of(args, of.entries[row]) + pair * SLOTS : 0;
        put_half_tile<2>(args.row, first + lane.g + 8 * (lane.t / 2), silu(gate) * up, counts);
    }
};

template <uint32_t F>
DEVICE void few_gate_up(const TileMoeArgs& far_args) {
    __shared__ TileMoeArgs copy;
    __shared__ FewPart part;
    // Aligned as lines are: see few_down.cuh.
    DYNAMIC_SHARED(__align__(128) uint8_t, shared);
    const TileMoeArgs& args = near_copy(far_args, copy);
    after_previous_kernel();
    const GateUpHalf<F> half = {{args.moe, part}};
    const ItemCounts items = find_items(args.moe, *reinterpret_cast<ItemScratch*>(shared), part.list);
    if (threadIdx.x == 0) {
        part.divide(items, args.moe.width / SLOTS, args.moe.shared_width / SLOTS, half.blocks_of(0));
    }
    __syncthreads();
    if (part.units == 0) return;
    FewUnits<F, Fragment<F>::HALVES, 1, GateUpHalf<F>> units(half, shared, args.moe.gate_up_slots);
    units.start();
    units.copy_rows({const_cast<uint32_t*>(args.codes), const_cast<float2*>(args.factors)});
    __syncthreads();
    units.multiply();
}
