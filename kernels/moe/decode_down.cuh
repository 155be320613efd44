// `x += Σ share * down · activations` over the experts of one row, which have one format that takes int8: a block takes 16
// rows of every expert's matrix, a warp an expert, and their sums meet in shared memory in the order of the choices. Bound by
// the bytes of the weights, which are copied to shared memory before the kernel waits for the activations: the router's
// logits, and so the choices, were there before those. Few enough registers that its blocks fit beside those of the kernel
// before it.
#pragma once
#include "common/decode.cuh"
#include "common/multiply_row.cuh"
#include "common/ring.cuh"
#include "moe/activations.cuh"
#include "moe/choose.cuh"

// Experts of a row, the shared one included: a warp each.
const int MOST_ENTRIES = 16;

template <uint32_t F>
DEVICE void decode_down(const MoeArgs& far_args) {
    __shared__ MoeArgs copy;
    start_next_kernel_early();
    const MoeArgs& args = near_copy(far_args, copy);
    // Aligned as lines are: see few_down.cuh.
    DYNAMIC_SHARED(__align__(128) uint8_t, shared);
    __shared__ float outputs[MOST_ENTRIES][SLOTS];
    __shared__ ChoiceRoom room;
    __shared__ float factors[MOST_ENTRIES];
    const int top_k = args.top_k, warp = threadIdx.x / WARP, row = blockIdx.x * SLOTS + threadIdx.x;
    const bool adds = threadIdx.x < SLOTS && row < static_cast<int>(args.hidden);
    const float before = adds ? __ldcg(args.x + row) : 0.0f;
    const float shared_gate = args.shared_gate == nullptr ? 1.0f : sigmoid(__ldcg(args.shared_gate));
    // The shared expert's weights are asked for before the choice.
    const bool is_shared = warp == top_k;
    const Matrix& first = is_shared ? args.shared.down : args.routed.down;
    const int blocks = first.cols / BLOCK;
    const auto strip_of = [&](int) {
        const Matrix m = of_expert(first, is_shared ? 0 : room.experts[warp], args.spacing);
        return m.data + static_cast<uint64_t>(blockIdx.x) * m.strip_bytes;
    };
    using Copies = Ring<F, decltype(strip_of)>;
    Copies ring(shared + warp * args.down_slots * Copies::BYTES, args.down_slots, 1, 0, 1, blocks, strip_of);
    if (is_shared) ring.start();
    Choices choices(args, args.logits, 0);
    choices.choose(room);
    __syncthreads();
    const float total = choices.total(room);
    if (static_cast<int>(threadIdx.x) < top_k) factors[threadIdx.x] = room.shares[threadIdx.x] / total;
    if (static_cast<int>(threadIdx.x) == top_k) factors[top_k] = shared_gate;

    if (!is_shared) ring.start();
    RowFragment<F> fragment(first);  // all of a kind have one codebook
    // The warp's activations go behind the weights, all at once: while the kernel behind asks for its weights, every load takes
    // long.
    const uint32_t column = activation_of(args, warp), columns = first.cols;
    const FarRow far = {args.row.codes + column / 4, args.row.factors + column / (TILE / 2)};
    const uint32_t row_bytes = max(args.width, args.shared_width) / 2 * 3;
    uint8_t* row_room = shared + blockDim.x / WARP * args.down_slots * Copies::BYTES + warp * row_bytes;
    uint4* codes = reinterpret_cast<uint4*>(row_room);
    float2* factors_of_row = reinterpret_cast<float2*>(row_room + columns);
    ring.settle();
    wait_for_previous_kernel();
#pragma unroll 1
    for (uint32_t half = threadIdx.x % WARP; half < columns / (TILE / 2); half += WARP) {
        const uint4 own = FarRow::load(reinterpret_cast<const uint4*>(far.codes) + half);
        factors_of_row[half] = FarRow::load(far.factors + half);
        codes[half] = own;
    }
    __syncwarp();
    const NearRow activations = {reinterpret_cast<const uint32_t*>(codes), factors_of_row};
    float sums[2] = {};
#pragma unroll 1
    for (int block = 0; block < blocks; ++block) {
        RowOperand<F, true> x;
        x.load(activations, block);
        multiply_row<F, true>(fragment, ring.take(), x, sums);
        ring.release();
    }
    put_sums(sums, outputs[warp]);
    __syncthreads();
    if (!adds) return;
    float sum = before;
#pragma unroll
    for (int entry = 0; entry < MOST_ENTRIES; ++entry) {
        if (entry < static_cast<int>(blockDim.x / WARP)) sum = fmaf(factors[entry], outputs[entry][threadIdx.x], sum);
    }
    args.x[row] = sum;
}
