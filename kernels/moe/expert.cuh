// What the experts' kernels share: where the activations of an entry are, and products of one strip by all warps of a block.
#pragma once
#include "common/row.cuh"
#include "common/strip.cuh"

const int WARPS = 8;

DEVICE float* activations_of(const MoeArgs& args, uint32_t entry) {
    const uint32_t routed = args.count * args.top_k;
    if (entry < routed) return args.activations + static_cast<uint64_t>(entry) * args.width;
    return args.activations + static_cast<uint64_t>(routed) * args.width +
           static_cast<uint64_t>(entry - routed) * args.shared_width;
}

// What an entry's output is multiplied with.
DEVICE float share_of_shared_expert(const MoeArgs& args, uint32_t row) {
    return args.shared_gate == nullptr ? 1.0f : sigmoid(args.shared_gate[row]);
}

// `out[warp][i][slot]`: this warp's share of strip `strip` times `R` rows of the input. `prepare` puts the input into shared
// memory once the first weights are asked for; every thread of the block comes here and calls it.
template <class P, int R, class Prepare>
__device__ __noinline__ void packed_strip(const Matrix& m, int strip, const Input& input, bool int8, float* out,
                                          Prepare prepare) {
    const int warp = threadIdx.x / WARP, blocks = ceil_div(m.cols, BLOCK);
    Codebook book;
    if constexpr (P::CODEBOOK) book.load(m);
    Walk<P> walk(m, strip, warp);
    prepare();
    Sums<R> sums = {};
    walk.template multiply_all<R>(warp, WARPS, book, m, input, int8, sums);
    reduce<R>(sums, out + warp * R * SLOTS);
}

// As `packed_strip` for a matrix as stored; every warp takes whole rows, so that only the first warp's sums are not zero.
template <int R, class Prepare>
__device__ __noinline__ void stored_strip(const Matrix& m, int strip, const Input& input, float* out, Prepare prepare) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    prepare();
    for (int i = lane; i < R * SLOTS; i += WARP) {
        if (warp > 0) out[warp * R * SLOTS + i] = 0.0f;
    }
    for (int row_in = warp; row_in < SLOTS; row_in += WARPS) {
        const uint32_t row = strip * SLOTS + row_in;
        float sums[R] = {};
        if (row < m.rows) StoredRow(m, row).multiply<R>(input, sums);
#pragma unroll
        for (int i = 0; i < R; ++i) {
            if (lane == 0) out[i * SLOTS + slot_of_row(row_in)] = sums[i];
        }
    }
}

template <int R, class Prepare>
DEVICE void strip_products(const Matrix& m, int strip, const Input& input, uint32_t forms, float* out, Prepare prepare) {
    if (m.packed) {
        const bool int8 = forms & INPUT_INT8 && takes_int8(m);
        with_packing(m.format,
                     [&](auto tag) { packed_strip<decltype(tag), R>(m, strip, input, int8, out, prepare); });
    } else {
        stored_strip<R>(m, strip, input, out, prepare);
    }
}
