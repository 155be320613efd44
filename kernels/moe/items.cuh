// The items of a step of few rows: every block that wants to know them finds them by itself, which takes less time than a
// kernel of its own would take to start. Entries are numbered as the choices are, then the rows of the shared expert; an item
// has up to four of one expert, in pairs.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"
#include "moe/choose.cuh"

const int MOST_ROWS = 64;
const int ITEM_ROWS = 4;
const int MOST_ITEMS = (MOST_ROWS * MOST_CHOICES + (ITEM_ROWS - 1) * MOST_EXPERTS + MOST_ROWS) / ITEM_ROWS;

struct FewItem {
    uint16_t expert;  // the shared one: number `experts`
    uint16_t count;
    uint16_t first_pair;  // counted through all items
    uint16_t unused;
    uint16_t entries[ITEM_ROWS];  // of which `count` are there
};

// What is needed while items are found.
struct ItemScratch {
    uint32_t rows[MOST_EXPERTS][MOST_ROWS / 32];  // a bit for each row that chose the expert
    uint32_t before[MOST_EXPERTS];                // items before each expert's, and pairs before those: 16 bits each
    uint32_t sums[WARP];
};
static_assert(sizeof(ItemScratch) == 6272);  // as `src/cuda/few_rows.rs` has it

struct ItemCounts {
    int routed, all;
};

DEVICE uint32_t rows_of_expert(const ItemScratch& scratch, uint32_t expert) {
    return __popc(scratch.rows[expert][0]) + __popc(scratch.rows[expert][1]);
}

// Items of so many rows, and their pairs, 16 bits each.
DEVICE uint32_t items_and_pairs(uint32_t rows) { return (rows + ITEM_ROWS - 1) / ITEM_ROWS << 16 | (rows + 1) / 2; }

// Puts the items into `items`, the routed ones first, by experts and then rows: every block has the same. Every thread of the
// block comes here; there are 256 of them at least, and no more than `MOST_EXPERTS` experts, and `MOST_CHOICES` for each of
// `MOST_ROWS` rows.
DEVICE ItemCounts find_items(const MoeArgs& args, ItemScratch& scratch, FewItem* items) {
    constexpr uint32_t PER_THREAD = MOST_ROWS * MOST_CHOICES / 256, EXPERTS_PER_THREAD = MOST_EXPERTS / 256;
    const uint32_t entries = args.count * args.top_k, thread = threadIdx.x, threads = blockDim.x, lane = thread % WARP;
    uint32_t expert[PER_THREAD], row[PER_THREAD];
#pragma unroll
    for (uint32_t j = 0; j < PER_THREAD; ++j) {
        const uint32_t i = j * threads + thread;
        expert[j] = i < entries ? __ldcg(args.choices + i) : 0;
        row[j] = i / args.top_k;
    }
    for (uint32_t e = thread; e < MOST_EXPERTS; e += threads) scratch.rows[e][0] = scratch.rows[e][1] = 0;
    __syncthreads();
#pragma unroll
    for (uint32_t j = 0; j < PER_THREAD; ++j) {
        if (j * threads + thread < entries) atomicOr(&scratch.rows[expert[j]][row[j] / 32], 1u << row[j] % 32);
    }
    __syncthreads();
    // Neighbouring experts are one thread's.
    const uint32_t first = EXPERTS_PER_THREAD * thread;
    uint32_t own = 0, before[EXPERTS_PER_THREAD];
#pragma unroll
    for (uint32_t j = 0; j < EXPERTS_PER_THREAD; ++j) {
        before[j] = own;
        if (first < MOST_EXPERTS) own += items_and_pairs(rows_of_expert(scratch, first + j));
    }
    uint32_t sum = own;
#pragma unroll
    for (uint32_t d = 1; d < WARP; d *= 2) {
        const uint32_t other = __shfl_up_sync(ALL_LANES, sum, d);
        if (lane >= d) sum += other;
    }
    if (lane == WARP - 1) scratch.sums[thread / WARP] = sum;
    __syncthreads();
    const uint32_t of_warp = lane < threads / WARP ? scratch.sums[lane] : 0;
    const uint32_t all = __reduce_add_sync(ALL_LANES, of_warp);
    sum += __reduce_add_sync(ALL_LANES, lane < thread / WARP ? of_warp : 0) - own;
#pragma unroll
    for (uint32_t j = 0; j < EXPERTS_PER_THREAD; ++j) {
        if (first < MOST_EXPERTS) scratch.before[first + j] = sum + before[j];
    }
    __syncthreads();
#pragma unroll
    for (uint32_t j = 0; j < PER_THREAD; ++j) {
        const uint32_t i = j * threads + thread;
        if (i >= entries) break;
        const uint32_t* rows = scratch.rows[expert[j]];
        const uint32_t lower = rows[row[j] / 32] & ((1u << row[j] % 32) - 1);
        const uint32_t rank = __popc(lower) + (row[j] < 32 ? 0 : __popc(rows[0]));
        const uint32_t start = scratch.before[expert[j]], number = rank / ITEM_ROWS;
        FewItem& item = items[(start >> 16) + number];
        item.entries[rank % ITEM_ROWS] = static_cast<uint16_t>(i);
        if (rank % ITEM_ROWS != 0) continue;
        item.expert = static_cast<uint16_t>(expert[j]);
        const uint32_t left = rows_of_expert(scratch, expert[j]) - rank;
        item.count = static_cast<uint16_t>(min(static_cast<uint32_t>(ITEM_ROWS), left));
        item.first_pair = static_cast<uint16_t>((start & 0xffff) + number * (ITEM_ROWS / 2));
    }
    const uint32_t routed = all >> 16, shared = args.shared_width > 0 ? (args.count + ITEM_ROWS - 1) / ITEM_ROWS : 0;
    if (thread < shared) {
        FewItem& item = items[routed + thread];
        const uint32_t first_row = ITEM_ROWS * thread;
        item.expert = static_cast<uint16_t>(args.experts);
        item.count = static_cast<uint16_t>(min(static_cast<uint32_t>(ITEM_ROWS), args.count - first_row));
        item.first_pair = static_cast<uint16_t>((all & 0xffff) + thread * (ITEM_ROWS / 2));
#pragma unroll
        for (uint32_t i = 0; i < ITEM_ROWS; ++i) item.entries[i] = static_cast<uint16_t>(entries + first_row + i);
    }
    __syncthreads();
    return {static_cast<int>(routed), static_cast<int>(routed + shared)};
}
