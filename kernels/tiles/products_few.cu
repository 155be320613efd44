// Products of up to four matrices with the same rows of activations, where blocks of eight strips would leave most of the
// device idle: `split` warps share a strip and divide its columns, so that there are as many times the blocks, each with
// fewer steps one behind another.
//
// In a step the warps of a part have 256 columns, for which they copy what they read themselves: a stage has the activations
// of `split` times 256 columns. The sums of the parts meet in shared memory at the end, always in the same order.
#include "tiles/products.cuh"

// Waits for all but the `steps` newest copies.
DEVICE void wait_for_steps_but(int steps) {
    switch (steps) {
        case 3: return wait_for_copies_but<3>();
        case 2: return wait_for_copies_but<2>();
        case 1: return wait_for_copies_but<1>();
        default: return wait_for_copies_but<0>();
    }
}

// Adds the products of part `part` of the columns of strip `strip`, if there is such a strip. Waits for the kernel in front
// when weights are on their way. All warps come back together.
template <uint32_t F>
DEVICE void multiply_part(uint8_t* shared, const TileProductsArgs& args, const Activations& x, const Matrix& m, int strip,
                          int part, Sums& sums) {
    const int split = args.split, own = threadIdx.x / WARP / split;
    const int chunks = ceil_div(m.cols, BLOCK), steps = ceil_div(chunks, split);
    const int thread = own * WARP + threadIdx.x % WARP, threads = blockDim.x / split;
    const bool there = strip < ceil_div(m.rows, SLOTS);
    // Each part has stages of its own: that of a step is number `stage * split + part` of all.
    const Stages<F> stages(shared, args.room, x.count, WARPS / split, own);
    const int count = min(MOST_STAGES, static_cast<int>(args.room) / (split * stages.bytes));
    const auto start_weights = [&](int step, int stage) {
        const int chunk = step * split + part;
        if (there && chunk < chunks) copy_weights<F>(stages, stage * split + part, m, strip, chunk);
    };
    const auto start_activations = [&](int step, int stage) {
        const int chunk = step * split + part;
        if (chunk < chunks) copy_activations<F>(stages, stage * split + part, x, m, chunk, thread, threads);
    };
    for (int i = 0; i < count; ++i) start_weights(i, i);
    after_previous_kernel();
    for (int i = 0; i < count; ++i) {
        start_activations(i, i);
        end_copy_group();
    }
    Fragment<F> fragment(m);
    int stage = 0;
    for (int step = 0; step < steps; ++step) {
        wait_for_steps_but(count - 1);
        __syncthreads();
        const int chunk = step * split + part;
        if (there && chunk < chunks) {
            multiply_block<F, 4 * COLUMNS>(fragment, stages, stage * split + part, tiles_of<F>(m, chunk), x.count, sums);
        }
        if (step + count < steps) {
            // The other warps of the part are done with what the copies replace.
            __syncthreads();
            start_weights(step + count, stage);
            start_activations(step + count, stage);
        }
        end_copy_group();
        if (++stage == count) stage = 0;
    }
    __syncthreads();
}

// Calls `put(row, i, sum)` as `for_sums`, with sums over all parts: each part's warp has some rows of the activations.
// All warps have strips of `split` parts; those whose strip is not there are to put nothing.
template <class Put>
DEVICE void join_parts(uint8_t* shared, const Sums& sums, int split, int part, int count, Put&& put) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, groups = ceil_div(count, COLUMNS);
    float4* joined = reinterpret_cast<float4*>(shared);  // [WARPS][groups][WARP]
#pragma unroll
    for (int n = 0; n < ROWS / COLUMNS; ++n) {
        if (n >= groups) break;
        joined[(warp * groups + n) * WARP + lane] = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
    }
    __syncthreads();
    for (int n = part; n < groups; n += split) {
        float all[4] = {};
        for (int i = 0; i < split; ++i) {
            const float4 one = joined[((warp - part + i) * groups + n) * WARP + lane];
            all[0] += one.x, all[1] += one.y, all[2] += one.z, all[3] += one.w;
        }
        for_four_sums(all, n * COLUMNS, count, put);
    }
}

template <uint32_t F>
DEVICE void tile_products_few(const TileProductsArgs& args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ uint32_t tile[ROWS];
    const int split = args.split, strips = WARPS / split, warp = threadIdx.x / WARP, part = warp % split;
    int group = blockIdx.x;
    const Product& p = own_product(args, strips * SLOTS, group);
    const int first = blockIdx.y * args.rows, strip = group * strips + warp / split;
    const int count = min(static_cast<int>(args.rows), static_cast<int>(args.count) - first);
    const Activations x = {args.codes, args.factors, tile, count};
    if (threadIdx.x < count) tile[threadIdx.x] = (first + threadIdx.x) * (args.cols / TILE);
    __syncthreads();
    Sums sums = {};
    multiply_part<F>(shared, args, x, p.matrix, strip, part, sums);
    join_parts(shared, sums, split, part, count, [&](int row_in, int i, float sum) {
        put_sum(args, p, strip, row_in, first + i, sum);
    });
}

#define KERNEL(F, format)                                                           \
    extern "C" __global__ void __launch_bounds__(256, 2)                            \
        tile_products_few_##format(const __grid_constant__ TileProductsArgs args) { \
        tile_products_few<F>(args);                                                 \
    }
FOR_INT8_FORMATS(KERNEL)
