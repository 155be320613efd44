// The gated delta rule over the chunks of a sequence, one after another: see `chunk.cuh`.
//
// Four blocks share a value head, 32 of its columns each; a warp keeps 16 columns of the state in registers,
// transposed, as the sums of a product. They are the first operand of the next product as they are, and so are the
// updates, so that nothing is exchanged between lanes or warps. Bound by tensor cores: 324 products of 16 x 8 x 16 a
// chunk by the one warp of a scheduler, while the next chunk is copied.
#include "delta_net/chunk.cuh"
#include "delta_net/recent.cuh"

const uint32_t SCAN_WARPS = COLUMNS / 16;
const uint32_t ROW_TILES = CHUNK / 8;

struct ScanStage {
    ChunkKeys keys;
    ChunkHead head;
};

template <class T>
DEVICE void copy_whole(T& whole, const T* from_whole) {
    const uint32_t pieces = sizeof(T) / 16, step = SCAN_WARPS * WARP;
    uint4* to = reinterpret_cast<uint4*>(&whole) + threadIdx.x;
    const uint4* from = reinterpret_cast<const uint4*>(from_whole) + threadIdx.x;
#pragma unroll
    for (uint32_t i = 0; i < pieces; i += step) {
        if (i + step <= pieces || i + threadIdx.x < pieces) copy_16(to + i, from + i, true);
    }
}

// Splits what two neighbouring products of updates have left, `factors` times each column.
DEVICE SplitOperand scaled(const float (&left)[4], const float (&right)[4], const float* factors) {
    const uint32_t t = threadIdx.x % 4;
    const float2 first = *reinterpret_cast<const float2*>(factors + 2 * t);
    const float2 second = *reinterpret_cast<const float2*>(factors + 8 + 2 * t);
    const float a[4] = {left[0] * first.x, left[1] * first.y, left[2] * first.x, left[3] * first.y};
    const float b[4] = {right[0] * second.x, right[1] * second.y, right[2] * second.x, right[3] * second.y};
    return SplitOperand(a, b);
}

// `sums += operand triangleᵀ`, where the triangle has nothing above its diagonal.
DEVICE void multiply_triangle(float (*sums)[4], const SplitOperand (&operand)[CHUNK / 16],
                              const uint8_t (&triangle)[2][TRIANGLE_HALF]) {
    const uint32_t lane = threadIdx.x % WARP;
#pragma unroll
    for (uint32_t k = 0; k < CHUNK; k += 16) {
        SplitPair b[1];
#pragma unroll
        for (uint32_t row = k; row < CHUNK; row += 16) {
            b[0].load(triangle[0], triangle[1], in_triangle(row + lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * 8));
            multiply_split(sums + row / 8, operand[k / 16], b);
        }
    }
}

// Takes `count` rows that are not in the state into it: this lane's part, as it loads it.
DEVICE void add_recent(const Recent& recent, uint32_t count, uint32_t column, float (&state)[DIM / 8][4]) {
    if (count == 0) return;
    const uint32_t t = threadIdx.x % 4;
    const float left = decay_behind(recent, -1, count);
#pragma unroll
    for (uint32_t n = 0; n < DIM / 8; ++n) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) state[n][i] *= left;
    }
