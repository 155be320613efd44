#include "products/decode.cuh"

#define KERNEL(F, format)                                                \
    extern "C" __global__ void __launch_bounds__(512, 2)                 \
        products_1_##format(const __grid_constant__ ProductsArgs args) { \
        decode_products<F>(args);                                        \
    }
FOR_INT8_FORMATS(KERNEL)
