// `x += Σ share * down · activations` over the experts of one row, which have one format that takes int8: a block takes 16
// rows of every expert's matrix, a warp an expert, and their sums meet in shared memory in the order of the choices. Bound by
// the bytes of the weights, which are asked for before the kernel waits for the activations: the router's logits, and so the
// choices, were there before those. Few enough registers that its blocks fit beside those of the kernel before it.
#pragma once
#include "common/decode.cuh"
#include "moe/choose.cuh"
#include "moe/activations.cuh"

// Experts of a row, the shared one included: a warp each.
const int MOST_ENTRIES = 16;

template <uint32_t F>
DEVICE void decode_down(const MoeArgs& args) {
    using P = Packing<F>;
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ float outputs[MOST_ENTRIES][SLOTS];
    __shared__ uint32_t chosen[MOST_ENTRIES];
    __shared__ float shares[MOST_ENTRIES];
    const int top_k = args.top_k, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int row = blockIdx.x * SLOTS + threadIdx.x;
    if (warp == 0) {
        Choices choices(args.logits, args.experts);
        const float total = choices.choose(args, [&](int k, uint32_t expert, float share) {
            chosen[k] = expert, shares[k] = share;
        });
        __syncwarp();
        if (lane < top_k) shares[lane] /= total;
        if (lane == top_k) {
            chosen[lane] = 0;
            shares[lane] = args.shared_gate == nullptr ? 1.0f : sigmoid(*args.shared_gate);
        }
    }
    const bool adds = threadIdx.x < SLOTS && row < static_cast<int>(args.hidden);
    const float before = adds ? args.x[row] : 0.0f;
    __syncthreads();

    const bool is_shared = warp == top_k;
    const Matrix& first = is_shared ? args.shared.down : args.routed.down;
    const int widest = max(args.width, args.shared_width), cols = first.cols;
    const uint32_t bytes = ceil_div(widest, TILE) * 40;
    const Input input(shared + warp * ceil_div(bytes, 16) * 16, 1, cols, INPUT_INT8);
    const Matrix m = of_expert(first, chosen[warp], args.spacing);
    Codebook book;
    if constexpr (P::CODEBOOK) book.load(m);
    const uint8_t* strip = m.data + static_cast<uint64_t>(blockIdx.x) * m.strip_bytes;
    const int blocks = cols / BLOCK;
    const auto load = [&](P& block, int index) {
        if (index < blocks) block.load(strip + index * P::block_bytes(BLOCK / TILE), BLOCK / TILE, lane / 4, lane % 4);
    };
    P even, odd;
    load(even, 0);
    load(odd, 1);
    after_previous_kernel();
    const float* x = activations_of(args, warp);
    for (int start = 4 * lane; start < cols; start += BLOCK) {
        const float4 low = *reinterpret_cast<const float4*>(x + start);
        const float4 high = *reinterpret_cast<const float4*>(x + start + BLOCK / 2);
        put_row(input, start, low, INPUT_INT8);
        put_row(input, start + BLOCK / 2, high, INPUT_INT8);
    }
    __syncwarp();
    Sums<1> sums = {};
    for (int index = 0; index < blocks; index += 2) {
        const int tile = index * (BLOCK / TILE) + lane / 4;
        multiply_int8<P, 1>(even, book, input, tile, sums);
        load(even, index + 2);
        if (index + 1 == blocks) break;
        multiply_int8<P, 1>(odd, book, input, tile + BLOCK / TILE, sums);
        load(odd, index + 3);
    }
    reduce<1>(sums, outputs[warp]);
    __syncthreads();
    if (!adds) return;
    float sum = 0.0f;
    const int experts = top_k + (args.shared_width > 0 ? 1 : 0);
    for (int e = 0; e < experts; ++e) sum = fmaf(shares[e], outputs[e][slot_of_row(threadIdx.x)], sum);
    args.x[row] = before + sum;
}
