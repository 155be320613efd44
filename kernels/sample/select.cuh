// Choosing by rank in one block: the candidate at which a sum over all of them, from the most likely one down, passes a
// target. Nothing is sorted: a histogram of the first 12 bits of their ranks tells the bin, two more tell the rest.
#pragma once
#include "sample/row.cuh"

const uint32_t LISTED = 512;  // candidates that are collected in shared memory, at most

// Shared memory of a block.
struct Room {
    U64 first[FIRST_BINS];
    U64 next[NEXT_BINS];
    uint32_t keys[LISTED];
    uint32_t ids[LISTED];
    uint32_t listed;
    uint32_t bin;
    uint32_t id;
    U64 above;
    U64 total;
    U64 eligible;
    U64 warps[THREADS / WARP];
};

// The sum of `v` over the threads before this one.
DEVICE U64 sum_before(U64 v, Room& room) {
    const uint32_t lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    U64 sum = v;
#pragma unroll
    for (uint32_t d = 1; d < WARP; d *= 2) {
        const U64 other = __shfl_up_sync(ALL_LANES, sum, d);
        if (lane >= d) sum += other;
    }
    if (lane == WARP - 1) room.warps[warp] = sum;
    __syncthreads();
    U64 before = lane < warp ? room.warps[lane] : 0;
#pragma unroll
    for (uint32_t d = WARP / 2; d > 0; d /= 2) before += __shfl_xor_sync(ALL_LANES, before, d);
    return before + sum - v;
}

// The bin in which the sum, from the last bin down, passes `target`, and the sum of the bins above: into `room`. The sum of
// all is larger than the target.
template <uint32_t BINS>
DEVICE void find_bin(const U64* bins, U64 target, Room& room) {
    const uint32_t own = BINS / THREADS, last = BINS - 1 - threadIdx.x * own;
    U64 sum = 0;
#pragma unroll
    for (uint32_t i = 0; i < own; ++i) sum += bins[last - i];
    sum = sum_before(sum, room);
#pragma unroll
    for (uint32_t i = 0; i < own; ++i) {
        const U64 value = bins[last - i];
        if (sum <= target && target - sum < value) {
            room.bin = last - i;
            room.above = sum;
        }
        sum += value;
    }
    __syncthreads();
}

struct Ranked {
    uint32_t rank;
    U64 above;  // the sum over candidates of higher rank
};

// The rank at which the sum passes `target`. `room.first` has the histogram of the ranks' first 12 bits; `each(use)` calls
// `use(rank, value)` for every candidate, some threads for some.
template <class Each>
DEVICE Ranked select_rank(U64 target, Room& room, Each each) {
    find_bin<FIRST_BINS>(room.first, target, room);
    Ranked place = {room.bin, room.above};
#pragma unroll 1
    for (uint32_t shift = 10;; shift = 0) {
        room.next[threadIdx.x] = 0;
        __syncthreads();
        each([&](uint32_t rank, U64 value) {
            if (rank >> (shift + 10) == place.rank) atomicAdd(room.next + (rank >> shift) % NEXT_BINS, value);
        });
        __syncthreads();
        find_bin<NEXT_BINS>(room.next, target - place.above, room);
        place.rank = place.rank * NEXT_BINS + room.bin;
        place.above += room.above;
        __syncthreads();
        if (shift == 0) return place;
    }
}

// The candidates of a row: tokens whose keys are at least `least`. Collected where they are few.
struct Candidates {
    const RowOf& row;
    Room& room;
    uint32_t least;
    bool listed;

    __device__ __forceinline__ Candidates(const RowOf& row, Room& room, uint32_t least)
        : row(row), room(room), least(least), listed(false) {
        if (threadIdx.x == 0) room.listed = 0;
        __syncthreads();
        each([&](uint32_t key, uint32_t id) {
            const uint32_t place = atomicAdd(&room.listed, 1);
            if (place < LISTED) {
                room.keys[place] = key;
                room.ids[place] = id;
            }
        });
        __syncthreads();
        listed = room.listed <= LISTED;
    }

    // Calls `use(key, id)` for every candidate. Most groups of a row have none, and their largest key says so.
    template <class Use>
    __device__ __forceinline__ void each(Use use) const {
        if (listed) {
            for (uint32_t i = threadIdx.x; i < room.listed; i += THREADS) use(room.keys[i], room.ids[i]);
            return;
        }
        row.groups_from(least, [&](uint32_t g) {
#pragma unroll
            for (uint32_t i = 0; i < GROUP / WARP; ++i) {
                const uint32_t id = g * GROUP + i * WARP + threadIdx.x % WARP;
                if (id >= row.args.vocab) continue;
                const uint32_t key = key_of(__ldcg(row.logits + id));
                if (key >= least) use(key, id);
            }
        });
    }
};

// Chooses one of the candidates, where `room` has the histogram of the weights that min-p leaves (`first`), their sum
// (`eligible`), and the sum of all weights (`total`).
DEVICE void draw(const RowOf& row, Room& room, const Candidates& candidates, float most) {
    const auto weights = [&](auto use) {
        candidates.each([&](uint32_t key, uint32_t) {
            const U64 weight = row.weigh(key, most);
            if (weight >= row.row.least_weight) use(key, weight);
        });
    };
    U64 kept = room.eligible;
    if (row.row.top_p != 0) {
        const U64 mass = mass_of(row.row.top_p, room.total);
        if (mass <= kept) {
            // Equally likely tokens have one weight, and as many of them are kept as the mass needs.
            const Ranked last = select_rank(mass - 1, room, weights);
            const U64 weight = row.weigh(last.rank, most);
            kept = last.above + ((mass - 1 - last.above) / weight + 1) * weight;
        }
    }
    const U64 target = __umul64hi(random_bits(row.row.seed, row.row.index), kept);
    const Ranked place = select_rank(target, room, weights);
    const uint32_t equal = static_cast<uint32_t>((target - place.above) / row.weigh(place.rank, most));
    if (threadIdx.x == 0) room.id = 0xffffffff;
    __syncthreads();
    candidates.each([&](uint32_t key, uint32_t id) {
        if (key == place.rank) atomicMin(&room.id, id);
    });
    __syncthreads();
    if (equal > 0) {
        // Of equally likely ones that with so many lower ids.
        const auto ids = [&](auto use) {
            candidates.each([&](uint32_t key, uint32_t id) {
                if (key == place.rank) use(~id, 1);
            });
        };
        for (uint32_t i = threadIdx.x; i < FIRST_BINS; i += THREADS) room.first[i] = 0;
        __syncthreads();
        ids([&](uint32_t rank, U64 value) { atomicAdd(room.first + rank / (NEXT_BINS * NEXT_BINS), value); });
        __syncthreads();
        const uint32_t id = ~select_rank(equal, room, ids).rank;
        if (threadIdx.x == 0) room.id = id;
    }
    if (threadIdx.x == 0) row.choose(room.id);
}
