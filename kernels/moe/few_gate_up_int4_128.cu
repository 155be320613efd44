#include "moe/few_gate_up.cuh"

extern "C" __global__ void __launch_bounds__(FEW_THREADS, 1) moe_gate_up_few_int4_128(const __grid_constant__ TileMoeArgs args) {
    few_gate_up<INT4_128>(args);
}
