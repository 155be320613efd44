#include "attention/attention.cuh"

#define KERNEL(FORMAT, format, C)                                                   \
    extern "C" __global__ void __launch_bounds__(256, 1)                            \
        attention_step_##format##_##C(const __grid_constant__ AttentionArgs args) { \
        attend<true, C, FORMAT>(args);                                              \
    }
FOR_KV_FORMATS(KERNEL)
