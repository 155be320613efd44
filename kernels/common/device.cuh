// What every kernel uses: order between kernels, loads, reductions, the activations' functions.
#pragma once
#include <cstdint>

#include "common/ptx.cuh"

const uint32_t WARP = 32;
const uint32_t ALL_LANES = 0xffffffff;

// Waits for the kernels before this one, then lets the next one start. Before it a kernel may read weights, what the step was
// told, which was there before its first kernel, and what the kernels before the last one wrote: the last one asked for this
// start only after its own wait. Behind a kernel that asks for it earlier (`start_next_kernel_early`) what the kernel in front
// of that one wrote may not be there either; of two kernels behind each other only one does so.
DEVICE void after_previous_kernel() {
    wait_for_previous_kernel();
    start_next_kernel();
}

// The same, with the start of the next one before the wait where that is `early`.
DEVICE void after_previous_kernel(bool early) {
    if (early) start_next_kernel_early();
    wait_for_previous_kernel();
    if (!early) start_next_kernel();
}

// A kernel's argument in shared memory. Where a launch keeps it, each line that is read for the first time comes from afar, one
// after another; so all come at once, while the kernel has nothing to do but to wait. Every thread calls it.
template <class Args>
DEVICE const Args& near_copy(const Args& args, Args& copy) {
    static_assert(sizeof(Args) % 4 == 0);
    for (uint32_t i = threadIdx.x; i < sizeof(Args) / 4; i += blockDim.x) {
        reinterpret_cast<uint32_t*>(&copy)[i] = reinterpret_cast<const uint32_t*>(&args)[i];
    }
    __syncthreads();
    return copy;
}

DEVICE float bf16_bits(uint32_t bits) { return __uint_as_float(bits << 16); }

// Half `i` of two words of four.
DEVICE float half_of(uint2 four, int i) { return half_bits((i < 2 ? four.x : four.y) >> (16 * (i & 1)) & 0xffff); }

// Sums and maxima over the lanes whose numbers differ in the bits of `mask`.
template <int LANES>
DEVICE float sum_lanes(float v) {
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2) v += __shfl_xor_sync(ALL_LANES, v, d);
    return v;
}

template <int LANES>
DEVICE float max_lanes(float v) {
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, d));
    return v;
}

template <int LANES>
DEVICE int sum_lanes(int v) {
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2) v += __shfl_xor_sync(ALL_LANES, v, d);
    return v;
}

// `sum + v factor`.
DEVICE float4 add_scaled(float4 sum, float4 v, float factor) {
    return make_float4(fmaf(v.x, factor, sum.x), fmaf(v.y, factor, sum.y), fmaf(v.z, factor, sum.z), fmaf(v.w, factor, sum.w));
}

// The sum over all threads of a block, in every thread. `shared` takes 32 floats; a barrier before its next use is the
// caller's.
DEVICE float sum_block(float v, float* shared) {
    v = sum_lanes<32>(v);
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = v;
    __syncthreads();
    const uint32_t warps = (blockDim.x + WARP - 1) / WARP, lane = threadIdx.x % WARP;
    return sum_lanes<32>(lane < warps ? shared[lane] : 0.0f);
}

// Whether this is the last of `blocks` blocks to come here, which count themselves in `*counter`, zero before and after: what
// the others wrote is then there, for loads that pass the first-level cache. Every thread calls it.
DEVICE bool is_last_block(uint32_t* counter, uint32_t blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == blocks - 1;
    __syncthreads();
    if (!last) return false;
    __threadfence();
    if (threadIdx.x == 0) *counter = 0;
    return true;
}

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

DEVICE float silu(float x) { return x * sigmoid(x); }

// Linear above 20, as torch.nn.functional.softplus.
DEVICE float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The row of a strip that stands at `slot` of a line, and the inverse (src/quant/packed/layout.rs).
DEVICE int row_of_slot(int slot) { return slot / 2 + 8 * (slot % 2); }
DEVICE int slot_of_row(int row) { return 2 * (row % 8) + row / 8; }
