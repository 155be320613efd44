// Softmax attention of many rows over pages of halves on tensor cores. A block takes eight neighbouring rows of a
// sequence and up to eight query heads that share a KV head; each of its warps has a row. The block walks the
// positions, 16 at a time, which it copies to shared memory while it works on those before them: keys and values are
// read once for eight rows. Bound by the instructions of a warp, about 350 for 16 positions of eight heads.
//
// Rows are blocks in reverse: those that see most begin first.
#include "attention/halves.cuh"

const uint32_t TOGETHER = 8;

template <uint32_t DIM>
struct RowsShared {
    uint8_t tiles[2][2][2 * DIM * POSITIONS];  // two stages of keys and values
    uint4 queries[TOGETHER][DIM / 16][WARP];
    float heads[TOGETHER][DIM];
};

template <uint32_t DIM>
DEVICE void attend_rows(const AttentionArgs& args, RowsShared<DIM>& shared) {
    // As `rows_halves_bytes` in src/cuda/attention.rs counts it.
    static_assert(sizeof(shared) == 416 * DIM);
    const uint32_t group = args.heads / args.kv_heads, chunks = (group + HEADS - 1) / HEADS;
    const uint32_t kv_head = blockIdx.x / chunks, first_in_group = blockIdx.x % chunks * HEADS;
    const uint32_t first_head = kv_head * group + first_in_group, count = min(HEADS, group - first_in_group);
    const uint32_t lane = threadIdx.x % WARP;
    const uint32_t warp = __shfl_sync(ALL_LANES, threadIdx.x / WARP, 0);  // so that the compiler sees that lanes agree
    after_previous_kernel();
    const Sequence sequence = args.sequences[blockIdx.z];
    const uint32_t first = (gridDim.y - 1 - blockIdx.y) * TOGETHER;
    if (first >= sequence.rows) return;
    const uint32_t* pages = args.pages + sequence.first_page;
    const uint32_t last = sequence.position + min(first + TOGETHER, sequence.rows) - 1;
    const uint32_t tiles = last / POSITIONS + 1;
    const bool has_row = first + warp < sequence.rows;  // all others only copy
    const uint32_t own = min(first + warp, sequence.rows - 1), position = sequence.position + own;
    const uint32_t row = sequence.first_row + own;
    const auto start = [&](uint32_t tile) {
        const uint32_t pieces = POSITIONS * DIM / 8;
        for (uint32_t i = threadIdx.x; i < pieces; i += TOGETHER * WARP) {
            const uint32_t at = i / (DIM / 8), eight = i % (DIM / 8), from = tile * POSITIONS + at;
            const uint64_t place = static_cast<uint64_t>(place_of(args, pages, kv_head, min(from, last))) * DIM + 8 * eight;
            auto& stage = shared.tiles[tile % 2];
            copy_16(stage[0] + in_tile<DIM>(at, eight), static_cast<const uint16_t*>(args.key_pages) + place, from <= last);
            copy_16(stage[1] + in_tile<DIM>(at, eight), static_cast<const uint16_t*>(args.value_pages) + place, from <= last);
        }
        end_copy_group();
    };
    start(0);

    const HeadNorm<DIM / WARP, true> norm(args, args.query_norm, row);
    const float* queries = args.queries + (static_cast<uint64_t>(row) * args.heads + first_head) * args.query_stride;
    for (uint32_t head = 0; head < HEADS; ++head) {
        float query[DIM / WARP];
        if (head < count) load_channels(queries + static_cast<uint64_t>(head) * args.query_stride, lane * (DIM / WARP), DIM, query);
        put_query<DIM>(args, norm, query, head < count, head, shared.queries[warp], shared.heads[warp]);
    }

    Seen<DIM> seen;
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        wait_for_copies_but<0>();
        // All have the copies, and are done with those that the next ones replace.
        __syncthreads();
        if (tile + 1 < tiles) start(tile + 1);
        if (!has_row || tile * POSITIONS > position) continue;
        const auto& stage = shared.tiles[tile % 2];
        seen.weigh(shared.queries[warp], stage[0], tile * POSITIONS, position, [] {});
        seen.add(stage[1]);
    }
    seen.end();
    if (!has_row) return;
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
        const uint32_t head = lane % 4 * 2 + e;
        if (head >= count) continue;
        const float* gates = queries + static_cast<uint64_t>(head) * args.query_stride + DIM + lane / 4;
        float* out = args.out + (static_cast<uint64_t>(row) * args.heads + first_head + head) * DIM + lane / 4;
        const float share = 1.0f / seen.totals[e];
#pragma unroll
        for (uint32_t i = 0; i < DIM / 8; ++i) {
            const float value = seen.sums[i / 2][i % 2 * 2 + e] * share;
            out[8 * i] = args.gated ? value * sigmoid(gates[8 * i]) : value;
        }
    }
}

extern "C" __global__ void __launch_bounds__(TOGETHER* WARP, 2) attention_rows_halves_128(const __grid_constant__ AttentionArgs args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    attend_rows<128>(args, *reinterpret_cast<RowsShared<128>*>(shared));
}

extern "C" __global__ void __launch_bounds__(TOGETHER* WARP, 2) attention_rows_halves_256(const __grid_constant__ AttentionArgs args) {
    DYNAMIC_SHARED(__align__(16) uint8_t, shared);
    attend_rows<256>(args, *reinterpret_cast<RowsShared<256>*>(shared));
}
