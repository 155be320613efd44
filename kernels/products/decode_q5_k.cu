#include "products/decode.cuh"
#include "products/eight_rows.cuh"

extern "C" __global__ void __launch_bounds__(512, 2) products_1_q5_k(const __grid_constant__ ProductsArgs args) {
    decode_products<Q5_K>(args);
}

extern "C" __global__ void __launch_bounds__(512, 2) products_8_q5_k(const __grid_constant__ ProductsArgs args) {
    eight_rows_products<Q5_K>(args);
}
