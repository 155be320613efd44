// `activations = silu(gate · x) * (up · x)` for the entries of an item: a block takes 16 rows of both matrices of an expert.
// Bound by the bytes of the weights.
#pragma once
#include "moe/expert.cuh"

template <int R>
DEVICE void gate_up(const MoeArgs& args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ float partial[2][WARPS][R][SLOTS];
    __shared__ float scratch[32 * R];
    after_previous_kernel();
    if (blockIdx.y >= *args.item_count) return;
    const Item item = args.items[blockIdx.y];
    const Expert& expert = args.table[item.expert];
    const int strip = blockIdx.x, width = expert.gate.rows, rows = item.count;
    if (strip * SLOTS >= width) return;
    const Input input(shared, args.item_rows, args.hidden, args.gate_up_forms);
    const auto row = [&](int i) {
        return args.input + static_cast<uint64_t>(args.entry_rows[item.first + i]) * args.hidden;
    };
    fill(input, row, rows, args.hidden, args.norm, args.eps, args.gate_up_forms, scratch);
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
        const Matrix& m = i == 0 ? expert.gate : expert.up;
        strip_products<R>(m, strip, input, rows, args.gate_up_forms, &partial[i][0][0][0]);
    }
    __syncthreads();
    for (int t = threadIdx.x; t < rows * SLOTS; t += blockDim.x) {
        const int row_in = t % SLOTS, i = t / SLOTS, slot = slot_of_row(row_in);
        if (strip * SLOTS + row_in >= width) continue;
        float gate = 0.0f, up = 0.0f;
        for (int warp = 0; warp < WARPS; ++warp) {
            gate += partial[0][warp][i][slot];
            up += partial[1][warp][i][slot];
        }
        activations_of(args, item.first + i)[strip * SLOTS + row_in] = silu(gate) * up;
    }
}
