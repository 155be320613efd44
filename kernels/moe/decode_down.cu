#include "moe/decode_down.cuh"

#define KERNEL(F, format)                                           \
    extern "C" __global__ void __maxnreg__(80)                      \
        moe_down_1_##format(const __grid_constant__ MoeArgs args) { \
        decode_down<F>(args);                                       \
    }
FOR_INT8_FORMATS(KERNEL)
