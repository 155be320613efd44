// Groups the choices of many rows by expert, and cuts each group into items of `item_rows` entries. One block; bound by
// latency. The order of the entries of an expert is free: each is computed by itself, and a row's sum has its own order.
#include "common/args.cuh"
#include "common/device.cuh"

extern "C" __global__ void __launch_bounds__(1024) moe_group(const __grid_constant__ MoeArgs args) {
    DYNAMIC_SHARED(uint32_t, next);  // [experts + 1]: first the number of entries, then the next free one
    __shared__ uint32_t items;
    after_previous_kernel();
    const uint32_t experts = args.experts, entries = args.count * args.top_k;
    for (uint32_t e = threadIdx.x; e <= experts; e += blockDim.x) next[e] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < entries; i += blockDim.x) atomicAdd(next + args.choices[i], 1);
    __syncthreads();
    if (threadIdx.x < WARP) {
        // Each lane takes consecutive experts.
        const uint32_t per_lane = (experts + WARP - 1) / WARP, lane = threadIdx.x;
        const uint32_t begin = min(experts, lane * per_lane), end = min(experts, begin + per_lane);
        uint32_t own_entries = 0, own_items = 0;
        for (uint32_t e = begin; e < end; ++e) {
            own_entries += next[e];
            own_items += (next[e] + args.item_rows - 1) / args.item_rows;
        }
        uint32_t entry = own_entries, item = own_items;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            const uint32_t a = __shfl_up_sync(ALL_LANES, entry, d), b = __shfl_up_sync(ALL_LANES, item, d);
            if (lane >= d) entry += a, item += b;
        }
        if (lane == 31) items = item;
        entry -= own_entries, item -= own_items;
        for (uint32_t e = begin; e < end; ++e) {
            const uint32_t count = next[e];
            next[e] = entry;
            for (uint32_t done = 0; done < count; done += args.item_rows) {
                args.items[item++] = Item{e, entry + done, min(args.item_rows, count - done), 0};
            }
            entry += count;
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < entries; i += blockDim.x) {
        const uint32_t entry = atomicAdd(next + args.choices[i], 1);
        args.entry_rows[entry] = i / args.top_k;
        args.entry_of[i] = entry;
    }
    const uint32_t shared = args.shared_width > 0 ? (args.count + args.item_rows - 1) / args.item_rows : 0;
    for (uint32_t i = threadIdx.x; i < shared; i += blockDim.x) {
        const uint32_t first = i * args.item_rows;
        args.items[items + i] = Item{experts, entries + first, min(args.item_rows, args.count - first), 0};
    }
    if (args.shared_width > 0) {
        for (uint32_t i = threadIdx.x; i < args.count; i += blockDim.x) args.entry_rows[entries + i] = i;
    }
    if (threadIdx.x == 0) *args.item_count = items + shared;
}
