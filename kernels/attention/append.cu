// Keys and values of many rows into their pages: norm, rotation, conversion. A block of one warp takes a head of a row. Bound
// by bytes.
#include "attention/head.cuh"

extern "C" __global__ void __launch_bounds__(32) kv_append(const __grid_constant__ AttentionArgs args) {
    __shared__ float scratch[MAX_HEAD];
    after_previous_kernel();
    append(args, blockIdx.y, blockIdx.x, scratch);
}
