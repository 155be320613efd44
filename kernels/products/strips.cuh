// The strips of all matrices of a launch, counted through: a block takes those whose numbers are its own or a multiple of the grid
// further.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"
#include "common/packing.cuh"

struct ProductStrips {
    const ProductsArgs& args;
    uint32_t ends[PRODUCTS], total = 0;

    __device__ __forceinline__ explicit ProductStrips(const ProductsArgs& args) : args(args) {
#pragma unroll
        for (uint32_t i = 0; i < PRODUCTS; ++i) {
            if (i < args.products_count) total += ceil_div(args.products[i].matrix.rows, SLOTS);
            ends[i] = total;
        }
    }
    // Those of this block.
    __device__ __forceinline__ int own() const { return blockIdx.x < total ? (total - 1 - blockIdx.x) / gridDim.x + 1 : 0; }
    // The product that a strip belongs to; `strip` becomes its number there.
    __device__ __forceinline__ const Product& product_of(uint32_t& strip) const {
        uint32_t product = 0, first = 0;
#pragma unroll
        for (uint32_t i = 0; i + 1 < PRODUCTS; ++i) {
            if (strip >= ends[i]) product = i + 1, first = ends[i];
        }
        strip -= first;
        return args.products[product];
    }
    // Where the block's strip `number` begins.
    __device__ __forceinline__ const uint8_t* strip(int number) const {
        uint32_t strip = blockIdx.x + number * gridDim.x;
        const Matrix& m = product_of(strip).matrix;
        return m.data + static_cast<uint64_t>(strip) * m.strip_bytes;
    }
};

// Where a sum goes, and what is added to it.
struct SumPlace {
    float* out;  // or null
    float begin;

    // Of row `row` of `p`, for row `i` of the activations.
    __device__ __forceinline__ void find(const Product& p, uint32_t row, uint32_t i, bool add) {
        out = row < p.matrix.rows ? p.out + static_cast<uint64_t>(i) * p.out_stride + row : nullptr;
        begin = 0.0f;
        if (out == nullptr) return;
        if (p.bias != nullptr) begin = p.bias[row];
        if (add) begin += __ldcg(out);
    }
    __device__ __forceinline__ void put(float sum) const {
        if (out != nullptr) *out = sum + begin;
    }
};
