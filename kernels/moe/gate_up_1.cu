#include "moe/gate_up.cuh"

extern "C" __global__ void __launch_bounds__(256, 2) moe_gate_up_1(const __grid_constant__ MoeArgs args) {
    gate_up<1>(args);
}
