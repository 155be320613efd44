#include "moe/down.cuh"

extern "C" __global__ void __launch_bounds__(256, 1) moe_down_many(const __grid_constant__ MoeArgs args) {
    down<8>(args);
}
