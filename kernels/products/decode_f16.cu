#include "products/decode_halves.cuh"

extern "C" __global__ void __launch_bounds__(512, 2) products_1_f16(const __grid_constant__ ProductsArgs args) {
    decode_halves<false>(args);
}
