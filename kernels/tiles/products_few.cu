// Products of up to four matrices with the same rows of activations, where blocks of eight strips would leave most of the
// device idle: columns are divided into `split` parts, so that there are as many times the blocks, each with fewer steps one
// behind another.
//
// Where there are clusters, a block of a cluster has a part of the columns of all its strips, and its warps share the activations.
// The sums of strips go to one of the blocks each. Elsewhere it is the warps of a block that have the parts: every block needs
// all columns of the activations. The sums of the parts meet in shared memory at the end, always in the same order.
#include "tiles/products.cuh"

// What a warp has: part `part` of the columns of a strip, together with `sharing` warps of the block, of which it is number `own`,
// that copy the activations of this part. The block has `inside` parts.
struct Part {
    int split, inside, part, own, sharing, group;

    __device__ __forceinline__ explicit Part(int split) : split(split) {
        const int warp = threadIdx.x / WARP;
#if HAS_CLUSTERS
        inside = 1, part = blockIdx.x % split, own = warp, group = blockIdx.x / split;
#else
        inside = split, part = warp % split, own = warp / split, group = blockIdx.x;
#endif
        sharing = WARPS / inside;
    }
    // The number of stage `stage` of this part among those of all parts of the block.
    __device__ __forceinline__ int stage(int stage) const { return HAS_CLUSTERS ? stage : stage * inside + part; }
};

// Waits for all but the `steps` newest copies.
DEVICE void wait_for_steps_but(int steps) {
    switch (steps) {
        case 3: return wait_for_copies_but<3>();
        case 2: return wait_for_copies_but<2>();
        case 1: return wait_for_copies_but<1>();
        default: return wait_for_copies_but<0>();
    }
}

// Adds the products of a part of the columns of strip `strip`, if there is such a strip. Waits for the kernel in front when weights
// are on their way. Warps do not come back together: who uses the stages' memory again needs a barrier.
template <uint32_t F>
DEVICE void multiply_part(uint8_t* shared, const TileProductsArgs& args, const Activations& x, const Matrix& m, int strip,
                          const Part& own, Sums& sums) {
    const int chunks = ceil_div(m.cols, BLOCK), steps = ceil_div(chunks, own.split);
    const int thread = own.own * WARP + threadIdx.x % WARP, threads = own.sharing * WARP;
    const bool there = strip < ceil_div(m.rows, SLOTS);
    const Stages<F> stages(shared, args.room, x.count, own.sharing, own.own);
    const int count = min(MOST_STAGES, static_cast<int>(args.room) / (own.inside * stages.bytes));
    const auto start_weights = [&](int step, int stage) {
        const int chunk = step * own.split + own.part;
        if (there && chunk < chunks) copy_weights<F>(stages, own.stage(stage), m, strip, chunk);
    };
    const auto start_activations = [&](int step, int stage) {
        const int chunk = step * own.split + own.part;
        if (chunk < chunks) copy_activations<F>(stages, own.stage(stage), x, m, chunk, thread, threads);
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
        const int chunk = step * own.split + own.part;
        if (there && chunk < chunks) {
            multiply_block<F, 4 * COLUMNS>(fragment, stages, own.stage(stage), tiles_of<F>(m, chunk), x.count, sums);
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
}

// Sums of a part meet those of the others in shared memory: `joined` is [strips that the block joins][parts][groups of eight rows
// of the activations][WARP].
struct Joined {
    float4* joined;
    int split, groups;

    __device__ __forceinline__ Joined(uint8_t* shared, int split, int count)
        : joined(reinterpret_cast<float4*>(shared)), split(split), groups(ceil_div(count, COLUMNS)) {}
    __device__ __forceinline__ float4* place(int strip, int part, int group) const {
        return joined + ((strip * split + part) * groups + group) * WARP + threadIdx.x % WARP;
    }
    // Calls `put(i, sums)` with the sums of this warp, eight rows at a time.
    template <class Put>
    __device__ __forceinline__ void leave(const Sums& sums, Put&& put) const {
#pragma unroll
        for (int n = 0; n < ROWS / COLUMNS; ++n) {
            if (n < groups) put(n, make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]));
        }
    }
    // Calls `put(row, i, sum)` as `for_four_sums` for group `n` of strip `strip`.
    template <class Put>
    __device__ __forceinline__ void add_up(int strip, int n, int count, Put&& put) const {
        float all[4] = {};
        for (int i = 0; i < split; ++i) {
            const float4 one = *place(strip, i, n);
            all[0] += one.x, all[1] += one.y, all[2] += one.z, all[3] += one.w;
        }
        for_four_sums(all, n * COLUMNS, count, put);
    }
};

template <uint32_t F>
DEVICE void tile_products_few(const TileProductsArgs& args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ uint32_t tile[ROWS];
    Part own(args.split);
    const int strips = own.sharing;
    const Product& p = own_product(args, strips * SLOTS, own.group);
    const int first = blockIdx.y * args.rows, strip = own.group * strips + own.own;
    const int count = min(static_cast<int>(args.rows), static_cast<int>(args.count) - first);
    const Activations x = {args.codes, args.factors, tile, count};
    const Joined joined(shared, own.split, count);
    const auto put = [&](int strip, int n) {
        joined.add_up(strip % (WARPS / own.split), n, count, [&](int row_in, int i, float sum) {
            put_sum(args, p, strip, row_in, first + i, sum);
        });
    };
    Sums sums = {};
#if HAS_CLUSTERS
    // Whoever writes to another block's shared memory waits until that block has begun. Stages are behind what is joined.
    arrive_at_cluster_relaxed();
#endif
    if (threadIdx.x < count) tile[threadIdx.x] = (first + threadIdx.x) * (args.cols / TILE);
    __syncthreads();
#if HAS_CLUSTERS
    multiply_part<F>(shared + WARPS * joined.groups * WARP * sizeof(float4), args, x, p.matrix, strip, own, sums);
    wait_for_cluster();
    // Of the strips of the cluster, so many are each block's.
    const int of_block = WARPS / own.split, warp = threadIdx.x / WARP;
    joined.leave(sums, [&](int n, float4 four) {
        put_in_cluster(joined.place(warp % of_block, own.part, n), warp / of_block, four);
    });
    arrive_at_cluster();
    wait_for_cluster();
    for (int i = warp; i < of_block * joined.groups; i += WARPS) {
        put(own.group * strips + own.part * of_block + i / joined.groups, i % joined.groups);
    }
#else
    multiply_part<F>(shared, args, x, p.matrix, strip, own, sums);
    __syncthreads();
    joined.leave(sums, [&](int n, float4 four) { *joined.place(own.own, own.part, n) = four; });
    __syncthreads();
    for (int n = own.part; n < joined.groups; n += own.split) put(strip, n);
#endif
}

#define KERNEL(F, format)                                                           \
    extern "C" __global__ void __launch_bounds__(256, 2)                            \
        tile_products_few_##format(const __grid_constant__ TileProductsArgs args) { \
        tile_products_few<F>(args);                                                 \
    }
FOR_INT8_FORMATS(KERNEL)
