#include "products/decode.cuh"
#include "products/eight_rows.cuh"

extern "C" __global__ void __launch_bounds__(512, 2) products_1_q8_0(const __grid_constant__ ProductsArgs args) {
    decode_products<Q8_0>(args);
}

extern "C" __global__ void __launch_bounds__(512, 2) products_8_q8_0(const __grid_constant__ ProductsArgs args) {
    eight_rows_products<Q8_0>(args);
}
