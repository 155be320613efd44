// `x += Σ share * down · activations` over the experts of one row: a block takes 16 rows of every expert's matrix, a warp an
// expert, and their sums meet in shared memory in the order of the choices. Bound by the bytes of the weights, which are asked
// for before the kernel waits for the activations: the choices were there before those.
#include "moe/expert.cuh"

const int MAX_EXPERTS = 33;

// One warp's products: `out[slot]`.
template <class P>
__device__ __noinline__ void packed_expert(const MoeArgs& args, const Matrix& m, uint32_t entry, const Input& input,
                                           float* out) {
    Codebook book;
    if constexpr (P::CODEBOOK) book.load(m);
    Walk<P> walk(m, blockIdx.x, 0);
    after_previous_kernel();
    const float* x = activations_of(args, entry);
    const int cols = m.cols, lane = threadIdx.x % WARP;
    for (int first = 0; first < cols; first += 4 * WARP) {
        const int col = first + 4 * lane;
        input.put(0, col, col < input.tiles * TILE, four_of(x, col, cols), args.down_forms);
    }
    __syncwarp();
    Sums<1> sums = {};
    walk.template multiply_all<1>(0, 1, book, m, input, args.down_forms & INPUT_INT8 && takes_int8(m), sums);
    reduce<1>(sums, out);
}

__device__ __noinline__ void stored_expert(const MoeArgs& args, const Matrix& m, uint32_t entry, const Input& input,
                                           float* out) {
    after_previous_kernel();
    const float* x = activations_of(args, entry);
    const int cols = m.cols, lane = threadIdx.x % WARP;
    for (int col = 4 * lane; col < input.tiles * TILE; col += 4 * WARP) {
        *reinterpret_cast<float4*>(input.floats + col / TILE * TILE_FLOATS + col % TILE) = four_of(x, col, cols);
    }
    __syncwarp();
    for (int row_in = 0; row_in < SLOTS; ++row_in) {
        const uint32_t row = blockIdx.x * SLOTS + row_in;
        float sums[1] = {};
        if (row < m.rows) StoredRow(m, row).multiply<1>(input, sums);
        if (lane == 0) out[slot_of_row(row_in)] = sums[0];
    }
}

extern "C" __global__ void __launch_bounds__(512, 1) moe_down_1(const __grid_constant__ MoeArgs args) {
    extern __shared__ __align__(16) uint8_t shared[];
    __shared__ float outputs[MAX_EXPERTS][SLOTS];
    const uint32_t experts = args.top_k + (args.shared_width > 0 ? 1 : 0), warp = threadIdx.x / WARP;
    const int widest = max(args.top_k > 0 ? args.width : 0, args.shared_width);
    const uint32_t bytes = ceil_div(widest, TILE) * ((args.down_forms & INPUT_FLOATS ? 4 * TILE_FLOATS : 0) +
                                                     (args.down_forms & INPUT_INT8 ? 40 : 0));
    for (uint32_t e = warp; e < experts; e += blockDim.x / WARP) {
        const Matrix& m = args.table[e < args.top_k ? args.choices[e] : args.experts].down;
        const Input input(shared + warp * ceil_div(bytes, 16) * 16, 1, m.cols, args.down_forms);
        if (m.packed) {
            with_packing(m.format, [&](auto tag) { packed_expert<decltype(tag)>(args, m, e, input, outputs[e]); });
        } else {
            stored_expert(args, m, e, input, outputs[e]);
        }
    }
    __syncthreads();
    const uint32_t row = blockIdx.x * SLOTS + threadIdx.x;
    if (threadIdx.x >= SLOTS || row >= args.hidden) return;
    float sum = 0.0f;
    for (uint32_t e = 0; e < experts; ++e) {
        const float share = e < args.top_k ? args.shares[e] : share_of_shared_expert(args, 0);
        sum = fmaf(share, outputs[e][slot_of_row(threadIdx.x)], sum);
    }
    args.x[row] += sum;
}
