#include "moe/gate_up.cuh"

extern "C" __global__ void __launch_bounds__(256, 1) moe_gate_up_many(const __grid_constant__ MoeArgs args) {
    gate_up<8>(args);
}
