#include "products/products.cuh"

extern "C" __global__ void __launch_bounds__(256, 1) products_many(const __grid_constant__ ProductsArgs args) {
    products<8>(args);
}
