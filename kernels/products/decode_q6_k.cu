#include "products/decode.cuh"
#include "products/eight_rows.cuh"

extern "C" __global__ void __launch_bounds__(512, 2) products_1_q6_k(const __grid_constant__ ProductsArgs args) {
    decode_products<Q6_K>(args);
}

extern "C" __global__ void __launch_bounds__(512, 2) products_8_q6_k(const __grid_constant__ ProductsArgs args) {
    eight_rows_products<Q6_K>(args);
}
