// Products of up to four matrices with the same rows of activations, many of them. A block takes 128 rows of a matrix
// and up to 64 of the activations.
#include "tiles/tiles.cuh"

extern "C" __global__ void __launch_bounds__(256, 2) tile_products(const __grid_constant__ TileProductsArgs args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ uint32_t tile[ROWS];
    after_previous_kernel();
    int group = blockIdx.x;
    uint32_t which = 0;
    for (; which + 1 < args.products_count; ++which) {
        const int groups = ceil_div(args.products[which].matrix.rows, WARPS * SLOTS);
        if (group < groups) break;
        group -= groups;
    }
    const Product& p = args.products[which];
    const Matrix& m = p.matrix;
    const int first = blockIdx.y * args.rows, strips = ceil_div(m.rows, SLOTS), own = group * WARPS + threadIdx.x / WARP;
    const int count = min(static_cast<int>(args.rows), static_cast<int>(args.count) - first);
    const Activations x = {args.codes, args.factors, tile, count};
    if (threadIdx.x < count) tile[threadIdx.x] = (first + threadIdx.x) * (args.cols / TILE);
    __syncthreads();
    with_format(m.format, [&](auto format) {
        multiply_strips<format>(shared, args.room, x, m, own, 1, strips, 1, [&](int strip, const Sums& sums) {
            for_sums(sums, count, [&](int row_in, int i, float sum) {
                const uint32_t row = strip * SLOTS + row_in;
                if (row >= m.rows) return;
                if (p.bias != nullptr) sum += p.bias[row];
                float* out = p.out + static_cast<uint64_t>(first + i) * p.out_stride + row;
                *out = args.add ? *out + sum : sum;
            });
        });
    });
}
