// `outputs = down · activations` for the entries of an item of up to 64: a block has 128 rows of an expert's matrix.
#include "tiles/moe.cuh"

extern "C" __global__ void __launch_bounds__(256, 2) tile_down(const __grid_constant__ TileMoeArgs args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ uint32_t tile[ROWS];
    Stage* stages = reinterpret_cast<Stage*>(shared);
    after_previous_kernel();
    const MoeArgs& moe = args.moe;
    if (blockIdx.y >= *moe.item_count) return;
    const Item item = moe.items[blockIdx.y];
    const Matrix& m = moe.table[item.expert].down;
    const int strips = ceil_div(m.rows, SLOTS), own = blockIdx.x * WARPS + threadIdx.x / WARP, count = item.count;
    const Activations x = {args.codes, args.factors, tile, count};
    if (threadIdx.x < count) {
        tile[threadIdx.x] = (activations_of(moe, item.first + threadIdx.x) - moe.activations) / TILE;
    }
    __syncthreads();
    with_format(m.format, [&](auto format) {
        Sums sums;
        multiply_strip<format>(stages, x, m, own < strips ? own : -1, sums);
        for_sums(sums, count, [&](int row_in, int i, float sum) {
            const uint32_t row = own * SLOTS + row_in;
            if (row < m.rows) moe.outputs[static_cast<uint64_t>(item.first + i) * moe.hidden + row] = sum;
        });
    });
}
