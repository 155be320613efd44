// What kernels of products of up to four matrices with the same rows of activations share.
#pragma once
#include "tiles/own_product.cuh"
#include "tiles/tiles.cuh"

// Writes the sum of row `row_in` of a strip with row `i` of the input, or adds it.
DEVICE void put_sum(const TileProductsArgs& args, const Product& p, int strip, int row_in, int i, float sum) {
    const uint32_t row = strip * SLOTS + row_in;
    if (row >= p.matrix.rows) return;
    if (p.bias != nullptr) sum += p.bias[row];
    float* out = p.out + static_cast<uint64_t>(i) * p.out_stride + row;
    *out = args.add ? *out + sum : sum;
}
