#include "moe/decode_down.cuh"

extern "C" __global__ void __maxnreg__(80) moe_down_1_q8_0(const __grid_constant__ MoeArgs args) {
    decode_down<Q8_0>(args);
}
