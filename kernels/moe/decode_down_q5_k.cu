#include "moe/decode_down.cuh"

extern "C" __global__ void __maxnreg__(80) moe_down_1_q5_k(const __grid_constant__ MoeArgs args) {
    decode_down<Q5_K>(args);
}
