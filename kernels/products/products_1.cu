// Products of up to four matrices of any format with one row of activations.
//
// A block puts the row into shared memory, normed and quantised on the way, and walks strips of 16 weight rows; each of its
// eight warps has a share of the columns, and their sums meet in shared memory. Bound by the bytes of the weights: the first of
// them are asked for before the kernel waits for its input.
#include "common/row.cuh"
#include "common/strip.cuh"

const int WARPS = 8;

struct ProductsBlock {
    const ProductsArgs& args;
    const Input input;
    float* scratch;                  // [32]
    float (*partial)[WARPS][SLOTS];  // [2]
    int parity = 0;
    bool ready = false;

    // Columns of a strip are shared by `sharers` warps; `groups` strips are worked on at a time.
    int sharers, groups;

    __device__ __forceinline__ ProductsBlock(const ProductsArgs& a, uint8_t* shared, float* scratch,
                                             float (*partial)[WARPS][SLOTS])
        : args(a), input(shared, 1, a.cols, a.forms), scratch(scratch), partial(partial) {
        sharers = min(WARPS, max(1, ceil_div(a.cols, BLOCK)));
        groups = WARPS / sharers;
    }

    // Once, after the first loads of weights. Not inlined: every format has its place of it.
    __device__ __noinline__ void prepare() {
        if (ready) return;
        ready = true;
        after_previous_kernel();
        const auto row = [&](int) {
            const uint32_t index = args.pick == nullptr ? 0 : *args.pick;
            return args.input + static_cast<uint64_t>(index) * args.input_stride;
        };
        fill(input, row, 1, args.cols, args.norm, args.eps, args.forms, scratch);
        __syncthreads();
    }

    __device__ __forceinline__ void publish(const Product& p, uint32_t row, float value) const {
        if (p.bias != nullptr) value += p.bias[row];
        p.out[row] = args.add ? p.out[row] + value : value;
    }

    // Not inlined, nor is `stored`: the compiler gives each format registers of its own.
    template <class P>
    __device__ __noinline__ void packed(const Product& p, int unit, int units) {
        const Matrix& m = p.matrix;
        const int warp = threadIdx.x / WARP, group = warp / sharers, share = warp % sharers;
        const int strips = ceil_div(m.rows, SLOTS);
        const bool int8 = args.forms & INPUT_INT8 && takes_int8(m);
        Codebook book;
        if constexpr (P::CODEBOOK) book.load(m);
        const auto has = [&](int unit) { return group < groups && unit < units && unit * groups + group < strips; };
        const auto strip = [&](int unit) { return unit * groups + group; };
        Walk<P> walk(m, has(unit) ? strip(unit) : 0, has(unit) ? share : 1 << 30);
        prepare();
        for (; unit < units; unit += gridDim.x) {
            Sums<1> sums = {};
            if (has(unit)) {
                for (int index = share; index < walk.blocks; index += sharers) {
                    const P now = walk.block;
                    const int next = unit + gridDim.x;
                    const auto load_next = [&]() {
                        if (index + sharers < walk.blocks) {
                            walk.load(index + sharers);
                        } else if (has(next)) {
                            walk.strip = m.data + static_cast<uint64_t>(strip(next)) * m.strip_bytes;
                            walk.load(share);
                        }
                    };
                    if constexpr (P::AHEAD) load_next();
                    const int tile = index * (BLOCK / TILE) + threadIdx.x % WARP / 4;
                    if (tile < walk.cols / TILE) multiply<P, 1>(now, book, m, input, 1, tile, int8, sums);
                    if constexpr (!P::AHEAD) load_next();
                }
            }
            reduce<1>(sums, partial[parity][warp]);
            __syncthreads();
            for (int t = threadIdx.x; t < groups * SLOTS; t += blockDim.x) {
                const int row_in = t % SLOTS, g = t / SLOTS, slot = slot_of_row(row_in);
                const uint32_t row = (unit * groups + g) * SLOTS + row_in;
                if (row >= m.rows) continue;
                float sum = 0.0f;
                for (int s = 0; s < sharers; ++s) sum += partial[parity][g * sharers + s][slot];
                publish(p, row, sum);
            }
            parity ^= 1;
        }
    }

    // A row for each warp.
    __device__ __noinline__ void stored(const Product& p, int unit, int units) {
        for (; unit < units; unit += gridDim.x) {
            const uint32_t row = unit * WARPS + threadIdx.x / WARP;
            const bool has = row < p.matrix.rows;
            StoredRow walk(p.matrix, has ? row : 0);
            prepare();
            float sums[1];
            walk.multiply<1>(input, sums);
            if (has && threadIdx.x % WARP == 0) publish(p, row, sums[0]);
        }
    }

    __device__ __forceinline__ void run() {
        uint32_t before = 0;
        for (uint32_t index = 0; index < args.products_count; ++index) {
            const Product& p = args.products[index];
            const Matrix& m = p.matrix;
            const int units = m.packed ? ceil_div(ceil_div(m.rows, SLOTS), groups) : ceil_div(m.rows, WARPS);
            const int unit = (blockIdx.x + gridDim.x - before % gridDim.x) % gridDim.x;
            before += units;
            if (unit >= units) continue;
            if (m.packed) {
                with_packing(m.format, [&](auto tag) { packed<decltype(tag)>(p, unit, units); });
            } else {
                stored(p, unit, units);
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(256, 2) products_1(const __grid_constant__ ProductsArgs args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    __shared__ float partial[2][WARPS][SLOTS];
    __shared__ float scratch[32];
    ProductsBlock(args, shared, scratch, partial).run();
}
