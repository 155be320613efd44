// Products of up to four matrices with the same rows of activations, many of them. A block takes 128 rows of a matrix
// and up to 64 of the activations.
#include "tiles/products.cuh"

template <uint32_t F>
DEVICE void tile_products(const TileProductsArgs& args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ uint32_t tile[ROWS];
    after_previous_kernel();
    int group = blockIdx.x;
    const Product& p = own_product(args, WARPS * SLOTS, group);
    const Matrix& m = p.matrix;
    const int first = blockIdx.y * args.rows, strips = ceil_div(m.rows, SLOTS), own = group * WARPS + threadIdx.x / WARP;
    const int count = min(static_cast<int>(args.rows), static_cast<int>(args.count) - first);
    const Activations x = {args.codes, args.factors, tile, count};
    if (threadIdx.x < count) tile[threadIdx.x] = (first + threadIdx.x) * (args.cols / TILE);
    __syncthreads();
    multiply_strips<F>(shared, args.room, x, m, own, 1, strips, 1, [&](int strip, const Sums& sums) {
        for_sums(sums, count, [&](int row_in, int i, float sum) { put_sum(args, p, strip, row_in, first + i, sum); });
    });
}

#define KERNEL(F, format)                                                       \
    extern "C" __global__ void __launch_bounds__(256, 2)                        \
        tile_products_##format(const __grid_constant__ TileProductsArgs args) { \
        tile_products<F>(args);                                                 \
    }
FOR_INT8_FORMATS(KERNEL)