#pragma unroll 1
    for (uint32_t row = 0; row < count; ++row) {
        const float behind = decay_behind(recent, row, count);
        const float updates[2] = {behind * recent.rows[row][1][column], behind * recent.rows[row][1][column + 8]};
#pragma unroll
        for (uint32_t n = 0; n < DIM / 8; ++n) {
            const float2 keys = *reinterpret_cast<const float2*>(&recent.rows[row][0][8 * n + 2 * t]);
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) state[n][i] = fmaf(i % 2 ? keys.y : keys.x, updates[i / 2], state[n][i]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(SCAN_WARPS* WARP) delta_scan(const __grid_constant__ DeltaArgs args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    ScanStage* stages = reinterpret_cast<ScanStage*>(shared);
    const uint32_t part = blockIdx.x, key_head = blockIdx.y / args.ratio, index = blockIdx.y % args.ratio;
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head = at(args.head, key_head, index);
    const uint32_t heads = args.key_heads * args.ratio, g = lane / 4, t = lane % 4;
    after_previous_kernel();
    const Sequence sequence = args.sequences[blockIdx.z];
    const uint32_t rows = sequence.rows, chunks = (rows + CHUNK - 1) / CHUNK, number = first_chunk(sequence, blockIdx.z);
    const auto start = [&](uint32_t chunk) {
        ScanStage& stage = stages[chunk % 2];
        copy_whole(stage.keys, chunk_keys(args, number + chunk) + key_head);
        copy_whole(stage.head, chunk_heads(args, number + chunk) + blockIdx.y);
        end_copy_group();
    };
    start(0);

    // This lane's columns are `column` and the eighth behind it: of state rows 8 n + 2 t and the next, of rows 8 n + 2
    // t and the next of a chunk.
    const uint32_t column = part * COLUMNS + warp * 16 + g;
    float* states = args.states + (static_cast<uint64_t>(sequence.slot) * heads + head) * DIM * DIM + column;
    const auto of_state = [&](uint32_t n, uint32_t i) { return states + (8 * n + 2 * t + i % 2) * DIM + i / 2 * 8; };
    float state[DIM / 8][4] = {};
    if (sequence.position > 0) {
#pragma unroll
        for (uint32_t n = 0; n < DIM / 8; ++n) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) state[n][i] = *of_state(n, i);
        }
    }
    Recent& recent = recent_of(args, sequence.slot, head);
    add_recent(recent, recent_rows(recent, part, sequence.position), column, state);
    const float* values = args.convolved + static_cast<uint64_t>(sequence.first_row) * args.channels +
                          2 * args.key_heads * DIM + head * DIM + column;
    float* out = args.out + (static_cast<uint64_t>(sequence.first_row) * heads + head) * DIM + column;
    float next[ROW_TILES][4];
    const auto fetch = [&](uint32_t chunk) {
#pragma unroll
        for (uint32_t n = 0; n < ROW_TILES; ++n) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
                const uint32_t row = chunk * CHUNK + 8 * n + 2 * t + i % 2;
                next[n][i] = row < rows ? values[static_cast<uint64_t>(row) * args.channels + i / 2 * 8] : 0.0f;
            }
        }
    };
    fetch(0);

    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
        if (chunk + 1 < chunks) {
            start(chunk + 1);
            wait_for_copies_but<1>();
        } else {
            wait_for_copies_but<0>();
        }
        __syncthreads();
        const ScanStage& stage = stages[chunk % 2];

        // What the state recalls of the keys, and of the queries behind them.
        float recalled[2 * ROW_TILES][4] = {};
#pragma unroll
        for (uint32_t k = 0; k < DIM; k += 16) {
            const SplitOperand a(state[k / 8], state[k / 8 + 1]);
            SplitPair b[4];
#pragma unroll
            for (uint32_t pair = 0; pair < 4; ++pair) {
                const auto& halves = pair < 2 ? stage.keys.k : stage.keys.q;
                b[pair].load(halves[0], halves[1],
                             in_keys(pair % 2 * 16 + lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * 8));
            }
            multiply_split(recalled, a, b);
        }
        float rest[ROW_TILES][4], updates[ROW_TILES][4] = {};
        float(*results)[4] = recalled + ROW_TILES;
#pragma unroll
        for (uint32_t n = 0; n < ROW_TILES; ++n) {
            const float2 decay = *reinterpret_cast<const float2*>(stage.head.from_start + 8 * n + 2 * t);
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
                const float factor = i % 2 ? decay.y : decay.x;
                rest[n][i] = fmaf(-factor, recalled[n][i], next[n][i]);
                results[n][i] *= factor;
            }
        }
        if (chunk + 1 < chunks) fetch(chunk + 1);
        {
            const SplitOperand operand[2] = {{rest[0], rest[1]}, {rest[2], rest[3]}};
            multiply_triangle(updates, operand, stage.head.t);
        }
        {
            const SplitOperand operand[2] = {{updates[0], updates[1]}, {updates[2], updates[3]}};
            multiply_triangle(results, operand, stage.head.m);
        }
        const float whole = stage.head.from_start[CHUNK - 1];
#pragma unroll
        for (uint32_t n = 0; n < DIM / 8; ++n) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) state[n][i] *= whole;
        }
#pragma unroll
        for (uint32_t k = 0; k < CHUNK; k += 16) {
            const SplitOperand a = scaled(updates[k / 8], updates[k / 8 + 1], stage.head.to_end + k);
#pragma unroll
            for (uint32_t n = 0; n < DIM / 8; n += 8) {
                SplitPair b[4];
#pragma unroll
                for (uint32_t pair = 0; pair < 4; ++pair) {
                    b[pair].load_turned(stage.keys.k[0], stage.keys.k[1],
                                        in_keys(k + lane % 16, 8 * (n + 2 * pair) + lane / 16 * 8));
                }
                multiply_split(state + n, a, b);
            }
        }
#pragma unroll
        for (uint32_t n = 0; n < ROW_TILES; ++n) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
                const uint32_t row = chunk * CHUNK + 8 * n + 2 * t + i % 2;
                if (row < rows) out[static_cast<uint64_t>(row) * heads * DIM + i / 2 * 8] = results[n][i];
            }
        }
        // The stage is written again when the next chunk begins.
        __syncthreads();
    }
#pragma unroll
    for (uint32_t n = 0; n < DIM / 8; ++n) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) *of_state(n, i) = state[n][i];
    }
    // All of the block have read it before their first chunk.
    if (threadIdx.x == 0) recent.count[part] = 0;
}
