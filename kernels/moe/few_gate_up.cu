#include "moe/few_gate_up.cuh"

#define KERNEL(F, format)                                                    \
    extern "C" __global__ void __launch_bounds__(FEW_THREADS, 1)             \
        moe_gate_up_few_##format(const __grid_constant__ TileMoeArgs args) { \
        few_gate_up<F>(args);                                                \
    }
FOR_INT8_FORMATS(KERNEL)
