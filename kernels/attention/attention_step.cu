#include "attention/attention.cuh"

extern "C" __global__ void __launch_bounds__(256, 1) attention_step(const __grid_constant__ AttentionArgs args) {
    DYNAMIC_SHARED(__align__(16) float, shared);
    attention<true>(args, shared);
}
