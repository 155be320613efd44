#include "moe/decode_gate_up.cuh"

#define KERNEL(F, format)                                              \
    extern "C" __global__ void __launch_bounds__(512, 2)               \
        moe_gate_up_1_##format(const __grid_constant__ MoeArgs args) { \
        decode_gate_up<F>(args);                                       \
    }
FOR_INT8_FORMATS(KERNEL)
