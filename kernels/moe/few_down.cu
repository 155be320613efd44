#include "moe/few_down.cuh"

#define KERNEL(F, format)                                             \
    extern "C" __global__ void __launch_bounds__(FEW_THREADS, 1)      \
        moe_down_few_##format(const __grid_constant__ MoeArgs args) { \
        few_down<F>(args);                                            \
    }
FOR_INT8_FORMATS(KERNEL)
