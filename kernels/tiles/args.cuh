// What the host hands to the kernels for many rows: `src/cuda/args.rs` mirrors it. See common/args.cuh.
#pragma once
#include "common/args.cuh"

struct QuantiseArgs {
    const float* input;  // [tiles, 32]
    uint32_t* codes;     // [tiles, 8]: four columns a word
    float2* factors;     // [tiles]: scale, and scale times the sum of the codes
    uint32_t tiles;
    uint32_t early;      // 1: the kernel behind starts before this one's wait, see common/device.cuh
};

struct TileProductsArgs {
    Product products[PRODUCTS];  // of matrices that take int8
    const uint32_t* codes;       // [count, cols / 32, 8]
    const float2* factors;       // [count, cols / 32]
    uint32_t products_count;
    uint32_t cols;   // of every matrix
    uint32_t count;  // rows of the input
    uint32_t add;    // 1: add to what `out` holds
    uint32_t rows;   // of the input that a block takes
    uint32_t room;   // bytes of a block's stages: two at least, see tiles/tiles.cuh, or one that has all of its columns
    uint32_t split;  // parts of the columns, of blocks of a cluster or warps of a block: 2, 4 or 8, or 1 for `tile_products`
    uint32_t unused;
};

// Rows of a matrix, and of the input, that a block of `tile_floats` takes.
const uint32_t FLOAT_TILE = 64;

struct TileFloatsArgs {
    Product products[PRODUCTS];  // of any matrices
    const float* input;          // [count, cols]
    float* parts;                // [tiles, parts, FLOAT_TILE * FLOAT_TILE], only where columns are in several parts
    uint32_t* counters;          // [tiles], zero, and left so; as `parts`
    uint32_t products_count;
    uint32_t cols;     // of every matrix
    uint32_t count;    // rows of the input
    uint32_t add;      // 1: add to what `out` holds
    uint32_t columns;  // of a part, a multiple of 64: the grid's third dimension is the number of parts
    uint32_t unused;
};

// Of few rows, which may be normed on their way.
struct TileFloatsFewArgs {
    TileFloatsArgs products;
    NormArgs norm;    // of `input`, where it has weights
    uint32_t groups;  // of 16 rows of a matrix; those of the grid that come behind them are for the norm
    uint32_t unused;
};

// A feed-forward half whose matrices take int8, behind `moe_group`, or of few rows behind `moe_route`.
struct TileMoeArgs {
    MoeArgs moe;
    const uint32_t* codes;  // of the rows of `input`, or of the activations, as those lie
    const float2* factors;
    uint32_t room;  // as in TileProductsArgs
    uint32_t unused;
};

static_assert(sizeof(QuantiseArgs) == 32 && sizeof(TileProductsArgs) == 368 && sizeof(TileFloatsArgs) == 368 &&
              sizeof(TileFloatsFewArgs) == sizeof(TileFloatsArgs) + sizeof(NormArgs) + 8 &&
              sizeof(TileMoeArgs) == sizeof(MoeArgs) + 24);
