#include "moe/decode_gate_up.cuh"

extern "C" __global__ void __launch_bounds__(512, 2) moe_gate_up_1_q4_k(const __grid_constant__ MoeArgs args) {
    decode_gate_up<Q4_K>(args);
}
