#include "moe/few_down.cuh"

extern "C" __global__ void __launch_bounds__(FEW_THREADS, 1) moe_down_few_int4_64(const __grid_constant__ MoeArgs args) {
    few_down<INT4_64>(args);
}
