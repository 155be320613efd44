// `activations = silu(gate · x) * (up · x)` for the entries of an item of up to 64: four warps of a block have 64 rows
// of the gate, the four others the same rows of the other matrix.
#include "tiles/moe.cuh"

template <uint32_t F>
DEVICE void tile_gate_up(const TileMoeArgs& args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ uint32_t tile[ROWS];
    after_previous_kernel();
    const MoeArgs& moe = args.moe;
    // What does not depend on another load is asked for before one is waited for: a block has little work beside.
    const Item item = moe.items[blockIdx.y];
    if (blockIdx.y >= *moe.item_count) return;
    if (threadIdx.x < item.count) tile[threadIdx.x] = moe.entry_rows[item.first + threadIdx.x] * (moe.hidden / TILE);
    const Expert& expert = moe.table[item.expert];
    if (expert.gate.format != F) return;
    const int warp = threadIdx.x / WARP, half = WARPS / 2, strips = ceil_div(expert.gate.rows, SLOTS);
    if (static_cast<int>(blockIdx.x) * half >= strips) return;
    const int own = blockIdx.x * half + warp % half, count = item.count;
    const Matrix& m = warp < half ? expert.gate : expert.up;
    const Activations x = {args.codes, args.factors, tile, count};
    __syncthreads();
    float* ups = reinterpret_cast<float*>(shared) + warp % half * ROWS * SLOTS;  // [ROWS][SLOTS]
    Sums own_sums;
    multiply_strips<F>(shared, args.room, x, m, own, 1, strips, 1, [&](int, const Sums& sums) {
        memcpy(&own_sums, &sums, sizeof sums);
    });
    if (warp >= half && own < strips) {
        for_sums(own_sums, count, [&](int row_in, int i, float sum) { ups[i * SLOTS + row_in] = sum; });
    }
    __syncthreads();
    if (warp < half && own < strips) {
        for_sums(own_sums, count, [&](int row_in, int i, float gate) {
            const uint32_t row = own * SLOTS + row_in;
            if (row >= m.rows) return;
            activations_of(moe, item.first + i)[row] = silu(gate) * ups[i * SLOTS + row_in];
        });
    }
}

#define KERNEL(F, format)                                                 \
    extern "C" __global__ void __launch_bounds__(256, 2)                  \
        tile_gate_up_##format(const __grid_constant__ TileMoeArgs args) { \
        tile_gate_up<F>(args);                                            \
    }
FOR_INT8_FORMATS(KERNEL)
