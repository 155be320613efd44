#include "moe/few_gate_up.cuh"

extern "C" __global__ void __launch_bounds__(FEW_THREADS, 1) moe_gate_up_few_q6_k(const __grid_constant__ TileMoeArgs args) {
    few_gate_up<Q6_K>(args);
}
