// Updates of a state that are not in it yet. A row of a step changes the whole state by `k uᵀ`, and to write the state costs as much
// as to read it: so a head keeps the keys and updates of its last rows beside the state, which takes them in once in `PERIOD` rows,
// and what reads the state adds them. With decays g of rows 0 .. n - 1 behind the state S that is stored, it is
//
//   A S + Σ_i w_i k_i u_iᵀ,   w_i = Π_{j > i} g_j,   A = Π_j g_j.
#pragma once
#include "delta_net/head.cuh"

const uint32_t PERIOD = 8;
const uint32_t MOST_RECENT = PERIOD - 1;

// Of one slot and value head. `src/cuda/delta_net.rs` knows the size, and that zeros are no rows.
struct Recent {
    float rows[MOST_RECENT][2][DIM];  // a key as it came from the convolution, and its update
    float decays[MOST_RECENT];
    uint32_t unused;
    uint32_t count[PARTS];  // each part of a scan has its own, so that none has to wait for the others
    uint32_t unused_too[4];
};
static_assert(sizeof(Recent) == 7232);

DEVICE Recent& recent_of(const DeltaArgs& args, uint32_t slot, uint32_t head) {
    const uint64_t heads = args.key_heads * args.ratio;
    return reinterpret_cast<Recent*>(args.recent)[slot * heads + head];
}

// How many rows are not in the state. A sequence that begins has none, whatever its slot was used for before.
DEVICE uint32_t recent_rows(const Recent& recent, uint32_t part, uint32_t position) {
    return position == 0 ? 0 : min(recent.count[part], MOST_RECENT);
}

// The product of the decays behind row `row`, of `count` rows, in every lane of a warp; of all of them for row -1.
DEVICE float decay_behind(const Recent& recent, int row, uint32_t count) {
    const int lane = threadIdx.x % WARP;
    float product = lane > row && lane < static_cast<int>(count) ? recent.decays[lane] : 1.0f;
#pragma unroll
    for (int d = PERIOD / 2; d > 0; d /= 2) product *= __shfl_xor_sync(ALL_LANES, product, d);
    return __shfl_sync(ALL_LANES, product, 0);
}

// Whether the state takes in what is beside it, together with the row at `position`: always at the first, before which memory has no
// state of the sequence's. Sequences of the same length do not all do so in the same step. `src/cuda/delta_net.rs` counts the bytes.
DEVICE bool takes_in(uint32_t slot, uint32_t position, uint32_t count) {
    return position == 0 || count == MOST_RECENT || (position + slot) % PERIOD == PERIOD - 1;
}
