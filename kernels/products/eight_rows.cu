#include "products/eight_rows.cuh"

#define KERNEL(F, format)                                                \
    extern "C" __global__ void __launch_bounds__(512, 2)                 \
        products_8_##format(const __grid_constant__ ProductsArgs args) { \
        eight_rows_products<F>(args);                                    \
    }
FOR_INT8_FORMATS(KERNEL)
