#include "moe/decode_down.cuh"

extern "C" __global__ void __maxnreg__(80) moe_down_1_int4_64(const __grid_constant__ MoeArgs args) {
    decode_down<INT4_64>(args);
}
