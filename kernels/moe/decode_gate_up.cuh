// `activations = silu(gate · x) * (up · x)` of one row, for experts of one format that takes int8: a block takes 16 rows of both
// matrices of an expert at a time, its eight warps share the columns; a ninth makes the choice of experts meanwhile. Bound by
// the bytes of the weights, which nobody can ask for before the router's logits are there.
#pragma once
#include "common/decode.cuh"
#include "moe/activations.cuh"
#include "moe/choose.cuh"

template <uint32_t F>
DEVICE void decode_gate_up(const MoeArgs& args) {
    using P = Packing<F>;
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ float partial[2][2][WARPS][SLOTS];
    __shared__ float squares[WARPS];
    __shared__ uint32_t chosen[WARP];
    const int threads = WARPS * WARP, top_k = args.top_k, warp = threadIdx.x / WARP;
    const Input input(shared, 1, args.hidden, INPUT_INT8);
    if (warp == WARPS) {
        after_previous_kernel();
        Choices choices(args.logits, args.experts);
        choices.choose(args, [&](int k, uint32_t expert, float) {
            chosen[k] = expert;
            if (blockIdx.x == 0) args.choices[k] = expert;
        });
    } else {
        const NormAhead ahead(args.norm, args.hidden, threads);
        after_previous_kernel();
        fill_row(input, args.input, args.hidden, args.norm, ahead, INPUT_INT8, squares, threads);
    }
    __syncthreads();
    const float factor = norm_factor(args.norm, args.hidden, args.eps, squares);
    // Strips of the chosen experts are counted through, then those of the shared one.
    const int per_expert = ceil_div(args.width, SLOTS), routed = top_k * per_expert;
    const int total = routed + ceil_div(args.shared_width, SLOTS);
    const int mine = static_cast<int>(blockIdx.x) < total ? (total - 1 - blockIdx.x) / gridDim.x + 1 : 0;
    const auto place = [&](int number, int& strip) {
        const int unit = blockIdx.x + number * gridDim.x, entry = unit < routed ? unit / per_expert : top_k;
        strip = unit - entry * per_expert;
        return entry;
    };
    // Gate and up take turns.
    const auto matrix_of = [&](int number, int& strip) {
        const int entry = place(number / 2, strip);
        const Expert& expert = entry < top_k ? args.routed : args.shared;
        return of_expert(number % 2 ? expert.up : expert.gate, entry < top_k ? chosen[entry] : 0, args.spacing);
    };
    const auto strip_of = [&](int number) {
        int strip;
        const Matrix m = matrix_of(number, strip);
        return m.data + static_cast<uint64_t>(strip) * m.strip_bytes;
    };
    // The ninth warp takes part in the barriers only.
    Stream<P, decltype(strip_of)> stream(warp < WARPS ? 2 * mine : 0, args.hidden / BLOCK, strip_of);
    Codebook book;
    int parity = 0;
    for (int number = 0; number < mine; ++number) {
#pragma unroll
        for (int which = 0; which < 2 && warp < WARPS; ++which) {
            if constexpr (P::CODEBOOK) {
                int strip;
                book.load(matrix_of(2 * number + which, strip));
            }
            Sums<1> sums = {};
            stream.multiply(book, input, sums);
            reduce<1>(sums, partial[parity][which][warp]);
        }
        __syncthreads();
        int strip;
        const int entry = place(number, strip), row = strip * SLOTS + threadIdx.x, slot = slot_of_row(threadIdx.x);
        const int width = entry < top_k ? args.width : args.shared_width;
        if (threadIdx.x < SLOTS && row < width) {
            float gate = 0.0f, up = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; ++w) gate += partial[parity][0][w][slot], up += partial[parity][1][w][slot];
            activations_of(args, entry)[row] = silu(gate * factor) * (up * factor);
        }
        parity ^= 1;
    }
}
