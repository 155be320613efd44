// Keys and values of many rows into their pages: norm, rotation, conversion. A block of one warp takes a head of a row. Bound
// by bytes.
#include "attention/head.cuh"

extern "C" __global__ void __launch_bounds__(32) kv_append(const __grid_constant__ AttentionArgs args) {
    __shared__ float scratch[MAX_HEAD];
    after_previous_kernel();
    const uint32_t row = blockIdx.y, kv_head = blockIdx.x;
    const Row at = args.rows[row];
    const uint32_t* pages = args.pages + args.sequences[at.sequence].first_page;
    const uint32_t number = place_of(args, pages, kv_head, at.position);
    with_channels(args.head_dim, [&](auto channels) {
        constexpr int C = decltype(channels)::value;
        append<C>(args, HeadNorm<C>(args, args.key_norm, row), row, kv_head, number, scratch);
    });
}
