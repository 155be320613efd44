// The gated delta rule for many rows of a sequence with matrix products, 32 rows at a time: the chunked form of arXiv
// 2412.06464, for heads of 128 channels.
//
// With `c_i` the sum of the log decays up to row i of a chunk and S the state before it, the rows' updates are
//
//   u = T (v - exp(c_i) K S),   T = (1 + A)^-1 beta,   A_ij = beta_i exp(c_i - c_j) (k_i · k_j) for j < i,
//
// what comes out is `exp(c_i) Q S + M u` with `M_ij = exp(c_i - c_j) (q_i · k_j)` for j <= i, and the state becomes
// `exp(c_n) S + Σ_j exp(c_n - c_j) k_j u_jᵀ`. Only differences of log decays are exponentiated: the decays can be too
// small for a float. `delta_prepare` does what does not depend on S, for all chunks at once, and `delta_scan` takes the
// chunks in their order.
//
// Matrices stand in global memory as the scan copies them to shared memory: all upper halves of their split values,
// then all lower ones, in 16-byte pieces whose order within a row depends on the row, so that eight rows of a column
// lie in all banks.
#pragma once
#include "delta_net/head.cuh"
#include "common/split.cuh"

const uint32_t CHUNK = 32;

// Bytes of the halves of a matrix [CHUNK, DIM], and of one [CHUNK, CHUNK].
const uint32_t KEYS_HALF = 2 * CHUNK * DIM;
const uint32_t TRIANGLE_HALF = 2 * CHUNK * CHUNK;

// What the value heads of a key head share of a chunk: normalised keys, normalised and scaled queries.
struct alignas(16) ChunkKeys {
    uint8_t k[2][KEYS_HALF];
    uint8_t q[2][KEYS_HALF];
};

// What a value head has of its own.
struct alignas(16) ChunkHead {
    uint8_t t[2][TRIANGLE_HALF];
    uint8_t m[2][TRIANGLE_HALF];
    float from_start[CHUNK];  // exp(c_i)
    float to_end[CHUNK];      // exp(c_n - c_i); rows beyond the last decay nothing, so that c_n is that of the last of CHUNK
};

// Where value `column` of a row is in a half of a matrix.
DEVICE uint32_t in_keys(uint32_t row, uint32_t column) {
    return 2 * DIM * row + 16 * (column / 8 ^ row % 8) + 2 * (column % 8);
}
DEVICE uint32_t in_triangle(uint32_t row, uint32_t column) {
    return 2 * CHUNK * row + 16 * (column / 8 ^ row / 2 % 4) + 2 * (column % 8);
}

// The number of a sequence's first chunk among those of a step: sequences are as many chunks apart at least as they
// have.
DEVICE uint32_t first_chunk(const Sequence& sequence, uint32_t number) { return sequence.first_row / CHUNK + number; }

// Chunk `number` of the step: its keys for every key head, then the rest for every value head, those of a key head
// together.
DEVICE ChunkKeys* chunk_keys(const DeltaArgs& args, uint32_t number) {
    const uint64_t bytes = (sizeof(ChunkKeys) + args.ratio * sizeof(ChunkHead)) * args.key_heads;
    return reinterpret_cast<ChunkKeys*>(args.chunks + number * bytes);
}
DEVICE ChunkHead* chunk_heads(const DeltaArgs& args, uint32_t number) {
    return reinterpret_cast<ChunkHead*>(chunk_keys(args, number) + args.key_heads);
}

static_assert(sizeof(ChunkKeys) == 32768 && sizeof(ChunkHead) == 8448);
