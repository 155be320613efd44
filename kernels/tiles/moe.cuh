// Where the activations of an entry are.
#pragma once
#include "tiles/tiles.cuh"

DEVICE float* activations_of(const MoeArgs& args, uint32_t entry) {
    const uint32_t routed = args.count * args.top_k;
    if (entry < routed) return args.activations + static_cast<uint64_t>(entry) * args.width;
    return args.activations + static_cast<uint64_t>(routed) * args.width +
           static_cast<uint64_t>(entry - routed) * args.shared_width;
}
