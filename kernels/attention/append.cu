// Keys and values of many rows into their pages: norm, rotation, conversion. A block of one warp takes a head of a row. Bound
// by bytes.
#include "attention/head.cuh"

template <int C, uint32_t FORMAT>
DEVICE void kv_append(const AttentionArgs& args) {
    __shared__ float scratch[MAX_HEAD];
    after_previous_kernel();
    const uint32_t row = blockIdx.y, kv_head = blockIdx.x;
    const Row at = args.rows[row];
    const uint32_t* pages = args.pages + args.sequences[at.sequence].first_page;
    const uint32_t number = place_of(args, pages, kv_head, at.position);
    append<C, FORMAT>(args, HeadNorm<C>(args, args.key_norm, row), row, kv_head, number, scratch);
}

#define KERNEL(FORMAT, format, C)                                              \
    extern "C" __global__ void __launch_bounds__(32)                           \
        kv_append_##format##_##C(const __grid_constant__ AttentionArgs args) { \
        kv_append<C, FORMAT>(args);                                            \
    }
FOR_KV_FORMATS(KERNEL)
