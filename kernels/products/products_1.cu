#include "products/products.cuh"

extern "C" __global__ void __launch_bounds__(256, 2) products_1(const __grid_constant__ ProductsArgs args) {
    products<1>(args);
}
