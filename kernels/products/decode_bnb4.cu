#include "products/decode.cuh"
#include "products/eight_rows.cuh"

extern "C" __global__ void __launch_bounds__(512, 2) products_1_bnb4(const __grid_constant__ ProductsArgs args) {
    decode_products<BNB4>(args);
}

extern "C" __global__ void __launch_bounds__(512, 2) products_8_bnb4(const __grid_constant__ ProductsArgs args) {
    eight_rows_products<BNB4>(args);
}
