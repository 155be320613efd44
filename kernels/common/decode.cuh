// A single row of activations for kernels of eight warps that read weights of one format: as `Input`, but in one pass, and for
// columns that are whole blocks. What comes before the
// reduction of a norm is put into shared memory; its factor, a number for the whole row, is multiplied into the results.
#pragma once
#include "common/row.cuh"
#include "common/strip.cuh"

const int WARPS = 8;
const int ROUNDS = 2;

// What is asked for before the wait: the norm's weights of this thread's first columns.
struct NormAhead {
    float4 weights[ROUNDS];

    __device__ __forceinline__ NormAhead(const float* norm, int cols, int threads) {
#pragma unroll
        for (int round = 0; round < ROUNDS; ++round) {
            const int col = 4 * (round * threads + threadIdx.x);
            weights[round] = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
            if (norm != nullptr && col < cols) weights[round] = *reinterpret_cast<const float4*>(norm + col);
        }
    }
};

// Columns `col .. col + 3` of the row; a maximum by bits finds what is not finite. The eight lanes of a tile do this together.
DEVICE void put_row(const Input& input, int col, float4 v, uint32_t forms) {
    const int tile = col / TILE;
    if (forms & INPUT_FLOATS) *reinterpret_cast<float4*>(input.floats + tile * TILE_FLOATS + col % TILE) = v;
    if (!(forms & INPUT_INT8)) return;
    uint32_t bits = max(max(__float_as_uint(v.x) & 0x7fffffff, __float_as_uint(v.y) & 0x7fffffff),
                        max(__float_as_uint(v.z) & 0x7fffffff, __float_as_uint(v.w) & 0x7fffffff));
#pragma unroll
    for (int d = 4; d > 0; d /= 2) bits = max(bits, __shfl_xor_sync(ALL_LANES, bits, d));
    const float largest = __uint_as_float(bits);
    const float scale = bits < 0x7f800000 ? largest * (1.0f / 127.0f) : __uint_as_float(0x7fffffff);
    const float inverse = scale > 0.0f ? __fdividef(127.0f, largest) : 0.0f;
    const int a = __float2int_rn(v.x * inverse), b = __float2int_rn(v.y * inverse);
    const int c = __float2int_rn(v.z * inverse), d = __float2int_rn(v.w * inverse);
    const uint32_t codes = __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
    const int sum = sum_lanes<8>(__dp4a(static_cast<int>(codes), 0x01010101, 0));
    input.codes[col / 4] = codes;
    if (col % TILE == 0) input.factors[tile] = make_float2(scale, scale * static_cast<float>(sum));
}

// Puts `x * norm` into shared memory, with the block's first `threads` threads; columns are whole blocks of 256.
// `squares[warp]` is the sum of squares of each warp's columns. A barrier is the caller's.
DEVICE void fill_row(const Input& input, const float* x, int cols, const float* norm, const NormAhead& ahead,
                     uint32_t forms, float* squares, int threads) {
    const int step = 4 * threads;
    float sum = 0.0f;
    for (int first = 4 * threadIdx.x; first < cols; first += ROUNDS * step) {
        float4 v[ROUNDS];
#pragma unroll
        for (int round = 0; round < ROUNDS; ++round) {
            const int col = first + round * step;
            if (col < cols) v[round] = *reinterpret_cast<const float4*>(x + col);
        }
#pragma unroll
        for (int round = 0; round < ROUNDS; ++round) {
            const int col = first + round * step;
            if (col >= cols) break;
            float4& u = v[round];
            if (norm != nullptr) {
                sum += u.x * u.x + u.y * u.y + u.z * u.z + u.w * u.w;
                float4 w = ahead.weights[round];
                if (first >= step) w = *reinterpret_cast<const float4*>(norm + col);
                u = make_float4(u.x * w.x, u.y * w.y, u.z * w.z, u.w * w.w);
            }
            put_row(input, col, u, forms);
        }
    }
    if (norm == nullptr) return;
    sum = sum_lanes<32>(sum);
    if (threadIdx.x % WARP == 0) squares[threadIdx.x / WARP] = sum;
}

// What results are multiplied with; after the barrier.
DEVICE float norm_factor(const float* norm, int cols, float eps, const float* squares) {
    if (norm == nullptr) return 1.0f;
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) sum += squares[warp];
    return rsqrtf(sum / static_cast<float>(cols) + eps);
}

// A warp's way through the blocks of 256 columns of strips, each of which its block's warps share: what is next is asked for
// `DEPTH` blocks ahead. `strip_of(i)` is where the `i`-th of `strips` strips begins.
template <class P, class StripOf>
struct Stream {
    // Blocks in registers; two of a large format do not fit.
    static constexpr int DEPTH = sizeof(P) > 96 ? 1 : 2;
    P ahead[DEPTH];
    StripOf strip_of;
    const uint8_t* strip;
    int strips, blocks, number = 0, turn = 0, index;

    __device__ __forceinline__ Stream(int strips, int blocks, StripOf strip_of)
        : strip_of(strip_of), strips(strips), blocks(blocks), index(threadIdx.x / WARP) {
        if (index >= blocks) this->strips = 0;
        strip = this->strips > 0 ? strip_of(0) : nullptr;
#pragma unroll
        for (int i = 0; i < DEPTH; ++i) fetch(ahead[i]);
    }
    __device__ __forceinline__ void fetch(P& block) {
        if (number >= strips) return;
        const int lane = threadIdx.x % WARP;
        block.load(strip + index * P::block_bytes(BLOCK / TILE), BLOCK / TILE, lane / 4, lane % 4);
        index += WARPS;
        if (index < blocks) return;
        index = threadIdx.x / WARP;
        ++number;
        if (number < strips) strip = strip_of(number);
    }
    // Adds the products of the next strip.
    __device__ __forceinline__ void multiply(const Codebook& book, const Input& input, Sums<1>& sums) {
        for (int block = threadIdx.x / WARP; block < blocks; block += WARPS) {
            const int tile = block * (BLOCK / TILE) + threadIdx.x % WARP / 4;
            // Written twice, so that no register has to move.
            if (DEPTH == 1 || turn == 0) {
                multiply_int8<P, 1>(ahead[0], book, input, tile, sums);
                fetch(ahead[0]);
            } else {
                multiply_int8<P, 1>(ahead[DEPTH - 1], book, input, tile, sums);
                fetch(ahead[DEPTH - 1]);
            }
            turn = (turn + 1) % DEPTH;
        }
    }
};
