// `outputs = down · activations` for the entries of an item of many rows: a block takes 16 rows of an expert's matrix.
// Bound by the bytes of the weights.
#pragma once
#include "moe/expert.cuh"

template <int R>
DEVICE void down(const MoeArgs& args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ float partial[WARPS][R][SLOTS];
    after_previous_kernel();
    if (blockIdx.y >= *args.item_count) return;
    const Item item = args.items[blockIdx.y];
    const Matrix& m = args.table[item.expert].down;
    const int strip = blockIdx.x, rows = item.count, cols = m.cols;
    const Input input(shared, args.item_rows, cols, args.down_forms);
    const auto row = [&](int i) { return activations_of(args, item.first + i); };
    fill(input, row, rows, cols, nullptr, 0.0f, args.down_forms, nullptr);
    __syncthreads();
    strip_products<R>(m, strip, input, rows, args.down_forms, &partial[0][0][0]);
    __syncthreads();
    for (int t = threadIdx.x; t < rows * SLOTS; t += blockDim.x) {
        const int row_in = t % SLOTS, i = t / SLOTS, slot = slot_of_row(row_in);
        if (strip * SLOTS + row_in >= m.rows) continue;
        float sum = 0.0f;
        for (int warp = 0; warp < WARPS; ++warp) sum += partial[warp][i][slot];
        args.outputs[static_cast<uint64_t>(item.first + i) * args.hidden + strip * SLOTS + row_in] = sum;
    }
}
