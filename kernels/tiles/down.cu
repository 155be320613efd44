// `outputs = down · activations` for the entries of an item of up to 64: a warp has a strip of an expert's matrix, or
// several in turn, so that a block of narrow matrices has more to do than to find out what.
#include "tiles/moe.cuh"

template <uint32_t F>
DEVICE void tile_down(const TileMoeArgs& args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ uint32_t tile[ROWS];
    after_previous_kernel();
    const MoeArgs& moe = args.moe;
    const Item item = moe.items[blockIdx.y];
    if (blockIdx.y >= *moe.item_count) return;
    const Matrix& m = moe.table[item.expert].down;
    if (m.format != F) return;
    const int strips = ceil_div(m.rows, SLOTS), own = blockIdx.x * WARPS + threadIdx.x / WARP, count = item.count;
    const int step = gridDim.x * WARPS, turns = ceil_div(strips - static_cast<int>(blockIdx.x) * WARPS, step);
    const Activations x = {args.codes, args.factors, tile, count};
    if (threadIdx.x < count) {
        tile[threadIdx.x] = (activations_of(moe, item.first + threadIdx.x) - moe.activations) / TILE;
    }
    __syncthreads();
    multiply_strips<F>(shared, args.room, x, m, own, step, strips, turns, [&](int strip, const Sums& sums) {
        for_sums(sums, count, [&](int row_in, int i, float sum) {
            const uint32_t row = strip * SLOTS + row_in;
            if (row < m.rows) moe.outputs[static_cast<uint64_t>(item.first + i) * moe.hidden + row] = sum;
        });
    });
}

#define KERNEL(F, format)                                              \
    extern "C" __global__ void __launch_bounds__(256, 2)               \
        tile_down_##format(const __grid_constant__ TileMoeArgs args) { \
        tile_down<F>(args);                                            \
    }
FOR_INT8_FORMATS(KERNEL)
