// `activations = silu(gate · x) * (up · x)` of one row, for experts of one format that takes int8: a block takes 16 rows of both
// matrices of an expert at a time, its warps share the strips and their columns. Bound by the bytes of the weights: nobody
// can ask for those of the routed experts before the router's logits are there.
#pragma once
#include "common/decode.cuh"
#include "common/multiply_row.cuh"
#include "common/quantise.cuh"
#include "common/ring.cuh"
#include "moe/activations.cuh"
#include "moe/choose.cuh"

// Warps that put the row into shared memory, while the others make the choice of experts.
const int FILLERS = WARPS / 2;

// Pairs of strips that a block sums up before their sums meet.
const int PAIRS = 4;

template <uint32_t F>
DEVICE void decode_gate_up(const MoeArgs& far_args) {
    __shared__ MoeArgs copy;
    const MoeArgs& args = near_copy(far_args, copy);
    // Aligned as lines are: see few_down.cuh.
    DYNAMIC_SHARED(__align__(128) uint8_t, shared);
    __shared__ float partial[2 * PAIRS][WARPS][SLOTS];
    __shared__ float squares[WARPS];
    __shared__ ChoiceRoom room;
    const int top_k = args.top_k, warp = threadIdx.x / WARP;
    const Input input(shared, 1, args.hidden, INPUT_INT8);
    const int threads = WARP * FILLERS;
    const NormAhead ahead(args.norm, args.hidden, threads);
    RowFragment<F> fragment(args.routed.gate);  // all of them have one codebook
    // Strips of the shared expert are counted through, which are asked for before the choice, then those of the chosen ones.
    const int per_expert = ceil_div(args.width, SLOTS), of_shared = ceil_div(args.shared_width, SLOTS);
    const int total = of_shared + top_k * per_expert;
    const int mine = static_cast<int>(blockIdx.x) < total ? (total - 1 - blockIdx.x) / gridDim.x + 1 : 0;
    const auto place = [&](int number, int& strip) {
        const int unit = blockIdx.x + number * gridDim.x - of_shared, entry = unit < 0 ? top_k : unit / per_expert;
        strip = unit < 0 ? unit + of_shared : unit - entry * per_expert;
        return entry;
    };
    // Gate and up take turns.
    const auto matrix_of = [&](int number, int& strip) {
        const int entry = place(number / 2, strip);
        const Expert& expert = entry < top_k ? args.routed : args.shared;
        return of_expert(number % 2 ? expert.up : expert.gate, entry < top_k ? room.experts[entry] : 0, args.spacing);
    };
    const Shares share(args.hidden / BLOCK, WARPS);
    const auto strip_of = [&](int number) {
        int strip;
        const Matrix m = matrix_of(share.set + number * share.sets, strip);
        return m.data + static_cast<uint64_t>(strip) * m.strip_bytes;
    };
    using Copies = Ring<F, decltype(strip_of)>;
    uint8_t* copied = shared + input.bytes(INPUT_INT8) + warp * args.gate_up_slots * Copies::BYTES;
    Copies ring(copied, args.gate_up_slots, share.of(2 * mine), share.first, share.across, share.blocks, strip_of);
    const int early = static_cast<int>(blockIdx.x) < of_shared ? ring.slots_of(share.of(2)) : 0;
    ring.start_until(early);
    after_previous_kernel();
    if (warp < FILLERS) {
        const RowAhead first_columns(args.input, args.hidden, threads);
        __syncthreads();
        fill_row(input, args.input, first_columns, args.hidden, args.norm, ahead, INPUT_INT8, squares, threads);
        __syncthreads();
    } else {
        Choices(args, args.logits, FILLERS).choose(room);
    }
    __syncthreads();
    if (blockIdx.x == 0 && static_cast<int>(threadIdx.x) < top_k) args.choices[threadIdx.x] = room.experts[threadIdx.x];
    ring.start(early);
    const float factor = norm_factor(args.norm, args.hidden, args.eps, squares, threads);
    RowOperand<F, false> x;
    int loaded = -1;
    for (int first = 0; first < mine; first += PAIRS) {
        const int count = min(PAIRS, mine - first);
        for (int i = share.set; i < 2 * count; i += share.sets) {
            float own[2] = {};
            for (int at = share.first; at < share.blocks; at += share.across) {
                if (at != loaded) x.load(NearRow{input.codes, input.factors}, at);
                loaded = at;
                multiply_row<F, false>(fragment, ring.take(), x, own);
                ring.release();
            }
            put_sums(own, partial[i][share.first]);
        }
        __syncthreads();
        if (threadIdx.x < PAIRS * SLOTS) {
            int strip;
            const int pair = threadIdx.x / SLOTS, entry = place(first + pair, strip), within = threadIdx.x % SLOTS;
            float gate = 0.0f, up = 0.0f;
#pragma unroll 8
            for (int w = 0; w < share.across && pair < count; ++w) {
                gate += partial[2 * pair][w][within], up += partial[2 * pair + 1][w][within];
            }
            const float value = silu(gate * factor) * (up * factor);
            const uint32_t column = activation_of(args, entry) + strip * SLOTS + within;
            put_half_tile<1>(args.row, column, value, pair < count);
        }
        if (first + PAIRS < mine) __syncthreads();
    }
}
